package replicaset

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// burst is the most pods that one plan makes or deletes: Kubernetes' 500. The
// rest follows when these are seen.
const burst = 500

// State is what a plan is made from.
type State struct {
	Set *v1.ReplicaSet
	// Pods are those that the set controls, ended ones and those that are being
	// deleted too.
	Pods []*v1.Pod
	// Siblings are the pods of all sets with the same controller, this one's
	// included: a pod whose node has more of them is deleted sooner.
	Siblings []*v1.Pod
	Now      time.Time
}

// Plan is what is to be done.
type Plan struct {
	// Create is how many pods to make.
	Create int
	// Delete are the pods to delete, first the one that is missed least.
	Delete []*v1.Pod
	// Why says it in numbers.
	Why string
	// Status is what the status must be, apart from failures of this plan.
	Status *v1.ReplicaSetStatus
	// After is when a ready pod becomes available; 0: never by itself.
	After time.Duration
}

// MakePlan compares what is wanted with what there is. Pods that have ended
// stay, as in Kubernetes, for people to look at, and are replaced.
func MakePlan(s State) Plan {
	var active []*v1.Pod
	for _, p := range s.Pods {
		if api.IsPodActive(p) {
			active = append(active, p)
		}
	}
	plan := Plan{Status: status(s, active), After: nextAvailable(s, active)}
	if s.Set.GetMetadata().GetDeletionTimestamp() != nil {
		return plan // its pods are the garbage collector's
	}
	want := int(s.Set.GetSpec().GetReplicas())
	plan.Why = fmt.Sprintf("wanted %d, had %d", want, len(active))
	switch missing := want - len(active); {
	case missing > 0:
		plan.Create = min(missing, burst)
	case missing < 0:
		plan.Delete = rank(active, s.Siblings, s.Now)[:min(-missing, burst)]
	}
	return plan
}

// status counts.
func status(s State, active []*v1.Pod) *v1.ReplicaSetStatus {
	spec := s.Set.GetSpec()
	st := &v1.ReplicaSetStatus{
		Replicas:           int32(len(active)),
		ObservedGeneration: s.Set.GetMetadata().GetGeneration(),
	}
	for _, c := range s.Set.GetStatus().GetConditions() {
		st.Conditions = append(st.Conditions, proto.CloneOf(c))
	}
	for _, p := range active {
		if api.HasAll(p.GetMetadata().GetLabels(), spec.GetTemplate().GetMetadata().GetLabels()) {
			st.FullyLabeledReplicas++
		}
		if api.IsPodReady(p) {
			st.ReadyReplicas++
		}
		if api.IsPodAvailable(p, spec.GetMinReadySeconds(), s.Now) {
			st.AvailableReplicas++
		}
	}
	return st
}

// nextAvailable is the time until the first ready pod has been ready for
// minReadySeconds.
func nextAvailable(s State, active []*v1.Pod) time.Duration {
	seconds := s.Set.GetSpec().GetMinReadySeconds()
	var next time.Duration
	for _, p := range active {
		since := readySince(p)
		if since.IsZero() || api.IsPodAvailable(p, seconds, s.Now) {
			continue
		}
		wait := since.Add(time.Duration(seconds) * time.Second).Sub(s.Now)
		if next == 0 || wait < next {
			next = wait
		}
	}
	return next
}

// newPod is a pod as the template has it.
func newPod(set *v1.ReplicaSet) *v1.Pod {
	t := proto.CloneOf(set.GetSpec().GetTemplate())
	return &v1.Pod{
		Metadata: &v1.ObjectMeta{
			GenerateName:    set.GetMetadata().GetName() + "-",
			Namespace:       set.GetMetadata().GetNamespace(),
			Labels:          t.GetMetadata().GetLabels(),
			Annotations:     t.GetMetadata().GetAnnotations(),
			Finalizers:      t.GetMetadata().GetFinalizers(),
			OwnerReferences: []*v1.OwnerReference{api.NewControllerRef(set)},
		},
		Spec: t.GetSpec(),
	}
}
