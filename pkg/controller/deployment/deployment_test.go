package deployment_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller/controllertest"
	"orch/pkg/controller/deployment"
	"orch/pkg/controller/replicaset"
	"orch/pkg/informer"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	*controllertest.Cluster
	t           *testing.T
	ctx         context.Context
	deployments client.Resource[*v1.Deployment]
	sets        client.Resource[*v1.ReplicaSet]
	pods        client.Resource[*v1.Pod]
}

func newFixture(t *testing.T, agent controllertest.Agent) *fixture {
	c := controllertest.Start(t)
	f := &fixture{
		Cluster: c, t: t, ctx: t.Context(),
		deployments: client.For[*v1.Deployment](c.Client), sets: client.For[*v1.ReplicaSet](c.Client), pods: client.For[*v1.Pod](c.Client),
	}
	deployments, sets, pods := informer.New(f.deployments, informer.Options{}), informer.New(f.sets, informer.Options{}), informer.New(f.pods, informer.Options{})
	d := deployment.New(c.Client, deployments, sets, pods, nil)
	r := replicaset.New(c.Client, sets, pods, nil)
	for _, run := range []func(context.Context) error{deployments.Run, sets.Run, pods.Run, d.Run, r.Run} {
		c.Go(run)
	}
	c.Go(func(ctx context.Context) error { return agent.Run(ctx, c.Client) })
	return f
}

func web(n int32, surge, unavailable string) *v1.Deployment {
	labels := map[string]string{"app": "web"}
	return &v1.Deployment{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: &v1.DeploymentSpec{
			Replicas: &n, Selector: &v1.LabelSelector{MatchLabels: labels},
			Template: &v1.PodTemplateSpec{
				Metadata: &v1.ObjectMeta{Labels: labels},
				Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "c", Image: "web:1"}}},
			},
			Strategy: &v1.DeploymentStrategy{RollingUpdate: &v1.RollingUpdateDeployment{
				MaxSurge: api.ParseIntOrString(surge), MaxUnavailable: api.ParseIntOrString(unavailable),
			}},
		},
	}
}

func (f *fixture) create(d *v1.Deployment) {
	f.t.Helper()
	if _, err := f.deployments.Create(f.ctx, d); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) change(how func(*v1.Deployment)) {
	f.t.Helper()
	if _, err := f.deployments.Modify(f.ctx, "default", "web", func(d *v1.Deployment) error { how(d); return nil }); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) get() *v1.Deployment {
	f.t.Helper()
	d, err := f.deployments.Get(f.ctx, "default", "web")
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

// rolledOut is what `rollout status` waits for.
func (f *fixture) rolledOut() {
	f.t.Helper()
	f.Eventually("rolled out", func() bool {
		d := f.get()
		n, s := d.GetSpec().GetReplicas(), d.GetStatus()
		return s.GetObservedGeneration() >= d.GetMetadata().GetGeneration() &&
			s.GetUpdatedReplicas() == n && s.GetReplicas() == n && s.GetAvailableReplicas() == n
	})
}

func (f *fixture) images() string {
	l, err := f.pods.List(f.ctx, client.ListOptions{Namespace: "default"})
	if err != nil {
		f.t.Fatal(err)
	}
	count := map[string]int{}
	for _, p := range l.Items {
		count[p.GetSpec().GetContainers()[0].GetImage()]++
	}
	return fmt.Sprint(count)
}

func image(i string) func(*v1.Deployment) {
	return func(d *v1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = i }
}

// watchPods replays the log and says what the extremes were of pods that are
// not going, and of those that are ready, after a revision.
func (f *fixture) watchPods(after int64) (most, leastReady int) {
	f.t.Helper()
	live := map[string]*v1.Pod{}
	leastReady = 1 << 20
	for e, err := range f.Client.History(f.ctx, &v1.HistoryRequest{Kind: "Pod", Namespace: "default"}) {
		if err != nil {
			f.t.Fatal(err)
		}
		p := api.Unwrap(e.GetObject()).(*v1.Pod)
		delete(live, p.GetMetadata().GetUid())
		if !e.GetDeleted() && api.IsPodActive(p) {
			live[p.GetMetadata().GetUid()] = p
		}
		if e.GetRevision() <= after {
			continue
		}
		ready := 0
		for _, p := range live {
			if api.IsPodReady(p) {
				ready++
			}
		}
		most, leastReady = max(most, len(live)), min(leastReady, ready)
	}
	return most, leastReady
}

func TestARollingUpdateKeepsItsPromiseAtEveryRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, controllertest.Agent{})
		f.create(web(6, "2", "1"))
		f.rolledOut()
		if got := f.images(); got != "map[web:1:6]" {
			t.Fatalf("pods: %s", got)
		}
		before := f.Quiet()
		f.change(image("web:2"))
		f.rolledOut()
		f.Eventually("only new pods", func() bool { return f.images() == "map[web:2:6]" })
		if most, least := f.watchPods(before); most > 8 || least < 5 {
			t.Errorf("up to %d pods and down to %d ready, promised were 8 and 5", most, least)
		}

		before = f.Quiet()
		f.change(func(d *v1.Deployment) { image("web:1")(d); d.Spec.Replicas = proto.Int32(3) })
		f.rolledOut()
		f.Eventually("undone, and scaled", func() bool { return f.images() == "map[web:1:3]" })
		if _, least := f.watchPods(before); least < 2 {
			t.Errorf("down to %d ready, promised were 2", least)
		}
		if got := f.get().GetMetadata().GetAnnotations()[api.AnnotationRevision]; got != "3" {
			t.Errorf("revision %s, want 3", got)
		}
		sets, err := f.sets.List(f.ctx, client.ListOptions{})
		if err != nil || len(sets.Items) != 2 {
			t.Errorf("%d sets (%v), want the 2 templates that there were", len(sets.Items), err)
		}
	})
}

func TestABadImageStopsTheRolloutAndUndoRepairsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, controllertest.Agent{Ready: func(p *v1.Pod) bool { return p.GetSpec().GetContainers()[0].GetImage() != "web:bad" }})
		f.create(web(4, "1", "1"))
		f.rolledOut()
		before := f.Quiet()
		f.change(image("web:bad"))
		f.Eventually("it stands still", func() bool { return f.images() == "map[web:1:3 web:bad:2]" })
		f.change(image("web:1"))
		f.rolledOut()
		f.Eventually("all is as before", func() bool { return f.images() == "map[web:1:4]" })
		if most, least := f.watchPods(before); most > 5 || least < 3 {
			t.Errorf("up to %d pods and down to %d ready, promised were 5 and 3", most, least)
		}
	})
}

func TestRecreateNeverRunsOldAndNewTogether(t *testing.T) {
	f := newFixture(t, controllertest.Agent{})
	d := web(3, "1", "0")
	d.Spec.Strategy = &v1.DeploymentStrategy{Type: api.StrategyRecreate}
	f.create(d)
	f.rolledOut()
	f.change(image("web:2"))
	f.rolledOut()
	live := map[string]string{} // uid to image, until it is really gone
	for e, err := range f.Client.History(f.ctx, &v1.HistoryRequest{Kind: "Pod", Namespace: "default"}) {
		if err != nil {
			t.Fatal(err)
		}
		p := api.Unwrap(e.GetObject()).(*v1.Pod)
		live[p.GetMetadata().GetUid()] = p.GetSpec().GetContainers()[0].GetImage()
		if e.GetDeleted() {
			delete(live, p.GetMetadata().GetUid())
		}
		images := map[string]bool{}
		for _, i := range live {
			images[i] = true
		}
		if len(images) > 1 {
			t.Fatalf("at revision %d pods of both templates exist: %v", e.GetRevision(), live)
		}
	}
	if got := f.images(); got != "map[web:2:3]" {
		t.Errorf("pods: %s", got)
	}
}

func TestPauseHoldsARolloutAndResumeLetsItGo(t *testing.T) {
	f := newFixture(t, controllertest.Agent{})
	f.create(web(2, "1", "0"))
	f.rolledOut()
	f.change(func(d *v1.Deployment) { d.Spec.Paused = true; image("web:2")(d) })
	f.Eventually("it says so", func() bool {
		d := f.get()
		return d.GetStatus().GetObservedGeneration() >= d.GetMetadata().GetGeneration() &&
			api.GetCondition(d.GetStatus().GetConditions(), api.DeploymentProgressing).GetReason() == "DeploymentPaused"
	})
	f.change(func(d *v1.Deployment) { d.Spec.Replicas = proto.Int32(4) })
	f.Eventually("it scales", func() bool { return f.get().GetStatus().GetAvailableReplicas() == 4 })
	if got := f.images(); got != "map[web:1:4]" {
		t.Errorf("pods while paused: %s", got)
	}
	f.change(func(d *v1.Deployment) { d.Spec.Paused = false })
	f.rolledOut()
	f.Eventually("it rolls", func() bool { return f.images() == "map[web:2:4]" })
}

func TestANameTakenByAnotherTemplateIsCountedAndGoneRound(t *testing.T) {
	f := newFixture(t, controllertest.Agent{})
	d := web(1, "1", "0")
	defaulted := api.Clone(d)
	api.Default(defaulted)
	squatter := &v1.ReplicaSet{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "web-" + api.TemplateHash(defaulted.GetSpec().GetTemplate(), 0)},
		Spec: &v1.ReplicaSetSpec{
			Replicas: proto.Int32(0), Selector: &v1.LabelSelector{MatchLabels: map[string]string{"app": "other"}},
			Template: &v1.PodTemplateSpec{
				Metadata: &v1.ObjectMeta{Labels: map[string]string{"app": "other"}},
				Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "c", Image: "other:1"}}},
			},
		},
	}
	if _, err := f.sets.Create(f.ctx, squatter); err != nil {
		t.Fatal(err)
	}
	f.create(d)
	f.rolledOut()
	if n := f.get().GetStatus().GetCollisionCount(); n != 1 {
		t.Errorf("%d collisions counted, want 1", n)
	}
}

func TestWhatHappenedIsToldInEvents(t *testing.T) {
	f := newFixture(t, controllertest.Agent{})
	f.create(web(3, "1", "0"))
	f.rolledOut()
	var hash string
	f.Eventually("the event", func() bool {
		l, err := client.For[*v1.Event](f.Client).List(f.ctx, client.ListOptions{Namespace: "default"})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range l.Items {
			if rest, ok := strings.CutPrefix(e.GetMessage(), "Scaled up replica set web-"); ok && e.GetReason() == "ScalingReplicaSet" {
				hash, ok = strings.CutSuffix(rest, " from 0 to 3")
				return ok
			}
		}
		return false
	})
	if _, err := f.sets.Get(f.ctx, "default", "web-"+hash); err != nil {
		t.Errorf("the set that the event names: %v", err)
	}
}

func TestWhatIsCompleteIsNotWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, controllertest.Agent{})
		f.create(web(2, "1", "0"))
		f.rolledOut()
		before := f.Quiet()
		f.change(func(d *v1.Deployment) { d.Metadata.Labels = map[string]string{"note": "x"} }) // wakes the controller
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
