// Package authz says who may do what: roles and bindings as Kubernetes' RBAC has
// them, and what nodes may, which depends on what runs on them. All of it is
// pure: policies and facts are arguments.
//
// The one invariant: what nothing allows is refused. No rule forbids, so more
// rules never allow less.
//
// Read next: role.go (the roles that every cluster has), node.go, then
// authorize.go of package apiserver, which asks.
package authz

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/identity"
	v1 "orch/proto/v1"
)

// Request is what somebody wants to do: to objects, or to a path.
type Request struct {
	Verb string // get, list, watch, create, update, patch, delete, ...
	// Group, Resource and Subresource are as in "apps", "deployments", "status".
	Group, Resource, Subresource string
	// Namespace and Name are empty for all, or for a kind without namespaces.
	Namespace, Name string
	// Path is that of a request which is not for objects.
	Path string
	// Node is the only node whose pods or injections a list or watch asks for.
	Node string
}

// IsRead says whether the request changes nothing.
func (r Request) IsRead() bool { return slices.Contains([]string{"get", "list", "watch"}, r.Verb) }

// Refusal is the sentence in which Kubernetes refuses the request.
func (r Request) Refusal(u identity.User, why string) error {
	resource, what := r.Resource, r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	if r.Group != "" {
		what += "." + r.Group
	}
	if r.Name != "" {
		what = fmt.Sprintf("%s %q", what, r.Name)
	}
	scope := "at the cluster scope"
	if r.Namespace != "" {
		scope = fmt.Sprintf("in the namespace %q", r.Namespace)
	}
	message := fmt.Sprintf("%s is forbidden: User %q cannot %s resource %q in API group %q %s", what, u.Name, r.Verb, resource, r.Group, scope)
	if why != "" {
		message += ": " + why
	}
	return &api.StatusError{Reason: api.ErrForbidden, Name: r.Name, Message: message}
}

// Policy is all roles and bindings of a cluster.
type Policy struct {
	Roles               map[api.Key]*v1.Role
	ClusterRoles        map[string]*v1.ClusterRole
	RoleBindings        map[string][]*v1.RoleBinding // by namespace
	ClusterRoleBindings []*v1.ClusterRoleBinding
}

// Allows says whether the user's roles allow the request, and by which binding.
func (p *Policy) Allows(u identity.User, r Request) (allowed bool, why string) {
	if u.In(identity.GroupMasters) {
		return true, ""
	}
	p.visit(u, r.Namespace, func(source string, rules []*v1.PolicyRule) bool {
		if slices.ContainsFunc(rules, r.allowedBy) {
			allowed, why = true, "RBAC: allowed by "+source
		}
		return !allowed
	})
	return allowed, why
}

// RulesOf are all rules that apply to a user in a namespace; "" is everywhere.
func (p *Policy) RulesOf(u identity.User, namespace string) (all []*v1.PolicyRule) {
	p.visit(u, namespace, func(_ string, rules []*v1.PolicyRule) bool {
		all = append(all, rules...)
		return true
	})
	return all
}

// visit calls f with the rules of each binding of the user, until it returns
// false.
func (p *Policy) visit(u identity.User, namespace string, f func(source string, rules []*v1.PolicyRule) bool) {
	for _, b := range p.ClusterRoleBindings {
		s, ok := subjectOf(u, b.GetSubjects(), "")
		if ok && !f(fmt.Sprintf("ClusterRoleBinding %q of ClusterRole %q to %s", b.GetMetadata().GetName(), b.GetRoleRef().GetName(), s),
			p.RulesIn(b.GetRoleRef(), "")) {
			return
		}
	}
	if namespace == "" {
		return
	}
	for _, b := range p.RoleBindings[namespace] {
		s, ok := subjectOf(u, b.GetSubjects(), namespace)
		if ok && !f(fmt.Sprintf("RoleBinding \"%s/%s\" of %s %q to %s", b.GetMetadata().GetName(), namespace, b.GetRoleRef().GetKind(), b.GetRoleRef().GetName(), s),
			p.RulesIn(b.GetRoleRef(), namespace)) {
			return
		}
	}
}

// RulesIn are the rules that a role has to which a binding of a namespace ("" for
// a ClusterRoleBinding) refers.
func (p *Policy) RulesIn(ref *v1.RoleRef, namespace string) []*v1.PolicyRule {
	if ref.GetKind() == "ClusterRole" {
		return p.ClusterRoles[ref.GetName()].GetRules()
	}
	return p.Roles[api.Key{Namespace: namespace, Name: ref.GetName()}].GetRules()
}

// subjectOf finds the subject that the user is.
func subjectOf(u identity.User, subjects []*v1.Subject, namespace string) (string, bool) {
	for _, s := range subjects {
		switch s.GetKind() {
		case api.SubjectUser:
			if s.GetName() == u.Name {
				return fmt.Sprintf("User %q", u.Name), true
			}
		case api.SubjectGroup:
			if u.In(s.GetName()) {
				return fmt.Sprintf("Group %q", s.GetName()), true
			}
		case api.SubjectServiceAccount:
			if ns := cmp.Or(s.GetNamespace(), namespace); u.Name == "system:serviceaccount:"+ns+":"+s.GetName() {
				return fmt.Sprintf("ServiceAccount \"%s/%s\"", s.GetName(), ns), true
			}
		}
	}
	return "", false
}

const all = "*"

func has(list []string, word string) bool {
	return slices.Contains(list, all) || slices.Contains(list, word)
}

// allowedBy says whether a rule allows the request.
func (r Request) allowedBy(rule *v1.PolicyRule) bool {
	if !has(rule.GetVerbs(), r.Verb) {
		return false
	}
	if r.Path != "" {
		return slices.ContainsFunc(rule.GetNonResourceUrls(), func(url string) bool { return matchesPath(url, r.Path) })
	}
	names := rule.GetResourceNames()
	return has(rule.GetApiGroups(), r.Group) && matchesResource(rule.GetResources(), r.Resource, r.Subresource) &&
		(len(names) == 0 || slices.Contains(names, r.Name))
}

func matchesPath(pattern, path string) bool {
	prefix, tree := strings.CutSuffix(pattern, all)
	return pattern == path || tree && strings.HasPrefix(path, prefix)
}

func matchesResource(resources []string, resource, sub string) bool {
	if sub == "" {
		return has(resources, resource)
	}
	return has(resources, resource+"/"+sub) || slices.Contains(resources, all+"/"+sub)
}

// Missing are the permissions among wanted that held does not cover, one verb of
// one resource each: nobody hands on what they do not hold themselves.
func Missing(held, wanted []*v1.PolicyRule) (missing []*v1.PolicyRule) {
	for _, w := range wanted {
		for _, single := range split(w) {
			if !slices.ContainsFunc(held, func(h *v1.PolicyRule) bool { return covers(h, single) }) {
				missing = append(missing, single)
			}
		}
	}
	return missing
}

// split takes a rule apart into rules of one verb and one resource or path.
func split(r *v1.PolicyRule) (out []*v1.PolicyRule) {
	for _, verb := range r.GetVerbs() {
		for _, group := range r.GetApiGroups() {
			for _, resource := range r.GetResources() {
				one := &v1.PolicyRule{Verbs: []string{verb}, ApiGroups: []string{group}, Resources: []string{resource}}
				if len(r.GetResourceNames()) == 0 {
					out = append(out, one)
				}
				for _, name := range r.GetResourceNames() {
					one := proto.CloneOf(one)
					one.ResourceNames = []string{name}
					out = append(out, one)
				}
			}
		}
		for _, url := range r.GetNonResourceUrls() {
			out = append(out, &v1.PolicyRule{Verbs: []string{verb}, NonResourceUrls: []string{url}})
		}
	}
	return out
}

// covers says whether a rule allows all that a split one does. A "*" of the
// latter is covered by a "*" only.
func covers(h, one *v1.PolicyRule) bool {
	if !has(h.GetVerbs(), one.GetVerbs()[0]) {
		return false
	}
	if urls := one.GetNonResourceUrls(); len(urls) > 0 {
		return slices.ContainsFunc(h.GetNonResourceUrls(), func(url string) bool { return matchesPath(url, urls[0]) })
	}
	resource, sub, _ := strings.Cut(one.GetResources()[0], "/")
	if !has(h.GetApiGroups(), one.GetApiGroups()[0]) || !matchesResource(h.GetResources(), resource, sub) {
		return false
	}
	names := one.GetResourceNames()
	return len(h.GetResourceNames()) == 0 || len(names) > 0 && slices.Contains(h.GetResourceNames(), names[0])
}

// Describe is a rule as Kubernetes' messages show it.
func Describe(r *v1.PolicyRule) string {
	var parts []string
	for _, f := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.GetApiGroups()},
		{"Resources", r.GetResources()},
		{"ResourceNames", r.GetResourceNames()},
		{"NonResourceURLs", r.GetNonResourceUrls()},
		{"Verbs", r.GetVerbs()},
	} {
		if len(f.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", f.name, f.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
