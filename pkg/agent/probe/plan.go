// Package probe asks containers how they are, as their probes say.
//
// Its one invariant: an answer counts for the one life of the container that
// was asked. Who is started again is asked anew from the beginning.
//
// plan.go decides, without context or clock: which probes run, when, and what
// an answer means. set.go carries that out, with one goroutine for each probe,
// which sleeps on a timer. ask.go is the four ways to ask.
package probe

import (
	"cmp"
	"slices"
	"time"

	v1 "orch/proto/v1"
)

// Kind is one of the three questions.
type Kind string

// The questions: has it come up, does it live, can it serve.
const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Health is how a running container is.
type Health struct {
	Started, Ready bool
	// Failed is the probe for which the container has to be ended; Message its
	// last answer. Both are empty while there is none.
	Failed  Kind
	Message string
	// Unready is the answer for which it is not ready; empty while none was believed.
	Unready string
}

// Fresh is the health of a container that has just been started.
func Fresh(c *v1.Container) Health {
	started := c.GetStartupProbe() == nil
	return Health{Started: started, Ready: started && c.GetReadinessProbe() == nil}
}

// Of returns the container's probe of this kind, or nil.
func Of(c *v1.Container, kind Kind) *v1.Probe {
	switch kind {
	case Startup:
		return c.GetStartupProbe()
	case Liveness:
		return c.GetLivenessProbe()
	}
	return c.GetReadinessProbe()
}

// plan says which probes run: the startup probe alone until it has succeeded.
// Who is to end, or has to, is asked for readiness only.
func plan(c *v1.Container, h Health, ending bool) (kinds []Kind) {
	switch {
	case !h.Started:
		kinds = []Kind{Startup}
	default:
		kinds = []Kind{Liveness, Readiness}
	}
	return slices.DeleteFunc(kinds, func(k Kind) bool {
		return Of(c, k) == nil || k != Readiness && (ending || h.Failed != "")
	})
}

// first says how long to wait before a probe is asked for the first time. One
// that an earlier agent asked goes on in its rhythm, so that the probes of a
// node are spread over time as the starts of its containers were.
func first(p *v1.Probe, running time.Duration, resumed bool) time.Duration {
	delay, period := seconds(p.GetInitialDelaySeconds()), seconds(p.GetPeriodSeconds())
	switch {
	case running < delay:
		return delay - running
	case resumed && period > 0:
		return period - (running-delay)%period
	}
	return 0
}

// tally counts equal answers in a row.
type tally struct {
	good bool
	run  int32
}

// add takes an answer in, and says whether there are now enough of its kind to
// be believed.
func (t *tally) add(p *v1.Probe, good bool) (believed bool) {
	if t.good != good {
		t.run = 0
	}
	t.good = good
	t.run++
	if good {
		return t.run >= p.GetSuccessThreshold()
	}
	return t.run >= p.GetFailureThreshold()
}

// after is the health of a container when an answer is believed.
func (h Health) after(c *v1.Container, kind Kind, good bool, message string) Health {
	switch {
	case kind == Readiness && good:
		h.Ready, h.Unready = true, ""
	case kind == Readiness:
		h.Ready, h.Unready = false, cmp.Or(h.Unready, message)
	case !good:
		h.Failed, h.Message = kind, message
	case kind == Startup:
		h.Started, h.Ready = true, c.GetReadinessProbe() == nil
	}
	return h
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }
