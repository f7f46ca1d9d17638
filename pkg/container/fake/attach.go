package fake

import (
	"context"
	"io"

	"orch/pkg/container"
)

// Attach connects to a running container's own input and output, whole lines of
// it, until the container ends. The end of o.Stdin leaves the program's open.
func (e *Engine) Attach(ctx context.Context, id string, o container.ExecOptions) (int, error) {
	op := "attach to container " + id
	p, err := e.enterRunning(ctx, "Attach", op, id)
	if err != nil {
		return 0, err
	}
	e.mu.Lock()
	c := e.containers[id]
	e.mu.Unlock()
	if c == nil {
		return 0, noContainer(op, id)
	}
	if o.Stdin != nil && p.stdin != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stdin := untilDone(ctx, o.Stdin)
		go func() { _, _ = io.Copy(p.stdin, stdin) }()
	}
	if err := e.follow(ctx, op, c, container.LogOptions{Follow: true, Tail: 0}, o.Stdout, o.Stderr); err != nil {
		return 0, err
	}
	ended, err := e.find(op, id)
	return ended.ExitCode, err
}
