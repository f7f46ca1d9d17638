package conformance

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func TestConstantsAreKubernetes(t *testing.T) {
	for _, pair := range [][2]string{
		{api.NamespaceDefault, metav1.NamespaceDefault},
		{api.NamespaceSystem, metav1.NamespaceSystem},
		{api.NamespaceActive, string(corev1.NamespaceActive)},
		{api.NamespaceTerminating, string(corev1.NamespaceTerminating)},
		{api.PodPending, string(corev1.PodPending)},
		{api.PodRunning, string(corev1.PodRunning)},
		{api.PodSucceeded, string(corev1.PodSucceeded)},
		{api.PodFailed, string(corev1.PodFailed)},
		{api.PodUnknown, string(corev1.PodUnknown)},
		{api.PodScheduled, string(corev1.PodScheduled)},
		{api.PodInitialized, string(corev1.PodInitialized)},
		{api.ContainersReady, string(corev1.ContainersReady)},
		{api.PodReady, string(corev1.PodReady)},
		{api.DisruptionTarget, string(corev1.DisruptionTarget)},
		{api.NodeReady, string(corev1.NodeReady)},
		{api.NodeMemoryPressure, string(corev1.NodeMemoryPressure)},
		{api.NodeDiskPressure, string(corev1.NodeDiskPressure)},
		{api.NodePIDPressure, string(corev1.NodePIDPressure)},
		{api.DeploymentAvailable, string(appsv1.DeploymentAvailable)},
		{api.DeploymentProgressing, string(appsv1.DeploymentProgressing)},
		{api.DeploymentReplicaFailure, string(appsv1.DeploymentReplicaFailure)},
		{api.ReplicaSetReplicaFailure, string(appsv1.ReplicaSetReplicaFailure)},
		{api.ReasonUnschedulable, corev1.PodReasonUnschedulable},
		{api.SchemeHTTP, string(corev1.URISchemeHTTP)},
		{api.SchemeHTTPS, string(corev1.URISchemeHTTPS)},
		{api.RestartPolicyAlways, string(corev1.RestartPolicyAlways)},
		{api.RestartPolicyOnFailure, string(corev1.RestartPolicyOnFailure)},
		{api.RestartPolicyNever, string(corev1.RestartPolicyNever)},
		{api.PullAlways, string(corev1.PullAlways)},
		{api.PullIfNotPresent, string(corev1.PullIfNotPresent)},
		{api.PullNever, string(corev1.PullNever)},
		{api.StrategyRollingUpdate, string(appsv1.RollingUpdateDeploymentStrategyType)},
		{api.StrategyRecreate, string(appsv1.RecreateDeploymentStrategyType)},
		{api.QOSGuaranteed, string(corev1.PodQOSGuaranteed)},
		{api.QOSBurstable, string(corev1.PodQOSBurstable)},
		{api.QOSBestEffort, string(corev1.PodQOSBestEffort)},
		{api.ResourceEphemeralStorage, string(corev1.ResourceEphemeralStorage)},
		{api.LabelPodTemplateHash, appsv1.DefaultDeploymentUniqueLabelKey},
		{api.LabelHostname, corev1.LabelHostname},
		{api.LabelOS, corev1.LabelOSStable},
		{api.LabelArch, corev1.LabelArchStable},
		{api.LabelNamespaceName, corev1.LabelMetadataName},
		{api.AnnotationLastApplied, corev1.LastAppliedConfigAnnotation},
		{api.AnnotationPodDeletionCost, corev1.PodDeletionCost},
		{api.FinalizerForeground, metav1.FinalizerDeleteDependents},
		{api.FinalizerOrphan, metav1.FinalizerOrphanDependents},
		{api.FinalizerKubernetes, string(corev1.FinalizerKubernetes)},
		{api.DefaultScheduler, corev1.DefaultSchedulerName},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%q is %q in Kubernetes", pair[0], pair[1])
		}
	}
}

// The defaults that Kubernetes' types have names for.
func TestDefaultsAreKubernetes(t *testing.T) {
	p := &v1.Pod{Spec: &v1.PodSpec{Containers: []*v1.Container{{Name: "a", Image: "b"}}}}
	api.Default(p)
	if got := p.GetSpec().GetTerminationGracePeriodSeconds(); got != corev1.DefaultTerminationGracePeriodSeconds {
		t.Errorf("termination grace period is %d s", got)
	}
	if got := p.GetSpec().GetSchedulerName(); got != corev1.DefaultSchedulerName {
		t.Errorf("scheduler is %q", got)
	}
}
