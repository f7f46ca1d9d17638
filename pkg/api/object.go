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
	"google.golang.org/protobuf/reflect/protoreflect"

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

// CloneOrNew returns a deep copy of a part of an object; an empty one of nil.
func CloneOrNew[M any, P interface {
	*M
	proto.Message
}](part P,
) P {
	if part == nil {
		return new(M)
	}
	return proto.CloneOf(part)
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

// Put sets an entry of a map, which it makes where there is none.
func Put[M ~map[K]V, K comparable, V any](m *M, key K, value V) {
	if *m == nil {
		*m = M{}
	}
	(*m)[key] = value
}

// HasAll says whether a map has all entries of another.
func HasAll(m, wanted map[string]string) bool {
	for k, v := range wanted {
		if has, ok := m[k]; !ok || has != v {
			return false
		}
	}
	return true
}

// arms are the fields of the message that the API carries: one for each kind.
var arms = (&v1.Object{}).ProtoReflect().Descriptor().Oneofs().ByName("kind")

// Wrap puts an object into the message that the API carries.
func Wrap(o Object) *v1.Object {
	name := o.ProtoReflect().Descriptor().FullName()
	for i := range arms.Fields().Len() {
		if arm := arms.Fields().Get(i); arm.Message().FullName() == name {
			w := &v1.Object{}
			w.ProtoReflect().Set(arm, protoreflect.ValueOfMessage(o.ProtoReflect()))
			return w
		}
	}
	return nil
}

// Unwrap returns the object inside, or nil where there is none.
func Unwrap(w *v1.Object) Object {
	m := w.ProtoReflect()
	arm := m.WhichOneof(arms)
	if arm == nil {
		return nil
	}
	return m.Get(arm).Message().Interface().(Object)
}
