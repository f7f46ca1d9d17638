package controller_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller"
	"orch/pkg/controller/controllertest"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a cluster with all controllers.
type fixture struct {
	*controllertest.Cluster
	t   *testing.T
	ctx context.Context
}

func newFixture(t *testing.T, agent controllertest.Agent, o controller.Options) *fixture {
	c := controllertest.Start(t)
	f := &fixture{c, t, t.Context()}
	f.node("node-1")
	c.Go(func(ctx context.Context) error { return controller.Run(ctx, c.Client, o) })
	c.Go(func(ctx context.Context) error { return agent.Run(ctx, c.Client) })
	return f
}

func (f *fixture) node(name string) {
	f.t.Helper()
	nodes := client.For[*v1.Node](f.Client)
	n, err := nodes.Create(f.ctx, &v1.Node{Metadata: &v1.ObjectMeta{Name: name}})
	if err != nil {
		f.t.Fatal(err)
	}
	n.Status = &v1.NodeStatus{Conditions: []*v1.Condition{{Type: api.NodeReady, Status: "True", LastHeartbeatTime: timestamppb.New(time.Unix(1, 0))}}}
	if _, err := nodes.UpdateStatus(f.ctx, n); err != nil {
		f.t.Fatal(err)
	}
}

// deploy makes a deployment of 3 and waits until it is complete.
func (f *fixture) deploy(namespace string) {
	f.t.Helper()
	labels := map[string]string{"app": "web"}
	deployments := client.For[*v1.Deployment](f.Client)
	if _, err := deployments.Create(f.ctx, &v1.Deployment{
		Metadata: &v1.ObjectMeta{Namespace: namespace, Name: "web"},
		Spec: &v1.DeploymentSpec{
			Replicas: proto.Int32(3), Selector: &v1.LabelSelector{MatchLabels: labels},
			Template: &v1.PodTemplateSpec{
				Metadata: &v1.ObjectMeta{Labels: labels},
				Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "c", Image: "web:1"}}},
			},
		},
	}); err != nil {
		f.t.Fatal(err)
	}
	f.Eventually("the deployment is complete", func() bool {
		d, err := deployments.Get(f.ctx, namespace, "web")
		return err == nil && d.GetStatus().GetAvailableReplicas() == 3
	})
}

func (f *fixture) delete(o client.DeleteOptions) {
	f.t.Helper()
	if _, err := client.For[*v1.Deployment](f.Client).Delete(f.ctx, "default", "web", o); err != nil {
		f.t.Fatal(err)
	}
}

// names are the kinds and names of what there is, events apart.
func (f *fixture) names(namespace string) []string {
	f.t.Helper()
	var all []string
	for _, k := range api.Kinds() {
		if !k.Namespaced || k.Name == "Event" {
			continue
		}
		l, err := client.ForKind(f.Client, k).List(f.ctx, client.ListOptions{Namespace: namespace})
		if err != nil {
			f.t.Fatal(err)
		}
		for _, o := range l.Items {
			all = append(all, k.Name+" "+o.GetMetadata().GetName())
		}
	}
	return all
}

// ends returns in which order kinds of objects went for good, without repeats.
func (f *fixture) ends() string {
	f.t.Helper()
	var order []string
	for e, err := range f.Client.History(f.ctx, &v1.HistoryRequest{}) {
		if err != nil {
			f.t.Fatal(err)
		}
		if e.GetDeleted() && e.GetKind() != "Event" && !slices.Contains(order, e.GetKind()) {
			order = append(order, e.GetKind())
		}
	}
	return strings.Join(order, " ")
}

func TestDeletedInTheBackgroundAnOwnerGoesFirst(t *testing.T) {
	f := newFixture(t, controllertest.Agent{}, controller.Options{})
	f.deploy("default")
	f.delete(client.DeleteOptions{})
	f.Eventually("nothing is left", func() bool { return len(f.names("default")) == 0 })
	if got, want := f.ends(), "Deployment ReplicaSet Pod"; got != want {
		t.Errorf("went: %s, want %s", got, want)
	}
}

func TestDeletedInTheForegroundAnOwnerGoesLast(t *testing.T) {
	f := newFixture(t, controllertest.Agent{}, controller.Options{})
	f.deploy("default")
	f.delete(client.DeleteOptions{PropagationPolicy: api.PropagationForeground})
	f.Eventually("nothing is left", func() bool { return len(f.names("default")) == 0 })
	if got, want := f.ends(), "Pod ReplicaSet Deployment"; got != want {
		t.Errorf("went: %s, want %s", got, want)
	}
}

func TestDeletedWithOrphansAnOwnerGoesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, controllertest.Agent{}, controller.Options{})
		f.deploy("default")
		f.delete(client.DeleteOptions{PropagationPolicy: api.PropagationOrphan})
		f.Eventually("the deployment is gone", func() bool {
			return !slices.Contains(f.names("default"), "Deployment web")
		})
		f.Quiet()
		if got := len(f.names("default")); got != 4 {
			t.Errorf("%d objects are left, want the set and its 3 pods: %v", got, f.names("default"))
		}
		sets, err := client.For[*v1.ReplicaSet](f.Client).List(f.ctx, client.ListOptions{})
		if err != nil || len(sets.Items) != 1 || len(sets.Items[0].GetMetadata().GetOwnerReferences()) != 0 {
			t.Errorf("sets: %v, %v; want one without owners", sets.Items, err)
		}
	})
}

func TestWhatNamesAnOwnerThatNeverWasIsCollected(t *testing.T) {
	f := newFixture(t, controllertest.Agent{}, controller.Options{})
	maps := client.For[*v1.ConfigMap](f.Client)
	owner := &v1.OwnerReference{ApiVersion: "v1", Kind: "ConfigMap", Name: "kept", Uid: "another-uid"}
	for name, owners := range map[string][]*v1.OwnerReference{"kept": nil, "dangling": {owner}} {
		if _, err := maps.Create(f.ctx, &v1.ConfigMap{Metadata: &v1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: owners}}); err != nil {
			t.Fatal(err)
		}
	}
	f.Eventually("what names the uid of nobody is gone", func() bool { return slices.Equal(f.names("default"), []string{"ConfigMap kept"}) })
}

func TestOwnersInACircleGoInTheForeground(t *testing.T) {
	f := newFixture(t, controllertest.Agent{}, controller.Options{})
	maps := client.For[*v1.ConfigMap](f.Client)
	made := map[string]*v1.ConfigMap{}
	for _, name := range []string{"a", "b"} {
		m, err := maps.Create(f.ctx, &v1.ConfigMap{Metadata: &v1.ObjectMeta{Namespace: "default", Name: name}})
		if err != nil {
			t.Fatal(err)
		}
		made[name] = m
	}
	for name, owner := range map[string]string{"a": "b", "b": "a"} {
		if _, err := maps.Modify(f.ctx, "default", name, func(m *v1.ConfigMap) error {
			ref := api.NewControllerRef(made[owner])
			m.Metadata.OwnerReferences = []*v1.OwnerReference{ref}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := maps.Delete(f.ctx, "default", "a", client.DeleteOptions{PropagationPolicy: api.PropagationForeground}); err != nil {
		t.Fatal(err)
	}
	f.Eventually("both are gone", func() bool { return len(f.names("default")) == 0 })
}

func TestANamespaceEmptiesItselfGracefully(t *testing.T) {
	hold := make(chan struct{})
	f := newFixture(t, controllertest.Agent{Holds: func(*v1.Pod) bool {
		select {
		case <-hold:
			return false
		default:
			return true
		}
	}}, controller.Options{})
	namespaces := client.For[*v1.Namespace](f.Client)
	if _, err := namespaces.Create(f.ctx, &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "team"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.For[*v1.ConfigMap](f.Client).Create(f.ctx, &v1.ConfigMap{Metadata: &v1.ObjectMeta{Namespace: "team", Name: "m"}}); err != nil {
		t.Fatal(err)
	}
	f.deploy("team")
	if _, err := namespaces.Delete(f.ctx, "", "team", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.Eventually("it says what remains", func() bool {
		ns, err := namespaces.Get(f.ctx, "", "team")
		if err != nil {
			t.Fatal(err)
		}
		return api.GetCondition(ns.GetStatus().GetConditions(), "NamespaceContentRemaining").GetMessage() == "Some resources are remaining: pods. has 3 resource instances"
	})
	close(hold)
	pods := client.For[*v1.Pod](f.Client)
	l, err := pods.List(f.ctx, client.ListOptions{Namespace: "team"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Items { // the agent has looked at them already
		if _, err := pods.Delete(f.ctx, "team", p.GetMetadata().GetName(), client.DeleteOptions{GracePeriodSeconds: proto.Int64(0)}); err != nil {
			t.Fatal(err)
		}
	}
	f.Eventually("it is gone", func() bool {
		_, err := namespaces.Get(f.ctx, "", "team")
		return errors.Is(err, api.ErrNotFound)
	})
}

func TestASilentNodeIsUnknownAndItsPodsAreNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, controllertest.Agent{}, controller.Options{NodeMonitorGrace: time.Second})
		f.deploy("default")
		f.Eventually("the node is unknown", func() bool {
			n, err := client.For[*v1.Node](f.Client).Get(f.ctx, "", "node-1")
			if err != nil {
				t.Fatal(err)
			}
			c := api.GetCondition(n.GetStatus().GetConditions(), api.NodeReady)
			return c.GetStatus() == "Unknown" && c.GetReason() == "NodeStatusUnknown"
		})
		f.Eventually("the deployment is not available", func() bool {
			d, err := client.For[*v1.Deployment](f.Client).Get(f.ctx, "default", "web")
			if err != nil {
				t.Fatal(err)
			}
			return d.GetStatus().GetReadyReplicas() == 0 && d.GetStatus().GetReplicas() == 3
		})
	})
}

func TestPodsOfADeletedNodeEndAndAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, controllertest.Agent{Node: "node-1"}, controller.Options{NodeMonitorGrace: time.Second})
		f.deploy("default")
		pods := client.For[*v1.Pod](f.Client)
		before, err := pods.List(f.ctx, client.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.For[*v1.Node](f.Client).Delete(f.ctx, "", "node-1", client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		f.Eventually("the first three pods are gone", func() bool {
			for _, p := range before.Items {
				if now, err := pods.Get(f.ctx, "default", p.GetMetadata().GetName()); err == nil && now.GetMetadata().GetUid() == p.GetMetadata().GetUid() {
					return false
				}
			}
			return true
		})
		f.node("node-1") // or those in their place would end too
	})
}

func TestEventsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, controllertest.Agent{}, controller.Options{EventTTL: time.Second})
		f.deploy("default")
		f.Eventually("an event has come and gone", func() bool {
			for e, err := range f.Client.History(f.ctx, &v1.HistoryRequest{Kind: "Event", Namespace: "default"}) {
				if err == nil && e.GetDeleted() {
					return true
				}
			}
			return false
		})
	})
}

func TestControllersGoOnAfterTheServerWasAway(t *testing.T) {
	f := newFixture(t, controllertest.Agent{}, controller.Options{})
	f.deploy("default")
	f.StopServer()
	f.StartServer()
	deployments := client.For[*v1.Deployment](f.Client)
	scale := func() error {
		_, err := deployments.Modify(f.ctx, "default", "web", func(d *v1.Deployment) error { d.Spec.Replicas = proto.Int32(5); return nil })
		return err
	}
	err := scale()
	for errors.Is(err, api.ErrUnavailable) { // just started
		err = scale()
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Eventually("the new pods are made", func() bool {
		d, err := deployments.Get(f.ctx, "default", "web")
		return err == nil && d.GetStatus().GetReplicas() == 5
	})
}

func TestAnIdleClusterWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, controllertest.Agent{}, controller.Options{})
		f.deploy("default")
		before := f.Quiet()
		// An update of something that no controller cares about.
		if _, err := client.For[*v1.ConfigMap](f.Client).Create(f.ctx, &v1.ConfigMap{Metadata: &v1.ObjectMeta{Namespace: "default", Name: "m"}}); err != nil {
			t.Fatal(err)
		}
		f.Quiet()
		for e, err := range f.Client.History(f.ctx, &v1.HistoryRequest{AfterRevision: before}) {
			if err != nil {
				t.Fatal(err)
			}
			if actor := e.GetCause().GetActor(); actor != "test" {
				t.Errorf("%s wrote %s %s: %s", actor, e.GetKind(), e.GetName(), e.GetCause().GetMessage())
			}
		}
	})
}
