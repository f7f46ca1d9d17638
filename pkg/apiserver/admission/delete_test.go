package admission_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/apiserver/admission"
	v1 "orch/proto/v1"
)

func TestDelete(t *testing.T) {
	now := time.Unix(1000, 0)
	running := func(change func(*v1.Pod)) *v1.Pod {
		p := &v1.Pod{
			Metadata: &v1.ObjectMeta{Name: "web", Generation: 1},
			Spec:     &v1.PodSpec{NodeName: "node-1", TerminationGracePeriodSeconds: proto.Int64(30)},
			Status:   &v1.PodStatus{Phase: api.PodRunning},
		}
		if change != nil {
			change(p)
		}
		return p
	}
	ending := func(at, grace int64) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Metadata.DeletionTimestamp = &timestamppb.Timestamp{Seconds: at}
			p.Metadata.DeletionGracePeriodSeconds = &grace
		}
	}
	tests := map[string]struct {
		old    api.Object
		asked  *int64
		policy string

		gone       bool
		at, grace  int64
		finalizers []string
	}{
		"a running pod gets its own grace period": {
			old: running(nil), at: 1030, grace: 30,
		},
		"a running pod gets the grace period that is asked for": {
			old: running(nil), asked: proto.Int64(5), at: 1005, grace: 5,
		},
		"a grace period of 0 removes a running pod": {
			old: running(nil), asked: proto.Int64(0), gone: true,
		},
		"a negative grace period is one second": {
			old: running(nil), asked: proto.Int64(-1), at: 1001, grace: 1,
		},
		"a pod without a node goes at once": {
			old: running(func(p *v1.Pod) { p.Spec.NodeName = "" }), gone: true,
		},
		"a pod that has ended goes at once": {
			old: running(func(p *v1.Pod) { p.Status.Phase = api.PodFailed }), asked: proto.Int64(60), gone: true,
		},
		"a second request does not change when a pod ends": {
			old: running(ending(1020, 30)), at: 1020, grace: 30,
		},
		"a second request may bring the end forward": {
			old: running(ending(1020, 30)), asked: proto.Int64(5), at: 995, grace: 5,
		},
		"a second request may not put the end off": {
			old: running(ending(1020, 30)), asked: proto.Int64(300), at: 1020, grace: 30,
		},
		"a second request with 0 removes the pod": {
			old: running(ending(1020, 30)), asked: proto.Int64(0), gone: true,
		},
		"finalizers hold a pod also at a grace period of 0": {
			old: running(func(p *v1.Pod) { p.Metadata.Finalizers = []string{"x/y"} }), asked: proto.Int64(0),
			at: 1000, finalizers: []string{"x/y"},
		},
		"what is no pod goes at once": {
			old: &v1.Deployment{Metadata: &v1.ObjectMeta{Name: "web"}}, asked: proto.Int64(30), gone: true,
		},
		"in the foreground an owner waits for what it owns": {
			old: &v1.Deployment{Metadata: &v1.ObjectMeta{Name: "web"}}, policy: "Foreground",
			at: 1000, finalizers: []string{"foregroundDeletion"},
		},
		"an owner of orphans waits until they are set free": {
			old: &v1.Deployment{Metadata: &v1.ObjectMeta{Name: "web"}}, policy: "Orphan",
			at: 1000, finalizers: []string{"orphan"},
		},
		"another policy takes the place of the one before": {
			old: &v1.Deployment{Metadata: &v1.ObjectMeta{Name: "web", Finalizers: []string{"orphan", "x/y"}}}, policy: "Foreground",
			at: 1000, finalizers: []string{"x/y", "foregroundDeletion"},
		},
		"in the background an owner that waited goes": {
			old: &v1.Deployment{Metadata: &v1.ObjectMeta{Name: "web", Finalizers: []string{"foregroundDeletion"}}}, policy: "Background",
			gone: true,
		},
		"no policy keeps what was chosen": {
			old: &v1.Deployment{Metadata: &v1.ObjectMeta{Name: "web", Finalizers: []string{"foregroundDeletion"}}},
			at:  1000, finalizers: []string{"foregroundDeletion"},
		},
		"a namespace waits for its objects": {
			old: &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "team"}, Spec: &v1.NamespaceSpec{Finalizers: []string{"kubernetes"}}},
			at:  1000,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := proto.Clone(tt.old)
			next := admission.Delete(tt.old, tt.asked, tt.policy, now)
			if diff := cmp.Diff(before, proto.Message(tt.old), protocmp.Transform()); diff != "" {
				t.Fatalf("Delete changed its argument: %s", diff)
			}
			if gone := !admission.Held(next); gone != tt.gone || gone {
				if gone != tt.gone {
					t.Errorf("gone: %v, want %v", gone, tt.gone)
				}
				return
			}
			m := next.GetMetadata()
			if m.GetDeletionTimestamp().GetSeconds() != tt.at || m.GetDeletionGracePeriodSeconds() != tt.grace {
				t.Errorf("ends at %d after %d s, want at %d after %d s", m.GetDeletionTimestamp().GetSeconds(), m.GetDeletionGracePeriodSeconds(), tt.at, tt.grace)
			}
			if diff := cmp.Diff(tt.finalizers, m.GetFinalizers()); diff != "" {
				t.Errorf("finalizers: %s", diff)
			}
			n, ok := next.(*v1.Namespace)
			if ok && n.GetStatus().GetPhase() != api.NamespaceTerminating {
				t.Errorf("phase %q", n.GetStatus().GetPhase())
			}
		})
	}
}
