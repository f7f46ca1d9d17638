// Package gate is where paused controllers wait: it knows which of them are
// paused, what they would write, and who may do one step.
//
// A paused controller is not stopped. It watches and plans as ever; only its
// writes end here, and it asks again every second ([api.HeldAgain]), with the
// plan that is then right. So nothing is queued: what is held is always today's
// plan, and what is let through is never stale.
//
// The one invariant: while a controller is paused, nothing of it passes but one
// write for each grant; and when [Gate.Barrier] returns after a pause, nothing of
// it is under way.
//
// Read next: ../controllers.go, the shell around it, and pkg/reconcile, the
// other end.
package gate

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// forgetAfter is when a held write vanishes that nobody has asked for again.
const forgetAfter = 5 * api.HeldAgain / 2

// Gate is the gate of one API server.
//
// Concurrency: all methods may be called from several goroutines.
type Gate struct {
	parts  []*part          // in the order of api.Controllers; never changes
	actors map[string]*part // never changes

	// passing is read-locked by each write of a controller from before the
	// question whether it is paused until its end.
	passing sync.RWMutex
	paused  atomic.Int32 // how many are

	mu       sync.Mutex // guards what follows, and the parts
	revision int64      // of what Set was last told
	changed  chan struct{}
}

// part is one controller.
type part struct {
	name      string
	paused    bool
	lastWrite time.Time
	plans     []*plan // the longest held first
	grant     *Grant  // nil where nobody steps
}

// plan is what the last run for one key would write.
type plan struct {
	loop, key   string
	run         int64
	since, seen time.Time
	writes      []*v1.HeldWrite
}

// Grant is the leave for one write: the first of a run.
type Grant struct {
	part *part
	key  string // "" is the longest held
	by   string // the user who gives it
	busy bool   // somebody tries to make use of it
	done bool

	// What was written; for who finds the grant done.
	Written  *v1.HeldWrite
	Revision int64
	loop     string
	run      int64
}

// New returns a gate with all controllers, none of them paused.
func New() *Gate {
	g := &Gate{actors: map[string]*part{}, changed: make(chan struct{})}
	for _, c := range api.Controllers {
		p := &part{name: c.Name}
		g.parts = append(g.parts, p)
		for _, a := range c.Actors {
			g.actors[a] = p
		}
	}
	return g
}

// Set says which controllers are paused since a revision. Older news than it has
// does not count, nor do names that it does not know.
func (g *Gate) Set(paused func(name string) bool, revision int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if revision < g.revision {
		return
	}
	g.revision = revision
	n := int32(0)
	for _, p := range g.parts {
		if p.paused = paused(p.name); p.paused {
			n++
			continue
		}
		p.plans, p.grant = nil, nil
	}
	g.paused.Store(n)
	g.notify()
}

// Barrier returns when no write is under way that began before it was called.
func (g *Gate) Barrier() {
	g.passing.Lock()
	//nolint:staticcheck // the lock is waited for, not needed
	g.passing.Unlock()
}

// notify wakes those who wait for [Gate.Changed]; mu is locked.
func (g *Gate) notify() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// Changed is closed when something has been held, let through, paused or resumed.
func (g *Gate) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// Visit is one write of a controller that has come to the gate. [Visit.Leave]
// must be called.
type Visit struct {
	g    *Gate
	part *part
	// Paused says that the write may not be made, unless Pass lets it.
	Paused bool
	grant  *Grant
}

// Enter brings the write of an actor to the gate; nil where the actor is no
// controller.
func (g *Gate) Enter(actor string) *Visit {
	p := g.actors[actor]
	if p == nil {
		return nil
	}
	g.passing.RLock()
	v := &Visit{g: g, part: p}
	if g.paused.Load() > 0 {
		g.mu.Lock()
		v.Paused = p.paused
		g.mu.Unlock()
	}
	return v
}

// Controller is the name of the one whose write it is.
func (v *Visit) Controller() string { return v.part.name }

// Pass asks whether the write of a paused controller may be made all the same,
// because somebody steps, who then is its cause too. Where not, the write is held.
func (v *Visit) Pass(w *v1.HeldWrite, now time.Time) bool {
	v.g.mu.Lock()
	defer v.g.mu.Unlock()
	p, run := v.part, w.GetCause().GetRun()
	p.forget(now)
	i := p.find(run.GetLoop(), w.GetKey())
	first := i < 0 || run == nil || p.plans[i].run != run.GetNumber() // of its run: what comes next
	if g := p.grant; g != nil && first && !g.busy && !g.done && (g.key == w.GetKey() || g.key == "" && (i == 0 || len(p.plans) == 0)) {
		g.busy, v.grant = true, g
		w.Cause.SteppedBy = g.by
		return true
	}
	if !p.paused {
		return false // resumed just now: it will ask again
	}
	if i < 0 {
		i = len(p.plans)
		p.plans = append(p.plans, &plan{loop: run.GetLoop(), key: w.GetKey(), since: now})
	}
	held := p.plans[i]
	if first { // it plans anew
		held.run, held.writes = run.GetNumber(), nil
	}
	held.seen = now
	held.writes = append(held.writes, w)
	w.Since = timestamppb.New(held.since)
	v.g.notify()
	return false
}

// Leave ends the visit: with the revision that was written, or 0.
func (v *Visit) Leave(w *v1.HeldWrite, revision int64, now time.Time) {
	defer v.g.passing.RUnlock()
	if revision == 0 && v.grant == nil {
		return
	}
	v.g.mu.Lock()
	defer v.g.mu.Unlock()
	if revision != 0 {
		v.part.lastWrite = now
	}
	g := v.grant
	if g == nil {
		return
	}
	g.busy = false
	if revision == 0 {
		return // it failed; the grant is good for another
	}
	run := w.GetCause().GetRun()
	g.done, g.Written, g.Revision, g.loop, g.run = true, w, revision, run.GetLoop(), run.GetNumber()
	// What that run has held before is no longer what is right.
	if i := v.part.find(run.GetLoop(), w.GetKey()); i >= 0 {
		v.part.plans = slices.Delete(v.part.plans, i, i+1)
	}
	v.g.notify()
}

// Grant lets one write of a paused controller through, in the name of a user: the
// next of a key, or of what has been held longest where key is empty.
func (g *Gate) Grant(name, key, by string) (*Grant, error) {
	p, err := g.part(name)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !p.paused:
		return nil, api.Errorf(api.ErrBadRequest, "controller %s is not paused: only a paused one is led by steps (orchctl controllers pause %s)", name, name)
	case p.grant != nil:
		return nil, api.Errorf(api.ErrConflict, "somebody else steps controller %s just now", name)
	}
	p.grant = &Grant{part: p, key: key, by: by}
	return p.grant, nil
}

// Take says whether the grant was made use of; if so, or with giveUp where nobody
// tries to, it is over.
func (g *Gate) Take(grant *Grant, giveUp bool) (done, over bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	over = grant.done || !grant.busy && (giveUp || grant.part.grant != grant)
	if over && grant.part.grant == grant {
		grant.part.grant = nil
	}
	return grant.done, over
}

// Followed says whether a later run than the one that made use of the grant has
// told what it would write; always, where there are no runs.
func (g *Gate) Followed(grant *Grant) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := grant.part.find(grant.loop, grant.Written.GetKey())
	return grant.run == 0 || i >= 0 && grant.part.plans[i].run > grant.run
}

// part finds a controller by its name.
func (g *Gate) part(name string) (*part, error) {
	for _, p := range g.parts {
		if p.name == name {
			return p, nil
		}
	}
	return nil, api.CheckControllers(name)
}

// List tells of all controllers.
func (g *Gate) List(now time.Time) []*v1.Controller {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []*v1.Controller
	for _, p := range g.parts {
		p.forget(now)
		c := &v1.Controller{Name: p.name, Paused: p.paused}
		if !p.lastWrite.IsZero() {
			c.LastWrite = timestamppb.New(p.lastWrite)
		}
		for _, held := range p.plans {
			c.Held = append(c.Held, held.writes...)
		}
		all = append(all, c)
	}
	return all
}

// Banner is what those are told who look at the cluster; "" where nothing is
// paused.
func (g *Gate) Banner() string {
	if g.paused.Load() == 0 {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var names []string
	for _, p := range g.parts {
		if p.paused {
			names = append(names, p.name)
		}
	}
	what := "controllers " + strings.Join(names, ", ") + " are"
	switch len(names) {
	case 0:
		return "" // resumed just now
	case 1:
		what = "controller " + names[0] + " is"
	case len(g.parts):
		what = "all controllers are"
	}
	return what + " paused: see orchctl controllers plan"
}

// forget drops what nobody has asked for again.
func (p *part) forget(now time.Time) {
	p.plans = slices.DeleteFunc(p.plans, func(held *plan) bool { return now.Sub(held.seen) > forgetAfter })
}

func (p *part) find(loop, key string) int {
	return slices.IndexFunc(p.plans, func(held *plan) bool { return held.loop == loop && held.key == key })
}
