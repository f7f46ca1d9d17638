package api

import (
	"maps"
	"slices"
	"strings"

	v1 "orch/proto/v1"
)

// Validate says what is wrong with an object that is to be created, after
// [Default]. Paths and sentences are Kubernetes'. What Validate accepts
// Kubernetes accepts too; docs/differences.md lists what only Kubernetes does.
func Validate(o Object) []*v1.FieldError {
	var e problems
	e.metadata(o)
	switch o := o.(type) {
	case *v1.Pod:
		e.podSpec("spec", o.GetSpec())
	case *v1.ReplicaSet:
		e.replicaSetSpec(o.GetSpec())
	case *v1.Deployment:
		e.deploymentSpec(o.GetSpec())
	case *v1.Namespace:
		for _, f := range o.GetSpec().GetFinalizers() {
			e.invalidEach("spec.finalizers", f, qualifiedName(f))
		}
	case *v1.Node:
		e.node(o)
	case *v1.ConfigMap:
		e.configMap(o)
	case *v1.Secret:
		e.secret(o)
	case *v1.Event:
		e.event(o)
	case *v1.PodDisruptionBudget:
		e.disruptionBudget(o.GetSpec())
	case *v1.ChaosExperiment:
		e.experiment(o.GetSpec())
	case *v1.ChaosInjection:
		e.injection(o.GetSpec())
	case *v1.Role:
		e.rules(o.GetRules(), true)
	case *v1.ClusterRole:
		e.rules(o.GetRules(), false)
	case *v1.RoleBinding:
		e.binding(o.GetRoleRef(), o.GetSubjects(), true)
	case *v1.ClusterRoleBinding:
		e.binding(o.GetRoleRef(), o.GetSubjects(), false)
	}
	return e.list
}

// maxAnnotations is the most bytes that all annotations of an object may have
// together, keys included: Kubernetes' TotalAnnotationSizeLimitB.
const maxAnnotations = 256 << 10

func (e *problems) metadata(o Object) {
	m, k := o.GetMetadata(), KindOf(o)
	name := dnsSubdomain
	switch {
	case k.Name == "Namespace":
		name = dnsLabel
	case k.Group == GroupRBAC:
		name = pathSegment
	}
	const p path = "metadata"
	if g := m.GetGenerateName(); g != "" {
		e.invalidEach(p.child("generateName"), g, name(maskTrailingDash(g)))
	}
	if m.GetName() == "" {
		e.required(p.child("name"), "name or generateName is required")
	} else {
		e.invalidEach(p.child("name"), m.GetName(), name(m.GetName()))
	}
	switch ns := m.GetNamespace(); {
	case !k.Namespaced && ns != "":
		e.forbidden(p.child("namespace"), "not allowed on this type")
	case k.Namespaced && ns == "":
		e.required(p.child("namespace"), "")
	case k.Namespaced:
		e.invalidEach(p.child("namespace"), ns, dnsLabel(ns))
	}
	e.nonNegative(p.child("generation"), m.GetGeneration())
	e.templateMetadata(p, m)
	e.ownerReferences(p.child("ownerReferences"), m.GetOwnerReferences())
	for _, f := range m.GetFinalizers() {
		e.invalidEach(p.child("finalizers"), f, qualifiedName(f))
	}
	if slices.Contains(m.GetFinalizers(), FinalizerOrphan) && slices.Contains(m.GetFinalizers(), FinalizerForeground) {
		e.invalid(p.child("finalizers"), m.GetFinalizers(), "finalizer orphan and foregroundDeletion cannot be both set")
	}
}

// maskTrailingDash makes a dash at the end of a prefix good, because something
// follows it.
func maskTrailingDash(s string) string {
	if len(s) > 1 && strings.HasSuffix(s, "-") {
		return s[:len(s)-2] + "a"
	}
	return s
}

// templateMetadata checks the part of metadata that templates have as well.
func (e *problems) templateMetadata(p path, m *v1.ObjectMeta) {
	e.labels(p.child("labels"), m.GetLabels())
	p = p.child("annotations")
	size := 0
	for _, k := range slices.Sorted(maps.Keys(m.GetAnnotations())) {
		e.invalidEach(p, k, qualifiedName(strings.ToLower(k)))
		size += len(k) + len(m.GetAnnotations()[k])
	}
	if size > maxAnnotations {
		e.tooLong(p, maxAnnotations)
	}
	e.stopWhenCutOff(p, m)
}

func (e *problems) labels(p path, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		e.invalidEach(p, k, qualifiedName(k))
		e.invalidEach(p, labels[k], labelValue(labels[k]))
	}
}

func (e *problems) ownerReferences(all path, refs []*v1.OwnerReference) {
	controller := ""
	for i, r := range refs {
		p := all.index(i)
		for _, f := range []struct{ name, value string }{{"apiVersion", r.GetApiVersion()}, {"kind", r.GetKind()}, {"name", r.GetName()}, {"uid", r.GetUid()}} {
			if f.value == "" {
				e.required(p.child(f.name), "must not be empty")
			}
		}
		if v := r.GetApiVersion(); strings.HasSuffix(v, "/") || strings.Count(v, "/") > 1 {
			e.invalid(p.child("apiVersion"), v, "must be <group>/<version> or <version>")
		}
		if r.GetApiVersion() == "v1" && r.GetKind() == "Event" {
			e.invalid(p, r, "/v1, Kind=Event is disallowed from being an owner")
		}
		if !r.GetController() {
			continue
		}
		this := r.GetKind() + "/" + r.GetName()
		if controller != "" {
			e.invalid(all, refs, `Only one reference can have Controller set to true. Found "true" in references for `+controller+" and "+this)
			continue
		}
		controller = this
	}
}

func (e *problems) labelSelector(p path, s *v1.LabelSelector) {
	e.labels(p.child("matchLabels"), s.GetMatchLabels())
	for i, r := range s.GetMatchExpressions() {
		p := p.child("matchExpressions").index(i)
		switch r.GetOperator() {
		case "In", "NotIn":
			if len(r.GetValues()) == 0 {
				e.required(p.child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
			}
		case "Exists", "DoesNotExist":
			if len(r.GetValues()) > 0 {
				e.forbidden(p.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
			}
		default:
			e.invalid(p.child("operator"), r.GetOperator(), "not a valid selector operator")
		}
		e.invalidEach(p.child("key"), r.GetKey(), qualifiedName(r.GetKey()))
		for j, v := range r.GetValues() {
			e.invalidEach(p.child("values").index(j), v, labelValue(v))
		}
	}
}
