package api

import (
	"strings"

	v1 "orch/proto/v1"
)

// Kind describes one kind of object, with Kubernetes' names.
type Kind struct {
	Name       string // "Deployment"
	Group      string // "apps"; "" is the core group
	Version    string // "v1"
	Plural     string // "deployments"
	Singular   string // "deployment"
	Short      []string
	Namespaced bool
	// New returns an empty object with its metadata set.
	New func() Object
}

// APIVersion is group and version as a manifest has them: "apps/v1", "v1".
func (k *Kind) APIVersion() string {
	if k.Group == "" {
		return k.Version
	}
	return k.Group + "/" + k.Version
}

// Resource is the plural with its group, as Kubernetes' messages name it:
// "deployments.apps", "pods".
func (k *Kind) Resource() string {
	if k.Group == "" {
		return k.Plural
	}
	return k.Plural + "." + k.Group
}

// GroupRBAC is the group of roles and their bindings.
const GroupRBAC = "rbac.authorization.k8s.io"

// GroupChaos is the group of the kinds that break things on purpose. Kubernetes has
// none of them.
const GroupChaos = "chaos.orch.dev"

// kinds is every kind that there is, in the order in which `orchctl
// api-resources` shows them.
var kinds = []*Kind{
	{
		Name: "ConfigMap", Version: "v1", Plural: "configmaps", Singular: "configmap", Short: []string{"cm"}, Namespaced: true,
		New: func() Object { return &v1.ConfigMap{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "Event", Version: "v1", Plural: "events", Singular: "event", Short: []string{"ev"}, Namespaced: true,
		New: func() Object { return &v1.Event{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "Namespace", Version: "v1", Plural: "namespaces", Singular: "namespace", Short: []string{"ns"},
		New: func() Object { return &v1.Namespace{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "Node", Version: "v1", Plural: "nodes", Singular: "node", Short: []string{"no"},
		New: func() Object { return &v1.Node{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "Pod", Version: "v1", Plural: "pods", Singular: "pod", Short: []string{"po"}, Namespaced: true,
		New: func() Object { return &v1.Pod{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "Secret", Version: "v1", Plural: "secrets", Singular: "secret", Namespaced: true,
		New: func() Object { return &v1.Secret{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "Deployment", Group: "apps", Version: "v1", Plural: "deployments", Singular: "deployment", Short: []string{"deploy"}, Namespaced: true,
		New: func() Object { return &v1.Deployment{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "ReplicaSet", Group: "apps", Version: "v1", Plural: "replicasets", Singular: "replicaset", Short: []string{"rs"}, Namespaced: true,
		New: func() Object { return &v1.ReplicaSet{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "ChaosExperiment", Group: GroupChaos, Version: "v1", Plural: "chaosexperiments", Singular: "chaosexperiment", Short: []string{"chaos"}, Namespaced: true,
		New: func() Object { return &v1.ChaosExperiment{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "ChaosInjection", Group: GroupChaos, Version: "v1", Plural: "chaosinjections", Singular: "chaosinjection", Namespaced: true,
		New: func() Object { return &v1.ChaosInjection{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "PodDisruptionBudget", Group: "policy", Version: "v1", Plural: "poddisruptionbudgets", Singular: "poddisruptionbudget", Short: []string{"pdb"}, Namespaced: true,
		New: func() Object { return &v1.PodDisruptionBudget{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "ClusterRoleBinding", Group: GroupRBAC, Version: "v1", Plural: "clusterrolebindings", Singular: "clusterrolebinding",
		New: func() Object { return &v1.ClusterRoleBinding{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "ClusterRole", Group: GroupRBAC, Version: "v1", Plural: "clusterroles", Singular: "clusterrole",
		New: func() Object { return &v1.ClusterRole{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "RoleBinding", Group: GroupRBAC, Version: "v1", Plural: "rolebindings", Singular: "rolebinding", Namespaced: true,
		New: func() Object { return &v1.RoleBinding{Metadata: &v1.ObjectMeta{}} },
	},
	{
		Name: "Role", Group: GroupRBAC, Version: "v1", Plural: "roles", Singular: "role", Namespaced: true,
		New: func() Object { return &v1.Role{Metadata: &v1.ObjectMeta{}} },
	},
}

// Kinds returns every kind. The slice is the caller's; the kinds are
// read-only.
func Kinds() []*Kind {
	return append([]*Kind(nil), kinds...)
}

// KindByName returns the kind with this name ("Deployment"), or nil.
func KindByName(name string) *Kind {
	for _, k := range kinds {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// KindByResource returns the kind that a user means by "deployments",
// "deployment", "deploy", "Deployment" or "deployments.apps", in any case; or
// nil.
func KindByResource(word string) *Kind {
	word = strings.ToLower(word)
	for _, k := range kinds {
		if word == k.Plural || word == k.Singular {
			return k
		}
		if k.Group != "" {
			if base, ok := strings.CutSuffix(word, "."+k.Group); ok && (base == k.Plural || base == k.Singular) {
				return k
			}
		}
		for _, s := range k.Short {
			if word == s {
				return k
			}
		}
	}
	return nil
}

// KindOf returns the kind of an object. It is never nil for an object that
// [Wrap] knows.
func KindOf(o Object) *Kind {
	return KindByName(string(o.ProtoReflect().Descriptor().Name()))
}
