package informer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller/controllertest"
	"orch/pkg/informer"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seen notes changes as text.
type seen struct {
	mu      sync.Mutex
	changes []string
}

func (s *seen) note(c informer.Change[*v1.ConfigMap]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.Old == nil:
		s.changes = append(s.changes, "+"+c.New.GetMetadata().GetName())
	case c.New == nil:
		s.changes = append(s.changes, "-"+c.Old.GetMetadata().GetName())
	default:
		s.changes = append(s.changes, fmt.Sprintf("%s: %s to %s", c.New.GetMetadata().GetName(), c.Old.GetData()["k"], c.New.GetData()["k"]))
	}
}

func (s *seen) want(t *testing.T, changes ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := cmp.Diff(changes, s.changes); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
	s.changes = nil
}

// fixture is a mirror of the config maps of a cluster.
type fixture struct {
	*informer.Informer[*v1.ConfigMap]
	seen
	t       *testing.T
	cluster *controllertest.Cluster
	maps    client.Resource[*v1.ConfigMap]
	last    int64 // revision
}

func newFixture(t *testing.T, o informer.Options) *fixture {
	cluster := controllertest.Start(t)
	maps := client.For[*v1.ConfigMap](cluster.Client)
	f := &fixture{Informer: informer.New(maps, o), t: t, cluster: cluster, maps: maps}
	f.AddIndex("value", func(m *v1.ConfigMap) []string { return []string{m.GetData()["k"]} })
	f.OnChange(f.note)
	return f
}

func (f *fixture) put(name, value string) {
	f.t.Helper()
	o := &v1.ConfigMap{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"k": value}},
		Data:     map[string]string{"k": value},
	}
	got, err := f.maps.Update(f.t.Context(), o)
	for errors.Is(err, api.ErrUnavailable) { // just started
		got, err = f.maps.Update(f.t.Context(), o)
	}
	if errors.Is(err, api.ErrNotFound) {
		got, err = f.maps.Create(f.t.Context(), o)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.last = got.GetMetadata().GetResourceVersion()
}

func (f *fixture) remove(name string) {
	f.t.Helper()
	got, err := f.maps.Delete(f.t.Context(), "default", name, client.DeleteOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.last = got.GetMetadata().GetResourceVersion()
}

// catchUp waits until the mirror shows the last write.
func (f *fixture) catchUp() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Minute)
	defer cancel()
	<-f.Synced()
	if err := f.WaitFor(ctx, f.last); err != nil {
		f.t.Fatalf("the mirror is at %d, the last write was %d: %v", f.Revision(), f.last, err)
	}
}

func names(objects []*v1.ConfigMap) string {
	var all string
	for _, o := range objects {
		all += o.GetMetadata().GetName()
	}
	return all
}

func TestMirrorShowsWhatThereIsAndEveryChange(t *testing.T) {
	f := newFixture(t, informer.Options{})
	f.put("b", "1")
	f.put("a", "1")
	f.cluster.Go(f.Run)
	f.catchUp()
	f.want(t, "+b", "+a") // in the order of their writes
	if got := names(f.List()); got != "ab" {
		t.Errorf("list: %q, want ab: by name", got)
	}

	f.put("a", "2")
	f.put("c", "2")
	f.remove("b")
	f.catchUp()
	f.want(t, "a: 1 to 2", "+c", "-b")
	if got := names(f.ByIndex("value", "1")) + "," + names(f.ByIndex("value", "2")); got != ",ac" {
		t.Errorf("by index: %q, want none for 1, and a and c for 2", got)
	}
	if _, ok := f.Get(api.Key{Namespace: "default", Name: "b"}); ok || f.Len() != 2 {
		t.Errorf("the deleted object is still there, or %d are, want 2", f.Len())
	}
}

func TestWhatLeavesTheSelectionIsGoneFromTheMirror(t *testing.T) {
	f := newFixture(t, informer.Options{LabelSelector: "k=1"})
	f.cluster.Go(f.Run)
	f.put("a", "1")
	f.catchUp()
	f.put("a", "2")
	f.catchUp() // the write itself takes it out, and the mirror is told its revision
	f.want(t, "+a", "-a")
}

func TestMirrorGoesOnAfterTheServerWasAway(t *testing.T) {
	f := newFixture(t, informer.Options{})
	f.cluster.Go(f.Run)
	f.put("a", "1")
	f.catchUp()
	f.cluster.StopServer()
	f.cluster.StartServer()
	f.put("a", "2")
	f.catchUp()
	f.want(t, "+a", "a: 1 to 2")
}

func TestMirrorHandsOutTheDifferenceWhenTheLogHasForgotten(t *testing.T) {
	f := newFixture(t, informer.Options{})
	for _, name := range []string{"kept", "changed", "gone"} {
		f.put(name, "1")
	}
	f.cluster.Go(f.Run)
	f.catchUp()
	f.want(t, "+kept", "+changed", "+gone")

	// While the server is away, the log moves on and forgets.
	f.cluster.StopServer()
	s := f.cluster.Store
	e, err := s.Get(t.Context(), "ConfigMap/default/gone", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), store.Change{Key: e.Key, Value: e.Value, Delete: true, Expect: e.Revision}); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context(), s.Revision()); err != nil {
		t.Fatal(err)
	}
	f.cluster.StartServer()
	f.put("changed", "2")
	f.catchUp()
	f.want(t, "-gone", "changed: 1 to 2")
}

func TestAnotherObjectOfTheSameNameIsNoChangeOfTheFirst(t *testing.T) {
	f := newFixture(t, informer.Options{})
	f.put("a", "1")
	f.cluster.Go(f.Run)
	f.catchUp()
	f.want(t, "+a")

	// While the server is away, the object is deleted and made again, and the
	// log forgets both.
	f.cluster.StopServer()
	s := f.cluster.Store
	var second v1.ConfigMap
	first, _ := f.Get(api.Key{Namespace: "default", Name: "a"})
	proto.Merge(&second, first)
	second.Metadata.Uid, second.Metadata.ResourceVersion = "another", 0
	value, err := proto.Marshal(api.Wrap(&second))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), store.Change{Key: "ConfigMap/default/a", Value: value, Expect: store.ExpectAny}); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context(), s.Revision()); err != nil {
		t.Fatal(err)
	}
	f.cluster.StartServer()
	f.put("b", "1")
	f.catchUp()
	f.want(t, "-a", "+a", "+b")
}

func TestWaitForEndsWithItsContext(t *testing.T) {
	f := newFixture(t, informer.Options{})
	f.cluster.Go(f.Run)
	f.put("a", "1")
	f.catchUp()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.WaitFor(ctx, f.last+1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}
