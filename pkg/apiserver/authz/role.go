package authz

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/identity"
	v1 "orch/proto/v1"
)

// Labels and annotations of the roles that every cluster has; Kubernetes' own.
const (
	labelDefaults        = "kubernetes.io/bootstrapping"
	annotationAutoUpdate = "rbac.authorization.kubernetes.io/autoupdate"
)

var (
	read  = []string{"get", "list", "watch"}
	write = []string{"create", "delete", "deletecollection", "patch", "update"}
)

func rule(verbs []string, group string, resources ...string) *v1.PolicyRule {
	return &v1.PolicyRule{Verbs: verbs, ApiGroups: []string{group}, Resources: resources}
}

// viewRules, editRules and adminRules are those of Kubernetes, for the kinds that
// there are.
func viewRules() []*v1.PolicyRule {
	return []*v1.PolicyRule{
		rule(read, "", "pods", "configmaps"),
		rule(read, "", "events", "pods/status", "namespaces/status", "pods/log"),
		rule(read, "", "namespaces"),
		rule(read, "apps", "deployments", "deployments/status", "deployments/scale", "replicasets", "replicasets/status", "replicasets/scale"),
		rule(read, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
		rule(read, api.GroupChaos, "chaosexperiments", "chaosexperiments/status", "chaosinjections", "chaosinjections/status"),
	}
}

func editRules() []*v1.PolicyRule {
	return append([]*v1.PolicyRule{
		rule(read, "", "pods/attach", "pods/exec", "pods/portforward", "secrets"),
		rule(write, "", "pods", "pods/attach", "pods/exec", "pods/portforward"),
		rule(write, "", "configmaps", "secrets", "events"),
		rule([]string{"create"}, "", "pods/eviction"),
		rule(write, "apps", "deployments", "deployments/scale", "replicasets", "replicasets/scale"),
		rule(write, "policy", "poddisruptionbudgets"),
	}, viewRules()...)
}

func adminRules() []*v1.PolicyRule {
	return append([]*v1.PolicyRule{
		rule(slices.Concat(write, read), api.GroupRBAC, "roles", "rolebindings"),
	}, editRules()...)
}

// chaosRules are what it takes to break pods of a namespace on purpose; bound by a
// ClusterRoleBinding, nodes and the API server too. Nobody has them but
// system:masters.
func chaosRules() []*v1.PolicyRule {
	return []*v1.PolicyRule{
		rule(slices.Concat(write, read), api.GroupChaos, "chaosexperiments"),
		rule(read, api.GroupChaos, "chaosexperiments/status", "chaosinjections", "chaosinjections/status"),
		rule([]string{"inject"}, api.GroupChaos, "nodes", "apiservers"),
	}
}

// Defaults are the roles that every cluster has, and the one binding.
func Defaults() (roles []*v1.ClusterRole, binding *v1.ClusterRoleBinding) {
	for _, r := range []struct {
		name  string
		rules []*v1.PolicyRule
	}{
		{"cluster-admin", []*v1.PolicyRule{
			rule([]string{all}, all, all),
			{Verbs: []string{all}, NonResourceUrls: []string{all}},
		}},
		{"admin", adminRules()},
		{"edit", editRules()},
		{"view", viewRules()},
		{"chaos", chaosRules()},
	} {
		roles = append(roles, &v1.ClusterRole{Metadata: defaultMeta(r.name), Rules: r.rules})
	}
	return roles, &v1.ClusterRoleBinding{
		Metadata: defaultMeta("cluster-admin"),
		RoleRef:  &v1.RoleRef{ApiGroup: api.GroupRBAC, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []*v1.Subject{{Kind: api.SubjectGroup, ApiGroup: api.GroupRBAC, Name: identity.GroupMasters}},
	}
}

func defaultMeta(name string) *v1.ObjectMeta {
	return &v1.ObjectMeta{
		Name: name, Labels: map[string]string{labelDefaults: "rbac-defaults"}, Annotations: map[string]string{annotationAutoUpdate: "true"},
	}
}

// Reconciled is a default role as a start of the server makes it of the one that
// is there: with what it lacks; what somebody added stays. It is nil where
// there is nothing to do, or where the annotation says that nothing shall be.
func Reconciled(there, want *v1.ClusterRole) *v1.ClusterRole {
	if there.GetMetadata().GetAnnotations()[annotationAutoUpdate] == "false" {
		return nil
	}
	missing := Missing(there.GetRules(), want.GetRules())
	if len(missing) == 0 {
		return nil
	}
	next := proto.CloneOf(there)
	next.Rules = append(next.Rules, missing...)
	return next
}
