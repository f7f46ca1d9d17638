//go:build !linux

package docker

import (
	"context"
	"errors"

	"orch/pkg/container"
)

func (r *Runtime) cgroupStats(string, int) (container.Stats, error) {
	return container.Stats{}, errors.ErrUnsupported
}

func lacksResourceCapability(context.Context, string) bool { return false }

func lookAround(*container.Machine, string) {}
