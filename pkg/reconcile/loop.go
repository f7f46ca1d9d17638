package reconcile

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// Loop is a queue and its workers.
//
// Concurrency: all methods may be called from several goroutines; Run once.
// A loop without work has no goroutine but Run's.
type Loop struct {
	name    string
	f       Func
	options Options
	log     *slog.Logger

	mu      sync.Mutex // protects what follows
	ctx     context.Context
	running bool // between the mirrors' sync and the end of Run
	workers int
	wg      sync.WaitGroup // workers, waits and the recorder
	ready   []api.Key
	keys    map[api.Key]*state // those with anything to remember
	runs    int64
}

// state is what the loop knows of one key. It is ready (in the queue), active
// (with a worker, or waiting for the mirrors after it), both never; or only has
// a timer or failures to remember.
type state struct {
	ready, active bool
	again         bool // asked for while active
	trigger       int64
	demands       []int64 // since the last run began
	failures      int
	wrote         int64 // while writes are held: the newest that was not
	timer         *time.Timer
}

// heard is what a run was asked for with.
type heard struct{ trigger, demand int64 }

// New returns a loop that calls f for every key that is enqueued.
func New(name string, f Func, o Options) *Loop {
	if o.Workers <= 0 {
		o.Workers = 4
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = 5 * time.Millisecond
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 30 * time.Second
	}
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Loop{name: name, f: f, options: o, log: log.With("loop", name), keys: map[api.Key]*state{}}
}

// Enqueue asks for a key to be worked on soon. Asking again before that happens
// changes nothing, except that the newest trigger is kept: the revision that
// makes the work necessary, or api.TriggerClock.
func (l *Loop) Enqueue(key api.Key, trigger int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueue(key, trigger)
}

// Demand is Enqueue for a revision that changed what is wanted, or how much of it
// there is: it is the trigger of the next run, and of those that try again,
// whatever else is heard meanwhile. What a run has written itself demands nothing.
func (l *Loop) Demand(key api.Key, revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.enqueue(key, revision)
	s.demands = append(s.demands, revision)
}

func (l *Loop) enqueue(key api.Key, trigger int64) *state {
	s := l.keys[key]
	if s == nil {
		s = &state{}
		l.keys[key] = s
	}
	s.trigger = api.NewerTrigger(s.trigger, trigger)
	switch {
	case s.ready:
	case s.active:
		s.again = true
	default:
		s.ready = true
		l.ready = append(l.ready, key)
		l.startWorkers()
	}
	return s
}

// Run works until ctx ends and returns nil when all its goroutines have.
func (l *Loop) Run(ctx context.Context) error {
	defer l.wg.Wait()
	if says := l.options.Recorder; says != nil {
		l.wg.Go(func() { _ = says.Run(ctx) })
	}
	for _, m := range l.options.Mirrors {
		select {
		case <-m.Synced():
		case <-ctx.Done():
			return nil
		}
	}
	l.mu.Lock()
	l.ctx, l.running = ctx, true
	l.startWorkers()
	l.mu.Unlock()

	<-ctx.Done()

	l.mu.Lock()
	l.running = false
	for _, s := range l.keys {
		if s.timer != nil {
			s.timer.Stop()
		}
	}
	l.mu.Unlock()
	return nil
}

// startWorkers starts as many workers as the queue needs and the options allow.
func (l *Loop) startWorkers() {
	for l.running && l.workers < l.options.Workers && len(l.ready) > 0 {
		key := l.ready[0]
		l.ready = l.ready[1:]
		l.workers++
		l.wg.Go(func() { l.work(l.ctx, key) })
	}
}

// work handles keys until the queue is empty.
func (l *Loop) work(ctx context.Context, key api.Key) {
	for {
		l.handle(ctx, key)
		l.mu.Lock()
		if !l.running || len(l.ready) == 0 {
			l.workers--
			l.mu.Unlock()
			return
		}
		key = l.ready[0]
		l.ready = l.ready[1:]
		l.mu.Unlock()
	}
}

// handle runs the function for one key. The key stays active until the mirrors
// show what was written; that wait holds no worker.
func (l *Loop) handle(ctx context.Context, key api.Key) {
	l.mu.Lock()
	s := l.keys[key]
	s.ready, s.active, s.again = false, true, false
	heard := heard{s.trigger, slices.Max(append(s.demands, 0))}
	s.trigger, s.demands = 0, nil
	l.runs++
	run := &v1.Run{Loop: l.name, Key: key.String(), Number: l.runs}
	if s.timer != nil {
		// The function says anew when it wants to be called.
		s.timer.Stop()
		s.timer = nil
	}
	l.mu.Unlock()

	var writes client.Writes
	result, err := l.f(client.WithRun(client.WithWrites(client.WithTrigger(ctx, cmp.Or(heard.demand, heard.trigger)), &writes), run), key)
	var wrote int64
	writes.Each(func(_ *api.Kind, revision int64) { wrote = max(wrote, revision) })
	if wrote == 0 {
		l.finish(ctx, key, heard, 0, result, err)
		return
	}
	l.wg.Go(func() {
		l.awaitWrites(ctx, key, &writes)
		l.mu.Lock()
		s.demands = slices.DeleteFunc(s.demands, writes.Has)
		l.mu.Unlock()
		l.finish(ctx, key, heard, wrote, result, err)
	})
}

// awaitWrites returns when the mirrors have reached the revisions written.
func (l *Loop) awaitWrites(ctx context.Context, key api.Key, w *client.Writes) {
	wait, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	w.Each(func(k *api.Kind, revision int64) {
		for _, m := range l.options.Mirrors {
			if m.Kind() != k {
				continue
			}
			if err := m.WaitFor(wait, revision); err != nil && ctx.Err() == nil {
				l.log.Warn("mirror does not show what was written; going on without", "key", key, "kind", k.Name, "revision", revision, "waited", maxWait)
			}
		}
	})
}

// finish makes the key idle again, and plans its next run.
//
// That a write was held is no failure: the controller is paused. The key asks again
// soon, with what it then plans; and at once where it could make a step, so that
// whoever steps sees what comes next. A write that changed nothing is no step: it
// answers with the revision that it has answered with before.
func (l *Loop) finish(ctx context.Context, key api.Key, heard heard, wrote int64, r Result, err error) {
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.keys[key]
	s.active = false
	pause := r.After
	if err != nil { // tried again for the same reason
		s.trigger, s.demands = api.NewerTrigger(s.trigger, heard.trigger), append(s.demands, heard.demand)
	}
	switch {
	case err == nil:
		s.failures = 0
	case errors.Is(err, api.ErrHeld):
		s.failures, s.again, pause = 0, s.again || wrote > s.wrote, api.HeldAgain
		s.wrote = max(s.wrote, wrote)
	default:
		s.failures++
		pause = l.backoff(s.failures, err)
		if s.again {
			// News may be what makes it work. But it may also be what the failed
			// run itself wrote, so there must be a pause.
			s.again, pause = false, min(pause, maxBackoffNews)
		}
		l.report(key, s.failures, pause, err)
	}
	switch {
	case s.again:
		s.again = false
		l.enqueue(key, 0)
	case pause > 0 && l.running:
		s.timer = time.AfterFunc(pause, func() { l.Enqueue(key, api.TriggerClock) })
	default:
		delete(l.keys, key)
	}
}

// backoff is the pause after a number of failures in a row.
func (l *Loop) backoff(failures int, err error) time.Duration {
	limit := l.options.MaxBackoff
	if errors.Is(err, api.ErrUnavailable) {
		limit = min(limit, maxBackoffAway)
	}
	pause := l.options.MinBackoff
	for range failures - 1 {
		if pause *= 2; pause >= limit {
			return limit
		}
	}
	return min(pause, limit)
}

func (l *Loop) report(key api.Key, failures int, after time.Duration, err error) {
	level := slog.LevelError
	switch {
	case errors.Is(err, api.ErrConflict) && failures <= quietConflicts:
		level = slog.LevelDebug
	case errors.Is(err, api.ErrUnavailable):
		level = slog.LevelDebug // the mirrors say so once for all
	}
	l.log.Log(context.Background(), level, "reconciling failed; trying again", "key", key, "error", err, "failures", failures, "after", after)
}
