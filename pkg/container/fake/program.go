package fake

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"orch/pkg/container"
)

// Program is what runs in a simulated container. It returns the exit code. ctx
// ends when the container is killed; whatever the program returns then, and
// however late, the container ends at once with code 137.
type Program func(ctx context.Context, p *Process) int

// Process is what a program sees of its container.
type Process struct {
	Config         container.Config
	Hostname       string
	Stdin          io.Reader // of a command; of a program, what Attach brings, where Config.Stdin is set
	Stdout, Stderr io.Writer
	// Signals brings what was sent and can be handled ("SIGTERM").
	Signals <-chan string

	oom func()
}

// OOM makes the process one that the kernel killed for want of memory. Its
// result is the exit code to return.
func (p *Process) OOM() int {
	p.oom()
	return 137
}

// Forever prints one line and runs until SIGTERM or SIGINT, and then ends with
// code 0, as a service that shuts down in good order.
func Forever(ctx context.Context, p *Process) int {
	fmt.Fprintf(p.Stdout, "%s started on %s\n", p.Config.Image, p.Hostname)
	return untilTerminated(ctx, p)
}

func untilTerminated(ctx context.Context, p *Process) int {
	for {
		select {
		case signal := <-p.Signals:
			if signal == "SIGTERM" || signal == "SIGINT" {
				return 0
			}
		case <-ctx.Done():
			return 137
		}
	}
}

// process is one run of a container's program.
type process struct {
	ctx     context.Context // ends with kill
	kill    context.CancelFunc
	signals chan string
	exited  chan struct{} // closed when the process has ended
	ended   chan struct{} // closed when the engine knows, ExitLag later

	stdin *io.PipeWriter // nil where the container has no standard input

	oomKilled atomic.Bool
}

// signal queues a signal. A process that does not take its signals has at most
// this many waiting, as the kernel keeps one of each.
func (p *process) signal(name string) {
	select {
	case p.signals <- name:
	default:
	}
}

// start runs the container's program. The caller holds e.mu.
func (e *Engine) start(c *fakeContainer) {
	program, ok := e.options.Programs[c.config.Image]
	switch {
	case c.sandbox:
		program = untilTerminated
		if !c.hostNetwork {
			e.address = e.address.Next()
			c.IP = e.address.String()
		}
	case !ok:
		program = e.options.Program
	}
	ctx, kill := context.WithCancel(context.Background())
	p := &process{
		ctx: ctx, kill: kill,
		signals: make(chan string, 16),
		exited:  make(chan struct{}),
		ended:   make(chan struct{}),
	}
	c.process, c.answers = p, map[string]int{}
	c.State, c.Error, c.ExitCode, c.OOMKilled = container.StateRunning, "", 0, false
	c.StartedAt, c.FinishedAt = time.Now().UTC(), time.Time{}
	e.pid++
	c.PID = e.pid
	c.log.open()
	c.usage, c.usedUntil = idle, c.StartedAt
	if u, ok := e.usages[c.config.Image]; ok {
		c.usage = u
	}
	if c.sandbox {
		c.usage = Usage{}
	}
	e.emit(c, "start")

	stdout, stderr := c.log.writer(streamOut), c.log.writer(streamErr)
	seen := &Process{
		Config: c.config, Hostname: c.hostname, Stdout: stdout, Stderr: stderr, Signals: p.signals,
		oom: func() { p.oomKilled.Store(true) },
	}
	if c.config.Stdin {
		var stdin *io.PipeReader
		stdin, p.stdin = io.Pipe()
		seen.Stdin = stdin
		context.AfterFunc(ctx, func() { stdin.Close() })
	}
	returned := make(chan int, 1)
	e.running.Go(func() { returned <- program(ctx, seen) })
	e.running.Go(func() {
		defer kill()
		code := 137
		select {
		case code = <-returned:
			if ctx.Err() != nil { // killed in the same moment
				code = 137
			}
		case <-ctx.Done():
		}
		close(p.exited)
		if e.options.ExitLag > 0 {
			<-time.After(e.options.ExitLag)
		}
		stdout.flush()
		stderr.flush()
		e.finish(c, p, code)
	})
}

// finish makes the end of a process known.
func (e *Engine) finish(c *fakeContainer, p *process, code int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.OOMKilled = p.oomKilled.Load(); c.OOMKilled {
		e.emit(c, "oom")
	}
	e.account(c)
	c.State, c.PID, c.IP = container.StateExited, 0, ""
	c.ExitCode, c.FinishedAt = code, time.Now().UTC()
	c.log.close()
	e.emit(c, "die")
	close(p.ended)
}

// Exited returns a channel that is closed when the container's process ends,
// ExitLag before the engine knows.
func (e *Engine) Exited(_ context.Context, c container.Container) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	known, ok := e.containers[c.ID]
	switch {
	case c.State == container.StateExited || !ok:
		gone := make(chan struct{})
		close(gone)
		return gone
	case known.process == nil:
		return nil // not started yet
	default:
		return known.process.exited
	}
}

// signalName writes "9", "KILL" and "SIGKILL" the same way.
func signalName(s string) string {
	s = strings.ToUpper(s)
	for number, name := range map[string]string{
		"1": "HUP", "2": "INT", "3": "QUIT", "9": "KILL", "10": "USR1", "12": "USR2", "15": "TERM",
	} {
		if s == number {
			s = name
		}
	}
	if !strings.HasPrefix(s, "SIG") {
		s = "SIG" + s
	}
	return s
}
