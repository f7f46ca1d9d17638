package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Cluster is what the scheduler knows: the nodes, and on each the pods that are
// bound to it or soon will be. It is kept up to date change by change, so that
// a decision never counts pods anew.
//
// Concurrency: none of its own; the scheduler's lock protects it.
type Cluster struct {
	nodes map[string]*node
	// order has the nodes that exist, by name. A node that is only known from
	// its pods is in nodes alone.
	order []*node
	pods  map[string]*placed // by uid
}

// node is one machine with the sums over its pods.
type node struct {
	name         string
	exists       bool
	cordoned     bool
	taints       []*v1.Taint // those that follow from its conditions among them
	labels       map[string]string
	allocatable  api.Resources
	requested    api.Resources
	scored       api.Resources // as requested, with the defaults for scoring
	ports        []hostPort
	podsPerOwner map[string]int // by uid of the owner
}

// placed is a pod on a node. Assumed: the scheduler has decided so, and its
// mirror does not show it yet.
type placed struct {
	demand
	node    *node
	assumed bool
}

// demand is what a pod asks of a node.
type demand struct {
	uid      string
	owner    string // uid of the controller, or empty
	requests api.Resources
	scored   api.Resources // with the defaults for scores
	ports    []hostPort
	selector map[string]string

	tolerations []*v1.Toleration
}

// hostPort is a port of the node; an empty ip stands for all addresses.
type hostPort struct {
	protocol, ip string
	port         int32
}

// What a pod that requests none counts for in scores, so that such pods spread
// too: Kubernetes' DefaultMilliCPURequest and DefaultMemoryRequest.
const (
	unstatedMilliCPU = 100
	unstatedMemory   = 200 << 20
)

func demandOf(p *v1.Pod) demand {
	d := demand{
		uid:      p.GetMetadata().GetUid(),
		requests: api.PodRequests(p.GetSpec()),
		selector: p.GetSpec().GetNodeSelector(),

		tolerations: p.GetSpec().GetTolerations(),
	}
	d.scored = d.requests
	d.scored.MilliCPU = cmp.Or(d.scored.MilliCPU, unstatedMilliCPU)
	d.scored.Memory = cmp.Or(d.scored.Memory, unstatedMemory)
	if ref := api.ControllerOf(p); ref != nil {
		d.owner = ref.GetUid()
	}
	for _, c := range api.LastingContainers(p.GetSpec()) {
		for _, port := range c.GetPorts() {
			if port.GetHostPort() == 0 {
				continue
			}
			ip := port.GetHostIp()
			if ip == "0.0.0.0" || ip == "::" {
				ip = ""
			}
			d.ports = append(d.ports, hostPort{port.GetProtocol(), ip, port.GetHostPort()})
		}
	}
	return d
}

// conflicts says whether two pods cannot have these ports on one node.
func (p hostPort) conflicts(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol && (p.ip == o.ip || p.ip == "" || o.ip == "")
}

// NewCluster returns a cluster without nodes.
func NewCluster() *Cluster {
	return &Cluster{nodes: map[string]*node{}, pods: map[string]*placed{}}
}

// SetNode adds a node or takes over its new state, and says whether that can
// change a decision. Most changes are heartbeats and cannot.
func (c *Cluster) SetNode(n *v1.Node) (relevant bool) {
	at := c.node(n.GetMetadata().GetName())
	cordoned, taints := n.GetSpec().GetUnschedulable(), taintsOf(n)
	labels, allocatable := n.GetMetadata().GetLabels(), api.ResourcesOf(n.GetStatus().GetAllocatable())
	relevant = !at.exists || at.cordoned != cordoned || !slices.EqualFunc(at.taints, taints, equalTaints) || at.allocatable != allocatable || !maps.Equal(at.labels, labels)
	if !at.exists {
		at.exists = true
		i, _ := slices.BinarySearchFunc(c.order, at.name, func(n *node, name string) int { return strings.Compare(n.name, name) })
		c.order = slices.Insert(c.order, i, at)
	}
	at.cordoned, at.taints, at.labels, at.allocatable = cordoned, taints, labels, allocatable
	return relevant
}

// taintsOf are the node's, in their order. An agent that has not said yet that
// its node is ready counts as one that says that it is not.
func taintsOf(n *v1.Node) []*v1.Taint {
	taints := slices.DeleteFunc(api.NodeTaints(n), func(t *v1.Taint) bool { return api.SameTaint(t, unschedulable) })
	if api.GetCondition(n.GetStatus().GetConditions(), api.NodeReady) == nil {
		taints = append(taints, &v1.Taint{Key: api.TaintNotReady, Effect: api.EffectNoSchedule})
	}
	return taints
}

func equalTaints(a, b *v1.Taint) bool { return api.SameTaint(a, b) && a.GetValue() == b.GetValue() }

// RemoveNode forgets a node. Its pods stay known, in case it comes back.
func (c *Cluster) RemoveNode(name string) {
	at := c.node(name)
	at.exists = false
	c.order = slices.DeleteFunc(c.order, func(n *node) bool { return n == at })
	c.release(at)
}

// SetPod takes over what a pod now is, and says whether a node has got room by
// it. Pods that have ended take no room; an assumed pod keeps its room until
// the pod shows a node.
func (c *Cluster) SetPod(p *v1.Pod) (freed bool) {
	uid, name := p.GetMetadata().GetUid(), p.GetSpec().GetNodeName()
	if api.IsPodTerminal(p) {
		return c.RemovePod(uid)
	}
	was := c.pods[uid]
	if was != nil {
		if name == "" {
			return false
		}
		if was.node.name == name {
			was.assumed = false // what a pod asks for never changes
			return false
		}
		c.RemovePod(uid)
	}
	if name != "" {
		c.add(demandOf(p), name, false)
	}
	return was != nil
}

// RemovePod forgets a pod, and says whether a node has got room by it.
func (c *Cluster) RemovePod(uid string) (freed bool) {
	p := c.pods[uid]
	if p == nil {
		return false
	}
	delete(c.pods, uid)
	n := p.node
	n.requested, n.scored = n.requested.Sub(p.requests), n.scored.Sub(p.scored)
	for _, port := range p.ports {
		if i := slices.Index(n.ports, port); i >= 0 {
			n.ports = slices.Delete(n.ports, i, i+1)
		}
	}
	if n.podsPerOwner[p.owner]--; n.podsPerOwner[p.owner] == 0 {
		delete(n.podsPerOwner, p.owner)
	}
	c.release(n)
	return true
}

// assume counts a pod on a node from now on, before the mirror shows it.
func (c *Cluster) assume(d demand, name string) { c.add(d, name, true) }

// forget takes an assumption back, and says whether there was one. Once the
// mirror has shown the pod on a node it stays.
func (c *Cluster) forget(uid string) bool {
	p := c.pods[uid]
	return p != nil && p.assumed && c.RemovePod(uid)
}

func (c *Cluster) add(d demand, name string, assumed bool) {
	n := c.node(name)
	c.pods[d.uid] = &placed{demand: d, node: n, assumed: assumed}
	n.requested, n.scored = n.requested.Add(d.requests), n.scored.Add(d.scored)
	n.ports = append(n.ports, d.ports...)
	n.podsPerOwner[d.owner]++
}

func (c *Cluster) node(name string) *node {
	n := c.nodes[name]
	if n == nil {
		n = &node{name: name, podsPerOwner: map[string]int{}}
		c.nodes[name] = n
	}
	return n
}

// release drops a node that neither exists nor has pods.
func (c *Cluster) release(n *node) {
	if !n.exists && n.requested.Pods == 0 {
		delete(c.nodes, n.name)
	}
}
