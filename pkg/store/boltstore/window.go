package boltstore

import (
	"iter"
	"sort"

	"orch/pkg/store"
)

// window holds the newest entries in memory, and for each topic that is watched
// those of them that belong to it. Watchers read from it, so what a watch costs
// depends on the entries that match it and on no others, and what a write costs
// on the watchers that it matches.
//
// Concurrency: guarded by Store.mu.
type window struct {
	maxEntries, maxBytes int

	entries []*store.Entry // oldest first; all entries after floor
	bytes   int
	floor   int64
	topics  map[string]*topic

	watchers int
	wakeups  int64
}

// topic holds the entries of one topic that are in the window. It exists while
// it has watchers.
type topic struct {
	entries  []*store.Entry // oldest first; all of the topic's after evicted
	evicted  int64
	watchers map[*watcher]struct{}
}

func newWindow(maxEntries, maxBytes int, floor int64) window {
	return window{maxEntries: maxEntries, maxBytes: maxBytes, floor: floor, topics: map[string]*topic{}}
}

// join adds a watcher to its topic. Where it is the first, the topic begins with
// what the watcher has not seen, which is in the window: pos is not below floor.
func (w *window) join(who *watcher, head int64) *topic {
	t, ok := w.topics[who.name]
	if !ok {
		t = &topic{evicted: min(who.pos, head), watchers: map[*watcher]struct{}{}}
		for _, e := range after(w.entries, t.evicted) {
			if e.In(who.name) {
				t.entries = append(t.entries, e)
			}
		}
		w.topics[who.name] = t
	}
	t.watchers[who] = struct{}{}
	w.watchers++
	return t
}

// leave is the inverse of join.
func (w *window) leave(who *watcher, t *topic) {
	delete(t.watchers, who)
	if len(t.watchers) == 0 {
		delete(w.topics, who.name)
	}
	w.watchers--
}

// add appends an entry, wakes those who watch it, and makes room.
func (w *window) add(e *store.Entry) {
	w.entries = append(w.entries, e)
	w.bytes += footprint(e)
	for name := range topicsOf(e) {
		t := w.topics[name]
		if t == nil {
			continue
		}
		if n := len(t.entries); n > 0 && t.entries[n-1] == e {
			continue // the entry names this topic twice
		}
		t.entries = append(t.entries, e)
		for watcher := range t.watchers {
			if watcher.signal() {
				w.wakeups++
			}
		}
	}
	for len(w.entries) > w.maxEntries || w.bytes > w.maxBytes {
		w.evict()
	}
}

// evict removes the oldest entry.
func (w *window) evict() {
	e := w.entries[0]
	w.entries[0] = nil // the slice moves on, the array behind it stays a while
	w.entries = w.entries[1:]
	w.bytes -= footprint(e)
	w.floor = e.Revision
	for name := range topicsOf(e) {
		if t := w.topics[name]; t != nil && len(t.entries) > 0 && t.entries[0] == e {
			t.entries[0] = nil
			t.entries = t.entries[1:]
			t.evicted = e.Revision
		}
	}
}

// compact removes the entries up to rev. Watchers that have seen all of their
// topic must not learn of it, so they are moved beyond it first.
func (w *window) compact(rev int64) {
	for _, t := range w.topics {
		for watcher := range t.watchers {
			watcher.moveOn()
		}
	}
	for len(w.entries) > 0 && w.entries[0].Revision <= rev {
		w.evict()
	}
	w.floor = max(w.floor, rev)
}

// after returns those of entries with revisions above rev.
func after(entries []*store.Entry, rev int64) []*store.Entry {
	return entries[sort.Search(len(entries), func(i int) bool { return entries[i].Revision > rev }):]
}

// topicsOf yields the topics of an entry, some perhaps twice. It is the
// enumeration that belongs to the test store.Entry.In.
func topicsOf(e *store.Entry) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield("") || !yield(e.Key) {
			return
		}
		for i := range len(e.Key) {
			if e.Key[i] == '/' && !yield(e.Key[:i]) {
				return
			}
		}
		for _, name := range e.Topics {
			if !yield(name) {
				return
			}
		}
	}
}

// footprint is about what an entry takes in memory: its bytes, its structure,
// and its places in the topics.
func footprint(e *store.Entry) int {
	n := 256 + len(e.Key) + len(e.Value) + len(e.Cause.Actor) + len(e.Cause.Reason) + len(e.Cause.Message)
	for _, t := range e.Topics {
		n += 32 + len(t)
	}
	return n
}
