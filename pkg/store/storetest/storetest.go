// Package storetest is the conformance suite of the store: what an
// implementation must do to be one. boltstore and memstore pass it.
//
// The one invariant: it asks only for what pkg/store promises. In particular it
// never assumes that revisions are consecutive, nor that Remaining is counted.
//
// Read next: model.go, which compares a store with memstore under random
// operations.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"orch/pkg/store"
)

// Opener returns an empty store; the suite closes it.
type Opener func(t *testing.T) store.Store

// Run runs the suite on stores that open returns.
func Run(t *testing.T, open Opener) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"a change is an entry with all that was said", testEntry},
		{"a change must find what it expects", testExpect},
		{"a caller's bytes are its own again after a commit", testBytes},
		{"a change whose context has ended is not made", testContext},
		{"changes of one key at the same time lose nothing", testCounter},
		{"reads see the revision that they ask for", testReads},
		{"a list goes on where its page ended, at its revision", testPages},
		{"a key's history reaches into its earlier lives", testHistory},
		{"a moment has the newest revision until then", testAt},
		{"a watch of a topic has its entries and no others", testWatchTopic},
		{"a watch that waits is woken by what matches", testWatchWakes},
		{"a watch moves on while nothing matches", testWatchProgress},
		{"watches miss nothing and double nothing while many write", testWatchConcurrent},
		{"a watch can begin in the future", testWatchFuture},
		{"compaction keeps what lives and says what is gone", testCompact},
		{"compaction does not disturb a watch that has seen all", testCompactWatch},
		{"a closed store says so everywhere", testClose},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			defer closeStore(t, s)
			tt.test(t, s)
		})
	}
	t.Run("random operations have the answers of the model", func(t *testing.T) {
		testModel(t, open, nil)
	})
}

// RunDurable runs Run, and the random operations once more with restarts among
// them; reopen closes a store and opens what it left.
func RunDurable(t *testing.T, open Opener, reopen func(*testing.T, store.Store) store.Store) {
	Run(t, open)
	t.Run("random operations and restarts have the answers of the model", func(t *testing.T) {
		testModel(t, open, reopen)
	})
}

func closeStore(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// put writes value to key, whatever is there.
func put(t *testing.T, s store.Store, key, value string, topics ...string) store.Entry {
	t.Helper()
	return commit(t, s, store.Change{Key: key, Value: []byte(value), Expect: store.ExpectAny, Topics: topics})
}

func remove(t *testing.T, s store.Store, key string) store.Entry {
	t.Helper()
	return commit(t, s, store.Change{Key: key, Delete: true, Expect: store.ExpectAny})
}

func commit(t *testing.T, s store.Store, c store.Change) store.Entry {
	t.Helper()
	e, err := s.Commit(t.Context(), c)
	if err != nil {
		t.Fatalf("Commit(%+v): %v", c, err)
	}
	return e
}

// same compares entries, pages and lists of them.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

func testEntry(t *testing.T, s store.Store) {
	if got := s.Revision(); got != 0 {
		t.Errorf("an empty store is at revision %d", got)
	}
	cause := store.Cause{Actor: "admin", Reason: "Created", Message: "by hand", Trigger: 7, SteppedBy: "alice"}
	a := commit(t, s, store.Change{Key: "Pod/default/a", Value: []byte("1"), Topics: []string{"Pod@n1", "x"}, Cause: cause})
	b := commit(t, s, store.Change{Key: "Pod/default/a", Value: []byte("2"), Expect: a.Revision})
	c := commit(t, s, store.Change{Key: "Pod/default/a", Value: []byte("3"), Expect: b.Revision, Delete: true})
	d := commit(t, s, store.Change{Key: "Pod/default/a"})
	want := []store.Entry{
		{Revision: a.Revision, Key: "Pod/default/a", Value: []byte("1"), Topics: []string{"Pod@n1", "x"}, Cause: cause, Time: a.Time},
		{Revision: b.Revision, Key: "Pod/default/a", Value: []byte("2"), Prev: a.Revision, Time: b.Time},
		{Revision: c.Revision, Key: "Pod/default/a", Value: []byte("3"), Prev: b.Revision, Time: c.Time, Deleted: true},
		{Revision: d.Revision, Key: "Pod/default/a", Time: d.Time},
	}
	same(t, "answers", []store.Entry{a, b, c, d}, want)
	log, err := s.Log(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "log", log, want)
	if s.Revision() != d.Revision {
		t.Errorf("Revision = %d, want %d", s.Revision(), d.Revision)
	}
	for i := 1; i < len(want); i++ {
		if want[i].Revision <= want[i-1].Revision || want[i].Time.Before(want[i-1].Time) {
			t.Errorf("entry %d is not after the one before: %+v", i, want[i])
		}
	}
	if since := time.Since(a.Time); since < 0 || since > time.Hour {
		t.Errorf("an entry made now says that it is %v old", since)
	}
}

func testExpect(t *testing.T, s store.Store) {
	live := put(t, s, "live", "1")
	old := live.Revision
	live = put(t, s, "live", "2")
	put(t, s, "gone", "1")
	gone := remove(t, s, "gone").Revision
	for _, tt := range []struct {
		name   string
		change store.Change
		want   error
	}{
		{"create what exists", store.Change{Key: "live", Expect: store.ExpectAbsent}, store.ErrConflict},
		{"update from an old revision", store.Change{Key: "live", Expect: old}, store.ErrConflict},
		{"update from a revision of nothing", store.Change{Key: "live", Expect: 1 << 60}, store.ErrConflict},
		{"update what is absent", store.Change{Key: "none", Expect: old}, store.ErrConflict},
		{"update what was deleted, from its tombstone", store.Change{Key: "gone", Expect: gone}, store.ErrConflict},
		{"delete from an old revision", store.Change{Key: "live", Expect: old, Delete: true}, store.ErrConflict},
		{"delete what should be absent and is not", store.Change{Key: "live", Expect: store.ExpectAbsent, Delete: true}, store.ErrConflict},
		{"delete what is absent", store.Change{Key: "none", Expect: store.ExpectAny, Delete: true}, store.ErrNotFound},
		{"delete what is absent, from a revision", store.Change{Key: "none", Expect: old, Delete: true}, store.ErrNotFound},
		{"delete what was deleted", store.Change{Key: "gone", Expect: store.ExpectAny, Delete: true}, store.ErrNotFound},
		{"update from the present revision", store.Change{Key: "live", Expect: live.Revision}, nil},
		{"write whatever is there", store.Change{Key: "live", Expect: store.ExpectAny}, nil},
		{"write where nothing is", store.Change{Key: "new", Expect: store.ExpectAny}, nil},
		{"create what was deleted", store.Change{Key: "gone", Expect: store.ExpectAbsent}, nil},
	} {
		before := s.Revision()
		_, err := s.Commit(t.Context(), tt.change)
		wantErr(t, tt.name, err, tt.want)
		if moved := s.Revision() > before; moved != (tt.want == nil) {
			t.Errorf("%s: revision %d, was %d", tt.name, s.Revision(), before)
		}
	}
	if _, err := s.Commit(t.Context(), store.Change{}); err == nil {
		t.Error("a change without a key was made")
	}
}

func testBytes(t *testing.T, s store.Store) {
	value := []byte("before")
	topics := []string{"before"}
	w := s.Watch("", 0)
	defer w.Close()
	e := commit(t, s, store.Change{Key: "k", Value: value, Topics: topics})
	copy(value, "after!")
	topics[0] = "after!"
	got, err := s.Get(t.Context(), "k", 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := next(t, w, 1)[0]
	for _, e := range []store.Entry{e, got, seen} {
		if string(e.Value) != "before" || e.Topics[0] != "before" {
			t.Errorf("entry has %q and %q", e.Value, e.Topics)
		}
	}
}

func testContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Commit(ctx, store.Change{Key: "k"})
	wantErr(t, "commit", err, context.Canceled)
	put(t, s, "other", "1")
	_, err = s.Get(t.Context(), "k", 0)
	wantErr(t, "get", err, store.ErrNotFound)
}

func testCounter(t *testing.T, s store.Store) {
	const writers, each = 8, 20
	ctx := t.Context()
	increment := func() error {
		for {
			now, err := s.Get(ctx, "counter", 0)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			_, err = s.Commit(ctx, store.Change{Key: "counter", Value: append(now.Value[:len(now.Value):len(now.Value)], 'x'), Expect: now.Revision})
			if !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
	}
	errs := make(chan error, writers)
	for range writers {
		go func() {
			for range each {
				if err := increment(); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	e, err := s.Get(ctx, "counter", 0)
	if err != nil || len(e.Value) != writers*each {
		t.Errorf("counter = %d, %v; want %d", len(e.Value), err, writers*each)
	}
}

func testReads(t *testing.T, s store.Store) {
	ctx := t.Context()
	a1 := put(t, s, "a", "1")
	b1 := put(t, s, "b", "1")
	a2 := put(t, s, "a", "2")
	gone := remove(t, s, "b")
	a3 := put(t, s, "a", "3")
	b2 := put(t, s, "b", "2")
	for _, tt := range []struct {
		at   int64
		a, b *store.Entry
	}{
		{a1.Revision, &a1, nil},
		{b1.Revision, &a1, &b1},
		{a2.Revision, &a2, &b1},
		{gone.Revision, &a2, nil},
		{a3.Revision, &a3, nil},
		{b2.Revision, &a3, &b2},
		{0, &a3, &b2},
	} {
		var want []store.Entry
		for key, e := range map[string]*store.Entry{"a": tt.a, "b": tt.b} {
			got, err := s.Get(ctx, key, tt.at)
			if e == nil {
				wantErr(t, fmt.Sprintf("Get(%s, %d)", key, tt.at), err, store.ErrNotFound)
				continue
			}
			wantErr(t, fmt.Sprintf("Get(%s, %d)", key, tt.at), err, nil)
			same(t, fmt.Sprintf("Get(%s, %d)", key, tt.at), got, *e)
			want = append(want, *e)
		}
		slices.SortFunc(want, func(a, b store.Entry) int { return int(a.Key[0]) - int(b.Key[0]) })
		page, err := s.List(ctx, "", store.ListOptions{At: tt.at})
		wantErr(t, "List", err, nil)
		same(t, fmt.Sprintf("List at %d", tt.at), page.Entries, want)
	}
	_, err := s.Get(ctx, "a", b2.Revision+1)
	wantErr(t, "Get in the future", err, store.ErrFuture)
	_, err = s.List(ctx, "", store.ListOptions{At: b2.Revision + 1})
	wantErr(t, "List in the future", err, store.ErrFuture)
	log, err := s.Log(ctx, b1.Revision, 2)
	wantErr(t, "Log", err, nil)
	same(t, "Log", log, []store.Entry{a2, gone})
}

func testPages(t *testing.T, s store.Store) {
	ctx := t.Context()
	var want []store.Entry
	for i := range 10 {
		want = append(want, put(t, s, fmt.Sprintf("Pod/a/%d", i), "1"))
	}
	put(t, s, "Pod/b/0", "1")
	put(t, s, "Pod", "1")
	o := store.ListOptions{Limit: 3}
	var got []store.Entry
	for {
		page, err := s.List(ctx, "Pod/a/", o)
		if err != nil {
			t.Fatal(err)
		}
		if o.At != 0 && page.Revision != o.At {
			t.Errorf("a page at revision %d says %d", o.At, page.Revision)
		}
		got = append(got, page.Entries...)
		if left := int64(10 - len(got)); page.More != (left > 0) || page.Remaining != left && (page.Remaining != -1 || left == 0) {
			t.Errorf("after %d of 10: More = %v, Remaining = %d", len(got), page.More, page.Remaining)
		}
		if !page.More {
			break
		}
		o.At, o.After = page.Revision, got[len(got)-1].Key
		// The next page shows what was, whatever is done meanwhile.
		put(t, s, fmt.Sprintf("Pod/a/%d", 9-len(got)/3), "2")
		remove(t, s, fmt.Sprintf("Pod/a/%d", len(got)))
		put(t, s, fmt.Sprintf("Pod/a/%dnew", len(got)), "1")
	}
	same(t, "pages", got, want)

	page, err := s.List(ctx, "Pod/c/", store.ListOptions{})
	wantErr(t, "List", err, nil)
	same(t, "a list of nothing", page, store.Page{Revision: s.Revision()})
}

func testHistory(t *testing.T, s store.Store) {
	a := put(t, s, "k", "1")
	put(t, s, "other", "1")
	b := remove(t, s, "k")
	c := put(t, s, "k", "2")
	d := put(t, s, "k", "3")
	for limit, want := range map[int][]store.Entry{0: {d, c, b, a}, 2: {d, c}, 9: {d, c, b, a}} {
		got, err := s.History(t.Context(), "k", limit)
		wantErr(t, "History", err, nil)
		same(t, fmt.Sprintf("History, limit %d", limit), got, want)
	}
	if c.Prev != 0 || d.Prev != c.Revision {
		t.Errorf("Prev of a second life and its first update = %d, %d; want 0, %d", c.Prev, d.Prev, c.Revision)
	}
	got, err := s.History(t.Context(), "none", 0)
	if err != nil || len(got) > 0 {
		t.Errorf("History of a key that never was = %v, %v", got, err)
	}
}

func testAt(t *testing.T, s store.Store) {
	ctx := t.Context()
	var log []store.Entry
	for range 20 {
		log = append(log, put(t, s, "k", "1"))
	}
	want := func(when time.Time) (rev int64) {
		for _, e := range log {
			if !e.Time.After(when) {
				rev = e.Revision
			}
		}
		if rev < s.Compacted() {
			return 0
		}
		return rev
	}
	check := func() {
		t.Helper()
		for _, e := range log {
			for _, when := range []time.Time{e.Time, e.Time.Add(-1), e.Time.Add(1)} {
				if got, err := s.At(ctx, when); err != nil || got != want(when) {
					t.Errorf("At(%v) = %d, %v; want %d", when, got, err, want(when))
				}
			}
		}
		for when, want := range map[time.Time]int64{
			{}:                             0,
			time.Now().AddDate(2000, 0, 0): log[len(log)-1].Revision,
		} {
			if got, err := s.At(ctx, when); err != nil || got != want {
				t.Errorf("At(%v) = %d, %v; want %d", when, got, err, want)
			}
		}
	}
	check()
	for _, i := range []int{10, 19} {
		if err := s.Compact(ctx, log[i].Revision); err != nil {
			t.Fatal(err)
		}
		check()
	}
}
