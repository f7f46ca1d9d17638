package boltstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"orch/pkg/store"
)

const (
	// The bounds of one transaction, so that the first change of a long queue
	// does not wait for the writing of all others.
	maxBatchChanges = 1024
	maxBatchBytes   = 8 << 20
	// How often in a row the committer yields for nothing before it begins.
	// All of them take some 50 µs where nobody is ready to run.
	maxIdleYields = 256
)

// request is one change on its way through the committer.
type request struct {
	change  store.Change
	claimed atomic.Bool // by the committer, or by a caller that gave up
	entry   store.Entry
	err     error
	done    chan struct{} // closed when entry and err are final
}

// claim reports whether the caller is the first to want the request.
func (r *request) claim() bool { return r.claimed.CompareAndSwap(false, true) }

// Commit makes one change.
//
// Where ctx ends while the change waits for its turn, it is not made, and the
// answer is ctx's error. Once its turn has come it can no longer be taken back:
// Commit then waits the few milliseconds for the true answer.
func (s *Store) Commit(ctx context.Context, c store.Change) (store.Entry, error) {
	switch {
	case ctx.Err() != nil:
		return store.Entry{}, ctx.Err()
	case s.isClosing():
		return store.Entry{}, store.ErrClosed
	case c.Key == "" || len(c.Key) > bbolt.MaxKeySize:
		return store.Entry{}, fmt.Errorf("commit: key has %d bytes, must have 1 to %d", len(c.Key), bbolt.MaxKeySize)
	}
	r := &request{change: c, done: make(chan struct{})}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return store.Entry{}, ctx.Err()
	case <-s.closing:
		return store.Entry{}, store.ErrClosed
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.claim() {
			return store.Entry{}, ctx.Err()
		}
		<-r.done
	case <-s.stopped:
		if r.claim() {
			return store.Entry{}, store.ErrClosed
		}
		<-r.done
	}
	return r.entry, r.err
}

// commitLoop is the committer. When it returns, every request that it claimed
// has been answered; the others see stopped.
func (s *Store) commitLoop() {
	defer close(s.stopped)
	for {
		select {
		case <-s.closing:
			return
		case r := <-s.requests:
			if batch := s.batch(r); len(batch) > 0 {
				s.commit(batch)
			}
		}
	}
}

// batch returns first and those that wait behind it, without those whose callers
// have given up.
//
// The writers that the commit before has just answered are likely to write again
// at once. Where fewer wait than lately came together, batch lets others run for
// a moment before it begins, which makes one batch of what would else be two. It
// does not wait for a time: a lone writer is never held up, and where nobody has
// anything to do, the yields take a fraction of an fsync.
func (s *Store) batch(first *request) []*request {
	for idle := 0; idle < maxIdleYields && 1+len(s.requests) < s.crowd; idle++ {
		waiting := len(s.requests)
		runtime.Gosched()
		if len(s.requests) > waiting {
			idle = 0
		}
	}
	taken := make([]*request, 0, 1+len(s.requests))
	size := 0
	for r := first; ; {
		if r.claim() {
			taken = append(taken, r)
			size += len(r.change.Value)
		}
		more := len(taken) < maxBatchChanges && size <= maxBatchBytes
		if more {
			select {
			case r = <-s.requests:
			default:
				more = false
			}
		}
		if !more {
			s.crowd = max(len(taken), s.crowd-(s.crowd+7)/8) // forgets, over some batches
			return taken
		}
	}
}

// errNothing undoes a transaction in which no change was possible.
var errNothing = errors.New("nothing to commit")

// commit makes the changes of a batch in one transaction and answers them all.
// Where the transaction fails, all of them fail, those too that were refused
// because of another in the same batch, and nothing has changed.
func (s *Store) commit(batch []*request) {
	defer func() {
		for _, r := range batch {
			close(r.done)
		}
	}()
	if s.failed.Load() {
		fail(batch, ErrFailed)
		return
	}
	began := time.Now()
	head := s.revision.Load()
	now := max(s.lastTime, s.opts.now().UnixNano()) // time never runs backwards in the log
	var made []store.Entry
	err := s.update(func(t txn) error {
		for _, r := range batch {
			r.entry, r.err = t.apply(r.change, head+1+int64(len(made)), now)
			switch {
			case r.err == nil:
				made = append(made, r.entry)
			case !isRefusal(r.err):
				return r.err
			}
		}
		if len(made) == 0 {
			return errNothing
		}
		return nil
	})
	if errors.Is(err, errNothing) {
		return // every change has its refusal
	}
	if err != nil {
		fail(batch, fmt.Errorf("commit to %s: %w", s.path, s.afterFailure(err)))
		return
	}
	s.lastTime = now
	s.publish(made)
	took := time.Since(began)
	s.commits.Add(1)
	s.changes.Add(int64(len(made)))
	s.commitNanos.Add(int64(took))
	if s.opts.OnCommit != nil {
		s.opts.OnCommit(len(made), took)
	}
}

func fail(batch []*request, err error) {
	for _, r := range batch {
		r.entry, r.err = store.Entry{}, err
	}
}

// isRefusal tells a change that cannot be made from a medium that cannot.
func isRefusal(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound)
}

// afterFailure looks whether a failed transaction has left the file as it was,
// which it has unless the very last step failed: the header was written and its
// fsync was not. Readers never look beyond the published revision, so nothing
// shows; but to write on would publish what was answered with an error.
func (s *Store) afterFailure(err error) error {
	var head int64
	lookErr := s.view(func(t txn) (err error) {
		head, err = t.head()
		return err
	})
	if lookErr != nil || head != s.revision.Load() {
		s.failed.Store(true)
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return err
}

// apply makes one change as revision rev.
func (t txn) apply(c store.Change, rev, nanos int64) (store.Entry, error) {
	p, err := t.pointer(c.Key)
	if err != nil {
		return store.Entry{}, err
	}
	exists := p.rev != 0 && !p.deleted
	prev := p.rev
	if !exists {
		prev = 0
	}
	switch {
	case c.Delete && !exists:
		return store.Entry{}, fmt.Errorf("delete %s: %w", c.Key, store.ErrNotFound)
	case c.Expect != store.ExpectAny && c.Expect != prev:
		return store.Entry{}, fmt.Errorf("commit %s: expected revision %d, found %d: %w", c.Key, c.Expect, prev, store.ErrConflict)
	}
	e := store.Entry{
		Revision: rev,
		Key:      c.Key,
		Value:    c.Value,
		Deleted:  c.Delete,
		Prev:     prev,
		Topics:   slices.Clone(c.Topics),
		Cause:    c.Cause,
		Time:     time.Unix(0, nanos).UTC(),
	}
	w, err := t.wayAfter(p.rev)
	if err != nil {
		return store.Entry{}, err
	}
	b := encode(e, w)
	e.Value = nil
	if n := len(c.Value); n > 0 {
		e.Value = b[len(b)-n:] // the caller may use its own bytes again
	}
	if err := t.log.Put(revisionKey(rev), b); err != nil {
		return store.Entry{}, err
	}
	return e, t.current.Put([]byte(c.Key), pointer{rev: rev, deleted: c.Delete}.encode())
}

// wayAfter is the way of a new entry, whose key has had its last one at rev; 0
// where it has none.
func (t txn) wayAfter(rev int64) (way, error) {
	if rev == 0 {
		return way{}, nil
	}
	w, err := wayOf(rev, t.log.Get(revisionKey(rev)))
	if err != nil {
		return way{}, corrupt("revision %d: %w", rev, err)
	}
	return w.after(rev), nil
}

// publish shows new entries, which are durable, to readers and watchers.
func (s *Store) publish(made []store.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range made {
		s.window.add(&made[i])
	}
	s.revision.Store(made[len(made)-1].Revision)
}
