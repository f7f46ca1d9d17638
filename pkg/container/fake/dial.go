package fake

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"orch/pkg/container"
)

// Dial connects to a port of a sandbox through Options.Dial.
func (e *Engine) Dial(ctx context.Context, sandbox string, port int) (net.Conn, error) {
	op := "connect to port " + strconv.Itoa(port) + " of container " + sandbox
	if err := e.enter(ctx, "Dial", sandbox); err != nil {
		return nil, err
	}
	p, err := e.processOf(op, sandbox)
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return nil, fmt.Errorf("%s: %w", op, container.ErrNotRunning)
	case e.options.Dial == nil:
		return nil, fmt.Errorf("%s: connection refused: simulated containers listen on nothing", op)
	}
	return e.options.Dial(ctx, sandbox, port)
}
