package observer

import (
	"context"
	"errors"
	"sync"
	"time"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/container"
)

const (
	// relistEvery is how often the engine is asked for all containers, for what
	// an event missed.
	relistEvery = 10 * time.Second
	// relistTimeout is how long an engine may take for that before it counts as
	// gone.
	relistTimeout = 10 * time.Second
	// inspectTimeout bounds the look at one container in such a list.
	inspectTimeout = 5 * time.Second
	// reconnectEvery is how often an engine that is gone is looked for.
	reconnectEvery = 500 * time.Millisecond
)

// Run observes until its life ends, and its goroutines have ended. Nobody may
// call Put any more then.
func (o *Observer) Run() error {
	defer o.tasks.Wait()
	ctx := o.life
	for failures := 0; ; failures++ {
		began := time.Now()
		err := o.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > relistEvery {
			failures = 0
		}
		// One broken connection is not yet a broken engine: look again first.
		if failures > 0 || errors.Is(err, errHung) {
			o.health(err)
			Sleep(ctx, reconnectEvery)
		}
	}
}

// errHung says that the engine takes requests and does not answer them.
var errHung = errors.New("the container engine does not answer in time")

// follow watches and relists until the engine goes away.
func (o *Observer) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready := make(chan struct{})
	ended := make(chan struct{})
	o.tasks.Go(func() {
		defer close(ended)
		cancel(o.runtime.Watch(ctx, o.owner.Labels(), ready, o.handle))
	})
	defer func() { cancel(nil); <-ended }()

	connecting := time.AfterFunc(relistTimeout, func() { cancel(errHung) })
	defer connecting.Stop()
	select {
	case <-ready:
		connecting.Stop()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	tick := time.NewTicker(relistEvery)
	defer tick.Stop()
	for {
		err := o.relist(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
		o.health(nil)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// relist compares the mirror with what the engine has.
func (o *Observer) relist(ctx context.Context) error {
	if err := o.list(ctx, o.owner.Labels(), ""); err != nil {
		return err
	}
	select {
	case <-o.listed:
	default:
		close(o.listed)
	}
	return nil
}

// ListPod makes the mirror hold what the engine has of one pod, and returns how
// many containers that are.
func (o *Observer) ListPod(ctx context.Context, uid string) (int, error) {
	if err := o.list(ctx, o.owner.PodLabels(uid), uid); err != nil {
		return 0, err
	}
	return len(o.Pod(uid)), nil
}

// list looks at what is new or in another state, and forgets what is gone. A
// container that cannot be looked at is an error only where its pod is asked
// for: one that is stuck must not make the whole engine count as gone. Its pod is
// left alone until then: see Unseen.
func (o *Observer) list(ctx context.Context, labels map[string]string, uid string) error {
	o.mu.Lock()
	began := o.clock
	o.mu.Unlock()
	bounded, cancel := context.WithTimeoutCause(ctx, relistTimeout, errHung)
	defer cancel()
	found, err := o.runtime.List(bounded, labels)
	switch {
	case err != nil && ctx.Err() == nil && bounded.Err() != nil:
		return errHung
	case err != nil:
		return err
	}
	present := map[string]string{} // the uid of its pod, by id
	var look []string
	o.mu.Lock()
	for _, c := range found {
		present[c.ID] = c.Labels[lifecycle.LabelPodUID]
		e := o.entries[c.ID]
		if e == nil || e.State != c.State && e.changed <= began {
			look = append(look, c.ID)
		}
	}
	var gone []string
	for id, e := range o.entries {
		if _, ok := present[id]; !ok && e.changed <= began && (uid == "" || e.uid == uid) {
			gone = append(gone, id)
		}
	}
	for id, of := range o.unseen {
		if _, ok := present[id]; !ok && (uid == "" || of == uid) {
			gone = append(gone, id)
		}
	}
	o.mu.Unlock()
	for _, id := range gone {
		o.Drop(id)
	}
	// A few at a time, so that an agent with many pods starts soon.
	slots := make(chan struct{}, 4)
	var wait sync.WaitGroup
	errs := make([]error, len(look))
	for i, id := range look {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			bounded, cancel := context.WithTimeout(ctx, inspectTimeout)
			defer cancel()
			errs[i] = o.Inspect(bounded, id)
		})
	}
	wait.Wait()
	o.mu.Lock()
	for i, id := range look {
		if errs[i] != nil && o.entries[id] == nil {
			o.unseen[id] = present[id]
		}
	}
	o.mu.Unlock()
	err = errors.Join(errs...)
	if err != nil && uid == "" {
		o.log.Warn("containers could not be inspected", "error", err)
		return nil
	}
	return err
}

// handle is called for each event, one after the other.
func (o *Observer) handle(e container.Event) {
	switch e.Action {
	case "create":
		o.Put(container.Container{ID: e.ID, Labels: e.Labels, State: container.StateCreated, CreatedAt: e.Time})
	case "destroy":
		o.Drop(e.ID)
	case "oom":
		o.outOfMemory(e.ID)
	default:
		if !o.awaited(e) {
			o.look(e.ID)
		}
	}
}

// outOfMemory takes in that a process of a container was killed for want of
// memory; often its first one, whose end is told before or after.
func (o *Observer) outOfMemory(id string) {
	o.mu.Lock()
	e := o.entries[id]
	if e == nil {
		o.mu.Unlock()
		return
	}
	e.starved = true
	e.killed()
	o.clock++
	e.changed = o.clock
	o.mu.Unlock()
	o.changed(e.uid)
}

// awaited says that the event tells what somebody is about to tell in full: who
// starts the container, or who waits for its exit code.
func (o *Observer) awaited(ev container.Event) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.entries[ev.ID]
	if e == nil {
		return false
	}
	return ev.Action == "start" && o.making[making{e.uid, e.Name}] > 0 ||
		ev.Action == "die" && e.Ended && e.watch != nil
}

// look inspects in the background, one look per container at a time, so that a
// call that hangs holds up nothing but that container.
func (o *Observer) look(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.entries[id]
	if e != nil && e.looking {
		e.again = true
		return
	}
	if e != nil {
		e.looking = true
	}
	o.tasks.Go(func() {
		for again := true; again; {
			if err := o.Inspect(o.life, id); err != nil && o.life.Err() == nil {
				o.log.Warn("container could not be inspected", "id", id, "error", err)
			}
			o.mu.Lock()
			e := o.entries[id]
			if again = e != nil && e.again; e != nil {
				e.again, e.looking = false, again
			}
			o.mu.Unlock()
		}
	})
}

// Sleep waits, or returns when ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
