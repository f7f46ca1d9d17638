package apiserver_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/identity"
	"orch/pkg/store"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

func pause(t *testing.T, c *client.Client, name string, paused bool) *v1.Controller {
	t.Helper()
	return must[*v1.Controller](t)(c.Controllers().Pause(t.Context(), &v1.PauseRequest{Controller: name, Paused: paused}))
}

// heldOf is what is held of a controller.
func heldOf(t *testing.T, c *client.Client, name string) []*v1.HeldWrite {
	t.Helper()
	for _, one := range must[*v1.ListControllersResponse](t)(c.Controllers().ListControllers(t.Context(), &v1.ListControllersRequest{})).GetControllers() {
		if one.GetName() == name {
			return one.GetHeld()
		}
	}
	t.Fatalf("there is no controller %s", name)
	return nil
}

func TestAPausedControllerWritesNothingAndShowsWhatItWould(t *testing.T) {
	s := start(t)
	pods := client.For[*v1.Pod](s.Client)
	there := must[*v1.Pod](t)(pods.Create(t.Context(), pod("there")))
	pause(t, s.Client, "replicaset", true)
	sets := client.For[*v1.Pod](s.As("replicaset-controller"))
	before := s.store.Revision()

	ctx := client.WithCause(client.WithTrigger(t.Context(), 5), "Made", "wanted 2, had 1")
	made := pod("")
	made.Metadata.GenerateName = "web-"
	changed := api.Clone(there)
	changed.Metadata.Labels = map[string]string{"app": "other"}
	ready := api.Clone(there)
	ready.Status.Phase = api.PodRunning
	for name, write := range map[string]func() error{
		"create":        func() error { _, err := sets.Create(ctx, made); return err },
		"update":        func() error { _, err := sets.Update(ctx, changed); return err },
		"update status": func() error { _, err := sets.UpdateStatus(ctx, ready); return err },
		"delete": func() error {
			_, err := sets.Delete(ctx, "default", "there", client.DeleteOptions{})
			return err
		},
	} {
		if err := write(); !errors.Is(err, api.ErrHeld) {
			t.Errorf("%s: %v", name, err)
		}
		held := heldOf(t, s.Client, "replicaset") // by key in the order they came first, whatever the map's
		i := slices.IndexFunc(held, func(w *v1.HeldWrite) bool { return w.GetVerb() == name })
		if i < 0 {
			t.Fatalf("%s is not held: %v", name, held)
		}
		w := held[i]
		if w.GetCause().GetReason() != "Made" || w.GetCause().GetMessage() != "wanted 2, had 1" || w.GetCause().GetTrigger() != 5 {
			t.Errorf("%s: %v", name, w)
		}
		old, next := api.Unwrap(w.GetBefore()), api.Unwrap(w.GetAfter())
		switch name {
		case "create":
			if m := next.GetMetadata(); old != nil || m.GetGenerateName() != "web-" || m.GetName() != "" || w.GetKey() != "default/" {
				t.Errorf("a create: %v", w)
			}
		case "update":
			if old.GetMetadata().GetLabels()["app"] != "web" || next.GetMetadata().GetLabels()["app"] != "other" || w.GetKey() != "default/there" {
				t.Errorf("an update: %v", w)
			}
		case "update status":
			if next.(*v1.Pod).GetStatus().GetPhase() != api.PodRunning {
				t.Errorf("an update of status: %v", w)
			}
		case "delete": // it is on no node
			if old == nil || next != nil {
				t.Errorf("a delete: %v", w)
			}
		}
	}
	for name, write := range map[string]func() error{
		"what would change nothing": func() error { _, err := sets.Update(ctx, there); return err },
		"a dry run":                 func() error { _, err := sets.Update(ctx, changed, client.DryRun); return err },
	} {
		if err := write(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := s.store.Revision(); after != before {
		t.Fatalf("it wrote %d times", after-before)
	}

	stale := api.Clone(there)
	stale.Metadata.ResourceVersion = 1
	if _, err := sets.Update(ctx, stale); !errors.Is(err, api.ErrConflict) {
		t.Errorf("what would fail: %v", err)
	}
	event := &v1.Event{Metadata: &v1.ObjectMeta{Name: "e"}, InvolvedObject: &v1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "there"}}
	if _, err := client.For[*v1.Event](s.As("replicaset-controller")).Create(ctx, event); err != nil {
		t.Errorf("an event: %v", err)
	}
	if _, err := client.For[*v1.Pod](s.As("node-controller")).UpdateStatus(ctx, ready); err != nil {
		t.Errorf("another controller: %v", err)
	}
	if _, err := pods.Create(t.Context(), pod("of-a-user")); err != nil {
		t.Errorf("a user: %v", err)
	}
	pause(t, s.Client, "replicaset", false)
	if _, err := sets.Create(ctx, made); err != nil || len(heldOf(t, s.Client, "replicaset")) != 0 {
		t.Errorf("after the pause: %v", err)
	}
}

func TestAStepIsOneWrite(t *testing.T) {
	s := start(t)
	pause(t, s.Client, "replicaset", true)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // a controller that asks again until all three are there, with a new run each time
		defer close(done)
		maps := client.For[*v1.ConfigMap](s.As("replicaset-controller"))
		for n := int64(1); ctx.Err() == nil; n++ {
			for _, name := range []string{"a", "b", "c"} {
				run := client.WithRun(ctx, &v1.Run{Loop: "l", Key: "default/set", Number: n})
				_, _ = maps.Create(run, configMap(name))
			}
		}
	}()
	defer func() { stop(); <-done }()
	for i, name := range []string{"a", "b", "c"} {
		r, err := s.Controllers().Step(t.Context(), &v1.StepRequest{Controller: "replicaset", Key: "default/set"})
		if err != nil {
			t.Fatal(err)
		}
		o := api.Unwrap(r.GetWritten().GetAfter()).GetMetadata()
		if o.GetName() != name || o.GetResourceVersion() != r.GetRevision() || r.GetWritten().GetVerb() != "create" {
			t.Errorf("step %d: %v", i, r)
		}
		if n := len(must[client.List[*v1.ConfigMap]](t)(client.For[*v1.ConfigMap](s.Client).List(t.Context(), client.ListOptions{Namespace: "default"})).Items); n != i+1 {
			t.Errorf("after step %d there are %d", i, n)
		}
		for _, w := range r.GetController().GetHeld() {
			if next := api.Unwrap(w.GetAfter()).GetMetadata().GetName(); next <= name {
				t.Errorf("after %s comes %s", name, next)
			}
		}
	}
}

func TestStepsThatCannotBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		defer func() { _ = s.stop() }()
		for what, tt := range map[string]struct {
			pause string
			step  *v1.StepRequest
			want  string
		}{
			"nobody of that name":  {"node", &v1.StepRequest{Controller: "pods"}, `controllers "pods" not found: there are deployment, replicaset, scheduler`},
			"one that goes on":     {"node", &v1.StepRequest{Controller: "scheduler"}, "controller scheduler is not paused"},
			"one who has no wants": {"node", &v1.StepRequest{Controller: "node"}, "controller node holds nothing: all is as it should be in its eyes"},
		} {
			pause(t, s.Client, tt.pause, true)
			if _, err := s.Controllers().Step(t.Context(), tt.step); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := s.Controllers().Pause(t.Context(), &v1.PauseRequest{Controller: "agent", Paused: true}); !errors.Is(api.FromStatus(err), api.ErrNotFound) {
			t.Errorf("pause of nobody: %v", err)
		}
		s.conn.Close()
	})
}

func TestAPauseOutlivesTheServerAndStandsInTheLog(t *testing.T) {
	s := start(t)
	if c := pause(t, s.Client, "namespace", true); !c.GetPaused() {
		t.Error("it is not paused")
	}
	pause(t, s.Client, "scheduler", true)
	revision := s.store.Revision()
	pause(t, s.Client, "scheduler", true)
	if s.store.Revision() != revision {
		t.Error("pausing twice wrote twice")
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	paused := func() (names []string) {
		for _, c := range must[*v1.ListControllersResponse](t)(s.Controllers().ListControllers(t.Context(), &v1.ListControllersRequest{}, grpc.WaitForReady(true))).GetControllers() {
			if c.GetPaused() {
				names = append(names, c.GetName())
			}
		}
		return names
	}
	if got := strings.Join(paused(), " "); got != "scheduler namespace" {
		t.Errorf("after a restart, paused are: %s", got)
	}
	pause(t, s.Client, "scheduler", false)
	var said []string
	for e, err := range s.History(t.Context(), &v1.HistoryRequest{Kind: "ConfigMap", Namespace: api.NamespaceSystem, Name: "paused-controllers"}) {
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, e.GetCause().GetReason()+": "+e.GetCause().GetMessage())
	}
	if got, want := strings.Join(said, ", "), "Pause: controller namespace is paused, Pause: controller scheduler is paused, Resume: controller scheduler is resumed"; got != want {
		t.Errorf("the log: %s", got)
	}
	if _, err := client.For[*v1.ConfigMap](s.Client).Delete(t.Context(), api.NamespaceSystem, "paused-controllers", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := paused(); len(got) > 0 {
		t.Errorf("without the object, paused are: %v", got)
	}
}

func TestWhoLooksAtTheClusterIsRemindedOfAPause(t *testing.T) {
	g := guard(t)
	reminded := func(u identity.User) (texts []string) {
		pair := must[*identity.Pair](t)(identity.NewPair(t.Context(), "", g.authority.For(u)))
		c := g.with(pair, client.OnWarning(func(text string) { texts = append(texts, text) })...)
		_, _ = client.For[*v1.Pod](c).List(t.Context(), client.ListOptions{Namespace: "default", FieldSelector: "spec.nodeName=n1"})
		return texts
	}
	eve := identity.User{Name: "eve", Groups: []string{"viewers"}}
	if got := reminded(eve); len(got) != 0 {
		t.Errorf("nobody is paused: %v", got)
	}
	pause(t, g.admin, "replicaset", true)
	if got := reminded(eve); len(got) != 1 || got[0] != "controller replicaset is paused: see orchctl controllers plan" {
		t.Errorf("a user: %v", got)
	}
	n := must[*v1.Node](t)(client.For[*v1.Node](g.admin).Get(t.Context(), "", "n1"))
	if got := reminded(identity.Node("n1", n.GetMetadata().GetUid())); len(got) != 0 {
		t.Errorf("an agent: %v", got)
	}
	if line := `"user":"admin","groups":["system:masters","system:authenticated"],"verb":"update","apiGroup":"orch.dev","resource":"controllers","subresource":"","namespace":"","name":"replicaset"`; !strings.Contains(g.audit.String(), line) {
		t.Errorf("the audit log lacks %s:\n%s", line, g.audit.String())
	}
}

// An admin of a namespace is none of the cluster.
func TestWhoMayPause(t *testing.T) {
	g := guard(t)
	for name, c := range map[string]*client.Client{"an admin of default": g.group("ada", "admins"), "an editor": g.group("ed", "editors")} {
		_, err := c.Controllers().Pause(t.Context(), &v1.PauseRequest{Controller: "scheduler", Paused: true})
		if err = api.FromStatus(err); !errors.Is(err, api.ErrForbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must[*v1.ClusterRole](t)(client.For[*v1.ClusterRole](g.admin).Create(t.Context(), &v1.ClusterRole{
		Metadata: &v1.ObjectMeta{Name: "teacher"},
		Rules:    []*v1.PolicyRule{{Verbs: []string{"list", "update"}, ApiGroups: []string{"orch.dev"}, Resources: []string{"controllers"}, ResourceNames: []string{"scheduler"}}},
	}))
	must[*v1.ClusterRoleBinding](t)(client.For[*v1.ClusterRoleBinding](g.admin).Create(t.Context(), &v1.ClusterRoleBinding{
		Metadata: &v1.ObjectMeta{Name: "teacher"}, RoleRef: &v1.RoleRef{Kind: "ClusterRole", Name: "teacher"},
		Subjects: []*v1.Subject{{Kind: "User", Name: "tom"}},
	}))
	tom := g.as(identity.User{Name: "tom"})
	pause(t, tom, "scheduler", true)
	if _, err := tom.Controllers().Pause(t.Context(), &v1.PauseRequest{Controller: "node", Paused: true}); !errors.Is(api.FromStatus(err), api.ErrForbidden) {
		t.Errorf("a teacher of the scheduler alone: %v", err)
	}
	if all, err := tom.Controllers().ListControllers(t.Context(), &v1.ListControllersRequest{}); err != nil || len(all.GetControllers()) != 1 || !all.GetControllers()[0].GetPaused() {
		t.Errorf("what a teacher of the scheduler alone sees: %v, %v", all, err)
	}
	if _, err := g.group("ed", "editors").Controllers().ListControllers(t.Context(), &v1.ListControllersRequest{}); !errors.Is(api.FromStatus(err), api.ErrForbidden) {
		t.Errorf("what an editor sees: %v", err)
	}
}

func TestOnlyTheServerSaysWhoStepped(t *testing.T) {
	g := guard(t)
	if _, err := g.admin.Resources().Create(t.Context(), &v1.CreateRequest{Object: api.Wrap(configMap("c")), Cause: &v1.Cause{SteppedBy: "eve"}}); err != nil {
		t.Fatal(err)
	}
	entries := must[[]store.Entry](t)(g.store.Log(t.Context(), g.store.Revision()-1, 1))
	if len(entries) != 1 || entries[0].Cause.Actor != "admin" || entries[0].Cause.SteppedBy != "" {
		t.Errorf("%+v", entries)
	}
}

// A pause is answered when nothing of the controller is under way any more.
func TestNothingOfAPausedControllerIsUnderWay(t *testing.T) {
	m := memstore.New()
	s := startOn(t, m, apiserver.Options{})
	maps := client.For[*v1.ConfigMap](s.As("deployment-controller"))
	o := must[*v1.ConfigMap](t)(maps.Create(t.Context(), configMap("c")))
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		o := api.Clone(o)
		for i := 0; ctx.Err() == nil; i++ {
			o.Metadata.ResourceVersion = 0
			o.Data = map[string]string{"i": time.Duration(i).String()}
			_, _ = maps.Update(ctx, o)
		}
	}()
	for range 20 {
		pause(t, s.Client, "deployment", true)
		at := m.Revision()
		for range 3 {
			_, _ = client.For[*v1.ConfigMap](s.Client).Get(t.Context(), "default", "c")
		}
		if now := m.Revision(); now != at {
			t.Fatalf("revision %d was written after the pause at %d", now, at)
		}
		pause(t, s.Client, "deployment", false)
	}
	stop()
	<-done
}
