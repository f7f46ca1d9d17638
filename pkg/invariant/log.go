package invariant

import (
	"fmt"
	"iter"
	"maps"

	"orch/pkg/api"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// Checker reads a log in its order. It remembers the newest entry of each object
// that a rule concerns, so that it costs the same however long the log is.
//
// Concurrency: for one goroutine.
type Checker struct {
	pods     map[why.Key]*v1.LogEntry
	nodes    map[string]*v1.Node
	budgets  map[why.Key]*v1.PodDisruptionBudget
	used     map[string]api.Resources // by node
	over     map[string]bool          // nodes that are over their allocatable
	sets     map[string]string        // from the uid of a ReplicaSet to that of its Deployment
	promises map[string]*promise      // by the uid of a Deployment or a budget
	faults   map[why.Key]*v1.LogEntry // injections
	all      []*Violation
	entries  int
}

// promise is how a Deployment or a PodDisruptionBudget stands.
type promise struct {
	Rule
	key   why.Key
	least int32 // ready pods that are promised; 0: none
	ready int32
	// kept says that the promise was kept once: before, nothing can be lost.
	kept   bool
	broken *Violation
	fewest int32 // ready pods since it was broken
}

// New returns a checker that knows nothing yet.
func New() *Checker {
	return &Checker{
		pods: map[why.Key]*v1.LogEntry{}, nodes: map[string]*v1.Node{}, budgets: map[why.Key]*v1.PodDisruptionBudget{},
		used: map[string]api.Resources{}, over: map[string]bool{}, sets: map[string]string{}, promises: map[string]*promise{}, faults: map[why.Key]*v1.LogEntry{},
	}
}

// Kinds are those of which a checker must have seen everything.
var Kinds = []string{"Node", "PodDisruptionBudget", "Deployment", "ReplicaSet", "Pod"}

// Seed shows an object as it was before the first entry. Kinds go in the order of
// [Kinds]. Nothing is found in it.
func (c *Checker) Seed(o api.Object) {
	m := o.GetMetadata()
	found := len(c.all)
	c.Check(&v1.LogEntry{Revision: m.GetResourceVersion(), Kind: api.KindOf(o).Name, Namespace: m.GetNamespace(), Name: m.GetName(), Object: api.Wrap(o)})
	c.all, c.entries = c.all[:found], 0
	for _, p := range c.promises {
		p.broken = nil
	}
}

// All are the violations so far, in the order of their revisions.
func (c *Checker) All() []*Violation { return c.all }

// Check takes the next entry, and returns what it breaks.
func (c *Checker) Check(e *v1.LogEntry) []*Violation {
	c.entries++
	found := len(c.all)
	key := why.KeyOf(e)
	switch o := api.Unwrap(e.GetObject()).(type) {
	case *v1.Node:
		delete(c.nodes, key.Name)
		if !e.GetDeleted() {
			c.nodes[key.Name] = o
			c.fits(e, nil, key.Name)
		}
	case *v1.PodDisruptionBudget:
		delete(c.budgets, key)
		if !e.GetDeleted() {
			c.budgets[key] = o
		}
		c.budget(e, key, o)
	case *v1.ReplicaSet:
		delete(c.sets, o.GetMetadata().GetUid())
		if owner := api.ControllerOf(o); owner.GetKind() == "Deployment" && !e.GetDeleted() {
			c.sets[o.GetMetadata().GetUid()] = owner.GetUid()
		}
	case *v1.Deployment:
		c.deployment(e, key, o)
	case *v1.Pod:
		c.pod(e, key, o)
	case *v1.ChaosInjection:
		c.faults[key] = e
	}
	return c.all[found:]
}

// Faults are the newest entries of the injections that it was shown: what
// [why.Log.Meanwhile] wants.
func (c *Checker) Faults() iter.Seq[*v1.LogEntry] { return maps.Values(c.faults) }

func (c *Checker) add(v *Violation) { c.all = append(c.all, v) }

func (c *Checker) pod(e *v1.LogEntry, key why.Key, p *v1.Pod) {
	before := c.pods[key]
	was := podOf(before)
	c.account(was, -1)
	if e.GetDeleted() {
		delete(c.pods, key)
	} else {
		c.pods[key] = e
		c.account(p, 1)
		if rule, broken := changed(was, p); broken != "" {
			c.add(violation(rule, e, before, key, "%s", broken))
		}
		if broken := pretends(p); broken != "" {
			c.add(violation(ReallyUp, e, before, key, "%s", broken))
		}
		if node := p.GetSpec().GetNodeName(); node != "" && was.GetSpec().GetNodeName() != node {
			c.fits(e, before, node)
		}
		c.evicted(e, before, key)
	}
	if node := was.GetSpec().GetNodeName(); c.over[node] {
		c.over[node] = c.exceeds(node)
	}
	for _, x := range []*v1.Pod{was, p} { // of a new owner, where a pod was adopted
		if owner := c.promises[c.sets[api.ControllerOf(x).GetUid()]]; x != nil && owner != nil {
			c.keep(owner, e, before)
		}
	}
}

// account adds what a pod requests to its node, and itself to what its Deployment
// has, or takes both away.
func (c *Checker) account(p *v1.Pod, sign int32) {
	if p == nil {
		return
	}
	if node := p.GetSpec().GetNodeName(); node != "" && !api.IsPodTerminal(p) {
		r, n := api.PodRequests(p.GetSpec()), int64(sign)
		c.used[node] = c.used[node].Add(api.Resources{MilliCPU: n * r.MilliCPU, Memory: n * r.Memory, EphemeralStorage: n * r.EphemeralStorage, Pods: n})
	}
	if d := c.promises[c.sets[api.ControllerOf(p).GetUid()]]; d != nil && well(p) {
		d.ready += sign
	}
}

// well says that a pod counts for its Deployment. That it must have been ready for
// minReadySeconds is left out: it delays the next step, and takes nothing away.
func well(p *v1.Pod) bool { return api.IsPodReady(p) && api.IsPodActive(p) }

// changed is what one life of a pod must never do.
func changed(old, p *v1.Pod) (Rule, string) {
	if old == nil {
		return Rule{}, ""
	}
	was, is := old.GetSpec().GetNodeName(), p.GetSpec().GetNodeName()
	switch {
	case old.GetMetadata().GetUid() != p.GetMetadata().GetUid():
		return OneName, "was replaced by another pod without having been deleted"
	case was != "" && was != is:
		return OneNode, fmt.Sprintf("has moved from %s to %q", was, is)
	case old.GetMetadata().GetDeletionTimestamp() != nil && p.GetMetadata().GetDeletionTimestamp() == nil:
		return OneLife, "was to end, and is no longer"
	case api.IsPodTerminal(old) && p.GetStatus().GetPhase() != old.GetStatus().GetPhase():
		return OneLife, fmt.Sprintf("had ended as %s and is %s again", old.GetStatus().GetPhase(), p.GetStatus().GetPhase())
	}
	restarts := map[string]int32{}
	for _, s := range old.GetStatus().GetContainerStatuses() {
		restarts[s.GetName()] = s.GetRestartCount()
	}
	for _, s := range p.GetStatus().GetContainerStatuses() {
		if s.GetRestartCount() < restarts[s.GetName()] {
			return OneLife, fmt.Sprintf("container %s had %d restarts and has %d", s.GetName(), restarts[s.GetName()], s.GetRestartCount())
		}
	}
	return Rule{}, ""
}

// pretends says in what a pod that calls itself ready is not.
func pretends(p *v1.Pod) string {
	if !api.IsPodReady(p) {
		return ""
	}
	for _, s := range p.GetStatus().GetContainerStatuses() {
		switch {
		case s.GetState().GetRunning() == nil:
			return fmt.Sprintf("is ready, and its container %s does not run", s.GetName())
		case !s.GetReady():
			return fmt.Sprintf("is ready, and its container %s is not", s.GetName())
		}
	}
	return ""
}

// fits checks a node when a pod comes to it, and when it offers less.
func (c *Checker) fits(e, before *v1.LogEntry, node string) {
	key := why.Key{Kind: "Node", Name: node}
	n := c.nodes[node]
	if n == nil {
		c.add(violation(Fits, e, before, key, "is no node, and a pod was bound to it"))
		return
	}
	over := c.exceeds(node)
	if over && !c.over[node] {
		c.add(violation(Fits, e, before, key, "offers %s, and its pods request %s", amount(api.ResourcesOf(n.GetStatus().GetAllocatable())), amount(c.used[node])))
	}
	c.over[node] = over
}

// exceeds says that the pods of a node request more than it offers.
func (c *Checker) exceeds(node string) bool {
	used, offered := c.used[node], api.ResourcesOf(c.nodes[node].GetStatus().GetAllocatable())
	return used.MilliCPU > offered.MilliCPU || used.Memory > offered.Memory || used.Pods > offered.Pods
}

func amount(r api.Resources) string {
	return fmt.Sprintf("%dm cpu, %d bytes of memory and room for %d pods", r.MilliCPU, r.Memory, r.Pods)
}

func (c *Checker) deployment(e *v1.LogEntry, key why.Key, d *v1.Deployment) {
	uid := d.GetMetadata().GetUid()
	p := c.promises[uid]
	if p == nil {
		p = &promise{Rule: Available, key: key}
		c.promises[uid] = p
		for _, x := range c.pods { // those that were there first, after a compaction
			if pod := podOf(x); c.sets[api.ControllerOf(pod).GetUid()] == uid && well(pod) {
				p.ready++
			}
		}
	}
	_, unavailable := api.RolloutAllowance(d)
	least := d.GetSpec().GetReplicas() - unavailable
	if e.GetDeleted() || d.GetMetadata().GetDeletionTimestamp() != nil || d.GetSpec().GetStrategy().GetType() == api.StrategyRecreate {
		least = 0 // which promises nothing
	}
	c.want(p, least, e)
}

// budget believes what a budget's status says: how many must be healthy follows from
// what owns them.
func (c *Checker) budget(e *v1.LogEntry, key why.Key, o *v1.PodDisruptionBudget) {
	uid, least := o.GetMetadata().GetUid(), o.GetStatus().GetDesiredHealthy()
	if c.promises[uid] == nil {
		c.promises[uid] = &promise{Rule: Healthy, key: key}
	}
	c.promises[uid].ready = o.GetStatus().GetCurrentHealthy()
	if e.GetDeleted() {
		least = 0
	}
	c.want(c.promises[uid], least, e)
}

// want changes what is promised.
func (c *Checker) want(p *promise, least int32, e *v1.LogEntry) {
	if least > p.least && p.broken == nil {
		p.kept = false // more is wanted than there ever was
	}
	p.least = least
	c.keep(p, e, nil)
	if e.GetDeleted() {
		delete(c.promises, api.Unwrap(e.GetObject()).GetMetadata().GetUid())
	}
}

// keep looks whether a promise is kept.
func (c *Checker) keep(p *promise, e, before *v1.LogEntry) {
	switch {
	case p.ready >= p.least && p.broken != nil:
		p.broken.Until, p.broken.Ended = e.GetRevision(), e.GetTime().AsTime()
		p.broken = nil
	case p.ready >= p.least:
		p.kept = true
	case p.kept && p.broken == nil:
		p.broken, p.fewest = violation(p.Rule, e, before, p.key, "has %s, %d promised", api.Count(int(p.ready), "ready pod"), p.least), p.ready
		c.add(p.broken)
	case p.broken != nil && p.ready < p.fewest:
		p.fewest, p.broken.Broken = p.ready, fmt.Sprintf("has %s at the fewest, %d promised", api.Count(int(p.ready), "ready pod"), p.least)
	}
}

// evicted checks the write that begins an eviction: those pods that stay must be
// as many as the pod's budget needs.
func (c *Checker) evicted(e, before *v1.LogEntry, key why.Key) {
	p := podOf(e)
	if !leaving(p) || before == nil || leaving(podOf(before)) || !api.IsPodReady(p) {
		return
	}
	for at, b := range c.budgets {
		selector, err := api.SelectorOf(b.GetSpec().GetSelector())
		if at.Namespace != key.Namespace || err != nil || !selector.Matches(p.GetMetadata().GetLabels()) {
			continue
		}
		var left int32
		for where, other := range c.pods {
			if x := podOf(other); where.Namespace == key.Namespace && well(x) && !leaving(x) && selector.Matches(x.GetMetadata().GetLabels()) {
				left++
			}
		}
		if need := b.GetStatus().GetDesiredHealthy(); left < need {
			c.add(violation(BudgetKept, e, before, at, "needs %d healthy pods, and an eviction left %d", need, left))
		}
	}
}

// leaving says that somebody evicts the pod.
func leaving(p *v1.Pod) bool {
	d := api.GetCondition(p.GetStatus().GetConditions(), api.DisruptionTarget)
	return d.GetStatus() == api.ConditionTrue && d.GetReason() == "EvictionByEvictionAPI"
}
