package why_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// injected is an injection that lasted from second 10 to second 20.
func injected(f *v1.ChaosFault, podUID, node string) *v1.ChaosInjection {
	i := &v1.ChaosInjection{
		Metadata: &v1.ObjectMeta{Name: "x-1-1", Namespace: "default"},
		Spec:     &v1.ChaosInjectionSpec{Experiment: "x", Fault: f, Round: 1, NodeName: node, PodUid: podUID},
		Status:   &v1.ChaosInjectionStatus{Phase: api.ChaosHealed, InjectedAt: timestamppb.New(time.Unix(10, 0)), HealedAt: timestamppb.New(time.Unix(20, 0))},
	}
	if podUID != "" {
		i.Spec.PodName = "web"
	}
	return i
}

func TestAStoryNamesTheFaultsThatItsObjectSuffered(t *testing.T) {
	web := pod("web", func(p *v1.Pod) { p.Metadata.Uid, p.Spec = "u", &v1.PodSpec{NodeName: "n1"} })
	n1 := &v1.Node{Metadata: &v1.ObjectMeta{Name: "n1"}}
	agent := "system:node:n1"
	facts := func(o api.Object, actor string, second int64) []*v1.LogEntry {
		return []*v1.LogEntry{entry(1, o, 0, "admin", "Applied", "", 0), entry(second, o, 1, actor, "Seen", "it is seen", 0)}
	}
	late := func(actor string, second int64) []*v1.LogEntry {
		return []*v1.LogEntry{entry(9, web, 0, "admin", "Applied", "", 0), entry(second, web, 9, actor, "Done", "it is done", 9)}
	}
	const own, elsewhere = "is hit by chaosinjection/x-1-1: round 1 of chaosexperiment/x: ", "meanwhile round 1 of chaosexperiment/x: "
	tests := []struct {
		name    string
		fault   *v1.ChaosFault
		pod     string // uid
		node    string
		history []*v1.LogEntry
		want    string // "": nothing
	}{
		{"a pod that is cut off", &v1.ChaosFault{Type: api.FaultNetworkCut}, "u", "n1", facts(web, agent, 12), own + "NetworkCut of pod/web, for 10s"},
		{"a pod that the control plane deletes", &v1.ChaosFault{Type: api.FaultKillPod}, "u", "", facts(web, agent, 12), own + "KillPod of pod/web"},
		{"a pod of the same name that came later", &v1.ChaosFault{Type: api.FaultNetworkCut}, "v", "n1", facts(web, agent, 12), ""},
		{"a pod on a stopped node", &v1.ChaosFault{Type: api.FaultStopNode}, "", "n1", facts(web, agent, 25), own + "StopNode of node/n1, for 10s"},
		{"a pod on another node", &v1.ChaosFault{Type: api.FaultStopNode}, "", "n2", facts(web, agent, 12), ""},
		{"a node whose clock is wrong", &v1.ChaosFault{Type: api.FaultShiftClock}, "", "n1", facts(n1, agent, 12), own + "ShiftClock of node/n1, for 10s"},
		{"a node that only had a pod hit", &v1.ChaosFault{Type: api.FaultNetworkCut}, "u", "n1", facts(n1, agent, 12), ""},
		{"what came after it was hit, for good", &v1.ChaosFault{Type: api.FaultStopNode}, "", "n1", []*v1.LogEntry{entry(40, web, 0, "admin", "Applied", "", 0)}, ""},
		{"a fact that the API server hears of after its crash", &v1.ChaosFault{Type: api.FaultCrashAPIServer}, "", "", facts(web, agent, 22), elsewhere + "CrashAPIServer of apiserver"},
		{"a fact long after that", &v1.ChaosFault{Type: api.FaultCrashAPIServer}, "", "", facts(web, agent, 31), ""},
		{"a fact needs no watch", &v1.ChaosFault{Type: api.FaultDropWatches}, "", "", facts(web, agent, 15), ""},
		{"a decision that came late for dropped watches", &v1.ChaosFault{Type: api.FaultDropWatches}, "", "", late("default-scheduler", 21), elsewhere + "DropWatches of apiserver"},
		{"a decision after delayed ones", &v1.ChaosFault{Type: api.FaultDelayWatches, Actors: []string{"apiserver"}}, "", "", late("replicaset-controller", 15), elsewhere + "DelayWatches of apiserver"},
		{"a decision of another", &v1.ChaosFault{Type: api.FaultDelayWatches, Actors: []string{"apiserver"}}, "", "", late("default-scheduler", 15), ""},
		{"what a person does waits for no watch", &v1.ChaosFault{Type: api.FaultDropWatches}, "", "", late("admin", 15)[:1], ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := why.Log{}
			for _, e := range tt.history {
				log[e.GetRevision()] = e
			}
			log[100] = entry(100, injected(tt.fault, tt.pod, tt.node), 99, "who", "Healed", "", 0)
			x := why.Explain(why.KeyOf(tt.history[0]), tt.history, log, why.Options{})
			var got []string
			for _, s := range x.Steps {
				if strings.HasPrefix(s.Text, "is hit") {
					got = append(got, s.Text)
				}
				for c := &s; c != nil; c = c.Because {
					for _, m := range c.Meanwhile {
						got = append(got, "meanwhile "+m.Text)
					}
				}
			}
			if all := strings.Join(got, "\n"); (tt.want == "") != (all == "") || !strings.HasPrefix(all, tt.want) || len(got) > 1 {
				t.Errorf("got %q, want %q", all, tt.want)
			}
		})
	}
}

// A pod that was made anew because a node was silent: the silence is what the fault
// explains, so it stands there, at the end of the chain.
func TestAFaultElsewhereStandsWhereTheChainBegins(t *testing.T) {
	n1 := &v1.Node{Metadata: &v1.ObjectMeta{Name: "n1"}}
	log := why.Log{
		12: entry(12, n1, 5, "node-controller", "NodeNotReady", "no sign of life", api.TriggerClock),
		13: entry(13, pod("old", func(p *v1.Pod) { p.Spec = &v1.PodSpec{NodeName: "n1"} }), 4, "taint-eviction-controller", "TaintEviction", "n1 is unreachable", 12),
		14: entry(14, pod("new"), 0, "replicaset-controller", "SuccessfulCreate", "wanted 1, had 0", 13),
		99: entry(99, injected(&v1.ChaosFault{Type: api.FaultStopNode}, "", "n1"), 98, "system:node:n1", "Healed", "", 0),
	}
	x := why.Explain(why.Key{Kind: "Pod", Namespace: "default", Name: "new"}, []*v1.LogEntry{log[14]}, log, why.Options{})
	s := x.Steps[0]
	for ; s.Because != nil; s = *s.Because {
		if len(s.Meanwhile) != 0 {
			t.Errorf("%s: meanwhile %v", s.Text, s.Meanwhile)
		}
	}
	if len(s.Meanwhile) != 1 || s.Meanwhile[0].Object != "chaosinjection/x-1-1" {
		t.Errorf("%s: meanwhile %v", s.Text, s.Meanwhile)
	}
}

// What a chain names as a cause is no line of its own beside it.
func TestAFaultThatIsACauseIsToldOnce(t *testing.T) {
	web := pod("web", func(p *v1.Pod) { p.Metadata.Uid, p.Spec = "u", &v1.PodSpec{NodeName: "n1"} })
	kill := injected(&v1.ChaosFault{Type: api.FaultKillContainer}, "u", "n1")
	log := why.Log{
		8:  entry(8, kill, 0, "chaos-controller", "Injecting", "round 1", 0),
		9:  entry(9, kill, 8, "system:node:n1", "Healed", "", 8),
		11: entry(11, web, 0, "system:node:n1", "ContainerExited", "container app was killed", 8),
	}
	x := why.Explain(why.KeyOf(log[11]), []*v1.LogEntry{log[11]}, log, why.Options{})
	if len(x.Steps) != 1 || x.Steps[0].Because == nil || x.Steps[0].Because.Object != "chaosinjection/x-1-1" {
		t.Errorf("steps %+v", x.Steps)
	}
}
