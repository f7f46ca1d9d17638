// Package report says what a chaos experiment did and how the cluster recovered:
// for each fault how long every step took, what users lost meanwhile, and which
// invariants were broken.
//
// The one invariant: a report follows from entries of the log alone, so whoever
// makes it, and whenever, finds the same figures.
//
// Read next: recovery.go for what counts as a step, text.go and html.go for how it
// is shown.
package report

import (
	"cmp"
	"math"
	"slices"
	"time"

	"orch/pkg/api"
	"orch/pkg/invariant"
	v1 "orch/proto/v1"
)

// Report is what there is to say about one experiment. Times are those of the
// log's entries, durations are in seconds.
type Report struct {
	Experiment string `json:"experiment"`
	Namespace  string `json:"namespace"`
	Fault      string `json:"fault"`
	Seed       int64  `json:"seed,omitempty"`
	Phase      string `json:"phase"`
	Message    string `json:"message,omitempty"`
	// SoFar says that the experiment runs on.
	SoFar bool      `json:"soFar,omitempty"`
	Start time.Time `json:"start,omitzero"`
	End   time.Time `json:"end,omitzero"`
	// StartRevision and EndRevision are the writes with which it began and ended:
	// what it broke may be told, and be broken, by later ones.
	StartRevision int64 `json:"startRevision"`
	EndRevision   int64 `json:"endRevision,omitempty"`
	// LogFrom is set where the log no longer reaches back to the start: its oldest
	// revision.
	LogFrom int64 `json:"logFrom,omitempty"`
	// OnlyNamespace says that it was made without what is in no namespace, or in others.
	OnlyNamespace bool                   `json:"onlyNamespace,omitempty"`
	Injections    []*Injection           `json:"injections"`
	Summary       []Summary              `json:"summary"` // of each step, in their order
	Workloads     []*Workload            `json:"workloads"`
	Probe         *Probe                 `json:"probe,omitempty"`
	Violations    []*invariant.Violation `json:"violations"`
}

// Injection is one fault at one target, and how it was recovered from.
type Injection struct {
	Name     string    `json:"name"`
	Round    int32     `json:"round"`
	Fault    string    `json:"fault"`
	Target   string    `json:"target"`
	Phase    string    `json:"phase"`
	Message  string    `json:"message,omitempty"`
	Injected time.Time `json:"injected,omitzero"`
	Healed   time.Time `json:"healed,omitzero"`
	// made is when it was asked for, told until when the first write that tells of it
	// may come, last how it was in the end.
	made, told time.Time
	last       *v1.ChaosInjection
	// Steps are seconds from the injection. Those that the recovery did without, or
	// that have not happened, are missing.
	Steps map[Step]float64 `json:"steps"`
	// Noticed says that the log tells of the fault at all; Recovered, that all it
	// hit was ready again; Note, what there is to say where it was not.
	Noticed   bool   `json:"noticed"`
	Recovered bool   `json:"recovered"`
	Note      string `json:"note,omitempty"`
	// Late is, of dropped or delayed watches, how long the latest decision came after
	// the change that it follows from, in seconds; Latest its revision.
	Late   float64 `json:"late,omitempty"`
	Latest int64   `json:"latest,omitempty"`
}

// Step is one of a recovery.
type Step string

// Steps are in their order: the first write that tells of the fault; the decision,
// to restart or to replace; the replacement has a node, and its images; containers
// run; the pods are ready.
var Steps = []Step{"detect", "decide", "schedule", "pull", "start", "ready"}

// Summary are quantiles of one step over the injections that had it, in seconds:
// of N, the least that so large a share does not exceed.
type Summary struct {
	Step Step    `json:"step"`
	N    int     `json:"n"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	Max  float64 `json:"max"`
}

// Workload is what a Deployment, or a ReplicaSet without one, had of what it was to
// have.
type Workload struct {
	Name string `json:"name"`
	// Lost and Wanted are replica-seconds: what was not ready of what was wanted,
	// added up over time.
	Lost   float64 `json:"replicaSecondsLost"`
	Wanted float64 `json:"replicaSecondsWanted"`
	// Fewest pods that were ready at a moment.
	Fewest int32   `json:"fewestReady"`
	Points []Point `json:"points"`
}

// Point is how a workload stood from a moment on.
type Point struct {
	Time   time.Time `json:"time"`
	Wanted int32     `json:"wanted"`
	Ready  int32     `json:"ready"`
}

// Probe is what users would have seen.
type Probe struct {
	URL      string   `json:"url"`
	Requests int64    `json:"requests"`
	Failed   int64    `json:"failed"`
	Unasked  int64    `json:"unasked,omitempty"` // were due while the API server was away
	P50      float64  `json:"p50"`
	P99      float64  `json:"p99"`
	Max      float64  `json:"max"`
	Outages  []Outage `json:"outages"`
}

// Outage is a time in which requests failed.
type Outage struct {
	Start  time.Time `json:"start"`
	End    time.Time `json:"end"`
	Failed int64     `json:"failed"`
}

// Make makes the report. Before are the objects of [invariant.Kinds], in that
// order, as they were when the experiment began; entries are the log from then on,
// oldest first; now is when it was read.
func Make(x *v1.ChaosExperiment, before []api.Object, entries []*v1.LogEntry, now time.Time) *Report {
	st, m := x.GetStatus(), x.GetMetadata()
	r := &Report{
		Experiment: m.GetName(), Namespace: m.GetNamespace(), Fault: x.GetSpec().GetFault().GetType(), Seed: x.GetSpec().GetSeed(),
		Phase: cmp.Or(st.GetPhase(), "Pending"), Message: st.GetMessage(), Start: st.GetStartTime().AsTime(), End: now,
		StartRevision: st.GetStartRevision(), SoFar: st.GetEndTime() == nil,
		Injections: []*Injection{}, Workloads: []*Workload{}, Violations: []*invariant.Violation{},
	}
	if !r.SoFar {
		r.End = st.GetEndTime().AsTime()
	}
	r.probe(x)
	if st.GetStartTime() == nil {
		return r
	}
	t := newTracker(r, entries)
	checker := invariant.New()
	for _, o := range before {
		checker.Seed(o)
		om := o.GetMetadata()
		t.see(&v1.LogEntry{Kind: api.KindOf(o).Name, Namespace: om.GetNamespace(), Name: om.GetName(), Object: api.Wrap(o)}, r.Start)
	}
	for _, e := range entries {
		at := e.GetTime().AsTime()
		if t.measure(at) {
			checker.Check(e)
		}
		t.begin(at)
		t.see(e, at)
		if o, ok := api.Unwrap(e.GetObject()).(*v1.ChaosExperiment); ok && o.GetMetadata().GetUid() == m.GetUid() && o.GetStatus().GetEndTime() != nil && r.EndRevision == 0 {
			r.EndRevision = e.GetRevision()
		}
	}
	if r.SoFar || t.measured.Before(r.End) {
		t.measure(r.End)
	}
	t.finish()
	r.EndRevision = cmp.Or(r.EndRevision, st.GetEndRevision())
	r.Violations = append(r.Violations, checker.All()...)
	t.blame(r.Violations)
	r.Summary = summaries(r.Injections)
	return r
}

func (r *Report) probe(x *v1.ChaosExperiment) {
	s := x.GetStatus().GetProbe()
	if x.GetSpec().GetProbe() == nil || s == nil {
		return
	}
	seconds := func(micro int64) float64 { return float64(micro) / 1e6 }
	r.Probe = &Probe{
		URL: x.GetSpec().GetProbe().GetUrl(), Requests: s.GetRequests(), Failed: s.GetFailed(), Unasked: s.GetUnasked(), Outages: []Outage{},
		P50: seconds(s.GetP50Microseconds()), P99: seconds(s.GetP99Microseconds()), Max: seconds(s.GetMaxMicroseconds()),
	}
	for _, o := range s.GetOutages() {
		r.Probe.Outages = append(r.Probe.Outages, Outage{o.GetStartTime().AsTime(), o.GetEndTime().AsTime(), o.GetFailed()})
	}
}

// summaries are over the injections that had each step.
func summaries(all []*Injection) (some []Summary) {
	for _, step := range Steps {
		var times []float64
		for _, i := range all {
			if t, ok := i.Steps[step]; ok {
				times = append(times, t)
			}
		}
		if len(times) > 0 {
			slices.Sort(times)
			some = append(some, Summary{step, len(times), quantile(times, 0.5), quantile(times, 0.95), times[len(times)-1]})
		}
	}
	return some
}

// quantile is the nearest rank of what is sorted and not empty.
func quantile(sorted []float64, q float64) float64 {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// injectionsOf are the experiment's injections, in the order in which they were made.
func injectionsOf(r *Report, entries []*v1.LogEntry) []*Injection {
	all, byName := []*Injection{}, map[string]*Injection{}
	for _, e := range entries {
		i, ok := api.Unwrap(e.GetObject()).(*v1.ChaosInjection)
		if !ok || e.GetNamespace() != r.Namespace || i.GetSpec().GetExperiment() != r.Experiment {
			continue
		}
		x, at := byName[e.GetName()], e.GetTime().AsTime()
		if x == nil {
			x = &Injection{Name: e.GetName(), Steps: map[Step]float64{}, made: at}
			all, byName[x.Name] = append(all, x), x
		}
		if x.last == nil || !e.GetDeleted() {
			x.last = i
		}
		// Who injects may have another clock than the log: it was not earlier than it
		// was asked for, and not later than it was written.
		if injected := i.GetStatus().GetInjectedAt().AsTime(); i.GetStatus().GetInjectedAt() != nil && x.Injected.IsZero() {
			x.Injected = slices.MaxFunc([]time.Time{x.made, slices.MinFunc([]time.Time{injected, at}, time.Time.Compare)}, time.Time.Compare)
		}
	}
	return all
}
