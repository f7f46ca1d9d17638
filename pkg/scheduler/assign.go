package scheduler

import (
	"fmt"
	"math"
	"slices"
	"strings"

	v1 "orch/proto/v1"
)

// Decision is what became of one pod.
type Decision struct {
	// Node is where the pod goes; empty where no node takes it.
	Node string
	// Message says why, for the cause of the write; or, where no node takes the
	// pod, why not, in the words of Kubernetes' condition and event:
	// "0/3 nodes are available: 2 Insufficient cpu, 1 node(s) were unschedulable."
	Message string
	// Refusals says what each node lacks, where none takes the pod: "node-1 lacks
	// 200m cpu, node-2 is cordoned".
	Refusals string
}

// Assign decides where a pod goes. Nodes that pass all filters are scored; the
// best takes the pod, and of equal ones the first by name. (A tie ends with
// the pod that settles it, because a node that has it scores less: choosing at
// random would spread no better and could not be explained.)
func Assign(c *Cluster, p *v1.Pod) Decision {
	d := demandOf(p)
	return assign(c, &d)
}

func assign(c *Cluster, d *demand) Decision {
	r := round{fewest: math.MaxInt}
	feasible := make([]*node, 0, len(c.order))
	for _, n := range c.order {
		if rejectedBy(d, n) == nil {
			feasible = append(feasible, n)
			r.fewest = min(r.fewest, n.podsPerOwner[d.owner])
		}
	}
	if len(feasible) == 0 {
		return Decision{Message: unavailable(c, d), Refusals: losers(c, d, nil, &r)}
	}
	best, most := feasible[0], -1.0
	for _, n := range feasible {
		if t := total(d, n, &r); t > most {
			best, most = n, t
		}
	}
	return Decision{Node: best.name, Message: placement(c, d, best, &r)}
}

// rejectedBy returns the first filter that refuses the node; nil where none
// does.
func rejectedBy(d *demand, n *node) *filter {
	for i := range filters {
		if !filters[i].passes(d, n) {
			return &filters[i]
		}
	}
	return nil
}

// unavailable counts the reasons over all nodes.
func unavailable(c *Cluster, d *demand) string {
	if len(c.order) == 0 {
		return "no nodes available to schedule pods"
	}
	counts := map[string]int{}
	for _, n := range c.order {
		for i := range filters {
			if !filters[i].passes(d, n) {
				counts[filters[i].reason(d, n)]++
				if !filters[i].goOn {
					break
				}
			}
		}
	}
	reasons := make([]string, 0, len(counts))
	for reason := range counts {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	for i, reason := range reasons {
		reasons[i] = fmt.Sprintf("%d %s", counts[reason], reason)
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", len(c.order), strings.Join(reasons, ", "))
}

// maxLosers is how many of the other nodes a placement speaks of.
const maxLosers = 5

// placement tells why the winner won and why the others did not: "placed on
// node-2 (score 87: least allocated 62, balanced 98, spread 100); node-1 lacks
// 200m cpu, node-3 scored 61".
func placement(c *Cluster, d *demand, winner *node, r *round) string {
	var b strings.Builder
	fmt.Fprintf(&b, "placed on %s (score %.0f:", winner.name, total(d, winner, r))
	for i, s := range scores {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %s %.0f", s.name, s.of(d, winner, r))
	}
	b.WriteByte(')')
	if rest := losers(c, d, winner, r); rest != "" {
		b.WriteString("; " + rest)
	}
	return b.String()
}

// losers says of the first few nodes besides the winner why they are not it.
func losers(c *Cluster, d *demand, winner *node, r *round) string {
	var told []string
	more := 0
	for _, n := range c.order {
		if n == winner {
			continue
		}
		if len(told) == maxLosers {
			more++
			continue
		}
		if f := rejectedBy(d, n); f != nil {
			told = append(told, n.name+" "+f.because(d, n))
		} else {
			told = append(told, fmt.Sprintf("%s scored %.0f", n.name, total(d, n, r)))
		}
	}
	if more > 0 {
		told = append(told, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(told, ", ")
}
