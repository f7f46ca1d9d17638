package disruption

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// deletionTimeout is how long an eviction that was allowed is believed to be
// about to happen: Kubernetes' DeletionTimeout.
const deletionTimeout = 2 * time.Minute

// State is what a plan is made from.
type State struct {
	Budget *v1.PodDisruptionBudget
	// Pods are those that the budget selects.
	Pods []*v1.Pod
	// Scales are what the pods' controllers ask for, by the uid that a pod names
	// as its controller.
	Scales map[string]Scale
	Now    time.Time
}

// Scale is how many pods something asks for: a Deployment for all its
// ReplicaSets together, which therefore have one UID.
type Scale struct {
	UID      string
	Replicas int32
}

// Plan is what is to be done.
type Plan struct {
	// Status is what the budget's status must be; nil: as it is.
	Status *v1.PodDisruptionBudgetStatus
	// Problem says why nothing can be promised, and so nothing is allowed.
	Problem error
	// After is when to look again; 0: when something changes.
	After time.Duration
}

// MakePlan counts what is well, and what must be.
func MakePlan(s State) (plan Plan) {
	status := api.CloneOrNew(s.Budget.GetStatus())
	status.ObservedGeneration = s.Budget.GetMetadata().GetGeneration()
	plan.After = disrupted(s, status)
	status.CurrentHealthy = 0
	for _, p := range s.Pods {
		_, going := status.DisruptedPods[p.GetMetadata().GetName()]
		if p.GetMetadata().GetDeletionTimestamp() == nil && !going && api.IsPodReady(p) {
			status.CurrentHealthy++
		}
	}
	status.DisruptionsAllowed = 0
	problem := ""
	expected, desired, err := wanted(s)
	if err != nil {
		plan.Problem, problem = err, err.Error()
	} else {
		status.ExpectedPods, status.DesiredHealthy = expected, desired
		if expected > 0 {
			status.DisruptionsAllowed = max(0, status.CurrentHealthy-desired)
		}
	}
	api.SetDisruptionAllowed(status, problem, s.Now)
	if !proto.Equal(status, s.Budget.GetStatus()) {
		plan.Status = status
	}
	return plan
}

// disrupted forgets the evictions that have happened, or have not for too long.
func disrupted(s State, status *v1.PodDisruptionBudgetStatus) (after time.Duration) {
	all := status.GetDisruptedPods()
	status.DisruptedPods = nil
	for _, p := range s.Pods {
		name := p.GetMetadata().GetName()
		at, ok := all[name]
		if !ok || p.GetMetadata().GetDeletionTimestamp() != nil {
			continue
		}
		left := at.AsTime().Add(deletionTimeout).Sub(s.Now)
		if left <= 0 {
			continue
		}
		api.Put(&status.DisruptedPods, name, at)
		if after == 0 || left < after {
			after = left
		}
	}
	return after
}

// wanted is how many pods there are meant to be, and how many of them well. Of a
// percentage the whole is what the pods' controllers ask for, so that it does not
// shrink with the pods that are missing; pods without a controller do not count.
func wanted(s State) (expected, desired int32, err error) {
	spec := s.Budget.GetSpec()
	switch {
	case spec.GetMaxUnavailable() != nil:
		if expected, err = asked(s); err != nil {
			return 0, 0, err
		}
		most, err := api.ScaledValue(spec.GetMaxUnavailable(), expected, true)
		return expected, max(0, expected-most), err
	case spec.GetMinAvailable().GetStr() != "":
		if expected, err = asked(s); err != nil {
			return 0, 0, err
		}
		desired, err = api.ScaledValue(spec.GetMinAvailable(), expected, true)
		return expected, desired, err
	case spec.GetMinAvailable() != nil:
		return int32(len(s.Pods)), spec.GetMinAvailable().GetInt(), nil //nolint:gosec // a cluster has fewer pods
	}
	return 0, 0, nil
}

func asked(s State) (n int32, err error) {
	counted := map[string]bool{}
	for _, p := range s.Pods {
		owner := api.ControllerOf(p)
		if owner == nil {
			continue
		}
		scale, ok := s.Scales[owner.GetUid()]
		if !ok {
			return 0, fmt.Errorf("found no controllers for pod %q", p.GetMetadata().GetName())
		}
		if !counted[scale.UID] {
			counted[scale.UID] = true
			n += scale.Replicas
		}
	}
	return n, nil
}
