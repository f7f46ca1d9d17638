package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

const (
	added      = v1.WatchEvent_TYPE_ADDED
	modified   = v1.WatchEvent_TYPE_MODIFIED
	deleted    = v1.WatchEvent_TYPE_DELETED
	synced     = v1.WatchEvent_TYPE_SYNCED
	bookmarked = v1.WatchEvent_TYPE_BOOKMARK
)

// watch is an open watch that is read event by event.
type watch[T api.Object] struct {
	next func() (client.Event[T], error, bool)
	stop func()
}

func open[T api.Object](ctx context.Context, c *client.Client, o client.WatchOptions) watch[T] {
	next, stop := iter.Pull2(client.For[T](c).Watch(ctx, o))
	return watch[T]{next, stop}
}

// expect reads the next event.
func (w watch[T]) expect(t testing.TB, typ v1.WatchEvent_Type, name string) client.Event[T] {
	t.Helper()
	e, err, _ := w.next()
	if err != nil {
		t.Fatalf("want %v %s: %v", typ, name, err)
	}
	got := ""
	if typ != synced && typ != bookmarked {
		got = e.Object.GetMetadata().GetName()
	}
	if e.Type != typ || got != name {
		t.Fatalf("got %v %s, want %v %s", e.Type, got, typ, name)
	}
	return e
}

func TestAWatchShowsWhatThereIsAndThenWhatHappens(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("a")))
	w := open[*v1.ConfigMap](t.Context(), s.Client, client.WatchOptions{})
	defer w.stop()
	w.expect(t, added, "a")
	if e := w.expect(t, synced, ""); e.Revision != s.store.Revision() {
		t.Errorf("synced at %d, want %d", e.Revision, s.store.Revision())
	}
	b := must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("b")))
	if e := w.expect(t, added, "b"); e.Revision != b.GetMetadata().GetResourceVersion() || e.Object.GetMetadata().GetResourceVersion() != e.Revision {
		t.Errorf("%v at revision %d", e.Object, e.Revision)
	}
	b.Data["key"] = "new"
	must[*v1.ConfigMap](t)(configs.Update(t.Context(), b))
	w.expect(t, modified, "b")
	must[*v1.ConfigMap](t)(configs.Delete(t.Context(), "default", "b", client.DeleteOptions{}))
	if e := w.expect(t, deleted, "b"); e.Object.GetData()["key"] != "new" || e.Object.GetMetadata().GetResourceVersion() != s.store.Revision() {
		t.Errorf("deleted: %v", e.Object)
	}
	// From a revision, only what came after it.
	from := b.GetMetadata().GetResourceVersion()
	later := open[*v1.ConfigMap](t.Context(), s.Client, client.WatchOptions{From: &from})
	defer later.stop()
	later.expect(t, modified, "b")
	later.expect(t, deleted, "b")
}

func TestWhatBeginsOrCeasesToMatchIsAddedOrDeleted(t *testing.T) {
	s := start(t)
	pods := client.For[*v1.Pod](s.Client)
	web := open[*v1.Pod](t.Context(), s.Client, client.WatchOptions{LabelSelector: "app=web"})
	defer web.stop()
	node := open[*v1.Pod](t.Context(), s.Client, client.WatchOptions{FieldSelector: "spec.nodeName=node-1", Namespace: "default"})
	defer node.stop()
	web.expect(t, synced, "")
	node.expect(t, synced, "")

	change := func(f func(*v1.Pod)) {
		t.Helper()
		must[*v1.Pod](t)(pods.Modify(t.Context(), "default", "a", func(p *v1.Pod) error { f(p); return nil }))
	}
	must[*v1.Pod](t)(pods.Create(t.Context(), pod("a")))
	web.expect(t, added, "a")
	change(func(p *v1.Pod) { p.Metadata.Labels["app"] = "db" })
	if e := web.expect(t, deleted, "a"); e.Object.GetMetadata().GetLabels()["app"] != "web" || e.Revision != s.store.Revision() {
		t.Errorf("what no longer matches is shown as it was last: %v at %d", e.Object.GetMetadata(), e.Revision)
	}
	change(func(p *v1.Pod) { p.Spec.NodeName = "node-1" })
	node.expect(t, added, "a")
	change(func(p *v1.Pod) { p.Metadata.Labels["app"] = "web" })
	web.expect(t, added, "a")
	node.expect(t, modified, "a")
	must[*v1.Pod](t)(pods.Delete(t.Context(), "default", "a", client.DeleteOptions{GracePeriodSeconds: new(int64)}))
	web.expect(t, deleted, "a")
	node.expect(t, deleted, "a")
}

func TestAnObjectThatGoesAsItCeasesToMatchIsDeletedOnce(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	c := configMap("a")
	c.Metadata.Labels, c.Metadata.Finalizers = map[string]string{"on": "1"}, []string{"example.com/mine"}
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), c))
	w := open[*v1.ConfigMap](t.Context(), s.Client, client.WatchOptions{LabelSelector: "on"})
	defer w.stop()
	w.expect(t, added, "a")
	w.expect(t, synced, "")
	c = must[*v1.ConfigMap](t)(configs.Delete(t.Context(), "default", "a", client.DeleteOptions{}))
	w.expect(t, modified, "a")
	c.Metadata.Labels, c.Metadata.Finalizers = nil, nil
	must[*v1.ConfigMap](t)(configs.Update(t.Context(), c))
	if e := w.expect(t, deleted, "a"); e.Object.GetMetadata().GetLabels()["on"] != "1" {
		t.Errorf("shown as %v", e.Object)
	}
	c = configMap("b")
	c.Metadata.Labels = map[string]string{"on": "1"}
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), c))
	w.expect(t, added, "b")
}

func TestAWatchFromAnUnknownRevisionSaysToListAnew(t *testing.T) {
	s := start(t)
	fill(t, s, 5)
	if err := s.store.Compact(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]int64{"compacted": 3, "of a future that was lost": s.store.Revision() + 1} {
		w := open[*v1.ConfigMap](t.Context(), s.Client, client.WatchOptions{From: &from})
		if _, err, _ := w.next(); !errors.Is(err, api.ErrExpired) {
			t.Errorf("%s: %v", name, err)
		}
		w.stop()
	}
}

func TestASilentWatchIsToldHowFarItHasCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := newServer(memstore.New(), apiserver.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer closed(t, s)
		w := open[*v1.Pod](t.Context(), s.Client, client.WatchOptions{})
		defer w.stop()
		w.expect(t, synced, "")
		begin := time.Now()
		must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](s.Client).Create(t.Context(), configMap("of-no-interest")))
		if e := w.expect(t, bookmarked, ""); e.Revision != s.store.Revision() {
			t.Errorf("bookmark at %d, the store is at %d", e.Revision, s.store.Revision())
		}
		if took := time.Since(begin); took < time.Minute || took > 80*time.Second {
			t.Errorf("the bookmark came after %v", took)
		}
	})
}

// A client that watches through the informer sees one server end, the next one
// begin, and what was written in between.
func TestAWatchingClientSurvivesARestart(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	mirror := informer.New(configs, informer.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- mirror.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the mirror ended with %v", err)
		}
	}()
	a := must[*v1.ConfigMap](t)(configs.Create(ctx, configMap("a")))
	if err := mirror.WaitFor(ctx, a.GetMetadata().GetResourceVersion()); err != nil {
		t.Fatal(err)
	}
	w := open[*v1.ConfigMap](ctx, s.Client, client.WatchOptions{})
	defer w.stop()
	w.expect(t, added, "a")
	w.expect(t, synced, "")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err, _ := w.next(); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("a watch of a server that stopped ended with %v", err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	var b *v1.ConfigMap
	for b == nil && ctx.Err() == nil { // until the connection is back
		b, _ = configs.Create(ctx, configMap("b"))
	}
	if err := mirror.WaitFor(ctx, b.GetMetadata().GetResourceVersion()); err != nil {
		t.Fatal(err)
	}
	if mirror.Len() != 2 {
		t.Errorf("the mirror holds %d objects", mirror.Len())
	}
}

// Whatever happens, a watcher with a selector that keeps what it is told holds
// what a list with that selector shows; and it is told about each object in an
// order that makes sense.
func TestAWatchAndAListAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, err := newServer(memstore.New(), apiserver.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer closed(t, s)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		configs := client.For[*v1.ConfigMap](s.Client)
		selector := rapid.SampledFrom([]client.WatchOptions{
			{},
			{Namespace: "default"},
			{Namespace: "kube-system"},
			{LabelSelector: "on"},
			{LabelSelector: "!on", Namespace: "default"},
			{FieldSelector: "metadata.name=b"},
			{FieldSelector: "metadata.name=b", Namespace: "default"},
			{FieldSelector: "metadata.name!=b", LabelSelector: "on"},
		}).Draw(t, "selector")
		list := func(at int64) map[api.Key]int64 {
			l, err := configs.List(ctx, client.ListOptions{Namespace: selector.Namespace, LabelSelector: selector.LabelSelector, FieldSelector: selector.FieldSelector, At: at})
			if err != nil {
				t.Fatal(err)
			}
			return versions(l.Items)
		}
		step := func(i int) {
			o := configMap(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"))
			o.Metadata.Namespace = rapid.SampledFrom([]string{"default", "kube-system"}).Draw(t, "namespace")
			if rapid.Bool().Draw(t, "on") {
				o.Metadata.Labels = map[string]string{"on": "1"}
			}
			o.Data["step"] = fmt.Sprint(i)
			key := api.KeyOf(o)
			if _, err := configs.Create(ctx, o); errors.Is(err, api.ErrAlreadyExists) {
				if rapid.Bool().Draw(t, "delete") {
					_, err = configs.Delete(ctx, key.Namespace, key.Name, client.DeleteOptions{})
				} else {
					_, err = configs.Update(ctx, o)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range rapid.IntRange(0, 10).Draw(t, "before") {
			step(i)
		}
		// Begin with a snapshot, or with a list of any revision in the past.
		known := map[api.Key]int64{}
		last := int64(0)
		if rapid.Bool().Draw(t, "from the past") {
			from := rapid.Int64Range(1, s.store.Revision()).Draw(t, "from")
			known, last = list(from), from
			selector.From = &from
		}
		w := open[*v1.ConfigMap](ctx, s.Client, selector)
		defer w.stop()
		for i := range rapid.IntRange(0, 20).Draw(t, "after") {
			step(100 + i)
		}
		// The end is an object that every selector lets through, in the end.
		for _, ns := range []string{"default", "kube-system"} {
			for _, labels := range []map[string]string{{"on": "1"}, nil} {
				o := configMap("b")
				o.Metadata.Namespace, o.Metadata.Labels, o.Data["step"] = ns, labels, fmt.Sprint("end ", ns, labels)
				if _, err := configs.Create(ctx, o); err != nil {
					if _, err := configs.Update(ctx, o); err != nil {
						t.Fatal(err)
					}
				}
				o = configMap(fmt.Sprint("end-", len(labels)))
				o.Metadata.Namespace, o.Metadata.Labels = ns, labels
				if _, err := configs.Create(ctx, o); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := list(0)
		isSynced := selector.From != nil
		for !maps.Equal(known, want) || !isSynced {
			e, err, _ := w.next()
			if err != nil {
				t.Fatalf("%v; known %v, want %v", err, known, want)
			}
			if e.Type == synced {
				isSynced, last = true, e.Revision
				continue
			}
			key := api.KeyOf(e.Object)
			version := e.Object.GetMetadata().GetResourceVersion()
			_, have := known[key]
			switch {
			case isSynced && e.Revision <= last:
				t.Fatalf("%v %s at %d after %d", e.Type, key, e.Revision, last)
			case version != e.Revision:
				t.Fatalf("%s is at %d in an event at %d", key, version, e.Revision)
			case have == (e.Type == added):
				t.Fatalf("%v %s, which is known: %v", e.Type, key, have)
			}
			if isSynced {
				last = e.Revision
			}
			if e.Type == deleted {
				delete(known, key)
			} else {
				known[key] = version
			}
		}
	})
}

func versions(objects []*v1.ConfigMap) map[api.Key]int64 {
	m := map[api.Key]int64{}
	for _, o := range objects {
		m[api.KeyOf(o)] = o.GetMetadata().GetResourceVersion()
	}
	return m
}

// The cost of a write does not grow with watchers that do not match: they are
// not even woken.
func TestAWriteWakesOnlyWatchersThatMatch(t *testing.T) {
	r := prometheus.NewRegistry()
	s, b := startOnDisk(t, apiserver.Options{Registerer: r})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 1000 {
		w := open[*v1.Pod](ctx, s.Client, client.WatchOptions{FieldSelector: fmt.Sprintf("spec.nodeName=node-%d", i)})
		defer w.stop()
		w.expect(t, synced, "")
	}
	pods := client.For[*v1.Pod](s.Client)
	mine := open[*v1.Pod](ctx, s.Client, client.WatchOptions{FieldSelector: "spec.nodeName=mine"})
	defer mine.stop()
	mine.expect(t, synced, "")
	for i := range 10 {
		p := pod(fmt.Sprint("pod-", i))
		p.Spec.NodeName = "mine"
		must[*v1.Pod](t)(pods.Create(ctx, p))
		mine.expect(t, added, p.GetMetadata().GetName())
	}
	if got := metric(t, r, "apiserver_watch_wakeups_total"); got < 1 || got > 10 {
		t.Errorf("10 writes woke %v watches of 1001", got)
	}
	if got := b.Stats().Wakeups; got > 10 {
		t.Errorf("10 writes made %d signals in the store", got)
	}
	if got := metric(t, r, "apiserver_registered_watchers"); got != 1001 {
		t.Errorf("%v watches are counted", got)
	}
}

func metric(t testing.TB, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == name })
	if i < 0 {
		t.Fatalf("no metric %s", name)
	}
	m := families[i].GetMetric()[0]
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}
