package namespace

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func TestPlan(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	going := &v1.Pod{Metadata: &v1.ObjectMeta{Name: "going", DeletionTimestamp: timestamppb.New(now), Finalizers: []string{"example.com/hold"}}}
	for name, tt := range map[string]struct {
		content    []api.Object
		delete     int
		finalize   bool
		remaining  string // message of NamespaceContentRemaining
		finalizers string // message of NamespaceFinalizersRemaining
	}{
		"an empty one may go": {
			finalize: true, remaining: "All content successfully removed", finalizers: "All content-preserving finalizers finished",
		},
		"what is there is asked to go": {
			content: []api.Object{&v1.Pod{}, &v1.ConfigMap{}}, delete: 2,
			remaining:  "Some resources are remaining: configmaps. has 1 resource instances, pods. has 1 resource instances",
			finalizers: "All content-preserving finalizers finished",
		},
		"what is going is waited for": {
			content:    []api.Object{going},
			remaining:  "Some resources are remaining: pods. has 1 resource instances",
			finalizers: "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
		},
		"other groups are named": {
			content: []api.Object{&v1.Deployment{}}, delete: 1,
			remaining:  "Some resources are remaining: deployments.apps has 1 resource instances",
			finalizers: "All content-preserving finalizers finished",
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "team"}}
			p := MakePlan(State{Namespace: ns, Content: tt.content, Now: now})
			if len(p.Delete) != tt.delete || p.Finalize != tt.finalize {
				t.Errorf("delete %d, finalize %v; want %d, %v", len(p.Delete), p.Finalize, tt.delete, tt.finalize)
			}
			for typ, want := range map[string]string{contentRemains: tt.remaining, finalizersLeft: tt.finalizers} {
				if got := api.GetCondition(p.Status.GetConditions(), typ).GetMessage(); got != want {
					t.Errorf("%s: %q, want %q", typ, got, want)
				}
			}
			ns.Status = p.Status
			if again := MakePlan(State{Namespace: ns, Content: tt.content, Now: now.Add(time.Hour)}); !proto.Equal(again.Status, p.Status) {
				t.Error("a second look at the same state changes the status")
			}
		})
	}
}
