//go:build !linux

package docker

import (
	"context"
	"errors"
	"net"

	"orch/pkg/container"
)

// dialInside needs Linux: only there can a thread enter a network namespace.
func (r *Runtime) dialInside(context.Context, container.Container, int) (net.Conn, bool, error) {
	return nil, false, errors.ErrUnsupported
}

// awaitBare is not possible here.
func (r *Runtime) awaitBare(context.Context, container.Container) error {
	return errors.ErrUnsupported
}
