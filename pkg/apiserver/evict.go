package apiserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// maxDisrupted is how many evictions of one budget may wait for its controller
// to see them: Kubernetes' MaxDisruptedPodSize.
const maxDisrupted = 2000

// evict deletes a pod unless its PodDisruptionBudget forbids it. What the budget
// allows is written down in it before the pod goes, so that two evictions at a
// moment never spend the same allowance, nor one that crashes half-way.
func (s *Server) evict(ctx context.Context, k *api.Kind, key api.Key, r *v1.DeleteRequest) (store.Entry, error) {
	if k.Name != "Pod" {
		return store.Entry{}, api.Errorf(api.ErrBadRequest, "%s cannot be evicted, only pods can", k.Resource())
	}
	for {
		old, err := s.meantBy(ctx, k, key, r.GetUid(), r.GetResourceVersion())
		if err != nil {
			return store.Entry{}, err
		}
		pod := old.object.(*v1.Pod)
		paid, err := s.pay(ctx, pod, r)
		if err != nil {
			return store.Entry{}, err
		}
		// What was not paid for must not have become well meanwhile.
		version := old.Revision
		if paid {
			version = 0
		}
		e, err := s.removeEvicted(ctx, k, pod, version, r)
		if paid || r.GetResourceVersion() != 0 || !errors.Is(err, api.ErrConflict) {
			return e, err
		}
	}
}

// pay spends one disruption of the pod's budget. It is false where the pod is none
// of a budget, or costs it nothing.
func (s *Server) pay(ctx context.Context, pod *v1.Pod, r *v1.DeleteRequest) (bool, error) {
	if pod.GetStatus().GetPhase() != api.PodRunning || pod.GetMetadata().GetDeletionTimestamp() != nil {
		return false, nil // it serves nobody
	}
	for {
		budget, err := s.budgetOf(ctx, pod)
		if budget == nil || err != nil {
			return false, err
		}
		status := budget.GetStatus()
		if !api.IsPodReady(pod) {
			well := status.GetDesiredHealthy() > 0 && status.GetCurrentHealthy() >= status.GetDesiredHealthy()
			if well || budget.GetSpec().GetUnhealthyPodEvictionPolicy() == api.AlwaysAllow {
				return false, nil
			}
		}
		if err := allowed(budget); err != nil || r.GetDryRun() {
			return false, err
		}
		name := pod.GetMetadata().GetName()
		spend := func(_, old api.Object, now time.Time) (api.Object, error) {
			b := api.Clone(old.(*v1.PodDisruptionBudget))
			b.Status.DisruptionsAllowed--
			api.SetDisruptionAllowed(b.Status, "", now)
			api.Put(&b.Status.DisruptedPods, name, timestamppb.New(now))
			return b, nil
		}
		_, err = s.update(ctx, budget, spend, causeOf(ctx, r.GetCause(), "Evict"), false)
		if !errors.Is(err, api.ErrConflict) {
			return err == nil, err
		}
	}
}

// allowed says why a budget allows no eviction, in Kubernetes' words.
func allowed(b *v1.PodDisruptionBudget) error {
	name, status := b.GetMetadata().GetName(), b.GetStatus()
	why := fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", name, status.GetDesiredHealthy(), status.GetCurrentHealthy())
	switch {
	case len(status.GetDisruptedPods()) > maxDisrupted:
		return api.Forbidden(api.KindOf(b), name, "DisruptedPods map too big - too many evictions not confirmed by PDB controller")
	case status.GetObservedGeneration() < b.GetMetadata().GetGeneration():
		why = fmt.Sprintf("The disruption budget %s is still being processed by the server.", name)
	case status.GetDisruptionsAllowed() > 0:
		return nil
	}
	return &api.StatusError{
		Reason: api.ErrTooManyRequests, Message: "Cannot evict pod as it would violate the pod's disruption budget.",
		Causes: []*v1.FieldError{{Reason: "DisruptionBudget", Message: why}},
	}
}

// budgetOf finds the budget that selects the pod, with the resource version at
// which it was read; nil where there is none.
func (s *Server) budgetOf(ctx context.Context, pod *v1.Pod) (*v1.PodDisruptionBudget, error) {
	f, err := newFilter("PodDisruptionBudget", pod.GetMetadata().GetNamespace(), "", "")
	if err != nil {
		return nil, err
	}
	var found *v1.PodDisruptionBudget
	for e, err := range s.scan(ctx, f, s.store.Revision(), "") {
		if err != nil {
			return nil, err
		}
		o, err := s.object(e)
		if err != nil {
			return nil, err
		}
		selector, err := api.SelectorOf(o.(*v1.PodDisruptionBudget).GetSpec().GetSelector())
		if err != nil || !selector.Matches(pod.GetMetadata().GetLabels()) {
			continue
		}
		if found != nil {
			return nil, api.Errorf(api.ErrInternal, "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
		}
		found = api.Clone(o.(*v1.PodDisruptionBudget))
		found.Metadata.ResourceVersion = e.Revision
	}
	return found, nil
}

// removeEvicted notes in the pod why it goes, and deletes it. Where version is not
// 0, the pod must be at it.
func (s *Server) removeEvicted(ctx context.Context, k *api.Kind, pod *v1.Pod, version int64, r *v1.DeleteRequest) (store.Entry, error) {
	m := pod.GetMetadata()
	if !r.GetDryRun() {
		mark := func(_, old api.Object, now time.Time) (api.Object, error) {
			p := api.Clone(old.(*v1.Pod))
			api.SetCondition(&p.Status.Conditions, &v1.Condition{
				Type: api.DisruptionTarget, Status: api.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			}, now)
			return p, nil
		}
		target := &v1.Pod{Metadata: &v1.ObjectMeta{Namespace: m.GetNamespace(), Name: m.GetName(), Uid: m.GetUid(), ResourceVersion: version}}
		e, err := s.update(ctx, target, mark, causeOf(ctx, r.GetCause(), "Evict"), false)
		if err != nil {
			return e, err
		}
		if version != 0 {
			version = e.Revision
		}
	}
	r = proto.CloneOf(r)
	r.Uid, r.ResourceVersion = m.GetUid(), version
	return s.remove(ctx, k, api.KeyOf(pod), r)
}
