// Package podsecurity holds pods to the Pod Security Standards: three levels of
// what a pod may ask of its node, of which a namespace chooses one by labels.
// Privileged allows all; baseline forbids what gives a pod the node; restricted
// also demands what hardens a pod.
//
// The one invariant: what a level allows, and the sentence in which it refuses,
// are Kubernetes' own for every field that Orch has. A test compares the two.
//
// Read next: rule.go (what the levels forbid), then security.go of package
// apiserver, which asks.
package podsecurity

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Levels, from the most open to the strictest.
const (
	Privileged = "privileged"
	Baseline   = "baseline"
	Restricted = "restricted"
)

// Labels of a namespace. To each belongs one with "-version" behind it.
const (
	LabelEnforce = "pod-security.kubernetes.io/enforce"
	LabelWarn    = "pod-security.kubernetes.io/warn"
	LabelAudit   = "pod-security.kubernetes.io/audit"
)

// latest is the minor version of the newest rules.
const latest = math.MaxInt32

// Standard is a level as a release of Kubernetes defined it.
type Standard struct {
	Level string
	minor int
}

// String returns "baseline:latest" or "baseline:v1.30".
func (s Standard) String() string {
	if s.minor == latest {
		return s.Level + ":latest"
	}
	return fmt.Sprintf("%s:v1.%d", s.Level, s.minor)
}

// Policy is what a namespace's labels ask for: what violates Enforce is
// refused, what violates Warn is answered with a warning, what violates Audit
// is noted in the server's log.
type Policy struct{ Enforce, Warn, Audit Standard }

// PolicyOf reads the labels of a namespace, and says what is wrong with them.
// Where they say nothing, baseline is enforced; a pod that needs more is rare,
// and who makes one should have to say so once. Warn is as Enforce.
func PolicyOf(labels map[string]string) (Policy, []*v1.FieldError) {
	var wrong []*v1.FieldError
	read := func(label string, s Standard, broken string) Standard {
		if level, ok := labels[label]; ok {
			if s.Level = level; !slices.Contains([]string{Privileged, Baseline, Restricted}, level) {
				s.Level = broken
				wrong = append(wrong, invalid(label, level, "must be one of privileged, baseline, restricted"))
			}
		}
		if version, ok := labels[label+"-version"]; ok {
			if s.minor, ok = minorOf(version); !ok {
				wrong = append(wrong, invalid(label+"-version", version, `must be "latest" or "v1.x"`))
			}
		}
		return s
	}
	// What cannot be read was written before it was checked: then enforcing
	// errs to the safe side, and the others stay silent.
	var p Policy
	p.Enforce = read(LabelEnforce, Standard{Baseline, latest}, Restricted)
	p.Audit = read(LabelAudit, Standard{Privileged, latest}, Privileged)
	warn := p.Enforce
	if _, ok := labels[LabelWarn]; ok {
		warn.minor = latest
	}
	p.Warn = read(LabelWarn, warn, Privileged)
	return p, wrong
}

var version = regexp.MustCompile(`^v1\.(0|[1-9][0-9]*)$`)

func minorOf(s string) (int, bool) {
	if m := version.FindStringSubmatch(s); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n, true
		}
	}
	return latest, s == "latest"
}

func invalid(label, value, why string) *v1.FieldError {
	return &v1.FieldError{
		Field: "metadata.labels[" + label + "]", Reason: "FieldValueInvalid",
		Message: fmt.Sprintf("Invalid value: %q: %s", value, why),
	}
}

// Violation is one rule that a pod breaks.
type Violation struct {
	// Reason names the rule, Detail what breaks it.
	Reason, Detail string
}

// Check returns the rules of a standard that a pod, or what a template makes,
// breaks.
func (s Standard) Check(m *v1.ObjectMeta, spec *v1.PodSpec) []Violation {
	var all []Violation
	p := pod{spec, api.AllContainers(spec), m.GetAnnotations(), s.minor}
	for _, r := range rules {
		if !s.has(r) {
			continue
		}
		if v := r.check(p); v.Reason != "" {
			all = append(all, v)
		}
	}
	return all
}

func (s Standard) has(r rule) bool {
	switch s.Level {
	case Baseline:
		return r.level == Baseline && s.minor >= r.since
	case Restricted:
		return s.minor >= r.since && s.minor < r.stricter
	}
	return false
}

// Violates is Kubernetes' sentence for the violations of a standard; empty
// where there are none. Would is "violates" or "would violate".
func (s Standard) Violates(would string, m *v1.ObjectMeta, spec *v1.PodSpec) string {
	var all []string
	for _, v := range s.Check(m, spec) {
		if v.Detail != "" {
			v.Reason += " (" + v.Detail + ")"
		}
		all = append(all, v.Reason)
	}
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf("%s PodSecurity %q: %s", would, s, strings.Join(all, ", "))
}

// PodOf returns the pod that an object is or makes; nils for other objects.
func PodOf(o api.Object) (*v1.ObjectMeta, *v1.PodSpec) {
	switch o := o.(type) {
	case *v1.Pod:
		return o.GetMetadata(), o.GetSpec()
	case *v1.ReplicaSet:
		return o.GetSpec().GetTemplate().GetMetadata(), o.GetSpec().GetTemplate().GetSpec()
	case *v1.Deployment:
		return o.GetSpec().GetTemplate().GetMetadata(), o.GetSpec().GetTemplate().GetSpec()
	}
	return nil, nil
}

// Tightens says whether a change from old to s may make pods violate that did
// not.
func (s Standard) Tightens(old Standard) bool {
	if s == old || s.Level == Privileged {
		return false
	}
	return s.minor != old.minor || s.Level == Restricted || old.Level == Privileged
}

// Existing are the warnings about pods that run already and would now be
// refused.
func (s Standard) Existing(namespace string, pods []*v1.Pod) []string {
	first, count := map[string]string{}, map[string]int{}
	for _, p := range pods {
		var reasons []string
		for _, v := range s.Check(p.GetMetadata(), p.GetSpec()) {
			reasons = append(reasons, v.Reason)
		}
		if len(reasons) == 0 {
			continue
		}
		all, name := strings.Join(reasons, ", "), p.GetMetadata().GetName()
		if count[all]++; count[all] == 1 || name < first[all] {
			first[all] = name
		}
	}
	var each []string
	for _, reasons := range slices.Collect(maps.Keys(count)) {
		others := ""
		switch n := count[reasons] - 1; {
		case n == 1:
			others = " (and 1 other pod)"
		case n > 1:
			others = fmt.Sprintf(" (and %d other pods)", n)
		}
		each = append(each, first[reasons]+others+": "+reasons)
	}
	if len(each) == 0 {
		return nil
	}
	slices.Sort(each)
	return append([]string{fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, s)}, each...)
}
