package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"orch/pkg/store"
)

// next returns the next n entries of a watch.
func next(t *testing.T, w store.Watcher, n int) []store.Entry {
	t.Helper()
	var got []store.Entry
	for len(got) < n {
		entries, err := w.Next(t.Context())
		if err != nil {
			t.Fatalf("Next after %d entries of %d: %v", len(got), n, err)
		}
		got = append(got, entries...)
	}
	return got
}

// idle calls Next where nothing is to come.
func idle(t *testing.T, w store.Watcher) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Next = %v, %v; want it to wait", got, err)
	}
}

func testWatchTopic(t *testing.T, s store.Store) {
	a := put(t, s, "Pod/default/web-1", "1", "Pod@n1")
	b := put(t, s, "Pod/default/web-2", "1")
	c := put(t, s, "Pod/kube/web-1", "1", "Pod@n1", "Pod")
	d := put(t, s, "Node/n1", "1")
	e := put(t, s, "Pod/default/web-1", "2", "Pod@n1", "Pod@n2")
	f := remove(t, s, "Pod/default/web-1")
	for topic, want := range map[string][]store.Entry{
		"":                    {a, b, c, d, e, f},
		"Pod":                 {a, b, c, e, f},
		"Pod/default":         {a, b, e, f},
		"Pod/default/web-1":   {a, e, f},
		"Pod/default/web":     nil,
		"Pod/default/web-1/x": nil,
		"Pod/":                nil,
		"Pod@n1":              {a, c, e},
		"Pod@n2":              {e},
		"Node":                {d},
		"Secret":              nil,
	} {
		for _, after := range []int64{0, a.Revision, c.Revision, f.Revision} {
			var rest []store.Entry
			for _, e := range want {
				if e.Revision > after {
					rest = append(rest, e)
				}
			}
			w := s.Watch(topic, after)
			same(t, fmt.Sprintf("topic %q after %d", topic, after), next(t, w, len(rest)), rest)
			idle(t, w)
			if got := w.Progress(); got != f.Revision {
				t.Errorf("topic %q after %d: Progress = %d, want %d", topic, after, got, f.Revision)
			}
			w.Close()
		}
	}
}

func testWatchWakes(t *testing.T, s store.Store) {
	w := s.Watch("Pod", 0)
	defer w.Close()
	idle(t, w)
	got := make(chan store.Entry)
	go func() {
		defer close(got)
		for {
			entries, err := w.Next(t.Context())
			if err != nil {
				return
			}
			for _, e := range entries {
				got <- e
			}
		}
	}()
	for i := range 20 {
		put(t, s, "Node/n1", "1")
		want := put(t, s, fmt.Sprintf("Pod/default/%d", i), "1")
		same(t, "entry", <-got, want)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if e, ok := <-got; ok {
		t.Errorf("one entry more: %+v", e)
	}
}

func testWatchProgress(t *testing.T, s store.Store) {
	a := put(t, s, "Pod/a", "1")
	w := s.Watch("Pod", 0)
	defer w.Close()
	same(t, "entries", next(t, w, 1), []store.Entry{a})
	for range 5 {
		put(t, s, "Node/a", "1")
		idle(t, w)
		if got := w.Progress(); got != s.Revision() {
			t.Errorf("Progress = %d while nothing matches, want %d", got, s.Revision())
		}
	}
	b := put(t, s, "Pod/b", "1")
	put(t, s, "Node/a", "1")
	if got := w.Progress(); got >= b.Revision {
		t.Errorf("Progress = %d before revision %d was returned", got, b.Revision)
	}
	same(t, "entries", next(t, w, 1), []store.Entry{b})
}

func testWatchConcurrent(t *testing.T, s store.Store) {
	const writers, each = 8, 60
	topics := []string{"", "Pod", "Pod/0", "Pod/3", "odd", "Pod", "odd"}
	want := map[string]int{"": writers * each, "Pod": writers * each, "Pod/0": each, "Pod/3": each, "odd": writers * each / 2}

	type result struct {
		topic string
		seen  []store.Entry
		err   error
	}
	results := make(chan result)
	for _, topic := range topics {
		w := s.Watch(topic, 0)
		go func() {
			defer w.Close()
			r := result{topic: topic}
			for len(r.seen) < want[topic] && r.err == nil {
				var entries []store.Entry
				entries, r.err = w.Next(t.Context())
				r.seen = append(r.seen, entries...)
			}
			results <- r
		}()
	}
	written := make(chan error)
	for i := range writers {
		go func() {
			var err error
			for n := 0; n < each && err == nil; n++ {
				c := store.Change{Key: fmt.Sprintf("Pod/%d/%d", i, n), Value: []byte{byte(n)}}
				if n%2 == 1 {
					c.Topics = []string{"odd"}
				}
				_, err = s.Commit(t.Context(), c)
			}
			written <- err
		}()
	}
	for range writers {
		if err := <-written; err != nil {
			t.Error(err)
		}
	}
	log, err := s.Log(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range topics {
		r := <-results
		if r.err != nil {
			t.Errorf("topic %q: %v", r.topic, r.err)
		}
		var match []store.Entry
		for _, e := range log {
			if e.In(r.topic) {
				match = append(match, e)
			}
		}
		same(t, fmt.Sprintf("topic %q", r.topic), r.seen, match)
	}
}

func testWatchFuture(t *testing.T, s store.Store) {
	now := put(t, s, "k", "1").Revision
	w := s.Watch("", now+10)
	defer w.Close()
	for s.Revision() <= now+10 {
		idle(t, w)
		put(t, s, "k", "2")
	}
	if got := next(t, w, 1)[0].Revision; got <= now+10 {
		t.Errorf("a watch after %d returned revision %d", now+10, got)
	}
}

func testCompact(t *testing.T, s store.Store) {
	ctx := t.Context()
	a1 := put(t, s, "a", "1")
	b1 := put(t, s, "b", "1")
	gone := put(t, s, "gone", "1")
	a2 := put(t, s, "a", "2")
	tomb := remove(t, s, "gone")
	at := put(t, s, "c", "1")
	a3 := put(t, s, "a", "3")

	wantErr(t, "Compact in the future", s.Compact(ctx, a3.Revision+1), store.ErrFuture)
	for range 2 { // the second time there is nothing to do
		wantErr(t, "Compact", s.Compact(ctx, at.Revision), nil)
	}
	wantErr(t, "Compact again, to less", s.Compact(ctx, a1.Revision), nil)
	if s.Compacted() != at.Revision || s.Revision() != a3.Revision {
		t.Errorf("compacted to %d of %d, want %d of %d", s.Compacted(), s.Revision(), at.Revision, a3.Revision)
	}

	for _, rev := range []int64{a1.Revision, tomb.Revision} {
		_, err := s.Get(ctx, "a", rev)
		wantErr(t, "Get", err, store.ErrCompacted)
		_, err = s.List(ctx, "", store.ListOptions{At: rev})
		wantErr(t, "List", err, store.ErrCompacted)
		_, err = s.Log(ctx, rev, 0)
		wantErr(t, "Log", err, store.ErrCompacted)
		w := s.Watch("", rev)
		_, err = w.Next(ctx)
		wantErr(t, "Next", err, store.ErrCompacted)
		w.Close()
	}
	for rev, want := range map[int64][]store.Entry{at.Revision: {a2, b1, at}, 0: {a3, b1, at}} {
		page, err := s.List(ctx, "", store.ListOptions{At: rev})
		wantErr(t, "List", err, nil)
		same(t, fmt.Sprintf("List at %d", rev), page.Entries, want)
	}
	for key, want := range map[string][]store.Entry{"a": {a3, a2}, "b": {b1}, "gone": nil} {
		got, err := s.History(ctx, key, 0)
		wantErr(t, "History", err, nil)
		same(t, "history of "+key, got, want)
	}
	log, err := s.Log(ctx, at.Revision, 0)
	wantErr(t, "Log", err, nil)
	same(t, "log", log, []store.Entry{a3})

	// What follows a compaction goes on from it.
	again := put(t, s, "gone", "2")
	if again.Revision <= a3.Revision || again.Prev != 0 || gone.Revision >= tomb.Revision {
		t.Errorf("a key that lives again has %+v", again)
	}
	last := remove(t, s, "gone")
	wantErr(t, "Compact", s.Compact(ctx, last.Revision), nil)
	page, err := s.List(ctx, "", store.ListOptions{At: last.Revision})
	wantErr(t, "List", err, nil)
	same(t, "List of the compacted revision", page.Entries, []store.Entry{a3, b1, at})
	if next := put(t, s, "d", "1"); next.Revision <= last.Revision {
		t.Errorf("revision %d follows %d", next.Revision, last.Revision)
	}
}

func testCompactWatch(t *testing.T, s store.Store) {
	ctx := t.Context()
	a := put(t, s, "Pod/a", "1")
	seen, unseen := s.Watch("Pod", 0), s.Watch("Pod", 0)
	defer seen.Close()
	defer unseen.Close()
	same(t, "entries", next(t, seen, 1), []store.Entry{a})
	idle(t, seen)
	for range 5 {
		put(t, s, "Node/a", "1")
	}
	wantErr(t, "Compact", s.Compact(ctx, s.Revision()), nil)
	b := put(t, s, "Pod/b", "1")
	same(t, "entries", next(t, seen, 1), []store.Entry{b})
	_, err := unseen.Next(ctx)
	wantErr(t, "Next of a watch that has not seen what is gone", err, store.ErrCompacted)
}

func testClose(t *testing.T, s store.Store) {
	ctx := t.Context()
	put(t, s, "k", "1")
	w, ended, done := s.Watch("", 0), s.Watch("none", 0), make(chan error)
	idle(t, ended)
	go func() {
		_, err := ended.Next(ctx)
		done <- err
	}()
	for range 2 {
		wantErr(t, "Close", s.Close(), nil)
	}
	wantErr(t, "a Next that waits", <-done, store.ErrClosed)
	_, err := w.Next(ctx)
	wantErr(t, "Next", err, store.ErrClosed)
	_, err = s.Commit(ctx, store.Change{Key: "k"})
	wantErr(t, "Commit", err, store.ErrClosed)
	_, err = s.Get(ctx, "k", 0)
	wantErr(t, "Get", err, store.ErrClosed)
	_, err = s.List(ctx, "", store.ListOptions{})
	wantErr(t, "List", err, store.ErrClosed)
	_, err = s.History(ctx, "k", 0)
	wantErr(t, "History", err, store.ErrClosed)
	_, err = s.Log(ctx, 0, 0)
	wantErr(t, "Log", err, store.ErrClosed)
	wantErr(t, "Compact", s.Compact(ctx, 1), store.ErrClosed)
	w.Close()
	ended.Close()
	_, err = w.Next(ctx)
	wantErr(t, "Next of a closed watcher", err, store.ErrClosed)
}
