package api

import "time"

// TriggerClock is the trigger of a write that no revision made necessary, but a
// time that was over: a cause whose trigger is 0 began with a person, with what
// an agent saw on its node, or with what every cluster has.
const TriggerClock int64 = -1

// NewerTrigger is the one of two triggers that says more: the larger revision,
// before a clock, before none.
func NewerTrigger(a, b int64) int64 {
	if a == 0 || b == 0 {
		return a + b
	}
	return max(a, b)
}

// HeldAgain is how soon a part of the control plane asks again whose write was
// refused with [ErrHeld].
const HeldAgain = time.Second
