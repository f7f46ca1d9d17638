package node

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// State is what a plan is made from. All times are of the controller's own
// clock.
type State struct {
	// Node is nil where there is no such node.
	Node *v1.Node
	// Pods are those that are bound to it.
	Pods []*v1.Pod
	// Since is when the controller last saw that the node lives: that its lease was
	// renewed or its heartbeat changed; or first saw that there is no node.
	Since time.Time
	// First is when the controller first saw the node. What happened before, while
	// nobody looked, excuses nobody's pods from the whole of their wait.
	First time.Time
	Now   time.Time
	// CutOff says that so many nodes are lost that it is more likely the control
	// plane that is: see [CutOff].
	CutOff bool
	// Grace is how long signs of life, or a node that pods are bound to, may be
	// missing.
	Grace time.Duration
	// Dead says that the other members think that the node is dead. Signs of life
	// may then be missing for LeaseGrace only.
	Dead       bool
	LeaseGrace time.Duration
}

// grace is how long the node may be silent, given what the others say.
func (s State) grace() time.Duration {
	if s.Dead && s.Node != nil {
		return min(s.LeaseGrace, s.Grace)
	}
	return s.Grace
}

// Plan is what is to be done.
type Plan struct {
	// Status is what the node's status must be; nil: as it is.
	Status *v1.NodeStatus
	// Spec is what the node's spec must be, taints included; nil: as it is.
	Spec *v1.NodeSpec
	// Unready are pods as they must be because their node is silent.
	Unready []*v1.Pod
	// Orphans are the pods to end because their node does not exist. The server
	// is to be asked first whether that is so.
	Orphans []*v1.Pod
	// Evict are the pods whose time on the node is over, by the taint that ends it.
	Evict []Eviction
	// After is when to look again; 0: when something changes.
	After time.Duration
}

// Eviction is a pod that has to leave a node, and the taint that says so.
type Eviction struct {
	Pod   *v1.Pod
	Taint *v1.Taint
}

// CutOff says whether so many nodes are not ready, or late to say that they live,
// that the fault is more likely on this side: all, or more than two and at least
// 55 %. Nothing is evicted then for the sake of lost nodes. The figures are those
// of Kubernetes' zones (--unhealthy-zone-threshold), which evicts nothing in small
// zones either. That lateness counts, and at once, is what makes it safe to evict
// soon: who is cut off does not find all others dead at the same moment. A node
// that never said how it is counts for nothing.
func CutOff(nodes []*v1.Node, late func(node string) bool) bool {
	lost, all := 0, 0
	for _, n := range nodes {
		if api.GetCondition(n.GetStatus().GetConditions(), api.NodeReady) == nil {
			continue
		}
		if all++; !api.IsNodeReady(n) || late(n.GetMetadata().GetName()) {
			lost++
		}
	}
	return lost > 0 && (lost == all || lost > 2 && 100*lost >= 55*all)
}

// MakePlan judges a node by its signs of life, taints it as its conditions tell, so
// that the scheduler and people see one kind of obstacle, and ends the stay of
// pods that do not tolerate its taints, or no longer.
//
// Only how long there was none counts, not what time a heartbeat names: the
// clocks of two machines may differ by any amount.
func MakePlan(s State) Plan {
	if s.Node == nil && len(s.Pods) == 0 {
		return Plan{}
	}
	if left := s.Since.Add(s.grace()).Sub(s.Now); left > 0 {
		p := Plan{After: left}
		p.leave(s)
		if isSilent(s.Node) {
			// It was found silent before this controller began, and the agent
			// has not said anything since.
			p.Unready = unready(s)
		}
		return p
	}
	if s.Node == nil {
		return Plan{Orphans: s.Pods}
	}
	p := Plan{Status: silent(s), Unready: unready(s)}
	p.leave(s)
	return p
}

// leave plans the node's taints and which pods they end. (What follows from a
// silence that is only now found follows from the status that says so, in the
// next look.)
func (p *Plan) leave(s State) {
	if s.Node == nil {
		return
	}
	taints := taints(s)
	if !slices.EqualFunc(s.Node.GetSpec().GetTaints(), taints, func(a, b *v1.Taint) bool {
		return api.SameTaint(a, b) && proto.Equal(a.GetTimeAdded(), b.GetTimeAdded())
	}) {
		p.Spec = api.CloneOrNew(s.Node.GetSpec())
		p.Spec.Taints = taints
	}
	for _, pod := range s.Pods {
		if !api.IsPodActive(pod) {
			continue
		}
		end, taint := stay(s, pod, taints)
		if taint == nil {
			continue
		}
		if left := end.Sub(s.Now); left <= 0 {
			p.Evict = append(p.Evict, Eviction{pod, taint})
		} else if p.After == 0 || left < p.After {
			p.After = left
		}
	}
}

// failureTaints are the taints with the effect NoExecute that follow from the
// node's condition Ready.
var failureTaints = map[string]string{api.ConditionFalse: api.TaintNotReady, api.ConditionUnknown: api.TaintUnreachable}

// taints are those that the node must have. Those with the effect NoExecute say
// since when, so that a restart of the controller prolongs no stay for ever.
func taints(s State) []*v1.Taint {
	wanted := ""
	if c := api.GetCondition(s.Node.GetStatus().GetConditions(), api.NodeReady); !s.CutOff {
		wanted = failureTaints[c.GetStatus()]
	}
	var all []*v1.Taint
	for _, t := range api.NodeTaints(s.Node) {
		if t.GetEffect() == api.EffectNoExecute {
			if (t.GetKey() == api.TaintNotReady || t.GetKey() == api.TaintUnreachable) && t.GetKey() != wanted {
				continue
			}
			if t.GetKey() == wanted {
				wanted = ""
			}
			if t.GetTimeAdded() == nil {
				t = proto.CloneOf(t)
				t.TimeAdded = timestamppb.New(s.Now)
			}
		}
		all = append(all, t)
	}
	if wanted != "" {
		all = append(all, &v1.Taint{Key: wanted, Effect: api.EffectNoExecute, TimeAdded: timestamppb.New(s.Now)})
	}
	return all
}

// stay is when the pod's time on the node is over, and the taint that ends it;
// nil where it may stay. The time begins when the taint, the pod's binding and
// this controller's sight of the node have all come.
func stay(s State, pod *v1.Pod, taints []*v1.Taint) (end time.Time, ends *v1.Taint) {
	bound := api.GetCondition(pod.GetStatus().GetConditions(), api.PodScheduled).GetLastTransitionTime()
	for _, t := range taints {
		if t.GetEffect() != api.EffectNoExecute {
			continue
		}
		d, forever := api.MayStay(pod.GetSpec().GetTolerations(), t)
		if forever {
			continue
		}
		begin := s.First
		for _, x := range []*timestamppb.Timestamp{t.GetTimeAdded(), bound} {
			if x != nil && x.AsTime().After(begin) {
				begin = x.AsTime()
			}
		}
		if d == 0 { // the taint alone decides
			begin = s.Now
		}
		if e := begin.Add(d); ends == nil || e.Before(end) {
			end, ends = e, t
		}
	}
	return end, ends
}

// isSilent says whether a node has been found silent.
func isSilent(n *v1.Node) bool {
	return api.GetCondition(n.GetStatus().GetConditions(), api.NodeReady).GetStatus() == api.ConditionUnknown
}

// silent is the status of a node whose agent does not speak: of its conditions
// nothing is known. It is nil where the status says so already.
func silent(s State) *v1.NodeStatus {
	status := api.CloneOrNew(s.Node.GetStatus())
	changed := false
	for _, typ := range []string{api.NodeReady, api.NodeMemoryPressure, api.NodeDiskPressure, api.NodePIDPressure} {
		c := api.GetCondition(status.GetConditions(), typ)
		unknown := &v1.Condition{
			Type: typ, Status: api.ConditionUnknown,
			Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting node status.",
		}
		switch {
		case c == nil && typ != api.NodeReady:
			continue // the agent does not report it
		case c == nil:
			unknown.Reason, unknown.Message = "NodeStatusNeverUpdated", "Kubelet never posted node status."
		case c.GetStatus() == api.ConditionUnknown:
			continue
		}
		changed = api.SetCondition(&status.Conditions, unknown, s.Now) || changed
	}
	if !changed {
		return nil
	}
	return status
}

// unready are the pods that are said to be ready, said not to be.
func unready(s State) []*v1.Pod {
	var all []*v1.Pod
	for _, p := range s.Pods {
		c := api.GetCondition(p.GetStatus().GetConditions(), api.PodReady)
		if c.GetStatus() != api.ConditionTrue {
			continue
		}
		p = api.Clone(p)
		c = proto.CloneOf(c)
		c.Status, c.LastTransitionTime = api.ConditionFalse, nil
		api.SetCondition(&p.Status.Conditions, c, s.Now)
		all = append(all, p)
	}
	return all
}

// failed is a pod that has lost its node, as its last status tells.
func failed(p *v1.Pod, now time.Time) *v1.Pod {
	p = disrupted(p, "DeletionByPodGC", "PodGC: node no longer exists", now)
	p.Status.Phase = api.PodFailed
	return p
}

// disrupted is a pod that ends through no fault of its own.
func disrupted(p *v1.Pod, reason, message string, now time.Time) *v1.Pod {
	p = api.Clone(p)
	p.Status = cmp.Or(p.Status, &v1.PodStatus{})
	api.SetCondition(&p.Status.Conditions, &v1.Condition{
		Type: api.DisruptionTarget, Status: api.ConditionTrue, Reason: reason, Message: message,
	}, now)
	return p
}
