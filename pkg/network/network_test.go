package network_test

import (
	"errors"
	"testing"

	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/network"
)

// scripted is a provider that does what a test wants.
type scripted struct {
	state    network.State
	connect  error
	released []string
}

func (s *scripted) Reserve(c *container.Sandbox) error {
	c.Labels[network.LabelIP] = "10.1.2.3"
	return nil
}
func (s *scripted) Connect(container.Container, container.Sandbox) error { return s.connect }
func (s *scripted) State(container.Container) network.State              { return s.state }
func (s *scripted) Release(name, _ string)                               { s.released = append(s.released, name) }

func TestASandboxRunsOnlyAsLongAsItIsConnected(t *testing.T) {
	engine := fake.New(fake.Options{})
	defer engine.Shutdown()
	p := &scripted{state: network.Connected}
	r := network.Wrap(engine, p)
	c, err := r.CreateSandbox(t.Context(), container.Sandbox{Name: "a", Labels: map[string]string{"l": "1"}})
	if err != nil || c.IP != "10.1.2.3" || c.State != container.StateRunning {
		t.Fatalf("%+v, %v", c, err)
	}
	for state, want := range map[network.State]container.State{
		network.Coming: container.StateCreated, network.Connected: container.StateRunning, network.Lost: container.StateExited,
	} {
		p.state = state
		one, err := r.Inspect(t.Context(), c.ID)
		list, listed := r.List(t.Context(), map[string]string{"l": "1"})
		if err = errors.Join(err, listed); err != nil || one.State != want || len(list) != 1 || list[0].State != want || one.IP != "10.1.2.3" {
			t.Errorf("state %d: %+v, %+v, %v", state, one, list, err)
		}
	}
	if err := r.Remove(t.Context(), c.ID); err != nil || len(p.released) != 1 {
		t.Errorf("released %v, %v", p.released, err)
	}
}

func TestWhatCannotBeConnectedIsRemovedAgain(t *testing.T) {
	engine := fake.New(fake.Options{})
	defer engine.Shutdown()
	p := &scripted{connect: errors.New("no cable")}
	_, err := network.Wrap(engine, p).CreateSandbox(t.Context(), container.Sandbox{Name: "a", Labels: map[string]string{"l": "1"}})
	list, listed := engine.List(t.Context(), map[string]string{"l": "1"})
	if !errors.Is(err, p.connect) || listed != nil || len(list) != 0 || len(p.released) != 1 || p.released[0] != "a" {
		t.Errorf("error %v; left %v, released %v", err, list, p.released)
	}
}

func TestASandboxOnTheMachinesNetworkNeedsNoProvider(t *testing.T) {
	engine := fake.New(fake.Options{})
	defer engine.Shutdown()
	c, err := network.Wrap(engine, nil).CreateSandbox(t.Context(), container.Sandbox{Name: "a", HostNetwork: true})
	if err != nil || c.State != container.StateRunning {
		t.Errorf("%+v, %v", c, err)
	}
}
