package api

import (
	"fmt"
	"slices"
	"time"

	v1 "orch/proto/v1"
)

// Effects of a taint on pods that do not tolerate it.
const (
	EffectNoSchedule       = "NoSchedule"       // they are not placed on the node
	EffectPreferNoSchedule = "PreferNoSchedule" // they are placed elsewhere where possible
	EffectNoExecute        = "NoExecute"        // as NoSchedule, and they do not stay
)

// Operators of a toleration.
const (
	TolerationEqual  = "Equal"
	TolerationExists = "Exists"
)

// Taints that the node controller sets by itself.
const (
	TaintNotReady       = "node.kubernetes.io/not-ready"
	TaintUnreachable    = "node.kubernetes.io/unreachable"
	TaintUnschedulable  = "node.kubernetes.io/unschedulable"
	TaintMemoryPressure = "node.kubernetes.io/memory-pressure"
	TaintDiskPressure   = "node.kubernetes.io/disk-pressure"
	TaintPIDPressure    = "node.kubernetes.io/pid-pressure"
)

// conditionTaints are the taints that follow from conditions, as in Kubernetes'
// node lifecycle controller.
var conditionTaints = []struct{ condition, status, key string }{
	{NodeReady, ConditionFalse, TaintNotReady},
	{NodeReady, ConditionUnknown, TaintUnreachable},
	{NodeMemoryPressure, ConditionTrue, TaintMemoryPressure},
	{NodeDiskPressure, ConditionTrue, TaintDiskPressure},
	{NodePIDPressure, ConditionTrue, TaintPIDPressure},
}

// NodeTaints returns the taints that the node must have: those that somebody
// gave it, and those that follow from its conditions and from being cordoned.
// Who decides by these, and not by the spec alone, is not late by one write.
func NodeTaints(n *v1.Node) []*v1.Taint {
	follows := map[string]bool{TaintUnschedulable: n.GetSpec().GetUnschedulable()}
	for _, c := range conditionTaints {
		follows[c.key] = GetCondition(n.GetStatus().GetConditions(), c.condition).GetStatus() == c.status
	}
	var taints []*v1.Taint
	for _, t := range n.GetSpec().GetTaints() {
		holds, own := follows[t.GetKey()]
		if !own || holds || t.GetEffect() != EffectNoSchedule {
			taints = append(taints, t)
		}
	}
	add := func(key string) {
		t := &v1.Taint{Key: key, Effect: EffectNoSchedule}
		if follows[key] && !slices.ContainsFunc(taints, func(o *v1.Taint) bool { return SameTaint(t, o) }) {
			taints = append(taints, t)
		}
	}
	for _, c := range conditionTaints {
		add(c.key)
	}
	add(TaintUnschedulable)
	return taints
}

// SameTaint says whether two taints have the same key and effect: a node has
// only one of them.
func SameTaint(a, b *v1.Taint) bool {
	return a.GetKey() == b.GetKey() && a.GetEffect() == b.GetEffect()
}

// FormatTaint writes a taint as kubectl takes it: key=value:effect.
func FormatTaint(t *v1.Taint) string {
	s := t.GetKey()
	if t.GetValue() != "" {
		s += "=" + t.GetValue()
	}
	if t.GetEffect() != "" {
		s += ":" + t.GetEffect()
	}
	return s
}

// Tolerates says whether one of the tolerations matches the taint.
func Tolerates(tolerations []*v1.Toleration, t *v1.Taint) bool {
	return slices.ContainsFunc(tolerations, func(o *v1.Toleration) bool {
		switch {
		case o.GetEffect() != "" && o.GetEffect() != t.GetEffect(),
			o.GetKey() != "" && o.GetKey() != t.GetKey():
			return false
		case o.GetOperator() == TolerationExists:
			return true
		}
		return (o.GetOperator() == "" || o.GetOperator() == TolerationEqual) && o.GetValue() == t.GetValue()
	})
}

// Untolerated returns the first of the taints with one of the effects that the
// tolerations do not match, or nil.
func Untolerated(taints []*v1.Taint, tolerations []*v1.Toleration, effects ...string) *v1.Taint {
	for _, t := range taints {
		if slices.Contains(effects, t.GetEffect()) && !Tolerates(tolerations, t) {
			return t
		}
	}
	return nil
}

// TolerateMemoryPressure lets a pod come to a node that is short of memory,
// unless it is BestEffort: one that says what it needs is thought to get by with
// it. Kubernetes adds the same toleration.
func TolerateMemoryPressure(s *v1.PodSpec) {
	t := &v1.Taint{Key: TaintMemoryPressure, Effect: EffectNoSchedule}
	if QOSClass(s) != QOSBestEffort && !Tolerates(s.GetTolerations(), t) {
		s.Tolerations = append(s.Tolerations, &v1.Toleration{Key: t.Key, Operator: TolerationExists, Effect: t.Effect})
	}
}

// Defaults of the seconds that pods stay bound to a node which is not ready, or
// silent, where their tolerations do not say. An agent that says that it is not
// ready may soon be, and knows how its containers are. Of a silent one nothing is
// known, and two have found so: see docs/membership.md. Kubernetes waits 300 s
// for either.
const (
	DefaultNotReadySeconds    = 30
	DefaultUnreachableSeconds = 1
)

// TolerateNodeFailures lets a pod stay on a node that is not ready or silent for
// so many seconds. Kubernetes' admission plugin DefaultTolerationSeconds does the
// same.
func TolerateNodeFailures(s *v1.PodSpec, notReady, unreachable int64) {
	for _, t := range []struct {
		key     string
		seconds int64
	}{{TaintNotReady, notReady}, {TaintUnreachable, unreachable}} {
		named := slices.ContainsFunc(s.GetTolerations(), func(o *v1.Toleration) bool {
			return (o.GetKey() == t.key || o.GetKey() == "") && (o.GetEffect() == EffectNoExecute || o.GetEffect() == "")
		})
		if !named {
			s.Tolerations = append(s.Tolerations, &v1.Toleration{
				Key: t.key, Operator: TolerationExists, Effect: EffectNoExecute, TolerationSeconds: &t.seconds,
			})
		}
	}
}

// MayStay says how long a pod with these tolerations may stay on a node with the
// taint: not at all, for a time, or, where forever is true, as long as it likes.
// As in Kubernetes, of several tolerations that match the first counts.
func MayStay(tolerations []*v1.Toleration, t *v1.Taint) (d time.Duration, forever bool) {
	for _, o := range tolerations {
		if Tolerates([]*v1.Toleration{o}, t) {
			return time.Duration(max(o.GetTolerationSeconds(), 0)) * time.Second, o.TolerationSeconds == nil
		}
	}
	return 0, false
}

const notModified = "existing toleration can not be modified except its tolerationSeconds"

func (e *problems) taints(p path, taints []*v1.Taint) {
	for i, t := range taints {
		p := p.index(i)
		e.invalidEach(p.child("key"), t.GetKey(), qualifiedName(t.GetKey()))
		e.invalidEach(p.child("value"), t.GetValue(), labelValue(t.GetValue()))
		e.oneOf(p.child("effect"), t.GetEffect(), EffectNoExecute, EffectNoSchedule, EffectPreferNoSchedule)
		if slices.ContainsFunc(taints[:i], func(o *v1.Taint) bool { return SameTaint(t, o) }) {
			e.add(p, "FieldValueDuplicate", "Duplicate value: "+show(FormatTaint(t)), "taints must be unique by key and effect pair")
		}
	}
}

func (e *problems) tolerations(p path, tolerations []*v1.Toleration) {
	for i, t := range tolerations {
		p := p.index(i)
		if t.GetKey() != "" {
			e.invalidEach(p.child("key"), t.GetKey(), qualifiedName(t.GetKey()))
		} else if t.GetOperator() != TolerationExists {
			e.invalid(p.child("operator"), t.GetOperator(), "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.GetEffect() != EffectNoExecute {
			e.invalid(p.child("effect"), t.GetEffect(), "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.GetOperator() {
		case "", TolerationEqual:
			e.invalidEach(p.child("operator"), t.GetValue(), labelValue(t.GetValue()))
		case TolerationExists:
			if t.GetValue() != "" {
				e.invalid(p.child("operator"), t.GetValue(), "value must be empty when `operator` is 'Exists'")
			}
		default:
			e.notSupported(p.child("operator"), t.GetOperator(), TolerationEqual, TolerationExists)
		}
		e.maybeOneOf(p.child("effect"), t.GetEffect(), EffectNoExecute, EffectNoSchedule, EffectPreferNoSchedule)
	}
}

// tolerationsUpdate allows new tolerations, and other times of old ones.
func (e *problems) tolerationsUpdate(p path, new, old []*v1.Toleration) {
	plain := func(t *v1.Toleration) string {
		return fmt.Sprintf("%q %q %q %q", t.GetKey(), t.GetOperator(), t.GetValue(), t.GetEffect())
	}
	for _, o := range old {
		if !slices.ContainsFunc(new, func(n *v1.Toleration) bool { return plain(n) == plain(o) }) {
			e.forbidden(p, notModified)
			return
		}
	}
}
