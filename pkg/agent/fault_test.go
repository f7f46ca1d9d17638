package agent_test

import (
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
	v1 "orch/proto/v1"
)

// polls are the moments to look again until something has happened.
func (c *cluster) polls() iter.Seq[int] {
	pause := 20 * time.Millisecond
	if c.patience > time.Hour { // virtual
		pause = s
	}
	return func(yield func(int) bool) {
		for n := range int(2 * time.Hour / s) {
			if !yield(n) {
				return
			}
			<-time.After(pause)
		}
	}
}

// inject asks node n1 for a fault, as the experiment's controller does. pod is nil
// where the node itself is hit.
func (c *cluster) inject(name string, f *v1.ChaosFault, pod *v1.Pod, lasts time.Duration, peers ...string) *v1.ChaosInjection {
	c.t.Helper()
	i := &v1.ChaosInjection{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: &v1.ChaosInjectionSpec{
			Experiment: "test", Fault: f, NodeName: "n1", Round: 1, PeerAddresses: peers,
			PodName: pod.GetMetadata().GetName(), PodUid: pod.GetMetadata().GetUid(),
		},
	}
	if lasts > 0 {
		i.Spec.Until = timestamppb.New(time.Now().Add(lasts))
	}
	i, err := client.For[*v1.ChaosInjection](c.client).Create(c.t.Context(), i)
	if err != nil {
		c.t.Fatal(err)
	}
	return i
}

// untilInjection waits until an injection is in a phase.
func (c *cluster) untilInjection(name, phase string) *v1.ChaosInjection {
	c.t.Helper()
	var last *v1.ChaosInjection
	for range c.polls() {
		i, err := client.For[*v1.ChaosInjection](c.client).Get(c.t.Context(), "default", name)
		if err == nil && i.GetStatus().GetPhase() == phase {
			return i
		}
		last = i
	}
	c.t.Fatalf("injection %s is not %s: %v", name, phase, last)
	return nil
}

func (c *cluster) heal(name string) {
	c.t.Helper()
	_, err := client.For[*v1.ChaosInjection](c.client).Modify(c.t.Context(), "default", name, func(i *v1.ChaosInjection) error {
		i.Spec.Heal = true
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// states are those of a pod's container on the engine.
func (c *cluster) state(r container.Runtime, pod, name string) container.State {
	c.t.Helper()
	found, err := r.Inspect(c.t.Context(), c.find(r, pod, name))
	if err != nil {
		c.t.Fatal(err)
	}
	return found.State
}

func (c *cluster) untilState(r container.Runtime, pod, name string, want container.State) {
	c.t.Helper()
	var got container.State
	for range c.polls() {
		if got = c.state(r, pod, name); got == want {
			return
		}
	}
	c.t.Fatalf("container %s of %s is %s, want %s", name, pod, got, want)
}

// journal are the faults that n1 knows of.
func (c *cluster) journal() (names []string) {
	entries, _ := os.ReadDir(filepath.Join(c.faultDir, "n1"))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (c *cluster) untilForgotten() {
	c.t.Helper()
	for range c.polls() {
		if len(c.journal()) == 0 {
			return
		}
	}
	c.t.Fatalf("the journal of faults still has %v", c.journal())
}

func faultOf(typ string) *v1.ChaosFault { return &v1.ChaosFault{Type: typ} }

// blames says whether a write that says so is the work of an injection.
func (c *cluster) blames(i *v1.ChaosInjection, says string) (found bool) {
	c.t.Helper()
	for e, err := range c.client.History(c.t.Context(), &v1.HistoryRequest{}) {
		if err != nil {
			c.t.Fatal(err)
		}
		cause := e.GetCause()
		found = found || cause.GetTrigger() == i.GetMetadata().GetResourceVersion() && strings.Contains(cause.GetMessage(), says)
	}
	return found
}

func TestANodeSaysWhatCanBeBrokenOnIt(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.crash = func(time.Duration) error { return nil }
		c.start("n1", engine)
		m := c.untilNode("n1", "True").GetMetadata()
		if got := m.GetAnnotations()[api.AnnotationChaosFaults]; got != "CrashAgent,KillContainer,PauseContainer,ShiftClock,StopNode" {
			t.Errorf("faults %q", got)
		}
		if got := m.GetLabels()[api.LabelChaosNetem]; got != "false" {
			t.Errorf("netem %q", got)
		}
	})
}

// ends are the triggers of the writes that tell of an end by a signal.
func (c *cluster) ends() (triggers []int64) {
	c.t.Helper()
	for e, err := range c.client.History(c.t.Context(), &v1.HistoryRequest{Kind: "Pod"}) {
		if err != nil {
			c.t.Fatal(err)
		}
		if cause := e.GetCause(); strings.Contains(cause.GetMessage(), "killed from outside by signal 9") {
			triggers = append(triggers, cause.GetTrigger())
		}
	}
	return triggers
}

func TestOfTwoKillersOneIsToBlame(t *testing.T) {
	bubble(t, fake.Options{ExitLag: 40 * time.Millisecond}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		one := c.inject("one", faultOf(api.FaultKillContainer), p, 0)
		two := c.inject("two", faultOf(api.FaultKillContainer), p, 0)
		<-time.After(time.Minute) // virtual; the second may hit the first life or the next one
		c.until("web", "ready", running)
		for _, trigger := range c.ends() {
			if trigger != one.GetMetadata().GetResourceVersion() && trigger != two.GetMetadata().GetResourceVersion() {
				t.Errorf("an end follows from %d, not from %d or %d", trigger, one.GetMetadata().GetResourceVersion(), two.GetMetadata().GetResourceVersion())
			}
		}
		if n := len(c.ends()); n == 0 {
			t.Error("no end was told")
		}
	})
}

func TestAFaultThatLastsIsNotToBlameForAKillFromOutside(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		c.inject("pause", faultOf(api.FaultPauseContainer), p, time.Minute)
		c.untilInjection("pause", api.ChaosInjected)
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("web", "restarted", restarted(1))
		if got := c.ends(); !slices.Equal(got, []int64{0}) {
			t.Errorf("the ends follow from %d, and nobody knows from what", got)
		}
	})
}

func TestAContainerIsKilledOnceAndTheInjectionIsToBlame(t *testing.T) {
	bubble(t, fake.Options{ExitLag: 40 * time.Millisecond}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web", withSidecar("img:2")))
		p := c.until("web", "ready", running)
		f := faultOf(api.FaultKillContainer)
		f.Containers = []string{"app"}
		asked := c.inject("kill", f, p, 0)
		done := c.untilInjection("kill", api.ChaosHealed)
		if got := done.GetStatus().GetMessage(); got != "container app of pod web was sent SIGKILL" {
			t.Errorf("message %q", got)
		}
		p = c.until("web", "restarted", restarted(1))
		if status(p, "side").GetRestartCount() != 0 {
			t.Error("the other container was hit")
		}
		if !c.blames(asked, "container app was killed from outside by signal 9") {
			t.Error("no write of the pod's end names the injection")
		}
		for e, err := range c.client.History(t.Context(), &v1.HistoryRequest{Kind: "Pod", Namespace: "default", Name: "web"}) {
			if err != nil {
				t.Fatal(err)
			}
			wanted := e.GetPrevious()
			if strings.Contains(e.GetCause().GetMessage(), "killed from outside by signal 9 and was started again") {
				wanted = asked.GetMetadata().GetResourceVersion() // the end and the start came in one
			}
			if e.GetCause().GetReason() == "ContainerStarted" && e.GetCause().GetTrigger() != wanted {
				t.Errorf("revision %d follows from %d, not from %d, the end before it", e.GetRevision(), e.GetCause().GetTrigger(), wanted)
			}
		}
		<-time.After(time.Hour) // virtual
		if p := c.get("web"); status(p, "app").GetRestartCount() != 1 {
			t.Errorf("restarted %d times", status(p, "app").GetRestartCount())
		}
		c.untilForgotten()
	})
}

func TestAPauseEndsWithItsTime(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		began := time.Now()
		c.inject("pause", faultOf(api.FaultPauseContainer), p, 30*s)
		c.untilInjection("pause", api.ChaosInjected)
		if got := c.state(engine, "web", "app"); got != container.StatePaused {
			t.Errorf("container is %s", got)
		}
		if !api.IsPodReady(c.get("web")) {
			t.Error("nobody probes it, and it is not ready")
		}
		done := c.untilInjection("pause", api.ChaosHealed)
		if lasted := done.GetStatus().GetHealedAt().AsTime().Sub(began).Round(s); lasted != 30*s { // virtual
			t.Errorf("lasted %s", lasted)
		}
		if got := done.GetStatus().GetMessage(); got != "container app of pod web is paused; healed: its time is over" {
			t.Errorf("message %q", got)
		}
		if got := c.state(engine, "web", "app"); got != container.StateRunning {
			t.Errorf("container is %s", got)
		}
	})
}

func TestAPauseEndsWhen(t *testing.T) {
	tests := []struct {
		name string
		end  func(c *cluster, n *node)
	}{
		{"it is to be healed", func(c *cluster, _ *node) { c.heal("pause") }},
		{"the injection is deleted", func(c *cluster, _ *node) {
			if _, err := client.For[*v1.ChaosInjection](c.client).Delete(c.t.Context(), "default", "pause", client.DeleteOptions{}); err != nil {
				c.t.Fatal(err)
			}
		}},
		{"the agent ends", func(_ *cluster, n *node) { n.kill() }},
		{"the API server is away", func(c *cluster, _ *node) { c.stop() }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				n := c.start("n1", engine)
				c.create(pod("web"))
				c.inject("pause", faultOf(api.FaultPauseContainer), c.until("web", "ready", running), time.Hour)
				c.untilInjection("pause", api.ChaosInjected)
				test.end(c, n)
				c.untilState(engine, "web", "app", container.StateRunning)
			})
		})
	}
}

func TestALivenessProbeEndsAPausedContainer(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web", func(p *v1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &v1.Probe{
				HttpGet: &v1.HTTPGetAction{Port: &v1.IntOrString{Value: &v1.IntOrString_Int{Int: 80}}}, PeriodSeconds: 5, TimeoutSeconds: 1, FailureThreshold: 2,
			}
		}))
		c.inject("pause", faultOf(api.FaultPauseContainer), c.until("web", "ready", running), time.Hour)
		p := c.until("web", "restarted", restarted(1))
		if got := c.state(engine, "web", "app"); got != container.StateRunning {
			t.Errorf("the new container is %s", got)
		}
		if p.GetStatus().GetPhase() != api.PodRunning {
			t.Errorf("the pod is %s", p.GetStatus().GetPhase())
		}
	})
}

func TestAnotherAgentHealsWhatACrashedOneHasBroken(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		crashed := make(chan time.Duration, 1)
		c.crash = func(down time.Duration) error { crashed <- down; return nil }
		first := c.start("n1", engine)
		c.create(pod("web"))
		c.inject("pause", faultOf(api.FaultPauseContainer), c.until("web", "ready", running), time.Minute)
		c.untilInjection("pause", api.ChaosInjected)
		c.inject("crash", faultOf(api.FaultCrashAgent), nil, 10*s)
		if down := <-crashed; down <= 0 || down > 10*s { // what is left of it: telling may take a second try
			t.Errorf("down for %s", down)
		}
		first.kill()
		if got := c.state(engine, "web", "app"); got != container.StatePaused {
			t.Errorf("a crash has healed: container is %s", got)
		}
		<-time.After(10 * s) // virtual
		c.start("n1", engine)
		c.untilInjection("crash", api.ChaosHealed)
		if got := c.state(engine, "web", "app"); got != container.StatePaused {
			t.Errorf("before its time is over the container is %s", got)
		}
		c.untilInjection("pause", api.ChaosHealed)
		if got := c.state(engine, "web", "app"); got != container.StateRunning {
			t.Errorf("container is %s", got)
		}
		c.untilForgotten()
		if len(crashed) > 0 {
			t.Error("it crashed again")
		}
	})
}

// What the agent tells of a pod while a fault lasts is that fault's work, also where
// another agent broke it, and as long as any of several lasts.
func TestWhatHappensWhileAFaultLastsIsItsWork(t *testing.T) {
	probed := func(p *v1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{
			HttpGet: &v1.HTTPGetAction{Port: &v1.IntOrString{Value: &v1.IntOrString_Int{Int: 80}}}, PeriodSeconds: 5, TimeoutSeconds: 1, FailureThreshold: 3,
		}
	}
	unready := func(p *v1.Pod) bool { return !api.IsPodReady(p) }
	const lost, back = "container app is no longer ready", "container app is ready"
	for name, then := range map[string]func(c *cluster, restart func()){
		"of the agent that broke it": func(*cluster, func()) {},
		"of the agent before": func(c *cluster, restart func()) {
			c.inject("crash", faultOf(api.FaultCrashAgent), nil, 10*s)
			restart()
		},
		"when another one could not be done": func(c *cluster, _ func()) {
			f := faultOf(api.FaultPauseContainer)
			f.Containers = []string{"nobody"}
			c.inject("nobody", f, c.get("web"), time.Hour)
			c.untilInjection("nobody", api.ChaosFailed)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				crashed := make(chan struct{})
				c.crash = func(time.Duration) error { close(crashed); return nil }
				first := c.start("n1", engine)
				c.create(pod("web", probed))
				asked := c.inject("pause", faultOf(api.FaultPauseContainer), c.until("web", "ready", running), 40*s)
				c.untilInjection("pause", api.ChaosInjected)
				then(c, func() { <-crashed; first.kill(); c.start("n1", engine) })
				c.until("web", "not ready", unready)
				if !c.blames(asked, lost) {
					t.Error("the injection is not named as the cause")
				}
				c.untilInjection("pause", api.ChaosHealed)
				c.until("web", "ready again", api.IsPodReady)
				if c.blames(asked, back) {
					t.Error("what came after its healing counts as the injection's work")
				}
			})
		})
	}
}

func TestAStoppedNodeLosesItsContainersAndNobodyElses(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		crashed := make(chan time.Duration, 1)
		c.crash = func(down time.Duration) error { crashed <- down; return nil }
		first := c.start("n1", engine)
		c.start("n2", engine)
		c.create(pod("web"))
		c.create(pod("other", onNode("n2")))
		c.until("web", "ready", running)
		c.until("other", "ready", running)
		asked := c.inject("stop", faultOf(api.FaultStopNode), nil, 10*s)
		<-crashed
		first.kill()
		c.expect(engine, "other/POD#0 running", "other/app#0 running", "web/POD#0 exited", "web/app#0 exited")
		c.start("n1", engine)
		c.untilInjection("stop", api.ChaosHealed)
		p := c.until("web", "restarted", restarted(1))
		ended := api.TerminationsOf(p).Find("app", status(p, "app").GetLastState().GetTerminated().GetContainerId())
		if ended == nil || ended.Message != "SIGKILL by chaosinjection/stop" {
			t.Errorf("the ledger says %v", ended)
		}
		if !c.blames(asked, "container app was killed from outside by signal 9") {
			t.Error("no write of the container's end names the injection")
		}
	})
}

func TestAShiftedClockIsSeenInWhatTheAgentWritesAndInNothingItWaitsFor(t *testing.T) {
	for name, shift := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, fake.Options{Program: faketest.ExitAfter(s, 3)}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				c.start("n1", engine)
				c.create(pod("before"))
				c.until("before", "ready", running)
				f := faultOf(api.FaultShiftClock)
				f.OffsetSeconds = int32(shift / s)
				c.inject("shift", f, nil, 30*time.Minute)
				c.untilInjection("shift", api.ChaosInjected)
				began := time.Now()
				created := c.create(pod("web"))
				p := c.until("web", "ready", running)
				off := p.GetStatus().GetStartTime().AsTime().Sub(created.GetMetadata().GetCreationTimestamp().AsTime()).Round(time.Minute)
				if off != shift {
					t.Errorf("the pod's start is %s after its creation", off)
				}
				// Its back-offs are as long as ever: 0, 10, 20 s.
				c.until("web", "restarted", restarted(3))
				if took := time.Since(began).Round(s); took != 33*s {
					t.Errorf("three restarts took %s", took)
				}
				deleted := time.Now()
				c.delete("web", proto.Int64(20))
				c.until("web", "gone", gone)
				if took := time.Since(deleted).Round(s); took > 20*s {
					t.Errorf("its end took %s", took)
				}
				c.untilInjection("shift", api.ChaosHealed)
			})
		})
	}
}

func TestWhatCannotBeDoneFailsWithTheReason(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		f := faultOf(api.FaultPauseContainer)
		f.Containers = []string{"nobody"}
		c.inject("nobody", f, p, time.Hour)
		c.inject("cut", faultOf(api.FaultNetworkCut), p, time.Hour)
		c.inject("crash", faultOf(api.FaultCrashAgent), nil, time.Hour)
		for name, want := range map[string]string{
			"nobody": "of the containers nobody of the pod none runs",
			"cut":    "the agent of node n1 cannot do NetworkCut here",
			"crash":  "the agent of node n1 cannot do CrashAgent here",
		} {
			if got := c.untilInjection(name, api.ChaosFailed).GetStatus().GetMessage(); got != want {
				t.Errorf("%s: message %q, want %q", name, got, want)
			}
		}
		c.untilForgotten()
	})
}
