// Package why explains an object from the log: what made it exist, what put it
// where it is, what became of it, and because of what, down to where each chain
// of causes begins.
//
// The one invariant: an explanation is computed from entries of the log alone.
// [Explain] is pure; [Gather] fetches what it needs.
//
// Read next: gather.go, sentence.go for the words, origin.go for where chains
// may begin, fault.go for what was broken on purpose, change.go for what differs
// between two revisions.
package why

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Key names an object of a kind ("Pod").
type Key struct{ Kind, Namespace, Name string }

// String is "pod/web-1".
func (k Key) String() string {
	kind := strings.ToLower(k.Kind)
	if k := api.KindByName(k.Kind); k != nil {
		kind = k.Singular
	}
	return kind + "/" + k.Name
}

// KeyOf is the object of an entry.
func KeyOf(e *v1.LogEntry) Key { return Key{e.GetKind(), e.GetNamespace(), e.GetName()} }

// Log is what is known of the log: entries by their revision.
type Log map[int64]*v1.LogEntry

// Explanation is the story of one object, newest first.
type Explanation struct {
	Object    string `json:"object"`
	Namespace string `json:"namespace,omitempty"`
	// State is how the object is now, in one sentence.
	State string `json:"state"`
	Steps []Step `json:"steps"`
}

// Step is one entry of the log, in a sentence.
type Step struct {
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time,omitzero"`
	Object   string    `json:"object,omitempty"`
	Actor    string    `json:"actor,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	// SteppedBy is the user whose step let the actor, which was paused, do it.
	SteppedBy string   `json:"steppedBy,omitempty"`
	Text      string   `json:"text"`
	Changes   []Change `json:"changes,omitempty"`
	// Origin is set where the chain begins here, and empty where Because says
	// what made the entry necessary.
	Origin  Origin `json:"origin,omitempty"`
	Because *Step  `json:"because,omitempty"`
	// Meanwhile is what was broken on purpose elsewhere, and may be why it came so,
	// or so late.
	Meanwhile []Step `json:"meanwhile,omitempty"`
	// Quiet says that it is only the keeping of accounts.
	Quiet bool `json:"-"`
}

// Options narrow an explanation.
type Options struct {
	// Since leaves out what is older.
	Since time.Time
	// All shows also the steps that only keep accounts (counted, observed, …).
	All bool
}

// quiet are the reasons of writes that keep accounts: they follow from others
// that say more.
var quiet = map[string]bool{
	"StatusCounted": true, "ReplicasCounted": true, "BudgetCounted": true, "ContentCounted": true,
	"GenerationObserved": true, "StatusObserved": true, "TerminationRecorded": true, "RevisionSynced": true,
	"ContainerCreating": true, "PodInitializing": true, "SandboxReady": true, "SandboxChanged": true, "Heartbeat": true,
}

// Explain tells the story of an object. History are its entries, oldest first;
// log holds those and the entries that they lead to.
func Explain(key Key, history []*v1.LogEntry, log Log, o Options) Explanation {
	x := Explanation{Object: key.String(), Namespace: key.Namespace}
	if len(history) == 0 {
		x.State = "is not in the log"
		return x
	}
	newest := history[len(history)-1]
	x.State = state(newest)
	for i, e := range slices.Backward(history) {
		if e.GetTime().AsTime().Before(o.Since) {
			break
		}
		// The newest count is why the numbers are as they are; others tell when there
		// was less than is wanted, and when there was enough again.
		counts := strings.HasSuffix(e.GetCause().GetReason(), "Counted") &&
			(i == len(history)-1 || i > 0 && whole(e) != whole(history[i-1]))
		if quiet[e.GetCause().GetReason()] && !o.All && !counts {
			continue
		}
		x.Steps = append(x.Steps, *log.Chain(e))
	}
	log.faults(&x, history, o.Since)
	if oldest := history[0]; len(x.Steps) > 0 && oldest.GetPrevious() != 0 && !oldest.GetTime().AsTime().Before(o.Since) {
		x.Steps = append(x.Steps, Step{Text: fmt.Sprintf("the log no longer tells what was before revision %d", oldest.GetRevision()), Origin: Compacted})
	}
	return x
}

// whole says that a Deployment or ReplicaSet has what it wants.
func whole(e *v1.LogEntry) bool {
	switch o := api.Unwrap(e.GetObject()).(type) {
	case *v1.Deployment:
		s, wanted := o.GetStatus(), o.GetSpec().GetReplicas()
		return s.GetReplicas() == wanted && s.GetUpdatedReplicas() == wanted && s.GetAvailableReplicas() == wanted
	case *v1.ReplicaSet:
		return o.GetStatus().GetReplicas() == o.GetSpec().GetReplicas() && o.GetStatus().GetReadyReplicas() == o.GetSpec().GetReplicas()
	}
	return false
}

// Chain is one entry with all that led to it.
func (l Log) Chain(e *v1.LogEntry) *Step {
	s := Tell(e, l[e.GetPrevious()])
	trigger := e.GetCause().GetTrigger()
	if s.Origin != "" {
		return &s
	}
	if because, ok := l[trigger]; ok {
		s.Because = l.Chain(because)
	} else {
		s.Because = &Step{Revision: trigger, Text: "the log no longer tells what that was", Origin: Compacted}
	}
	return &s
}

// Tell is one entry by itself. Before is what it replaced, or nil where that is
// not known.
func Tell(e, before *v1.LogEntry) Step {
	c := e.GetCause()
	s := Step{
		Revision: e.GetRevision(), Time: e.GetTime().AsTime(), Object: KeyOf(e).String(), Actor: c.GetActor(), Reason: c.GetReason(),
		Quiet: quiet[c.GetReason()],
	}
	if e.GetWithheld() {
		s.Text, s.Object, s.Origin = "changed: you may not read it", "a "+e.GetKind(), Withheld
		return s
	}
	if before != nil && !e.GetDeleted() {
		s.Changes = Changes(api.Unwrap(before.GetObject()), api.Unwrap(e.GetObject()))
	}
	s.Text = sentence(e, before, s.Changes)
	if s.SteppedBy = c.GetSteppedBy(); s.SteppedBy != "" {
		s.Text += ", let through by a step of " + Who(s.SteppedBy)
	}
	switch {
	case c.GetTrigger() <= 0:
		s.Origin = OriginOf(e)
	case c.GetTrigger() >= e.GetRevision():
		s.Origin = Unknown // nobody can be moved by what is yet to come
	}
	return s
}
