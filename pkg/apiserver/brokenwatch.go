package apiserver

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// brokenWatches are the watches that an experiment drops or delays.
//
// Concurrency: all methods may be called from several goroutines.
type brokenWatches struct {
	mu      sync.Mutex // guards what follows
	faults  []*v1.ChaosInjection
	changed context.Context    //nolint:containedctx // ends when faults change; nil: nobody waits for that
	change  context.CancelFunc // ends it
}

// BreakWatches makes these injections, and no others, hold for all watches: of
// those that DropWatches names nothing is sent, and they end with it, so that their
// clients go on from where they were; those that DelayWatches names hear of each
// change so much later. Each ends by its own time at the latest.
func (s *Server) BreakWatches(injections []*v1.ChaosInjection) {
	b := &s.broken
	b.mu.Lock()
	defer b.mu.Unlock()
	same := len(injections)+len(b.faults) == 0
	if b.faults = slices.Clone(injections); b.changed != nil && !same {
		b.change()
		b.changed = nil
	}
}

// next ends when faults change. The caller holds b.mu.
func (b *brokenWatches) next() context.Context {
	if b.changed == nil {
		b.changed, b.change = context.WithCancel(context.Background())
	}
	return b.changed
}

// live is ctx as long as faults do not change: also a watch on which nothing happens
// has to notice that it is dropped.
func (b *brokenWatches) live(ctx context.Context) (context.Context, context.CancelFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	live, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(b.next(), cancel)
	return live, func() { stop(); cancel() }
}

// watcher is whose watch something is.
type watcher struct {
	name string
	// spared: it is a person's, or an experiment's own; only by name is it hit.
	spared bool
}

// chaosActor is the controller of experiments: without its watch nothing would end
// them.
const chaosActor = "chaos-controller"

// actorKey is pkg/client's ActorKey.
const actorKey = "orch-actor"

func watcherOf(ctx context.Context) watcher {
	c := callerOf(ctx)
	w := watcher{name: c.Name, spared: !c.trusted && c.NodeName() == ""}
	if said := metadata.ValueFromIncomingContext(ctx, actorKey); c.trusted && len(said) > 0 {
		w.name = said[0]
	}
	return w
}

// fault is what is done to a watch now: the injection that drops it, and until when
// it may not hear of what happened at a time; changed ends when that may be another.
func (b *brokenWatches) fault(w watcher, happened, now time.Time) (dropped string, until time.Time, changed context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range b.faults {
		f, end := i.GetSpec().GetFault(), i.GetSpec().GetUntil().AsTime()
		named := slices.Contains(f.GetActors(), w.name)
		if w.name == chaosActor || !named && (w.spared || len(f.GetActors()) > 0) || !now.Before(end) {
			continue
		}
		if f.GetType() == api.FaultDropWatches {
			dropped = i.GetMetadata().GetName()
		} else if later := happened.Add(time.Duration(f.GetDelayMilliseconds()) * time.Millisecond); later.Before(end) {
			end = later
		}
		if end.After(until) {
			until = end
		}
	}
	return dropped, until, b.next()
}

// wait returns when a watcher may hear of what happened at a time. The error says
// that the watch was dropped, and is over.
func (b *brokenWatches) wait(ctx context.Context, w watcher, happened time.Time) error {
	for dropped := ""; ; {
		now := time.Now()
		by, until, changed := b.fault(w, happened, now)
		if dropped != "" && by == "" {
			return api.Errorf(api.ErrUnavailable, "this watch was dropped by chaosinjection/%s", dropped)
		}
		if dropped = by; !now.Before(until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed.Done():
		case <-time.After(until.Sub(now)):
		}
	}
}
