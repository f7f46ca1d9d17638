package scheduler

import (
	"cmp"
	"slices"
	"time"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// planner knows the cluster and the pods that wait for a node, and plans what
// to write. It has no clock and no client: time is an argument, writes are
// answered with their outcome.
//
// Concurrency: none of its own; the scheduler's lock protects it.
type planner struct {
	cluster *Cluster
	pending map[string]*pending // by uid

	// era counts the changes that could give a waiting pod a node. A pod that
	// was refused in this era is not tried again before the next.
	era     uint64
	eraFrom int64 // revision of the change that began the era, or api.TriggerClock; 0 if unknown
}

// pending is a pod without a node.
type pending struct {
	pod     *v1.Pod // as last seen
	demand  demand
	trigger int64 // revision that made the pod known

	busy    bool   // a write of this pod is under way
	refused uint64 // era in which no node took it; 0 before the first try
	why     string // what Assign said then
	lack    string // and of each node

	// stale is the version of the pod that lost a race; it waits until a newer
	// one is seen.
	stale int64
	// failures counts writes that failed for other reasons, one after another.
	// After a failure nothing is tried before notBefore, after a report no other
	// report.
	failures  int
	notBefore time.Time
}

// action is one write: a binding, or, where node is empty, a report that the
// pod is unschedulable.
type action struct {
	pod     *v1.Pod
	node    string
	message string
	lack    string // what each node lacks, where node is empty
	trigger int64
}

const (
	// minPause and maxPause bound the pause of a pod after a write that failed,
	// and minPause is the least between two reports about one pod: Kubernetes'
	// podInitialBackoff and podMaxBackoff. There is no pause between decisions:
	// they cost microseconds and no writes.
	minPause = time.Second
	maxPause = 10 * time.Second
	// maxActions bounds one plan, so that the first writes begin before the
	// last decisions are made.
	maxActions = 64
)

func newPlanner() *planner {
	return &planner{cluster: NewCluster(), pending: map[string]*pending{}, era: 1}
}

// newEra lets all waiting pods be tried again, because of a revision.
func (pl *planner) newEra(revision int64) {
	pl.era++
	pl.eraFrom = revision
}

// setNode takes over a node; nil, with its name, where it is gone.
func (pl *planner) setNode(name string, n *v1.Node, revision int64) (act bool) {
	if n == nil {
		pl.cluster.RemoveNode(name)
	} else if !pl.cluster.SetNode(n) {
		return false
	}
	// A node that is gone or full gives nobody a place, but the sentence that
	// waiting pods show counts it.
	pl.newEra(revision)
	return true
}

// setPod takes over what a pod now is, and says whether there may be something
// to do.
func (pl *planner) setPod(p *v1.Pod, revision int64) (act bool) {
	if pl.cluster.SetPod(p) {
		pl.newEra(revision)
		act = true
	}
	uid := p.GetMetadata().GetUid()
	if p.GetSpec().GetNodeName() != "" || !api.IsPodActive(p) || p.GetSpec().GetSchedulerName() != Name {
		delete(pl.pending, uid)
		if p.GetSpec().GetNodeName() == "" && pl.cluster.forget(uid) {
			pl.newEra(revision)
			act = true
		}
		return act
	}
	w := pl.pending[uid]
	if w == nil {
		pl.pending[uid] = &pending{pod: p, demand: demandOf(p), trigger: revision}
		return true
	}
	if version(p) > version(w.pod) {
		if len(p.GetSpec().GetTolerations()) != len(w.pod.GetSpec().GetTolerations()) {
			w.demand, w.refused = demandOf(p), 0 // they are all of its wants that can change
		}
		w.pod = p
	}
	return true
}

// removePod forgets a pod that is gone.
func (pl *planner) removePod(p *v1.Pod, revision int64) (act bool) {
	uid := p.GetMetadata().GetUid()
	delete(pl.pending, uid)
	if pl.cluster.RemovePod(uid) {
		pl.newEra(revision)
		return true
	}
	return false
}

// plan decides for the pods that wait, the oldest first; one that no node takes
// does not hold up the others. What it binds counts on its node at once. Plan
// returns when it should be asked again even if nothing happens; zero is never.
func (pl *planner) plan(now time.Time) (actions []action, again time.Time) {
	later := func(t time.Time) {
		if again.IsZero() || t.Before(again) {
			again = t
		}
	}
	for _, w := range pl.waiting() {
		if len(actions) == maxActions {
			later(now)
			return actions, again
		}
		trigger := w.trigger
		if w.refused > 0 && pl.eraFrom != 0 {
			trigger = pl.eraFrom
		}
		if w.failures > 0 && now.Before(w.notBefore) {
			later(w.notBefore)
			continue
		}
		if w.refused < pl.era {
			held := pl.cluster.forget(w.demand.uid) // since a binding whose fate is not known
			d := assign(pl.cluster, &w.demand)
			if d.Node != "" {
				pl.cluster.assume(w.demand, d.Node)
				w.busy = true
				actions = append(actions, action{w.pod, d.Node, d.Message, "", trigger})
				continue
			}
			if held { // others may have the place
				pl.newEra(pl.eraFrom)
				later(now)
			}
			w.refused, w.why, w.lack = pl.era, d.Message, d.Refusals
		}
		switch {
		case w.why == reported(w.pod):
		case now.Before(w.notBefore):
			later(w.notBefore)
		default:
			w.busy = true
			actions = append(actions, action{w.pod, "", w.why, w.lack, trigger})
		}
	}
	return actions, again
}

// waiting returns the pods that can be worked on, the oldest first.
func (pl *planner) waiting() []*pending {
	list := make([]*pending, 0, len(pl.pending))
	for _, w := range pl.pending {
		if !w.busy && w.stale != version(w.pod) {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(a, b *pending) int {
		x, y := a.pod.GetMetadata(), b.pod.GetMetadata()
		return cmp.Or(
			x.GetCreationTimestamp().AsTime().Compare(y.GetCreationTimestamp().AsTime()),
			cmp.Compare(a.trigger, b.trigger),
			cmp.Compare(x.GetUid(), y.GetUid()),
		)
	})
	return list
}

// succeeded notes that a write was made, and the pod that it answered. A bound
// pod stays busy until the mirror shows it; then it waits no longer.
func (pl *planner) succeeded(a action, written *v1.Pod, now time.Time) {
	w := pl.pending[a.pod.GetMetadata().GetUid()]
	if w == nil {
		return
	}
	w.failures = 0
	if a.node == "" {
		w.busy = false
		w.notBefore = now.Add(minPause)
		if version(written) > version(w.pod) {
			w.pod = written
		}
	}
}

// outcome is why a write was not answered as it should be.
type outcome int

const (
	// refused: the server has not made the write.
	refused outcome = iota
	// raced: the pod has changed meanwhile, and the mirror will show how.
	raced
	// unknown: the answer was lost; the write may have been made.
	unknown
	// held: the scheduler is paused. The plan stands, and counts in those for other
	// pods; soon it is made anew.
	held
)

// failed notes that a write was not answered as it should be. After a race the
// pod waits for its next version, else it pauses. Where a binding was refused,
// others may have the place; otherwise the pod may be there, and keeps it until
// the mirror shows what it is, or the pod is tried again.
func (pl *planner) failed(a action, why outcome, now time.Time) {
	uid := a.pod.GetMetadata().GetUid()
	w := pl.pending[uid]
	if a.node != "" && (why == refused || w == nil) && pl.cluster.forget(uid) {
		pl.newEra(0)
	}
	if w == nil {
		return
	}
	w.busy = false
	switch why {
	case raced:
		w.stale = version(a.pod)
		return
	case held:
		w.failures, w.notBefore = 1, now.Add(api.HeldAgain)
		return
	case refused, unknown:
	}
	w.notBefore = now.Add(min(minPause<<min(w.failures, 10), maxPause))
	w.failures++
}

// reported returns the sentence that the pod's condition already has.
func reported(p *v1.Pod) string {
	c := api.GetCondition(p.GetStatus().GetConditions(), api.PodScheduled)
	if c.GetStatus() != api.ConditionFalse || c.GetReason() != api.ReasonUnschedulable {
		return ""
	}
	return c.GetMessage()
}

func version(p *v1.Pod) int64 { return p.GetMetadata().GetResourceVersion() }
