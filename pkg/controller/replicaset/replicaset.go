// Package replicaset keeps the number of pods of each ReplicaSet.
//
// The one invariant: it creates and deletes only what the plan says is missing
// or too many among the pods that its mirror shows, and it looks again only when
// the mirror shows what it did; so it never makes a pod twice.
//
// Read next: plan.go (what is to be done), rank.go (which pod goes first), then
// pkg/controller/deployment, whose hand this one is.
package replicaset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller/claim"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Name is the actor of all that the controller writes, and the source of its
// events.
const Name = "replicaset-controller"

// Controller is the shell around the plan.
type Controller struct {
	c    *client.Client
	sets *informer.Informer[*v1.ReplicaSet]
	pods *informer.Informer[*v1.Pod]
	loop *reconcile.Loop
	says *client.Recorder
	now  func() time.Time
}

// New returns a controller that reads from the mirrors, which run elsewhere and
// must not have begun to.
func New(c *client.Client, sets *informer.Informer[*v1.ReplicaSet], pods *informer.Informer[*v1.Pod], log *slog.Logger) *Controller {
	c = c.As(Name)
	r := &Controller{c: c, sets: sets, pods: pods, says: client.NewRecorder(c, Name, ""), now: time.Now}
	r.loop = reconcile.New(Name, r.reconcile, reconcile.Options{Mirrors: []reconcile.Mirror{sets, pods}, Recorder: r.says, Logger: log})
	claim.AddIndex(sets)
	claim.AddIndex(pods)
	claim.Wake(r.loop, sets, pods, func(s *v1.ReplicaSet) *v1.LabelSelector { return s.GetSpec().GetSelector() })
	return r
}

// Run works until ctx ends and returns nil.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, key api.Key) (reconcile.Result, error) {
	set, ok := r.sets.Get(key)
	if !ok {
		return reconcile.Result{}, nil
	}
	pods, err := r.claim(ctx, set)
	if err != nil {
		return reconcile.Result{}, err
	}
	plan := MakePlan(State{Set: set, Pods: pods, Siblings: r.siblings(set), Now: r.now()})
	failure := r.carryOut(ctx, set, plan)
	if api.IsTerminating(failure) {
		failure = nil // the namespace is going, and the set with it
	}
	if err := r.writeStatus(ctx, set, plan, failure); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{After: plan.After}, failure
}

// claim adopts and releases, and returns the pods that are the set's.
func (r *Controller) claim(ctx context.Context, set *v1.ReplicaSet) ([]*v1.Pod, error) {
	selector, err := api.SelectorOf(set.GetSpec().GetSelector())
	if err != nil {
		return nil, err
	}
	var candidates []*v1.Pod
	for _, p := range claim.Candidates(r.pods, set) {
		if api.IsPodActive(p) {
			candidates = append(candidates, p)
		}
	}
	return claim.Carry(ctx, r.c, set, claim.Decide(set, selector, candidates))
}

// siblings are the pods of all sets that have the set's controller; of the set
// alone where it has none.
func (r *Controller) siblings(set *v1.ReplicaSet) []*v1.Pod {
	ref := api.ControllerOf(set)
	if ref == nil {
		return claim.Of(r.pods, set.GetMetadata().GetUid())
	}
	var all []*v1.Pod
	for _, s := range claim.Of(r.sets, ref.GetUid()) {
		all = append(all, claim.Of(r.pods, s.GetMetadata().GetUid())...)
	}
	return all
}

// carryOut creates or deletes.
func (r *Controller) carryOut(ctx context.Context, set *v1.ReplicaSet, plan Plan) error {
	if plan.Create > 0 {
		ctx = client.WithCause(ctx, "SuccessfulCreate", "ReplicaSet %s %s", set.GetMetadata().GetName(), plan.Why)
		return slowStart(plan.Create, func() error { return r.create(ctx, set) })
	}
	if len(plan.Delete) == 0 {
		return nil
	}
	ctx = client.WithCause(ctx, "SuccessfulDelete", "ReplicaSet %s %s", set.GetMetadata().GetName(), plan.Why)
	return concurrently(len(plan.Delete), func(i int) error { return r.delete(ctx, set, plan.Delete[i]) })
}

func (r *Controller) create(ctx context.Context, set *v1.ReplicaSet) error {
	p, err := client.For[*v1.Pod](r.c).Create(ctx, newPod(set))
	if err != nil {
		if ctx.Err() == nil && !api.IsTerminating(err) && !errors.Is(err, api.ErrHeld) {
			r.says.Event(ctx, set, api.EventWarning, "FailedCreate", "Error creating: %v", err)
		}
		return fmt.Errorf("create a pod of %s: %w", set.GetMetadata().GetName(), err)
	}
	r.says.Event(ctx, set, api.EventNormal, "SuccessfulCreate", "Created pod: %s", p.GetMetadata().GetName())
	return nil
}

func (r *Controller) delete(ctx context.Context, set *v1.ReplicaSet, p *v1.Pod) error {
	m := p.GetMetadata()
	_, err := client.For[*v1.Pod](r.c).Delete(ctx, m.GetNamespace(), m.GetName(), client.DeleteOptions{UID: m.GetUid()})
	switch {
	case errors.Is(err, api.ErrNotFound):
		return nil
	case err != nil:
		if ctx.Err() == nil && !errors.Is(err, api.ErrHeld) {
			r.says.Event(ctx, set, api.EventWarning, "FailedDelete", "Error deleting: %v", err)
		}
		return fmt.Errorf("delete pod %s: %w", m.GetName(), err)
	}
	r.says.Event(ctx, set, api.EventNormal, "SuccessfulDelete", "Deleted pod: %s", m.GetName())
	return nil
}

// writeStatus writes the status where it differs, with the condition
// ReplicaFailure where the plan could not be carried out.
func (r *Controller) writeStatus(ctx context.Context, set *v1.ReplicaSet, plan Plan, failure error) error {
	status := plan.Status
	now := r.now()
	switch {
	case ctx.Err() != nil || errors.Is(failure, api.ErrUnavailable) || errors.Is(failure, api.ErrHeld):
		return nil // nobody there to write to, or who would let us
	case failure != nil && !errors.Is(failure, api.ErrConflict):
		reason := "FailedCreate"
		if len(plan.Delete) > 0 {
			reason = "FailedDelete"
		}
		if api.GetCondition(status.Conditions, api.ReplicaSetReplicaFailure) == nil {
			api.SetCondition(&status.Conditions, &v1.Condition{
				Type: api.ReplicaSetReplicaFailure, Status: api.ConditionTrue, Reason: reason, Message: failure.Error(),
			}, now)
		}
	case failure == nil:
		api.RemoveCondition(&status.Conditions, api.ReplicaSetReplicaFailure)
	}
	if proto.Equal(status, set.GetStatus()) {
		return nil
	}
	old := set.GetStatus()
	ctx = client.WithCause(ctx, "ReplicasCounted", "%d replicas (had %d), %d ready (had %d), %d available (had %d)",
		status.GetReplicas(), old.GetReplicas(), status.GetReadyReplicas(), old.GetReadyReplicas(), status.GetAvailableReplicas(), old.GetAvailableReplicas())
	set = api.Clone(set)
	set.Status = status
	_, err := client.For[*v1.ReplicaSet](r.c).UpdateStatus(ctx, set)
	return api.IgnoreNotFound(err)
}

// slowStart calls f n times, in batches of 1, 2, 4, …, each at once, and stops
// after a batch with an error: what fails for one pod (a quota, an invalid
// template) fails for all, and is then not asked 500 times. That one is held says
// nothing of the others.
func slowStart(n int, f func() error) (held error) {
	for batch := 1; n > 0; batch *= 2 {
		batch = min(batch, n)
		switch err := concurrently(batch, func(int) error { return f() }); {
		case errors.Is(err, api.ErrHeld):
			held = err
		case err != nil:
			return err
		}
		n -= batch
	}
	return held
}

// concurrently calls f(0) to f(n-1) at once and returns one of their errors.
func concurrently(n int, f func(int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
