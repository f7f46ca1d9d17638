package scheduler

import (
	"math"

	"orch/pkg/api"
)

// score is one opinion about how good a node is for a pod, from 0 to 100.
type score struct {
	name   string
	weight float64
	of     func(d *demand, n *node, round *round) float64
}

// scores are weighed against each other: a node's total is their weighted mean.
// Spread counts as much as the other two together, because a Deployment that
// lives on one node dies with it: one pod more than on the emptiest node costs
// 50 of its points, so only nodes that are filled very differently outweigh it.
// Kubernetes' default weights are of the same order.
var scores = []score{
	{"least allocated", 1, leastAllocated},
	{"balanced", 1, balanced},
	{"spread", 2, spread},
}

// round is what the scores of one decision share.
type round struct {
	// fewest is the smallest number of the owner's pods on any node that passed
	// the filters.
	fewest int
}

// leastAllocated prefers nodes with much left: the share of CPU and of memory
// that stays free with the pod on the node, in the mean. Kubernetes'
// LeastAllocated strategy.
func leastAllocated(d *demand, n *node, _ *round) float64 {
	cpu, memory := shares(d, n)
	return 100 * (1 - (cpu+memory)/2)
}

// balanced prefers nodes whose CPU and memory fill at the same pace, so that
// neither is left over: 100 less the standard deviation of the two shares.
// Kubernetes' NodeResourcesBalancedAllocation.
func balanced(d *demand, n *node, _ *round) float64 {
	cpu, memory := shares(d, n)
	return 100 * (1 - math.Abs(cpu-memory)/2)
}

// spread prefers nodes with few pods of the same owner: 100 where they are
// fewest, 50 with one more, 33 with two more. It looks at the difference, not
// the share, so that the hundredth pod spreads as well as the second.
func spread(d *demand, n *node, round *round) float64 {
	if d.owner == "" {
		return 100
	}
	return 100 / float64(1+n.podsPerOwner[d.owner]-round.fewest)
}

// against counts the taints that say that the pod should rather not come, and
// that it does not tolerate.
func against(d *demand, n *node) (count int) {
	for _, t := range n.taints {
		if t.GetEffect() == api.EffectPreferNoSchedule && !api.Tolerates(d.tolerations, t) {
			count++
		}
	}
	return count
}

// shares are the parts of a node's CPU and memory that are taken with the pod
// on it, from 0 to 1.
func shares(d *demand, n *node) (cpu, memory float64) {
	return share(n.scored.MilliCPU+d.scored.MilliCPU, n.allocatable.MilliCPU),
		share(n.scored.Memory+d.scored.Memory, n.allocatable.Memory)
}

func share(taken, of int64) float64 {
	if taken >= of {
		return 1
	}
	return float64(taken) / float64(of)
}

// total is the weighted mean of the scores, from 0 to 100; half of it with one
// taint against the pod, a third with two. (For Kubernetes taints are one more
// score with the weight 3; here a cluster without taints need not read of them.)
func total(d *demand, n *node, r *round) float64 {
	sum, weights := 0.0, 0.0
	for i := range scores {
		sum += scores[i].weight * scores[i].of(d, n, r)
		weights += scores[i].weight
	}
	return sum / weights / float64(1+against(d, n))
}
