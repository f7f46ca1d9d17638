package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// rank sorts pods so that the first is missed least. The order is Kubernetes'
// (ActivePodsWithRanks): each rule decides where all before it see no
// difference.
//
//  1. Not yet on a node before on one.
//  2. Pending before unknown before running.
//  3. Not ready before ready.
//  4. Smaller pod-deletion-cost before larger.
//  5. With more siblings on the same node before fewer.
//  6. Ready for a shorter time before longer, ages compared by powers of two.
//  7. More restarts of a container before fewer.
//  8. Younger before older, compared likewise.
//
// Ages are compared roughly so that a scale-down does not always take the
// youngest: among those of about an age the uid decides, which is as good as
// chance.
func rank(pods, siblings []*v1.Pod, now time.Time) []*v1.Pod {
	onNode := map[string]int{}
	for _, p := range siblings {
		if api.IsPodActive(p) {
			onNode[p.GetSpec().GetNodeName()]++
		}
	}
	ranked := slices.Clone(pods)
	slices.SortStableFunc(ranked, func(a, b *v1.Pod) int {
		return cmp.Or(
			falseFirst(a.GetSpec().GetNodeName() != "", b.GetSpec().GetNodeName() != ""),
			cmp.Compare(phaseOrder(a), phaseOrder(b)),
			falseFirst(api.IsPodReady(a), api.IsPodReady(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(onNode[b.GetSpec().GetNodeName()], onNode[a.GetSpec().GetNodeName()]),
			byAge(readySince(a), readySince(b), a, b, now),
			cmp.Compare(restarts(b), restarts(a)),
			byAge(created(a), created(b), a, b, now),
			cmp.Compare(a.GetMetadata().GetUid(), b.GetMetadata().GetUid()),
		)
	})
	return ranked
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseOrder(p *v1.Pod) int {
	switch p.GetStatus().GetPhase() {
	case api.PodRunning:
		return 2
	case api.PodUnknown:
		return 1
	}
	return 0
}

// deletionCost is 0 where the annotation is missing or no int32.
func deletionCost(p *v1.Pod) int64 {
	cost, err := strconv.ParseInt(p.GetMetadata().GetAnnotations()[api.AnnotationPodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

// readySince is the zero time for a pod that is not ready.
func readySince(p *v1.Pod) time.Time {
	c := api.GetCondition(p.GetStatus().GetConditions(), api.PodReady)
	if c.GetStatus() != api.ConditionTrue || c.GetLastTransitionTime() == nil {
		return time.Time{}
	}
	return c.GetLastTransitionTime().AsTime()
}

func created(p *v1.Pod) time.Time {
	if p.GetMetadata().GetCreationTimestamp() == nil {
		return time.Time{}
	}
	return p.GetMetadata().GetCreationTimestamp().AsTime()
}

// byAge puts the younger first, an unknown time before all; 0 where the times
// are equal.
func byAge(at, bt time.Time, a, b *v1.Pod, now time.Time) int {
	switch {
	case at.Equal(bt):
		return 0
	case at.IsZero():
		return -1
	case bt.IsZero():
		return 1
	}
	return cmp.Or(
		cmp.Compare(magnitude(now.Sub(at)), magnitude(now.Sub(bt))),
		cmp.Compare(a.GetMetadata().GetUid(), b.GetMetadata().GetUid()),
	)
}

// magnitude is the power of two of an age; -1 for one from the future.
func magnitude(age time.Duration) int {
	if age <= 0 {
		return -1
	}
	return int(math.Log2(float64(age)))
}

// restarts is the largest count of any container.
func restarts(p *v1.Pod) int32 {
	var most int32
	for _, c := range p.GetStatus().GetContainerStatuses() {
		most = max(most, c.GetRestartCount())
	}
	return most
}
