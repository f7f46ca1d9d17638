package docker

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"orch/pkg/container"
)

// Dial connects to a TCP port of a running sandbox: to its localhost, from
// inside its network namespace, where this process may enter it (Linux, root,
// an engine on this machine), and elsewhere to its address, which reaches only
// what listens on all addresses.
func (r *Runtime) Dial(ctx context.Context, sandbox string, port int) (net.Conn, error) {
	op := "connect to port " + strconv.Itoa(port) + " of container " + sandbox
	c, err := r.Inspect(ctx, sandbox)
	if err != nil {
		return nil, err
	}
	if c.State != container.StateRunning {
		return nil, fmt.Errorf("%s: %w", op, container.ErrNotRunning)
	}
	conn, entered, err := r.dialInside(ctx, c, port)
	if !entered {
		if c.IP == "" {
			return nil, fmt.Errorf("%s: it has no address, and its network cannot be entered: %w", op, err)
		}
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(c.IP, strconv.Itoa(port)))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return conn, nil
}
