package apiserver_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

func TestANewObjectGetsWhatBelongsToTheServer(t *testing.T) {
	s := start(t)
	lie := pod("web")
	lie.Metadata.Uid, lie.Metadata.Generation = "mine", 7
	lie.Status = &v1.PodStatus{Phase: api.PodRunning}
	p := must[*v1.Pod](t)(client.For[*v1.Pod](s.Client).Create(t.Context(), lie))

	m := p.GetMetadata()
	if m.GetUid() == "" || m.GetUid() == "mine" || m.GetGeneration() != 1 || m.GetResourceVersion() != s.store.Revision() {
		t.Errorf("metadata %v", m)
	}
	if age := time.Since(m.GetCreationTimestamp().AsTime()); age < 0 || age > time.Minute || m.GetCreationTimestamp().GetNanos() != 0 {
		t.Errorf("created at %v", m.GetCreationTimestamp().AsTime())
	}
	if p.GetStatus().GetPhase() != api.PodPending || p.GetStatus().GetQosClass() != api.QOSBestEffort {
		t.Errorf("status %v", p.GetStatus())
	}
	if p.GetSpec().GetRestartPolicy() != api.RestartPolicyAlways {
		t.Errorf("no defaults in %v", p.GetSpec())
	}
}

func TestGenerateNameIsTriedUntilItIsFree(t *testing.T) {
	s := start(t)
	seen := map[string]bool{}
	for range 50 {
		c := configMap("")
		c.Metadata.GenerateName = "config-"
		name := must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](s.Client).Create(t.Context(), c)).GetMetadata().GetName()
		if seen[name] || !strings.HasPrefix(name, "config-") || len(name) != len("config-")+5 {
			t.Fatalf("name %q", name)
		}
		seen[name] = true
	}
}

func TestAWriteThatChangesNothingMakesNoRevision(t *testing.T) {
	s := start(t)
	pods := client.For[*v1.Pod](s.Client)
	p := must[*v1.Pod](t)(pods.Create(t.Context(), pod("web")))
	before := s.store.Revision()
	for name, write := range map[string]func() (*v1.Pod, error){
		"update":        func() (*v1.Pod, error) { return pods.Update(t.Context(), p) },
		"status update": func() (*v1.Pod, error) { return pods.UpdateStatus(t.Context(), p) },
		"dry run": func() (*v1.Pod, error) {
			return pods.Update(t.Context(), pod("web"), client.DryRun)
		},
	} {
		q := must[*v1.Pod](t)(write())
		if s.store.Revision() != before || q.GetMetadata().GetResourceVersion() != before {
			t.Errorf("%s: revision %d after %d, object at %d", name, s.store.Revision(), before, q.GetMetadata().GetResourceVersion())
		}
	}
}

func TestADryRunAnswersAsIfAndWritesNothing(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	before := s.store.Revision()
	c := must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("a"), client.DryRun))
	if c.GetMetadata().GetUid() == "" {
		t.Errorf("not completed: %v", c)
	}
	if _, err := configs.Create(t.Context(), namelessConfigMap(), client.DryRun); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("invalid object: %v", err)
	}
	if _, err := configs.Get(t.Context(), "default", "a"); !errors.Is(err, api.ErrNotFound) || s.store.Revision() != before {
		t.Errorf("after a dry run: %v, revision %d after %d", err, s.store.Revision(), before)
	}
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("a")))
	if _, err := configs.Create(t.Context(), configMap("a"), client.DryRun); !errors.Is(err, api.ErrAlreadyExists) {
		t.Errorf("taken name: %v", err)
	}
}

func namelessConfigMap() *v1.ConfigMap { return configMap("Not_A_Name") }

func TestUpdateLeavesStatusAndUpdateStatusLeavesTheRest(t *testing.T) {
	s := start(t)
	deployments := client.For[*v1.Deployment](s.Client)
	d := must[*v1.Deployment](t)(deployments.Create(t.Context(), deployment("web")))

	d.Spec.Replicas = proto.Int32(5)
	d.Status = &v1.DeploymentStatus{Replicas: 3}
	both := api.Clone(d)
	d = must[*v1.Deployment](t)(deployments.Update(t.Context(), d))
	if d.GetSpec().GetReplicas() != 5 || d.GetStatus().GetReplicas() != 0 || d.GetMetadata().GetGeneration() != 2 {
		t.Errorf("after Update: %v", d)
	}
	both.Metadata.ResourceVersion = 0
	both.Metadata.Labels = map[string]string{"not": "now"}
	both.Spec.Replicas = proto.Int32(9)
	d = must[*v1.Deployment](t)(deployments.UpdateStatus(t.Context(), both))
	if d.GetSpec().GetReplicas() != 5 || d.GetStatus().GetReplicas() != 3 || len(d.GetMetadata().GetLabels()) != 0 || d.GetMetadata().GetGeneration() != 2 {
		t.Errorf("after UpdateStatus: %v", d)
	}
}

func TestGenerationCountsWhatIsAskedOfAController(t *testing.T) {
	s := start(t)
	deployments := client.For[*v1.Deployment](s.Client)
	must[*v1.Deployment](t)(deployments.Create(t.Context(), deployment("web")))
	for _, step := range []struct {
		what string
		do   func(*v1.Deployment)
		want int64
	}{
		{"a label of the object", func(d *v1.Deployment) { d.Metadata.Labels = map[string]string{"a": "b"} }, 1},
		{"the spec", func(d *v1.Deployment) { d.Spec.Paused = true }, 2},
		{"an annotation, which is passed on to ReplicaSets", func(d *v1.Deployment) { d.Metadata.Annotations = map[string]string{"a": "b"} }, 3},
	} {
		d := must[*v1.Deployment](t)(deployments.Modify(t.Context(), "default", "web", func(d *v1.Deployment) error { step.do(d); return nil }))
		if got := d.GetMetadata().GetGeneration(); got != step.want {
			t.Errorf("after %s: generation %d, want %d", step.what, got, step.want)
		}
	}
}

func TestBindingAPodSaysSoInTheSameWrite(t *testing.T) {
	s := start(t)
	pods := client.For[*v1.Pod](s.Client)
	p := must[*v1.Pod](t)(pods.Create(t.Context(), pod("web")))
	p.Spec.NodeName = "node-1"
	p = must[*v1.Pod](t)(pods.Update(t.Context(), p))
	c := api.GetCondition(p.GetStatus().GetConditions(), api.PodScheduled)
	if c.GetStatus() != api.ConditionTrue || p.GetStatus().GetPhase() != api.PodPending {
		t.Errorf("status after binding: %v", p.GetStatus())
	}
	p.Spec.NodeName = "node-2"
	if _, err := pods.Update(t.Context(), p); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("binding to another node: %v", err)
	}
}

func TestAStaleResourceVersionIsAConflict(t *testing.T) {
	s := start(t)
	pods := client.For[*v1.Pod](s.Client)
	stale := must[*v1.Pod](t)(pods.Create(t.Context(), pod("web")))
	fresh := api.Clone(stale)
	fresh.Metadata.Labels["a"] = "b"
	must[*v1.Pod](t)(pods.Update(t.Context(), fresh))

	_, err := pods.Update(t.Context(), stale)
	want := `Operation cannot be fulfilled on pods "web": the object has been modified; please apply your changes to the latest version and try again`
	if !errors.Is(err, api.ErrConflict) || err.Error() != want {
		t.Errorf("update with a stale version: %v", err)
	}
	stale.Metadata.ResourceVersion = 0
	p := must[*v1.Pod](t)(pods.Update(t.Context(), stale))
	if p.GetMetadata().GetLabels()["a"] != "" {
		t.Errorf("an update without a version replaces: %v", p.GetMetadata())
	}
	stale.Metadata.Uid = "another"
	if _, err := pods.Update(t.Context(), stale); !errors.Is(err, api.ErrConflict) {
		t.Errorf("update of another uid: %v", err)
	}
}

// Each revision of one object has exactly one winner, however many write at a
// time.
func TestOfManyWritersOfOneRevisionOneWins(t *testing.T) {
	s, _ := startOnDisk(t, apiserver.Options{})
	configs := client.For[*v1.ConfigMap](s.Client)
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("shared")))
	const writers, wins = 64, 1
	var mu sync.Mutex
	winners := map[int64]int{} // by the revision that they replaced
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			for won := 0; won < wins; {
				c, err := configs.Get(t.Context(), "default", "shared")
				if err != nil {
					t.Error(err)
					return
				}
				c.Data["key"] = fmt.Sprintf("%d of writer %d", won, i)
				before := c.GetMetadata().GetResourceVersion()
				_, err = configs.Update(t.Context(), c)
				switch {
				case err == nil:
					mu.Lock()
					winners[before]++
					mu.Unlock()
					won++
				case !errors.Is(err, api.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	for revision, n := range winners {
		if n != 1 {
			t.Errorf("revision %d was replaced %d times", revision, n)
		}
	}
	if len(winners) != writers*wins {
		t.Errorf("%d revisions were replaced, want %d", len(winners), writers*wins)
	}
}

func TestUnconditionalUpdatesAreNeverInConflict(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("shared")))
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for j := range 5 {
				c := configMap("shared")
				c.Data["key"] = fmt.Sprint(i, j)
				if _, err := configs.Update(t.Context(), c); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func TestObjectsNeedANamespaceThatIsNotGoing(t *testing.T) {
	s := start(t)
	configs, spaces := client.For[*v1.ConfigMap](s.Client), client.For[*v1.Namespace](s.Client)
	c := configMap("a")
	c.Metadata.Namespace = "team"
	if _, err := configs.Create(t.Context(), c); !errors.Is(err, api.ErrNotFound) || err.Error() != `namespaces "team" not found` {
		t.Errorf("without the namespace: %v", err)
	}
	must[*v1.Namespace](t)(spaces.Create(t.Context(), namespace("team")))
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), c))
	n := must[*v1.Namespace](t)(spaces.Delete(t.Context(), "", "team", client.DeleteOptions{}))
	if n.GetStatus().GetPhase() != api.NamespaceTerminating || n.GetMetadata().GetDeletionTimestamp() == nil {
		t.Errorf("a deleted namespace with objects: %v", n)
	}
	c.Metadata.Name = "b"
	_, err := configs.Create(t.Context(), c)
	want := `configmaps "b" is forbidden: unable to create new content in namespace team because it is being terminated`
	if !errors.Is(err, api.ErrForbidden) || err.Error() != want {
		t.Errorf("in a namespace that is going: %v", err)
	}
}

func TestTheNamespacesOfEveryClusterOutliveTheServer(t *testing.T) {
	m := memstore.New()
	s := startOn(t, m, apiserver.Options{})
	spaces := client.For[*v1.Namespace](s.Client)
	id := must[*v1.Namespace](t)(spaces.Get(t.Context(), "", api.NamespaceSystem)).GetMetadata().GetUid()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	again := must[*v1.Namespace](t)(spaces.Get(t.Context(), "", api.NamespaceSystem)).GetMetadata().GetUid()
	if id == "" || again != id {
		t.Errorf("the cluster's id was %q and is %q", id, again)
	}
	for _, name := range []string{api.NamespaceDefault, api.NamespaceSystem} {
		if _, err := spaces.Delete(t.Context(), "", name, client.DeleteOptions{}); !errors.Is(err, api.ErrForbidden) {
			t.Errorf("delete %s: %v", name, err)
		}
	}
}

func TestStringDataOfASecretBecomesItsData(t *testing.T) {
	s := start(t)
	secret := must[*v1.Secret](t)(client.For[*v1.Secret](s.Client).Create(t.Context(), &v1.Secret{
		Metadata: &v1.ObjectMeta{Name: "login"}, Data: map[string][]byte{"user": []byte("root"), "password": []byte("old")},
		StringData: map[string]string{"password": "new"},
	}))
	if string(secret.GetData()["password"]) != "new" || string(secret.GetData()["user"]) != "root" || secret.GetStringData() != nil {
		t.Errorf("secret %v", secret)
	}
}

func TestEveryWriteHasACause(t *testing.T) {
	s := start(t)
	ctx := client.WithTrigger(client.WithCause(t.Context(), "ScaledUp", "wanted %d, had %d", 3, 2), 7)
	must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](s.As("deployment-controller")).Create(ctx, configMap("a")))
	if _, err := s.Resources().Delete(t.Context(), &v1.DeleteRequest{Kind: "ConfigMap", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range s.History(t.Context(), &v1.HistoryRequest{Kind: "ConfigMap", Name: "a"}) {
		if err != nil {
			t.Fatal(err)
		}
		c := e.GetCause()
		got = append(got, fmt.Sprintf("%v %s %s %q %d", e.GetDeleted(), c.GetActor(), c.GetReason(), c.GetMessage(), c.GetTrigger()))
	}
	want := `[false deployment-controller ScaledUp "wanted 3, had 2" 7 true system:apiserver Delete "" 0]`
	if fmt.Sprint(got) != want {
		t.Errorf("causes %v, want %v", got, want)
	}
}
