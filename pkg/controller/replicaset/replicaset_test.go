package replicaset_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller/controllertest"
	"orch/pkg/controller/replicaset"
	"orch/pkg/informer"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	*controllertest.Cluster
	t      *testing.T
	ctx    context.Context
	sets   client.Resource[*v1.ReplicaSet]
	pods   client.Resource[*v1.Pod]
	mirror *informer.Informer[*v1.Pod] // the controller's, of pods
}

func newFixture(t *testing.T, agent controllertest.Agent) *fixture {
	c := controllertest.Start(t)
	f := &fixture{c, t, t.Context(), client.For[*v1.ReplicaSet](c.Client), client.For[*v1.Pod](c.Client), nil}
	sets, pods := informer.New(f.sets, informer.Options{}), informer.New(f.pods, informer.Options{})
	f.mirror = pods
	r := replicaset.New(c.Client, sets, pods, nil)
	c.Go(sets.Run)
	c.Go(pods.Run)
	c.Go(r.Run)
	c.Go(func(ctx context.Context) error { return agent.Run(ctx, c.Client) })
	return f
}

func webSet(n int32) *v1.ReplicaSet {
	labels := map[string]string{"app": "web"}
	return &v1.ReplicaSet{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: &v1.ReplicaSetSpec{
			Replicas: &n, Selector: &v1.LabelSelector{MatchLabels: labels},
			Template: &v1.PodTemplateSpec{
				Metadata: &v1.ObjectMeta{Labels: labels},
				Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "c", Image: "web:1"}}},
			},
		},
	}
}

func (f *fixture) create(s *v1.ReplicaSet) *v1.ReplicaSet {
	f.t.Helper()
	made, err := f.sets.Create(f.ctx, s)
	if err != nil {
		f.t.Fatal(err)
	}
	return made
}

func (f *fixture) list() []*v1.Pod {
	l, err := f.pods.List(f.ctx, client.ListOptions{Namespace: "default"})
	if err != nil {
		f.t.Fatal(err)
	}
	return l.Items
}

func (f *fixture) waitForStatus(replicas, available int32) {
	f.t.Helper()
	f.Eventually(fmt.Sprintf("%d replicas, %d available", replicas, available), func() bool {
		s, err := f.sets.Get(f.ctx, "default", "web")
		if err != nil {
			f.t.Fatal(err)
		}
		st := s.GetStatus()
		return st.GetReplicas() == replicas && st.GetAvailableReplicas() == available &&
			st.GetObservedGeneration() == s.GetMetadata().GetGeneration()
	})
}

func (f *fixture) scale(n int32) {
	f.t.Helper()
	if _, err := f.sets.Modify(f.ctx, "default", "web", func(s *v1.ReplicaSet) error { s.Spec.Replicas = &n; return nil }); err != nil {
		f.t.Fatal(err)
	}
}

func TestTheNumberOfPodsFollowsTheSetAndNothingIsMadeTwice(t *testing.T) {
	f := newFixture(t, controllertest.Agent{})
	f.create(webSet(10))
	f.waitForStatus(10, 10)
	f.scale(3)
	f.waitForStatus(3, 3)
	f.scale(6)
	f.waitForStatus(6, 6)

	made := 0
	for e, err := range f.Client.History(f.ctx, &v1.HistoryRequest{Kind: "Pod", Namespace: "default"}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.GetPrevious() == 0 {
			made++
			if c := e.GetCause(); c.GetActor() != replicaset.Name || c.GetReason() != "SuccessfulCreate" || c.GetTrigger() == 0 {
				t.Errorf("cause of a new pod: %v", c)
			}
		}
	}
	if made != 13 {
		t.Errorf("%d pods were made, want 13: 10, and 3 after the scale-down to 3", made)
	}
}

func TestADeletedPodIsReplaced(t *testing.T) {
	f := newFixture(t, controllertest.Agent{})
	f.create(webSet(2))
	f.waitForStatus(2, 2)
	victim := f.list()[0].GetMetadata()
	if _, err := f.pods.Delete(f.ctx, "default", victim.GetName(), client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.Eventually("another pod in its place", func() bool {
		pods := f.list()
		return len(pods) == 2 && pods[0].GetMetadata().GetUid() != victim.GetUid() && pods[1].GetMetadata().GetUid() != victim.GetUid()
	})
}

func TestPodsAreAdoptedAndReleasedByTheirLabels(t *testing.T) {
	f := newFixture(t, controllertest.Agent{})
	orphan := &v1.Pod{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "orphan", Labels: map[string]string{"app": "web"}},
		Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "c", Image: "web:1"}}},
	}
	if _, err := f.pods.Create(f.ctx, orphan); err != nil {
		t.Fatal(err)
	}
	// It would make two pods beside one that it has not heard of, and then one of
	// the three goes: perhaps the orphan.
	f.Eventually("the controller has heard of the orphan", func() bool { return len(f.mirror.List()) == 1 })
	set := f.create(webSet(2))
	owner := func() string {
		p, err := f.pods.Get(f.ctx, "default", "orphan")
		if err != nil {
			t.Fatal(err)
		}
		return api.ControllerOf(p).GetUid()
	}
	f.Eventually("the orphan is adopted", func() bool { return owner() == set.GetMetadata().GetUid() })
	f.waitForStatus(2, 2)

	if _, err := f.pods.Modify(f.ctx, "default", "orphan", func(p *v1.Pod) error { p.Metadata.Labels["app"] = "other"; return nil }); err != nil {
		t.Fatal(err)
	}
	f.Eventually("it is released, and replaced", func() bool { return owner() == "" && len(f.list()) == 3 })
}

func TestAPodThatCannotBeMadeIsACondition(t *testing.T) {
	f := newFixture(t, controllertest.Agent{})
	s := webSet(5)
	s.Spec.Template.Metadata.Finalizers = []string{"not a finalizer"} // looked at in pods only
	made := f.create(s)
	reason := func() string {
		s, err := f.sets.Get(f.ctx, "default", made.GetMetadata().GetName())
		if err != nil {
			t.Fatal(err)
		}
		return api.GetCondition(s.GetStatus().GetConditions(), api.ReplicaSetReplicaFailure).GetReason()
	}
	f.Eventually("the condition ReplicaFailure", func() bool { return reason() == "FailedCreate" })
}

func TestAPodThatItsNamespaceRefusesIsAConditionAndAnEvent(t *testing.T) {
	f := newFixture(t, controllertest.Agent{})
	s := webSet(3)
	s.Spec.Template.Spec.HostNetwork = true
	made := f.create(s)
	const refused = `violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`
	f.Eventually("the condition ReplicaFailure", func() bool {
		s, err := f.sets.Get(f.ctx, "default", made.GetMetadata().GetName())
		if err != nil {
			t.Fatal(err)
		}
		c := api.GetCondition(s.GetStatus().GetConditions(), api.ReplicaSetReplicaFailure)
		return c.GetReason() == "FailedCreate" && strings.HasSuffix(c.GetMessage(), refused)
	})
	f.Eventually("the event FailedCreate", func() bool {
		events, err := client.For[*v1.Event](f.Client).List(f.ctx, client.ListOptions{Namespace: "default"})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(events.Items, func(e *v1.Event) bool {
			return e.GetReason() == "FailedCreate" && e.GetType() == api.EventWarning &&
				strings.HasPrefix(e.GetMessage(), "Error creating: pods \"") && strings.HasSuffix(e.GetMessage(), refused)
		})
	})
}

func TestWhatChangesNothingIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, controllertest.Agent{})
		f.create(webSet(3))
		f.waitForStatus(3, 3)
		before := f.Quiet()
		name := f.list()[0].GetMetadata().GetName()
		if _, err := f.pods.Modify(f.ctx, "default", name, func(p *v1.Pod) error {
			p.Metadata.Annotations = map[string]string{"note": "x"} // wakes the controller, but is no reason to write
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		f.Quiet()
		var written []string
		for e, err := range f.Client.History(f.ctx, &v1.HistoryRequest{AfterRevision: before}) {
			if err != nil {
				t.Fatal(err)
			}
			written = append(written, e.GetKind()+" by "+e.GetCause().GetActor())
		}
		if d := cmp.Diff([]string{"Pod by test"}, written); d != "" {
			t.Errorf("writes (-want +got):\n%s", d)
		}
	})
}
