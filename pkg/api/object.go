// Package api says what an object is: its identity, its kind, its defaults,
// what makes it valid, how it is selected, and the kinds of errors. All of it
// is pure: no clock, no network, no store.
//
// The one invariant: whatever Validate accepts after Default has a meaning in
// every other package, so that none of them checks again.
//
// Read next: kind.go (the table of kinds), then pkg/api/manifest (how objects
// look in YAML and JSON), then pkg/store.
package api

import (
	"google.golang.org/protobuf/proto"

	v1 "orch/proto/v1"
)

// Object is any object: a message of proto/v1 with metadata.
type Object interface {
	proto.Message
	GetMetadata() *v1.ObjectMeta
}

// Key names an object within its kind.
type Key struct {
	// Namespace is empty for kinds that are cluster-wide.
	Namespace string
	Name      string
}

// KeyOf returns the key of an object.
func KeyOf(o Object) Key {
	m := o.GetMetadata()
	return Key{Namespace: m.GetNamespace(), Name: m.GetName()}
}

// String is namespace/name, or the name alone where there is no namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Clone returns a deep copy. Objects from a mirror are read-only: clone before
// change.
func Clone[T Object](o T) T {
	return proto.Clone(o).(T)
}

// ControllerOf returns the owner that manages the object, or nil.
func ControllerOf(o Object) *v1.OwnerReference {
	for _, r := range o.GetMetadata().GetOwnerReferences() {
		if r.GetController() {
			return r
		}
	}
	return nil
}

// NewControllerRef returns a reference that makes owner the controller of an
// object, and keeps owner from a deletion in the foreground until that object
// is gone.
func NewControllerRef(owner Object) *v1.OwnerReference {
	k := KindOf(owner)
	m := owner.GetMetadata()
	return &v1.OwnerReference{
		ApiVersion:         k.APIVersion(),
		Kind:               k.Name,
		Name:               m.GetName(),
		Uid:                m.GetUid(),
		Controller:         proto.Bool(true),
		BlockOwnerDeletion: proto.Bool(true),
	}
}

// Wrap puts an object into the message that the API carries.
func Wrap(o Object) *v1.Object {
	switch o := o.(type) {
	case *v1.Namespace:
		return &v1.Object{Kind: &v1.Object_Namespace{Namespace: o}}
	case *v1.Node:
		return &v1.Object{Kind: &v1.Object_Node{Node: o}}
	case *v1.Pod:
		return &v1.Object{Kind: &v1.Object_Pod{Pod: o}}
	case *v1.ReplicaSet:
		return &v1.Object{Kind: &v1.Object_ReplicaSet{ReplicaSet: o}}
	case *v1.Deployment:
		return &v1.Object{Kind: &v1.Object_Deployment{Deployment: o}}
	case *v1.ConfigMap:
		return &v1.Object{Kind: &v1.Object_ConfigMap{ConfigMap: o}}
	case *v1.Secret:
		return &v1.Object{Kind: &v1.Object_Secret{Secret: o}}
	case *v1.Event:
		return &v1.Object{Kind: &v1.Object_Event{Event: o}}
	case *v1.PodDisruptionBudget:
		return &v1.Object{Kind: &v1.Object_PodDisruptionBudget{PodDisruptionBudget: o}}
	case *v1.ChaosExperiment:
		return &v1.Object{Kind: &v1.Object_ChaosExperiment{ChaosExperiment: o}}
	case *v1.ChaosInjection:
		return &v1.Object{Kind: &v1.Object_ChaosInjection{ChaosInjection: o}}
	case *v1.Role:
		return &v1.Object{Kind: &v1.Object_Role{Role: o}}
	case *v1.RoleBinding:
		return &v1.Object{Kind: &v1.Object_RoleBinding{RoleBinding: o}}
	case *v1.ClusterRole:
		return &v1.Object{Kind: &v1.Object_ClusterRole{ClusterRole: o}}
	case *v1.ClusterRoleBinding:
		return &v1.Object{Kind: &v1.Object_ClusterRoleBinding{ClusterRoleBinding: o}}
	}
	return nil
}

// Unwrap returns the object inside, or nil where there is none.
func Unwrap(w *v1.Object) Object {
	switch k := w.GetKind().(type) {
	case *v1.Object_Namespace:
		return k.Namespace
	case *v1.Object_Node:
		return k.Node
	case *v1.Object_Pod:
		return k.Pod
	case *v1.Object_ReplicaSet:
		return k.ReplicaSet
	case *v1.Object_Deployment:
		return k.Deployment
	case *v1.Object_ConfigMap:
		return k.ConfigMap
	case *v1.Object_Secret:
		return k.Secret
	case *v1.Object_Event:
		return k.Event
	case *v1.Object_PodDisruptionBudget:
		return k.PodDisruptionBudget
	case *v1.Object_ChaosExperiment:
		return k.ChaosExperiment
	case *v1.Object_ChaosInjection:
		return k.ChaosInjection
	case *v1.Object_Role:
		return k.Role
	case *v1.Object_RoleBinding:
		return k.RoleBinding
	case *v1.Object_ClusterRole:
		return k.ClusterRole
	case *v1.Object_ClusterRoleBinding:
		return k.ClusterRoleBinding
	}
	return nil
}
