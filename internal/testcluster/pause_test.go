package testcluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orch/internal/testcluster"
	"orch/pkg/api"
	"orch/pkg/client"
	deploymentcontroller "orch/pkg/controller/deployment"
	"orch/pkg/controller/disruption"
	"orch/pkg/controller/event"
	"orch/pkg/controller/garbage"
	"orch/pkg/controller/namespace"
	"orch/pkg/controller/node"
	"orch/pkg/controller/nodeipam"
	"orch/pkg/controller/replicaset"
	"orch/pkg/scheduler"
	"orch/pkg/store"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

// writers are the names in which the parts of the control plane write, by those by
// which they are paused.
var writers = map[string][]string{
	"deployment": {deploymentcontroller.Name}, "replicaset": {replicaset.Name}, "scheduler": {scheduler.Name},
	"node": {node.Name, node.NameEviction, node.NameGC}, "disruption": {disruption.Name}, "garbage": {garbage.Name},
	"namespace": {namespace.Name}, "event": {event.Name}, "nodeipam": {nodeipam.Name},
}

func controllers(t *testing.T, c *testcluster.Cluster) map[string]*v1.Controller {
	t.Helper()
	r, err := c.Client().Controllers().ListControllers(t.Context(), &v1.ListControllersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*v1.Controller{}
	for _, one := range r.GetControllers() {
		all[one.GetName()] = one
	}
	return all
}

func pause(t *testing.T, c *testcluster.Cluster, paused bool, names ...string) {
	t.Helper()
	for _, name := range names {
		cause := &v1.Cause{Actor: "test", Reason: "Pause", Message: "a test pauses or resumes " + name}
		if _, err := c.Client().Controllers().Pause(t.Context(), &v1.PauseRequest{Controller: name, Paused: paused, Cause: cause}); err != nil {
			t.Fatal(err)
		}
	}
}

func step(t *testing.T, c *testcluster.Cluster, name string) *v1.StepResponse {
	t.Helper()
	r, err := c.Client().Controllers().Step(t.Context(), &v1.StepRequest{Controller: name})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// say tells what a controller holds: "create Pod: ReplicaSet wanted 3".
func say(held []*v1.HeldWrite) string {
	var lines []string
	for _, w := range held {
		o := api.Unwrap(w.GetAfter())
		if o == nil {
			o = api.Unwrap(w.GetBefore())
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s", w.GetVerb(), api.KindOf(o).Name, w.GetCause().GetReason()))
	}
	return strings.Join(lines, ", ")
}

func TestAPausedReplicaSetControllerIsLedStepByStep(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		pause(t, c, true, "replicaset")
		scale(t, c, 6)
		holds := func(want string) func() bool {
			return func() bool { return say(controllers(t, c)["replicaset"].GetHeld()) == want }
		}
		c.Eventually("it holds three pods", holds("create Pod: SuccessfulCreate, create Pod: SuccessfulCreate, create Pod: SuccessfulCreate"))
		c.Always("it goes on to hold them and writes nothing", time.Minute, func() bool { return len(c.Pods("")) == 3 })
		if w := controllers(t, c)["replicaset"].GetHeld()[0]; !strings.Contains(w.GetCause().GetMessage(), "wanted 6, had 3") || w.GetCause().GetTrigger() == 0 {
			t.Errorf("why: %v", w.GetCause())
		}

		r := step(t, c, "replicaset")
		if got := say([]*v1.HeldWrite{r.GetWritten()}); got != "create Pod: SuccessfulCreate" {
			t.Errorf("the step: %s", got)
		}
		if next := r.GetController().GetHeld(); say(next) != "create Pod: SuccessfulCreate, create Pod: SuccessfulCreate" || !strings.Contains(next[0].GetCause().GetMessage(), "wanted 6, had 4") {
			t.Errorf("what comes next: %v", next)
		}
		if n := len(c.Pods("")); n != 4 {
			t.Errorf("after one step there are %d pods", n)
		}

		scale(t, c, 4) // what it holds is the plan of today
		c.Eventually("it no longer wants a fifth", holds("update status ReplicaSet: ReplicasCounted"))
		scale(t, c, 2)
		c.Eventually("it wants two to go", holds("delete Pod: SuccessfulDelete, delete Pod: SuccessfulDelete"))
		pause(t, c, false, "replicaset")
		c.Eventually("all is as it was last told", func() bool { return len(c.Ready("app=web")) == 2 && len(c.Pods("")) == 2 })
	})
}

func TestAPausedSchedulerShowsWhereItWouldPlaceThePods(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		pause(t, c, true, "scheduler")
		c.Apply(web)
		c.Eventually("it holds three bindings", func() bool {
			return say(controllers(t, c)["scheduler"].GetHeld()) == "update Pod: Scheduled, update Pod: Scheduled, update Pod: Scheduled"
		})
		nodes := map[string]int{}
		for _, w := range controllers(t, c)["scheduler"].GetHeld() {
			nodes[w.GetAfter().GetPod().GetSpec().GetNodeName()]++
		}
		if len(nodes) != 2 {
			t.Errorf("what it would do does not count in what it would do next: %v", nodes)
		}
		for n := 1; n <= 3; n++ {
			step(t, c, "scheduler")
			bound := 0
			for _, p := range c.Pods("") {
				if p.GetSpec().GetNodeName() != "" {
					bound++
				}
			}
			if bound != n {
				t.Errorf("after step %d, %d pods have a node", n, bound)
			}
		}
		c.Eventually("the pods run", func() bool { return len(c.Ready("app=web")) == 3 })
	})
}

func TestWhileTheNodeControllerIsPausedNoNodeIsLost(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		pause(t, c, true, "node")
		c.Node(1).Stop()
		c.Eventually("it would call the node silent", func() bool {
			return say(controllers(t, c)["node"].GetHeld()) == "update status Node: NodeStatusUnknown"
		})
		c.Always("nobody hears of it", 5*time.Minute, func() bool { return len(c.Ready("app=web")) == 3 })
		r := step(t, c, "node")
		if got := say(r.GetController().GetHeld()); got != "update Node: TaintsChanged" {
			t.Errorf("after it was called silent: %s", got)
		}
		pause(t, c, false, "node")
		c.Eventually("the pods are elsewhere", func() bool {
			for _, p := range c.Ready("app=web") {
				if p.GetSpec().GetNodeName() != "node-1" {
					return false
				}
			}
			return len(c.Ready("app=web")) == 3
		})
	})
}

func TestWithAllPausedNobodyWritesAlsoAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New()
		c := testcluster.Start(t, testcluster.Options{Nodes: 2, Store: s, Patience: 15 * time.Minute})
		known := controllers(t, c)
		if len(known) != len(writers) {
			t.Errorf("there are %d controllers, and names for %d", len(known), len(writers))
		}
		deployed(t, c)
		pause(t, c, true, pausable...)
		from := s.Revision()
		scale(t, c, 6)
		_, err := client.For[*v1.Pod](c.Client()).Delete(t.Context(), "default", c.Pods("")[0].GetMetadata().GetName(), client.DeleteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		c.RestartAPIServer()
		time.Sleep(2 * time.Minute)
		silent := map[string]string{}
		for name, actors := range writers {
			for _, a := range actors {
				silent[a] = name
			}
		}
		if broken := writesOf(t, s, from, silent); broken != "" {
			t.Error(broken)
		}
		c.Eventually("the deployment controller wants six", func() bool {
			return say(controllers(t, c)["deployment"].GetHeld()) == "update ReplicaSet: ScaledUp"
		})
		pause(t, c, false, pausable...)
		c.Eventually("all is as it was last told", func() bool { return len(c.Ready("app=web")) == 6 && len(c.Pods("")) == 6 })
	})
}

// writesOf finds writes after a revision, other than of events, of actors who
// were to be silent.
func writesOf(t *testing.T, s store.Store, from int64, silent map[string]string) string {
	t.Helper()
	entries, err := s.Log(t.Context(), from, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := silent[e.Cause.Actor]; name != "" && !strings.HasPrefix(e.Key, "Event/") {
			return fmt.Sprintf("revision %d, %s, was written by %s, and controller %s is paused: %s", e.Revision, e.Key, e.Cause.Actor, name, e.Cause.Message)
		}
	}
	return ""
}

// pauses is somebody who pauses, steps and resumes controllers as chance will.
type pauses struct {
	t      *testing.T
	c      *testcluster.Cluster
	random *rand.Rand
	begun  bool
}

func (p *pauses) pause(name string, paused bool) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	p.begun = p.begun || paused
	_, err := p.c.Client().Controllers().Pause(ctx, &v1.PauseRequest{
		Controller: name, Paused: paused, Cause: &v1.Cause{Actor: "test", Reason: "Pause", Message: "somebody pauses or resumes " + name},
	})
	return err
}

var pausable = []string{"deployment", "replicaset", "scheduler", "node", "disruption", "garbage", "namespace", "event", "nodeipam"}

func (p *pauses) act(percent int) {
	name := pausable[p.random.IntN(len(pausable))]
	switch n := p.random.IntN(100); {
	case n < percent:
		_ = p.pause(name, true)
	case n < 2*percent && p.begun:
		_ = p.pause(name, false)
	case n < 5*percent && p.begun:
		ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
		defer cancel()
		_, _ = p.c.Client().Controllers().Step(ctx, &v1.StepRequest{Controller: name})
	}
}

// end resumes all, as soon as somebody listens.
func (p *pauses) end() {
	if !p.begun {
		return
	}
	for _, name := range pausable {
		p.c.Eventually("controller "+name+" is resumed", func() bool { return p.pause(name, false) == nil })
	}
	p.begun = false
}

// Whatever is paused, stepped and resumed and when, in the end the cluster is as
// it was last told.
func TestPausingLosesNoWork(t *testing.T) {
	runs := 20
	if testing.Short() {
		runs = 4
	}
	for seed := range uint64(runs) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &simulation{
					Cluster: testcluster.Start(t, testcluster.Options{Nodes: 3, Store: memstore.New(), Patience: 20 * time.Minute}),
					t:       t, nodes: 3, random: rand.New(rand.NewPCG(seed, 0)), wanted: map[string]wish{},
				}
				p := pauses{t: t, c: s.Cluster, random: rand.New(rand.NewPCG(seed, 1))}
				for range 40 {
					if s.chance(60) {
						s.use()
					}
					p.act(20)
					if s.chance(5) {
						s.RestartAPIServer()
					}
					time.Sleep(time.Duration(s.n(4000)) * time.Millisecond)
				}
				p.end()
				s.settle()
			})
		})
	}
}
