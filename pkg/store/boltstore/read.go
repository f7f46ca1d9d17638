package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"orch/pkg/store"
)

// read runs f in a transaction that may read at the revision f is given: at, or
// the newest where at is 0.
func (s *Store) read(at int64, f func(t txn, at int64) error) error {
	for {
		rev := at
		head := s.revision.Load()
		switch {
		case rev == 0:
			rev = head
		case rev > head:
			return fmt.Errorf("revision %d, newest is %d: %w", rev, head, store.ErrFuture)
		}
		err := s.view(func(t txn) error {
			compacted, _, err := t.compacted()
			if err != nil {
				return err
			}
			if rev < compacted {
				return fmt.Errorf("revision %d, oldest is %d: %w", rev, compacted, store.ErrCompacted)
			}
			return f(t, rev)
		})
		if at == 0 && errors.Is(err, store.ErrCompacted) {
			continue // the newest was compacted while the transaction began
		}
		return err
	}
}

// Get returns what key holds.
func (s *Store) Get(ctx context.Context, key string, at int64) (e store.Entry, err error) {
	if err := ctx.Err(); err != nil {
		return e, err
	}
	err = s.read(at, func(t txn, at int64) error {
		p, err := t.pointer(key)
		if err != nil {
			return err
		}
		rev, r, err := t.living(p, at)
		if err != nil {
			return err
		}
		if rev == 0 {
			return store.ErrNotFound
		}
		e = r.entry(rev)
		return nil
	})
	if err != nil {
		return store.Entry{}, fmt.Errorf("get %s: %w", key, err)
	}
	return e, nil
}

// List returns the live keys that begin with prefix. Remaining is counted only
// at the newest revision, where the current bucket alone can tell.
func (s *Store) List(ctx context.Context, prefix string, o store.ListOptions) (page store.Page, err error) {
	err = s.read(o.At, func(t txn, at int64) (err error) {
		page, err = t.list(ctx, prefix, o, at)
		return err
	})
	if err != nil {
		return store.Page{}, fmt.Errorf("list %q: %w", prefix, err)
	}
	return page, nil
}

func (t txn) list(ctx context.Context, prefix string, o store.ListOptions, at int64) (store.Page, error) {
	page := store.Page{Revision: at}
	head, err := t.head()
	if err != nil {
		return page, err
	}
	from := []byte(prefix)
	if o.After >= prefix {
		from = append([]byte(o.After), 0) // the least key after it
	}
	c := t.current.Cursor()
	for key, v := c.Seek(from); bytes.HasPrefix(key, []byte(prefix)) && key != nil; key, v = c.Next() {
		if err := ctx.Err(); err != nil {
			return page, err
		}
		p, err := decodePointer(v)
		if err != nil {
			return page, corrupt("key %q: %w", key, err)
		}
		if p.deleted && p.rev <= at {
			continue
		}
		full := o.Limit > 0 && len(page.Entries) == o.Limit
		if full && at == head {
			page.More = true
			page.Remaining++
			continue
		}
		rev, r, err := t.living(p, at)
		switch {
		case err != nil:
			return page, err
		case rev == 0:
		case full:
			page.More, page.Remaining = true, -1
			return page, nil
		default:
			page.Entries = append(page.Entries, r.entry(rev))
		}
	}
	return page, nil
}

// History returns the entries of one key, newest first.
func (s *Store) History(ctx context.Context, key string, limit int) (found []store.Entry, err error) {
	err = s.read(0, func(t txn, at int64) error {
		p, err := t.pointer(key)
		if err != nil {
			return err
		}
		for rev := p.rev; rev != 0 && (limit <= 0 || len(found) < limit); {
			if err := ctx.Err(); err != nil {
				return err
			}
			r, ok, err := t.record(rev)
			if err != nil {
				return err
			}
			if !ok {
				break // compacted
			}
			if rev <= at {
				found = append(found, r.entry(rev))
			}
			rev = r.link
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", key, err)
	}
	return found, nil
}

// Log returns the entries after a revision, oldest first.
func (s *Store) Log(ctx context.Context, after int64, limit int) (found []store.Entry, err error) {
	head := s.revision.Load()
	err = s.view(func(t txn) error {
		return t.scan(max(after, 0), head, func(rev int64, r record) (bool, error) {
			found = append(found, r.entry(rev))
			return limit <= 0 || len(found) < limit, ctx.Err()
		})
	})
	if err != nil {
		return nil, fmt.Errorf("log after %d: %w", after, err)
	}
	return found, nil
}

// At returns the newest revision written no later than when. Times in the log
// never go down, so it looks by halves.
func (s *Store) At(_ context.Context, when time.Time) (at int64, err error) {
	head := s.revision.Load()
	err = s.view(func(t txn) error {
		compacted, compactedAt, err := t.compacted()
		if err != nil {
			return err
		}
		if compacted > 0 && !time.Unix(0, compactedAt).After(when) {
			at = compacted
		}
		c := t.log.Cursor()
		for low, high := compacted+1, head; low <= high; {
			mid := low + (high-low)/2
			k, v := c.Seek(revisionKey(mid))
			r, err := decodeAt(k, v)
			if err != nil {
				return err
			}
			if time.Unix(0, r.nanos).After(when) {
				high = mid - 1
			} else {
				at = revisionOf(k)
				low = at + 1
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("revision at %s: %w", when.Format(time.RFC3339Nano), err)
	}
	return at, nil
}

// pointer returns where the newest entry of key is; the zero pointer where it
// has none.
func (t txn) pointer(key string) (pointer, error) {
	v := t.current.Get([]byte(key))
	if v == nil {
		return pointer{}, nil
	}
	p, err := decodePointer(v)
	if err != nil {
		return p, corrupt("key %q: %w", key, err)
	}
	return p, nil
}

// record returns the entry of a revision; false where the log has none.
func (t txn) record(rev int64) (record, bool, error) {
	b := t.log.Get(revisionKey(rev))
	if b == nil {
		return record{}, false, nil
	}
	r, err := decode(rev, b)
	if err != nil {
		return r, false, corrupt("revision %d: %w", rev, err)
	}
	return r, true, nil
}

// decodeAt decodes what a cursor of the log stands on.
func decodeAt(k, v []byte) (record, error) {
	rev := revisionOf(k)
	r, err := decode(rev, v)
	if err != nil {
		return r, corrupt("revision %d: %w", rev, err)
	}
	return r, nil
}

// living walks back from a pointer to what its key held at a revision that is
// not compacted; revision 0 where it held nothing. A link that leads nowhere
// leads to a tombstone that was compacted, or to something older than one.
func (t txn) living(p pointer, at int64) (int64, record, error) {
	rev := p.rev
	for rev > at {
		b := t.log.Get(revisionKey(rev))
		if b == nil {
			return 0, record{}, nil
		}
		w, err := wayOf(rev, b)
		if err != nil {
			return 0, record{}, corrupt("revision %d: %w", rev, err)
		}
		rev = w.back(at)
	}
	r, ok, err := t.record(rev)
	if err != nil || !ok || r.deleted {
		return 0, r, err
	}
	return rev, r, nil
}

// scan calls f with the entries in (after, head], oldest first, until it
// returns false or an error.
func (t txn) scan(after, head int64, f func(rev int64, r record) (bool, error)) error {
	compacted, _, err := t.compacted()
	if err != nil {
		return err
	}
	if after < compacted {
		return fmt.Errorf("oldest is %d: %w", compacted, store.ErrCompacted)
	}
	c := t.log.Cursor()
	for k, v := c.Seek(revisionKey(after + 1)); k != nil; k, v = c.Next() {
		rev := revisionOf(k)
		if rev > head {
			return nil
		}
		r, err := decodeAt(k, v)
		if err != nil {
			return err
		}
		if more, err := f(rev, r); !more || err != nil {
			return err
		}
	}
	return nil
}

// head is the newest revision that the transaction sees. The log may end below
// the compacted revision, where a tombstone was the newest entry.
func (t txn) head() (int64, error) {
	compacted, _, err := t.compacted()
	if err != nil {
		return 0, err
	}
	return max(compacted, lastRevision(t.log)), nil
}

func lastRevision(log *bbolt.Bucket) int64 {
	k, _ := log.Cursor().Last()
	return revisionOf(k)
}

// corrupt is an error that wraps ErrCorrupt.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrCorrupt, fmt.Errorf(format, args...))
}
