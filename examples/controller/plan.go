package main

import (
	"fmt"
	"time"

	v1 "orch/proto/v1"
)

// annotation says how long a preview may live: "90s", "2h".
const annotation = "webflix.example/ttl"

// defaultTTL is for previews that do not say; 0: they stay.
const defaultTTL = 0 * time.Second

// action is what is to be done about one preview. At most one of the two is set.
type action struct {
	// Delete is the reason to delete it now, and Why the sentence for people.
	Delete, Why string
	// After is when to look again although nothing has changed.
	After time.Duration
}

// plan decides. It has no client, no context and no clock: whoever wants to know
// what the janitor does in a case writes the case into a table, see plan_test.go.
func plan(d *v1.Deployment, now time.Time) action {
	m := d.GetMetadata()
	if m.GetDeletionTimestamp() != nil {
		return action{}
	}
	ttl, reason := defaultTTL, "ExpiredByDefault"
	if text, ok := m.GetAnnotations()[annotation]; ok {
		said, err := time.ParseDuration(text)
		if err != nil {
			return action{} // rather too long a life than a death by a misprint
		}
		ttl, reason = said, "Expired"
	}
	age := now.Sub(m.GetCreationTimestamp().AsTime())
	switch {
	case ttl <= 0:
		return action{}
	case age < ttl:
		return action{After: ttl - age}
	}
	return action{Delete: reason, Why: fmt.Sprintf("previews may live %v, and this one is %v old", ttl, age.Truncate(time.Second))}
}
