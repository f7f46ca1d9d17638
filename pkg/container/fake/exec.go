package fake

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"orch/pkg/container"
)

// Exec runs a command: one that Options.Command knows, or
//
//	true, false
//	echo WORDS...
//	env, hostname
//	cat FILE, of what is mounted
//	kill [-SIGNAL] 1
//	use [cpu=QUANTITY] [memory=QUANTITY] [disk=QUANTITY], which makes the
//	container use so much
//	answer PATH STATUS, which makes it answer HTTP so from now on
//
// Others end with 127 and the message that a real runtime gives. SIGKILL to
// process 1 does nothing, because Linux protects a PID namespace's first process
// from signals that it does not handle when they come from inside.
func (e *Engine) Exec(ctx context.Context, id string, o container.ExecOptions) (int, error) {
	op := "exec in container " + id
	running, err := e.enterRunning(ctx, "Exec", op, id)
	switch {
	case err != nil:
		return 0, err
	case len(o.Command) == 0:
		return 0, fmt.Errorf("%s: no command", op)
	}
	e.mu.Lock()
	c := e.containers[id]
	paused := c != nil && c.State == container.StatePaused
	e.mu.Unlock()
	switch {
	case c == nil:
		return 0, noContainer(op, id)
	case paused:
		return 0, fmt.Errorf("%s: Container %s is paused, unpause the container before exec", op, id)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &Process{
		Config: c.config, Hostname: c.hostname,
		Stdin: untilDone(ctx, o.Stdin), Stdout: orDiscard(o.Stdout), Stderr: orDiscard(o.Stderr),
		oom: func() {},
	}
	code := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		code = e.command(ctx, p, running, o.Command)
	}()
	select {
	case <-done:
		if ctx.Err() == nil {
			return code, nil
		}
	case <-running.exited: // the container's end takes its commands along
		cancel()
		<-done
		return 137, nil
	case <-ctx.Done():
		<-done
	}
	return 0, fmt.Errorf("%s: %w", op, ctx.Err())
}

func (e *Engine) command(ctx context.Context, p *Process, running *process, command []string) int {
	if e.options.Command != nil {
		if code, known := e.options.Command(ctx, p, command); known {
			return code
		}
	}
	name, args := command[0], command[1:]
	switch name[strings.LastIndex(name, "/")+1:] {
	case "true":
		return 0
	case "false":
		return 1
	case "echo":
		fmt.Fprintln(p.Stdout, strings.Join(args, " "))
		return 0
	case "hostname":
		fmt.Fprintln(p.Stdout, p.Hostname)
		return 0
	case "env":
		for _, env := range append([]string{"HOSTNAME=" + p.Hostname}, p.Config.Env...) {
			fmt.Fprintln(p.Stdout, env)
		}
		return 0
	case "cat":
		if len(args) != 1 {
			fmt.Fprintln(p.Stderr, "cat: want one file")
			return 1
		}
		path, err := p.Path(args[0], false)
		var content []byte
		if err == nil {
			content, err = os.ReadFile(path)
		}
		if err != nil {
			fmt.Fprintf(p.Stderr, "cat: can't open '%s': No such file or directory\n", args[0])
			return 1
		}
		_, _ = p.Stdout.Write(content)
		return 0
	case "kill":
		signal := "SIGTERM"
		if len(args) > 0 && strings.HasPrefix(args[0], "-") {
			signal, args = signalName(args[0][1:]), args[1:]
		}
		if len(args) != 1 || args[0] != "1" {
			fmt.Fprintln(p.Stderr, "kill: only process 1 exists")
			return 1
		}
		if signal != "SIGKILL" {
			running.signal(signal)
		}
		return 0
	case "use":
		if err := e.use(running, args); err != nil {
			fmt.Fprintln(p.Stderr, "use:", err)
			return 1
		}
		return 0
	case "answer":
		if err := e.tell(running, args); err != nil {
			fmt.Fprintln(p.Stderr, "answer:", err)
			return 1
		}
		fmt.Fprintf(p.Stdout, "%s answers %s from now on\n", args[0], args[1])
		return 0
	default:
		fmt.Fprintf(p.Stderr, "OCI runtime exec failed: exec failed: unable to start container process: exec: %q: executable file not found in $PATH: unknown\r\n", name)
		return 127
	}
}

// untilDone makes reads fail once ctx has ended. A read of the caller's own
// reader that is under way then is not waited for, as with a real engine.
func untilDone(ctx context.Context, stdin io.Reader) io.Reader {
	if stdin == nil {
		return nil
	}
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { r.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(w, stdin)
		w.CloseWithError(err)
	}()
	return r
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
