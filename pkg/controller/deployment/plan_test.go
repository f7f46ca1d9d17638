package deployment

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// deploy is a Deployment of n replicas with image web:1, changed by what
// follows.
func deploy(n int32, change ...func(*v1.Deployment)) *v1.Deployment {
	labels := map[string]string{"app": "web"}
	d := &v1.Deployment{
		Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default", Uid: "d-uid", Generation: 1},
		Spec: &v1.DeploymentSpec{
			Replicas: &n, Selector: &v1.LabelSelector{MatchLabels: labels},
			Template: &v1.PodTemplateSpec{
				Metadata: &v1.ObjectMeta{Labels: labels},
				Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "c", Image: "web:1"}}},
			},
		},
	}
	for _, f := range change {
		f(d)
	}
	api.Default(d)
	return d
}

func image(i string) func(*v1.Deployment) {
	return func(d *v1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = i }
}

// limits sets maxSurge and maxUnavailable.
func limits(surge, unavailable string) func(*v1.Deployment) {
	return func(d *v1.Deployment) {
		d.Spec.Strategy = &v1.DeploymentStrategy{Type: api.StrategyRollingUpdate, RollingUpdate: &v1.RollingUpdateDeployment{
			MaxSurge: api.ParseIntOrString(surge), MaxUnavailable: api.ParseIntOrString(unavailable),
		}}
	}
}

func recreate(d *v1.Deployment) { d.Spec.Strategy = &v1.DeploymentStrategy{Type: api.StrategyRecreate} }
func paused(d *v1.Deployment)   { d.Spec.Paused = true }

// complete makes the status that of a finished rollout.
func complete(d *v1.Deployment) {
	n := d.GetSpec().GetReplicas()
	d.Status = &v1.DeploymentStatus{ObservedGeneration: 1, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
	progressing(reasonAvailable, 0)(d)
}

// progressing sets the condition Progressing, updated so long ago.
func progressing(reason string, ago time.Duration) func(*v1.Deployment) {
	return func(d *v1.Deployment) {
		if d.Status == nil {
			d.Status = &v1.DeploymentStatus{}
		}
		d.Status.Conditions = []*v1.Condition{{Type: api.DeploymentProgressing, Status: "True", Reason: reason, LastUpdateTime: timestamppb.New(now.Add(-ago))}}
	}
}

// set is a ReplicaSet of the deployment with image web:<revision>, sized n, with
// so many pods of which so many are available. The deployment was of size
// desired when it got that size.
func set(d *v1.Deployment, revision int, n, pods, available, desired int32) *v1.ReplicaSet {
	p := newPlanner(State{Deployment: deploy(desired, image(fmt.Sprintf("web:%d", revision)), func(x *v1.Deployment) { x.Spec.Strategy = d.Spec.Strategy }), Now: now})
	p.d.Metadata = d.GetMetadata()
	p.createSet(int64(revision))
	s := p.fresh
	s.Metadata.Name = fmt.Sprintf("web-%d", revision)
	s.Metadata.Uid = s.Metadata.Name
	s.Metadata.CreationTimestamp = timestamppb.New(now.Add(time.Duration(revision-100) * time.Hour))
	s.Spec.Replicas = &n
	s.Status = &v1.ReplicaSetStatus{Replicas: pods, ReadyReplicas: available, AvailableReplicas: available, FullyLabeledReplicas: pods}
	return s
}

// show says what a plan does, in short: "create 3", "web-1 to 2", "delete web-1".
func show(p Plan) string {
	var all []string
	for _, w := range p.Writes {
		switch name, n := w.Set.GetMetadata().GetName(), w.Set.GetSpec().GetReplicas(); w.Verb {
		case Create:
			all = append(all, fmt.Sprintf("create %d", n))
		case Delete:
			all = append(all, "delete "+name)
		case Update:
			all = append(all, fmt.Sprintf("%s to %d", name, n))
		}
	}
	return strings.Join(all, ", ")
}

func TestPlan(t *testing.T) {
	type sets = []*v1.ReplicaSet
	rolling := deploy(10, image("web:2"), limits("3", "2"))
	precise := deploy(4, image("web:2"), limits("1", "0"))
	plain := deploy(3, complete)
	for name, tt := range map[string]struct {
		d    *v1.Deployment
		sets []*v1.ReplicaSet
		pods []*v1.Pod
		want string
	}{
		"a first set gets all replicas at once": {
			d: deploy(3), want: "create 3",
		},
		"a complete deployment is left alone": {
			d: plain, sets: sets{set(plain, 1, 3, 3, 3, 3)}, want: "",
		},
		"scaling goes to the one set": {
			d: deploy(5), sets: sets{set(plain, 1, 3, 3, 3, 3)}, want: "web-1 to 5",
		},
		"scaling to zero": {
			d: deploy(0), sets: sets{set(plain, 1, 3, 3, 3, 3)}, want: "web-1 to 0",
		},
		"scaling up from zero": {
			d: deploy(2), sets: sets{set(deploy(0), 1, 0, 0, 0, 0)}, want: "web-1 to 2",
		},
		"a new template begins with the surge, and old ones go as far as allowed": {
			d: rolling, sets: sets{set(rolling, 1, 10, 10, 10, 10)}, want: "create 3, web-1 to 8",
		},
		"a surge of a quarter is rounded up, an unavailable quarter down": {
			d: deploy(3, image("web:2")), sets: sets{set(plain, 1, 3, 3, 3, 3)}, want: "create 1",
		},
		"where both limits come out as zero, one pod may be unavailable": {
			d: deploy(2, image("web:2"), limits("0", "10%")), sets: sets{set(plain, 1, 2, 2, 2, 2)}, want: "create 0, web-1 to 1",
		},
		"new pods that are not yet available hold the old ones": {
			d: precise, sets: sets{set(precise, 1, 4, 4, 4, 4), set(precise, 2, 1, 1, 0, 4)}, want: "",
		},
		"a new pod available lets an old one go": {
			d: precise, sets: sets{set(precise, 1, 4, 4, 4, 4), set(precise, 2, 1, 1, 1, 4)}, want: "web-1 to 3",
		},
		"an old pod gone lets a new one come": {
			d: precise, sets: sets{set(precise, 1, 3, 3, 3, 4), set(precise, 2, 1, 1, 1, 4)}, want: "web-2 to 2",
		},
		"an old pod that is to go but still counts holds the new one": {
			d: precise, sets: sets{set(precise, 1, 3, 4, 4, 4), set(precise, 2, 1, 1, 1, 4)}, want: "",
		},
		"a status from before a scale-down is not taken for availability": {
			d: rolling, sets: sets{set(rolling, 1, 7, 10, 10, 10), set(rolling, 2, 4, 4, 2, 10)}, want: "web-1 to 6",
		},
		"old pods that are not available go first, and more than availability would allow": {
			d: rolling, sets: sets{set(rolling, 0, 5, 5, 0, 10), set(rolling, 1, 8, 8, 8, 10), set(rolling, 2, 0, 0, 0, 10)}, want: "web-0 to 0",
		},
		"the last old pod goes": {
			d: precise, sets: sets{set(precise, 1, 1, 1, 1, 4), set(precise, 2, 4, 4, 4, 4)}, want: "web-1 to 0",
		},
		"undo brings the old set back, as the newest revision": {
			d: deploy(4, image("web:1"), limits("1", "0")), sets: sets{set(precise, 1, 0, 0, 0, 4), set(precise, 2, 4, 4, 4, 4)}, want: "web-1 to 1",
		},
		"scaled in the middle of a rollout, each set gets its share": {
			d:    deploy(20, image("web:2"), limits("3", "2")),
			sets: sets{set(rolling, 1, 8, 8, 8, 10), set(rolling, 2, 5, 5, 0, 10)}, want: "web-1 to 14, web-2 to 9",
		},
		"what rounding leaves over goes to the largest": {
			d:    deploy(11, image("web:2"), limits("3", "2")),
			sets: sets{set(rolling, 1, 7, 7, 7, 10), set(rolling, 2, 6, 6, 0, 10)}, want: "web-1 to 8, web-2 to 6",
		},
		"a share that would take an available pod is taken from an unavailable one": {
			d: deploy(5, image("web:3"), limits("0", "34%")),
			sets: sets{
				set(deploy(6, limits("0", "34%")), 1, 2, 2, 2, 6), set(deploy(6, limits("0", "34%")), 2, 2, 2, 2, 6), set(deploy(6, limits("0", "34%")), 3, 2, 2, 0, 6),
			},
			want: "web-1 to 2, web-2 to 2, web-3 to 1",
		},
		"with the new set at full size, old ones go when the deployment was scaled": {
			d: deploy(4, image("web:2")), sets: sets{set(plain, 1, 2, 2, 2, 3), set(deploy(4), 2, 4, 4, 4, 4)}, want: "web-1 to 0",
		},
		"a paused deployment does not roll": {
			d: deploy(3, image("web:2"), paused), sets: sets{set(plain, 1, 3, 3, 3, 3)}, want: "",
		},
		"a paused deployment scales": {
			d: deploy(5, image("web:2"), paused), sets: sets{set(plain, 1, 3, 3, 3, 3)}, want: "web-1 to 5",
		},
		"recreate first takes the old pods": {
			d: deploy(3, image("web:2"), recreate), sets: sets{set(deploy(3, recreate), 1, 3, 3, 3, 3)}, want: "web-1 to 0",
		},
		"recreate waits while an old pod is being deleted": {
			d: deploy(3, image("web:2"), recreate), sets: sets{set(deploy(3, recreate), 1, 0, 0, 0, 3)},
			pods: []*v1.Pod{podOf("web-1", api.PodRunning)}, want: "",
		},
		"recreate does not wait for pods that have ended": {
			d: deploy(3, image("web:2"), recreate), sets: sets{set(deploy(3, recreate), 1, 0, 0, 0, 3)},
			pods: []*v1.Pod{podOf("web-1", api.PodFailed)}, want: "create 3",
		},
		"recreate scales its new set": {
			d: deploy(3, image("web:2"), recreate), sets: sets{set(deploy(3, recreate), 1, 0, 0, 0, 3), set(deploy(3, recreate), 2, 0, 0, 0, 3)}, want: "web-2 to 3",
		},
		"recreate with several sets, scaled, is not stuck": {
			d: deploy(4, image("web:2"), recreate), sets: sets{set(deploy(3, recreate), 1, 1, 1, 1, 3), set(deploy(3, recreate), 2, 2, 2, 2, 3)}, want: "web-1 to 1, web-2 to 2",
		},
		"old sets beyond the history limit go, the oldest revisions first, once all is done": {
			d:    deploy(1, image("web:5"), complete, func(d *v1.Deployment) { d.Spec.RevisionHistoryLimit = proto.Int32(2) }),
			sets: sets{set(deploy(1), 1, 0, 0, 0, 1), set(deploy(1), 2, 0, 0, 0, 1), set(deploy(1), 3, 0, 0, 0, 1), set(deploy(1), 4, 0, 0, 0, 1), set(deploy(1), 5, 1, 1, 1, 1)},
			want: "delete web-1, delete web-2",
		},
		"an old set with pods stays": {
			d:    deploy(1, image("web:3"), complete, func(d *v1.Deployment) { d.Spec.RevisionHistoryLimit = proto.Int32(0) }),
			sets: sets{set(deploy(1), 1, 0, 1, 0, 1), set(deploy(1), 2, 0, 0, 0, 1), set(deploy(1), 3, 1, 1, 1, 1)},
			want: "delete web-2",
		},
		"history stays while the rollout runs": {
			d:    deploy(1, image("web:3"), func(d *v1.Deployment) { d.Spec.RevisionHistoryLimit = proto.Int32(0) }),
			sets: sets{set(deploy(1), 1, 0, 0, 0, 1), set(deploy(1), 3, 1, 1, 0, 1)}, want: "",
		},
		"a deployment that is being deleted does nothing": {
			d: deploy(5, func(d *v1.Deployment) { d.Metadata.DeletionTimestamp = timestamppb.New(now) }), sets: sets{set(plain, 1, 3, 3, 3, 3)}, want: "",
		},
		"a restart is a new template": {
			d: deploy(1, complete, func(d *v1.Deployment) {
				d.Spec.Template.Metadata.Annotations = map[string]string{api.AnnotationRestartedAt: "2026-03-01T12:00:00Z"}
			}),
			sets: sets{set(deploy(1), 1, 1, 1, 1, 1)}, want: "create 1",
		},
		"a new minReadySeconds goes to the set": {
			d: deploy(1, complete, func(d *v1.Deployment) { d.Spec.MinReadySeconds = 5 }), sets: sets{set(deploy(1), 1, 1, 1, 1, 1)}, want: "web-1 to 1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := show(MakePlan(State{Deployment: tt.d, Sets: tt.sets, Pods: tt.pods, Now: now})); got != tt.want {
				t.Errorf("plan: %q, want %q", got, tt.want)
			}
		})
	}
}

func podOf(set, phase string) *v1.Pod {
	return &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: set + "-pod", Namespace: "default", OwnerReferences: []*v1.OwnerReference{{Kind: "ReplicaSet", Name: set, Uid: set, Controller: proto.Bool(true)}}},
		Status:   &v1.PodStatus{Phase: phase},
	}
}

func TestANewSetIsNamedLabeledAndOwnedAsKubernetesDoes(t *testing.T) {
	d := deploy(3, func(d *v1.Deployment) {
		d.Metadata.Annotations = map[string]string{api.AnnotationChangeCause: "because", api.AnnotationLastApplied: "{}"}
	})
	plan := MakePlan(State{Deployment: d, Now: now})
	s := plan.Writes[0].Set
	hash := api.TemplateHash(d.Spec.Template, 0)
	labels := map[string]string{"app": "web", api.LabelPodTemplateHash: hash}
	for what, got := range map[string]map[string]string{
		"labels": s.Metadata.Labels, "selector": s.Spec.Selector.MatchLabels, "template": s.Spec.Template.Metadata.Labels,
	} {
		if d := cmp.Diff(labels, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	want := map[string]string{
		api.AnnotationChangeCause: "because", api.AnnotationRevision: "1",
		api.AnnotationDesiredReplicas: "3", api.AnnotationMaxReplicas: "4",
	}
	if d := cmp.Diff(want, s.Metadata.Annotations); d != "" {
		t.Errorf("annotations (-want +got):\n%s", d)
	}
	if s.Metadata.Name != "web-"+hash || api.ControllerOf(s).GetUid() != "d-uid" || plan.Revision != "1" {
		t.Errorf("name %s, owner %s, revision %s", s.Metadata.Name, api.ControllerOf(s).GetUid(), plan.Revision)
	}
	if got, want := plan.Writes[0].Event, "Scaled up replica set web-"+hash+" from 0 to 3"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}

	d.Status = &v1.DeploymentStatus{CollisionCount: proto.Int32(1)}
	if again := MakePlan(State{Deployment: d, Now: now}).Writes[0].Set.Metadata.Name; again == s.Metadata.Name {
		t.Errorf("after a collision the name is still %s", again)
	}
}

func TestASetThatComesBackKeepsItsHistory(t *testing.T) {
	d := deploy(4, image("web:1"))
	back := set(d, 1, 0, 0, 0, 4)
	plan := MakePlan(State{Deployment: d, Sets: []*v1.ReplicaSet{back, set(d, 2, 4, 4, 4, 4)}, Now: now})
	a := plan.Writes[0].Set.Metadata.Annotations
	if a[api.AnnotationRevision] != "3" || a[api.AnnotationRevisionHistory] != "1" || plan.Revision != "3" {
		t.Errorf("revision %s, history %s, of the deployment %s; want 3, 1, 3", a[api.AnnotationRevision], a[api.AnnotationRevisionHistory], plan.Revision)
	}
	for r := range 2000 {
		addHistory(back, int64(r))
	}
	h := back.Metadata.Annotations[api.AnnotationRevisionHistory]
	if len(h) > maxHistory || !strings.HasSuffix(h, ",1999") {
		t.Errorf("a long history has %d characters and ends with %q", len(h), h[len(h)-8:])
	}
}

func TestStatus(t *testing.T) {
	for name, tt := range map[string]struct {
		d         *v1.Deployment
		sets      []*v1.ReplicaSet
		progress  string // reason of Progressing
		available string // reason of Available
		after     time.Duration
	}{
		"just created": {
			d: deploy(3), progress: "NewReplicaSetCreated", available: "MinimumReplicasUnavailable", after: 601 * time.Second,
		},
		"pods come": {
			d: deploy(3, progressing("NewReplicaSetCreated", time.Minute)), sets: []*v1.ReplicaSet{set(deploy(3), 1, 3, 3, 1, 3)},
			progress: "ReplicaSetUpdated", available: "MinimumReplicasUnavailable", after: 601 * time.Second,
		},
		"all are there": {
			d: deploy(3, progressing("ReplicaSetUpdated", time.Minute)), sets: []*v1.ReplicaSet{set(deploy(3), 1, 3, 3, 3, 3)},
			progress: reasonAvailable, available: "MinimumReplicasAvailable",
		},
		"a pod lost later is no rollout": {
			d: deploy(3, complete), sets: []*v1.ReplicaSet{set(deploy(3), 1, 3, 3, 2, 3)},
			progress: reasonAvailable, available: "MinimumReplicasUnavailable",
		},
		"nothing moves, but there is time left": {
			d: stuck(9*time.Minute, "ReplicaSetUpdated"), sets: []*v1.ReplicaSet{set(deploy(3), 1, 3, 3, 1, 3)},
			progress: "ReplicaSetUpdated", available: "MinimumReplicasUnavailable", after: 61 * time.Second,
		},
		"nothing moved until the deadline": {
			d: stuck(11*time.Minute, "ReplicaSetUpdated"), sets: []*v1.ReplicaSet{set(deploy(3), 1, 3, 3, 1, 3)},
			progress: reasonTimedOut, available: "MinimumReplicasUnavailable",
		},
		"it moves after the deadline": {
			d: stuck(11*time.Minute, reasonTimedOut), sets: []*v1.ReplicaSet{set(deploy(3), 1, 3, 3, 2, 3)},
			progress: "ReplicaSetUpdated", available: "MinimumReplicasUnavailable", after: 601 * time.Second,
		},
		"paused": {
			d: deploy(3, paused, progressing("ReplicaSetUpdated", time.Hour)), sets: []*v1.ReplicaSet{set(deploy(3), 1, 3, 3, 1, 3)},
			progress: reasonPaused, available: "MinimumReplicasUnavailable",
		},
		"resumed: the pause does not count": {
			d: stuck(time.Hour, reasonPaused), sets: []*v1.ReplicaSet{set(deploy(3), 1, 3, 3, 1, 3)},
			progress: reasonResumed, available: "MinimumReplicasUnavailable", after: 601 * time.Second,
		},
		"a set without a condition is found": {
			d: deploy(3), sets: []*v1.ReplicaSet{set(deploy(3), 1, 3, 0, 0, 3)},
			progress: "FoundNewReplicaSet", available: "MinimumReplicasUnavailable", after: 601 * time.Second,
		},
		"no deadline, no condition": {
			d: deploy(3, func(d *v1.Deployment) { d.Spec.ProgressDeadlineSeconds = proto.Int32(1<<31 - 1) }), progress: "", available: "MinimumReplicasUnavailable",
		},
	} {
		t.Run(name, func(t *testing.T) {
			plan := MakePlan(State{Deployment: tt.d, Sets: tt.sets, Now: now})
			progress := api.GetCondition(plan.Status.Conditions, api.DeploymentProgressing).GetReason()
			available := api.GetCondition(plan.Status.Conditions, api.DeploymentAvailable).GetReason()
			if progress != tt.progress || available != tt.available || plan.After != tt.after {
				t.Errorf("progressing %q, available %q, after %v; want %q, %q, %v", progress, available, plan.After, tt.progress, tt.available, tt.after)
			}
			again := proto.CloneOf(tt.d)
			again.Status = plan.Status
			if second := MakePlan(State{Deployment: again, Sets: tt.sets, Now: now}).Status; len(tt.sets) > 0 && !proto.Equal(second, plan.Status) {
				t.Errorf("a second look at the same state changes the status:\n%s", cmp.Diff(plan.Status.String(), second.String()))
			}
		})
	}
}

// stuck is a deployment of 3 that had 1 available pod so long ago.
func stuck(ago time.Duration, reason string) *v1.Deployment {
	return deploy(3, progressing(reason, ago), func(d *v1.Deployment) {
		d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.ReadyReplicas, d.Status.AvailableReplicas = 3, 3, 1, 1
	})
}

func TestStatusCounts(t *testing.T) {
	d := deploy(10, image("web:2"), limits("3", "2"))
	s := MakePlan(State{Deployment: d, Sets: []*v1.ReplicaSet{set(d, 1, 8, 8, 7, 10), set(d, 2, 5, 4, 2, 10)}, Now: now}).Status
	got := []int32{s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas, s.UnavailableReplicas}
	if want := []int32{12, 4, 9, 9, 2}; !slices.Equal(got, want) { // the plan takes 2 of 13
		t.Errorf("replicas, updated, ready, available, unavailable: %v, want %v", got, want)
	}
}

func TestAFailureOfASetShows(t *testing.T) {
	d := deploy(3)
	s := set(d, 1, 3, 0, 0, 3)
	s.Status.Conditions = []*v1.Condition{{Type: api.ReplicaSetReplicaFailure, Status: "True", Reason: "FailedCreate", Message: "no"}}
	plan := MakePlan(State{Deployment: d, Sets: []*v1.ReplicaSet{s}, Now: now})
	c := api.GetCondition(plan.Status.Conditions, api.DeploymentReplicaFailure)
	if c.GetStatus() != "True" || c.GetReason() != "FailedCreate" || c.GetMessage() != "no" {
		t.Errorf("condition: %v", c)
	}
}
