// Package observer mirrors the containers of one agent: those that carry its
// cluster's and its node's label, and no others.
//
// Its one invariant: a container's states only go forward here (created,
// running, ended), in whatever order the engine's answers come in, and a
// process that was seen to end does not live again.
//
// Events and pidfds say where to look; what is shown comes from Inspect, Start
// and Wait, which see one container whole. A list every few seconds catches
// what an event missed.
//
// Read follow.go for how the engine is followed, and this file for what is kept.
package observer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/container"
)

// Observer is the mirror.
//
// Concurrency: all methods may be called from several goroutines while Run
// runs. changed and health are called without a lock held.
type Observer struct {
	runtime container.Runtime
	owner   lifecycle.Owner
	log     *slog.Logger
	changed func(uid string)
	health  func(error) // nil: the engine answers

	// life ends with Run; it is what watches of processes live by.
	life   context.Context //nolint:containedctx // they outlive the calls that begin them
	tasks  sync.WaitGroup
	listed chan struct{} // closed after the first full list

	mu      sync.Mutex // protects what follows
	entries map[string]*entry
	pods    map[string]map[string]*entry // by uid, then id
	unseen  map[string]string            // uid by the id of what was listed, and never shown
	making  map[making]int               // containers whose start somebody waits for
	clock   int64                        // counts changes
}

// Listed is closed after the first full list.
func (o *Observer) Listed() <-chan struct{} { return o.listed }

// making names what is being started.
type making struct{ uid, name string }

type entry struct {
	lifecycle.Container
	uid     string
	key     api.Key
	changed int64 // Observer.clock of the last change
	// looking: an Inspect is under way; again: another is due after it.
	looking, again bool
	watch          context.CancelFunc // of the process; nil: not watched
	// starved: the engine said that a process of its present life was killed for
	// want of memory.
	starved bool
}

// killed brings together that a process was killed for want of memory and that
// the container has ended by such a kill. The engine itself may not: it learns
// the two on two ways, and its answer stays as it was when the second comes late.
func (e *entry) killed() {
	e.OOMKilled = e.OOMKilled || e.starved && e.State == container.StateExited && e.ExitCode == sigkilled
}

// sigkilled is the exit code of what SIGKILL ended.
const sigkilled = 128 + 9

// New returns an observer that lives as long as life. changed is called when
// something about the containers of a pod changed, health with nil when the engine
// was listed, and with an error when it does not answer.
func New(life context.Context, r container.Runtime, o lifecycle.Owner, log *slog.Logger, changed func(string), health func(error)) *Observer {
	return &Observer{
		life:    life,
		runtime: r, owner: o, log: log, changed: changed, health: health,
		listed:  make(chan struct{}),
		entries: map[string]*entry{},
		pods:    map[string]map[string]*entry{},
		unseen:  map[string]string{},
		making:  map[making]int{},
	}
}

// Unseen says that the engine has containers of the pod that it has never shown:
// what Pod returns is then too little to decide by. The next list looks again.
func (o *Observer) Unseen(uid string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, of := range o.unseen {
		if of == uid {
			return true
		}
	}
	return false
}

// Making says that the caller is about to start a container and will Put it;
// done ends that.
func (o *Observer) Making(uid, name string) (done func()) {
	m := making{uid, name}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.making[m]++
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.making[m]--; o.making[m] == 0 {
			delete(o.making, m)
		}
	}
}

// Inspect looks at one container now.
func (o *Observer) Inspect(ctx context.Context, id string) error {
	c, err := o.runtime.Inspect(ctx, id)
	switch {
	case errors.Is(err, container.ErrNotFound):
		o.Drop(id)
	case err != nil:
		return err
	default:
		o.Put(c)
	}
	return nil
}

// Put takes in one container as the engine showed it.
func (o *Observer) Put(c container.Container) {
	if c.Labels[lifecycle.LabelCluster] != o.owner.Cluster || c.Labels[lifecycle.LabelNode] != o.owner.Node {
		return
	}
	parsed, key, uid, ok := lifecycle.Parse(c)
	if !ok {
		return
	}
	now := time.Now()
	o.mu.Lock()
	delete(o.unseen, c.ID)
	e := o.entries[c.ID]
	if e == nil {
		e = &entry{uid: uid, key: key}
		o.entries[c.ID] = e
		if o.pods[uid] == nil {
			o.pods[uid] = map[string]*entry{}
		}
		o.pods[uid][c.ID] = e
	} else if older(c, e.Container.Container) {
		o.mu.Unlock()
		return
	}
	o.clock++
	e.changed = o.clock
	restarted := !parsed.StartedAt.Equal(e.StartedAt)
	parsed.BegunAt, parsed.EndedAt, parsed.Ended = e.BegunAt, e.EndedAt, e.Ended
	if restarted {
		parsed.BegunAt, parsed.EndedAt, parsed.Ended = time.Time{}, time.Time{}, false
		e.starved = false
	}
	if parsed.BegunAt.IsZero() && !parsed.StartedAt.IsZero() {
		parsed.BegunAt = lifecycle.Backdate(now, parsed.StartedAt)
	}
	if parsed.Exited() && parsed.EndedAt.IsZero() {
		parsed.EndedAt = now
		if !parsed.FinishedAt.IsZero() {
			parsed.EndedAt = lifecycle.Backdate(now, parsed.FinishedAt)
		}
	}
	e.Container = parsed
	e.killed()
	if e.watch != nil && (restarted || !parsed.Running()) {
		e.watch()
		e.watch = nil
	}
	if parsed.Running() && parsed.PID != 0 && e.watch == nil {
		o.watchProcess(e)
	}
	o.mu.Unlock()
	o.changed(uid)
}

// older says that c shows an earlier state than is known: answers of the
// engine may overtake each other.
func older(c, known container.Container) bool {
	rank := map[container.State]int{container.StateCreated: 0, container.StateRunning: 1, container.StatePaused: 1, container.StateExited: 2}
	if c.StartedAt.After(known.StartedAt) {
		return false
	}
	failed := known.State == container.StateCreated && (known.Error != "" || known.ExitCode != 0)
	if failed && c.State == container.StateCreated && c.Error == "" && c.ExitCode == 0 { // from before the start that failed
		return true
	}
	return c.StartedAt.Before(known.StartedAt) || rank[c.State] < rank[known.State]
}

// watchProcess lets the process's end be seen before the engine tells, and
// learns its exit code then. The caller holds o.mu.
func (o *Observer) watchProcess(e *entry) {
	ctx, cancel := context.WithCancel(o.life)
	exited := o.runtime.Exited(ctx, e.Container.Container)
	if exited == nil {
		cancel()
		return
	}
	e.watch = cancel
	id, started := e.ID, e.StartedAt
	o.tasks.Go(func() {
		defer cancel()
		select {
		case <-ctx.Done():
			return
		case <-exited:
		}
		o.mu.Lock()
		known := o.entries[id] == e && e.StartedAt.Equal(started) && e.Running()
		if known {
			e.Ended, e.EndedAt = true, time.Now()
			o.clock++
			e.changed = o.clock
		}
		o.mu.Unlock()
		if !known {
			return
		}
		o.changed(e.uid)
		switch c, err := o.runtime.Wait(o.life, id); {
		case err == nil:
			o.Put(c)
		case errors.Is(err, container.ErrNotFound):
			o.Drop(id)
		}
	})
}

// Drop forgets a container that is no more.
func (o *Observer) Drop(id string) {
	o.mu.Lock()
	e := o.entries[id]
	if e == nil {
		uid, unseen := o.unseen[id]
		delete(o.unseen, id)
		o.mu.Unlock()
		if unseen {
			o.changed(uid)
		}
		return
	}
	o.clock++
	delete(o.entries, id)
	delete(o.pods[e.uid], id)
	if len(o.pods[e.uid]) == 0 {
		delete(o.pods, e.uid)
	}
	if e.watch != nil {
		e.watch()
	}
	o.mu.Unlock()
	o.changed(e.uid)
}

// Pod returns the containers of one pod, ordered by name and attempt.
func (o *Observer) Pod(uid string) []lifecycle.Container {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]lifecycle.Container, 0, len(o.pods[uid]))
	for _, e := range o.pods[uid] {
		list = append(list, e.Container)
	}
	lifecycle.Disown(list)
	slices.SortFunc(list, func(a, b lifecycle.Container) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Pods returns the uids of all pods that have containers, with their keys.
func (o *Observer) Pods() map[string]api.Key {
	o.mu.Lock()
	defer o.mu.Unlock()
	keys := map[string]api.Key{}
	for uid, pod := range o.pods {
		for _, e := range pod {
			keys[uid] = e.key
		}
	}
	return maps.Clone(keys)
}

// Key is the pod's name as its containers' labels have it; zero where it has
// none.
func (o *Observer) Key(uid string) api.Key {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.pods[uid] {
		return e.key
	}
	return api.Key{}
}
