package admission

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
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
		if o.Spec == nil {
			o.Spec = &v1.NamespaceSpec{}
		}
		o.Spec.Finalizers = []string{api.FinalizerKubernetes}
	}
}

// prepareUpdate completes an object that is to replace old: it keeps status,
// which has its own verb. It may be called several times for one object.
func prepareUpdate(o, old api.Object, now time.Time) error {
	switch o := o.(type) {
	case *v1.Pod:
		old := old.(*v1.Pod)
		api.TolerateMemoryPressure(o.GetSpec())
		o.Status = old.GetStatus()
		api.KeepTerminations(o.GetMetadata(), old.GetMetadata())
		if old.GetSpec().GetNodeName() == "" && o.GetSpec().GetNodeName() != "" {
			if old.GetMetadata().GetDeletionTimestamp() != nil {
				return api.Conflict(api.KindOf(o), o.GetMetadata().GetName(), "pod "+o.GetMetadata().GetName()+" is being deleted, cannot be assigned to a host")
			}
			o.Status = &v1.PodStatus{}
			if old.GetStatus() != nil {
				o.Status = proto.CloneOf(old.GetStatus())
			}
			scheduled(o.Status, now)
		}
	case *v1.Namespace:
		old := old.(*v1.Namespace)
		o.Status = old.GetStatus()
		if old.GetMetadata().GetDeletionTimestamp() == nil {
			o.Spec = old.GetSpec()
		}
	case *v1.Node:
		o.Status = old.(*v1.Node).GetStatus()
	case *v1.PodDisruptionBudget:
		o.Status = old.(*v1.PodDisruptionBudget).GetStatus()
	case *v1.ChaosExperiment:
		old := old.(*v1.ChaosExperiment)
		o.Status = old.GetStatus()
		if o.GetSpec().GetSeed() == 0 {
			o.Spec.Seed = old.GetSpec().GetSeed()
		}
	case *v1.ChaosInjection:
		o.Status = old.(*v1.ChaosInjection).GetStatus()
	case *v1.ReplicaSet:
		o.Status = old.(*v1.ReplicaSet).GetStatus()
	case *v1.Deployment:
		o.Status = old.(*v1.Deployment).GetStatus()
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
	switch o := o.(type) {
	case *v1.Pod:
		old := old.(*v1.Pod)
		m := old.GetMetadata()
		if m.GetAnnotations()[api.AnnotationTerminations] != o.GetMetadata().GetAnnotations()[api.AnnotationTerminations] {
			m = proto.CloneOf(m)
			api.KeepTerminations(m, o.GetMetadata())
		}
		return &v1.Pod{Metadata: m, Spec: old.GetSpec(), Status: o.GetStatus()}
	case *v1.PodDisruptionBudget:
		old := old.(*v1.PodDisruptionBudget)
		return &v1.PodDisruptionBudget{Metadata: old.GetMetadata(), Spec: old.GetSpec(), Status: o.GetStatus()}
	case *v1.ChaosExperiment:
		old := old.(*v1.ChaosExperiment)
		return &v1.ChaosExperiment{Metadata: old.GetMetadata(), Spec: old.GetSpec(), Status: o.GetStatus()}
	case *v1.ChaosInjection:
		old := old.(*v1.ChaosInjection)
		return &v1.ChaosInjection{Metadata: old.GetMetadata(), Spec: old.GetSpec(), Status: o.GetStatus()}
	case *v1.ReplicaSet:
		old := old.(*v1.ReplicaSet)
		return &v1.ReplicaSet{Metadata: old.GetMetadata(), Spec: old.GetSpec(), Status: o.GetStatus()}
	case *v1.Deployment:
		old := old.(*v1.Deployment)
		return &v1.Deployment{Metadata: old.GetMetadata(), Spec: old.GetSpec(), Status: o.GetStatus()}
	case *v1.Node:
		old := old.(*v1.Node)
		return &v1.Node{Metadata: old.GetMetadata(), Spec: old.GetSpec(), Status: o.GetStatus()}
	case *v1.Namespace:
		old := old.(*v1.Namespace)
		return &v1.Namespace{Metadata: old.GetMetadata(), Spec: old.GetSpec(), Status: o.GetStatus()}
	}
	return nil
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
	switch o := o.(type) {
	case *v1.Pod:
		return !proto.Equal(o.GetSpec(), old.(*v1.Pod).GetSpec())
	case *v1.PodDisruptionBudget:
		return !proto.Equal(o.GetSpec(), old.(*v1.PodDisruptionBudget).GetSpec())
	case *v1.ChaosExperiment:
		return !proto.Equal(o.GetSpec(), old.(*v1.ChaosExperiment).GetSpec())
	case *v1.ChaosInjection:
		return !proto.Equal(o.GetSpec(), old.(*v1.ChaosInjection).GetSpec())
	case *v1.ReplicaSet:
		return !proto.Equal(o.GetSpec(), old.(*v1.ReplicaSet).GetSpec())
	case *v1.Deployment:
		return !proto.Equal(o.GetSpec(), old.(*v1.Deployment).GetSpec()) ||
			!maps.Equal(asked(o), asked(old))
	}
	return false
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
