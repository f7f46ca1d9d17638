// Package invariant holds a cluster to what must be true whatever fails: it reads
// the log, and names each write that broke something, with its cause.
//
// The one invariant: what [Checker] finds follows from the entries that it was
// shown, in their order, and from nothing else; so whoever reads the same log
// finds the same.
//
// Read next: log.go for what the log can tell, machine.go for what only the
// machines can.
package invariant

import (
	"fmt"
	"time"

	"orch/pkg/api"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// Class says what it means that a rule is broken.
type Class string

const (
	// Safety must hold whatever fails: where it is broken, Orch is.
	Safety Class = "safety"
	// Promise is what was promised to users as far as Orch itself decides. A fault
	// breaks it without anybody's mistake; what counts then is for how long.
	Promise Class = "promise"
)

// Rule is one thing that must be true.
type Rule struct {
	Name  string `json:"name"`
	Class Class  `json:"class"`
	Text  string `json:"text"`
}

// The rules.
var (
	OneNode    = Rule{"OneNode", Safety, "no pod on two nodes, and no container twice"}
	OneName    = Rule{"OneName", Safety, "no two running pods under one name"}
	OneLife    = Rule{"OneLife", Safety, "no pod comes back from its end, or forgets a restart"}
	OwnedBy    = Rule{"OwnedContainer", Safety, "no container without its pod"}
	Fits       = Rule{"Allocatable", Safety, "no node over its allocatable"}
	ReallyUp   = Rule{"ReallyReady", Safety, "every ready pod is really ready"}
	Available  = Rule{"DeploymentAvailable", Promise, "each Deployment has the pods that it promises (replicas less maxUnavailable)"}
	Healthy    = Rule{"BudgetHealthy", Promise, "each PodDisruptionBudget has the healthy pods that it needs"}
	BudgetKept = Rule{"BudgetKept", Promise, "no eviction takes a pod that a PodDisruptionBudget needs"}
)

// Rules are all of them, those of safety first.
var Rules = []Rule{OneNode, OneName, OneLife, OwnedBy, Fits, ReallyUp, Available, Healthy, BudgetKept}

// Violation is a rule that was broken.
type Violation struct {
	Rule
	// Revision and Time of the write that broke it; 0 where a machine tells it.
	Revision int64     `json:"revision,omitempty"`
	Time     time.Time `json:"time,omitzero"`
	// Object is what it is broken for: "deployment/web".
	Object    string `json:"object"`
	Namespace string `json:"namespace,omitempty"`
	// Broken is what is wrong, in a sentence without a subject.
	Broken string `json:"broken"`
	// Cause is that write, and may be followed to where it began.
	Cause *why.Step `json:"cause,omitempty"`
	// Until is the revision at which it was true again, and Ended its time; 0 where
	// it is broken still, or where once is for ever.
	Until int64     `json:"until,omitempty"`
	Ended time.Time `json:"ended,omitzero"`

	// Entry is the write itself, which Cause tells; nil where a machine tells it.
	Entry *v1.LogEntry `json:"-"`
}

// String is one line.
func (v *Violation) String() string {
	s := fmt.Sprintf("%s: %s %s", v.Rule.Text, v.Object, v.Broken)
	if v.Cause != nil {
		s += fmt.Sprintf(", as %s %s (rev %d)", v.Cause.Object, v.Cause.Text, v.Cause.Revision)
	}
	return s
}

// violation is one that an entry makes. Before is what the entry replaced.
func violation(r Rule, e, before *v1.LogEntry, object why.Key, format string, args ...any) *Violation {
	step := why.Tell(e, before)
	return &Violation{
		Rule: r, Revision: e.GetRevision(), Time: e.GetTime().AsTime(), Object: object.String(), Namespace: object.Namespace,
		Broken: fmt.Sprintf(format, args...), Cause: &step, Entry: e,
	}
}

func podOf(e *v1.LogEntry) *v1.Pod {
	p, _ := api.Unwrap(e.GetObject()).(*v1.Pod)
	return p
}
