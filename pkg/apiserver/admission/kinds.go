package admission

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// This file is all that the server knows of single kinds, but for topics and
// streams. A new kind adds a case where it differs.

// prepareCreate sets what a new object's status and spec must hold whatever the
// client said.
func prepareCreate(o api.Object, now time.Time) {
	switch o := o.(type) {
	case *v1.Pod:
		api.TolerateMemoryPressure(o.GetSpec())
		api.KeepTerminations(o.GetMetadata(), nil) // another pod's, copied with its manifest
		o.Status = &v1.PodStatus{Phase: api.PodPending, QosClass: api.QOSClass(o.GetSpec())}
		if o.GetSpec().GetNodeName() != "" {
			scheduled(o.Status, now)
		}
	case *v1.PodDisruptionBudget:
		o.Status = &v1.PodDisruptionBudgetStatus{}
	case *v1.ChaosExperiment:
		o.Status = &v1.ChaosExperimentStatus{Phase: api.ChaosPending}
		if !slices.Contains(o.GetMetadata().GetFinalizers(), api.FinalizerHeal) {
			o.Metadata.Finalizers = append(o.Metadata.Finalizers, api.FinalizerHeal)
		}
		if o.GetSpec().GetSeed() == 0 {
			o.Spec.Seed = 1 + rand.Int64N(1<<31-1)
		}
	case *v1.ChaosInjection:
		o.Status = &v1.ChaosInjectionStatus{Phase: api.ChaosPending}
	case *v1.ReplicaSet:
		o.Status = &v1.ReplicaSetStatus{}
	case *v1.Deployment:
		o.Status = &v1.DeploymentStatus{}
	case *v1.Namespace:
		o.Status = &v1.NamespaceStatus{Phase: api.NamespaceActive}
		o.Spec = cmp.Or(o.Spec, &v1.NamespaceSpec{})
		o.Spec.Finalizers = []string{api.FinalizerKubernetes}
	}
}

// prepareUpdate completes an object that is to replace old: it keeps status,
// which has its own verb. It may be called several times for one object.
func prepareUpdate(o, old api.Object, now time.Time) error {
	share(o, old, "status")
	switch o := o.(type) {
	case *v1.Pod:
		old := old.(*v1.Pod)
		api.TolerateMemoryPressure(o.GetSpec())
		api.KeepTerminations(o.GetMetadata(), old.GetMetadata())
		if old.GetSpec().GetNodeName() == "" && o.GetSpec().GetNodeName() != "" {
			if old.GetMetadata().GetDeletionTimestamp() != nil {
				return api.Conflict(api.KindOf(o), o.GetMetadata().GetName(), "pod "+o.GetMetadata().GetName()+" is being deleted, cannot be assigned to a host")
			}
			o.Status = api.CloneOrNew(old.GetStatus())
			scheduled(o.Status, now)
		}
	case *v1.Namespace:
		if old := old.(*v1.Namespace); old.GetMetadata().GetDeletionTimestamp() == nil {
			o.Spec = old.GetSpec()
		}
	case *v1.ChaosExperiment:
		if o.GetSpec().GetSeed() == 0 {
			o.Spec.Seed = old.(*v1.ChaosExperiment).GetSpec().GetSeed()
		}
	}
	return nil
}

// scheduled notes in a pod's status that it has a node, in the same write that
// gives it one, so that no reader ever sees one without the other.
func scheduled(s *v1.PodStatus, now time.Time) {
	api.SetCondition(&s.Conditions, &v1.Condition{Type: api.PodScheduled, Status: "True"}, now)
}

// withStatus is old with the status of o, and with the annotation of a pod that
// belongs to it; nil for kinds that have no status. The parts are shared with both.
func withStatus(old, o api.Object) api.Object {
	if o.ProtoReflect().Descriptor().Fields().ByName("status") == nil {
		return nil
	}
	next := api.KindOf(o).New()
	share(next, old, "metadata", "spec")
	share(next, o, "status")
	if p, ok := next.(*v1.Pod); ok && old.GetMetadata().GetAnnotations()[api.AnnotationTerminations] != o.GetMetadata().GetAnnotations()[api.AnnotationTerminations] {
		p.Metadata = proto.CloneOf(p.Metadata)
		api.KeepTerminations(p.Metadata, o.GetMetadata())
	}
	return next
}

// share makes parts of an object those of another one of its kind, as far as the
// kind has them.
func share(to, from api.Object, parts ...protoreflect.Name) {
	for _, part := range parts {
		switch fd := to.ProtoReflect().Descriptor().Fields().ByName(part); {
		case fd == nil:
		case from.ProtoReflect().Has(fd):
			to.ProtoReflect().Set(fd, from.ProtoReflect().Get(fd))
		default:
			to.ProtoReflect().Clear(fd)
		}
	}
}

// hasGeneration says whether Kubernetes counts changes of this kind's spec.
func hasGeneration(o api.Object) bool {
	switch o.(type) {
	case *v1.Pod, *v1.ReplicaSet, *v1.Deployment, *v1.PodDisruptionBudget, *v1.ChaosExperiment, *v1.ChaosInjection:
		return true
	}
	return false
}

// asksForMore says whether o asks its controller for something that old did not:
// then its generation counts up. Annotations of a Deployment count, as in
// Kubernetes, because they are passed on to its ReplicaSets.
func asksForMore(o, old api.Object) bool {
	if !hasGeneration(o) {
		return false
	}
	spec := o.ProtoReflect().Descriptor().Fields().ByName("spec")
	_, isDeployment := o.(*v1.Deployment)
	return !o.ProtoReflect().Get(spec).Equal(old.ProtoReflect().Get(spec)) || isDeployment && !maps.Equal(asked(o), asked(old))
}

// asked are an object's annotations without the one that the deployment
// controller writes: in Kubernetes that one comes with the status.
func asked(o api.Object) map[string]string {
	a := maps.Clone(o.GetMetadata().GetAnnotations())
	delete(a, api.AnnotationRevision)
	return a
}

// stamp is a time as Kubernetes keeps it: in whole seconds.
func stamp(t time.Time) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: t.Unix()}
}
