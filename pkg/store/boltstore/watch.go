package boltstore

import (
	"context"
	"fmt"

	"orch/pkg/store"
)

const (
	// maxNext is the most entries that one Next returns.
	maxNext = 256
	// maxScan is how much of the log one transaction of a watcher reads, so
	// that it neither holds pages for long nor ignores its context.
	maxScan = 4096
)

// watcher follows one topic. It begins by reading the log on disk, where it is
// behind the window; once it has reached the window it is attached to its topic
// there, and from then on only entries of that topic concern it. A consumer so
// slow that entries it has not seen leave the window reads those from disk.
//
// Concurrency: belongs to one goroutine; pos and topic are guarded by Store.mu,
// because a compaction moves pos, and signal is called by the committer.
type watcher struct {
	s      *Store
	name   string
	pos    int64 // everything that matches up to here was returned
	topic  *topic
	wake   chan struct{} // holds a token after an entry of the topic was added
	closed bool
}

// Watch follows the entries of one topic.
func (s *Store) Watch(topic string, after int64) store.Watcher {
	w := &watcher{s: s, name: topic, pos: max(after, 0), wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.attach()
	return w
}

// attach joins the topic if the watcher has reached the window. s.mu is held.
func (w *watcher) attach() {
	if w.topic != nil || w.pos < w.s.window.floor {
		return
	}
	w.topic = w.s.window.join(w, w.s.revision.Load())
}

func (w *watcher) signal() bool {
	select {
	case w.wake <- struct{}{}:
		return true
	default:
		return false
	}
}

// Next waits for entries that match. Only the waiting depends on ctx: what can
// be had at once is returned even when ctx has ended.
func (w *watcher) Next(ctx context.Context) ([]store.Entry, error) {
	for {
		if w.closed || w.s.isClosing() {
			return nil, store.ErrClosed
		}
		found, behind := w.fromWindow()
		if len(found) > 0 {
			return found, nil
		}
		if behind {
			found, err := w.fromLog()
			switch {
			case err != nil:
				return nil, fmt.Errorf("watch %q: %w", w.name, err)
			case len(found) > 0:
				return found, nil
			case ctx.Err() != nil:
				return nil, ctx.Err()
			}
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.s.closing:
		}
	}
}

// fromWindow returns the next entries from memory. behind says that those that
// come next may be on disk only.
func (w *watcher) fromWindow() (found []store.Entry, behind bool) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.attach()
	if w.topic == nil || w.pos < w.topic.evicted {
		return nil, true
	}
	next := after(w.topic.entries, w.pos)
	for _, e := range next[:min(len(next), maxNext)] {
		found = append(found, *e)
	}
	if n := len(found); n > 0 {
		w.pos = found[n-1].Revision
	} else {
		w.moveOn()
	}
	return found, false
}

// moveOn moves pos to the newest revision if nothing before it is left to be
// returned. s.mu is held.
func (w *watcher) moveOn() {
	if w.topic != nil && w.pos >= w.topic.evicted && len(after(w.topic.entries, w.pos)) == 0 {
		w.pos = max(w.pos, w.s.revision.Load())
	}
}

// fromLog returns the next entries from disk, and moves on over those that do
// not match.
func (w *watcher) fromLog() (found []store.Entry, err error) {
	w.s.mu.Lock()
	from, head := w.pos, w.s.revision.Load()
	w.s.mu.Unlock()
	scanned := 0
	pos := head
	err = w.s.view(func(t txn) error {
		return t.scan(from, head, func(rev int64, r record) (bool, error) {
			if e := r.head(rev); e.In(w.name) {
				e.Value = cloneValue(r.value)
				found = append(found, e)
			}
			scanned++
			if scanned == maxScan || len(found) == maxNext {
				pos = rev
				return false, nil
			}
			return true, nil
		})
	})
	if err != nil {
		return nil, err
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.pos = max(w.pos, pos)
	return found, nil
}

// Progress is the revision up to which everything that matches was returned.
func (w *watcher) Progress() int64 {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.moveOn()
	return w.pos
}

// Close leaves the topic.
func (w *watcher) Close() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.closed = true
	if w.topic != nil {
		w.s.window.leave(w, w.topic)
		w.topic = nil
	}
}
