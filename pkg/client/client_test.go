package client_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller/controllertest"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func configMap(name string, data map[string]string) *v1.ConfigMap {
	return &v1.ConfigMap{Metadata: &v1.ObjectMeta{Namespace: "default", Name: name}, Data: data}
}

func TestEveryVerbWorksAndEveryErrorIsOfAKind(t *testing.T) {
	c := controllertest.Start(t).Client
	ctx := t.Context()
	maps := client.For[*v1.ConfigMap](c)

	made, err := maps.Create(ctx, configMap("a", map[string]string{"k": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Create(ctx, configMap("a", nil)); !errors.Is(err, api.ErrAlreadyExists) {
		t.Errorf("second create: %v, want AlreadyExists", err)
	}
	if _, err := maps.Create(ctx, configMap("dry", nil), client.DryRun); err != nil {
		t.Errorf("dry run: %v", err)
	}
	if _, err := maps.Get(ctx, "default", "dry"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("get what was made in a dry run: %v, want NotFound", err)
	}
	changed := api.Clone(made)
	changed.Data["k"] = "2"
	if _, err = maps.Update(ctx, changed); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Update(ctx, changed); !errors.Is(err, api.ErrConflict) {
		t.Errorf("update at an old version: %v, want Conflict", err)
	}
	if old, err := maps.GetAt(ctx, "default", "a", made.GetMetadata().GetResourceVersion()); err != nil || old.GetData()["k"] != "1" {
		t.Errorf("at the first revision: %v, %v, want k=1", old.GetData(), err)
	}
	gone, err := client.ForKind(c, maps.Kind()).Delete(ctx, "default", "a", client.DeleteOptions{UID: made.GetMetadata().GetUid()})
	if err != nil || api.KeyOf(gone).Name != "a" {
		t.Errorf("delete: %v, %v", gone, err)
	}
	if _, err := maps.Delete(ctx, "default", "a", client.DeleteOptions{}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("second delete: %v, want NotFound", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := maps.Get(ended, "default", "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v, want its error", err)
	}
}

func TestListFetchesAllPages(t *testing.T) {
	c := controllertest.Start(t).Client
	maps := client.For[*v1.ConfigMap](c)
	want := []string{"a", "b", "c", "d", "e"}
	for _, name := range want {
		if _, err := maps.Create(t.Context(), configMap(name, nil)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := maps.List(t.Context(), client.ListOptions{Namespace: "default", Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range l.Items {
		got = append(got, m.GetMetadata().GetName())
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
	if last := l.Items[4].GetMetadata().GetResourceVersion(); l.Revision < last {
		t.Errorf("the list is of revision %d, an object of %d", l.Revision, last)
	}
}

func TestModifyBeginsAgainAfterAConflict(t *testing.T) {
	c := controllertest.Start(t).Client
	maps := client.For[*v1.ConfigMap](c)
	if _, err := maps.Create(t.Context(), configMap("a", map[string]string{"n": "0"})); err != nil {
		t.Fatal(err)
	}
	tries := 0
	got, err := maps.Modify(t.Context(), "default", "a", func(m *v1.ConfigMap) error {
		if tries++; tries < 3 { // somebody else is faster twice
			other := configMap("a", map[string]string{"other": string(rune('0' + tries))})
			if _, err := maps.Update(t.Context(), other); err != nil {
				return err
			}
		}
		m.Data["mine"] = "yes"
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"other": "2", "mine": "yes"}, got.GetData()); d != "" {
		t.Errorf("data (-want +got):\n%s", d)
	}
}

func TestEveryWriteNamesItsCauseAndIsNoted(t *testing.T) {
	c := controllertest.Start(t).Client.As("tester")
	maps := client.For[*v1.ConfigMap](c)
	var writes client.Writes
	ctx := client.WithWrites(client.WithTrigger(t.Context(), 42), &writes)

	if _, err := maps.Create(client.WithCause(ctx, "Wanted", "wanted %d, had %d", 3, 2), configMap("a", nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Delete(ctx, "default", "a", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var got []*v1.Cause
	var last int64
	for e, err := range c.History(t.Context(), &v1.HistoryRequest{Kind: "ConfigMap", Namespace: "default", Name: "a"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.GetCause())
		last = e.GetRevision()
	}
	want := []*v1.Cause{
		{Actor: "tester", Reason: "Wanted", Message: "wanted 3, had 2", Trigger: 42},
		{Actor: "tester", Reason: "Delete", Trigger: 42},
	}
	if !slices.EqualFunc(want, got, func(a, b *v1.Cause) bool { return proto.Equal(a, b) }) {
		t.Errorf("causes: got %v, want %v", got, want)
	}
	writes.Each(func(k *api.Kind, revision int64) {
		if k != maps.Kind() || revision != last {
			t.Errorf("noted %s at %d, want ConfigMap at %d, the revision of the deletion", k.Name, revision, last)
		}
	})
}

func TestWatchEndsWithAnError(t *testing.T) {
	c := controllertest.Start(t).Client
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var types []v1.WatchEvent_Type
	var last error
	for e, err := range client.For[*v1.Namespace](c).Watch(ctx, client.WatchOptions{}) {
		if last = err; err != nil {
			break
		}
		if types = append(types, e.Type); e.Type == v1.WatchEvent_TYPE_SYNCED {
			cancel()
		}
	}
	want := []v1.WatchEvent_Type{v1.WatchEvent_TYPE_ADDED, v1.WatchEvent_TYPE_ADDED, v1.WatchEvent_TYPE_SYNCED}
	if d := cmp.Diff(want, types); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("it ended with %v, want the context's error", last)
	}
}

func TestRecorderCountsRepeatedEvents(t *testing.T) {
	cluster := controllertest.Start(t)
	c := cluster.Client
	node := &v1.Node{Metadata: &v1.ObjectMeta{Name: "node-1", Uid: "u-1", ResourceVersion: 7}}
	r := client.NewRecorder(c.As("tester"), "tester", "host-1")
	for range 3 { // before Run: they wait as one
		r.Event(t.Context(), node, api.EventNormal, "Seen", "seen %s", "it")
	}
	cluster.Go(r.Run)

	events := client.For[*v1.Event](c)
	find := func() []*v1.Event {
		l, err := events.List(t.Context(), client.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return l.Items
	}
	cluster.Eventually("one event, three times", func() bool { e := find(); return len(e) == 1 && e[0].GetCount() == 3 })
	r.Event(t.Context(), node, api.EventNormal, "Seen", "seen it")
	cluster.Eventually("the same event, four times", func() bool { e := find(); return len(e) == 1 && e[0].GetCount() == 4 })
	r.Event(t.Context(), node, api.EventNormal, "Seen", "seen another")
	cluster.Eventually("a second event", func() bool { return len(find()) == 2 })
	r.Revise(t.Context(), node, api.EventNormal, "Seen", "seen another", "seen half of another")
	cluster.Eventually("another text of the second event", func() bool {
		e := find()
		return len(e) == 2 && e[1].GetMessage() == "seen half of another" && e[1].GetCount() == 1
	})
	r.Event(t.Context(), node, api.EventNormal, "Seen", "seen another")
	cluster.Eventually("the second event again", func() bool {
		e := find()
		return len(e) == 2 && e[1].GetMessage() == "seen another" && e[1].GetCount() == 2
	})

	// Those whose texts differ are kept apart up to a point.
	for i := range 30 {
		r.Event(t.Context(), node, api.EventNormal, "Seen", "seen number %d", i)
	}
	cluster.Eventually("those beyond the tenth counted together", func() bool {
		all := find()
		last := all[len(all)-1]
		return len(all) == 11 && last.GetMessage() == "(combined from similar events): seen number 29" && last.GetCount() == 22
	})

	e := find()[0]
	if e.GetLastTimestamp().AsTime().Before(e.GetFirstTimestamp().AsTime()) || time.Since(e.GetFirstTimestamp().AsTime()) > time.Hour {
		t.Errorf("times: first %v, last %v", e.GetFirstTimestamp().AsTime(), e.GetLastTimestamp().AsTime())
	}
	want := &v1.ObjectReference{Kind: "Node", ApiVersion: "v1", Name: "node-1", Uid: "u-1", ResourceVersion: 7}
	if !proto.Equal(e.GetInvolvedObject(), want) {
		t.Errorf("involved object: got %v, want %v", e.GetInvolvedObject(), want)
	}
	if got := e.GetMetadata().GetNamespace(); got != "default" {
		t.Errorf("an event of a cluster-wide object is in namespace %q, want default", got)
	}
	if s := e.GetSource(); s.GetComponent() != "tester" || s.GetHost() != "host-1" {
		t.Errorf("source: %v", s)
	}
}
