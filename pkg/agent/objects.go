package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
)

// objects mirrors the ConfigMaps and Secrets that this node's pods name, each
// with a watch of its own that lasts as long as a pod needs it: an agent has to
// know no other's secrets.
//
// Concurrency: Begin once, before Use; all else may be called from several
// goroutines.
type objects struct {
	client *client.Client
	log    *slog.Logger
	poke   func(uid string, revision int64)

	mu      sync.Mutex // protects what follows
	spawn   func(func(context.Context) error)
	watches map[lifecycle.Ref]*watched
	used    map[string][]lifecycle.Ref // by pod uid
}

// watched is one object with those who use it.
type watched struct {
	mirror *informer.Informer[api.Object]
	users  map[string]bool // uids of pods
	stop   context.CancelFunc
}

func newObjects(c *client.Client, log *slog.Logger, poke func(uid string, revision int64)) *objects {
	return &objects{
		client: c, log: log, poke: poke,
		watches: map[lifecycle.Ref]*watched{}, used: map[string][]lifecycle.Ref{},
	}
}

// Begin makes watches run in the group, until ctx ends.
func (o *objects) Begin(ctx context.Context, group *errgroup.Group) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.spawn = func(f func(context.Context) error) { group.Go(func() error { return f(ctx) }) }
}

// Use says what the pod needs from now on, instead of what it needed before.
func (o *objects) Use(uid string, refs []lifecycle.Ref) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if slices.Equal(o.used[uid], refs) {
		return
	}
	for _, ref := range refs {
		w := o.watches[ref]
		if w == nil {
			w = o.watch(ref)
			o.watches[ref] = w
		}
		w.users[uid] = true
	}
	for _, ref := range o.used[uid] {
		w := o.watches[ref]
		if slices.Contains(refs, ref) {
			continue
		}
		if delete(w.users, uid); len(w.users) == 0 {
			w.stop()
			delete(o.watches, ref)
		}
	}
	if o.used[uid] = refs; len(refs) == 0 {
		delete(o.used, uid)
	}
}

// watch begins to mirror one object. The caller holds o.mu.
func (o *objects) watch(ref lifecycle.Ref) *watched {
	w := &watched{
		mirror: informer.New(client.ForKind(o.client, api.KindByName(ref.Kind)), informer.Options{
			Namespace: ref.Namespace, FieldSelector: "metadata.name=" + ref.Name, Logger: o.log,
		}),
		users: map[string]bool{},
	}
	w.mirror.OnChange(func(c informer.Change[api.Object]) { o.changed(w, c.Revision) })
	stopped := make(chan struct{})
	w.stop = func() { close(stopped) }
	o.spawn(func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var tasks sync.WaitGroup
		defer tasks.Wait()
		tasks.Go(func() {
			select {
			case <-stopped:
				cancel()
			case <-ctx.Done():
			}
		})
		tasks.Go(func() {
			select {
			case <-w.mirror.Synced(): // also that there is none is news
				o.changed(w, 0)
			case <-ctx.Done():
			}
		})
		return w.mirror.Run(ctx)
	})
	return w
}

// changed wakes the pods that use w.
func (o *objects) changed(w *watched, revision int64) {
	o.mu.Lock()
	users := make([]string, 0, len(w.users))
	for uid := range w.users {
		users = append(users, uid)
	}
	o.mu.Unlock()
	for _, uid := range users {
		o.poke(uid, revision)
	}
}

// Get returns the object as the mirror has it, nil where there is none; known
// is false until the mirror is full.
func (o *objects) Get(ref lifecycle.Ref) (found api.Object, known bool) {
	o.mu.Lock()
	w := o.watches[ref]
	o.mu.Unlock()
	if w == nil {
		return nil, false
	}
	select {
	case <-w.mirror.Synced():
	default:
		return nil, false
	}
	found, _ = w.mirror.Get(ref.Key)
	return found, true
}
