package api_test

import (
	"strings"
	"testing"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func TestRolesAndBindingsAreValidatedAsInKubernetes(t *testing.T) {
	meta := func() *v1.ObjectMeta { return &v1.ObjectMeta{Name: "system:a", Namespace: "default"} }
	cluster := func() *v1.ObjectMeta { return &v1.ObjectMeta{Name: "system:a"} }
	ref := &v1.RoleRef{Kind: "ClusterRole", Name: "r"}
	for name, tt := range map[string]struct {
		o    api.Object
		want []string
	}{
		"a role": {&v1.Role{Metadata: meta(), Rules: []*v1.PolicyRule{{Verbs: []string{"get"}, ApiGroups: []string{""}, Resources: []string{"pods"}}}}, nil},
		"an empty rule": {&v1.Role{Metadata: meta(), Rules: []*v1.PolicyRule{{}}}, []string{
			"rules[0].verbs: Required value: verbs must contain at least one value",
			"rules[0].apiGroups: Required value: resource rules must supply at least one api group",
			"rules[0].resources: Required value: resource rules must supply at least one resource",
		}},
		"a path in a namespace": {&v1.Role{Metadata: meta(), Rules: []*v1.PolicyRule{{Verbs: []string{"get"}, NonResourceUrls: []string{"/a"}}}}, []string{
			`rules[0].nonResourceURLs: Invalid value: ["/a"]: namespaced rules cannot apply to non-resource URLs`,
		}},
		"a path and resources": {&v1.ClusterRole{Metadata: cluster(), Rules: []*v1.PolicyRule{{Verbs: []string{"get"}, NonResourceUrls: []string{"/a"}, Resources: []string{"pods"}}}}, []string{
			`rules[0].nonResourceURLs: Invalid value: ["/a"]: rules cannot apply to both regular resources and non-resource URLs`,
		}},
		"a binding": {&v1.RoleBinding{Metadata: meta(), RoleRef: ref, Subjects: []*v1.Subject{
			{Kind: "User", Name: "a"}, {Kind: "Group", Name: "b"}, {Kind: "ServiceAccount", Name: "c"},
		}}, nil},
		"a name that no URL can hold": {&v1.ClusterRoleBinding{Metadata: &v1.ObjectMeta{Name: "a/b"}, RoleRef: ref}, []string{
			`metadata.name: Invalid value: "a/b": may not contain '/'`,
		}},
		"a cluster-wide binding of a role": {&v1.ClusterRoleBinding{Metadata: cluster(), RoleRef: &v1.RoleRef{Kind: "Role", Name: "r"}}, []string{
			`roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`,
		}},
		"no role": {&v1.RoleBinding{Metadata: meta()}, []string{
			`roleRef.kind: Unsupported value: "": supported values: "Role", "ClusterRole"`,
			`roleRef.name: Required value`,
		}},
		"subjects of no kind": {&v1.ClusterRoleBinding{Metadata: cluster(), RoleRef: ref, Subjects: []*v1.Subject{{Kind: "Robot"}, {Kind: "ServiceAccount", Name: "a"}, {Kind: "User", Name: "x", ApiGroup: "apps"}}}, []string{
			`subjects[0].name: Required value`,
			`subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"`,
			`subjects[1].namespace: Required value`,
			`subjects[2].apiGroup: Unsupported value: "apps": supported values: "rbac.authorization.k8s.io"`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			api.Default(tt.o)
			var got []string
			for _, e := range api.Validate(tt.o) {
				got = append(got, e.GetField()+": "+e.GetMessage())
			}
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}
