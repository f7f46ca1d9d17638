package boltstore

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"

	"orch/pkg/store"
)

// benchWriters is how many writers wait for the disk at once.
const benchWriters = 64

// spread runs f for 0 to b.N-1 from benchWriters goroutines.
func spread(b *testing.B, f func(i int64) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range benchWriters {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}

// BenchmarkDurableCreate compares the store with what bbolt itself offers for
// concurrent writers: the same bytes under the same number of writers, put by
// db.Batch into one bucket.
func BenchmarkDurableCreate(b *testing.B) {
	value := make([]byte, 1024)
	b.Run("store", func(b *testing.B) {
		s := openAt(b, tempPath(b), Options{})
		spread(b, func(i int64) error {
			_, err := s.Commit(b.Context(), store.Change{
				Key:    fmt.Sprintf("Pod/default/pod-%08d", i),
				Value:  value,
				Topics: []string{"Pod@node-1"},
				Cause:  store.Cause{Actor: "bench", Reason: "Created", Message: "one more"},
			})
			return err
		})
		st := s.Stats()
		b.ReportMetric(float64(st.Changes)/float64(st.Commits), "changes/commit")
	})
	b.Run("raw bbolt.Batch", func(b *testing.B) {
		db, err := bbolt.Open(tempPath(b), 0o600, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		db.MaxBatchSize = benchWriters
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("b"))
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		spread(b, func(i int64) error {
			return db.Batch(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("b")).Put(fmt.Appendf(nil, "Pod/default/pod-%08d", i), value)
			})
		})
	})
}

// BenchmarkListAt lists 10,000 keys that have had fifty values each, at the
// newest revision and at the oldest that has all keys.
func BenchmarkListAt(b *testing.B) {
	const keys, values = 10_000, 50
	s := openAt(b, tempPath(b), Options{noSync: true})
	var oldest int64
	for v := range values {
		var wg sync.WaitGroup
		for w := range benchWriters {
			wg.Go(func() {
				for i := w; i < keys; i += benchWriters {
					value := binary.BigEndian.AppendUint64(make([]byte, 1016), uint64(v))
					c := store.Change{Key: fmt.Sprintf("Pod/default/pod-%05d", i), Value: value, Expect: store.ExpectAny}
					if _, err := s.Commit(b.Context(), c); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if v == 0 {
			oldest = s.Revision()
		}
	}
	for name, at := range map[string]int64{"newest": 0, "49 revisions back": oldest} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				page, err := s.List(b.Context(), "Pod/", store.ListOptions{At: at})
				if err != nil || len(page.Entries) != keys {
					b.Fatal(len(page.Entries), err)
				}
			}
		})
	}
}
