package authz_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"orch/pkg/api"
	"orch/pkg/apiserver/authz"
	"orch/pkg/identity"
	v1 "orch/proto/v1"
)

// policy gives the rules to the user u everywhere.
func policy(rules ...*v1.PolicyRule) *authz.Policy {
	return &authz.Policy{
		ClusterRoles: map[string]*v1.ClusterRole{"r": {Rules: rules}},
		ClusterRoleBindings: []*v1.ClusterRoleBinding{{
			RoleRef: &v1.RoleRef{Kind: "ClusterRole", Name: "r"}, Subjects: []*v1.Subject{{Kind: api.SubjectUser, Name: "u"}},
		}},
	}
}

func TestARuleAllowsWhatItNamesAndNothingElse(t *testing.T) {
	pods := &v1.PolicyRule{Verbs: []string{"get"}, ApiGroups: []string{""}, Resources: []string{"pods"}}
	for name, tt := range map[string]struct {
		rule *v1.PolicyRule
		r    authz.Request
		want bool
	}{
		"the verb on the resource": {pods, authz.Request{Verb: "get", Resource: "pods", Namespace: "n", Name: "x"}, true},
		"another verb":             {pods, authz.Request{Verb: "list", Resource: "pods"}, false},
		"another resource":         {pods, authz.Request{Verb: "get", Resource: "secrets"}, false},
		"another group":            {pods, authz.Request{Verb: "get", Group: "apps", Resource: "pods"}, false},
		"a subresource is another": {pods, authz.Request{Verb: "get", Resource: "pods", Subresource: "log"}, false},
		"the subresource of a rule": {
			&v1.PolicyRule{Verbs: []string{"get"}, ApiGroups: []string{""}, Resources: []string{"pods/log"}},
			authz.Request{Verb: "get", Resource: "pods", Subresource: "log"},
			true,
		},
		"a subresource of all": {
			&v1.PolicyRule{Verbs: []string{"get"}, ApiGroups: []string{"*"}, Resources: []string{"*/log"}},
			authz.Request{Verb: "get", Resource: "pods", Subresource: "log"},
			true,
		},
		"all of all": {
			&v1.PolicyRule{Verbs: []string{"*"}, ApiGroups: []string{"*"}, Resources: []string{"*"}},
			authz.Request{Verb: "delete", Group: "apps", Resource: "deployments", Subresource: "scale"},
			true,
		},
		"an object by name": {
			&v1.PolicyRule{Verbs: []string{"get"}, ApiGroups: []string{""}, Resources: []string{"pods"}, ResourceNames: []string{"a"}},
			authz.Request{Verb: "get", Resource: "pods", Name: "a"},
			true,
		},
		"all, where the rule is for one": {
			&v1.PolicyRule{Verbs: []string{"list"}, ApiGroups: []string{""}, Resources: []string{"pods"}, ResourceNames: []string{"a"}},
			authz.Request{Verb: "list", Resource: "pods"},
			false,
		},
		"a path below":  {&v1.PolicyRule{Verbs: []string{"get"}, NonResourceUrls: []string{"/debug/*"}}, authz.Request{Verb: "get", Path: "/debug/pprof"}, true},
		"a path beside": {&v1.PolicyRule{Verbs: []string{"get"}, NonResourceUrls: []string{"/debug/*"}}, authz.Request{Verb: "get", Path: "/metrics"}, false},
		"a path, where the rule is for resources": {
			&v1.PolicyRule{Verbs: []string{"*"}, ApiGroups: []string{"*"}, Resources: []string{"*"}}, authz.Request{Verb: "get", Path: "/metrics"}, false,
		},
	} {
		if got, _ := policy(tt.rule).Allows(identity.User{Name: "u"}, tt.r); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got, _ := policy(pods).Allows(identity.User{Name: "v"}, authz.Request{Verb: "get", Resource: "pods"}); got {
		t.Error("another user was allowed")
	}
}

func drawRule(t *rapid.T) *v1.PolicyRule {
	words := func(from ...string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, 2, rapid.ID[string]).Draw(t, "words")
	}
	r := &v1.PolicyRule{Verbs: words("get", "list", "*")}
	if rapid.Bool().Draw(t, "path") {
		r.NonResourceUrls = words("/a", "/a/*", "/a/b", "*")
		return r
	}
	r.ApiGroups, r.Resources = words("", "apps", "*"), words("pods", "pods/log", "*/log", "*", "nodes")
	if rapid.Bool().Draw(t, "named") {
		r.ResourceNames = words("x", "y")
	}
	return r
}

// Whoever lacks nothing of a role may do all that the role allows.
func TestNothingIsMissingOnlyWhereNothingMoreIsAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		held := rapid.SliceOfN(rapid.Custom(drawRule), 0, 3).Draw(t, "held")
		wanted := rapid.SliceOfN(rapid.Custom(drawRule), 1, 2).Draw(t, "wanted")
		r := authz.Request{
			Verb: rapid.SampledFrom([]string{"get", "list", "delete"}).Draw(t, "verb"), Group: rapid.SampledFrom([]string{"", "apps", "batch"}).Draw(t, "group"),
			Resource: rapid.SampledFrom([]string{"pods", "nodes", "jobs"}).Draw(t, "resource"), Subresource: rapid.SampledFrom([]string{"", "log", "exec"}).Draw(t, "sub"),
			Name: rapid.SampledFrom([]string{"", "x", "z"}).Draw(t, "name"),
		}
		if rapid.Bool().Draw(t, "path") {
			r = authz.Request{Verb: r.Verb, Path: rapid.SampledFrom([]string{"/a", "/a/b", "/c"}).Draw(t, "path")}
		}
		u := identity.User{Name: "u"}
		may, _ := policy(held...).Allows(u, r)
		would, _ := policy(wanted...).Allows(u, r)
		if missing := authz.Missing(held, wanted); len(missing) == 0 && would && !may {
			t.Errorf("nothing of %v is missing in %v, but it allows %v", wanted, held, r)
		}
		if missing := authz.Missing(wanted, wanted); len(missing) > 0 {
			t.Errorf("%v lacks %v of itself", wanted, missing)
		}
	})
}

// The table is that of Kubernetes' roles system:aggregate-to-view, -edit and -admin,
// for the kinds that there are: what each adds to the one before.
func TestTheRolesOfPeopleAreThoseOfKubernetes(t *testing.T) {
	const look, change = "get list watch", "create delete deletecollection patch update"
	table := map[string]struct{ view, edit, admin string }{
		"pods": {view: look, edit: change}, "pods/status": {view: look}, "pods/log": {view: look}, "pods/eviction": {edit: "create"},
		"pods/attach": {edit: look + " " + change}, "pods/exec": {edit: look + " " + change}, "pods/portforward": {edit: look + " " + change},
		"configmaps": {view: look, edit: change}, "secrets": {edit: look + " " + change}, "events": {view: look, edit: change},
		"namespaces": {view: look}, "namespaces/status": {view: look},
		"deployments.apps": {view: look, edit: change}, "deployments.apps/status": {view: look}, "deployments.apps/scale": {view: look, edit: change},
		"replicasets.apps": {view: look, edit: change}, "replicasets.apps/status": {view: look}, "replicasets.apps/scale": {view: look, edit: change},
		"poddisruptionbudgets.policy": {view: look, edit: change}, "poddisruptionbudgets.policy/status": {view: look},
		"roles.rbac.authorization.k8s.io": {admin: look + " " + change}, "rolebindings.rbac.authorization.k8s.io": {admin: look + " " + change},
	}
	roles, _ := authz.Defaults()
	held := map[string]*authz.Policy{}
	for _, r := range roles {
		held[r.GetMetadata().GetName()] = policy(r.GetRules()...)
	}
	for _, k := range api.Kinds() {
		if k.Group == api.GroupChaos {
			continue // Kubernetes has none
		}
		for _, sub := range []string{"", "status", "scale", "log", "exec", "attach", "portforward", "eviction"} {
			name := strings.TrimSuffix(k.Plural+"."+k.Group, ".")
			if sub != "" {
				name += "/" + sub
			}
			row := table[name]
			for _, verb := range strings.Fields(look + " " + change + " escalate bind") {
				r := authz.Request{Verb: verb, Group: k.Group, Resource: k.Plural, Subresource: sub}
				may := false
				for _, role := range []struct{ name, adds string }{{"view", row.view}, {"edit", row.edit}, {"admin", row.admin}} {
					may = may || slices.Contains(strings.Fields(role.adds), verb)
					if got, _ := held[role.name].Allows(identity.User{Name: "u"}, r); got != may {
						t.Errorf("%s may %s %s: %v, in Kubernetes %v", role.name, verb, name, got, may)
					}
				}
			}
		}
	}
}

func TestADefaultRoleGetsBackWhatItLacksAndKeepsWhatWasAdded(t *testing.T) {
	roles, _ := authz.Defaults()
	view := roles[len(roles)-1]
	if authz.Reconciled(view, view) != nil {
		t.Error("a role that lacks nothing is written")
	}
	there := api.Clone(view)
	added := &v1.PolicyRule{Verbs: []string{"get"}, ApiGroups: []string{""}, Resources: []string{"nodes"}}
	there.Rules = append(there.GetRules()[1:], added)
	next := authz.Reconciled(there, view)
	if len(authz.Missing(next.GetRules(), view.GetRules())) > 0 || len(authz.Missing(next.GetRules(), []*v1.PolicyRule{added})) > 0 {
		t.Errorf("%v", next)
	}
	there.Metadata.Annotations = map[string]string{"rbac.authorization.kubernetes.io/autoupdate": "false"}
	if authz.Reconciled(there, view) != nil {
		t.Error("a role that is to be left alone is written")
	}
}
