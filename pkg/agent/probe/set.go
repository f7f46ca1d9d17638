package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// Target is a running container that has probes.
type Target struct {
	ID   string
	Spec *v1.Container
	// IP is the pod's address.
	IP    string
	Begun time.Time
	// Ending says that the container is to end.
	Ending bool
	// Expand replaces references to variables in a command.
	Expand func([]string) []string
	// Was is how the container was when this agent saw it first, and Resumed
	// says that an earlier agent asked it already.
	Was     Health
	Resumed bool
}

// maxTries is how often a question is put again that could not be put at all:
// the kubelet's figure.
const maxTries = 3

// Set runs the probes of one pod.
//
// Concurrency: all methods may be called from several goroutines. The functions
// given to NewSet are called without a lock held.
type Set struct {
	ask     func(context.Context, Target, *v1.Probe) Answer
	changed func()
	told    func(ctx context.Context, t Target, message string)
	tasks   sync.WaitGroup

	mu    sync.Mutex // protects what follows
	lives map[string]*life
}

// life is one target, from the first sight of it to its end.
type life struct {
	target  Target
	health  Health
	running map[Kind]context.CancelFunc
}

// NewSet returns a set without targets. changed is called when the health of a
// target has changed, told with each bad answer as a sentence for people.
func NewSet(ask func(context.Context, Target, *v1.Probe) Answer, changed func(), told func(context.Context, Target, string)) *Set {
	return &Set{ask: ask, changed: changed, told: told, lives: map[string]*life{}}
}

// Sync makes these the targets. What is asked of others ends; all ends with
// ctx.
func (s *Set) Sync(ctx context.Context, targets []Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.lives {
		if !slices.ContainsFunc(targets, func(t Target) bool { return t.ID == id }) {
			l.keep(nil)
			delete(s.lives, id)
		}
	}
	for _, t := range targets {
		l := s.lives[t.ID]
		if l == nil {
			l = &life{health: t.Was, running: map[Kind]context.CancelFunc{}}
			s.lives[t.ID] = l
		}
		l.target = t
		kinds := plan(t.Spec, l.health, t.Ending)
		l.keep(kinds)
		for _, kind := range kinds {
			if l.running[kind] == nil {
				ctx, cancel := context.WithCancel(ctx)
				l.running[kind] = cancel
				s.tasks.Go(func() { s.run(ctx, l, t, kind) })
			}
		}
	}
}

// keep ends the probes of all other kinds.
func (l *life) keep(kinds []Kind) {
	for kind, cancel := range l.running {
		if !slices.Contains(kinds, kind) {
			cancel()
			delete(l.running, kind)
		}
	}
}

// Health returns how the targets are, by id.
func (s *Set) Health() map[string]Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Health, len(s.lives))
	for id, l := range s.lives {
		all[id] = l.health
	}
	return all
}

// Wait returns when nothing is asked any more. The context of Sync has to end
// before.
func (s *Set) Wait() { s.tasks.Wait() }

// run asks in the probe's rhythm until ctx ends, or until the answer is final.
func (s *Set) run(ctx context.Context, l *life, t Target, kind Kind) {
	p := Of(t.Spec, kind)
	var answers tally
	timer := time.NewTimer(first(p, time.Since(t.Begun), t.Resumed))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		asked := time.Now()
		a := s.try(ctx, t, p)
		switch {
		case ctx.Err() != nil:
			return
		case a.Err != nil && errors.Is(a.Err, container.ErrUnavailable):
			// The engine does not answer, which says nothing of the container.
		case a.Err != nil:
			s.told(ctx, t, fmt.Sprintf("%s probe errored and resulted in unknown state: %v", kind, a.Err))
		default:
			message := fmt.Sprintf("%s probe failed: %s", kind, a.Message)
			if !a.Good {
				s.told(ctx, t, message)
			}
			if answers.add(p, a.Good) && s.believe(ctx, l, kind, a.Good, message) {
				return
			}
		}
		timer.Reset(max(0, seconds(p.GetPeriodSeconds())-time.Since(asked)))
	}
}

func (s *Set) try(ctx context.Context, t Target, p *v1.Probe) (a Answer) {
	for range maxTries {
		if a = s.ask(ctx, t, p); a.Err == nil || ctx.Err() != nil {
			break
		}
	}
	a.Message = strings.TrimSpace(a.Message)
	return a
}

// believe changes the health, and says whether there is nothing more to ask.
func (s *Set) believe(ctx context.Context, l *life, kind Kind, good bool, message string) (final bool) {
	s.mu.Lock()
	if ctx.Err() != nil { // Sync has ended this probe meanwhile
		s.mu.Unlock()
		return true
	}
	before := l.health
	l.health = before.after(l.target.Spec, kind, good, message)
	news := l.health != before
	s.mu.Unlock()
	if news {
		s.changed()
	}
	return kind == Startup || kind == Liveness && !good
}
