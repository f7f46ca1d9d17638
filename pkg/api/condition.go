package api

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "orch/proto/v1"
)

// GetCondition returns the condition of this type, or nil.
func GetCondition(conds []*v1.Condition, typ string) *v1.Condition {
	for _, c := range conds {
		if c.GetType() == typ {
			return c
		}
	}
	return nil
}

// SetCondition puts c in the place of the condition of its type, or at the end,
// and says whether anything changed. The last transition is when the status
// last changed: it is kept where the status is the same, and otherwise now,
// unless c says. The other times are kept where c leaves them out.
func SetCondition(conds *[]*v1.Condition, c *v1.Condition, now time.Time) (changed bool) {
	c = proto.Clone(c).(*v1.Condition)
	c.LastTransitionTime = cmp.Or(c.LastTransitionTime, timestamppb.New(now))
	for i, old := range *conds {
		if old.GetType() != c.GetType() {
			continue
		}
		if old.GetStatus() == c.GetStatus() && old.LastTransitionTime != nil {
			c.LastTransitionTime = old.LastTransitionTime
		}
		c.LastHeartbeatTime = cmp.Or(c.LastHeartbeatTime, old.LastHeartbeatTime)
		c.LastProbeTime = cmp.Or(c.LastProbeTime, old.LastProbeTime)
		c.LastUpdateTime = cmp.Or(c.LastUpdateTime, old.LastUpdateTime)
		if proto.Equal(old, c) {
			return false
		}
		(*conds)[i] = c
		return true
	}
	*conds = append(*conds, c)
	return true
}

// RemoveCondition takes the condition of this type out.
func RemoveCondition(conds *[]*v1.Condition, typ string) {
	*conds = slices.DeleteFunc(*conds, func(c *v1.Condition) bool { return c.GetType() == typ })
}

// SetDisruptionAllowed makes the one condition of a budget say what its status
// does. The words are Kubernetes' (UpdateDisruptionAllowedCondition); problem, where it
// is not "", says why nothing could be counted.
func SetDisruptionAllowed(s *v1.PodDisruptionBudgetStatus, problem string, now time.Time) {
	c := &v1.GenerationCondition{
		Type: "DisruptionAllowed", Status: ConditionFalse, Reason: "InsufficientPods", Message: problem,
		ObservedGeneration: s.GetObservedGeneration(), LastTransitionTime: timestamppb.New(now),
	}
	switch {
	case problem != "":
		c.Reason = "SyncFailed"
	case s.GetDisruptionsAllowed() > 0:
		c.Status, c.Reason = ConditionTrue, "SufficientPods"
	}
	if old := s.GetConditions(); len(old) > 0 && old[0].GetStatus() == c.GetStatus() && old[0].GetLastTransitionTime() != nil {
		c.LastTransitionTime = old[0].GetLastTransitionTime()
	}
	s.Conditions = []*v1.GenerationCondition{c}
}

// isTrue says whether the condition of this type is True.
func isTrue(conds []*v1.Condition, typ string) bool {
	return GetCondition(conds, typ).GetStatus() == ConditionTrue
}

// IsNodeReady says whether the node's agent reports that it can run pods.
func IsNodeReady(n *v1.Node) bool { return isTrue(n.GetStatus().GetConditions(), NodeReady) }

// NodeAddress is the node's address of a type; "" where it has none.
func NodeAddress(n *v1.Node, typ string) string {
	for _, a := range n.GetStatus().GetAddresses() {
		if a.GetType() == typ {
			return a.GetAddress()
		}
	}
	return ""
}

// IsPodReady says whether the pod can do its work.
func IsPodReady(p *v1.Pod) bool { return isTrue(p.GetStatus().GetConditions(), PodReady) }

// IsPodAvailable says whether the pod has been ready for at least
// minReadySeconds.
func IsPodAvailable(p *v1.Pod, minReadySeconds int32, now time.Time) bool {
	c := GetCondition(p.GetStatus().GetConditions(), PodReady)
	if c.GetStatus() != ConditionTrue {
		return false
	}
	if minReadySeconds == 0 {
		return true
	}
	since := c.GetLastTransitionTime()
	return since != nil && !since.AsTime().Add(time.Duration(minReadySeconds)*time.Second).After(now)
}

// IsPodTerminal says whether the pod's work has ended for good.
func IsPodTerminal(p *v1.Pod) bool {
	phase := p.GetStatus().GetPhase()
	return phase == PodSucceeded || phase == PodFailed
}

// IsPodActive says whether the pod counts as one that does or will do its work:
// it has not ended and nobody asked for its end.
func IsPodActive(p *v1.Pod) bool {
	return !IsPodTerminal(p) && p.GetMetadata().GetDeletionTimestamp() == nil
}
