package api

import v1 "orch/proto/v1"

// ValidateStatus says what is wrong with the status of an object that takes the
// place of old's: what would mislead those who compute with it. Kubernetes also
// refuses that a container which has ended runs again; Orch does not, because the
// agent must be able to correct whatever somebody else wrote.
func ValidateStatus(o, old Object) []*v1.FieldError {
	var e problems
	const p path = "status"
	switch o := o.(type) {
	case *v1.Pod:
		e.nonNegative(p.child("observedGeneration"), o.GetStatus().GetObservedGeneration())
	case *v1.Node:
		e.quantities(p.child("capacity"), o.GetStatus().GetCapacity())
		e.quantities(p.child("allocatable"), o.GetStatus().GetAllocatable())
	case *v1.PodDisruptionBudget:
		s := o.GetStatus()
		for _, c := range []count{{"disruptionsAllowed", s.GetDisruptionsAllowed()}, {"currentHealthy", s.GetCurrentHealthy()}, {"desiredHealthy", s.GetDesiredHealthy()}, {"expectedPods", s.GetExpectedPods()}} {
			e.nonNegative(p.child(c.name), int64(c.n))
		}
	case *v1.ReplicaSet:
		s := o.GetStatus()
		e.nonNegative(p.child("observedGeneration"), s.GetObservedGeneration())
		e.counts(s.GetReplicas(), s.GetReadyReplicas(), s.GetAvailableReplicas(), count{"fullyLabeledReplicas", s.GetFullyLabeledReplicas()})
	case *v1.Deployment:
		s := o.GetStatus()
		e.nonNegative(p.child("observedGeneration"), s.GetObservedGeneration())
		e.nonNegative(p.child("unavailableReplicas"), int64(s.GetUnavailableReplicas()))
		e.counts(s.GetReplicas(), s.GetReadyReplicas(), s.GetAvailableReplicas(), count{"updatedReplicas", s.GetUpdatedReplicas()})
		// It is part of the names of ReplicaSets: going back would meet the
		// collision again.
		if s.GetCollisionCount() < old.(*v1.Deployment).GetStatus().GetCollisionCount() {
			e.invalid(p.child("collisionCount"), s.GetCollisionCount(), "cannot be decremented")
		}
	}
	return e.list
}

// count is a number of pods that some of the replicas are.
type count struct {
	name string
	n    int32
}

// counts checks numbers of pods: the ready are some of all, the available some of
// the ready.
func (e *problems) counts(replicas, ready, available int32, other count) {
	const p path = "status"
	for _, c := range []count{{"replicas", replicas}, other, {"readyReplicas", ready}, {"availableReplicas", available}} {
		e.nonNegative(p.child(c.name), int64(c.n))
		if c.n > replicas {
			e.invalid(p.child(c.name), c.n, "cannot be greater than status.replicas")
		}
	}
	if available > ready {
		e.invalid(p.child("availableReplicas"), available, "cannot be greater than readyReplicas")
	}
}
