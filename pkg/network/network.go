// Package network is the contract of what gives pods their place in a network:
// an address of their own, which every pod and every node of the cluster
// reaches, whichever machine it is on.
//
// Where the engine does that by itself (Docker's own bridge, the provider
// "docker") nothing of this is needed. [Wrap] puts a provider beside an engine
// whose sandboxes begin with an empty network.
//
// The one invariant: a sandbox is running only as long as it is connected. So no
// container is ever started in a network that is not the pod's, and a pod that
// has lost its network gets a new sandbox, whoever made the old one.
//
// Read next: package native, the provider for Linux; docs/network.md, which
// follows a packet.
package network

import (
	"context"
	"errors"
	"maps"
	"net/netip"

	"orch/pkg/container"
)

// LabelIP is the label of a sandbox with its address.
const LabelIP = "orch.dev/pod-ip"

// Peer is a node of the cluster.
type Peer struct {
	Name string
	// Address is where other machines reach the node; not valid: nowhere yet.
	Address netip.Addr
	// Subnet has its pods' addresses; not valid: none yet.
	Subnet netip.Prefix
}

// State is how a sandbox stands in the network.
type State int

const (
	Lost      State = iota // not connected, and nobody is about to
	Coming                 // reserved by this process
	Connected              // by this process or one before
)

// Provider connects the sandboxes of one node.
//
// Concurrency: all methods may be called from several goroutines.
type Provider interface {
	// Reserve takes an address for a sandbox, which it puts into LabelIP, and
	// completes what the engine is asked for.
	Reserve(s *container.Sandbox) error
	// Connect brings a sandbox that was started bare to its address. asked is
	// what Reserve was given.
	Connect(c container.Container, asked container.Sandbox) error
	// State tells how a running sandbox with a LabelIP stands.
	State(c container.Container) State
	// Release takes connection and address from the sandbox of that name or id.
	// No error where it has none.
	Release(name, id string)
}

// Runtime is an engine whose sandboxes have their network from a provider, but
// for those on the machine's own.
//
// Concurrency: as container.Runtime.
type Runtime struct {
	container.Runtime
	provider Provider
}

// Wrap puts a provider beside an engine.
func Wrap(r container.Runtime, p Provider) *Runtime { return &Runtime{r, p} }

// CreateSandbox creates a sandbox and connects it; what cannot be connected is
// removed again.
func (r *Runtime) CreateSandbox(ctx context.Context, asked container.Sandbox) (container.Container, error) {
	if asked.HostNetwork {
		return r.Runtime.CreateSandbox(ctx, asked)
	}
	s := asked
	s.Bare, s.Labels = true, maps.Clone(s.Labels)
	if err := r.provider.Reserve(&s); err != nil {
		return container.Container{}, err
	}
	c, err := r.Runtime.CreateSandbox(ctx, s)
	if err == nil {
		if err = r.provider.Connect(c, asked); err == nil {
			return r.see(c), nil
		}
		err = errors.Join(err, r.Runtime.Remove(context.WithoutCancel(ctx), c.ID))
	}
	r.provider.Release(s.Name, c.ID)
	return container.Container{}, err
}

// see completes what the engine shows by what it does not know.
func (r *Runtime) see(c container.Container) container.Container {
	ip := c.Labels[LabelIP]
	if ip == "" {
		return c
	}
	c.IP = ip
	if c.State == container.StateRunning || c.State == container.StatePaused {
		switch r.provider.State(c) {
		case Coming:
			c.State, c.PID = container.StateCreated, 0
		case Lost:
			c.State, c.PID = container.StateExited, 0
		}
	}
	return c
}

// Remove removes a container, and gives back what a sandbox had.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	err := r.Runtime.Remove(ctx, id)
	if err == nil {
		r.provider.Release("", id)
	}
	return err
}

// Inspect shows one container.
func (r *Runtime) Inspect(ctx context.Context, id string) (container.Container, error) {
	c, err := r.Runtime.Inspect(ctx, id)
	return r.see(c), err
}

// Wait returns a container that does not run any more.
func (r *Runtime) Wait(ctx context.Context, id string) (container.Container, error) {
	c, err := r.Runtime.Wait(ctx, id)
	return r.see(c), err
}

// List shows containers.
func (r *Runtime) List(ctx context.Context, labels map[string]string) ([]container.Container, error) {
	list, err := r.Runtime.List(ctx, labels)
	for i, c := range list {
		list[i] = r.see(c)
	}
	return list, err
}
