package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"orch/pkg/store"
	"orch/pkg/store/memstore"
)

// machine does the same to a store and to the model and compares the answers.
//
// The two number their revisions on their own: revs pairs them, and every
// revision of the store is translated before it is compared.
type machine struct {
	tb    testing.TB // ends with the whole test; rapid's T ends with one run
	real  store.Store
	model store.Store

	revs     []pair          // of all changes, oldest first, beginning with 0, 0
	ofReal   map[int64]int64 // the store's revision to the model's
	watchers []*watchPair
	reopen   func(store.Store) store.Store
}

type pair struct{ real, model int64 }

// watchPair is a watch of both. The model tells what the store's must return.
type watchPair struct {
	topic       string
	real, model store.Watcher
	// mayLose says that the store was compacted beyond the watch's progress, so
	// that it may say so even if nothing that matches is gone.
	mayLose bool
}

var (
	modelKeys   = []string{"Pod/a/x", "Pod/a/y", "Pod/b/x", "Pod", "Node/n1", "Node/n10"}
	modelTopics = []string{"Pod@n1", "Pod@n2", "Node"}
	allTopics   = slices.Concat([]string{"", "Pod/a", "Pod/b", "none"}, modelKeys, modelTopics)
	prefixes    = []string{"", "Pod", "Pod/", "Pod/a/", "Node/n1", "none"}
)

func testModel(t *testing.T, open Opener, reopen func(*testing.T, store.Store) store.Store) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{
			tb:     t,
			real:   open(t),
			model:  memstore.New(),
			revs:   []pair{{0, 0}},
			ofReal: map[int64]int64{0: 0},
		}
		defer func() {
			m.closeWatchers()
			closeStore(t, m.real)
		}()
		actions := map[string]func(*rapid.T){
			"commit":   m.commit,
			"again":    m.commit, // rapid draws all actions alike; changes are the salt
			"update":   m.update,
			"get":      m.get,
			"list":     m.list,
			"history":  m.history,
			"log":      m.log,
			"watch":    m.watch,
			"follow":   m.follow,
			"compact":  m.compact,
			"":         m.check,
			"progress": m.progress,
		}
		if reopen != nil {
			m.reopen = func(s store.Store) store.Store { return reopen(t, s) }
			actions["restart"] = m.restart
		}
		rt.Repeat(actions)
		for _, w := range m.watchers {
			m.drain(rt, w)
		}
	})
}

// rev draws a revision: of some change, 0, or, if future is true, one that is
// not written yet.
func (m *machine) rev(t *rapid.T, future bool) pair {
	if future && rapid.IntRange(0, 19).Draw(t, "future") == 0 {
		return pair{m.real.Revision() + 5, m.model.Revision() + 5}
	}
	return rapid.SampledFrom(m.revs).Draw(t, "revision")
}

// commit makes the same change on both, most often one that is refused.
func (m *machine) commit(t *rapid.T) {
	expect := m.rev(t, false)
	if any := rapid.IntRange(-1, 1).Draw(t, "expect"); any < 1 {
		expect = pair{int64(any), int64(any)}
	}
	m.change(t, rapid.SampledFrom(modelKeys).Draw(t, "key"), expect, rapid.IntRange(0, 3).Draw(t, "delete") == 0)
}

// update changes a key from the revision that it is at.
func (m *machine) update(t *rapid.T) {
	page, err := m.real.List(context.Background(), "", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Entries) == 0 {
		t.Skip("nothing to update")
	}
	e := rapid.SampledFrom(page.Entries).Draw(t, "entry")
	m.change(t, e.Key, pair{e.Revision, m.ofReal[e.Revision]}, rapid.Bool().Draw(t, "delete"))
}

func (m *machine) change(t *rapid.T, key string, expect pair, remove bool) {
	c := store.Change{
		Key:    key,
		Value:  rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value"),
		Delete: remove,
		Expect: expect.real,
		Topics: rapid.SliceOfNDistinct(rapid.SampledFrom(modelTopics), 0, 2, rapid.ID).Draw(t, "topics"),
		Cause: store.Cause{
			Actor:   rapid.SampledFrom([]string{"", "admin", "deployment-controller"}).Draw(t, "actor"),
			Reason:  "Test",
			Trigger: rapid.Int64Range(0, 9).Draw(t, "trigger"),
		},
	}
	got, gotErr := m.real.Commit(context.Background(), c)
	c.Expect = expect.model
	want, wantErr := m.model.Commit(context.Background(), c)
	if wantErr == nil && gotErr == nil {
		if last := m.revs[len(m.revs)-1].real; got.Revision <= last {
			t.Fatalf("revision %d follows %d", got.Revision, last)
		}
		m.revs = append(m.revs, pair{got.Revision, want.Revision})
		m.ofReal[got.Revision] = want.Revision
	}
	m.compare(t, "Commit", []store.Entry{got}, gotErr, []store.Entry{want}, wantErr)
}

func (m *machine) get(t *rapid.T) {
	key, at := rapid.SampledFrom(modelKeys).Draw(t, "key"), m.rev(t, true)
	got, gotErr := m.real.Get(context.Background(), key, at.real)
	want, wantErr := m.model.Get(context.Background(), key, at.model)
	m.compare(t, "Get", []store.Entry{got}, gotErr, []store.Entry{want}, wantErr)
}

// list reads all pages of a list.
func (m *machine) list(t *rapid.T) {
	prefix, at := rapid.SampledFrom(prefixes).Draw(t, "prefix"), m.rev(t, true)
	o := store.ListOptions{
		Limit: rapid.IntRange(0, 3).Draw(t, "limit"),
		After: rapid.SampledFrom(append(modelKeys, "", "Pod/a", "Q")).Draw(t, "after"),
	}
	for {
		o.At = at.real
		got, gotErr := m.real.List(context.Background(), prefix, o)
		o.At = at.model
		want, wantErr := m.model.List(context.Background(), prefix, o)
		m.compare(t, "List", got.Entries, gotErr, want.Entries, wantErr)
		if wantErr != nil {
			return
		}
		if m.ofReal[got.Revision] != want.Revision || got.More != want.More ||
			got.Remaining != want.Remaining && (got.Remaining != -1 || !want.More) {
			t.Fatalf("List: page %d, %v, %d; want %d, %v, %d", m.ofReal[got.Revision], got.More, got.Remaining,
				want.Revision, want.More, want.Remaining)
		}
		if !want.More {
			return
		}
		at, o.After = pair{got.Revision, want.Revision}, want.Entries[len(want.Entries)-1].Key
	}
}

func (m *machine) history(t *rapid.T) {
	key, limit := rapid.SampledFrom(modelKeys).Draw(t, "key"), rapid.IntRange(0, 3).Draw(t, "limit")
	got, gotErr := m.real.History(context.Background(), key, limit)
	want, wantErr := m.model.History(context.Background(), key, limit)
	m.compare(t, "History", got, gotErr, want, wantErr)
}

func (m *machine) log(t *rapid.T) {
	after, limit := m.rev(t, true), rapid.IntRange(0, 5).Draw(t, "limit")
	got, gotErr := m.real.Log(context.Background(), after.real, limit)
	want, wantErr := m.model.Log(context.Background(), after.model, limit)
	m.compare(t, "Log", got, gotErr, want, wantErr)
}

func (m *machine) watch(t *rapid.T) {
	topic, after := rapid.SampledFrom(allTopics).Draw(t, "topic"), m.rev(t, false)
	m.watchers = append(m.watchers, &watchPair{
		topic: topic,
		real:  m.real.Watch(topic, after.real),
		model: m.model.Watch(topic, after.model),
	})
}

// follow reads a watch to its end.
func (m *machine) follow(t *rapid.T) {
	if len(m.watchers) == 0 {
		t.Skip("no watchers")
	}
	i := rapid.IntRange(0, len(m.watchers)-1).Draw(t, "watcher")
	if alive := m.drain(t, m.watchers[i]); !alive || rapid.IntRange(0, 3).Draw(t, "close") == 0 {
		m.watchers[i].real.Close()
		m.watchers[i].model.Close()
		m.watchers = slices.Delete(m.watchers, i, i+1)
	}
}

// drain compares what a watch has to say now; false where that is its end.
func (m *machine) drain(t *rapid.T, w *watchPair) bool {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	var want []store.Entry
	for {
		entries, err := w.model.Next(ended)
		want = append(want, entries...)
		if errors.Is(err, store.ErrCompacted) {
			_, gotErr := w.real.Next(context.Background())
			m.compare(t, "Next", nil, gotErr, want, err)
			return false
		}
		if err != nil {
			break
		}
	}
	var got []store.Entry
	for len(got) < len(want) {
		entries, err := w.real.Next(context.Background())
		if w.mayLose && errors.Is(err, store.ErrCompacted) {
			return false
		}
		if err != nil {
			t.Fatalf("Next after %d entries of %d: %v", len(got), len(want), err)
		}
		got = append(got, entries...)
	}
	m.compare(t, fmt.Sprintf("Next of topic %q", w.topic), got, nil, want, nil)
	if n := len(got); n > 0 && w.real.Progress() < got[n-1].Revision {
		t.Fatalf("Progress = %d after revision %d", w.real.Progress(), got[n-1].Revision)
	}
	return true
}

// progress checks that no watch claims to have returned what it has not.
func (m *machine) progress(t *rapid.T) {
	for _, w := range m.watchers {
		log, err := m.model.Log(context.Background(), w.model.Progress(), 0)
		if err != nil {
			continue // it has lost what comes next
		}
		i := slices.IndexFunc(log, func(e store.Entry) bool { return e.In(w.topic) })
		if got := m.ofReal[w.real.Progress()]; i >= 0 && got >= log[i].Revision {
			t.Fatalf("topic %q: Progress = %d, but %d was not returned yet", w.topic, got, log[i].Revision)
		}
	}
}

func (m *machine) compact(t *rapid.T) {
	// Most often a little at a time, or there is never much to compare.
	rev := m.rev(t, true)
	if i := slices.IndexFunc(m.revs, func(p pair) bool { return p.model >= m.model.Compacted() }); rapid.Bool().Draw(t, "little") {
		rev = m.revs[min(i+rapid.IntRange(0, 3).Draw(t, "step"), len(m.revs)-1)]
	}
	for _, w := range m.watchers {
		w.mayLose = w.mayLose || w.real.Progress() < rev.real
	}
	m.compare(t, "Compact", nil, m.real.Compact(context.Background(), rev.real), nil, m.model.Compact(context.Background(), rev.model))
}

func (m *machine) restart(*rapid.T) {
	m.closeWatchers()
	m.real = m.reopen(m.real)
}

func (m *machine) closeWatchers() {
	for _, w := range m.watchers {
		w.real.Close()
		w.model.Close()
	}
	m.watchers = nil
}

// check is made after every action.
func (m *machine) check(t *rapid.T) {
	last := m.revs[len(m.revs)-1]
	if m.real.Revision() != last.real || m.ofReal[m.real.Compacted()] != m.model.Compacted() {
		t.Fatalf("at %d, compacted to %d; want %d, %d", m.real.Revision(), m.ofReal[m.real.Compacted()], last.real, m.model.Compacted())
	}
}

// compare compares an answer of the store with the model's.
func (m *machine) compare(t *rapid.T, what string, got []store.Entry, gotErr error, want []store.Entry, wantErr error) {
	t.Helper()
	if gotErr == nil && wantErr == nil {
		got = m.translate(t, got)
		opts := cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreFields(store.Entry{}, "Time")}
		if diff := cmp.Diff(want, got, opts); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", what, diff)
		}
		return
	}
	for _, kind := range []error{store.ErrNotFound, store.ErrConflict, store.ErrCompacted, store.ErrFuture, store.ErrClosed, nil} {
		if errors.Is(gotErr, kind) != errors.Is(wantErr, kind) {
			t.Fatalf("%s: error %v, want %v", what, gotErr, wantErr)
		}
	}
}

// translate gives entries of the store the model's revisions.
func (m *machine) translate(t *rapid.T, entries []store.Entry) []store.Entry {
	entries = slices.Clone(entries)
	for i := range entries {
		e := &entries[i]
		for _, rev := range []*int64{&e.Revision, &e.Prev} {
			of, ok := m.ofReal[*rev]
			if !ok {
				t.Fatalf("revision %d was never answered; those were: %v", *rev, slices.Sorted(maps.Keys(m.ofReal)))
			}
			*rev = of
		}
	}
	return entries
}
