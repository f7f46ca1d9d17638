package lifecycle

import (
	"time"

	"orch/pkg/agent/probe"
)

// The figures are Kubernetes' (kubelet: initial 10 s, MaxContainerBackOff, and
// the reset after twice that).
const (
	initialBackOff = 10 * time.Second
	maxBackOff     = 5 * time.Minute
	resetBackOff   = 10 * time.Minute
)

// crashBackOff says how long to wait before a container that ran for ran and
// carries the back-off current is started again, and what the new one carries.
//
// The first crash waits for nothing, the next ones 10 s, 20 s, … 5 min.
// Different from Kubernetes on purpose: a container that had run at least as
// long as its back-off (10 s before there is one) is started at once and its
// back-off stays, so that a container that is killed now and then heals
// without waiting, while one that crashes in a loop slows down as there.
func crashBackOff(current, ran time.Duration) (wait, next time.Duration) {
	switch {
	case ran >= resetBackOff:
		return 0, 0
	case ran >= max(current, initialBackOff):
		return 0, current
	}
	return current, min(max(2*current, initialBackOff), maxBackOff)
}

// worked is for how long a container ran well: not while it was being ended, and
// not at all where it never came to its work.
func (v View) worked(c Container) time.Duration {
	stop, stopped := v.Memory.Stopped[c.ID]
	switch {
	case v.hookFailed(c) || v.Memory.Unhealthy[c.ID].Failed == probe.Startup:
		return 0
	case stopped && !c.BegunAt.IsZero():
		return min(c.ran(), max(0, stop.At.Sub(c.BegunAt)))
	}
	return c.ran()
}

// RetryDelay is how long to wait after the count-th failure in a row, from
// first, doubling, up to 5 min: Kubernetes' rule for image pulls (with first =
// 10 s).
func RetryDelay(first time.Duration, count int) time.Duration {
	d := first
	for ; count > 1 && d < maxBackOff; count-- {
		d *= 2
	}
	return min(d, maxBackOff)
}
