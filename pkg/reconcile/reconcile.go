// Package reconcile is the loop of every controller: a queue of keys and the
// workers that take them to a function, which makes the world as it should be
// for that key.
//
// The one invariant: a key is worked on by one worker at a time, and not again
// before the mirrors show what its last run wrote. So a function may compute
// all that it does from its mirrors, without remembering what it began.
//
// Read next: loop.go, then any package below pkg/controller.
package reconcile

import (
	"context"
	"log/slog"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
)

// Func makes the world as it should be for one key.
//
// It is level-triggered: key is only a name, not news. What to do follows from
// the present state alone, so a lost, doubled or late call can never matter, and
// an object that is gone is a case like any other. An error makes the call
// happen again later.
//
// Revisions written with ctx, or a context made of it, are noted; the trigger
// that ctx carries goes into their causes.
type Func func(ctx context.Context, key api.Key) (Result, error)

// Result says when a key is to be looked at again.
type Result struct {
	// After is the time after which it is looked at though nothing changed;
	// 0: only when something changes.
	After time.Duration
}

// Mirror is what a loop needs of an informer.
type Mirror interface {
	Kind() *api.Kind
	Synced() <-chan struct{}
	// WaitFor returns when the mirror has reached the revision.
	WaitFor(ctx context.Context, revision int64) error
}

// Options of a loop.
type Options struct {
	// Workers is how many keys are worked on at once; default 4.
	Workers int
	// Mirrors are those that the function reads. The loop begins when all are
	// in sync. Writes of kinds that have no mirror here are not waited for.
	Mirrors []Mirror
	// MinBackoff is the pause after the first error of a key, which doubles
	// with each further one up to MaxBackoff; defaults 5 ms (Kubernetes') and
	// 30 s (Kubernetes has 1000 s, too long to watch).
	MinBackoff, MaxBackoff time.Duration
	// Recorder runs beside the loop; default none.
	Recorder *client.Recorder
	// Logger is told of errors; default none.
	Logger *slog.Logger
}

const (
	// maxWait bounds the wait for the mirrors, so that a watch that hangs
	// cannot silence a key for ever.
	maxWait = 30 * time.Second
	// maxBackoffAway is the longest pause while the server is away: work goes on
	// soon after it is back.
	maxBackoffAway = time.Second
	// maxBackoffNews is the longest pause of a key about which there was news
	// while its last run failed.
	maxBackoffNews = time.Second
	// quietConflicts is how many conflicts in a row are no news: they only say
	// that the mirror was a moment behind.
	quietConflicts = 10
)
