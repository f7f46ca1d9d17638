package api

import (
	"errors"
	"fmt"
	"testing"

	v1 "orch/proto/v1"
)

func TestEveryKindIsKnownByEachOfItsNames(t *testing.T) {
	for _, k := range Kinds() {
		o := k.New()
		if KindOf(o) != k {
			t.Errorf("%s: KindOf(New()) is %v", k.Name, KindOf(o))
		}
		if Unwrap(Wrap(o)) != o {
			t.Errorf("%s: is lost in the message that carries it", k.Name)
		}
		if o.GetMetadata() == nil {
			t.Errorf("%s: New() has no metadata", k.Name)
		}
		for _, word := range append([]string{k.Name, k.Plural, k.Singular, k.Resource()}, k.Short...) {
			if KindByResource(word) != k {
				t.Errorf("%s: is not known as %s", k.Name, word)
			}
		}
	}
	if KindByResource("pods.apps") != nil || KindByResource("") != nil || KindByName("pod") != nil {
		t.Error("kinds that there are not")
	}
}

func TestErrorsKeepTheirKindAcrossTheWire(t *testing.T) {
	for _, row := range codeOf {
		sent := fmt.Errorf("get the pod: %w", Errorf(row.kind, "because of %d", 7))
		got := FromStatus(ToStatus(sent))
		if !errors.Is(got, row.kind) {
			t.Errorf("%v comes back as %v", row.kind, got)
		}
		if got.Error() != sent.Error() {
			t.Errorf("%q comes back as %q", sent, got)
		}
	}
	if got := FromStatus(ToStatus(errors.New("disk on fire"))); !errors.Is(got, ErrInternal) {
		t.Errorf("an error of no kind comes back as %v", got)
	}
	if ToStatus(nil) != nil || FromStatus(nil) != nil {
		t.Error("no error became one")
	}
}

func TestAnInvalidObjectsErrorNamesItsFields(t *testing.T) {
	d := validDeployment()
	d.Spec.Replicas, d.Spec.Selector = nil, nil
	d.Metadata.Namespace = ""
	err := FromStatus(ToStatus(Invalid(KindOf(d), "web", Validate(d))))
	want := `Deployment.apps "web" is invalid: [metadata.namespace: Required value, spec.selector: Required value]`
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	var se *StatusError
	if !errors.As(err, &se) || len(se.Causes) != 2 || se.Causes[1].GetReason() != "FieldValueRequired" {
		t.Errorf("causes %v", se.Causes)
	}
	if Invalid(KindOf(d), "web", nil) != nil {
		t.Error("nothing wrong is no error")
	}
}

func TestOneOwnerIsTheController(t *testing.T) {
	owner := &v1.ReplicaSet{Metadata: &v1.ObjectMeta{Name: "web-1", Uid: "u"}}
	pod := &v1.Pod{Metadata: &v1.ObjectMeta{OwnerReferences: []*v1.OwnerReference{{Kind: "ConfigMap"}, NewControllerRef(owner)}}}
	ref := ControllerOf(pod)
	if ref.GetApiVersion() != "apps/v1" || ref.GetKind() != "ReplicaSet" || ref.GetUid() != "u" {
		t.Errorf("got %v", ref)
	}
	if ControllerOf(owner) != nil {
		t.Error("who has no owner has no controller")
	}
}
