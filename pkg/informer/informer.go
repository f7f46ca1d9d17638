// Package informer keeps a local mirror of the objects of one kind, fed by a
// watch, with indexes.
//
// The one invariant: when the mirror says that it has reached a revision, it
// holds every object that it selects as it was then or later, and every change
// up to there has been handed to the OnChange functions, in order.
//
// Objects of a mirror are shared and read-only: api.Clone before change.
//
// Read next: run.go (how a mirror is filled and kept), then pkg/reconcile.
package informer

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"orch/pkg/api"
	"orch/pkg/client"
)

// Options narrow a mirror.
type Options struct {
	// Namespace is empty for all.
	Namespace string
	// LabelSelector and FieldSelector are as kubectl takes them.
	LabelSelector, FieldSelector string
	// Logger is told of broken watches; default none.
	Logger *slog.Logger
}

// Change is what happened to one object.
type Change[T api.Object] struct {
	// Old is the zero T where the object is new, New where it is gone. Where
	// both are there, they have one uid.
	Old, New T
	// Revision at which it happened. Where the watch had been broken for too
	// long, it is only known to be no later than this.
	Revision int64
}

// Informer is a mirror.
//
// Concurrency: AddIndex and OnChange come before Run; all else may be called
// from several goroutines. The OnChange functions are called one after the
// other by the goroutine of Run, without a lock, after the mirror shows the
// change and before its revision says so.
type Informer[T api.Object] struct {
	resource client.Resource[T]
	options  Options
	log      *slog.Logger
	onChange []func(Change[T])
	synced   chan struct{} // closed by Run once the first snapshot is in

	mu       sync.RWMutex // protects what follows
	items    map[api.Key]T
	indexes  map[string]*index[T]
	revision int64
	waiters  []waiter
}

type waiter struct {
	revision int64
	reached  chan struct{}
}

// index finds objects by values that a function computes from them.
type index[T api.Object] struct {
	values func(T) []string
	keys   map[string]map[api.Key]struct{}
}

// New returns a mirror of what r and o select. It is empty until Run.
func New[T api.Object](r client.Resource[T], o Options) *Informer[T] {
	log := o.Logger
	log = cmp.Or(log, slog.New(slog.DiscardHandler))
	return &Informer[T]{
		resource: r,
		options:  o,
		log:      log.With("mirror", r.Kind().Plural),
		synced:   make(chan struct{}),
		items:    map[api.Key]T{},
		indexes:  map[string]*index[T]{},
	}
}

// AddIndex makes ByIndex(name, v) find the objects for which f returns v.
func (i *Informer[T]) AddIndex(name string, f func(T) []string) {
	i.indexes[name] = &index[T]{values: f, keys: map[string]map[api.Key]struct{}{}}
}

// OnChange makes f be called for every change. It must return soon, and must
// not wait for the mirror.
func (i *Informer[T]) OnChange(f func(Change[T])) {
	i.onChange = append(i.onChange, f)
}

// Kind is the kind of the objects.
func (i *Informer[T]) Kind() *api.Kind { return i.resource.Kind() }

// Synced is closed when the mirror holds all that there was when Run began.
func (i *Informer[T]) Synced() <-chan struct{} { return i.synced }

// Revision is the revision that the mirror has reached.
func (i *Informer[T]) Revision() int64 {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.revision
}

// Len is the number of objects.
func (i *Informer[T]) Len() int {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return len(i.items)
}

// Get returns one object.
func (i *Informer[T]) Get(key api.Key) (T, bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	o, ok := i.items[key]
	return o, ok
}

// List returns all objects in the order of their keys.
func (i *Informer[T]) List() []T {
	i.mu.RLock()
	all := make([]T, 0, len(i.items))
	for _, o := range i.items {
		all = append(all, o)
	}
	i.mu.RUnlock()
	return sorted(all)
}

// ByIndex returns the objects that the index finds under value, in the order of
// their keys. It panics where there is no such index.
func (i *Informer[T]) ByIndex(name, value string) []T {
	i.mu.RLock()
	keys := i.indexes[name].keys[value]
	found := make([]T, 0, len(keys))
	for k := range keys {
		found = append(found, i.items[k])
	}
	i.mu.RUnlock()
	return sorted(found)
}

// WaitFor returns when the mirror has reached the revision, or with the
// context's error. A mirror that selects little learns of writes that it does
// not select from the server's bookmarks only, which may take seconds.
func (i *Informer[T]) WaitFor(ctx context.Context, revision int64) error {
	i.mu.Lock()
	if i.revision >= revision {
		i.mu.Unlock()
		return nil
	}
	w := waiter{revision, make(chan struct{})}
	i.waiters = append(i.waiters, w)
	i.mu.Unlock()
	select {
	case <-w.reached:
		return nil
	case <-ctx.Done():
		i.mu.Lock()
		i.waiters = slices.DeleteFunc(i.waiters, func(o waiter) bool { return o == w })
		i.mu.Unlock()
		return ctx.Err()
	}
}

// put stores or, with the zero T as now, removes one object, and returns what
// was there.
func (i *Informer[T]) put(key api.Key, now T, present bool) (old T, was bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old, was = i.items[key]
	for _, x := range i.indexes {
		if was {
			x.remove(key, old)
		}
		if present {
			x.add(key, now)
		}
	}
	if present {
		i.items[key] = now
	} else {
		delete(i.items, key)
	}
	return old, was
}

// reach says that the mirror shows the revision.
func (i *Informer[T]) reach(revision int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.revision = revision
	i.waiters = slices.DeleteFunc(i.waiters, func(w waiter) bool {
		if w.revision > revision {
			return false
		}
		close(w.reached)
		return true
	})
}

func (x *index[T]) add(key api.Key, o T) {
	for _, v := range x.values(o) {
		if x.keys[v] == nil {
			x.keys[v] = map[api.Key]struct{}{}
		}
		x.keys[v][key] = struct{}{}
	}
}

func (x *index[T]) remove(key api.Key, o T) {
	for _, v := range x.values(o) {
		delete(x.keys[v], key)
		if len(x.keys[v]) == 0 {
			delete(x.keys, v)
		}
	}
}

func sorted[T api.Object](objects []T) []T {
	slices.SortFunc(objects, func(a, b T) int {
		ka, kb := api.KeyOf(a), api.KeyOf(b)
		if c := strings.Compare(ka.Namespace, kb.Namespace); c != 0 {
			return c
		}
		return strings.Compare(ka.Name, kb.Name)
	})
	return objects
}
