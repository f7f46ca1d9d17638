package api

import (
	"strings"

	v1 "orch/proto/v1"
)

// pathSegment is the syntax of the names of roles and bindings: whatever a URL
// can hold between two slashes.
func pathSegment(s string) (msgs []string) {
	if s == "." || s == ".." {
		return []string{"may not be '" + s + "'"}
	}
	for _, bad := range []string{"/", "%"} {
		if strings.Contains(s, bad) {
			msgs = append(msgs, "may not contain '"+bad+"'")
		}
	}
	return msgs
}

func (e *problems) rules(rules []*v1.PolicyRule, namespaced bool) {
	for i, r := range rules {
		p := path("rules").index(i)
		if len(r.GetVerbs()) == 0 {
			e.required(p.child("verbs"), "verbs must contain at least one value")
		}
		if urls := r.GetNonResourceUrls(); len(urls) > 0 {
			if namespaced {
				e.invalid(p.child("nonResourceURLs"), urls, "namespaced rules cannot apply to non-resource URLs")
			}
			if len(r.GetApiGroups())+len(r.GetResources())+len(r.GetResourceNames()) > 0 {
				e.invalid(p.child("nonResourceURLs"), urls, "rules cannot apply to both regular resources and non-resource URLs")
			}
			continue
		}
		if len(r.GetApiGroups()) == 0 {
			e.required(p.child("apiGroups"), "resource rules must supply at least one api group")
		}
		if len(r.GetResources()) == 0 {
			e.required(p.child("resources"), "resource rules must supply at least one resource")
		}
	}
}

func (e *problems) binding(ref *v1.RoleRef, subjects []*v1.Subject, namespaced bool) {
	const p path = "roleRef"
	if ref.GetApiGroup() != GroupRBAC {
		e.notSupported(p.child("apiGroup"), ref.GetApiGroup(), GroupRBAC)
	}
	switch {
	case ref.GetKind() == "ClusterRole", ref.GetKind() == "Role" && namespaced:
	case namespaced:
		e.notSupported(p.child("kind"), ref.GetKind(), "Role", "ClusterRole")
	default:
		e.notSupported(p.child("kind"), ref.GetKind(), "ClusterRole")
	}
	e.valid(p.child("name"), ref.GetName(), pathSegment)
	for i, s := range subjects {
		p := path("subjects").index(i)
		e.present(p.child("name"), s.GetName())
		switch s.GetKind() {
		case SubjectServiceAccount:
			if s.GetName() != "" {
				e.invalidEach(p.child("name"), s.GetName(), dnsSubdomain(s.GetName()))
			}
			if s.GetApiGroup() != "" {
				e.notSupported(p.child("apiGroup"), s.GetApiGroup(), "")
			}
			if !namespaced && s.GetNamespace() == "" {
				e.required(p.child("namespace"), "")
			}
		case SubjectUser, SubjectGroup:
			if s.GetApiGroup() != GroupRBAC {
				e.notSupported(p.child("apiGroup"), s.GetApiGroup(), GroupRBAC)
			}
		default:
			e.notSupported(p.child("kind"), s.GetKind(), SubjectServiceAccount, SubjectUser, SubjectGroup)
		}
	}
}

// showRoleRef gives the reference the JSON that its users write.
func showRoleRef(r *v1.RoleRef) any {
	return struct {
		APIGroup string `json:"apiGroup"`
		Kind     string `json:"kind"`
		Name     string `json:"name"`
	}{r.GetApiGroup(), r.GetKind(), r.GetName()}
}
