package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

type (
	causeKey   struct{}
	triggerKey struct{}
	writesKey  struct{}
	runKey     struct{}
)

type cause struct{ reason, message string }

// WithCause says why the writes made with the context are made: reason is one
// CamelCase word for programs, the rest one sentence for people, best with the
// numbers that led to it ("wanted 3, had 2").
func WithCause(ctx context.Context, reason, format string, args ...any) context.Context {
	return context.WithValue(ctx, causeKey{}, cause{reason, fmt.Sprintf(format, args...)})
}

// WithTrigger names the revision that makes the writes of the context
// necessary, or [api.TriggerClock]; 0 is for what began here: with a person, or
// with what an agent saw.
func WithTrigger(ctx context.Context, revision int64) context.Context {
	return context.WithValue(ctx, triggerKey{}, revision)
}

// TriggerOf returns the revision given to [WithTrigger]; 0 where there is none.
func TriggerOf(ctx context.Context) int64 {
	r, _ := ctx.Value(triggerKey{}).(int64)
	return r
}

// WithRun says that the writes of the context are those of one run of a control
// loop, for a server that holds them because the controller is paused.
func WithRun(ctx context.Context, r *v1.Run) context.Context {
	return context.WithValue(ctx, runKey{}, r)
}

// cause is what the log will hold beside a write. Where nobody gave a reason,
// the verb is one.
func (c *Client) cause(ctx context.Context, verb string) *v1.Cause {
	why, ok := ctx.Value(causeKey{}).(cause)
	if !ok {
		why.reason = verb
	}
	run, _ := ctx.Value(runKey{}).(*v1.Run)
	return &v1.Cause{Actor: c.actor, Reason: why.reason, Message: why.message, Trigger: TriggerOf(ctx), Run: run}
}

// Writes remembers what was written with a context. A reconciler's loop waits until
// its mirrors have reached it, so that the next run sees what the last one did.
//
// Concurrency: all methods may be called from several goroutines.
type Writes struct {
	mu     sync.Mutex
	newest map[*api.Kind]int64
	all    []int64
}

// WithWrites makes the writes of the context be noted in w.
func WithWrites(ctx context.Context, w *Writes) context.Context {
	return context.WithValue(ctx, writesKey{}, w)
}

// WritesOf returns what was given to [WithWrites], or nil.
func WritesOf(ctx context.Context) *Writes {
	w, _ := ctx.Value(writesKey{}).(*Writes)
	return w
}

// Each calls f for every kind that was written, with the newest revision.
func (w *Writes) Each(f func(k *api.Kind, revision int64)) {
	w.mu.Lock()
	newest := maps.Clone(w.newest)
	w.mu.Unlock()
	for k, r := range newest {
		f(k, r)
	}
}

// Note adds a write of kind k at a revision.
func (w *Writes) Note(k *api.Kind, revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	api.Put(&w.newest, k, max(w.newest[k], revision))
	w.all = append(w.all, revision)
}

// Has says whether a revision is one of those that were written.
func (w *Writes) Has(revision int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.all, revision)
}

// noteWrite notes what a write answered. A write that changed nothing answers
// with an old revision, which every mirror has passed; a deletion answers with
// its own.
func noteWrite(ctx context.Context, written api.Object) {
	if w := WritesOf(ctx); w != nil {
		w.Note(api.KindOf(written), written.GetMetadata().GetResourceVersion())
	}
}
