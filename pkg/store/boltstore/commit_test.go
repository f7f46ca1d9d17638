package boltstore

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"orch/pkg/store"
)

func mustCommit(t testing.TB, s *Store, c store.Change) store.Entry {
	t.Helper()
	e, err := s.Commit(t.Context(), c)
	if err != nil {
		t.Fatalf("Commit(%s): %v", c.Key, err)
	}
	return e
}

// batchOf makes requests as the committer finds them.
func batchOf(changes ...store.Change) (batch []*request) {
	for _, c := range changes {
		batch = append(batch, &request{change: c, done: make(chan struct{})})
	}
	return batch
}

func TestChangesOfOneBatchSeeEachOther(t *testing.T) {
	s := openAt(t, tempPath(t), Options{})
	batch := batchOf(
		store.Change{Key: "k", Expect: store.ExpectAbsent},
		store.Change{Key: "k", Expect: store.ExpectAbsent},
		store.Change{Key: "k", Expect: 1},
		store.Change{Key: "k", Expect: 1},
		store.Change{Key: "k", Expect: 2, Delete: true},
		store.Change{Key: "k", Expect: store.ExpectAny, Delete: true},
		store.Change{Key: "k", Expect: store.ExpectAbsent},
	)
	s.commit(batch)
	for i, want := range []struct {
		rev, prev int64
		err       error
	}{{1, 0, nil}, {0, 0, store.ErrConflict}, {2, 1, nil}, {0, 0, store.ErrConflict}, {3, 2, nil}, {0, 0, store.ErrNotFound}, {4, 0, nil}} {
		<-batch[i].done
		if e, err := batch[i].entry, batch[i].err; e.Revision != want.rev || e.Prev != want.prev || !errors.Is(err, want.err) {
			t.Errorf("change %d: revision %d after %d, %v; want %+v", i, e.Revision, e.Prev, err, want)
		}
	}
	if st := s.Stats(); st.Commits != 1 || st.Changes != 4 {
		t.Errorf("%d changes in %d commits", st.Changes, st.Commits)
	}
}

func TestFailedTransactionFailsAllAndLeavesNothing(t *testing.T) {
	s := openAt(t, tempPath(t), Options{})
	w := s.Watch("", 0)
	defer w.Close()
	batch := batchOf(
		store.Change{Key: "a"},
		store.Change{Key: "a"},
		store.Change{Key: strings.Repeat("k", bbolt.MaxKeySize+1)}, // Commit would not let it pass
		store.Change{Key: "b"},
	)
	s.commit(batch)
	for i, r := range batch {
		if <-r.done; r.err == nil || isRefusal(r.err) || r.entry.Revision != 0 {
			t.Errorf("change %d: %+v, %v", i, r.entry, r.err)
		}
	}
	if page, err := s.List(t.Context(), "", store.ListOptions{}); err != nil || len(page.Entries) > 0 || page.Revision != 0 {
		t.Errorf("List = %+v, %v", page, err)
	}
	e := mustCommit(t, s, store.Change{Key: "a"})
	got, err := w.Next(t.Context())
	if err != nil || len(got) != 1 || got[0].Revision != e.Revision || e.Revision != 1 {
		t.Errorf("Next = %+v, %v; want the first change that succeeded", got, err)
	}
}

func TestContextEndsOnlyWhatHasNotBegun(t *testing.T) {
	s := openAt(t, tempPath(t), Options{})
	stall, err := s.db.Begin(true) // the committer waits for this transaction
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	commit := func(key string) <-chan error {
		answer := make(chan error, 1)
		go func() {
			_, err := s.Commit(ctx, store.Change{Key: key})
			answer <- err
		}()
		return answer
	}
	r := &request{change: store.Change{Key: "begun"}, done: make(chan struct{})}
	s.requests <- r
	for !r.claimed.Load() {
		runtime.Gosched()
	}
	queued := commit("queued")
	for len(s.requests) == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-queued; !errors.Is(err, context.Canceled) {
		t.Errorf("a change that waited: %v", err)
	}
	if err := stall.Rollback(); err != nil {
		t.Fatal(err)
	}
	if <-r.done; r.err != nil {
		t.Errorf("a change that had begun: %v", r.err)
	}
	if _, err := s.Get(t.Context(), "queued", 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a change that was taken back: %v", err)
	}
}

func TestTimeNeverRunsBackwards(t *testing.T) {
	path := tempPath(t)
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	var offset atomic.Int64 // of the machine's clock
	o := Options{KeepFor: -1, now: func() time.Time { return start.Add(time.Duration(offset.Load())) }}
	s := openAt(t, path, o)
	a := mustCommit(t, s, store.Change{Key: "a"})
	offset.Store(-int64(time.Hour))
	b := mustCommit(t, s, store.Change{Key: "b"})
	mustCommit(t, s, store.Change{Key: "b", Delete: true, Expect: store.ExpectAny})
	if err := s.Compact(t.Context(), s.Revision()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, path, o)
	c := mustCommit(t, s, store.Change{Key: "c"})
	if !a.Time.Equal(start) || !b.Time.Equal(start) || !c.Time.Equal(start) {
		t.Errorf("times %v, %v, %v; want %v", a.Time, b.Time, c.Time, start)
	}
	offset.Store(int64(time.Hour))
	if d := mustCommit(t, s, store.Change{Key: "d"}); !d.Time.Equal(start.Add(time.Hour)) {
		t.Errorf("time %v, an hour after %v", d.Time, start)
	}
}

// Where a commit has failed and the file says more than was published, there is
// no telling what a crash would leave, so nothing may be built on it.
func TestStoreTakesNoMoreWritesWhenItsFileIsInDoubt(t *testing.T) {
	s := openAt(t, tempPath(t), Options{})
	mustCommit(t, s, store.Change{Key: "a"})
	err := s.update(func(t txn) error {
		_, err := t.apply(store.Change{Key: "ghost"}, 2, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	batch := batchOf(store.Change{Key: strings.Repeat("k", bbolt.MaxKeySize+1)})
	s.commit(batch)
	if <-batch[0].done; !errors.Is(batch[0].err, ErrFailed) {
		t.Errorf("the commit that failed: %v", batch[0].err)
	}
	if _, err := s.Commit(t.Context(), store.Change{Key: "b"}); !errors.Is(err, ErrFailed) {
		t.Errorf("the next commit: %v", err)
	}
	if err := s.Compact(t.Context(), 1); !errors.Is(err, ErrFailed) {
		t.Errorf("a compaction: %v", err)
	}
	if _, err := s.Get(t.Context(), "ghost", 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was never answered is visible: %v", err)
	}
	if _, err := s.Get(t.Context(), "a", 0); err != nil {
		t.Errorf("what was answered is not: %v", err)
	}
}
