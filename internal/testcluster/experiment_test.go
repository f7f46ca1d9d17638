package testcluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// experiments is somebody who breaks things on purpose, as chance will, and stops
// or forgets some of it.
type experiments struct {
	s      *simulation
	random *rand.Rand
	made   int
}

// testable are the faults that simulated engines have, and those of the API server.
var testable = []string{
	api.FaultKillContainer, api.FaultPauseContainer, api.FaultCrashAgent, api.FaultStopNode, api.FaultShiftClock,
	api.FaultKillPod, api.FaultDropWatches, api.FaultDelayWatches, api.FaultCrashAPIServer,
}

func (x *experiments) n(n int) int32 { return x.random.Int32N(int32(n)) }

func (x *experiments) act(percent int32) {
	name := fmt.Sprintf("x-%d", 1+x.n(max(1, x.made)))
	switch n := x.n(100); {
	case n < percent:
		x.made++
		_ = x.do(func(ctx context.Context, r client.Resource[*v1.ChaosExperiment]) error {
			_, err := r.Create(ctx, x.any(fmt.Sprintf("x-%d", x.made)))
			if errors.Is(err, api.ErrInvalid) && !strings.Contains(err.Error(), "no node that may be hit is ready") {
				x.s.t.Error(err)
			}
			return err
		})
	case n < percent*3/2:
		_ = x.stop(name)
	case n < percent*2:
		_ = x.delete(name)
	}
}

func (x *experiments) do(f func(context.Context, client.Resource[*v1.ChaosExperiment]) error) error {
	ctx, cancel := context.WithTimeout(x.s.t.Context(), 5*time.Second)
	defer cancel()
	return f(ctx, client.For[*v1.ChaosExperiment](x.s.Client()))
}

func (x *experiments) stop(name string) error {
	return x.do(func(ctx context.Context, r client.Resource[*v1.ChaosExperiment]) error {
		_, err := r.Modify(ctx, api.NamespaceDefault, name, func(x *v1.ChaosExperiment) error {
			x.Spec.Stop = true
			return nil
		})
		return err
	})
}

func (x *experiments) delete(name string) error {
	return x.do(func(ctx context.Context, r client.Resource[*v1.ChaosExperiment]) error {
		_, err := r.Delete(ctx, api.NamespaceDefault, name, client.DeleteOptions{})
		return err
	})
}

// any is an experiment as chance will.
func (x *experiments) any(name string) *v1.ChaosExperiment {
	f := &v1.ChaosFault{Type: testable[x.n(len(testable))]}
	kind, _ := api.FaultKindOf(f.GetType())
	spec := &v1.ChaosExperimentSpec{Fault: f, Seed: int64(x.n(1000)), DurationSeconds: 1 + x.n(30)}
	if x.n(2) == 0 {
		spec.EverySeconds = 1 + x.n(20)
	}
	if kind.Lasts {
		spec.FaultSeconds = 1 + x.n(20)
	}
	if spec.EverySeconds > 0 {
		spec.FaultSeconds = min(spec.FaultSeconds, spec.EverySeconds)
	}
	switch f.GetType() {
	case api.FaultShiftClock:
		f.OffsetSeconds = 1 + x.n(7200) - 3600
	case api.FaultDelayWatches:
		f.DelayMilliseconds = 1 + x.n(5000)
	}
	switch kind.Scope {
	case api.ScopePod:
		spec.Selector = &v1.LabelSelector{}
	case api.ScopeNode:
		spec.NodeSelector = &v1.LabelSelector{}
	}
	if spec.Mode = []string{api.ChaosOne, api.ChaosAll, api.ChaosFixed}[x.n(3)]; spec.Mode == api.ChaosFixed {
		spec.Value = 1 + x.n(3)
	}
	if x.n(4) == 0 {
		spec.SteadyState = []*v1.ChaosSteadyState{{ReadyReplicas: &v1.ChaosReadyReplicas{Kind: "Deployment", Name: "app-1", AtLeast: 1}}}
	}
	return &v1.ChaosExperiment{Metadata: &v1.ObjectMeta{Namespace: api.NamespaceDefault, Name: name}, Spec: spec}
}

// end stops some, lets the others end by themselves, and then holds that nothing
// is broken any more.
func (x *experiments) end() {
	x.s.t.Helper()
	for n := range x.made {
		if x.n(2) == 0 {
			_ = x.stop(fmt.Sprintf("x-%d", n+1))
		}
	}
	var open string
	for range 120 {
		if open = x.open(); open == "" {
			return
		}
		x.s.sleep(5 * time.Second)
	}
	x.s.t.Fatalf("ten minutes after the last fault something is still broken on purpose: %s", open)
}

// open is something that was broken on purpose and is not healed.
func (x *experiments) open() string {
	ctx, cancel := context.WithTimeout(x.s.t.Context(), 5*time.Second)
	defer cancel()
	experiments, err := client.For[*v1.ChaosExperiment](x.s.Client()).List(ctx, client.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, e := range experiments.Items {
		if e.GetStatus().GetEndTime() == nil || e.GetMetadata().GetDeletionTimestamp() != nil {
			return e.String()
		}
	}
	injections, err := client.For[*v1.ChaosInjection](x.s.Client()).List(ctx, client.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, i := range injections.Items {
		if p := i.GetStatus().GetPhase(); p != api.ChaosHealed && p != api.ChaosFailed {
			return i.String()
		}
	}
	for i := range x.s.nodes {
		n := x.s.Node(i)
		if left, err := os.ReadDir(n.JournalOfFaults()); err == nil && len(left) > 0 {
			return fmt.Sprintf("the journal of %s has %v", n.Name, left)
		}
		for _, c := range n.Engine.Peek(nil) {
			if c.State == container.StatePaused {
				return fmt.Sprintf("%s on %s is paused", c.Name, n.Name)
			}
		}
	}
	return ""
}
