package invariant_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/api"
	"orch/pkg/invariant"
	v1 "orch/proto/v1"
)

// book writes a log. Each entry comes a second after the one before.
type book struct {
	revision int64
	before   map[string]int64
	entries  []*v1.LogEntry
}

func (b *book) write(o api.Object, cause *v1.Cause, deleted bool) *v1.LogEntry {
	b.revision++
	m := o.GetMetadata()
	if b.before == nil {
		b.before = map[string]int64{}
	}
	key := api.KindOf(o).Name + m.GetNamespace() + m.GetName()
	e := &v1.LogEntry{
		Revision: b.revision, Time: timestamppb.New(time.Unix(b.revision, 0)), Kind: api.KindOf(o).Name, Namespace: m.GetNamespace(), Name: m.GetName(),
		Object: api.Wrap(api.Clone(o)), Cause: cause, Deleted: deleted, Previous: b.before[key],
	}
	b.before[key] = b.revision
	b.entries = append(b.entries, e)
	return e
}

func (b *book) put(objects ...api.Object) {
	for _, o := range objects {
		b.write(o, &v1.Cause{Actor: "admin", Reason: "Applied", Message: "applied"}, false)
	}
}

func (b *book) remove(o api.Object) {
	b.write(o, &v1.Cause{Actor: "admin", Reason: "Deleted", Message: "deleted"}, true)
}

func node(cpu string) *v1.Node {
	return &v1.Node{Metadata: &v1.ObjectMeta{Name: "node-1"}, Status: &v1.NodeStatus{Allocatable: map[string]string{"cpu": cpu, "memory": "1Gi", "pods": "10"}}}
}

func deployment(replicas int32) *v1.Deployment {
	return &v1.Deployment{Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default", Uid: "d"}, Spec: &v1.DeploymentSpec{
		Replicas: &replicas, Strategy: &v1.DeploymentStrategy{RollingUpdate: &v1.RollingUpdateDeployment{MaxUnavailable: api.ParseIntOrString("0"), MaxSurge: api.ParseIntOrString("1")}},
	}}
}

func owned(by api.Object) []*v1.OwnerReference {
	return []*v1.OwnerReference{api.NewControllerRef(by)}
}

var set = &v1.ReplicaSet{Metadata: &v1.ObjectMeta{Name: "web-1", Namespace: "default", Uid: "s", OwnerReferences: owned(deployment(1))}}

// pod is one that is ready on node-1, unless changed.
func pod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default", Uid: "uid-" + name, OwnerReferences: owned(set), Labels: map[string]string{"app": "web"}},
		Spec:     &v1.PodSpec{NodeName: "node-1", Containers: []*v1.Container{{Name: "app", Resources: &v1.ResourceRequirements{Requests: map[string]string{"cpu": "400m"}}}}},
		Status: &v1.PodStatus{
			Phase: api.PodRunning, Conditions: []*v1.Condition{{Type: api.PodReady, Status: api.ConditionTrue}},
			ContainerStatuses: []*v1.ContainerStatus{{Name: "app", Ready: true, State: &v1.ContainerState{Running: &v1.ContainerStateRunning{}}}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func unready(p *v1.Pod) {
	p.Status.Conditions[0].Status = api.ConditionFalse
	p.Status.ContainerStatuses[0].Ready = false
}

func restarts(n int32) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Status.ContainerStatuses[0].RestartCount = n }
}

func evicted(p *v1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, &v1.Condition{Type: api.DisruptionTarget, Status: api.ConditionTrue, Reason: "EvictionByEvictionAPI"})
}

func budget(desired int32) *v1.PodDisruptionBudget {
	return &v1.PodDisruptionBudget{
		Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec:     &v1.PodDisruptionBudgetSpec{Selector: &v1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		Status:   &v1.PodDisruptionBudgetStatus{DesiredHealthy: desired},
	}
}

func healthy(desired, current int32) *v1.PodDisruptionBudget {
	b := budget(desired)
	b.Status.CurrentHealthy = current
	return b
}

func check(b *book) []*invariant.Violation {
	c := invariant.New()
	for _, e := range b.entries {
		c.Check(e)
	}
	return c.All()
}

func told(all []*invariant.Violation) (lines []string) {
	for _, v := range all {
		lines = append(lines, fmt.Sprintf("%d-%d %s: %s %s", v.Revision, v.Until, v.Name, v.Object, v.Broken))
	}
	return lines
}

func TestWhatTheLogTells(t *testing.T) {
	tests := []struct {
		name  string
		write func(b *book)
		want  []string
	}{
		{"a pod that lives and ends breaks nothing", func(b *book) {
			b.put(node("1"), pod("a", func(p *v1.Pod) { p.Spec.NodeName = ""; unready(p) }), pod("a"), pod("a", restarts(1)))
			b.remove(pod("a"))
			b.put(pod("a", func(p *v1.Pod) { p.Metadata.Uid = "another" }))
		}, nil},
		{"a pod moves", func(b *book) {
			b.put(node("1"), pod("a"), pod("a", func(p *v1.Pod) { p.Spec.NodeName = "node-2" }))
		}, []string{`3-0 OneNode: pod/a has moved from node-1 to "node-2"`, `3-0 Allocatable: node/node-2 is no node, and a pod was bound to it`}},
		{"a pod takes another's name", func(b *book) {
			b.put(node("1"), pod("a"), pod("a", func(p *v1.Pod) { p.Metadata.Uid = "another" }))
		}, []string{`3-0 OneName: pod/a was replaced by another pod without having been deleted`}},
		{"a restart is forgotten", func(b *book) {
			b.put(node("1"), pod("a", restarts(2)), pod("a", restarts(1)))
		}, []string{`3-0 OneLife: pod/a container app had 2 restarts and has 1`}},
		{"a pod comes back from its end", func(b *book) {
			b.put(node("1"), pod("a", unready, func(p *v1.Pod) { p.Status.Phase = api.PodFailed }), pod("a"))
		}, []string{`3-0 OneLife: pod/a had ended as Failed and is Running again`}},
		{"a ready pod is not", func(b *book) {
			b.put(node("1"), pod("a", func(p *v1.Pod) { p.Status.ContainerStatuses[0].State = nil }))
		}, []string{`2-0 ReallyReady: pod/a is ready, and its container app does not run`}},
		{"a node is filled beyond what it offers, once", func(b *book) {
			b.put(node("1"), pod("a"), pod("b"), pod("c"), pod("c", restarts(1)), pod("d"))
		}, []string{`4-0 Allocatable: node/node-1 offers 1000m cpu, 1073741824 bytes of memory and room for 10 pods, and its pods request 1200m cpu, 0 bytes of memory and room for 3 pods`}},
		{"a node shrinks below what it holds", func(b *book) {
			b.put(node("1"), pod("a"), node("300m"))
		}, []string{`3-0 Allocatable: node/node-1 offers 300m cpu, 1073741824 bytes of memory and room for 10 pods, and its pods request 400m cpu, 0 bytes of memory and room for 1 pods`}},
		{"what ended takes nothing", func(b *book) {
			b.put(node("500m"), pod("a"), pod("a", unready, func(p *v1.Pod) { p.Status.Phase = api.PodSucceeded }), pod("b"))
		}, nil},
		{"a Deployment loses a pod, and has it again", func(b *book) {
			b.put(node("9"), deployment(2), set, pod("a"), pod("b"), pod("b", unready), pod("b", restarts(1)))
		}, []string{`6-7 DeploymentAvailable: deployment/web has 1 ready pod, 2 promised`}},
		{"it loses another meanwhile, and that is told", func(b *book) {
			b.put(node("9"), deployment(2), set, pod("a"), pod("b"), pod("b", unready), pod("a", unready), pod("a"), pod("b"), pod("b", unready))
		}, []string{`6-9 DeploymentAvailable: deployment/web has 0 ready pods at the fewest, 2 promised`, `10-0 DeploymentAvailable: deployment/web has 1 ready pod, 2 promised`}},
		{"a Deployment that has never been whole has lost nothing", func(b *book) {
			b.put(node("9"), deployment(2), set, pod("a"), pod("a", unready))
		}, nil},
		{"nor has one of which more is wanted", func(b *book) {
			b.put(node("9"), deployment(1), set, pod("a"), deployment(2), pod("b"), deployment(1), pod("b", unready))
		}, nil},
		{"a Deployment that goes promises nothing", func(b *book) {
			b.put(node("9"), deployment(1), set, pod("a"))
			b.remove(deployment(1))
			b.remove(pod("a"))
		}, nil},
		{"a pod that was asked to end does not count", func(b *book) {
			b.put(node("9"), deployment(1), set, pod("a"), pod("a", func(p *v1.Pod) { p.Metadata.DeletionTimestamp = timestamppb.Now() }))
		}, []string{`5-0 DeploymentAvailable: deployment/web has 0 ready pods, 1 promised`}},
		{"a budget loses a pod, and has it again", func(b *book) {
			b.put(budget(2), healthy(2, 2), healthy(2, 1), healthy(2, 0), healthy(2, 2), healthy(2, 1))
			b.remove(healthy(2, 1))
		}, []string{`3-5 BudgetHealthy: poddisruptionbudget/web has 0 ready pods at the fewest, 2 promised`, `6-7 BudgetHealthy: poddisruptionbudget/web has 1 ready pod, 2 promised`}},
		{"a budget that needs more or never had its pods has lost none", func(b *book) {
			b.put(healthy(2, 1), healthy(2, 2), healthy(3, 2), healthy(0, 0))
		}, nil},
		{"an eviction leaves too few", func(b *book) {
			b.put(node("9"), budget(1), pod("a"), pod("b"), pod("a", evicted), pod("b", evicted))
		}, []string{`6-0 BudgetKept: poddisruptionbudget/web needs 1 healthy pods, and an eviction left 0`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &book{}
			tt.write(b)
			if diff := cmp.Diff(tt.want, told(check(b))); diff != "" {
				t.Errorf("broken (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAViolationNamesItsCause(t *testing.T) {
	b := &book{}
	b.put(node("9"), deployment(1), set, pod("a"))
	b.write(pod("a", unready), &v1.Cause{Actor: "system:node:node-1", Reason: "ContainerExited", Message: "container app was killed from outside by signal 9"}, false)
	all := check(b)
	want := "each Deployment has the pods that it promises (replicas less maxUnavailable): deployment/web has 0 ready pods, 1 promised, as pod/a container app was killed from outside by signal 9 (rev 5)"
	if len(all) != 1 || all[0].String() != want {
		t.Errorf("%v, want %s", all, want)
	}
}

// Whoever begins in the middle, with what there was, finds what is broken later:
// but for what was promised before and was not kept then.
func TestACheckerMayBeginInTheMiddle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &book{}
		b.put(node("1"), deployment(2), set)
		steps := rapid.SliceOfN(rapid.SampledFrom([]func(){
			func() { b.put(pod("a")) },
			func() { b.put(pod("a", unready)) },
			func() { b.put(pod("b")) },
			func() { b.put(pod("b", unready, restarts(1))) },
			func() { b.put(pod("c")) },
			func() { b.put(node("300m")) },
			func() { b.put(node("2")) },
			func() { b.put(deployment(1)) },
			func() { b.put(deployment(2)) },
			func() {
				if b.before["Poddefaulta"] != 0 {
					b.remove(pod("a"))
					b.before["Poddefaulta"] = 0
				}
			},
		}), 1, 30).Draw(t, "steps")
		for _, s := range steps {
			s()
		}
		middle := rapid.IntRange(3, len(b.entries)).Draw(t, "middle")
		whole, late := invariant.New(), invariant.New()
		objects := map[string]*v1.LogEntry{}
		for _, e := range b.entries[:middle] {
			whole.Check(e)
			if objects[e.GetKind()+e.GetName()] = e; e.GetDeleted() {
				delete(objects, e.GetKind()+e.GetName())
			}
		}
		before := len(whole.All())
		for _, kind := range invariant.Kinds {
			for _, e := range objects {
				if e.GetKind() == kind {
					late.Seed(api.Unwrap(e.GetObject()))
				}
			}
		}
		if len(late.All()) != 0 {
			t.Fatalf("found in what was there: %v", told(late.All()))
		}
		for _, e := range b.entries[middle:] {
			whole.Check(e)
			late.Check(e)
		}
		safety := func(all []*invariant.Violation) (some []string) {
			for _, v := range all {
				if v.Class == invariant.Safety {
					some = append(some, fmt.Sprint(v.Revision, v.Name, v.Object))
				}
			}
			return some
		}
		if diff := cmp.Diff(safety(whole.All()[before:]), safety(late.All())); diff != "" {
			t.Fatalf("from the middle (-whole +late):\n%s", diff)
		}
	})
}

func TestWhatTheMachinesTell(t *testing.T) {
	app := func(uid, name string, attempt int32) *v1.NodeContainer {
		return &v1.NodeContainer{Id: fmt.Sprint(uid, "-", attempt), Namespace: "default", Pod: name, PodUid: uid, Container: "app", Attempt: attempt, Running: true}
	}
	dead := app("uid-a", "a", 0)
	dead.Running = false
	frozen := app("uid-a", "a", 0)
	frozen.Paused = true
	sick, well := app("uid-a", "a", 0), app("uid-a", "a", 0)
	sick.Ready, well.Ready = new(false), new(true)
	sidecar := app("uid-a", "a", 0)
	sidecar.Container = "sidecar"
	tests := []struct {
		name  string
		pods  []*v1.Pod
		nodes map[string][]*v1.NodeContainer
		want  []string
	}{
		{"what runs is what is wanted", []*v1.Pod{pod("a")}, map[string][]*v1.NodeContainer{"node-1": {dead, app("uid-a", "a", 1)}}, nil},
		{"a node that was not asked says nothing", []*v1.Pod{pod("a")}, nil, nil},
		{"a ready pod has no process", []*v1.Pod{pod("a")}, map[string][]*v1.NodeContainer{"node-1": {dead}}, []string{
			"0-0 ReallyReady: pod/a is ready, and 0 of its 1 containers run on node-1",
		}},
		{"a ready pod is frozen", []*v1.Pod{pod("a")}, map[string][]*v1.NodeContainer{"node-1": {frozen}}, []string{
			"0-0 ReallyReady: pod/a is ready, and 0 of its 1 containers run on node-1 (1 frozen)",
		}},
		{"a sidecar is none of the containers that make a pod ready", []*v1.Pod{pod("a")}, map[string][]*v1.NodeContainer{"node-1": {sidecar}}, []string{
			"0-0 ReallyReady: pod/a is ready, and 0 of its 1 containers run on node-1",
		}},
		{"an agent knows that a ready pod is not", []*v1.Pod{pod("a")}, map[string][]*v1.NodeContainer{"node-1": {sick}}, []string{
			"0-0 ReallyReady: pod/a is ready, and the agent of node-1 knows that 1 of its 1 containers are not",
		}},
		{"an agent knows that a ready pod is", []*v1.Pod{pod("a")}, map[string][]*v1.NodeContainer{"node-1": {well}}, nil},
		{"an agent knows that a pod is not ready, as the pod says", []*v1.Pod{pod("a", unready)}, map[string][]*v1.NodeContainer{"node-1": {sick}}, nil},
		{"a pod is gone and its container is not", nil, map[string][]*v1.NodeContainer{"node-1": {dead}}, []string{
			"0-0 OwnedContainer: pod/a has left container app (uid-a-0, attempt 0) on node-1",
		}},
		{"a container runs twice", []*v1.Pod{pod("a")}, map[string][]*v1.NodeContainer{"node-1": {app("uid-a", "a", 1), app("uid-a", "a", 2)}}, []string{
			"0-0 OneNode: pod/a has container app (uid-a-1, attempt 1) on node-1 and container app (uid-a-2, attempt 2) on node-1 at a time",
		}},
		{"two pods of one name run", []*v1.Pod{pod("a")}, map[string][]*v1.NodeContainer{"node-1": {app("uid-a", "a", 0), app("old", "a", 3)}}, []string{
			"0-0 OwnedContainer: pod/a has left container app (old-3, attempt 3) on node-1",
			"0-0 OneName: pod/a is two pods: container app (old-3, attempt 3) on node-1, and container app (uid-a-0, attempt 0) on node-1",
		}},
		{"a pod runs elsewhere", []*v1.Pod{pod("a")}, map[string][]*v1.NodeContainer{"node-2": {app("uid-a", "a", 0)}}, []string{
			`0-0 OneNode: pod/a is bound to "node-1", and has container app (uid-a-0, attempt 0) on node-2`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found := invariant.Machines(tt.pods, tt.nodes)
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), strings.Join(told(found), "\n")); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			if again, fresh := invariant.Compare(found, found); len(again) != len(found) || len(fresh) != 0 {
				t.Errorf("of two equal looks both have %d", len(again))
			}
			if again, fresh := invariant.Compare(nil, found); len(again) != 0 || len(fresh) != len(found) {
				t.Errorf("found in one look only: %v", told(again))
			}
		})
	}
}
