package admission

import (
	"slices"
	"time"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// CheckDelete says why an object may not be deleted, or not in that way.
func CheckDelete(k *api.Kind, name, policy string) error {
	if k.Name == "Namespace" && (name == api.NamespaceDefault || name == api.NamespaceSystem) {
		return api.Forbidden(k, name, "this namespace may not be deleted")
	}
	switch policy {
	case "", api.PropagationBackground, api.PropagationForeground, api.PropagationOrphan:
		return nil
	}
	return api.Errorf(api.ErrBadRequest, "propagationPolicy: Unsupported value: %q: supported values: %q, %q, %q",
		policy, api.PropagationForeground, api.PropagationBackground, api.PropagationOrphan)
}

// Delete returns the object as a request for its deletion leaves it. Where
// nothing holds that one (see [Held]), it is to be removed.
//
// The time of deletion says when the grace period ends. A repeated request may
// bring that forward, never back, and may choose another policy.
func Delete(old api.Object, asked *int64, policy string, now time.Time) api.Object {
	next := api.Clone(old)
	m := next.GetMetadata()
	m.Finalizers = propagate(m.GetFinalizers(), policy)

	var grace int64
	if p, ok := old.(*v1.Pod); ok {
		grace = graceOf(p, asked)
	}
	switch was := old.GetMetadata(); {
	case was.GetDeletionTimestamp() == nil:
		m.DeletionTimestamp = stamp(now.Add(time.Duration(grace) * time.Second))
		m.DeletionGracePeriodSeconds = &grace
		if m.GetGeneration() > 0 {
			m.Generation++ // its controller is to do something else from now on
		}
		terminating(next)
	case asked != nil && grace < was.GetDeletionGracePeriodSeconds():
		sooner := time.Duration(was.GetDeletionGracePeriodSeconds()-grace) * time.Second
		m.DeletionTimestamp = stamp(was.GetDeletionTimestamp().AsTime().Add(-sooner))
		m.DeletionGracePeriodSeconds = &grace
	}
	return next
}

// propagate returns the finalizers that a policy leaves; none given keeps what
// an earlier request chose.
func propagate(finalizers []string, policy string) []string {
	if policy == "" {
		return finalizers
	}
	kept := slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool {
		return f == api.FinalizerForeground || f == api.FinalizerOrphan
	})
	switch policy {
	case api.PropagationForeground:
		kept = append(kept, api.FinalizerForeground)
	case api.PropagationOrphan:
		kept = append(kept, api.FinalizerOrphan)
	}
	if len(kept) == 0 {
		return nil
	}
	return kept
}

// terminating marks what a kind shows besides its metadata when its deletion
// begins. The object is the caller's; its parts are shared.
func terminating(o api.Object) {
	if n, ok := o.(*v1.Namespace); ok {
		n.Status = &v1.NamespaceStatus{Phase: api.NamespaceTerminating, Conditions: n.GetStatus().GetConditions()}
	}
}

// graceOf is how long a pod may take to end: what the request says, else what
// the pod says; but a pod that no agent has started, or that has ended, needs no
// time.
func graceOf(p *v1.Pod, asked *int64) int64 {
	switch phase := p.GetStatus().GetPhase(); {
	case p.GetSpec().GetNodeName() == "", phase == api.PodSucceeded, phase == api.PodFailed:
		return 0
	case asked != nil && *asked < 0:
		return 1 // Kubernetes' reading of a negative number
	case asked != nil:
		return *asked
	case p.GetSpec().TerminationGracePeriodSeconds != nil:
		return p.GetSpec().GetTerminationGracePeriodSeconds()
	}
	return 0
}

// Held says whether something keeps an object whose deletion was asked for.
func Held(o api.Object) bool {
	m := o.GetMetadata()
	if len(m.GetFinalizers()) > 0 || m.GetDeletionGracePeriodSeconds() > 0 {
		return true
	}
	n, ok := o.(*v1.Namespace)
	return ok && len(n.GetSpec().GetFinalizers()) > 0
}
