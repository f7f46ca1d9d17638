package disruption

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func pod(name, owner string, ready bool) *v1.Pod {
	p := &v1.Pod{Metadata: &v1.ObjectMeta{Name: name}, Status: &v1.PodStatus{}}
	if owner != "" {
		p.Metadata.OwnerReferences = []*v1.OwnerReference{{Kind: "ReplicaSet", Name: owner, Uid: owner, Controller: proto.Bool(true)}}
	}
	if ready {
		p.Status.Conditions = []*v1.Condition{{Type: api.PodReady, Status: api.ConditionTrue}}
	}
	return p
}

func TestPlan(t *testing.T) {
	three := []*v1.Pod{pod("a", "rs", true), pod("b", "rs", true), pod("c", "rs", true)}
	going := pod("c", "rs", true)
	going.Metadata.DeletionTimestamp = timestamppb.New(now)
	four := map[string]Scale{"rs": {"rs", 4}}
	for name, tt := range map[string]struct {
		min, max                            string
		pods                                []*v1.Pod
		scales                              map[string]Scale
		disrupted                           time.Duration // ago, of pod a; 0: not
		allowed, healthy, desired, expected int32
		problem                             bool
		after                               time.Duration
	}{
		"a number that must be available":                       {min: "2", pods: three, allowed: 1, healthy: 3, desired: 2, expected: 3},
		"a share is of what the controller asks for":            {min: "50%", pods: three, scales: four, allowed: 1, healthy: 3, desired: 2, expected: 4},
		"a share is rounded up":                                 {min: "51%", pods: three, scales: four, healthy: 3, desired: 3, expected: 4},
		"what may be unavailable":                               {max: "2", pods: three, scales: four, allowed: 1, healthy: 3, desired: 2, expected: 4},
		"ReplicaSets of one Deployment are counted once":        {max: "1", pods: []*v1.Pod{pod("a", "old", true), pod("b", "new", true)}, scales: map[string]Scale{"old": {"d", 2}, "new": {"d", 2}}, allowed: 1, healthy: 2, desired: 1, expected: 2},
		"a pod that is not ready is not healthy":                {min: "2", pods: []*v1.Pod{three[0], three[1], pod("c", "rs", false)}, healthy: 2, desired: 2, expected: 3},
		"nor one that is going":                                 {min: "2", pods: []*v1.Pod{three[0], three[1], going}, healthy: 2, desired: 2, expected: 3},
		"nor one whose eviction was allowed":                    {min: "2", pods: three, disrupted: time.Minute, healthy: 2, desired: 2, expected: 3, after: time.Minute},
		"unless it has not happened for too long":               {min: "2", pods: three, disrupted: 2 * time.Minute, allowed: 1, healthy: 3, desired: 2, expected: 3},
		"without pods nothing is allowed":                       {max: "1"},
		"where the controller is not known, nothing is allowed": {max: "1", pods: three, healthy: 3, problem: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := &v1.PodDisruptionBudget{Metadata: &v1.ObjectMeta{Generation: 7}, Spec: &v1.PodDisruptionBudgetSpec{}}
			if tt.min != "" {
				b.Spec.MinAvailable = api.ParseIntOrString(tt.min)
			} else {
				b.Spec.MaxUnavailable = api.ParseIntOrString(tt.max)
			}
			if tt.disrupted > 0 {
				b.Status = &v1.PodDisruptionBudgetStatus{DisruptedPods: map[string]*timestamppb.Timestamp{"a": timestamppb.New(now.Add(-tt.disrupted)), "gone": timestamppb.New(now)}}
			}
			p := MakePlan(State{Budget: b, Pods: tt.pods, Scales: tt.scales, Now: now})
			s := p.Status
			if s.GetDisruptionsAllowed() != tt.allowed || s.GetCurrentHealthy() != tt.healthy || s.GetDesiredHealthy() != tt.desired || s.GetExpectedPods() != tt.expected ||
				s.GetObservedGeneration() != 7 || (p.Problem != nil) != tt.problem || p.After != tt.after {
				t.Errorf("%v, problem %v, after %v", s, p.Problem, p.After)
			}
			want := map[bool]string{true: "True SufficientPods ", false: "False InsufficientPods "}[tt.allowed > 0]
			if tt.problem {
				want = "False SyncFailed found no controllers for pod \"a\""
			}
			if c := s.GetConditions()[0]; len(s.GetConditions()) != 1 || c.GetType() != "DisruptionAllowed" || c.GetObservedGeneration() != 7 ||
				c.GetStatus()+" "+c.GetReason()+" "+c.GetMessage() != want || !c.GetLastTransitionTime().AsTime().Equal(now) {
				t.Errorf("%v, want %s", s.GetConditions(), want)
			}
			b.Status = s
			if again := MakePlan(State{Budget: b, Pods: tt.pods, Scales: tt.scales, Now: now.Add(time.Nanosecond)}); again.Status != nil {
				t.Errorf("the second plan writes again: %v", again.Status)
			}
		})
	}
}

// Whatever the pods: as many evictions as are allowed leave as many well as must be.
func TestWhatIsAllowedKeepsThePromise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pods []*v1.Pod
		for i := range rapid.IntRange(0, 8).Draw(t, "pods") {
			pods = append(pods, pod(string(rune('a'+i)), "rs", rapid.Bool().Draw(t, "ready")))
		}
		b := &v1.PodDisruptionBudget{Spec: &v1.PodDisruptionBudgetSpec{MinAvailable: api.ParseIntOrString(rapid.SampledFrom([]string{"0", "3", "30%", "100%"}).Draw(t, "min"))}}
		s := MakePlan(State{Budget: b, Pods: pods, Scales: map[string]Scale{"rs": {"rs", int32(len(pods))}}, Now: now}).Status
		if n := s.GetDisruptionsAllowed(); n > 0 && s.GetCurrentHealthy()-n < s.GetDesiredHealthy() {
			t.Fatal(s)
		}
	})
}
