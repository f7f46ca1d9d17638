package fake

import (
	"context"
	"fmt"
	"net"
	"strconv"
)

// Dial connects to a port of a sandbox through Options.Dial.
func (e *Engine) Dial(ctx context.Context, sandbox string, port int) (net.Conn, error) {
	op := "connect to port " + strconv.Itoa(port) + " of container " + sandbox
	_, err := e.enterRunning(ctx, "Dial", op, sandbox)
	switch {
	case err != nil:
		return nil, err
	case e.options.Dial == nil:
		return nil, fmt.Errorf("%s: connection refused: simulated containers listen on nothing", op)
	}
	return e.options.Dial(ctx, sandbox, port)
}
