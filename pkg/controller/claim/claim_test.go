package claim

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func TestDecide(t *testing.T) {
	pod := func(app, owner string) *v1.Pod {
		m := &v1.ObjectMeta{Namespace: "default", Labels: map[string]string{"app": app}}
		if owner != "" {
			m.OwnerReferences = []*v1.OwnerReference{{Uid: owner, Controller: proto.Bool(true)}}
		}
		return &v1.Pod{Metadata: m}
	}
	deleted := func(p *v1.Pod) *v1.Pod { p.Metadata.DeletionTimestamp = &timestamppb.Timestamp{}; return p }
	elsewhere := func(p *v1.Pod) *v1.Pod { p.Metadata.Namespace = "other"; return p }
	selector, err := api.ParseSelector("app=web")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		pod     *v1.Pod
		leaving bool // the owner is being deleted
		want    string
	}{
		"selected and controlled is kept":             {pod: pod("web", "me"), want: "keep"},
		"selected without a controller is adopted":    {pod: pod("web", ""), want: "adopt"},
		"controlled but not selected is released":     {pod: pod("db", "me"), want: "release"},
		"of another controller is not ours to take":   {pod: pod("web", "you")},
		"of another owner's earlier life neither":     {pod: pod("web", "me-before")},
		"neither selected nor controlled is nothing":  {pod: pod("db", "")},
		"what is being deleted is not adopted":        {pod: deleted(pod("web", ""))},
		"what is being deleted is kept":               {pod: deleted(pod("web", "me")), want: "keep"},
		"another namespace is another world":          {pod: elsewhere(pod("web", ""))},
		"an owner that is being deleted keeps":        {pod: pod("web", "me"), leaving: true, want: "keep"},
		"an owner that is being deleted adopts none":  {pod: pod("web", ""), leaving: true},
		"an owner that is being deleted frees nobody": {pod: pod("db", "me"), leaving: true},
	} {
		t.Run(name, func(t *testing.T) {
			owner := &v1.ReplicaSet{Metadata: &v1.ObjectMeta{Namespace: "default", Name: "web", Uid: "me"}}
			if tt.leaving {
				owner.Metadata.DeletionTimestamp = &timestamppb.Timestamp{}
			}
			p := Decide(owner, selector, []*v1.Pod{tt.pod})
			got := ""
			for what, list := range map[string][]*v1.Pod{"keep": p.Keep, "adopt": p.Adopt, "release": p.Release} {
				if len(list) > 0 {
					got += what
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWhatIsADemandAndWhatIsNews(t *testing.T) {
	pod := func(change func(*v1.Pod)) *v1.Pod {
		p := &v1.Pod{Metadata: &v1.ObjectMeta{Name: "p", Labels: map[string]string{"app": "web"}, Generation: 1}, Status: &v1.PodStatus{Phase: "Running"}}
		change(p)
		return p
	}
	set := func(generation int64, ready int32) *v1.ReplicaSet {
		return &v1.ReplicaSet{Metadata: &v1.ObjectMeta{Name: "s", Generation: generation}, Status: &v1.ReplicaSetStatus{ReadyReplicas: ready}}
	}
	same := func(*v1.Pod) {}
	asked := func(p *v1.Pod) { p.Metadata.DeletionTimestamp = &timestamppb.Timestamp{} }
	for name, tt := range map[string]struct {
		before, now api.Object
		demand      bool
	}{
		"a pod is made":            {(*v1.Pod)(nil), pod(same), true},
		"a pod tells of itself":    {pod(func(p *v1.Pod) { p.Status.Phase = "Pending" }), pod(same), false},
		"a pod gets a node":        {pod(same), pod(func(p *v1.Pod) { p.Metadata.Generation = 2 }), false},
		"a pod gets another label": {pod(same), pod(func(p *v1.Pod) { p.Metadata.Labels = nil }), true},
		"a pod gets another owner": {pod(same), pod(func(p *v1.Pod) {
			p.Metadata.OwnerReferences = []*v1.OwnerReference{{Uid: "u", Controller: proto.Bool(true)}}
		}), true},
		"a pod is asked to end":       {pod(same), pod(asked), true},
		"a pod has ended":             {pod(same), pod(func(p *v1.Pod) { p.Status.Phase = "Failed" }), true},
		"a pod that ended goes":       {pod(asked), (*v1.Pod)(nil), false},
		"a pod goes all at once":      {pod(same), (*v1.Pod)(nil), true},
		"a set is wanted otherwise":   {set(1, 3), set(2, 3), true},
		"a set counts its pods":       {set(1, 2), set(1, 3), false},
		"a set that nobody had known": {(*v1.ReplicaSet)(nil), set(1, 0), true},
	} {
		if got := isDemand(tt.before, tt.now); got != tt.demand {
			t.Errorf("%s: %v", name, got)
		}
	}
}
