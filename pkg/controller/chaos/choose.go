package chaos

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Target is what one injection is to hit. Of the API server both are nil.
type Target struct {
	Pod  *v1.Pod
	Node *v1.Node
}

// Candidates are the targets that an experiment may hit now, in the order that the
// choice counts them by: pods by age, then node, then name; nodes by name. What is
// protected, is about to go, or has an agent that cannot do it, is not among them.
func Candidates(s *v1.ChaosExperimentSpec, pods []*v1.Pod, nodes []*v1.Node) (all []Target) {
	kind, _ := api.FaultKindOf(s.GetFault().GetType())
	able := map[string]*v1.Node{}
	for _, n := range nodes {
		if matches(s.GetNodeSelector(), n) && !api.IsChaosProtected(n) && (!kind.Agent || api.IsNodeReady(n) && api.NodeCanInject(n, s.GetFault().GetType())) {
			able[n.GetMetadata().GetName()] = n
		}
	}
	switch kind.Scope {
	case api.ScopeAPIServer:
		return []Target{{}}
	case api.ScopeNode:
		for _, n := range able {
			all = append(all, Target{Node: n})
		}
		slices.SortFunc(all, func(a, b Target) int { return strings.Compare(nameOf(a.Node), nameOf(b.Node)) })
		return all
	}
	for _, p := range pods {
		n := able[p.GetSpec().GetNodeName()]
		unbound := p.GetSpec().GetNodeName() == "" && !kind.Agent && s.GetNodeSelector() == nil
		switch {
		case n == nil && !unbound, !api.IsPodActive(p), kind.Agent && p.GetStatus().GetPhase() != api.PodRunning:
		case api.IsChaosProtected(p), !matches(s.GetSelector(), p):
		default:
			all = append(all, Target{Pod: p, Node: n})
		}
	}
	slices.SortFunc(all, func(a, b Target) int {
		return cmp.Or(
			cmp.Compare(a.Pod.GetMetadata().GetCreationTimestamp().GetSeconds(), b.Pod.GetMetadata().GetCreationTimestamp().GetSeconds()),
			strings.Compare(a.Pod.GetSpec().GetNodeName(), b.Pod.GetSpec().GetNodeName()),
			strings.Compare(nameOf(a.Pod), nameOf(b.Pod)))
	})
	return all
}

// Choose returns which of n candidates a round hits, in the order in which they are
// hit. It depends on its arguments alone, so the same seed means the same choices
// where there are as many candidates.
func Choose(s *v1.ChaosExperimentSpec, round int32, n int) []int {
	r := rand.New(rand.NewPCG(uint64(s.GetSeed()), uint64(round))) //nolint:gosec // bits are bits, and nobody is to be kept from guessing
	return r.Perm(n)[:howMany(s, n)]
}

// howMany of n candidates are hit in a round.
func howMany(s *v1.ChaosExperimentSpec, n int) int {
	switch s.GetMode() {
	case api.ChaosAll:
		return n
	case api.ChaosFixed:
		return min(n, int(s.GetValue()))
	case api.ChaosFixedPercent:
		return min(n, (n*int(s.GetValue())+99)/100)
	}
	return min(n, 1)
}

func matches(s *v1.LabelSelector, o api.Object) bool {
	if s == nil {
		return true
	}
	selector, err := api.SelectorOf(s)
	return err == nil && selector.Matches(o.GetMetadata().GetLabels())
}

func nameOf(o api.Object) string { return o.GetMetadata().GetName() }
