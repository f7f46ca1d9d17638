package memstore

import (
	"context"
	"fmt"

	"orch/pkg/store"
)

// batch is the most entries that one Next returns.
const batch = 256

// watcher reads s.entries from pos on; every commit wakes every watcher.
// Its fields are guarded by s.mu, because Compact moves pos.
type watcher struct {
	s     *Store
	topic string
	pos   int64 // everything that matches up to here was returned
	lost  bool  // something that matches after pos was compacted
}

// Watch follows the entries of one topic.
func (s *Store) Watch(topic string, after int64) store.Watcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &watcher{s: s, topic: topic, pos: after, lost: after < s.compacted}
	s.watchers[w] = struct{}{}
	return w
}

// compact is called with s.mu held before entries at and below rev go.
func (w *watcher) compact(rev int64) {
	if next := w.s.matching(w.topic, w.pos, 1); len(next) > 0 && next[0].Revision <= rev {
		w.lost = true
	}
	if !w.lost {
		w.pos = max(w.pos, rev)
	}
}

func (w *watcher) Next(ctx context.Context) ([]store.Entry, error) {
	for {
		found, changed, err := w.poll()
		if err != nil || len(found) > 0 {
			return found, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// poll returns what there is now, or the channel to wait for more.
func (w *watcher) poll() ([]store.Entry, <-chan struct{}, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	_, open := w.s.watchers[w]
	switch {
	case w.s.closed || !open:
		return nil, nil, store.ErrClosed
	case w.lost:
		return nil, nil, fmt.Errorf("watch %q: %w", w.topic, store.ErrCompacted)
	}
	found := w.s.matching(w.topic, w.pos, batch)
	if n := len(found); n > 0 {
		w.pos = found[n-1].Revision
	}
	return found, w.s.changed, nil
}

func (w *watcher) Progress() int64 {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if !w.lost && len(w.s.matching(w.topic, w.pos, 1)) == 0 {
		w.pos = max(w.pos, w.s.revision)
	}
	return w.pos
}

func (w *watcher) Close() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	delete(w.s.watchers, w)
}
