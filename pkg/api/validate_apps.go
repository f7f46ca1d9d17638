package api

import (
	"strings"

	v1 "orch/proto/v1"
)

func (e *problems) replicaSetSpec(s *v1.ReplicaSetSpec) {
	const p path = "spec"
	e.nonNegative(p.child("replicas"), int64(s.GetReplicas()))
	e.nonNegative(p.child("minReadySeconds"), int64(s.GetMinReadySeconds()))
	e.selectorAndTemplate(p, s.GetSelector(), s.GetTemplate())
}

func (e *problems) deploymentSpec(s *v1.DeploymentSpec) {
	const p path = "spec"
	e.nonNegative(p.child("replicas"), int64(s.GetReplicas()))
	e.selectorAndTemplate(p, s.GetSelector(), s.GetTemplate())
	e.strategy(p.child("strategy"), s.GetStrategy())
	e.nonNegative(p.child("minReadySeconds"), int64(s.GetMinReadySeconds()))
	e.nonNegative(p.child("revisionHistoryLimit"), int64(s.GetRevisionHistoryLimit()))
	if s != nil && s.ProgressDeadlineSeconds != nil {
		d := s.GetProgressDeadlineSeconds()
		e.nonNegative(p.child("progressDeadlineSeconds"), int64(d))
		if d <= s.GetMinReadySeconds() {
			e.invalid(p.child("progressDeadlineSeconds"), d, "must be greater than minReadySeconds")
		}
	}
}

// selectorAndTemplate checks what ReplicaSets and Deployments share: the
// selector must choose the pods that the template makes.
func (e *problems) selectorAndTemplate(p path, selector *v1.LabelSelector, t *v1.PodTemplateSpec) {
	before := len(e.list)
	if selector == nil {
		e.required(p.child("selector"), "")
	} else {
		e.labelSelector(p.child("selector"), selector)
		if len(selector.GetMatchLabels())+len(selector.GetMatchExpressions()) == 0 {
			// Kubernetes says "deployment" for ReplicaSets too.
			e.invalid(p.child("selector"), selector, "empty selector is invalid for deployment")
		}
	}
	p = p.child("template")
	if t == nil {
		e.required(p, "")
		return
	}
	labels := t.GetMetadata().GetLabels()
	if s, err := SelectorOf(selector); len(e.list) == before && err == nil && !s.Matches(labels) {
		e.invalid(p.child("metadata.labels"), labels, "`selector` does not match template `labels`")
	}
	e.templateMetadata(p.child("metadata"), t.GetMetadata())
	p = p.child("spec")
	e.podSpec(p, t.GetSpec())
	if r := t.GetSpec().GetRestartPolicy(); r == RestartPolicyOnFailure || r == RestartPolicyNever {
		e.notSupported(p.child("restartPolicy"), r, RestartPolicyAlways)
	}
	if hasDeadline(t.GetSpec()) {
		e.forbidden(p.child("activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported")
	}
}

func (e *problems) strategy(p path, s *v1.DeploymentStrategy) {
	e.oneOf(p.child("type"), s.GetType(), StrategyRecreate, StrategyRollingUpdate)
	r := s.GetRollingUpdate()
	p = p.child("rollingUpdate")
	switch s.GetType() {
	case StrategyRecreate:
		if r != nil {
			e.forbidden(p, "may not be specified when strategy `type` is 'Recreate'")
		}
	case StrategyRollingUpdate:
		if r == nil {
			e.required(p, "this should be defaulted and never be nil")
			return
		}
		ok := e.numberOrPercent(p.child("maxUnavailable"), r.GetMaxUnavailable())
		ok = e.numberOrPercent(p.child("maxSurge"), r.GetMaxSurge()) && ok
		if !ok {
			return
		}
		if isZero(r.GetMaxUnavailable()) && isZero(r.GetMaxSurge()) {
			e.invalid(p.child("maxUnavailable"), r.GetMaxUnavailable(), "may not be 0 when `maxSurge` is 0")
		}
		e.atMostAll(p.child("maxUnavailable"), r.GetMaxUnavailable())
	}
}

func (e *problems) disruptionBudget(s *v1.PodDisruptionBudgetSpec) {
	const p path = "spec"
	if s.GetMinAvailable() != nil && s.GetMaxUnavailable() != nil {
		e.invalid(p, map[string]any{"minAvailable": FormatIntOrString(s.GetMinAvailable()), "maxUnavailable": FormatIntOrString(s.GetMaxUnavailable())},
			"minAvailable and maxUnavailable cannot be both set")
	}
	for _, f := range []struct {
		p path
		v *v1.IntOrString
	}{{p.child("minAvailable"), s.GetMinAvailable()}, {p.child("maxUnavailable"), s.GetMaxUnavailable()}} {
		if f.v != nil && e.numberOrPercent(f.p, f.v) {
			e.atMostAll(f.p, f.v)
		}
	}
	e.labelSelector(p.child("selector"), s.GetSelector())
	if policy := s.GetUnhealthyPodEvictionPolicy(); s != nil && s.UnhealthyPodEvictionPolicy != nil && policy != AlwaysAllow && policy != IfHealthyBudget {
		e.notSupported(p.child("unhealthyPodEvictionPolicy"), policy, AlwaysAllow, IfHealthyBudget)
	}
}

// atMostAll refuses percentages of more than all.
func (e *problems) atMostAll(p path, v *v1.IntOrString) {
	if n, err := ScaledValue(v, 100, false); v.GetStr() != "" && err == nil && n > 100 {
		e.invalid(p, v, "must not be greater than 100%")
	}
}

// numberOrPercent says whether v is a number from 0 or a percentage.
func (e *problems) numberOrPercent(p path, v *v1.IntOrString) bool {
	before := len(e.list)
	switch x := v.GetValue().(type) {
	case *v1.IntOrString_Int:
		e.nonNegative(p, int64(x.Int))
	case *v1.IntOrString_Str:
		e.invalidEach(p, x.Str, percent(x.Str))
		if _, err := ScaledValue(v, 100, false); len(e.list) == before && err != nil {
			e.invalid(p, x.Str, "must fit 32 bits")
		}
	default:
		e.required(p, "")
	}
	return len(e.list) == before
}

// isZero says whether v is 0 or "0%".
func isZero(v *v1.IntOrString) bool {
	return strings.Trim(strings.TrimSuffix(FormatIntOrString(v), "%"), "0") == ""
}
