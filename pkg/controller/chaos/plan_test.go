package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pods(n int) (all []*v1.Pod) {
	for i := range n {
		all = append(all, &v1.Pod{
			Metadata: &v1.ObjectMeta{Name: fmt.Sprintf("web-%d", i), Namespace: "default", Uid: fmt.Sprint("u", i), Labels: map[string]string{"app": "web"}, CreationTimestamp: timestamppb.New(begin)},
			Spec:     &v1.PodSpec{NodeName: "n"}, Status: &v1.PodStatus{Phase: api.PodRunning},
		})
	}
	return all
}

func node(faults string) *v1.Node {
	return &v1.Node{
		Metadata: &v1.ObjectMeta{Name: "n", Annotations: map[string]string{api.AnnotationChaosFaults: faults}},
		Status:   &v1.NodeStatus{Conditions: []*v1.Condition{{Type: api.NodeReady, Status: api.ConditionTrue}}},
	}
}

func experiment(change func(*v1.ChaosExperiment)) *v1.ChaosExperiment {
	x := &v1.ChaosExperiment{
		Metadata: &v1.ObjectMeta{Name: "x", Namespace: "default", Uid: "x", ResourceVersion: 7},
		Spec: &v1.ChaosExperimentSpec{
			Fault:    &v1.ChaosFault{Type: api.FaultPauseContainer},
			Selector: &v1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Seed: 3, EverySeconds: 10, DurationSeconds: 30, FaultSeconds: 5,
		},
	}
	api.Default(x)
	if change != nil {
		change(x)
	}
	return x
}

// since is an experiment that has run for so many seconds and made rounds.
func since(seconds int, rounds int32, change func(*v1.ChaosExperiment)) *v1.ChaosExperiment {
	return experiment(func(x *v1.ChaosExperiment) {
		x.Status = &v1.ChaosExperimentStatus{Phase: api.ChaosRunning, Rounds: rounds, Injections: rounds, StartTime: timestamppb.New(begin.Add(-time.Duration(seconds) * time.Second))}
		if change != nil {
			change(x)
		}
	})
}

// broken is an injection of a round whose time ends in so many seconds.
func broken(name string, left int, heal bool) *v1.ChaosInjection {
	return &v1.ChaosInjection{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:     &v1.ChaosInjectionSpec{PodName: "web-0", PodUid: "u0", Round: 1, Heal: heal, Until: timestamppb.New(begin.Add(time.Duration(left) * time.Second))},
		Status:   &v1.ChaosInjectionStatus{Phase: api.ChaosInjected},
	}
}

// failed is an injection that hit nothing.
func failed(name string) *v1.ChaosInjection {
	i := broken(name, 0, false)
	i.Status.Phase, i.Status.Message = api.ChaosFailed, "no container is named nope"
	return i
}

func hitBefore(seconds int, i *v1.ChaosInjection) *v1.ChaosInjection {
	i.Status.InjectedAt = timestamppb.New(begin.Add(-time.Duration(seconds) * time.Second))
	return i
}

func TestPlan(t *testing.T) {
	stopped := func(x *v1.ChaosExperiment) { x.Spec.Stop = true }
	for name, tt := range map[string]struct {
		x          *v1.ChaosExperiment
		injections []*v1.ChaosInjection
		pods       int
		unsteady   string

		create, heal []string
		phase        string
		message      string
		after        time.Duration
	}{
		"a new one begins with its first round":             {x: experiment(nil), pods: 1, create: []string{"x-1-1"}, phase: "Running", message: "round 1: PauseContainer of pod/web-0", after: 10 * time.Second},
		"between rounds nothing happens":                    {x: since(4, 1, nil), pods: 3, phase: "Running", after: 6 * time.Second},
		"a round is made when it is time":                   {x: since(10, 1, nil), pods: 1, create: []string{"x-2-1"}, phase: "Running", message: "round 2:", after: 10 * time.Second},
		"rounds that were missed are not made up":           {x: since(25, 1, nil), pods: 1, create: []string{"x-3-1"}, phase: "Running", message: "round 3:", after: 5 * time.Second},
		"what is still broken is not hit again":             {x: since(10, 1, nil), pods: 1, injections: []*v1.ChaosInjection{broken("x-1-1", 3, false)}, phase: "Running", message: "round 2: nothing that may be hit", after: 10 * time.Second},
		"one round of nobody fails":                         {x: experiment(func(x *v1.ChaosExperiment) { x.Spec.EverySeconds = 0 }), phase: "Failed", message: "nothing that may be hit"},
		"a round that crashed the server is not made again": {x: experiment(func(x *v1.ChaosExperiment) { x.Spec.EverySeconds = 0 }), pods: 1, injections: []*v1.ChaosInjection{broken("x-1-1", 3, false)}, phase: "Running", message: "round 1: PauseContainer of pod/web-0", after: 30 * time.Second},
		"one that crashed the server at once began then":    {x: experiment(func(x *v1.ChaosExperiment) { x.Spec.EverySeconds = 0 }), pods: 1, injections: []*v1.ChaosInjection{hitBefore(4, broken("x-1-1", 3, false))}, phase: "Running", message: "round 1: PauseContainer of pod/web-0", after: 26 * time.Second},
		"all are all":                              {x: experiment(func(x *v1.ChaosExperiment) { x.Spec.Mode = api.ChaosAll }), pods: 3, create: []string{"x-1-1", "x-1-2", "x-1-3"}, phase: "Running", after: 10 * time.Second},
		"half of three are two":                    {x: experiment(func(x *v1.ChaosExperiment) { x.Spec.Mode, x.Spec.Value = api.ChaosFixedPercent, 50 }), pods: 3, create: []string{"x-1-1", "x-1-2"}, phase: "Running", after: 10 * time.Second},
		"at its end it heals":                      {x: since(30, 3, nil), pods: 1, injections: []*v1.ChaosInjection{broken("x-3-1", 0, false)}, heal: []string{"x-3-1"}, phase: "Running", message: "3 rounds in 30s; waiting for 1 injection to heal", after: 10 * time.Second},
		"it is over when all is healed":            {x: since(31, 3, nil), pods: 1, phase: "Completed", message: "3 rounds in 30s"},
		"one that could hit nothing fails":         {x: since(31, 3, func(x *v1.ChaosExperiment) { x.Status.Injections = 0 }), phase: "Failed", message: "nothing that may be hit was there, in 3 rounds in 30s"},
		"so does one whose faults all failed":      {x: since(31, 2, nil), injections: []*v1.ChaosInjection{failed("x-1-1"), failed("x-2-1")}, phase: "Failed", message: "no container is named nope, in 2 rounds in 30s"},
		"one of which only some failed does not":   {x: since(31, 2, nil), injections: []*v1.ChaosInjection{failed("x-1-1")}, phase: "Completed"},
		"it does not wait for ever":                {x: since(41, 3, nil), pods: 1, injections: []*v1.ChaosInjection{broken("x-3-1", -10, true)}, phase: "Completed"},
		"who stops it heals it":                    {x: since(12, 2, stopped), pods: 1, injections: []*v1.ChaosInjection{broken("x-2-1", 3, false)}, heal: []string{"x-2-1"}, phase: "Running", message: "somebody stopped it; waiting", after: 13 * time.Second},
		"what was stopped before it began is over": {x: experiment(stopped), pods: 1, phase: "Stopped", message: "somebody stopped it"},
		"a violated steady state ends it":          {x: since(12, 2, nil), pods: 1, unsteady: "1 of 2", phase: "Stopped", message: "steady state violated: 1 of 2"},
		"without a steady state it does not begin": {x: experiment(nil), pods: 1, unsteady: "1 of 2", phase: "Failed", message: "not begun: 1 of 2"},
		"a new one waits a little for its mirrors": {x: experiment(func(x *v1.ChaosExperiment) {
			x.Metadata.CreationTimestamp = timestamppb.New(begin.Add(-time.Second))
		}), pods: 1, unsteady: "1 of 2", after: 200 * time.Millisecond},
		"deletion heals":        {x: since(2, 1, func(x *v1.ChaosExperiment) { x.Metadata.DeletionTimestamp = timestamppb.New(begin) }), injections: []*v1.ChaosInjection{broken("x-1-1", 3, false)}, heal: []string{"x-1-1"}, phase: "Running", message: "it is being deleted; waiting", after: 13 * time.Second},
		"what is over stays so": {x: since(99, 3, func(x *v1.ChaosExperiment) { x.Status.Phase = api.ChaosCompleted }), pods: 1, phase: "Completed"},
	} {
		t.Run(name, func(t *testing.T) {
			plan := MakePlan(State{Experiment: tt.x, Injections: tt.injections, Pods: pods(tt.pods), Nodes: []*v1.Node{node(api.FaultPauseContainer)}, Unsteady: tt.unsteady, Now: begin})
			status := plan.Status
			if status == nil {
				status = tt.x.GetStatus()
			}
			if status.GetPhase() != tt.phase || !strings.HasPrefix(status.GetMessage(), tt.message) {
				t.Errorf("%s %q, want %s %q", status.GetPhase(), status.GetMessage(), tt.phase, tt.message)
			}
			if got := names(plan.Create); !slices.Equal(got, tt.create) {
				t.Errorf("creates %v, want %v", got, tt.create)
			}
			if got := names(plan.Heal); !slices.Equal(got, tt.heal) {
				t.Errorf("heals %v, want %v", got, tt.heal)
			}
			if plan.After != tt.after {
				t.Errorf("after %v, want %v", plan.After, tt.after)
			}
		})
	}
}

func names(injections []*v1.ChaosInjection) (all []string) {
	for _, i := range injections {
		all = append(all, i.GetMetadata().GetName())
	}
	return all
}

func TestWhatIsProtectedOrCannotBeHitIsNoCandidate(t *testing.T) {
	all := pods(7)
	all[0].Metadata.Labels[api.LabelChaosProtected] = "true"
	all[1].Metadata.Labels["app"] = "other"
	all[2].Status.Phase = api.PodPending
	all[3].Metadata.DeletionTimestamp = timestamppb.New(begin)
	all[4].Spec.NodeName = "protected"
	all[5].Spec.NodeName = "unable"
	shielded, unable := node(api.FaultPauseContainer), node(api.FaultKillContainer)
	shielded.Metadata.Name, unable.Metadata.Name = "protected", "unable"
	shielded.Metadata.Labels = map[string]string{api.LabelChaosProtected: "true"}
	nodes := []*v1.Node{node(api.FaultPauseContainer), shielded, unable}
	got := Candidates(experiment(nil).GetSpec(), all, nodes)
	if len(got) != 1 || nameOf(got[0].Pod) != "web-6" {
		t.Errorf("%v", got)
	}
	if got := Candidates(&v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: api.FaultCrashAgent}, NodeSelector: &v1.LabelSelector{}}, nil, nodes); len(got) != 0 {
		t.Errorf("nodes that cannot crash: %v", got)
	}
}

func TestTheSameSeedMakesTheSameChoices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &v1.ChaosExperimentSpec{
			Seed:  rapid.Int64Range(1, 1<<31).Draw(t, "seed"),
			Mode:  rapid.SampledFrom([]string{api.ChaosOne, api.ChaosAll, api.ChaosFixed, api.ChaosFixedPercent}).Draw(t, "mode"),
			Value: rapid.Int32Range(1, 100).Draw(t, "value"),
		}
		n, round := rapid.IntRange(0, 20).Draw(t, "n"), rapid.Int32Range(1, 1000).Draw(t, "round")
		a, b := Choose(s, round, n), Choose(s, round, n)
		if !slices.Equal(a, b) {
			t.Fatalf("%v, then %v", a, b)
		}
		slices.Sort(a)
		if len(slices.Compact(a)) != len(b) || len(b) > n || n > 0 && len(b) == 0 || len(b) > 0 && (a[0] < 0 || a[len(a)-1] >= n) {
			t.Fatalf("%v of %d", b, n)
		}
	})
}

// Whatever comes in which order, an experiment ends by its time, and healed.
func TestAnExperimentAlwaysEndsHealed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := experiment(func(x *v1.ChaosExperiment) {
			x.Spec.EverySeconds = rapid.Int32Range(0, 12).Draw(t, "every")
			x.Spec.FaultSeconds = rapid.Int32Range(0, max(1, x.Spec.EverySeconds)).Draw(t, "fault")
			x.Spec.Mode = rapid.SampledFrom([]string{api.ChaosOne, api.ChaosAll}).Draw(t, "mode")
		})
		var injections []*v1.ChaosInjection
		all := pods(rapid.IntRange(0, 4).Draw(t, "pods"))
		now := begin
		for step := 0; !IsOver(x); step++ {
			if step > 500 {
				t.Fatalf("no end: %v", x.GetStatus())
			}
			plan := MakePlan(State{Experiment: x, Injections: injections, Pods: all, Nodes: []*v1.Node{node(api.FaultPauseContainer)}, Now: now})
			for _, i := range plan.Create {
				if slices.Contains(names(injections), nameOf(i)) {
					t.Fatalf("%s is made twice", nameOf(i))
				}
				if until := i.GetSpec().GetUntil().AsTime(); until.After(begin.Add(30 * time.Second)) {
					t.Fatalf("%s lasts until %v", nameOf(i), until)
				}
				i.Status = &v1.ChaosInjectionStatus{Phase: api.ChaosInjected}
				injections = append(injections, i)
			}
			for _, i := range plan.Heal {
				i.Spec.Heal = true
			}
			// An agent that lives heals what it is told to; another by its time.
			lives := rapid.Bool().Draw(t, "the agent lives")
			for _, i := range injections {
				if lives && (i.GetSpec().GetHeal() || !now.Before(i.GetSpec().GetUntil().AsTime())) {
					i.Status.Phase = api.ChaosHealed
				}
			}
			if plan.Status != nil {
				x = api.Clone(x)
				x.Status = plan.Status
			}
			if rapid.IntRange(0, 20).Draw(t, "stop") == 0 {
				x = api.Clone(x)
				x.Spec.Stop = true
			}
			now = now.Add(time.Duration(rapid.IntRange(100, 4000).Draw(t, "later")) * time.Millisecond)
		}
		for _, i := range injections {
			if !api.IsInjectionOver(i) && now.Before(i.GetSpec().GetUntil().AsTime()) {
				t.Fatalf("it is over, and %s is broken until %v; now %v", nameOf(i), i.GetSpec().GetUntil().AsTime(), now)
			}
		}
	})
}

func TestARoundThatHitNobodyIsNone(t *testing.T) {
	plan := MakePlan(State{Experiment: experiment(func(x *v1.ChaosExperiment) { x.Spec.EverySeconds = 0 }), Now: begin})
	if s := plan.Status; s.GetPhase() != api.ChaosFailed || s.GetRounds() != 0 {
		t.Errorf("%v", s)
	}
}
