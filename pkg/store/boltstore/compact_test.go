package boltstore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"orch/pkg/store"
)

func TestKeepAfter(t *testing.T) {
	for _, tt := range []struct {
		name          string
		head, expired int64
		keep          int
		want          int64
	}{
		{"nothing is beyond either bound", 10, 0, 100, 0},
		{"the count is the narrower bound", 100, 20, 10, 90},
		{"the age is the narrower bound", 100, 95, 10, 95},
		{"without a bound on the count the age decides", 100, 20, -1, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := keepAfter(tt.head, tt.expired, tt.keep); got != tt.want {
				t.Errorf("keepAfter = %d, want %d", got, tt.want)
			}
		})
	}
}

func TestLogIsHeldToItsBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openAt(t, tempPath(t), Options{KeepEntries: 5, noSync: true})
		minute := func() {
			time.Sleep(time.Minute) // of the bubble's clock
			synctest.Wait()
		}
		for range 8 {
			mustCommit(t, s, store.Change{Key: "k", Expect: store.ExpectAny})
		}
		minute()
		if got := s.Compacted(); got != 3 {
			t.Errorf("with 8 entries and 5 to keep: compacted to %d", got)
		}
		time.Sleep(DefaultKeepFor - 2*time.Minute)
		mustCommit(t, s, store.Change{Key: "young"})
		minute()
		minute()
		minute()
		if got := s.Compacted(); got != 8 {
			t.Errorf("with 8 entries too old: compacted to %d", got)
		}
		if page, err := s.List(t.Context(), "", store.ListOptions{}); err != nil || len(page.Entries) != 2 {
			t.Errorf("what is current has gone: %+v, %v", page, err)
		}
		if err := s.Stats().CompactErr; err != nil {
			t.Error(err)
		}
	})
}

// A compaction of many chunks leaves exactly the newest entry of each key.
func TestCompactionLeavesOnlyWhatLives(t *testing.T) {
	s := openAt(t, tempPath(t), Options{noSync: true})
	for i := range 3 * compactChunk {
		key := fmt.Sprintf("k/%d", i%100)
		mustCommit(t, s, store.Change{Key: key, Expect: store.ExpectAny, Delete: i >= 100 && i%7 == 0 && exists(t, s, key)})
	}
	want, err := s.List(t.Context(), "", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context(), s.Revision()); err != nil {
		t.Fatal(err)
	}
	err = s.db.View(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{logBucket, currentBucket} {
			if n := tx.Bucket(b).Stats().KeyN; n != len(want.Entries) {
				t.Errorf("%d keys in %s, %d live", n, b, len(want.Entries))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, s *Store, key string) bool {
	_, err := s.Get(t.Context(), key, 0)
	return err == nil
}
