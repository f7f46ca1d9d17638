package api

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "orch/proto/v1"
)

// ValidateUpdate says what is wrong with an object that is to take the place of
// old: what [Validate] says, and what may not change. Both are defaulted.
func ValidateUpdate(new, old Object) []*v1.FieldError {
	e := problems{list: Validate(new)}
	e.metadataUpdate(new.GetMetadata(), old.GetMetadata())
	switch n := new.(type) {
	case *v1.Pod:
		e.podUpdate(n, old.(*v1.Pod))
	case *v1.ReplicaSet:
		e.selectorUpdate(n.GetSpec().GetSelector(), old.(*v1.ReplicaSet).GetSpec().GetSelector())
	case *v1.Deployment:
		e.selectorUpdate(n.GetSpec().GetSelector(), old.(*v1.Deployment).GetSpec().GetSelector())
	case *v1.Node:
		e.podCIDRsUpdate(n.GetSpec().GetPodCidrs(), old.(*v1.Node).GetSpec().GetPodCidrs())
	case *v1.ConfigMap:
		if o := old.(*v1.ConfigMap); o.GetImmutable() {
			e.stays("immutable", n.GetImmutable())
			e.stays("data", maps.Equal(n.GetData(), o.GetData()))
			e.stays("binaryData", maps.EqualFunc(n.GetBinaryData(), o.GetBinaryData(), bytes.Equal))
		}
	case *v1.ChaosExperiment:
		e.experimentUpdate(n.GetSpec(), old.(*v1.ChaosExperiment).GetSpec())
	case *v1.ChaosInjection:
		e.injectionUpdate(n.GetSpec(), old.(*v1.ChaosInjection).GetSpec())
	case *v1.RoleBinding:
		e.roleRefUpdate(n.GetRoleRef(), old.(*v1.RoleBinding).GetRoleRef())
	case *v1.ClusterRoleBinding:
		e.roleRefUpdate(n.GetRoleRef(), old.(*v1.ClusterRoleBinding).GetRoleRef())
	case *v1.Secret:
		o := old.(*v1.Secret)
		if n.GetType() != o.GetType() {
			e.invalid("type", n.GetType(), immutable)
		}
		if o.GetImmutable() {
			e.stays("immutable", n.GetImmutable())
			e.stays("data", maps.EqualFunc(n.GetData(), o.GetData(), bytes.Equal))
		}
	}
	return e.list
}

func (e *problems) roleRefUpdate(new, old *v1.RoleRef) {
	if !proto.Equal(new, old) {
		e.invalid("roleRef", new, "cannot change roleRef")
	}
}

func (e *problems) metadataUpdate(new, old *v1.ObjectMeta) {
	const p path = "metadata"
	for _, f := range []struct{ name, new, old string }{
		{"name", new.GetName(), old.GetName()},
		{"namespace", new.GetNamespace(), old.GetNamespace()},
		{"uid", new.GetUid(), old.GetUid()},
	} {
		if f.new != f.old {
			e.invalid(p.child(f.name), f.new, immutable)
		}
	}
	if !proto.Equal(new.GetCreationTimestamp(), old.GetCreationTimestamp()) {
		e.invalid(p.child("creationTimestamp"), new.GetCreationTimestamp().AsTime(), immutable)
	}
	if old.GetDeletionTimestamp() == nil {
		return
	}
	var added []string
	for _, f := range new.GetFinalizers() {
		if !slices.Contains(old.GetFinalizers(), f) {
			added = append(added, f)
		}
	}
	if len(added) > 0 {
		slices.Sort(added)
		e.forbidden(p.child("finalizers"), fmt.Sprintf("no new finalizers can be added if the object is being deleted, found new finalizers %#v", added))
	}
}

func (e *problems) selectorUpdate(new, old *v1.LabelSelector) {
	if !proto.Equal(new, old) {
		e.invalid("spec.selector", new, immutable)
	}
}

// stays refuses what changes while `immutable` is set.
func (e *problems) stays(p path, same bool) {
	if !same {
		e.forbidden(p, "field is immutable when `immutable` is set")
	}
}

// podUpdate allows new images, a shorter deadline, more tolerations, and a node
// for a pod that had none.
func (e *problems) podUpdate(new, old *v1.Pod) {
	const p path = "spec"
	const fixed = "pod updates may not add or remove containers"
	switch {
	case len(new.GetSpec().GetContainers()) != len(old.GetSpec().GetContainers()):
		e.forbidden(p.child("containers"), fixed)
		return
	case len(new.GetSpec().GetInitContainers()) != len(old.GetSpec().GetInitContainers()):
		e.forbidden(p.child("initContainers"), fixed)
		return
	}
	if hasDeadline(old.GetSpec()) {
		d := new.GetSpec().GetActiveDeadlineSeconds()
		if !hasDeadline(new.GetSpec()) {
			e.invalid(p.child("activeDeadlineSeconds"), nil, "must not update from a positive integer to nil value")
		} else if d > old.GetSpec().GetActiveDeadlineSeconds() && d <= math.MaxInt32 {
			e.invalid(p.child("activeDeadlineSeconds"), d, "must be less than or equal to previous value")
		}
	}
	e.tolerationsUpdate(p.child("tolerations"), new.GetSpec().GetTolerations(), old.GetSpec().GetTolerations())
	allowed := &v1.PodSpec{}
	proto.Merge(allowed, new.GetSpec())
	allowed.Tolerations = old.GetSpec().GetTolerations()
	allowed.ActiveDeadlineSeconds = nil
	if hasDeadline(old.GetSpec()) {
		allowed.ActiveDeadlineSeconds = old.GetSpec().ActiveDeadlineSeconds
	}
	if old.GetSpec().GetNodeName() == "" {
		allowed.NodeName = ""
	}
	for i, c := range AllContainers(allowed) {
		c.Image = AllContainers(old.GetSpec())[i].GetImage()
	}
	if changed := changes(p, old.GetSpec().ProtoReflect(), allowed.ProtoReflect()); len(changed) > 0 {
		e.forbidden(p, "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations); changed: "+strings.Join(changed, ", "))
	}
}

// changes lists the paths of the fields that differ.
func changes(p path, a, b protoreflect.Message) (paths []string) {
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		x, y, at := a.Get(fd), b.Get(fd), p.child(fd.JSONName())
		switch {
		case x.Equal(y) && a.Has(fd) == b.Has(fd):
		case fd.IsList() && fd.Message() != nil && x.List().Len() == y.List().Len():
			for j := range x.List().Len() {
				paths = append(paths, changes(at.index(j), x.List().Get(j).Message(), y.List().Get(j).Message())...)
			}
		case fd.Message() != nil && !fd.IsMap() && !fd.IsList() && a.Has(fd) && b.Has(fd):
			paths = append(paths, changes(at, x.Message(), y.Message())...)
		default:
			paths = append(paths, string(at))
		}
	}
	return paths
}
