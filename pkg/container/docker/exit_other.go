//go:build !linux

package docker

import (
	"context"

	"orch/pkg/container"
)

// Exited returns nil: only Linux shows a container's process, and on other
// systems the engine runs in a virtual machine.
func (r *Runtime) Exited(_ context.Context, c container.Container) <-chan struct{} {
	if c.State != container.StateExited {
		return nil
	}
	exited := make(chan struct{})
	close(exited)
	return exited
}

// killProcess can do nothing here.
func (r *Runtime) killProcess(string, int) {}
