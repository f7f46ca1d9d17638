// Package sealed is a store that keeps the values of some keys encrypted in
// another one: the API server's Secrets.
//
// The one invariant: the value of a key with one of the prefixes never reaches
// the store below in clear. What is below was encrypted with AES-256-GCM, and
// the key's path is authenticated with it, so that no value can be put in
// another's place. Keys, causes, topics and times are not encrypted.
//
// Read next: keys.go, for the key file and how keys are replaced.
package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"orch/pkg/store"
)

// ErrKey says that a value was encrypted with a key that is not in the key
// file, or was changed by somebody who has none.
var ErrKey = errors.New("no key of the key file decrypts it")

// Store is a store.Store over another one, which it closes.
//
// Concurrency: as the store below.
type Store struct {
	store.Store
	keys     *Keys
	prefixes []string
}

var _ store.Store = (*Store)(nil)

// New returns a store that encrypts the values of keys with one of the
// prefixes.
func New(s store.Store, keys *Keys, prefixes ...string) *Store {
	return &Store{Store: s, keys: keys, prefixes: prefixes}
}

func (s *Store) seals(key string) bool {
	return slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

// open decrypts an entry's value. One that is in clear stays as it is: it was
// written before there were keys. An entry of the past whose key is gone is as good
// as compacted.
func (s *Store) open(e *store.Entry, past bool) error {
	if !s.seals(e.Key) {
		return nil
	}
	value, err := s.keys.open(e.Key, e.Value)
	if err != nil {
		err = fmt.Errorf("%s at revision %d: %w", e.Key, e.Revision, err)
		if past {
			err = fmt.Errorf("%w: %w", store.ErrCompacted, err)
		}
		return err
	}
	e.Value = value
	return nil
}

// Commit is store.Store's.
func (s *Store) Commit(ctx context.Context, c store.Change) (store.Entry, error) {
	if !s.seals(c.Key) {
		return s.Store.Commit(ctx, c)
	}
	value := bytes.Clone(c.Value)
	c.Value = s.keys.seal(c.Key, value)
	e, err := s.Store.Commit(ctx, c)
	if err == nil {
		e.Value = value
	}
	return e, err
}

// Get is store.Store's. What an old revision holds and no key opens any more is
// gone as if it were compacted.
func (s *Store) Get(ctx context.Context, key string, at int64) (store.Entry, error) {
	e, err := s.Store.Get(ctx, key, at)
	if err != nil {
		return e, err
	}
	if err := s.open(&e, at != 0); err != nil {
		return store.Entry{}, err
	}
	return e, nil
}

// List is store.Store's.
func (s *Store) List(ctx context.Context, prefix string, o store.ListOptions) (store.Page, error) {
	p, err := s.Store.List(ctx, prefix, o)
	if err != nil {
		return p, err
	}
	for i := range p.Entries {
		if err := s.open(&p.Entries[i], o.At != 0); err != nil {
			return store.Page{}, err
		}
	}
	return p, nil
}

// History is store.Store's. An entry that no key opens any more has no value.
func (s *Store) History(ctx context.Context, key string, limit int) ([]store.Entry, error) {
	entries, err := s.Store.History(ctx, key, limit)
	return s.past(entries), err
}

// Log is store.Store's. An entry that no key opens any more has no value.
func (s *Store) Log(ctx context.Context, after int64, limit int) ([]store.Entry, error) {
	entries, err := s.Store.Log(ctx, after, limit)
	return s.past(entries), err
}

func (s *Store) past(entries []store.Entry) []store.Entry {
	for i := range entries {
		if s.open(&entries[i], true) != nil {
			entries[i].Value = nil
		}
	}
	return entries
}

// Watch is store.Store's. What no key opens any more ends it with ErrCompacted.
func (s *Store) Watch(topic string, after int64) store.Watcher {
	return &watcher{s.Store.Watch(topic, after), s}
}

type watcher struct {
	store.Watcher
	s *Store
}

func (w *watcher) Next(ctx context.Context) ([]store.Entry, error) {
	entries, err := w.Watcher.Next(ctx)
	if !slices.ContainsFunc(entries, func(e store.Entry) bool { return w.s.seals(e.Key) }) {
		return entries, err
	}
	entries = slices.Clone(entries) // others may read the ones below
	for i := range entries {
		if err := w.s.open(&entries[i], true); err != nil {
			return nil, err
		}
	}
	return entries, err
}

// Reseal encrypts anew what is in clear or encrypted with another key than the
// first, and returns how many values it was. It fails where one cannot be
// decrypted at all.
//
// What the log holds of the past stays as it was written, until it is compacted.
func (s *Store) Reseal(ctx context.Context, why store.Cause) (n int, err error) {
	for _, prefix := range s.prefixes {
		page, err := s.Store.List(ctx, prefix, store.ListOptions{})
		if err != nil {
			return n, err
		}
		for _, e := range page.Entries {
			current := s.keys.isCurrent(e.Value)
			if err := s.open(&e, false); err != nil {
				return n, err
			}
			if current {
				continue
			}
			if _, err := s.Commit(ctx, store.Change{Key: e.Key, Value: e.Value, Expect: e.Revision, Topics: e.Topics, Cause: why}); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}
