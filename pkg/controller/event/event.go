// Package event deletes events that are old.
//
// The one invariant: an event stays for its time to live after it last happened,
// and not much longer.
//
// Read next: client.Recorder, which makes events.
package event

import (
	"context"
	"log/slog"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Name is the actor of all that the controller writes.
const Name = "event-controller"

// Remaining is how long an event is still to stay; 0 or less: it is to go.
func Remaining(e *v1.Event, ttl time.Duration, now time.Time) time.Duration {
	last := e.GetMetadata().GetCreationTimestamp().AsTime()
	for _, t := range []time.Time{e.GetFirstTimestamp().AsTime(), e.GetLastTimestamp().AsTime(), e.GetEventTime().AsTime()} {
		if t.After(last) {
			last = t
		}
	}
	// One from the future, by a clock that is ahead, is taken for new.
	return min(ttl, last.Add(ttl).Sub(now))
}

// Controller is the shell around Remaining.
type Controller struct {
	c      *client.Client
	events *informer.Informer[*v1.Event]
	ttl    time.Duration
	loop   *reconcile.Loop
	now    func() time.Time
}

// New returns a controller that reads from the mirror, which runs elsewhere and
// must not have begun to.
func New(c *client.Client, events *informer.Informer[*v1.Event], ttl time.Duration, log *slog.Logger) *Controller {
	r := &Controller{c: c.As(Name), events: events, ttl: ttl, now: time.Now}
	r.loop = reconcile.New(Name, r.reconcile, reconcile.Options{Workers: 1, Mirrors: []reconcile.Mirror{events}, Logger: log})
	events.OnChange(func(c informer.Change[*v1.Event]) {
		// One that happens again is looked at when its first time is up; the key
		// waits for that already.
		if c.Old == nil {
			r.loop.Enqueue(api.KeyOf(c.New), api.TriggerClock)
		}
	})
	return r
}

// Run works until ctx ends and returns nil.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, key api.Key) (reconcile.Result, error) {
	e, ok := r.events.Get(key)
	if !ok {
		return reconcile.Result{}, nil
	}
	if left := Remaining(e, r.ttl, r.now()); left > 0 {
		return reconcile.Result{After: left}, nil
	}
	ctx = client.WithCause(ctx, "EventExpired", "it last happened more than %v ago", r.ttl)
	m := e.GetMetadata()
	_, err := client.For[*v1.Event](r.c).Delete(ctx, m.GetNamespace(), m.GetName(), client.DeleteOptions{UID: m.GetUid(), ResourceVersion: m.GetResourceVersion()})
	return reconcile.Result{}, api.IgnoreNotFound(err)
}
