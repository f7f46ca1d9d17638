package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	v1 "orch/proto/v1"
)

func TestDefaultsAreThoseOfKubernetes(t *testing.T) {
	for _, tt := range []struct {
		name     string
		in, want Object
	}{
		{
			"a pod",
			&v1.Pod{Spec: &v1.PodSpec{Containers: []*v1.Container{{
				Name: "web", Image: "nginx", Ports: []*v1.ContainerPort{{ContainerPort: 80}},
				Resources: &v1.ResourceRequirements{
					Limits:   map[string]string{"cpu": "0.5", "memory": "1.5Gi"},
					Requests: map[string]string{"cpu": "0.1"},
				},
			}}}},
			&v1.Pod{Metadata: &v1.ObjectMeta{}, Spec: &v1.PodSpec{
				RestartPolicy: "Always", TerminationGracePeriodSeconds: proto.Int64(30), SchedulerName: "default-scheduler",
				Containers: []*v1.Container{{
					Name: "web", Image: "nginx", ImagePullPolicy: "Always",
					Ports: []*v1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}},
					Resources: &v1.ResourceRequirements{
						Limits:   map[string]string{"cpu": "500m", "memory": "1536Mi"},
						Requests: map[string]string{"cpu": "100m", "memory": "1536Mi"},
					},
				}},
			}},
		},
		{
			"a deployment, whose template gets no requests from limits",
			&v1.Deployment{Spec: &v1.DeploymentSpec{Template: &v1.PodTemplateSpec{Spec: &v1.PodSpec{Containers: []*v1.Container{{
				Image: "web:1", Resources: &v1.ResourceRequirements{Limits: map[string]string{"cpu": "1"}},
			}}}}}},
			&v1.Deployment{Metadata: &v1.ObjectMeta{}, Spec: &v1.DeploymentSpec{
				Replicas: proto.Int32(1), RevisionHistoryLimit: proto.Int32(10), ProgressDeadlineSeconds: proto.Int32(600),
				Strategy: &v1.DeploymentStrategy{Type: "RollingUpdate", RollingUpdate: &v1.RollingUpdateDeployment{
					MaxUnavailable: ParseIntOrString("25%"), MaxSurge: ParseIntOrString("25%"),
				}},
				Template: &v1.PodTemplateSpec{Metadata: &v1.ObjectMeta{}, Spec: &v1.PodSpec{
					RestartPolicy: "Always", TerminationGracePeriodSeconds: proto.Int64(30), SchedulerName: "default-scheduler",
					Containers: []*v1.Container{{
						Image: "web:1", ImagePullPolicy: "IfNotPresent",
						Resources: &v1.ResourceRequirements{Limits: map[string]string{"cpu": "1"}},
					}},
				}},
			}},
		},
		{
			"a deployment that recreates",
			&v1.Deployment{Spec: &v1.DeploymentSpec{Strategy: &v1.DeploymentStrategy{Type: "Recreate"}, Replicas: proto.Int32(0)}},
			&v1.Deployment{Metadata: &v1.ObjectMeta{}, Spec: &v1.DeploymentSpec{
				Replicas: proto.Int32(0), RevisionHistoryLimit: proto.Int32(10), ProgressDeadlineSeconds: proto.Int32(600),
				Strategy: &v1.DeploymentStrategy{Type: "Recreate"},
			}},
		},
		{
			"a replica set",
			&v1.ReplicaSet{},
			&v1.ReplicaSet{Metadata: &v1.ObjectMeta{}, Spec: &v1.ReplicaSetSpec{Replicas: proto.Int32(1)}},
		},
		{
			"a namespace is labelled with its name",
			&v1.Namespace{Metadata: &v1.ObjectMeta{Name: "shop"}},
			&v1.Namespace{
				Metadata: &v1.ObjectMeta{Name: "shop", Labels: map[string]string{"kubernetes.io/metadata.name": "shop"}},
				Spec:     &v1.NamespaceSpec{}, Status: &v1.NamespaceStatus{Phase: "Active"},
			},
		},
		{
			"a node offers all that it has",
			&v1.Node{Status: &v1.NodeStatus{Capacity: map[string]string{"cpu": "2000m"}}},
			&v1.Node{Metadata: &v1.ObjectMeta{}, Spec: &v1.NodeSpec{}, Status: &v1.NodeStatus{
				Capacity: map[string]string{"cpu": "2"}, Allocatable: map[string]string{"cpu": "2"},
			}},
		},
		{
			"a secret's texts become data",
			&v1.Secret{Data: map[string][]byte{"a": []byte("1"), "b": []byte("2")}, StringData: map[string]string{"b": "3"}},
			&v1.Secret{Metadata: &v1.ObjectMeta{}, Type: "Opaque", Data: map[string][]byte{"a": []byte("1"), "b": []byte("3")}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			Default(tt.in)
			if diff := cmp.Diff(tt.want, tt.in, protocmp.Transform()); diff != "" {
				t.Errorf("defaults (-want +got):\n%s", diff)
			}
			Default(tt.in)
			if diff := cmp.Diff(tt.want, tt.in, protocmp.Transform()); diff != "" {
				t.Errorf("the second time (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnImageThatMovesIsPulledAlways(t *testing.T) {
	for image, want := range map[string]string{
		"web":                        PullAlways,
		"web:latest":                 PullAlways,
		"registry:5000/web":          PullAlways,
		"web:1.0":                    PullIfNotPresent,
		"registry:5000/web:1.0":      PullIfNotPresent,
		"web@sha256:0123":            PullIfNotPresent,
		"web:1.0@sha256:0123":        PullIfNotPresent,
		"web:latest@sha256:0123":     PullAlways,
		"registry:5000/web@sha256:0": PullIfNotPresent,
	} {
		if got := pullPolicyOf(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}
