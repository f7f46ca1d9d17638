//go:build !linux

package native

import (
	"context"
	"errors"

	"orch/pkg/network"
)

// Network is not possible here.
type Network struct{ network.Provider }

// New says so.
func New(Options) (*Network, error) {
	return nil, errors.New("the native network needs Linux: there is --network docker")
}

// SetPeers does nothing.
func (*Network) SetPeers([]network.Peer) {}

// Run does nothing.
func (*Network) Run(context.Context, func(error)) error { return nil }

// Exists finds nothing.
func Exists(_, _ string) bool { return false }

// Remove finds nothing.
func Remove(_, _ string) error { return nil }
