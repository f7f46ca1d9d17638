package lab

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// book writes a log as the API server does.
type book struct {
	log  []*v1.LogEntry
	last map[string]*v1.LogEntry
}

// write adds an entry: who, why, because of which revision, and the object as it
// then was. It returns the revision.
func (b *book) write(actor, reason string, trigger int64, o api.Object) int64 {
	return b.add(o, &v1.LogEntry{Object: api.Wrap(api.Clone(o)), Cause: &v1.Cause{Actor: actor, Reason: reason, Trigger: trigger}})
}

// remove adds the end of an object.
func (b *book) remove(actor, reason string, trigger int64, o api.Object) int64 {
	return b.add(o, &v1.LogEntry{Deleted: true, Cause: &v1.Cause{Actor: actor, Reason: reason, Trigger: trigger}})
}

func (b *book) add(o api.Object, e *v1.LogEntry) int64 {
	if b.last == nil {
		b.last = map[string]*v1.LogEntry{}
	}
	e.Kind, e.Namespace, e.Name = api.KindOf(o).Name, o.GetMetadata().GetNamespace(), o.GetMetadata().GetName()
	key := e.Kind + "/" + e.Name
	e.Revision, e.Previous = int64(len(b.log)+1), b.last[key].GetRevision()
	if b.last[key] = e; e.Deleted {
		delete(b.last, key)
	}
	b.log = append(b.log, e)
	return e.Revision
}

func meta(name, uid string, owner api.Object) *v1.ObjectMeta {
	m := &v1.ObjectMeta{Namespace: "default", Name: name, Uid: uid}
	if owner != nil {
		m.OwnerReferences = []*v1.OwnerReference{api.NewControllerRef(owner)}
	}
	return m
}

// webflix is a log in which a Deployment of one was made, and its pod runs.
func webflix() (b *book, set *v1.ReplicaSet, pod *v1.Pod) {
	b = &book{}
	b.write("apiserver", "Bootstrap", 0, &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "default"}})
	d := &v1.Deployment{Metadata: meta("web", "d", nil), Spec: &v1.DeploymentSpec{Replicas: proto.Int32(1)}}
	rev := b.write("admin", "Applied", 0, d)
	set = &v1.ReplicaSet{Metadata: meta("web-1", "rs", d), Spec: &v1.ReplicaSetSpec{Replicas: proto.Int32(1)}}
	rev = b.write("deployment-controller", "NewReplicaSetCreated", rev, set)
	pod = &v1.Pod{Metadata: meta("web-1-a", "a", set), Spec: &v1.PodSpec{}, Status: &v1.PodStatus{}}
	rev = b.write("replicaset-controller", "SuccessfulCreate", rev, pod)
	pod.Spec.NodeName = "node-1"
	b.write("default-scheduler", "Scheduled", rev, pod)
	pod.Status.ContainerStatuses = []*v1.ContainerStatus{{Name: "app", State: &v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}
	b.write("system:node:node-1", "Started", rev, pod)
	return b, set, pod
}

// given are the texts of the marks that a lesson gives.
func given(g Grade) string {
	var texts []string
	for _, m := range g.Marks {
		if m.Done {
			texts = append(texts, m.Text)
		}
	}
	return strings.Join(texts, "; ")
}

func TestWithoutDoingAnythingThereIsNoMark(t *testing.T) {
	idle, _, _ := webflix()
	cluster := &book{}
	cluster.write("apiserver", "Bootstrap", 0, &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "default"}})
	node := &v1.Node{Metadata: &v1.ObjectMeta{Name: "node-1"}, Spec: &v1.NodeSpec{}, Status: &v1.NodeStatus{}}
	cluster.write("system:bootstrap:x", "Join", 0, node)
	for _, l := range Lessons() {
		for name, log := range map[string][]*v1.LogEntry{"no log": nil, "a fresh cluster": cluster.log} {
			if g := l.Check(log); given(g) != "" || g.Done {
				t.Errorf("lab %d, %s: marks %q, done %t", l.Number, name, given(g), g.Done)
			}
		}
		if l.Number > 1 && l.Check(idle.log).Done {
			t.Errorf("lab %d is done with a Deployment that nobody touched", l.Number)
		}
		for _, m := range l.Check(nil).Marks {
			if m.Text == "" || m.Hint == "" {
				t.Errorf("lab %d: a mark says %q and hints at %q", l.Number, m.Text, m.Hint)
			}
		}
	}
}

func TestAReplacementIsOneHoweverThePodWent(t *testing.T) {
	const mark = "A pod that you deleted was replaced by another"
	ways := map[string]func(b *book, p *v1.Pod) int64{
		"deleted, with grace": func(b *book, p *v1.Pod) int64 {
			p.Metadata.DeletionTimestamp = timestamppb.Now()
			rev := b.write("admin", "Deleted", 0, p)
			b.remove("system:node:node-1", "ContainersRemoved", rev, p)
			return rev
		},
		"deleted at once":          func(b *book, p *v1.Pod) int64 { return b.remove("admin", "Deleted", 0, p) },
		"deleted by another":       func(b *book, p *v1.Pod) int64 { return b.remove("alice", "Deleted", 0, p) },
		"its node was drained*":    func(b *book, p *v1.Pod) int64 { return b.remove("admin", "Drained", 0, p) },
		"deleted by a controller*": func(b *book, p *v1.Pod) int64 { return b.remove("garbage-collector", "OwnerGone", 3, p) },
	}
	for name, end := range ways {
		b, set, p := webflix()
		rev := end(b, p)
		if strings.Contains(given(Lessons()[0].Check(b.log)), mark) {
			t.Errorf("%s: there is no replacement yet", name)
		}
		b.write("replicaset-controller", "SuccessfulCreate", rev, &v1.Pod{Metadata: meta("web-1-b", "b", set)})
		want := !strings.HasSuffix(name, "*") // what nobody did gives no mark
		if got := strings.Contains(given(Lessons()[0].Check(b.log)), mark); got != want {
			t.Errorf("%s: mark %t, want %t", name, got, want)
		}
	}
}

func TestAPodThatWasWantedInAdditionIsNoReplacement(t *testing.T) {
	b, set, p := webflix()
	b.remove("admin", "Deleted", 0, p)
	set.Spec.Replicas = proto.Int32(2)
	rev := b.write("deployment-controller", "ScaledUp", 2, set)
	b.write("replicaset-controller", "SuccessfulCreate", rev, &v1.Pod{Metadata: meta("web-1-b", "b", set)})
	if got := given(Lessons()[0].Check(b.log)); strings.Contains(got, "replaced") {
		t.Errorf("marks %q", got)
	}
}

func TestWhatAPausedControllerWroteByAStepIsAMark(t *testing.T) {
	const mark = "by a step"
	b, set, _ := webflix()
	if got := given(Lessons()[0].Check(b.log)); strings.Contains(got, mark) {
		t.Errorf("nobody stepped, and the marks are %q", got)
	}
	stepped := &v1.Cause{Actor: "replicaset-controller", Reason: "SuccessfulCreate", Trigger: 3, SteppedBy: "admin"}
	p := &v1.Pod{Metadata: meta("web-1-b", "b", set)}
	b.add(p, &v1.LogEntry{Object: api.Wrap(p), Cause: stepped})
	if got := given(Lessons()[0].Check(b.log)); !strings.Contains(got, mark) {
		t.Errorf("marks %q", got)
	}
}

// Who ends it before its time has not seen what twenty deaf seconds do.
func TestDeafnessCountsWhenItIsOver(t *testing.T) {
	for phase, want := range map[string]bool{"Running": false, "Stopped": false, api.ChaosCompleted: true} {
		b := &book{}
		b.write("chaos-controller", "Ended", 0, &v1.ChaosExperiment{
			Metadata: meta("blind", "x", nil), Spec: &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: api.FaultDropWatches}},
			Status: &v1.ChaosExperimentStatus{Phase: phase},
		})
		if got := given(Lessons()[6].Check(b.log)); strings.Contains(got, "Nobody heard") != want {
			t.Errorf("%s: marks %q", phase, got)
		}
	}
}

// The eviction writes a condition first and deletes then: only the second is the end.
func TestTheMarkOfAnEvictionShowsTheDeletion(t *testing.T) {
	b, _, p := webflix()
	p.Status.Conditions = []*v1.Condition{{Type: api.DisruptionTarget, Status: api.ConditionTrue}}
	b.write("taint-eviction-controller", "DeletionByTaintManager", 0, p)
	p.Metadata.DeletionTimestamp = timestamppb.Now()
	rev := b.write("taint-eviction-controller", "DeletionByTaintManager", 0, p)
	for _, m := range Lessons()[5].Check(b.log).Marks {
		if m.Text == "Its pods were asked to end" && (m.Revision != rev || !strings.Contains(m.Evidence, "was asked to end")) {
			t.Errorf("revision %d, want %d: %s", m.Revision, rev, m.Evidence)
		}
	}
}

func TestALogThatWasCompactedSaysWhereItBegins(t *testing.T) {
	b, _, _ := webflix()
	if g := Lessons()[0].Check(b.log); g.From != 0 {
		t.Errorf("a whole log begins at %d", g.From)
	}
	if g := Lessons()[0].Check(b.log[4:]); g.From != 5 || g.Done {
		t.Errorf("what is left of a log begins at %d, want 5", g.From)
	}
}

// Who goes back to what was there before has rolled out no new version.
func TestAVersionThatWasThereBeforeIsNoNewOne(t *testing.T) {
	roll := func(images ...string) Grade {
		b := &book{}
		b.write("apiserver", "Bootstrap", 0, &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "default"}})
		d := &v1.Deployment{Metadata: meta("web", "d", nil), Spec: &v1.DeploymentSpec{Replicas: proto.Int32(1)}, Status: &v1.DeploymentStatus{}}
		for _, image := range images {
			d.Metadata.Generation++
			d.Spec.Template = &v1.PodTemplateSpec{Spec: &v1.PodSpec{Containers: []*v1.Container{{Name: "app", Image: image}}}}
			rev := b.write("admin", "ImageSet", 0, d)
			d.Status = &v1.DeploymentStatus{ObservedGeneration: d.Metadata.Generation, Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}
			if image == "bad" {
				d.Status.UpdatedReplicas = 0
			}
			b.write("deployment-controller", "StatusCounted", rev, d)
		}
		return Lessons()[3].Check(b.log)
	}
	const mark = "A new version was rolled out"
	if got := given(roll("web:1", "bad", "web:1")); strings.Contains(got, mark) {
		t.Errorf("a bad version was taken back: %s", got)
	}
	if got := given(roll("web:1", "web:2")); !strings.Contains(got, mark) {
		t.Errorf("a new version: %s", got)
	}
}
