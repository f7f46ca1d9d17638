package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"orch/pkg/api"
	"orch/pkg/invariant"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// recovery is one pod, or one node, that an injection hit, on its way back.
type recovery struct {
	of       *Injection
	workload *workload         // nil: none of the namespace
	owner    string            // uid of what makes the pod anew
	pod      string            // uid; "" where it is a node
	name     string            // "pod/web-1"
	well     bool              // it was ready when it was hit; always, where it is no pod
	node     string            // its name, where it is one
	lives    map[string]string // the containers' ids when it was hit
	times    map[Step]time.Time
	back     time.Time // when the API server was to be back, where it is that
	gone     bool      // another pod has to take its place
	follower string    // uid of that one
	done     bool
	taken    bool // others ended it, or what took its place, before that was ready
}

// over says that it is back, or that nothing told of the fault in time: what comes
// later has other reasons.
func (c *recovery) over(now time.Time) bool {
	return c.done || !c.noticed() && now.After(c.of.told)
}

// anew forgets how it began to come back: that is in vain, and another pod has to.
func (c *recovery) anew() {
	c.follower = ""
	for _, s := range []Step{"decide", "schedule", "pull", "start"} {
		delete(c.times, s)
	}
}

func (c *recovery) noticed() bool { return !c.times["detect"].IsZero() }

// mark notes when a step was first seen.
func (c *recovery) mark(s Step, at time.Time) {
	if _, ok := c.times[s]; !ok {
		c.times[s] = at
	}
}

// tracker reads the log and knows how everything is at each moment.
type tracker struct {
	report     *Report
	waiting    []*Injection              // not yet injected
	pods       map[string]*v1.Pod        // by uid
	sets       map[string]*v1.ReplicaSet // by uid
	recoveries []*recovery
	workloads  map[string]*workload // by uid
	measured   time.Time
	log        why.Log
}

type workload struct {
	*Workload
	wanted, ready int32
	settled       bool // nothing that the experiment broke is missing any more
}

func newTracker(r *Report, entries []*v1.LogEntry) *tracker {
	t := &tracker{
		report: r, pods: map[string]*v1.Pod{}, sets: map[string]*v1.ReplicaSet{},
		workloads: map[string]*workload{}, measured: r.Start, log: why.Log{},
	}
	r.Injections = injectionsOf(r, entries)
	for _, x := range r.Injections {
		s, st := x.last.GetSpec(), x.last.GetStatus()
		x.Round, x.Fault, x.Target, x.Phase, x.Message = s.GetRound(), s.GetFault().GetType(), api.ChaosTarget(x.last), st.GetPhase(), st.GetMessage()
		x.told = r.End.Add(why.Echo)
		if kind, _ := api.FaultKindOf(x.Fault); st.GetHealedAt() != nil {
			if x.Healed = st.GetHealedAt().AsTime(); kind.Lasts {
				x.told = x.Healed.Add(why.Echo)
			}
		}
		if !x.Injected.IsZero() {
			t.waiting = append(t.waiting, x)
		}
	}
	return t
}

// begin notes how that was which is about to be hit: from the moment that the
// injection was made, as who injects may note only afterwards that it has.
func (t *tracker) begin(now time.Time) {
	t.waiting = slices.DeleteFunc(t.waiting, func(x *Injection) bool {
		s := x.last.GetSpec()
		if x.made.After(now) {
			return false
		}
		if s.GetPodUid() != "" {
			t.hit(x, t.pods[s.GetPodUid()])
		} else if s.GetNodeName() != "" {
			t.recoveries = append(t.recoveries, &recovery{of: x, node: s.GetNodeName(), well: true, times: map[Step]time.Time{}})
			for _, p := range t.pods {
				if p.GetSpec().GetNodeName() == s.GetNodeName() && well(p) {
					t.hit(x, p)
				}
			}
		} else if x.Fault == api.FaultCrashAPIServer {
			t.recoveries = append(t.recoveries, &recovery{of: x, back: s.GetUntil().AsTime(), well: true, times: map[Step]time.Time{}})
		}
		return true
	})
}

// hit begins the recovery of a pod, if it is one that lives.
func (t *tracker) hit(x *Injection, p *v1.Pod) {
	if p == nil || !api.IsPodActive(p) {
		return
	}
	m := p.GetMetadata()
	c := &recovery{
		of: x, workload: t.ownerOf(p), pod: m.GetUid(), name: "pod/" + m.GetName(), well: well(p), owner: api.ControllerOf(p).GetUid(),
		lives: map[string]string{}, times: map[Step]time.Time{},
	}
	for _, s := range p.GetStatus().GetContainerStatuses() {
		c.lives[s.GetName()] = s.GetContainerId()
	}
	t.recoveries = append(t.recoveries, c)
}

// running says that all containers of a pod run.
func running(p *v1.Pod) bool {
	all := p.GetStatus().GetContainerStatuses()
	return len(all) == len(p.GetSpec().GetContainers()) && !slices.ContainsFunc(all, func(s *v1.ContainerStatus) bool { return s.GetState().GetRunning() == nil })
}

func well(p *v1.Pod) bool { return api.IsPodReady(p) && api.IsPodActive(p) }

// see takes an entry.
func (t *tracker) see(e *v1.LogEntry, at time.Time) {
	t.log[e.GetRevision()] = e
	t.late(e, at)
	for _, c := range t.recoveries {
		if !c.back.IsZero() && !c.done && !at.Before(c.back) { // it takes writes again
			c.mark("start", at)
			c.mark("ready", at)
			c.done = true
		}
	}
	switch o := api.Unwrap(e.GetObject()).(type) {
	case *v1.Node:
		t.node(o, e.GetDeleted(), at)
	case *v1.ReplicaSet:
		t.sets[o.GetMetadata().GetUid()] = o
		if api.ControllerOf(o) == nil {
			t.workload(e, o.GetMetadata().GetUid(), o.GetSpec().GetReplicas(), at)
		}
	case *v1.Deployment:
		t.workload(e, o.GetMetadata().GetUid(), o.GetSpec().GetReplicas(), at)
	case *v1.Pod:
		t.pod(e, o, at)
	case *v1.Event:
		for _, c := range t.recoveries {
			if c.follower != "" && c.follower == o.GetInvolvedObject().GetUid() && o.GetReason() == "Pulled" && !strings.HasSuffix(o.GetMessage(), "already present on machine") {
				if started, ok := c.times["start"]; ok { // agents write events aside
					at = started
				}
				c.mark("pull", at)
			}
		}
	}
}

// late notes what was written long after what it follows from, by those whose watches
// an injection hit, of changes that were made meanwhile.
func (t *tracker) late(e *v1.LogEntry, at time.Time) {
	change := t.log[e.GetCause().GetTrigger()]
	if change == nil || strings.HasPrefix(e.GetKind(), "Chaos") { // experiments hear at all times
		return
	}
	made := change.GetTime().AsTime()
	for _, x := range t.report.Injections {
		f := x.last.GetSpec().GetFault()
		deaf := slices.Contains([]string{api.FaultDropWatches, api.FaultDelayWatches}, f.GetType()) && why.Deaf(f, e.GetCause().GetActor())
		if waited := at.Sub(made).Seconds(); deaf && !x.Injected.IsZero() && !made.Before(x.Injected) && !made.After(x.last.GetSpec().GetUntil().AsTime()) && waited > x.Late {
			x.Late, x.Latest = waited, e.GetRevision()
		}
	}
}

// whose says whose work a write is.
type whose int

const (
	others  whose = iota // of another injection, of who killed a container from outside or, where it is the end of a pod, of a person
	nobodys              // the log does not say
	its                  // of the injection
)

// whose follows the causes of a write that is, or is not, the end of a pod.
func (t *tracker) whose(x *Injection, e *v1.LogEntry, end bool) whose {
	for e != nil {
		trigger := e.GetCause().GetTrigger()
		switch {
		case e.GetKind() == "ChaosInjection" && e.GetName() == x.Name && e.GetNamespace() == t.report.Namespace:
			return its
		case e.GetKind() == "ChaosInjection", trigger <= 0 && (end && why.OriginOf(e) == why.User || !kills[x.Fault] && killedOutside(e)):
			return others
		case trigger <= 0, trigger >= e.GetRevision():
			return nobodys
		}
		e = t.log[trigger]
	}
	return nobodys
}

// kills are the faults whose work a container is that was killed from outside, also
// where its agent has forgotten whose.
var kills = map[string]bool{api.FaultKillContainer: true, api.FaultStopNode: true}

// killedOutside says that a write tells of a container's end by a signal, of which its
// agent knows no sender.
func killedOutside(e *v1.LogEntry) bool {
	p, reason := e.GetObject().GetPod(), e.GetCause().GetReason()
	ended := api.TerminationsOf(p)
	return (reason == "ContainerExited" || reason == "ContainerStarted") && slices.ContainsFunc(p.GetStatus().GetContainerStatuses(), func(s *v1.ContainerStatus) bool {
		t := cmp.Or(s.GetState().GetTerminated(), s.GetLastState().GetTerminated())
		known := ended.Find(s.GetName(), t.GetContainerId())
		return known != nil && known.Reason == api.ReasonKilled
	})
}

func (t *tracker) node(n *v1.Node, deleted bool, at time.Time) {
	name := n.GetMetadata().GetName()
	for _, c := range t.recoveries {
		switch {
		case c.node != name || c.over(at):
		case deleted || !api.IsNodeReady(n):
			c.mark("detect", at)
		case len(c.times) > 0:
			c.mark("ready", at)
			c.done = true
		}
	}
}

func (t *tracker) pod(e *v1.LogEntry, p *v1.Pod, at time.Time) {
	deleted := e.GetDeleted()
	uid, owner := p.GetMetadata().GetUid(), api.ControllerOf(p).GetUid()
	was := t.pods[uid]
	fresh := was == nil && !deleted
	if t.pods[uid] = p; deleted {
		delete(t.pods, uid)
	}
	t.count(was, -1, at)
	t.count(t.pods[uid], 1, at)
	end := deleted || !api.IsPodActive(p)
	for _, c := range t.recoveries {
		if c.over(at) || c.follower != uid && (c.pod != uid || c.gone) {
			continue
		}
		switch by := t.whose(c.of, e, end); {
		case by == others && end:
			c.done, c.taken = true, true
		case c.follower == uid:
			c.follow(p, end, at)
		case c.noticed(), by == its, by == nobodys && c.well:
			c.look(p, end, at)
		default:
			c.done = end
		}
	}
	if fresh && owner != "" {
		t.replace(e, p, owner, at)
	}
}

// replace finds what a new pod takes the place of: one takes the place of one that the
// same owner has to replace, if there is one of that whose end it follows from.
func (t *tracker) replace(e *v1.LogEntry, p *v1.Pod, owner string, at time.Time) {
	var of *recovery
	best := others
	for _, c := range t.recoveries {
		if c.over(at) || !c.gone || c.follower != "" || c.owner != owner {
			continue
		}
		if by := t.whose(c.of, e, true); of == nil || by > best {
			of, best = c, by
		}
	}
	if of != nil {
		of.follower = p.GetMetadata().GetUid()
		of.mark("decide", at)
		of.follow(p, false, at)
	}
}

// look judges the pod that was hit.
func (c *recovery) look(p *v1.Pod, end bool, at time.Time) {
	if end {
		c.mark("detect", at)
		c.anew()
		c.gone = true
		c.done = c.owner == "" // nobody makes it anew
		return
	}
	if !api.IsPodReady(p) {
		c.mark("detect", at)
	}
	again := false
	for _, s := range p.GetStatus().GetContainerStatuses() {
		if s.GetContainerId() != c.lives[s.GetName()] && s.GetState().GetRunning() != nil {
			again = true
		}
		if w := s.GetState().GetWaiting(); w != nil || again {
			c.mark("detect", at)
			c.mark("decide", at)
		}
	}
	if again && running(p) {
		c.mark("start", at)
	}
	if c.noticed() && api.IsPodReady(p) {
		c.mark("ready", at)
		c.done = true
	}
}

// follow judges the pod that takes the place.
func (c *recovery) follow(p *v1.Pod, end bool, at time.Time) {
	if end {
		c.anew()
		return
	}
	if p.GetSpec().GetNodeName() != "" {
		c.mark("schedule", at)
	}
	if running(p) {
		c.mark("start", at)
	}
	if api.IsPodReady(p) {
		c.mark("ready", at)
		c.done = true
	}
}

// blame follows the causes of what was broken, as far as entries of the experiment's
// time tell them.
func (t *tracker) blame(all []*invariant.Violation) {
	var causes []*why.Step
	for _, v := range all {
		causes = append(causes, v.Cause)
		e := t.log[v.Entry.GetCause().GetTrigger()]
		for s := v.Cause; s.Origin == "" && e != nil; s = s.Because {
			next := why.Tell(e, t.log[e.GetPrevious()])
			s.Because, e = &next, t.log[e.GetCause().GetTrigger()]
		}
	}
	t.log.Meanwhile(causes...)
}

// notAgain is the note of an injection whose work is not made good.
const notAgain = "not ready again"

// finish brings the recoveries of each injection together: noticed with the first,
// every other step with the last. That a node comes back counts where it had no
// pods: else what counts is that they are back.
func (t *tracker) finish() {
	pods := map[*Injection]bool{}
	noticed := slices.DeleteFunc(t.recoveries, func(c *recovery) bool {
		ok := c.noticed() || !c.back.IsZero() && c.done // else it was not hit
		pods[c.of] = pods[c.of] || ok && c.pod != ""
		return !ok
	})
	for _, c := range noticed {
		_, ready := c.times["ready"]
		switch c.of.Noticed = true; {
		case c.node != "" && pods[c.of]:
			delete(c.times, "ready") // where there were pods, they count
		case ready || c.of.Note == notAgain:
		case c.taken:
			c.of.Note = c.name + " was ended by others before it was ready again"
		case !c.well:
			c.of.Note = c.name + " was not ready when it was hit"
		default:
			c.of.Note = notAgain
		}
		for step, at := range c.times {
			s := max(0, at.Sub(c.of.Injected).Seconds())
			if before, ok := c.of.Steps[step]; !ok || (step == "detect") == (s < before) {
				c.of.Steps[step] = s
			}
		}
	}
	for _, i := range t.report.Injections {
		if i.Recovered = i.Noticed && i.Note == ""; i.Note == notAgain {
			delete(i.Steps, "ready")
		}
		switch {
		case i.Phase == api.ChaosFailed:
			i.Note = "failed: " + i.Message
		case i.Latest > 0:
			i.Note = fmt.Sprintf("decisions about changes made meanwhile came up to %s after these (rev %d)", Seconds(i.Late), i.Latest)
		case !i.Injected.IsZero() && !i.Noticed:
			i.Note = "nothing in the log tells of it"
		}
	}
	t.report.Workloads = slices.DeleteFunc(t.report.Workloads, func(w *Workload) bool { return w.Wanted == 0 })
	slices.SortFunc(t.report.Workloads, func(a, b *Workload) int { return slices.Compare([]string{a.Name}, []string{b.Name}) })
}

// workload enters what a Deployment or ReplicaSet of the namespace wants.
func (t *tracker) workload(e *v1.LogEntry, uid string, replicas int32, at time.Time) {
	if e.GetNamespace() != t.report.Namespace {
		return
	}
	w := t.workloads[uid]
	if w == nil {
		w = &workload{Workload: &Workload{Name: why.KeyOf(e).String(), Fewest: -1}}
		t.workloads[uid] = w
		t.report.Workloads = append(t.report.Workloads, w.Workload)
		for _, p := range t.pods {
			if t.ownerOf(p) == w && well(p) {
				w.ready++
			}
		}
	}
	if e.GetDeleted() {
		replicas = 0
	}
	w.wanted = replicas
	t.point(w, at)
}

// ownerOf is the workload of a pod.
func (t *tracker) ownerOf(p *v1.Pod) *workload {
	uid := api.ControllerOf(p).GetUid()
	if above := api.ControllerOf(t.sets[uid]); t.sets[uid] != nil && above != nil {
		uid = above.GetUid()
	}
	return t.workloads[uid]
}

func (t *tracker) count(p *v1.Pod, sign int32, at time.Time) {
	if p == nil || !well(p) {
		return
	}
	if w := t.ownerOf(p); w != nil {
		w.ready += sign
		t.point(w, at)
	}
}

// point notes how a workload stands, if that is new; of one moment the last counts.
func (t *tracker) point(w *workload, at time.Time) {
	if w.settled {
		return
	}
	now := Point{at, w.wanted, w.ready}
	if n := len(w.Points); n > 0 && w.Points[n-1].Time.Equal(at) {
		w.Points = w.Points[:n-1]
	}
	if n := len(w.Points); n == 0 || w.Points[n-1].Wanted != now.Wanted || w.Points[n-1].Ready != now.Ready {
		w.Points = append(w.Points, now)
	}
}

// measure adds up what was missing until now, and says whether that still counts: at
// the end of the experiment for those workloads only that it left with less than they
// want, or where a fault may not have shown yet; and until that is made up for.
func (t *tracker) measure(now time.Time) (counts bool) {
	end := t.report.End
	if t.report.SoFar {
		end = now
	}
	if t.measured.Before(end) && now.After(end) {
		t.measure(end)
	}
	span := max(0, now.Sub(t.measured).Seconds())
	for _, w := range t.workloads {
		if w.settled = w.settled || now.After(end) && !t.owes(w); w.settled {
			continue
		}
		if counts = true; now.After(end) && w.ready >= w.wanted {
			continue
		}
		w.Lost += span * float64(max(0, w.wanted-w.ready))
		w.Wanted += span * float64(w.wanted)
		if span > 0 && w.wanted > 0 && (w.Fewest < 0 || w.ready < w.Fewest) {
			w.Fewest = w.ready
		}
	}
	if now.After(t.measured) {
		t.measured = now
	}
	return counts || !now.After(end)
}

// owes says that something which was hit is not ready again.
func (t *tracker) owes(w *workload) bool {
	return slices.ContainsFunc(t.recoveries, func(c *recovery) bool {
		return c.workload == w && c.well && !c.over(t.measured) && (w.ready < w.wanted || !c.noticed())
	})
}
