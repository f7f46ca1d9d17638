package node

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// node has the condition Ready with this status, and a heartbeat by a clock that
// is years off.
func node(ready string) *v1.Node {
	n := &v1.Node{Metadata: &v1.ObjectMeta{Name: "n"}, Status: &v1.NodeStatus{}}
	if ready != "" {
		n.Status.Conditions = []*v1.Condition{
			{Type: api.NodeReady, Status: ready, LastHeartbeatTime: timestamppb.New(now.AddDate(-5, 0, 0))},
			{Type: api.NodeMemoryPressure, Status: api.ConditionFalse},
		}
	}
	return n
}

func pod(ready string) *v1.Pod {
	return &v1.Pod{Metadata: &v1.ObjectMeta{Name: "p"}, Status: &v1.PodStatus{Conditions: []*v1.Condition{{Type: api.PodReady, Status: ready}}}}
}

func TestTaintsAreWrittenWhereTheyAreMissing(t *testing.T) {
	s := State{Node: node("False"), Since: now, Now: now, Grace: time.Minute}
	p := MakePlan(s)
	if got := names(p.Spec.GetTaints()); got != "node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute" {
		t.Fatalf("taints %v", got)
	}
	s.Node.Spec = p.Spec
	if p = MakePlan(s); p.Spec != nil {
		t.Errorf("taints that are there are written again: %v", p.Spec)
	}
	s.Node.Status.Conditions[0].Status = api.ConditionTrue
	if p = MakePlan(s); p.Spec == nil || len(p.Spec.Taints) > 0 {
		t.Errorf("taints of a node that has recovered: %v", p.Spec)
	}
}

func names(taints []*v1.Taint) string {
	all := make([]string, len(taints))
	for i, t := range taints {
		all[i] = api.FormatTaint(t)
	}
	return strings.Join(all, " ")
}

func TestHowLongAPodStays(t *testing.T) {
	tolerate := func(seconds *int64) *v1.Toleration {
		return &v1.Toleration{Key: "a", Operator: api.TolerationExists, TolerationSeconds: seconds, Effect: api.EffectNoExecute}
	}
	for name, tt := range map[string]struct {
		tolerations []*v1.Toleration
		effect      string
		added       time.Duration // ago
		bound       time.Duration // ago
		first       time.Duration // ago
		evicted     bool
		after       time.Duration
	}{
		"without a toleration it goes at once":                 {effect: api.EffectNoExecute, evicted: true},
		"other effects end nothing":                            {effect: api.EffectNoSchedule},
		"tolerated without a time, it stays":                   {tolerations: []*v1.Toleration{tolerate(nil)}, effect: api.EffectNoExecute, added: time.Hour, bound: time.Hour, first: time.Hour},
		"tolerated for a time, it stays for the rest of it":    {tolerations: []*v1.Toleration{tolerate(proto.Int64(30))}, effect: api.EffectNoExecute, added: 10 * time.Second, bound: time.Hour, first: time.Hour, after: 20 * time.Second},
		"and then goes":                                        {tolerations: []*v1.Toleration{tolerate(proto.Int64(30))}, effect: api.EffectNoExecute, added: 30 * time.Second, bound: time.Hour, first: time.Hour, evicted: true},
		"the time of a pod that came later begins later":       {tolerations: []*v1.Toleration{tolerate(proto.Int64(30))}, effect: api.EffectNoExecute, added: time.Hour, bound: time.Second, first: time.Hour, after: 29 * time.Second},
		"what happened while nobody looked does not count":     {tolerations: []*v1.Toleration{tolerate(proto.Int64(30))}, effect: api.EffectNoExecute, added: time.Hour, bound: time.Hour, first: 5 * time.Second, after: 25 * time.Second},
		"a toleration for no time is none":                     {tolerations: []*v1.Toleration{tolerate(proto.Int64(-1))}, effect: api.EffectNoExecute, first: time.Second, evicted: true},
		"of two tolerations that match, the first one decides": {tolerations: []*v1.Toleration{tolerate(nil), tolerate(proto.Int64(1))}, effect: api.EffectNoExecute, added: time.Hour, bound: time.Hour, first: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			n := node("True")
			n.Spec = &v1.NodeSpec{Taints: []*v1.Taint{{Key: "a", Effect: tt.effect, TimeAdded: timestamppb.New(now.Add(-tt.added))}}}
			p := pod("True")
			p.Spec = &v1.PodSpec{Tolerations: tt.tolerations}
			p.Status.Conditions = append(p.Status.Conditions, &v1.Condition{Type: api.PodScheduled, LastTransitionTime: timestamppb.New(now.Add(-tt.bound))})
			plan := MakePlan(State{Node: n, Pods: []*v1.Pod{p}, Since: now, First: now.Add(-tt.first), Now: now, Grace: time.Hour})
			after := tt.after
			if after == 0 {
				after = time.Hour
			}
			if (len(plan.Evict) == 1) != tt.evicted || plan.After != after {
				t.Errorf("evicts %v, after %v", plan.Evict, plan.After)
			}
		})
	}
}

// Whatever the states, taints and times: while most nodes are lost, nothing
// is evicted for the sake of a lost node, and taints that would do it are taken
// away; and a plan that was carried out plans no more taints.
func TestNothingIsEvictedWhenMostNodesAreLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*v1.Node
		for range rapid.IntRange(1, 9).Draw(t, "nodes") {
			n := node(rapid.SampledFrom([]string{"True", "False", "Unknown", ""}).Draw(t, "ready"))
			n.Spec = &v1.NodeSpec{}
			for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{api.TaintNotReady, api.TaintUnreachable}), 0, 2, rapid.ID[string]).Draw(t, "taints") {
				n.Spec.Taints = append(n.Spec.Taints, &v1.Taint{Key: key, Effect: api.EffectNoExecute, TimeAdded: timestamppb.New(now.Add(-time.Hour))})
			}
			nodes = append(nodes, n)
		}
		lost := CutOff(nodes, func(string) bool { return false })
		for _, n := range nodes {
			p := pod("True")
			p.Spec = &v1.PodSpec{}
			if rapid.Bool().Draw(t, "default tolerations") {
				api.TolerateNodeFailures(p.Spec, 30, 1)
			}
			s := State{Node: n, Pods: []*v1.Pod{p}, Since: now, First: now.Add(-time.Hour), Now: now, Grace: time.Minute, CutOff: lost}
			plan := MakePlan(s)
			if lost && len(plan.Evict) > 0 || api.IsNodeReady(n) && len(plan.Evict) > 0 {
				t.Fatalf("evicts %v", plan.Evict)
			}
			if plan.Spec != nil {
				s.Node = &v1.Node{Metadata: n.Metadata, Spec: plan.Spec, Status: n.Status}
			}
			if again := MakePlan(s); again.Spec != nil || len(again.Evict) < len(plan.Evict) {
				t.Fatalf("once more, %v and %v", again.Spec, again.Evict)
			}
		}
	})
}

// Whatever the others say of whom, and whoever was silent for how long: a ready
// node that says in time that it lives stays ready and keeps its pods; what the
// others say alone does nothing; and a silence alone does nothing before the
// grace period is over.
func TestNobodyIsCondemnedByOneWitness(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		second := rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.IntRange(0, 90_000).Draw(t, "ms")) * time.Millisecond
		})
		p := pod("True")
		p.Spec = &v1.PodSpec{}
		if rapid.Bool().Draw(t, "tolerates") {
			api.TolerateNodeFailures(p.Spec, 30, 1)
		}
		silent := second.Draw(t, "silent for")
		s := State{
			Node: node("True"), Pods: []*v1.Pod{p}, Now: now, Since: now.Add(-silent), First: now.Add(-time.Hour),
			Grace: second.Draw(t, "grace"), LeaseGrace: second.Draw(t, "grace of the lease"),
			Dead: rapid.Bool().Draw(t, "dead"), CutOff: rapid.Bool().Draw(t, "cut off"),
		}
		plan := MakePlan(s)
		late := silent >= s.Grace || s.Dead && silent >= s.LeaseGrace
		if lost := plan.Status != nil; lost != late {
			t.Fatalf("%+v: called silent: %v", s, lost)
		}
		if len(plan.Evict) > 0 || len(plan.Unready) > 0 && !late {
			t.Fatalf("%+v: evicts %v, unready %v", s, plan.Evict, plan.Unready)
		}
		if !late && (plan.After <= 0 || plan.After > s.Grace-silent) {
			t.Fatalf("%+v: looks again after %v", s, plan.After)
		}
	})
}

func TestThoseWhoAreLateCountAsLost(t *testing.T) {
	nodes := []*v1.Node{node("True"), node("True"), node("True"), node("")}
	for i, n := range nodes {
		n.Metadata.Name = string(rune('a' + i))
	}
	for late, want := range map[string]bool{"": false, "a": false, "ab": false, "abc": true} {
		if got := CutOff(nodes, func(name string) bool { return strings.Contains(late, name) }); got != want {
			t.Errorf("with %q late: %v", late, got)
		}
	}
}

func TestMostNodes(t *testing.T) {
	for _, tt := range []struct {
		nodes, lost int
		want        bool
	}{{0, 0, false}, {1, 0, false}, {1, 1, true}, {2, 1, false}, {3, 2, false}, {3, 3, true}, {4, 3, true}, {5, 2, false}, {5, 3, true}, {6, 3, false}} {
		nodes := make([]*v1.Node, tt.nodes)
		for i := range nodes {
			nodes[i] = node("True")
			if i < tt.lost {
				nodes[i] = node("Unknown")
			}
		}
		if CutOff(nodes, func(string) bool { return false }) != tt.want {
			t.Errorf("%d of %d lost: %v", tt.lost, tt.nodes, !tt.want)
		}
	}
}

func TestPlan(t *testing.T) {
	for name, tt := range map[string]struct {
		node    *v1.Node
		pods    []*v1.Pod
		ago     time.Duration // since the last sign of life
		dead    bool          // so the others think
		reason  string        // of Ready after the plan; "": as it is
		unready int
		orphans int
		after   time.Duration
	}{
		"a heartbeat that changed lately is a heartbeat, whatever time it names": {
			node: node("True"), pods: []*v1.Pod{pod("True")}, ago: 39 * time.Second, after: time.Second,
		},
		"without one for the grace period, nothing is known of the node, and its pods are not ready": {
			node: node("True"), pods: []*v1.Pod{pod("True"), pod("False")}, ago: 40 * time.Second, reason: "NodeStatusUnknown", unready: 1,
		},
		"one that the others think dead is believed to live as long as its lease is not late": {
			node: node("True"), pods: []*v1.Pod{pod("True")}, ago: 2 * time.Second, dead: true, after: time.Second,
		},
		"when it is late too, nothing is known of the node": {
			node: node("True"), pods: []*v1.Pod{pod("True")}, ago: 3 * time.Second, dead: true, reason: "NodeStatusUnknown", unready: 1,
		},
		"a lease that is late alone is no reason": {
			node: node("True"), pods: []*v1.Pod{pod("True")}, ago: 39 * time.Second, after: time.Second,
		},
		"pods without a node are not ended sooner because somebody thinks it dead": {
			pods: []*v1.Pod{pod("True")}, ago: 10 * time.Second, dead: true, after: 30 * time.Second,
		},
		"a node that is called silent is not called so again": {
			node: func() *v1.Node { n := node("Unknown"); n.Status.Conditions[1].Status = "Unknown"; return n }(), ago: time.Hour,
		},
		"pods of a silent node that say they are ready are corrected": {
			node: node("Unknown"), pods: []*v1.Pod{pod("True")}, ago: time.Second, unready: 1, after: 39 * time.Second,
		},
		"a node that never spoke": {
			node: node(""), ago: time.Minute, reason: "NodeStatusNeverUpdated",
		},
		"a node that says it is not ready keeps its pods as they are": {
			node: node("False"), pods: []*v1.Pod{pod("True")}, ago: time.Second, after: 39 * time.Second,
		},
		"no node and no pods": {},
		"pods without a node wait for one": {
			pods: []*v1.Pod{pod("True")}, ago: 10 * time.Second, after: 30 * time.Second,
		},
		"pods without a node end after that": {
			pods: []*v1.Pod{pod("True"), pod("False")}, ago: 40 * time.Second, orphans: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := MakePlan(State{
				Node: tt.node, Pods: tt.pods, Since: now.Add(-tt.ago), Now: now,
				Grace: 40 * time.Second, LeaseGrace: 3 * time.Second, Dead: tt.dead,
			})
			reason := api.GetCondition(p.Status.GetConditions(), api.NodeReady).GetReason()
			if reason != tt.reason || len(p.Unready) != tt.unready || len(p.Orphans) != tt.orphans || p.After != tt.after {
				t.Errorf("reason %q, %d unready, %d orphans, after %v; want %q, %d, %d, %v",
					reason, len(p.Unready), len(p.Orphans), p.After, tt.reason, tt.unready, tt.orphans, tt.after)
			}
			for _, p := range p.Unready {
				if api.IsPodReady(p) {
					t.Error("a pod of a silent node is still said to be ready")
				}
			}
		})
	}
}
