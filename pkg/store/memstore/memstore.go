// Package memstore is the simplest store that keeps the contract: one mutex
// around one slice of entries. It is the model that boltstore is compared
// with, and a store for tests that need no disk; an answer about the past is
// computed by reading the slice from its beginning, which is slow and plainly
// right.
//
// The one invariant: entries holds the log in the order of its revisions, and
// live is what state computes from it for the newest.
//
// Read next: storetest, which compares this with boltstore.
package memstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"orch/pkg/store"
)

// Store is a store.Store in memory.
//
// Concurrency: all methods may be called from several goroutines.
type Store struct {
	mu          sync.Mutex // guards all below
	entries     []store.Entry
	live        map[string]store.Entry // by key, at revision
	revision    int64
	compacted   int64
	compactedAt time.Time // when the revision `compacted` was written
	watchers    map[*watcher]struct{}
	changed     chan struct{} // closed, and replaced, by every commit
	closed      bool
}

var _ store.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	return &Store{live: map[string]store.Entry{}, watchers: map[*watcher]struct{}{}, changed: make(chan struct{})}
}

// Commit makes one change.
func (s *Store) Commit(ctx context.Context, c store.Change) (store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return store.Entry{}, err
	}
	if s.closed {
		return store.Entry{}, store.ErrClosed
	}
	if c.Key == "" {
		return store.Entry{}, fmt.Errorf("commit: key is empty")
	}
	now, exists := s.live[c.Key]
	switch {
	case c.Delete && !exists:
		return store.Entry{}, fmt.Errorf("delete %s: %w", c.Key, store.ErrNotFound)
	case c.Expect != store.ExpectAny && c.Expect != now.Revision:
		return store.Entry{}, fmt.Errorf("commit %s: expected revision %d, found %d: %w",
			c.Key, c.Expect, now.Revision, store.ErrConflict)
	}
	s.revision++
	e := store.Entry{
		Revision: s.revision,
		Key:      c.Key,
		Value:    bytes.Clone(c.Value),
		Deleted:  c.Delete,
		Prev:     now.Revision,
		Topics:   slices.Clone(c.Topics),
		Cause:    c.Cause,
		Time:     s.clock(),
	}
	s.entries = append(s.entries, e)
	if s.live[e.Key] = e; e.Deleted {
		delete(s.live, e.Key)
	}
	s.broadcast()
	return e, nil
}

// clock is the time of the next entry: never before the last one's, even when
// the machine's clock was set back.
func (s *Store) clock() time.Time {
	last := s.compactedAt
	if n := len(s.entries); n > 0 && s.entries[n-1].Time.After(last) {
		last = s.entries[n-1].Time
	}
	now := time.Unix(0, time.Now().UnixNano()).UTC()
	if now.Before(last) {
		return last
	}
	return now
}

func (s *Store) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// state is what lives at the revision at, by key; not to be changed.
func (s *Store) state(at int64) map[string]store.Entry {
	if at == s.revision {
		return s.live
	}
	live := map[string]store.Entry{}
	for _, e := range s.entries {
		switch {
		case e.Revision > at:
			return live
		case e.Deleted:
			delete(live, e.Key)
		default:
			live[e.Key] = e
		}
	}
	return live
}

// readable says which revision a read at `at` reads, or why it cannot.
func (s *Store) readable(at int64) (int64, error) {
	switch {
	case s.closed:
		return 0, store.ErrClosed
	case at == 0:
		return s.revision, nil
	case at > s.revision:
		return 0, fmt.Errorf("revision %d, newest is %d: %w", at, s.revision, store.ErrFuture)
	case at < s.compacted:
		return 0, fmt.Errorf("revision %d, oldest is %d: %w", at, s.compacted, store.ErrCompacted)
	}
	return at, nil
}

// Get returns what key holds.
func (s *Store) Get(_ context.Context, key string, at int64) (store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, err := s.readable(at)
	if err != nil {
		return store.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	e, ok := s.state(at)[key]
	if !ok {
		return store.Entry{}, fmt.Errorf("get %s: %w", key, store.ErrNotFound)
	}
	return e, nil
}

// List returns the live keys that begin with prefix.
func (s *Store) List(_ context.Context, prefix string, o store.ListOptions) (store.Page, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, err := s.readable(o.At)
	if err != nil {
		return store.Page{}, fmt.Errorf("list %q: %w", prefix, err)
	}
	page := store.Page{Revision: at}
	for key, e := range s.state(at) {
		if strings.HasPrefix(key, prefix) && key > o.After {
			page.Entries = append(page.Entries, e)
		}
	}
	slices.SortFunc(page.Entries, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	if n := len(page.Entries); o.Limit > 0 && n > o.Limit {
		page.Entries = page.Entries[:o.Limit]
		page.More, page.Remaining = true, int64(n-o.Limit)
	}
	return page, nil
}

// History returns the entries of one key, newest first.
func (s *Store) History(_ context.Context, key string, limit int) ([]store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	var found []store.Entry
	for _, e := range slices.Backward(s.entries) {
		if e.Key == key && (limit <= 0 || len(found) < limit) {
			found = append(found, e)
		}
	}
	return found, nil
}

// Log returns the entries after a revision, oldest first.
func (s *Store) Log(_ context.Context, after int64, limit int) ([]store.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	if after < s.compacted {
		return nil, fmt.Errorf("log after %d, oldest is %d: %w", after, s.compacted, store.ErrCompacted)
	}
	return s.matching("", after, limit), nil
}

// matching returns at most limit entries (0: all) of a topic.
func (s *Store) matching(topic string, after int64, limit int) []store.Entry {
	var found []store.Entry
	from := sort.Search(len(s.entries), func(i int) bool { return s.entries[i].Revision > after })
	for _, e := range s.entries[from:] {
		if e.In(topic) && (limit <= 0 || len(found) < limit) {
			found = append(found, e)
		}
	}
	return found
}

// At returns the newest revision written no later than t.
func (s *Store) At(_ context.Context, t time.Time) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, store.ErrClosed
	}
	for _, e := range slices.Backward(s.entries) {
		if e.Revision > s.compacted && !e.Time.After(t) {
			return e.Revision, nil
		}
	}
	if s.compacted > 0 && !s.compactedAt.After(t) {
		return s.compacted, nil
	}
	return 0, nil
}

// Revision is the newest revision.
func (s *Store) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

// Compacted is the revision that the log was last compacted to.
func (s *Store) Compacted() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compacted
}

// Compact forgets the log at and below rev. A revision that was compacted
// before is no error.
func (s *Store) Compact(_ context.Context, rev int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return store.ErrClosed
	case rev > s.revision:
		return fmt.Errorf("compact to %d, newest is %d: %w", rev, s.revision, store.ErrFuture)
	case rev <= s.compacted:
		return nil
	}
	for w := range s.watchers {
		w.compact(rev)
	}
	live := s.state(rev)
	s.entries = slices.DeleteFunc(s.entries, func(e store.Entry) bool {
		if e.Revision == rev {
			s.compactedAt = e.Time
		}
		return e.Revision <= rev && live[e.Key].Revision != e.Revision
	})
	s.compacted = rev
	return nil
}

// Close ends all watches.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.broadcast()
	}
	return nil
}
