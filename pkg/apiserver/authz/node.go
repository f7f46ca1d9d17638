package authz

import (
	"fmt"
	"maps"
	"strings"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Facts are what the rules for nodes ask about the cluster.
type Facts interface {
	// Pod returns a pod; nil where there is none.
	Pod(namespace, name string) (*v1.Pod, error)
	// Injection returns a ChaosInjection; nil where there is none.
	Injection(namespace, name string) (*v1.ChaosInjection, error)
	// PodsOn returns the pods of a namespace that are on a node.
	PodsOn(node, namespace string) ([]*v1.Pod, error)
}

// NodeMay says whether a node may do what it asks, and why not: as Kubernetes'
// node authorizer, and stricter where Orch's agent needs less. What a node may
// write into what it may write, [RestrictNode] says.
func NodeMay(node string, r Request, f Facts) (bool, string, error) {
	switch r.Group + "/" + r.Resource {
	case "/nodes":
		if r.Name != node {
			return false, fmt.Sprintf("node %q cannot read or write other nodes; only its own Node object", node), nil
		}
		may := r.Subresource == "" && (r.IsRead() || r.Verb == "create" || r.Verb == "update") || r.Subresource == "status" && r.Verb == "update"
		return may, "", nil
	case "/pods":
		return nodeMayPod(node, r, f)
	case api.GroupChaos + "/chaosinjections":
		return nodeMayInjection(node, r, f)
	case "/configmaps", "/secrets":
		return nodeMayRead(node, r, f)
	case "/events":
		// Which ones, only the object says.
		return r.Subresource == "" && (r.Verb == "create" || r.Verb == "update"), "", nil
	case "/namespaces":
		// Its uid tells clusters apart.
		return r.Verb == "get" && r.Name == api.NamespaceSystem && r.Subresource == "", "", nil
	}
	return false, "", nil
}

func nodeMayPod(node string, r Request, f Facts) (bool, string, error) {
	switch {
	case r.Subresource == "" && (r.Verb == "list" || r.Verb == "watch"):
		// A name would not do: who has it in some namespace, or will have it, is not known.
		return r.Node == node, "can only list/watch pods with spec.nodeName field selector", nil
	case r.Subresource == "" && (r.Verb == "get" || r.Verb == "delete"):
	case r.Subresource == "status" && r.Verb == "update":
	default:
		return false, "", nil
	}
	p, err := f.Pod(r.Namespace, r.Name)
	if err != nil {
		return false, "", err
	}
	// Of one that is not there, there is nothing to read.
	if p != nil && p.GetSpec().GetNodeName() != node {
		return false, fmt.Sprintf("node %q can only read and write pods that are on it", node), nil
	}
	return true, "", nil
}

// nodeMayInjection lets an agent read what it is to break and heal, and say that it
// has.
func nodeMayInjection(node string, r Request, f Facts) (bool, string, error) {
	switch {
	case r.Subresource == "" && (r.Verb == "list" || r.Verb == "watch"):
		return r.Node == node, "can only list/watch chaosinjections with spec.nodeName field selector", nil
	case r.Subresource == "" && r.Verb == "get":
	case r.Subresource == "status" && r.Verb == "update":
	default:
		return false, "", nil
	}
	i, err := f.Injection(r.Namespace, r.Name)
	if err != nil {
		return false, "", err
	}
	if i != nil && i.GetSpec().GetNodeName() != node {
		return false, fmt.Sprintf("node %q can only read and report injections that are its own", node), nil
	}
	return true, "", nil
}

// nodeMayRead says whether a pod of the node names the ConfigMap or Secret.
func nodeMayRead(node string, r Request, f Facts) (bool, string, error) {
	switch {
	case !r.IsRead() || r.Subresource != "":
		return false, "", nil
	case r.Name == "" || r.Namespace == "":
		return false, "can only read resources of this type with a single name", nil
	}
	pods, err := f.PodsOn(node, r.Namespace)
	if err != nil {
		return false, "", err
	}
	want := api.Ref{Kind: api.KindByResource(r.Resource).Name, Key: api.Key{Namespace: r.Namespace, Name: r.Name}}
	for _, p := range pods {
		for _, ref := range api.References(p) {
			if ref == want {
				return true, "", nil
			}
		}
	}
	return false, fmt.Sprintf("no relationship found between node %q and this object", node), nil
}

// restrictedPrefix begins the labels that nodes may not give themselves, so that
// pods can be kept on nodes that somebody else has chosen.
const restrictedPrefix = "node-restriction.kubernetes.io/"

// RestrictNode says why a node may not write an object as it is to become; ""
// where it may. Old is what it replaces, or nil. It is Kubernetes' admission
// plugin NodeRestriction.
func RestrictNode(node string, o, old api.Object, f Facts) (string, error) {
	switch o := o.(type) {
	case *v1.Node:
		before, _ := old.(*v1.Node)
		if old != nil && !proto.Equal(o.GetSpec(), before.GetSpec()) {
			return fmt.Sprintf("node %q is not allowed to modify its spec", node), nil
		}
		if !maps.Equal(restricted(o.GetMetadata().GetLabels()), restricted(before.GetMetadata().GetLabels())) {
			return fmt.Sprintf("is not allowed to modify labels that begin with %s", restrictedPrefix), nil
		}
		if old == nil && (o.GetSpec().GetUnschedulable() || len(o.GetSpec().GetTaints()) > 0) {
			return fmt.Sprintf("node %q is not allowed to set its spec", node), nil
		}
	case *v1.Event:
		for _, e := range []*v1.Event{o, asEvent(old)} {
			if e == nil {
				continue
			}
			if e.GetSource().GetHost() != node {
				return fmt.Sprintf("node %q can only record events with itself as source.host", node), nil
			}
			about := e.GetInvolvedObject()
			switch about.GetKind() {
			case "Node":
				if about.GetName() == node {
					continue
				}
			case "Pod":
				p, err := f.Pod(about.GetNamespace(), about.GetName())
				if err != nil {
					return "", err
				}
				if p == nil || p.GetSpec().GetNodeName() == node {
					continue
				}
			}
			return fmt.Sprintf("node %q can only record events about itself and its pods", node), nil
		}
	}
	return "", nil
}

func asEvent(o api.Object) *v1.Event {
	e, _ := o.(*v1.Event)
	return e
}

func restricted(labels map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range labels {
		if strings.HasPrefix(k, restrictedPrefix) {
			out[k] = v
		}
	}
	return out
}
