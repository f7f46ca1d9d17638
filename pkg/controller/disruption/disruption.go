// Package disruption keeps the status of PodDisruptionBudgets: how many of their
// pods may be evicted now.
//
// The one invariant: a budget never allows more than what is well beyond what must
// be; where that cannot be computed, it allows nothing. Only the API server, which
// spends the allowance, and this controller write the status, each on the version
// that it has read.
//
// Read next: plan.go, then evict.go of package apiserver.
package disruption

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Name is the actor in whose name the controller writes.
const Name = "disruption-controller"

// byNamespace is the index from a namespace to its pods and budgets.
const byNamespace = "namespace"

// Controller is the shell around the plan.
type Controller struct {
	c           *client.Client
	budgets     *informer.Informer[*v1.PodDisruptionBudget]
	pods        *informer.Informer[*v1.Pod]
	deployments *informer.Informer[*v1.Deployment]
	sets        *informer.Informer[*v1.ReplicaSet]
	loop        *reconcile.Loop
	says        *client.Recorder
}

// New returns a controller that reads from the mirrors, which run elsewhere and
// must not have begun to.
func New(c *client.Client, budgets *informer.Informer[*v1.PodDisruptionBudget], pods *informer.Informer[*v1.Pod],
	deployments *informer.Informer[*v1.Deployment], sets *informer.Informer[*v1.ReplicaSet], log *slog.Logger,
) *Controller {
	r := &Controller{c: c.As(Name), budgets: budgets, pods: pods, deployments: deployments, sets: sets, says: client.NewRecorder(c.As(Name), Name, "")}
	r.loop = reconcile.New(Name, r.reconcile, reconcile.Options{Mirrors: []reconcile.Mirror{budgets, pods, deployments, sets}, Recorder: r.says, Logger: log})
	budgets.AddIndex(byNamespace, func(b *v1.PodDisruptionBudget) []string { return []string{b.GetMetadata().GetNamespace()} })
	pods.AddIndex(byNamespace, func(p *v1.Pod) []string { return []string{p.GetMetadata().GetNamespace()} })
	budgets.OnChange(func(c informer.Change[*v1.PodDisruptionBudget]) {
		if c.New != nil {
			r.loop.Enqueue(api.KeyOf(c.New), c.Revision)
		}
	})
	pods.OnChange(func(c informer.Change[*v1.Pod]) {
		r.enqueue(c.Revision, func(s api.Selector) bool {
			return c.Old != nil && s.Matches(c.Old.GetMetadata().GetLabels()) || c.New != nil && s.Matches(c.New.GetMetadata().GetLabels())
		}, c.Old.GetMetadata().GetNamespace(), c.New.GetMetadata().GetNamespace())
	})
	all := func(api.Selector) bool { return true }
	deployments.OnChange(func(c informer.Change[*v1.Deployment]) {
		if c.Old.GetSpec().GetReplicas() != c.New.GetSpec().GetReplicas() {
			r.enqueue(c.Revision, all, c.Old.GetMetadata().GetNamespace(), c.New.GetMetadata().GetNamespace())
		}
	})
	sets.OnChange(func(c informer.Change[*v1.ReplicaSet]) {
		if c.Old.GetSpec().GetReplicas() != c.New.GetSpec().GetReplicas() {
			r.enqueue(c.Revision, all, c.Old.GetMetadata().GetNamespace(), c.New.GetMetadata().GetNamespace())
		}
	})
	return r
}

// enqueue asks for the budgets whose selectors concern a change in a namespace: that
// of the object before, or where it is new, after.
func (r *Controller) enqueue(revision int64, concerned func(api.Selector) bool, before, after string) {
	after = cmp.Or(after, before)
	for _, b := range r.budgets.ByIndex(byNamespace, after) {
		if s, err := api.SelectorOf(b.GetSpec().GetSelector()); err == nil && concerned(s) {
			r.loop.Enqueue(api.KeyOf(b), revision)
		}
	}
}

// Run works until ctx ends and returns nil.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *Controller) reconcile(ctx context.Context, key api.Key) (reconcile.Result, error) {
	b, ok := r.budgets.Get(key)
	if !ok {
		return reconcile.Result{}, nil
	}
	selector, err := api.SelectorOf(b.GetSpec().GetSelector())
	if err != nil {
		return reconcile.Result{}, err
	}
	s := State{Budget: b, Scales: map[string]Scale{}, Now: time.Now()}
	for _, p := range r.pods.ByIndex(byNamespace, key.Namespace) {
		if !selector.Matches(p.GetMetadata().GetLabels()) {
			continue
		}
		s.Pods = append(s.Pods, p)
		if owner := api.ControllerOf(p); owner != nil {
			if scale, ok := r.scale(key.Namespace, owner); ok {
				s.Scales[owner.GetUid()] = scale
			}
		}
	}
	plan := MakePlan(s)
	if plan.Problem != nil {
		r.says.Event(ctx, b, api.EventWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", plan.Problem)
	}
	if status := plan.Status; status != nil {
		ctx = client.WithCause(ctx, "BudgetCounted", "%d of %d pods are healthy, %d must be", status.GetCurrentHealthy(), status.GetExpectedPods(), status.GetDesiredHealthy())
		b = api.Clone(b)
		b.Status = status
		if _, err := client.For[*v1.PodDisruptionBudget](r.c).UpdateStatus(ctx, b); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{After: plan.After}, nil
}

// scale is what the controller of a pod asks for, or that controller's own.
func (r *Controller) scale(namespace string, owner *v1.OwnerReference) (Scale, bool) {
	set, ok := r.sets.Get(api.Key{Namespace: namespace, Name: owner.GetName()})
	if owner.GetKind() != "ReplicaSet" || !ok || set.GetMetadata().GetUid() != owner.GetUid() {
		return Scale{}, false
	}
	if above := api.ControllerOf(set); above.GetKind() == "Deployment" {
		d, ok := r.deployments.Get(api.Key{Namespace: namespace, Name: above.GetName()})
		return Scale{above.GetUid(), d.GetSpec().GetReplicas()}, ok && d.GetMetadata().GetUid() == above.GetUid()
	}
	return Scale{owner.GetUid(), set.GetSpec().GetReplicas()}, true
}
