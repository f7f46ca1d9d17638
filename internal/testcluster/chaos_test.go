package testcluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

const chaosWeb = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: app, image: app}]}
`

func chaosOf(name, spec string) string {
	return "apiVersion: chaos.orch.dev/v1\nkind: ChaosExperiment\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

// experiment is an experiment as it now is.
func (c *Cluster) experiment(name string) *v1.ChaosExperiment {
	c.t.Helper()
	x, err := client.For[*v1.ChaosExperiment](c.client).Get(c.t.Context(), "default", name)
	if err != nil {
		c.t.Fatal(err)
	}
	return x
}

func (c *Cluster) injections() []*v1.ChaosInjection {
	c.t.Helper()
	l, err := client.For[*v1.ChaosInjection](c.client).List(c.t.Context(), client.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return l.Items
}

func (c *Cluster) ends(name, phase string) *v1.ChaosExperiment {
	c.t.Helper()
	c.Eventually(fmt.Sprintf("experiment %s is over", name), func() bool { return c.experiment(name).GetStatus().GetEndTime() != nil })
	x := c.experiment(name)
	if got := x.GetStatus().GetPhase(); got != phase {
		c.t.Fatalf("%s: %s, want %s", got, x.GetStatus().GetMessage(), phase)
	}
	return x
}

func chaosStory(t *testing.T, o Options, story func(t *testing.T, c *Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o.Patience = 5 * time.Minute
		c := Start(t, o)
		c.Apply(chaosWeb)
		c.Eventually("three pods are ready", func() bool {
			d, err := client.For[*v1.Deployment](c.Client()).Get(t.Context(), "default", "web")
			return err == nil && d.GetStatus().GetReadyReplicas() == 3
		})
		story(t, c)
	})
}

func TestPodsAreKilledInRoundsAndTheLogSaysByWhom(t *testing.T) {
	chaosStory(t, Options{Nodes: 2}, func(t *testing.T, c *Cluster) {
		c.Apply(chaosOf("x", "{fault: {type: KillPod}, selector: {matchLabels: {app: web}}, everySeconds: 10, durationSeconds: 30}"))
		x := c.ends("x", api.ChaosCompleted)
		if s := x.GetStatus(); s.GetRounds() != 3 || s.GetInjections() != 3 || s.GetEndRevision() <= s.GetStartRevision() {
			t.Errorf("%v", s)
		}
		victim := ""
		for _, i := range c.injections() {
			if i.GetStatus().GetPhase() != api.ChaosHealed || i.GetStatus().GetInjectedAt() == nil {
				t.Errorf("%s: %v", i.GetMetadata().GetName(), i.GetStatus())
			}
			victim = i.GetSpec().GetPodName()
			if end := x.GetStatus().GetEndRevision(); end < i.GetMetadata().GetResourceVersion() {
				t.Errorf("it ended at revision %d, %s at %d", end, i.GetMetadata().GetName(), i.GetMetadata().GetResourceVersion())
			}
		}
		c.Eventually("three pods are ready again", func() bool { return len(c.Ready("app=web")) == 3 })
		var last *v1.LogEntry
		for e, err := range c.Client().History(t.Context(), &v1.HistoryRequest{Kind: "Pod", Namespace: "default", Name: victim}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.GetCause().GetReason() == "ChaosKill" {
				last = e
			}
		}
		if !strings.Contains(last.GetCause().GetMessage(), "of chaosexperiment/x, round 3") {
			t.Errorf("the victim's end: %v", last.GetCause())
		}
		// From there the chain leads over the injection to who made the experiment.
		var chain []string
		for at := last.GetCause().GetTrigger(); at > 0; {
			for e, err := range c.Client().History(t.Context(), &v1.HistoryRequest{Revisions: []int64{at}}) {
				if err != nil {
					t.Fatal(err)
				}
				chain = append(chain, e.GetKind()+" by "+e.GetCause().GetActor())
				at = e.GetCause().GetTrigger()
			}
		}
		if got := strings.Join(chain, ", "); got != "ChaosInjection by chaos-controller, ChaosExperiment by test" {
			t.Errorf("chain: %s", got)
		}
		// The story tells of it as well, and once, also when the experiment is deleted.
		told := func() string {
			key := why.Key{Kind: "Pod", Namespace: "default", Name: victim}
			history, log, err := why.Gather(t.Context(), c.Client(), key)
			if err != nil {
				t.Fatal(err)
			}
			var texts []string
			for _, s := range why.Explain(key, history, log, why.Options{}).Steps {
				texts = append(texts, s.Text)
			}
			return strings.Join(texts, "\n")
		}
		const hit = "was deleted because killed by chaosinjection/x-3-1 of chaosexperiment/x, round 3"
		if got := told(); !strings.Contains(got, hit) || strings.Count(got, "x-3-1") != 1 {
			t.Errorf("the victim's story:\n%s", got)
		}
		if _, err := client.For[*v1.ChaosExperiment](c.Client()).Delete(t.Context(), "default", "x", client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.Eventually("its injections are gone with it", func() bool { return len(c.injections()) == 0 })
		if got := told(); !strings.Contains(got, hit) || strings.Count(got, "x-3-1") != 1 {
			t.Errorf("the victim's story, when the experiment is deleted:\n%s", got)
		}
	})
}

func TestAnExperimentStopsWhenTheSteadyStateIsViolated(t *testing.T) {
	chaosStory(t, Options{}, func(t *testing.T, c *Cluster) {
		// What takes no time at all, no status need ever have shown.
		c.Runtime(0).SetHook(func(_ context.Context, op, _ string) error {
			if op == "Start" {
				<-time.After(time.Second)
			}
			return nil
		})
		c.Apply(chaosOf("x", "{fault: {type: KillPod}, selector: {}, mode: All, everySeconds: 10, durationSeconds: 60, steadyState: [{readyReplicas: {name: web, atLeast: 2}}]}"))
		x := c.ends("x", api.ChaosStopped)
		if m := x.GetStatus().GetMessage(); !strings.Contains(m, "Deployment web has") || x.GetStatus().GetRounds() != 1 {
			t.Errorf("round %d: %s", x.GetStatus().GetRounds(), m)
		}
		c.Apply(chaosOf("again", "{fault: {type: KillPod}, selector: {}, steadyState: [{readyReplicas: {name: web, atLeast: 4}}]}"))
		if c.ends("again", api.ChaosFailed); c.experiment("again").GetStatus().GetInjections() != 0 {
			t.Error("it began although the steady state did not hold")
		}
	})
}

// What the controllers' mirrors show is as old as their watches. An experiment that
// ends before it began ends for good, so it is not because of that.
func TestAnExperimentBeginsWithWhatWasThereBeforeIt(t *testing.T) {
	chaosStory(t, Options{}, func(t *testing.T, c *Cluster) {
		c.Apply(chaosOf("blind", "{fault: {type: DropWatches, actors: [apiserver]}, durationSeconds: 60}"))
		c.Eventually("the watches of the controllers are dropped", func() bool {
			all := c.injections()
			return len(all) == 1 && all[0].GetStatus().GetPhase() == api.ChaosInjected
		})
		c.Apply("apiVersion: v1\nkind: Pod\nmetadata: {name: new, labels: {app: new}}\nspec: {nodeName: node-1, containers: [{name: app, image: app}]}\n")
		c.Eventually("the new pod is ready", func() bool { return len(c.Ready("app=new")) == 1 })
		c.Apply(chaosOf("x", "{fault: {type: KillPod}, selector: {matchLabels: {app: new}}}"))
		if x := c.ends("x", api.ChaosCompleted); x.GetStatus().GetInjections() != 1 {
			t.Errorf("%v", x.GetStatus())
		}
	})
}

func TestDroppedWatchesAreSilentAndLoseNothing(t *testing.T) {
	chaosStory(t, Options{Nodes: 2}, func(t *testing.T, c *Cluster) {
		c.Apply(chaosOf("x", "{fault: {type: DropWatches, actors: ['system:node:node-1', 'system:node:node-2']}, durationSeconds: 30}"))
		c.Eventually("watches are dropped", func() bool {
			all := c.injections()
			return len(all) == 1 && all[0].GetStatus().GetPhase() == api.ChaosInjected
		})
		begin := time.Now()
		c.Apply(strings.Replace(chaosWeb, "replicas: 3", "replicas: 5", 1))
		c.Eventually("the pods are made and bound", func() bool {
			bound := 0
			for _, p := range c.Pods("app=web") {
				if p.GetSpec().GetNodeName() != "" {
					bound++
				}
			}
			return bound == 5
		})
		c.Always("no agent knows of the new ones", 10*time.Second, func() bool { return len(c.Ready("app=web")) == 3 })
		c.ends("x", api.ChaosCompleted)
		c.Eventually("five are ready", func() bool { return len(c.Ready("app=web")) == 5 })
		if took := time.Since(begin); took < 20*time.Second {
			t.Errorf("the agents heard of it after %v", took)
		}
	})
}

func TestAnExperimentOutlivesTheAPIServerThatItCrashes(t *testing.T) {
	chaosStory(t, Options{}, func(t *testing.T, c *Cluster) {
		c.Apply(chaosOf("x", "{fault: {type: CrashAPIServer}, faultSeconds: 3, everySeconds: 20, durationSeconds: 40}"))
		for range 2 {
			down := <-c.Crashes
			c.StopAPIServer()
			time.Sleep(down)
			c.StartAPIServer()
		}
		x := c.ends("x", api.ChaosCompleted)
		if x.GetStatus().GetInjections() != 2 {
			t.Errorf("%v", x.GetStatus())
		}
		for _, i := range c.injections() {
			if i.GetStatus().GetPhase() != api.ChaosHealed {
				t.Errorf("%s: %v", i.GetMetadata().GetName(), i.GetStatus())
			}
		}
	})
}

func TestAnExperimentWhoseTimePassedWithoutAServerIsOver(t *testing.T) {
	chaosStory(t, Options{}, func(t *testing.T, c *Cluster) {
		c.Apply(chaosOf("x", "{fault: {type: KillPod}, selector: {}, everySeconds: 10, durationSeconds: 30}"))
		c.Eventually("a round was made", func() bool {
			all := c.injections()
			return c.experiment("x").GetStatus().GetRounds() == 1 && len(all) == 1 && all[0].GetStatus().GetPhase() == api.ChaosHealed
		})
		c.StopAPIServer()
		time.Sleep(time.Minute)
		c.StartAPIServer()
		if x := c.ends("x", api.ChaosCompleted); x.GetStatus().GetRounds() != 1 {
			t.Errorf("rounds were made up for: %v", x.GetStatus())
		}
	})
}

func TestAnAttendedExperimentEndsWithItsConnection(t *testing.T) {
	const spec = "{fault: {type: KillPod}, selector: {}, everySeconds: 10, durationSeconds: 300, attended: true}"
	attend := func(t *testing.T, c *Cluster) context.CancelFunc {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := c.Client().Cluster().AttendChaos(ctx, &v1.AttendChaosRequest{Namespace: "default", Name: "x"})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		return cancel
	}
	for name, tt := range map[string]struct {
		leave func(t *testing.T, c *Cluster)
		why   string
	}{
		"its experimenter leaves": {func(t *testing.T, c *Cluster) {
			leave := attend(t, c)
			time.Sleep(25 * time.Second)
			if c.experiment("x").GetSpec().GetStop() {
				t.Error("it was stopped while somebody attended to it")
			}
			leave()
		}, "its experimenter left: Ctrl-C, or a lost connection"},
		"nobody comes": {func(*testing.T, *Cluster) {}, "nobody attends to it"},
		"nobody comes back after a restart": {func(t *testing.T, c *Cluster) {
			defer attend(t, c)()
			c.RestartAPIServer()
			time.Sleep(5 * time.Second)
			if c.experiment("x").GetSpec().GetStop() {
				t.Error("it was stopped before anybody could come back")
			}
		}, "nobody attends to it"},
	} {
		t.Run(name, func(t *testing.T) {
			chaosStory(t, Options{}, func(t *testing.T, c *Cluster) {
				c.Apply(chaosOf("x", spec))
				tt.leave(t, c)
				if x := c.ends("x", api.ChaosStopped); x.GetStatus().GetMessage() != tt.why {
					t.Errorf("%q, want %q", x.GetStatus().GetMessage(), tt.why)
				}
			})
		})
	}
}

func TestWhatMayNotBeBrokenIsRefused(t *testing.T) {
	chaosStory(t, Options{}, func(t *testing.T, c *Cluster) {
		protected := &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "bank", Labels: map[string]string{api.LabelChaosProtected: "true"}}}
		if _, err := client.For[*v1.Namespace](c.Client()).Create(t.Context(), protected); err != nil {
			t.Fatal(err)
		}
		kill := func(namespace, fault string) error {
			_, err := client.For[*v1.ChaosExperiment](c.Client()).Create(t.Context(), &v1.ChaosExperiment{
				Metadata: &v1.ObjectMeta{Name: "x", Namespace: namespace},
				Spec:     &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: fault, DelayMilliseconds: map[string]int32{api.FaultNetworkDelay: 5}[fault]}, Selector: &v1.LabelSelector{}},
			})
			return err
		}
		for _, ns := range []string{"bank", api.NamespaceSystem} {
			if err := kill(ns, api.FaultKillPod); !errors.Is(err, api.ErrForbidden) || !strings.Contains(err.Error(), "is protected") {
				t.Errorf("%s: %v", ns, err)
			}
		}
		if err := kill("default", api.FaultNetworkDelay); !errors.Is(err, api.ErrInvalid) || !strings.Contains(err.Error(), "netem") {
			t.Errorf("delay: %v", err)
		}
	})
}
