// Package conformance compares Orch with Kubernetes' own Go types and
// functions: the JSON of every kind, quantities, selectors and the merge of apply.
// Where the two differ on purpose, the test says so.
//
// The one invariant: what it compares with stays in this module, and never
// enters that of the product.
//
// Read next: json_test.go, then docs/differences.md.
package conformance

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"orch/pkg/api"
)

// kubernetes makes an empty object of Kubernetes' type of each kind.
var kubernetes = map[string]func() any{
	"ConfigMap":          func() any { return &corev1.ConfigMap{} },
	"Deployment":         func() any { return &appsv1.Deployment{} },
	"Event":              func() any { return &corev1.Event{} },
	"Namespace":          func() any { return &corev1.Namespace{} },
	"Node":               func() any { return &corev1.Node{} },
	"Pod":                func() any { return &corev1.Pod{} },
	"ReplicaSet":         func() any { return &appsv1.ReplicaSet{} },
	"ClusterRole":        func() any { return &rbacv1.ClusterRole{} },
	"ClusterRoleBinding": func() any { return &rbacv1.ClusterRoleBinding{} },
	"Role":               func() any { return &rbacv1.Role{} },
	"RoleBinding":        func() any { return &rbacv1.RoleBinding{} },
	"Secret":             func() any { return &corev1.Secret{} },

	"PodDisruptionBudget": func() any { return &policyv1.PodDisruptionBudget{} },
}

// withTypes are the kinds that Kubernetes has too. Those of the group
// chaos.orch.dev are Orch's own: for Kubernetes they would be custom resources,
// which have no Go types to compare with.
func withTypes() (kinds []*api.Kind) {
	for _, k := range api.Kinds() {
		if k.Group != api.GroupChaos {
			kinds = append(kinds, k)
		}
	}
	return kinds
}
