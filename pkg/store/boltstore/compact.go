package boltstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"orch/pkg/store"
)

// compactChunk is how many entries one transaction of a compaction reads; it
// removes at most twice as many. Writers wait a few milliseconds for one.
const compactChunk = 500

// Compact forgets the log at and below rev. It reads only what was written
// since the compaction before: whatever one of those entries replaced is gone
// then, and so are tombstones. A revision that was compacted before is no error.
//
// The work is done in short transactions, each of which moves Compacted on;
// where ctx ends, or the process, what is done stays done.
func (s *Store) Compact(ctx context.Context, rev int64) error {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	if head := s.revision.Load(); rev > head {
		return fmt.Errorf("compact to %d, newest is %d: %w", rev, head, store.ErrFuture)
	}
	for {
		from := s.compacted.Load()
		switch {
		case s.isClosing():
			return store.ErrClosed
		case rev <= from:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case s.failed.Load():
			return ErrFailed
		}
		var to int64
		err := s.update(func(t txn) (err error) {
			to, err = t.compact(from, rev)
			return err
		})
		if err != nil {
			return fmt.Errorf("compact %s to %d: %w", s.path, rev, err)
		}
		s.mu.Lock()
		s.window.compact(to)
		s.compacted.Store(to)
		s.mu.Unlock()
	}
}

// compact forgets one chunk of the log, which begins after from, and returns
// where it ends: at rev or before.
func (t txn) compact(from, rev int64) (to int64, err error) {
	var doomed []int64
	var tombstones []string // keys
	var nanos int64
	scanned := 0
	err = t.scan(from, rev, func(at int64, r record) (bool, error) {
		if r.link != 0 {
			doomed = append(doomed, r.link)
		}
		if r.deleted {
			doomed = append(doomed, at)
			tombstones = append(tombstones, string(r.key))
		}
		to, nanos = at, r.nanos
		scanned++
		return scanned < compactChunk, nil
	})
	if err != nil {
		return 0, err
	}
	for _, key := range tombstones {
		p, err := t.pointer(key)
		if err != nil {
			return 0, err
		}
		if p.deleted && p.rev <= to { // else the key lives again, or was deleted again later
			if err := t.current.Delete([]byte(key)); err != nil {
				return 0, err
			}
		}
	}
	for _, at := range doomed {
		if err := t.log.Delete(revisionKey(at)); err != nil {
			return 0, err
		}
	}
	return to, t.setCompacted(to, nanos)
}

// compactLoop holds the log to the bounds of Options until Close.
func (s *Store) compactLoop() {
	tick := time.NewTicker(s.opts.compactEvery)
	defer tick.Stop()
	for {
		err := s.enforce(s.opts.now())
		if err != nil && !errors.Is(err, store.ErrClosed) {
			s.compactErr.Store(&err)
		} else {
			s.compactErr.Store(nil)
		}
		select {
		case <-s.closing:
			return
		case <-tick.C:
		}
	}
}

// enforce compacts what is beyond the bounds of Options at the time now.
func (s *Store) enforce(now time.Time) error {
	ctx := context.Background() // Compact itself ends when the store closes
	var expired int64
	if s.opts.KeepFor > 0 {
		var err error
		if expired, err = s.At(ctx, now.Add(-s.opts.KeepFor)); err != nil {
			return err
		}
	}
	return s.Compact(ctx, keepAfter(s.revision.Load(), expired, s.opts.KeepEntries))
}

// keepAfter is the revision to compact to: the log keeps the newest keepEntries
// entries (negative: all) of those after expired. Revisions are consecutive
// here, so counting is subtraction.
func keepAfter(head, expired int64, keepEntries int) int64 {
	if keepEntries < 0 {
		return expired
	}
	return max(expired, head-int64(keepEntries))
}
