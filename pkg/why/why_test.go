package why_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

func entry(rev int64, o api.Object, previous int64, actor, reason, message string, trigger int64) *v1.LogEntry {
	return &v1.LogEntry{
		Revision: rev, Time: timestamppb.New(time.Unix(rev, 0)), Kind: api.KindOf(o).Name, Namespace: o.GetMetadata().GetNamespace(), Name: o.GetMetadata().GetName(),
		Object: api.Wrap(o), Previous: previous, Cause: &v1.Cause{Actor: actor, Reason: reason, Message: message, Trigger: trigger},
	}
}

func pod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"}, Status: &v1.PodStatus{Phase: "Running"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func deployment(replicas int32, image string) *v1.Deployment {
	return &v1.Deployment{Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: &v1.DeploymentSpec{
		Replicas: &replicas, Template: &v1.PodTemplateSpec{Spec: &v1.PodSpec{Containers: []*v1.Container{{Name: "app", Image: image}}}},
	}}
}

// lines are the steps with what led to each, as one text.
func lines(x why.Explanation) string {
	var b strings.Builder
	for _, s := range x.Steps {
		b.WriteString(s.Text)
		for c := s.Because; c != nil; c = c.Because {
			b.WriteString(" ← " + c.Object + " " + c.Text)
			if c.Because == nil {
				b.WriteString(" [" + string(c.Origin) + "]")
			}
		}
		if s.Because == nil {
			b.WriteString(" [" + string(s.Origin) + "]")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestAPodIsExplainedDownToWhoBegan(t *testing.T) {
	ending := pod("old", func(p *v1.Pod) { p.Metadata.DeletionTimestamp = timestamppb.Now() })
	log := why.Log{}
	for _, e := range []*v1.LogEntry{
		entry(1, pod("old"), 0, "replicaset-controller", "SuccessfulCreate", "ReplicaSet web wanted 1, had 0", 0),
		entry(2, ending, 1, "admin", "Deleted", "deleted with orchctl", 0),
		entry(3, pod("new"), 0, "replicaset-controller", "SuccessfulCreate", "ReplicaSet web wanted 1, had 0", 2),
		entry(4, pod("new", func(p *v1.Pod) { p.Spec = &v1.PodSpec{NodeName: "node-2"} }), 3, "default-scheduler", "Scheduled", "placed on node-2; node-1 lacks 200m cpu", 3),
		entry(5, pod("new"), 4, "system:node:node-2", "StatusObserved", "looked", 4),
		entry(6, pod("new"), 5, "system:node:node-2", "ContainerExited", "container app was killed from outside by signal 9", 0),
	} {
		log[e.GetRevision()] = e
	}
	x := why.Explain(why.Key{Kind: "Pod", Namespace: "default", Name: "new"}, []*v1.LogEntry{log[3], log[4], log[5], log[6]}, log, why.Options{})
	want := `container app was killed from outside by signal 9 [node]
placed on node-2; node-1 lacks 200m cpu ← pod/new exists because ReplicaSet web wanted 1, had 0 ← pod/old was asked to end by user admin: deleted with orchctl [user]
exists because ReplicaSet web wanted 1, had 0 ← pod/old was asked to end by user admin: deleted with orchctl [user]
`
	if diff := cmp.Diff(want, lines(x)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if x.Object != "pod/new" || x.State != "is Running" {
		t.Errorf("%s %s", x.Object, x.State)
	}
	if all := why.Explain(why.Key{Kind: "Pod", Namespace: "default", Name: "new"}, []*v1.LogEntry{log[3], log[4], log[5], log[6]}, log, why.Options{All: true, Since: time.Unix(4, 0)}); len(all.Steps) != 3 {
		t.Errorf("all since revision 4: %s", lines(all))
	}
}

func TestAChangeByAUserNamesTheFields(t *testing.T) {
	log := why.Log{
		1: entry(1, deployment(3, "web:1"), 0, "admin", "Applied", "applied with orchctl", 0),
		2: entry(2, deployment(3, "web:2"), 1, "admin", "ImageSet", "", 0),
	}
	x := why.Explain(why.Key{Kind: "Deployment", Namespace: "default", Name: "web"}, []*v1.LogEntry{log[1], log[2]}, log, why.Options{})
	want := `was changed by user admin (spec.template.spec.containers[app].image web:1 → web:2) [user]
was created by user admin: applied with orchctl [user]
`
	if diff := cmp.Diff(want, lines(x)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// A Deployment's story has each time that it had less than it wants, and each that
// it had enough again, but no count in between.
func TestADeploymentTellsItsDips(t *testing.T) {
	counted := func(rev int64, replicas, available int32) *v1.LogEntry {
		d := deployment(replicas, "web:1")
		d.Status = &v1.DeploymentStatus{Replicas: replicas, UpdatedReplicas: replicas, AvailableReplicas: available}
		return entry(rev, d, rev-1, "deployment-controller", "StatusCounted", fmt.Sprintf("%d of %d are available", available, replicas), 0)
	}
	history := []*v1.LogEntry{
		entry(1, deployment(3, "web:1"), 0, "admin", "Applied", "applied", 0),
		counted(2, 3, 1), counted(3, 3, 2), counted(4, 3, 3), counted(5, 3, 2), counted(6, 3, 1), counted(7, 3, 3), counted(8, 3, 3),
	}
	log := why.Log{}
	for _, e := range history {
		log[e.GetRevision()] = e
	}
	var told []int64
	for _, s := range why.Explain(why.Key{Kind: "Deployment", Namespace: "default", Name: "web"}, history, log, why.Options{}).Steps {
		told = append(told, s.Revision)
	}
	if diff := cmp.Diff([]int64{8, 7, 5, 4, 1}, told); diff != "" {
		t.Errorf("revisions told (-want +got):\n%s", diff)
	}
}

func TestWhatTheLogDoesNotTellIsSaid(t *testing.T) {
	gone := entry(9, pod("web"), 8, "generic-garbage-collector", "OwnerDeleted", "its owner ReplicaSet web is gone", 7)
	gone.Deleted = true
	log := why.Log{9: gone, 7: {Revision: 7, Kind: "Secret", Withheld: true}}
	x := why.Explain(why.Key{Kind: "Pod", Namespace: "default", Name: "web"}, []*v1.LogEntry{gone}, log, why.Options{})
	want := `was deleted because its owner ReplicaSet web is gone ← a Secret changed: you may not read it [withheld]
the log no longer tells what was before revision 9 [compacted]
`
	if diff := cmp.Diff(want, lines(x)); diff != "" || x.State != "is gone" {
		t.Errorf("%s, steps (-want +got):\n%s", x.State, diff)
	}
	delete(log, 7)
	x = why.Explain(why.Key{Kind: "Pod", Namespace: "default", Name: "web"}, []*v1.LogEntry{gone}, log, why.Options{})
	if got := x.Steps[0].Because; got.Origin != why.Compacted {
		t.Errorf("a cause that was compacted: %+v", got)
	}
	if x := why.Explain(why.Key{Kind: "Pod", Name: "never"}, nil, nil, why.Options{}); x.State != "is not in the log" {
		t.Errorf("what never was %s", x.State)
	}
}

func TestWhereChainsBegin(t *testing.T) {
	for _, tt := range []struct {
		actor   string
		trigger int64
		want    why.Origin
	}{
		{"admin", 0, why.User},
		{"system:node:node-1", 0, why.Node},
		{"apiserver", 0, why.Bootstrap},
		{"node-controller", api.TriggerClock, why.Clock},
		{"node-controller", 0, why.Unknown},
		{"default-scheduler", 0, why.Unknown},
		{"", 0, why.Unknown},
	} {
		got := why.OriginOf(&v1.LogEntry{Cause: &v1.Cause{Actor: tt.actor, Trigger: tt.trigger}})
		if got != tt.want {
			t.Errorf("%q with trigger %d: %s, want %s", tt.actor, tt.trigger, got, tt.want)
		}
	}
}

func TestSecretsAreMasked(t *testing.T) {
	secret := func(applied string, data map[string][]byte) *v1.Secret {
		return &v1.Secret{Metadata: &v1.ObjectMeta{Name: "s", Annotations: map[string]string{api.AnnotationLastApplied: applied}}, Data: data}
	}
	before := secret("word1", map[string][]byte{"same": []byte("word0"), "other": []byte("word1"), "gone": []byte("word2")})
	after := secret("word3", map[string][]byte{"same": []byte("word0"), "other": []byte("word3"), "new": []byte("word4")})
	want := []why.Change{
		{Path: "data.gone", From: "***"},
		{Path: "data.new", To: "***"},
		{Path: "data.other", From: "*** (before)", To: "*** (after)"},
	}
	if diff := cmp.Diff(want, why.Changes(before, after)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	was, is, err := why.Maps(before, nil)
	if err != nil || is != nil || was["data"].(map[string]any)["same"] != "***" {
		t.Errorf("%v, %v, %v", was, is, err)
	}
	if string(before.GetData()["same"]) != "word0" {
		t.Error("the object itself was changed")
	}
}

func TestChanges(t *testing.T) {
	a, b := deployment(3, "web:1"), deployment(6, "web:1")
	b.Metadata.ResourceVersion, b.Metadata.Generation = 7, 2
	b.Metadata.Labels = map[string]string{"a.b/c": "d"}
	b.Spec.Template.Spec.Containers = append(b.Spec.Template.Spec.Containers, &v1.Container{Name: "side", Image: "s:1"})
	var got []string
	for _, c := range why.Changes(a, b) {
		got = append(got, c.String())
	}
	want := []string{
		"metadata.labels[a.b/c] = d",
		"spec.replicas 3 → 6",
		"spec.template.spec.containers[side].image = s:1",
		"spec.template.spec.containers[side].name = side",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestStates(t *testing.T) {
	ready := []*v1.Condition{{Type: api.NodeReady, Status: api.ConditionTrue}}
	for want, o := range map[string]api.Object{
		"is ready":               &v1.Node{Metadata: &v1.ObjectMeta{Name: "n"}, Status: &v1.NodeStatus{Conditions: ready}},
		"is ready, and cordoned": &v1.Node{Metadata: &v1.ObjectMeta{Name: "n"}, Spec: &v1.NodeSpec{Unschedulable: true}, Status: &v1.NodeStatus{Conditions: ready}},
		"has 3 of 4 pods healthy, needs 2 and allows 1 disruption": &v1.PodDisruptionBudget{
			Metadata: &v1.ObjectMeta{Name: "b", Namespace: "default"}, Status: &v1.PodDisruptionBudgetStatus{CurrentHealthy: 3, ExpectedPods: 4, DesiredHealthy: 2, DisruptionsAllowed: 1},
		},
		"has 0 of 3 replicas available, 0 of the newest template": deployment(3, "web:1"),
		"has 0 of 3 replicas available, 0 of the newest template; it has timed out": func() *v1.Deployment {
			d := deployment(3, "web:1")
			d.Status = &v1.DeploymentStatus{Conditions: []*v1.Condition{{Type: api.DeploymentProgressing, Status: api.ConditionFalse, Message: "it has timed out"}}}
			return d
		}(),
		"is Running": pod("web"),
	} {
		e := entry(1, o, 0, "admin", "Applied", "", 0)
		if got := why.Explain(why.KeyOf(e), []*v1.LogEntry{e}, why.Log{1: e}, why.Options{}).State; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
