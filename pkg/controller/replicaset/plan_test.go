package replicaset

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// set is a ReplicaSet that wants n pods.
func set(n, minReadySeconds int32) *v1.ReplicaSet {
	labels := map[string]string{"app": "web"}
	return &v1.ReplicaSet{
		Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default", Uid: "set-uid", Generation: 3},
		Spec: &v1.ReplicaSetSpec{
			Replicas: &n, MinReadySeconds: minReadySeconds,
			Selector: &v1.LabelSelector{MatchLabels: labels},
			Template: &v1.PodTemplateSpec{Metadata: &v1.ObjectMeta{Labels: labels}, Spec: &v1.PodSpec{}},
		},
	}
}

// pod is one that has run and been ready for an hour on node "n1", changed by
// what follows.
func pod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		Metadata: &v1.ObjectMeta{
			Name: name, Namespace: "default", Uid: name, Labels: map[string]string{"app": "web"},
			CreationTimestamp: timestamppb.New(now.Add(-time.Hour)),
		},
		Spec:   &v1.PodSpec{NodeName: "n1"},
		Status: &v1.PodStatus{Phase: api.PodRunning, Conditions: []*v1.Condition{{Type: api.PodReady, Status: "True", LastTransitionTime: timestamppb.New(now.Add(-time.Hour))}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func onNode(n string) func(*v1.Pod)   { return func(p *v1.Pod) { p.Spec.NodeName = n } }
func inPhase(ph string) func(*v1.Pod) { return func(p *v1.Pod) { p.Status.Phase = ph } }
func notReady(p *v1.Pod)              { p.Status.Conditions[0].Status = "False" }
func deleted(p *v1.Pod)               { p.Metadata.DeletionTimestamp = timestamppb.New(now) }
func withCost(c string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Metadata.Annotations = map[string]string{api.AnnotationPodDeletionCost: c} }
}

func restarted(n int32) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Status.ContainerStatuses = []*v1.ContainerStatus{{RestartCount: n}} }
}
func unlabeled(p *v1.Pod) { p.Metadata.Labels = nil }

func readyFor(d time.Duration) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Status.Conditions[0].LastTransitionTime = timestamppb.New(now.Add(-d)) }
}

func aged(d time.Duration) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Metadata.CreationTimestamp = timestamppb.New(now.Add(-d)) }
}

func TestPlan(t *testing.T) {
	for name, tt := range map[string]struct {
		set    *v1.ReplicaSet
		pods   []*v1.Pod
		create int
		delete string // names
		status *v1.ReplicaSetStatus
		after  time.Duration
	}{
		"missing pods are made": {
			set: set(3, 0), pods: []*v1.Pod{pod("a")}, create: 2,
			status: &v1.ReplicaSetStatus{Replicas: 1, FullyLabeledReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1},
		},
		"the right number is left alone": {
			set: set(1, 0), pods: []*v1.Pod{pod("a")},
			status: &v1.ReplicaSetStatus{Replicas: 1, FullyLabeledReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1},
		},
		"of too many the one that is missed least goes": {
			set: set(1, 0), pods: []*v1.Pod{pod("a"), pod("b", notReady)}, delete: "b",
			status: &v1.ReplicaSetStatus{Replicas: 2, FullyLabeledReplicas: 2, ReadyReplicas: 1, AvailableReplicas: 1},
		},
		"ended pods are replaced and stay": {
			set: set(2, 0), pods: []*v1.Pod{pod("a", inPhase(api.PodFailed)), pod("b", inPhase(api.PodSucceeded))}, create: 2,
			status: &v1.ReplicaSetStatus{},
		},
		"a pod that is being deleted is replaced at once": {
			set: set(1, 0), pods: []*v1.Pod{pod("a", deleted)}, create: 1,
			status: &v1.ReplicaSetStatus{},
		},
		"a set that is being deleted makes and deletes nothing": {
			set:    func() *v1.ReplicaSet { s := set(3, 0); s.Metadata.DeletionTimestamp = timestamppb.New(now); return s }(),
			pods:   []*v1.Pod{pod("a")},
			status: &v1.ReplicaSetStatus{Replicas: 1, FullyLabeledReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1},
		},
		"a ready pod is available only after minReadySeconds, when the set is looked at again": {
			set: set(2, 60), pods: []*v1.Pod{pod("a", readyFor(20*time.Second)), pod("b", readyFor(50*time.Second))},
			status: &v1.ReplicaSetStatus{Replicas: 2, FullyLabeledReplicas: 2, ReadyReplicas: 2}, after: 10 * time.Second,
		},
		"a pod without the template's labels is counted but not as fully labeled": {
			set: set(1, 0), pods: []*v1.Pod{pod("a", unlabeled)},
			status: &v1.ReplicaSetStatus{Replicas: 1, ReadyReplicas: 1, AvailableReplicas: 1},
		},
		"no more than 500 are made at a time": {
			set: set(2000, 0), create: 500, status: &v1.ReplicaSetStatus{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			plan := MakePlan(State{Set: tt.set, Pods: tt.pods, Siblings: tt.pods, Now: now})
			if plan.Create != tt.create || names(plan.Delete) != tt.delete || plan.After != tt.after {
				t.Errorf("create %d, delete %q, after %v; want %d, %q, %v", plan.Create, names(plan.Delete), plan.After, tt.create, tt.delete, tt.after)
			}
			tt.status.ObservedGeneration = 3
			if d := cmp.Diff(tt.status, plan.Status, protocmp.Transform()); d != "" {
				t.Errorf("status (-want +got):\n%s", d)
			}
		})
	}
}

func names(pods []*v1.Pod) string {
	all := make([]string, len(pods))
	for i, p := range pods {
		all[i] = p.GetMetadata().GetName()
	}
	return strings.Join(all, " ")
}

func TestRank(t *testing.T) {
	for name, tt := range map[string]struct {
		first, second *v1.Pod
		siblings      []*v1.Pod
	}{
		"without a node before with one, even if that one is not ready": {
			first: pod("z", onNode(""), inPhase(api.PodPending)), second: pod("a", notReady),
		},
		"pending before running": {
			first: pod("z", inPhase(api.PodPending)), second: pod("a", notReady),
		},
		"pending before unknown": {
			first: pod("z", inPhase(api.PodPending)), second: pod("a", inPhase(api.PodUnknown)),
		},
		"unknown before running": {
			first: pod("z", inPhase(api.PodUnknown)), second: pod("a", notReady),
		},
		"not ready before ready, whatever the cost": {
			first: pod("z", notReady, withCost("100")), second: pod("a"),
		},
		"cheaper before dearer": {
			first: pod("z", withCost("-5"), onNode("n2")), second: pod("a"),
		},
		"a cost that is no number counts as none": {
			first: pod("a", withCost("much")), second: pod("z"),
		},
		"on the fuller node before alone": {
			first: pod("z", onNode("n2")), second: pod("a", readyFor(time.Second)),
			siblings: []*v1.Pod{pod("1", onNode("n2")), pod("2", onNode("n2")), pod("3")},
		},
		"siblings that are going do not fill a node": {
			first: pod("a"), second: pod("z", onNode("n2")),
			siblings: []*v1.Pod{pod("1"), pod("2", onNode("n2"), deleted), pod("3", onNode("n2"), deleted)},
		},
		"ready for a shorter time before longer": {
			first: pod("z", readyFor(time.Minute)), second: pod("a", restarted(9)),
		},
		"ready for about as long: the uid decides": {
			first: pod("a", readyFor(61*time.Minute)), second: pod("z", readyFor(60*time.Minute), restarted(9)),
		},
		"more restarts before fewer": {
			first: pod("z", restarted(3)), second: pod("a", aged(time.Minute)),
		},
		"younger before older": {
			first: pod("z", aged(time.Minute)), second: pod("a"),
		},
		"all else equal, the uid decides": {
			first: pod("a"), second: pod("z"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := names([]*v1.Pod{tt.first, tt.second})
			for _, pods := range [][]*v1.Pod{{tt.first, tt.second}, {tt.second, tt.first}} {
				if got := names(rank(pods, tt.siblings, now)); got != want {
					t.Errorf("order: %s, want %s", got, want)
				}
			}
		})
	}
}

// Whatever the pods, a plan brings the set to its size, and never deletes a
// ready pod while one that is not ready stays.
func TestPlanReachesTheSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.Int32Range(0, 20).Draw(t, "want")
		var pods []*v1.Pod
		for i := range rapid.IntRange(0, 20).Draw(t, "have") {
			p := pod(fmt.Sprint(i))
			for _, f := range []func(*v1.Pod){notReady, deleted, inPhase(api.PodFailed), inPhase(api.PodPending), onNode("")} {
				if rapid.IntRange(0, 3).Draw(t, "changed") == 0 {
					f(p)
				}
			}
			pods = append(pods, p)
		}
		plan := MakePlan(State{Set: set(want, 0), Pods: pods, Siblings: pods, Now: now})
		going := map[*v1.Pod]bool{}
		for _, p := range plan.Delete {
			going[p] = true
		}
		left, worst := int32(plan.Create), true
		readyGoes, unreadyStays := false, false
		for _, p := range pods {
			switch {
			case !api.IsPodActive(p):
				worst = worst && !going[p]
			case going[p]:
				readyGoes = readyGoes || api.IsPodReady(p) && p.GetSpec().GetNodeName() != "" && p.GetStatus().GetPhase() == api.PodRunning
			default:
				left++
				unreadyStays = unreadyStays || !api.IsPodReady(p)
			}
		}
		if left != want || !worst || readyGoes && unreadyStays {
			t.Fatalf("left %d of %d wanted; only active pods go: %v; a ready one goes and an unready one stays: %v", left, want, worst, readyGoes && unreadyStays)
		}
	})
}

func TestNewPodIsAsTheTemplateHasIt(t *testing.T) {
	s := set(1, 0)
	s.Spec.Template.Metadata.Annotations = map[string]string{"note": "x"}
	s.Spec.Template.Spec.Containers = []*v1.Container{{Name: "c", Image: "i"}}
	want := &v1.Pod{
		Metadata: &v1.ObjectMeta{
			GenerateName: "web-", Namespace: "default", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"note": "x"},
			OwnerReferences: []*v1.OwnerReference{{ApiVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", Uid: "set-uid", Controller: proto.Bool(true), BlockOwnerDeletion: proto.Bool(true)}},
		},
		Spec: &v1.PodSpec{Containers: []*v1.Container{{Name: "c", Image: "i"}}},
	}
	if d := cmp.Diff(want, newPod(s), protocmp.Transform()); d != "" {
		t.Errorf("pod (-want +got):\n%s", d)
	}
}

func TestSlowStartStopsAfterTheBatchWithAnError(t *testing.T) {
	calls := make(chan bool, 100)
	err := slowStart(20, func() error {
		calls <- true
		if len(calls) >= 5 { // in the third batch: 1, 2, 4
			return fmt.Errorf("no")
		}
		return nil
	})
	if err == nil || len(calls) != 7 {
		t.Errorf("%d calls, error %v; want the 7 of three batches and an error", len(calls), err)
	}
}
