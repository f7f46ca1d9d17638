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
	changed chan struct{} // closed when faults change; nil: nobody waits
}

// BreakWatches makes these injections, and no others, hold for all watches: of
// those that DropWatches names nothing is sent, and they end with it, so that their
// clients go on from where they were; those that DelayWatches names hear of each
// change so much later. Each ends by its own time at the latest.
func (s *Server) BreakWatches(injections []*v1.ChaosInjection) {
	b := &s.broken
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = slices.Clone(injections)
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
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

// fault is what is done to a watch now: it is dropped until an injection ends, or
// delayed; changed is closed when that may be another.
func (b *brokenWatches) fault(w watcher, now time.Time) (drop *v1.ChaosInjection, delay time.Duration, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range b.faults {
		f := i.GetSpec().GetFault()
		named := slices.Contains(f.GetActors(), w.name)
		if w.name == chaosActor || !named && (w.spared || len(f.GetActors()) > 0) || !now.Before(i.GetSpec().GetUntil().AsTime()) {
			continue
		}
		if f.GetType() == api.FaultDropWatches {
			drop = i
		} else {
			delay = max(delay, time.Duration(f.GetDelayMilliseconds())*time.Millisecond)
		}
	}
	if drop == nil && delay == 0 {
		return nil, 0, nil
	}
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return drop, delay, b.changed
}

// wait returns when a watcher may hear of what happened at a time. The error says
// that the watch was dropped, and is over.
func (b *brokenWatches) wait(ctx context.Context, w watcher, happened time.Time) error {
	dropped := ""
	for {
		now := time.Now()
		drop, delay, changed := b.fault(w, now)
		var until time.Time
		switch {
		case drop != nil:
			dropped, until = drop.GetMetadata().GetName(), drop.GetSpec().GetUntil().AsTime()
		case dropped != "":
			return api.Errorf(api.ErrUnavailable, "this watch was dropped by chaosinjection/%s", dropped)
		default:
			until = happened.Add(delay)
		}
		if !now.Before(until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(until.Sub(now)):
		}
	}
}
