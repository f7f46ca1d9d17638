// Package node finds out which nodes are silent, taints nodes as their conditions
// tell, evicts the pods that do not tolerate it, and ends those of nodes that do
// not exist.
//
// The one invariant: a node is called silent only when it has not said for the
// grace period, on the controller's own clock, that it lives; so neither a clock
// that is off nor a restart of the controller condemns one, nor what others say
// of it. Where these think that it is dead, the grace period is short.
//
// Pods of a silent node are said not to be ready at once. When the time that they
// tolerate is over they are evicted: asked to end, so that others take their
// place. The objects stay until the agent says that nothing runs any more, or
// until somebody deletes the node; so there are never two pods of one name.
// When most nodes are lost together, none is evicted: see [CutOff].
//
// Pods of a node that reports itself not ready are left to its agent until then,
// which knows better. (Kubernetes marks these too.)
//
// Read next: plan.go.
package node

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Names of the actors in whose name the controller writes: Kubernetes has three
// controllers for the three jobs.
const (
	Name         = "node-controller"
	NameEviction = "taint-eviction-controller"
	NameGC       = "pod-garbage-collector"
)

// leasesAgain is how long to wait before the API server is asked anew who lives.
const leasesAgain = 200 * time.Millisecond

// byNode is the index from a node's name to its pods.
const byNode = "node"

// Witness is who else may know which nodes are dead, and may be wrong.
type Witness interface {
	// Dead says whether the node is thought to be dead.
	Dead(node string) bool
	// OnChange makes f hear of each node of which that may have changed.
	OnChange(f func(node string))
}

// Options of the controller.
type Options struct {
	// Grace is how long a node may be silent. LeaseGrace is how long it may be so
	// that Witness thinks dead; without a Witness, it tells only when a node is late.
	Grace, LeaseGrace time.Duration
	Witness           Witness
	Logger            *slog.Logger
}

// Controller is the shell around the plan.
type Controller struct {
	c       *client.Client
	nodes   *informer.Informer[*v1.Node]
	pods    *informer.Informer[*v1.Pod]
	options Options
	loop    *reconcile.Loop
	says    *client.Recorder
	now     func() time.Time

	mu       sync.Mutex // protects what follows
	seen     map[string]sighting
	cutOffAt time.Time // when most nodes were last lost
}

// sighting is what was last seen of a node's heartbeat, and when it last gave a
// sign of life.
type sighting struct {
	exists bool
	beat   time.Time
	at     time.Time
	first  time.Time // when the node was first seen, or seen to be missing
}

// New returns a controller that reads from the mirrors, which run elsewhere and
// must not have begun to.
func New(c *client.Client, nodes *informer.Informer[*v1.Node], pods *informer.Informer[*v1.Pod], o Options) *Controller {
	r := &Controller{
		c: c.As(Name), nodes: nodes, pods: pods, options: o,
		says: client.NewRecorder(c.As(Name), Name, ""), now: time.Now, seen: map[string]sighting{},
	}
	r.loop = reconcile.New(Name, r.reconcile, reconcile.Options{Mirrors: []reconcile.Mirror{nodes, pods}, Logger: o.Logger})
	if o.Witness != nil {
		o.Witness.OnChange(func(node string) { r.loop.Enqueue(api.Key{Name: node}, api.TriggerClock) })
	}
	pods.AddIndex(byNode, func(p *v1.Pod) []string {
		if n := p.GetSpec().GetNodeName(); n != "" {
			return []string{n}
		}
		return nil
	})
	nodes.OnChange(func(c informer.Change[*v1.Node]) {
		name := c.New.GetMetadata().GetName()
		if c.New == nil {
			name = c.Old.GetMetadata().GetName()
		}
		r.loop.Enqueue(api.Key{Name: name}, c.Revision)
		if api.IsNodeReady(c.Old) != api.IsNodeReady(c.New) {
			r.enqueueAll(c.Revision)
		}
	})
	pods.OnChange(func(c informer.Change[*v1.Pod]) {
		name := c.New.GetSpec().GetNodeName()
		if name == "" {
			return
		}
		if n, ok := r.nodes.Get(api.Key{Name: name}); !ok || isSilent(n) || endsStays(n) {
			r.loop.Enqueue(api.Key{Name: name}, c.Revision)
		}
	})
	return r
}

// Run works until ctx ends and returns nil.
func (r *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.says.Run(ctx) })
	wg.Go(func() { r.followLeases(ctx) })
	defer wg.Wait()
	return r.loop.Run(ctx)
}

// enqueueAll looks at all nodes again: what becomes of the pods of one depends on
// how the others are.
func (r *Controller) enqueueAll(revision int64) {
	for _, n := range r.nodes.List() {
		r.loop.Enqueue(api.KeyOf(n), revision)
	}
}

// followLeases takes in which nodes say that they live, until ctx ends.
func (r *Controller) followLeases(ctx context.Context) {
	for ctx.Err() == nil {
		stream, err := r.c.Cluster().Leases(ctx, &v1.LeasesRequest{})
		for err == nil {
			var news *v1.LeasesResponse
			if news, err = stream.Recv(); err == nil {
				r.renewed(news.GetNodes())
			}
		}
		select {
		case <-time.After(leasesAgain):
		case <-ctx.Done():
		}
	}
}

// renewed takes in that nodes live. Of one that was late, the others hear.
func (r *Controller) renewed(nodes []string) {
	now, wasLate := r.now(), false
	r.mu.Lock()
	for _, name := range nodes {
		if s, ok := r.seen[name]; ok && s.exists {
			wasLate = wasLate || now.Sub(s.at) >= r.options.LeaseGrace
			s.at = now
			r.seen[name] = s
		}
	}
	r.mu.Unlock()
	if wasLate {
		r.enqueueAll(api.TriggerClock)
	}
}

// late says whether a node that was seen is late to say that it lives.
func (r *Controller) late(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.seen[name]
	return ok && r.now().Sub(s.at) >= r.options.LeaseGrace
}

func (r *Controller) reconcile(ctx context.Context, key api.Key) (reconcile.Result, error) {
	n, _ := r.nodes.Get(key)
	pods := r.pods.ByIndex(byNode, key.Name)
	now := r.now()
	cutOff, wait := r.cutOff(now)
	seen := r.look(key.Name, n, len(pods), now)
	o := r.options
	plan := MakePlan(State{
		Node: n, Pods: pods, Since: seen.at, First: seen.first, Now: now, CutOff: cutOff,
		Grace: o.Grace, LeaseGrace: o.LeaseGrace, Dead: o.Witness != nil && o.Witness.Dead(key.Name),
	})
	if len(plan.Orphans) > 0 {
		return reconcile.Result{}, r.endOrphans(ctx, key.Name, plan.Orphans)
	}
	switch {
	case plan.Status != nil:
		written, err := r.callSilent(ctx, n, plan.Status, now.Sub(seen.at))
		if err != nil {
			return reconcile.Result{}, err
		}
		ctx = client.WithTrigger(ctx, written) // what follows is because of that
	case n != nil && !api.IsNodeReady(n):
		// It is how the node is that counts, not which pod or time made one look.
		ctx = client.WithTrigger(ctx, n.GetMetadata().GetResourceVersion())
	}
	if plan.Spec != nil {
		written, err := r.taint(ctx, n, plan.Spec)
		if err != nil {
			return reconcile.Result{}, err
		}
		ctx = client.WithTrigger(ctx, written)
	}
	if cutOff && (plan.Status != nil || plan.Spec != nil) && !api.IsNodeReady(n) {
		r.says.Event(ctx, n, api.EventWarning, "EvictionStopped",
			"Most nodes are not ready, so it may be the control plane that is cut off: pods of lost nodes are not evicted")
	}
	for _, e := range plan.Evict {
		if err := r.evict(ctx, key.Name, e); err != nil {
			return reconcile.Result{}, err
		}
	}
	ctx = client.WithCause(ctx, "NodeNotReady", "is not ready any more: the agent of node %s is silent", key.Name)
	for _, p := range plan.Unready {
		if _, err := client.For[*v1.Pod](r.c).UpdateStatus(ctx, p); err != nil && !errors.Is(err, api.ErrNotFound) {
			return reconcile.Result{}, err
		}
		r.says.Event(ctx, p, api.EventWarning, "NodeNotReady", "Node is not ready")
	}
	if cutOff && (plan.After == 0 || wait < plan.After) && !api.IsNodeReady(n) {
		plan.After = wait
	}
	return reconcile.Result{After: plan.After}, nil
}

// cutOff says whether most nodes are lost, or were within the grace period: they
// do not come back all at once, and who is late then is no more dead than before.
// If so, it says for how long that holds.
func (r *Controller) cutOff(now time.Time) (bool, time.Duration) {
	cutOff := CutOff(r.nodes.List(), r.late)
	r.mu.Lock()
	defer r.mu.Unlock()
	if cutOff {
		r.cutOffAt = now
	}
	wait := r.cutOffAt.Add(r.options.Grace).Sub(now)
	return !r.cutOffAt.IsZero() && wait > 0, wait
}

// look notes the node's heartbeat and returns since when it has been as it is.
func (r *Controller) look(name string, n *v1.Node, pods int, now time.Time) sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n == nil && pods == 0 {
		delete(r.seen, name)
		return sighting{at: now, first: now}
	}
	beat := api.GetCondition(n.GetStatus().GetConditions(), api.NodeReady).GetLastHeartbeatTime().AsTime()
	s, ok := r.seen[name]
	if !ok || s.exists != (n != nil) {
		s.first = now
	}
	if !ok || s.exists != (n != nil) || !s.beat.Equal(beat) {
		s = sighting{exists: n != nil, beat: beat, at: now, first: s.first}
		r.seen[name] = s
	}
	return s
}

// evict asks a pod to end whose time on the node is over.
func (r *Controller) evict(ctx context.Context, node string, e Eviction) error {
	m := e.Pod.GetMetadata()
	ctx = client.WithCause(ctx, "DeletionByTaintManager", "node %s has the taint %s, which the pod does not tolerate, or no longer", node, api.FormatTaint(e.Taint))
	resource := client.For[*v1.Pod](r.c.As(NameEviction))
	_, err := resource.UpdateStatus(ctx, disrupted(e.Pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", r.now()))
	if err == nil {
		_, err = resource.Delete(ctx, m.GetNamespace(), m.GetName(), client.DeleteOptions{UID: m.GetUid()})
	}
	if err == nil {
		r.says.Event(ctx, e.Pod, api.EventNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", m.GetNamespace(), m.GetName())
	}
	return api.IgnoreNotFound(err)
}

// taint writes the taints that follow from the node's conditions, and returns
// the revision.
func (r *Controller) taint(ctx context.Context, n *v1.Node, spec *v1.NodeSpec) (int64, error) {
	names := make([]string, len(spec.GetTaints()))
	for i, t := range spec.GetTaints() {
		names[i] = api.FormatTaint(t)
	}
	ctx = client.WithCause(ctx, "TaintsChanged", "has by its conditions the taints %s now", cmp.Or(strings.Join(names, " "), "<none>"))
	n = api.Clone(n)
	n.Spec = spec
	n, err := client.For[*v1.Node](r.c).Update(ctx, n)
	return n.GetMetadata().GetResourceVersion(), err
}

// endsStays says whether the node has a taint that ends the stay of pods.
func endsStays(n *v1.Node) bool {
	return slices.ContainsFunc(n.GetSpec().GetTaints(), func(t *v1.Taint) bool { return t.GetEffect() == api.EffectNoExecute })
}

// callSilent writes that nothing is known of a node.
func (r *Controller) callSilent(ctx context.Context, n *v1.Node, status *v1.NodeStatus, silent time.Duration) (int64, error) {
	said := "no sign of life for %v"
	if silent < r.options.Grace {
		said += ", and the other members cannot reach the node either"
	}
	ctx = client.WithCause(ctx, "NodeStatusUnknown", said, silent.Round(100*time.Millisecond))
	n = api.Clone(n)
	n.Status = status
	n, err := client.For[*v1.Node](r.c).UpdateStatus(ctx, n)
	if err != nil {
		return 0, err
	}
	name := n.GetMetadata().GetName()
	r.says.Event(ctx, n, api.EventNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", name)
	return n.GetMetadata().GetResourceVersion(), nil
}

// endOrphans ends the pods of a node that does not exist, once the server has
// said that it does not. Nobody is there to stop them gracefully.
func (r *Controller) endOrphans(ctx context.Context, node string, pods []*v1.Pod) error {
	_, err := client.For[*v1.Node](r.c).Get(ctx, "", node)
	if !errors.Is(err, api.ErrNotFound) {
		return err
	}
	ctx = client.WithCause(ctx, "DeletionByPodGC", "node %s does not exist", node)
	resource := client.For[*v1.Pod](r.c.As(NameGC))
	for _, p := range pods {
		m := p.GetMetadata()
		if !api.IsPodTerminal(p) {
			if _, err := resource.UpdateStatus(ctx, failed(p, r.now())); errors.Is(err, api.ErrNotFound) {
				continue
			} else if err != nil {
				return err
			}
		}
		_, err := resource.Delete(ctx, m.GetNamespace(), m.GetName(), client.DeleteOptions{GracePeriodSeconds: proto.Int64(0), UID: m.GetUid()})
		if err != nil && !errors.Is(err, api.ErrNotFound) {
			return err
		}
	}
	return nil
}
