package scheduler

import (
	"fmt"
	"slices"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// filter is one rule that says which nodes cannot take a pod. It both checks
// and explains, so that the two cannot drift apart.
type filter struct {
	// reason is Kubernetes' wording, counted over all nodes.
	reason func(d *demand, n *node) string
	passes func(d *demand, n *node) bool
	// because tells of one node, in words that follow its name.
	because func(d *demand, n *node) string
	// goOn lets the filters after a failed one speak too, so that all resources
	// that lack are named. Kubernetes does it the same way.
	goOn bool
}

// filters are asked in this order: what a person has said of the node first,
// what is full last.
var filters = []filter{
	{
		reason:  constant("node(s) were unschedulable"),
		passes:  func(d *demand, n *node) bool { return !n.cordoned || api.Tolerates(d.tolerations, unschedulable) },
		because: func(*demand, *node) string { return "is cordoned" },
	},
	{
		reason: func(d *demand, n *node) string {
			t := untolerated(d, n)
			return fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.GetKey(), t.GetValue())
		},
		passes:  func(d *demand, n *node) bool { return untolerated(d, n) == nil },
		because: func(d *demand, n *node) string { return "has the taint " + api.FormatTaint(untolerated(d, n)) },
	},
	{
		reason:  constant("node(s) didn't match Pod's node affinity/selector"),
		passes:  func(d *demand, n *node) bool { return missingLabel(d, n) == "" },
		because: func(d *demand, n *node) string { return "has no label " + missingLabel(d, n) },
	},
	{
		reason: constant("node(s) didn't have free ports for the requested pod ports"),
		passes: func(d *demand, n *node) bool { return takenPort(d, n) == nil },
		because: func(d *demand, n *node) string {
			p := takenPort(d, n)
			return fmt.Sprintf("has port %d/%s taken", p.port, p.protocol)
		},
	},
	{
		reason: constant("Too many pods"), goOn: true,
		passes:  func(_ *demand, n *node) bool { return n.requested.Pods < n.allocatable.Pods },
		because: func(_ *demand, n *node) string { return fmt.Sprintf("has its %d pods", n.allocatable.Pods) },
	},
	fits(api.ResourceCPU, api.NewMilliQuantity, func(r *api.Resources) int64 { return r.MilliCPU }),
	fits(api.ResourceMemory, api.NewBinaryQuantity, func(r *api.Resources) int64 { return r.Memory }),
	fits(api.ResourceEphemeralStorage, api.NewBinaryQuantity, func(r *api.Resources) int64 { return r.EphemeralStorage }),
}

func constant(reason string) func(*demand, *node) string {
	return func(*demand, *node) string { return reason }
}

// unschedulable is the taint of a cordoned node, which has its own filter.
var unschedulable = &v1.Taint{Key: api.TaintUnschedulable, Effect: api.EffectNoSchedule}

// untolerated returns the first taint that keeps the pod away, or nil. Not to be
// ready is one.
func untolerated(d *demand, n *node) *v1.Taint {
	return api.Untolerated(n.taints, d.tolerations, api.EffectNoSchedule, api.EffectNoExecute)
}

// fits is the filter for one resource: what the pods of a node request may not
// be more than what it offers. Who requests nothing of it always fits.
func fits(name string, quantity func(int64) api.Quantity, of func(*api.Resources) int64) filter {
	lacks := func(d *demand, n *node) int64 {
		if of(&d.requests) == 0 {
			return 0
		}
		return of(&n.requested) + of(&d.requests) - of(&n.allocatable)
	}
	return filter{
		reason: constant("Insufficient " + name), goOn: true,
		passes:  func(d *demand, n *node) bool { return lacks(d, n) <= 0 },
		because: func(d *demand, n *node) string { return fmt.Sprintf("lacks %s %s", quantity(lacks(d, n)), name) },
	}
}

// missingLabel returns the first label ("disk=ssd"), by name, that the pod wants
// and the node has not.
func missingLabel(d *demand, n *node) string {
	first := ""
	for k, v := range d.selector {
		if has, ok := n.labels[k]; (!ok || has != v) && (first == "" || k < first) {
			first = k
		}
	}
	if first == "" {
		return ""
	}
	return first + "=" + d.selector[first]
}

// takenPort returns the first port that the pod wants and another pod has.
func takenPort(d *demand, n *node) *hostPort {
	for i := range d.ports {
		if slices.ContainsFunc(n.ports, d.ports[i].conflicts) {
			return &d.ports[i]
		}
	}
	return nil
}
