package docker

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"

	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"orch/pkg/container"
)

// endOfTransmission is ^D, which a terminal takes as the end of input.
const endOfTransmission = 4

// Exec runs a command in a running container and returns its exit code.
//
// A command that cannot be started is no error, as with the docker command: the
// code is 126 or 127, and the engine's message, which it puts on stdout, on
// stderr.
//
// When ctx ends, the stream is closed and the process killed where it can be
// seen from here (see Exited); elsewhere the engine offers no way to end it.
//
// A terminal has no end of input, and the engine would hang up: with o.TTY, the
// end of o.Stdin becomes what a person types, ^D.
//
// o.Stdin is read until it ends. A read that is under way when the command ends
// is not waited for: the caller has to end it.
func (r *Runtime) Exec(ctx context.Context, id string, o container.ExecOptions) (code int, err error) {
	defer func() { err = sortError(ctx, "exec in container "+id, err) }()
	cli, err := r.client(ctx)
	if err != nil {
		return 0, err
	}
	created, err := cli.ContainerExecCreate(ctx, id, dockercontainer.ExecOptions{
		Cmd:          o.Command,
		Tty:          o.TTY,
		AttachStdin:  o.Stdin != nil,
		AttachStdout: true, // always: its end is how the command's end is seen
		AttachStderr: true,
	})
	if err != nil {
		return 0, err
	}
	stream, err := cli.ContainerExecAttach(ctx, created.ID, dockercontainer.ExecAttachOptions{Tty: o.TTY})
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	// The connection has left HTTP, and with it ctx.
	stop := context.AfterFunc(ctx, stream.Close)
	defer stop()

	if o.Stdin != nil {
		go func() {
			// Errors say that the command has ended, which is seen below.
			_, _ = io.Copy(stream.Conn, o.Stdin)
			if o.TTY {
				_, _ = stream.Conn.Write([]byte{endOfTransmission})
				return
			}
			_ = stream.CloseWrite()
		}()
	}
	defer resizing(ctx, cli.ContainerExecResize, created.ID, o.Resize)()

	stdout := &refusal{w: orDiscard(o.Stdout)}
	err = demultiplex(stream.Reader, o.TTY, stdout, orDiscard(o.Stderr))
	if err != nil || ctx.Err() != nil {
		r.killExec(context.WithoutCancel(ctx), cli, id, created.ID)
		return 0, err
	}
	code, err = execExitCode(ctx, cli, id, created.ID)
	if err == nil && len(stdout.held) > 0 {
		to := stdout.w
		if code == codeNotExecutable || code == codeNotFound {
			to = orDiscard(o.Stderr)
		}
		_, err = to.Write(stdout.held)
	}
	return code, err
}

// The exit codes of a command that could not be started.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// refusal holds back what may be the engine's word that a command could not be
// started: output that begins as that does. The exit code tells whose it is.
type refusal struct {
	w     io.Writer
	begun bool
	held  []byte
}

func (r *refusal) Write(b []byte) (int, error) {
	if len(r.held) > 0 || !r.begun && bytes.HasPrefix(b, []byte("OCI runtime exec failed: ")) {
		r.held = append(r.held, b...)
		return len(b), nil
	}
	r.begun = true
	return r.w.Write(b)
}

// Attach connects to a running container's own input and output. The end of
// o.Stdin is not the end of the program's input: others may attach later, as in
// Kubernetes without stdinOnce.
func (r *Runtime) Attach(ctx context.Context, id string, o container.ExecOptions) (code int, err error) {
	defer func() { err = sortError(ctx, "attach to container "+id, err) }()
	cli, err := r.client(ctx)
	if err != nil {
		return 0, err
	}
	inspected, err := cli.ContainerInspect(ctx, id)
	if err != nil {
		return 0, err
	}
	if inspected.State == nil || !inspected.State.Running { // the engine would attach, and wait for a start
		return 0, container.ErrNotRunning
	}
	stream, err := cli.ContainerAttach(ctx, id, dockercontainer.AttachOptions{
		Stream: true, Stdin: o.Stdin != nil, Stdout: true, Stderr: true,
		// Kubernetes has no keys to detach with; the engine cannot have none.
		DetachKeys: "ctrl-@,ctrl-^,ctrl-@,ctrl-_",
	})
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, stream.Close)
	defer stop()
	if o.Stdin != nil {
		go func() { _, _ = io.Copy(stream.Conn, o.Stdin) }() // fails when the container has ended
	}
	defer resizing(ctx, cli.ContainerResize, id, o.Resize)()
	if err := demultiplex(stream.Reader, o.TTY, orDiscard(o.Stdout), orDiscard(o.Stderr)); err != nil {
		return 0, err
	}
	if err := wait(ctx, cli, id, dockercontainer.WaitConditionNotRunning); err != nil {
		return 0, err
	}
	if inspected, err = cli.ContainerInspect(ctx, id); err != nil {
		return 0, err
	}
	return inspected.State.ExitCode, nil
}

// How often, and how soon, a size is told again that the engine has refused.
const (
	resizeTries = 20
	resizePause = 20 * time.Millisecond
)

// resizing resizes in the background, until end is called.
func resizing(ctx context.Context, set func(context.Context, string, dockercontainer.ResizeOptions) error, id string, sizes <-chan container.Size) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var resized sync.WaitGroup
	if sizes != nil {
		resized.Go(func() { resize(ctx, set, id, sizes) })
	}
	return func() { cancel(); resized.Wait() }
}

// resize passes terminal sizes on until there are no more. An error means that
// the process has ended, which is seen elsewhere.
func resize(ctx context.Context, set func(context.Context, string, dockercontainer.ResizeOptions) error, id string, sizes <-chan container.Size) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			// The engine answers before the process is there, and then refuses its
			// first size; docker's own command asks again too.
			for range resizeTries {
				err := set(ctx, id, dockercontainer.ResizeOptions{
					Height: uint(size.Height), Width: uint(size.Width),
				})
				if err == nil || len(sizes) > 0 {
					break
				}
				select {
				case <-time.After(resizePause):
				case <-ctx.Done():
					return
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// execExitCode returns the code of a command whose output has ended. The engine
// may see the process itself end a little later, and would answer 0 until then;
// its event says when the code is there. The second look makes sure that the
// event was not missed before the subscription.
func execExitCode(ctx context.Context, cli *client.Client, id, execID string) (int, error) {
	inspected, err := cli.ContainerExecInspect(ctx, execID)
	if err != nil || !inspected.Running {
		return inspected.ExitCode, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages, failed := cli.Events(ctx, events.ListOptions{
		Since: "1", // all that the engine remembers
		Filters: filters.NewArgs(
			filters.Arg("container", id),
			filters.Arg("event", string(events.ActionExecDie)),
			// The container's end takes its commands along.
			filters.Arg("event", string(events.ActionDie))),
	})
	for {
		inspected, err := cli.ContainerExecInspect(ctx, execID)
		if err != nil || !inspected.Running {
			return inspected.ExitCode, err
		}
		select {
		case <-messages:
		case err := <-failed:
			return 0, err
		}
	}
}

// killExec ends a command that nobody listens to any more, as well as it can.
func (r *Runtime) killExec(ctx context.Context, cli *client.Client, id, execID string) {
	// Long enough for an engine that is busy: what is not killed runs on for ever.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// The command can print before the engine has noted its process.
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		inspected, err := cli.ContainerExecInspect(ctx, execID)
		if err != nil || !inspected.Running {
			return
		}
		if inspected.Pid != 0 {
			r.killProcess(id, inspected.Pid)
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}
