// Package lab grades the lessons of docs/labs from the log: what was done, what
// followed from it, and the revisions that show it.
//
// The one invariant: a grade is computed from entries of the log alone, so it is
// the same tomorrow, and nothing but doing it gives a mark. A mark asks for what
// happened and not for how it was typed: every way that leads there counts.
//
// Read next: story.go for what a mark asks the log, lessons.go for those of a
// Deployment, cluster.go for those of nodes, watches and a program of one's own.
package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// Lesson is one of docs/labs.
type Lesson struct {
	Number int    `json:"number"`
	Title  string `json:"title"`
	// Minutes that a class needs, about.
	Minutes int `json:"minutes"`
	// Page is the lesson's file, from the root of the repository.
	Page string `json:"page"`
	// Kinds without a namespace that its marks are about.
	Kinds []string `json:"-"`

	marks func(*story)
}

// Lessons returns all of them, in order.
func Lessons() []Lesson {
	all := []Lesson{
		{Number: 1, Title: "Reconciliation", Minutes: 40, Page: "reconciliation", marks: reconciliation},
		{Number: 2, Title: "Self-healing and back-off", Minutes: 20, Page: "self-healing", marks: selfHealing},
		{Number: 3, Title: "Scheduling", Minutes: 30, Page: "scheduling", Kinds: []string{"Node"}, marks: scheduling},
		{Number: 4, Title: "Rollouts", Minutes: 30, Page: "rollouts", marks: rollouts},
		{Number: 5, Title: "Probes", Minutes: 25, Page: "probes", marks: probes},
		{Number: 6, Title: "Node death and membership", Minutes: 30, Page: "node-death", Kinds: []string{"Node"}, marks: nodeDeath},
		{Number: 7, Title: "Levels and edges", Minutes: 25, Page: "levels-and-edges", marks: levels},
		{Number: 8, Title: "Your own controller", Minutes: 40, Page: "your-own-controller", Kinds: []string{"ClusterRoleBinding"}, marks: ownController},
	}
	for i, l := range all {
		all[i].Page = fmt.Sprintf("docs/labs/%d-%s.md", l.Number, l.Page)
	}
	return all
}

// Mark is one thing that was to be done or to be seen.
type Mark struct {
	Text string `json:"mark"`
	Done bool   `json:"done"`
	// Revision, Time and Evidence are of the entry that shows it.
	Revision int64     `json:"revision,omitempty"`
	Time     time.Time `json:"time,omitzero"`
	Evidence string    `json:"evidence,omitempty"`
	// Hint says what to do where it is missing.
	Hint string `json:"hint,omitempty"`
}

// Grade is what became of a lesson.
type Grade struct {
	Lesson int    `json:"lesson"`
	Title  string `json:"title"`
	Marks  []Mark `json:"marks"`
	Done   bool   `json:"done"`
	// From is the first revision that was looked at, where the log no longer
	// tells what was before; 0 where it tells all.
	From int64 `json:"from,omitempty"`
}

// Check grades a lesson by the entries of a log, oldest first: all of one
// namespace, and those of the lesson's kinds.
func (l Lesson) Check(log []*v1.LogEntry) Grade {
	s := &story{log: log, at: why.Log{}}
	for _, e := range log {
		s.at[e.GetRevision()] = e
	}
	l.marks(s)
	g := Grade{Lesson: l.Number, Title: l.Title, Marks: s.marks, Done: true}
	for _, m := range g.Marks {
		g.Done = g.Done && m.Done
	}
	// Somebody changed what the log does not know any more.
	if slices.ContainsFunc(log, func(e *v1.LogEntry) bool { return e.GetPrevious() != 0 && s.before(e) == nil }) {
		g.From = log[0].GetRevision()
	}
	return g
}

// mark notes that e shows what was asked for; nil is nothing does.
func (s *story) mark(text string, e *v1.LogEntry, hint string) *v1.LogEntry {
	m := Mark{Text: text, Done: e != nil}
	if e == nil {
		m.Hint = hint
	} else {
		step := why.Tell(e, s.before(e))
		m.Revision, m.Time, m.Evidence = step.Revision, step.Time, strings.TrimSpace(step.Object+" "+step.Text)
	}
	s.marks = append(s.marks, m)
	return e
}
