package api

import (
	"slices"
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
	newKind[*v1.ConfigMap]("", true, "cm"),
	newKind[*v1.Event]("", true, "ev"),
	newKind[*v1.Namespace]("", false, "ns"),
	newKind[*v1.Node]("", false, "no"),
	newKind[*v1.Pod]("", true, "po"),
	newKind[*v1.Secret]("", true),
	newKind[*v1.Deployment]("apps", true, "deploy"),
	newKind[*v1.ReplicaSet]("apps", true, "rs"),
	newKind[*v1.ChaosExperiment](GroupChaos, true, "chaos"),
	newKind[*v1.ChaosInjection](GroupChaos, true),
	newKind[*v1.PodDisruptionBudget]("policy", true, "pdb"),
	newKind[*v1.ClusterRoleBinding](GroupRBAC, false),
	newKind[*v1.ClusterRole](GroupRBAC, false),
	newKind[*v1.RoleBinding](GroupRBAC, true),
	newKind[*v1.Role](GroupRBAC, true),
}

// newKind describes the kind of T. Its names follow from that of the message.
func newKind[T Object](group string, namespaced bool, short ...string) *Kind {
	var zero T
	message := zero.ProtoReflect().Type()
	name := string(message.Descriptor().Name())
	singular := strings.ToLower(name)
	return &Kind{
		Name: name, Group: group, Version: "v1", Plural: singular + "s", Singular: singular, Short: short, Namespaced: namespaced,
		New: func() Object {
			m := message.New()
			m.Mutable(message.Descriptor().Fields().ByName("metadata"))
			return m.Interface().(Object)
		},
	}
}

// Kinds returns every kind. The slice is the caller's; the kinds are
// read-only.
func Kinds() []*Kind {
	return slices.Clone(kinds)
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
		if word == k.Plural || word == k.Singular || slices.Contains(k.Short, word) {
			return k
		}
		if k.Group != "" {
			if base, ok := strings.CutSuffix(word, "."+k.Group); ok && (base == k.Plural || base == k.Singular) {
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
