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
