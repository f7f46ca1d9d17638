package deployment

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Reasons of the condition Progressing that decide something here.
const (
	reasonAvailable = "NewReplicaSetAvailable"
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"
)

func (p *planner) condition(typ string) *v1.Condition {
	return api.GetCondition(p.status.GetConditions(), typ)
}

// setCondition sets a condition unless status and reason are what they were:
// its times then say since when.
func (p *planner) setCondition(typ, status, reason, message string) {
	if c := p.condition(typ); c.GetStatus() == status && c.GetReason() == reason && c != nil {
		return
	}
	p.touchCondition(typ, status, reason, message)
}

// touchCondition sets a condition and its time of update.
func (p *planner) touchCondition(typ, status, reason, message string) {
	api.SetCondition(&p.status.Conditions, &v1.Condition{
		Type: typ, Status: status, Reason: reason, Message: message, LastUpdateTime: timestamppb.New(p.now),
	}, p.now)
}

// notePause says in the condition Progressing that the deployment is paused or
// resumed, so that the time of the pause does not count against the deadline.
func (p *planner) notePause() {
	c := p.condition(api.DeploymentProgressing)
	if !p.hasDeadline() || c.GetReason() == reasonTimedOut {
		return
	}
	paused := c.GetReason() == reasonPaused
	switch {
	case p.d.GetSpec().GetPaused() && !paused:
		p.setCondition(api.DeploymentProgressing, api.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !p.d.GetSpec().GetPaused() && paused:
		p.setCondition(api.DeploymentProgressing, api.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// countStatus sets the numbers and the condition Available.
func (p *planner) countStatus() {
	sets, st := p.sets(), p.status
	st.ObservedGeneration = p.d.GetMetadata().GetGeneration()
	st.Replicas = total(sets, func(s *v1.ReplicaSet) int32 { return s.GetStatus().GetReplicas() })
	st.UpdatedReplicas = p.fresh.GetStatus().GetReplicas()
	st.ReadyReplicas = total(sets, func(s *v1.ReplicaSet) int32 { return s.GetStatus().GetReadyReplicas() })
	st.AvailableReplicas = total(sets, func(s *v1.ReplicaSet) int32 { return s.GetStatus().GetAvailableReplicas() })
	st.UnavailableReplicas = max(0, total(sets, size)-st.AvailableReplicas)
	if st.AvailableReplicas >= p.leastAvailable() {
		p.setCondition(api.DeploymentAvailable, api.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		p.setCondition(api.DeploymentAvailable, api.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
}

// rolloutStatus is countStatus and the conditions Progressing and
// ReplicaFailure.
func (p *planner) rolloutStatus() {
	p.countStatus()
	if !p.hasDeadline() {
		api.RemoveCondition(&p.status.Conditions, api.DeploymentProgressing)
	} else {
		p.judgeProgress()
	}
	if failure := p.failure(); failure != nil {
		p.setCondition(api.DeploymentReplicaFailure, failure.GetStatus(), failure.GetReason(), failure.GetMessage())
	} else {
		api.RemoveCondition(&p.status.Conditions, api.DeploymentReplicaFailure)
	}
}

// judgeProgress says whether the rollout is complete, moves, or has stood still
// for too long.
func (p *planner) judgeProgress() {
	st, before := p.status, p.d.GetStatus()
	c := p.condition(api.DeploymentProgressing)
	what := fmt.Sprintf("Deployment %q", p.d.GetMetadata().GetName())
	if p.fresh != nil {
		what = fmt.Sprintf("ReplicaSet %q", p.fresh.GetMetadata().GetName())
	}
	if c.GetReason() == reasonAvailable && st.GetReplicas() == st.GetUpdatedReplicas() {
		return // a pod lost later does not undo a rollout that was done
	}
	oldReplicas := func(s *v1.DeploymentStatus) int32 { return s.GetReplicas() - s.GetUpdatedReplicas() }
	moved := st.GetUpdatedReplicas() > before.GetUpdatedReplicas() ||
		oldReplicas(st) < oldReplicas(before) ||
		st.GetReadyReplicas() > before.GetReadyReplicas() ||
		st.GetAvailableReplicas() > before.GetAvailableReplicas()
	switch {
	case p.complete(st):
		p.setCondition(api.DeploymentProgressing, api.ConditionTrue, reasonAvailable, what+" has successfully progressed.")
	case moved:
		p.touchCondition(api.DeploymentProgressing, api.ConditionTrue, "ReplicaSetUpdated", what+" is progressing.")
	case c == nil || c.GetReason() == reasonAvailable || c.GetReason() == reasonTimedOut:
	case p.untilDeadline(c) < 0:
		p.setCondition(api.DeploymentProgressing, api.ConditionFalse, reasonTimedOut, what+" has timed out progressing.")
	}
	c = p.condition(api.DeploymentProgressing)
	if c != nil && !p.complete(st) && c.GetReason() != reasonTimedOut && c.GetReason() != reasonAvailable {
		p.after = max(0, p.untilDeadline(c)) + time.Second
	}
}

// untilDeadline is how long there may still be no progress.
func (p *planner) untilDeadline(c *v1.Condition) time.Duration {
	deadline := time.Duration(p.d.GetSpec().GetProgressDeadlineSeconds()) * time.Second
	return c.GetLastUpdateTime().AsTime().Add(deadline).Sub(p.now)
}

// complete says whether all pods are new and available, and no old one is left.
func (p *planner) complete(s *v1.DeploymentStatus) bool {
	n := p.wanted()
	return s.GetUpdatedReplicas() == n && s.GetReplicas() == n && s.GetAvailableReplicas() == n &&
		s.GetObservedGeneration() >= p.d.GetMetadata().GetGeneration()
}

// failure is the condition ReplicaFailure of the new set, or else of any.
func (p *planner) failure() *v1.Condition {
	sets := p.old
	if p.fresh != nil {
		sets = append([]*v1.ReplicaSet{p.fresh}, sets...)
	}
	for _, set := range sets {
		if c := api.GetCondition(set.GetStatus().GetConditions(), api.ReplicaSetReplicaFailure); c != nil {
			return c
		}
	}
	return nil
}
