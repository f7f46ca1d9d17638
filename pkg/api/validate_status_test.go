package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "orch/proto/v1"
)

func TestAStatusThatMisleadsIsRefused(t *testing.T) {
	deployment := func(s *v1.DeploymentStatus) Object { return &v1.Deployment{Status: s} }
	set := func(s *v1.ReplicaSetStatus) Object { return &v1.ReplicaSet{Status: s} }
	for _, tt := range []struct {
		name     string
		new, old Object
		want     []string
	}{
		{"none is fine", set(nil), set(nil), nil},
		{"all ready and available", set(&v1.ReplicaSetStatus{Replicas: 3, FullyLabeledReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3}), set(nil), nil},
		{"more ready than there are", set(&v1.ReplicaSetStatus{Replicas: 2, ReadyReplicas: 3}), set(nil), []string{
			"status.readyReplicas: Invalid value: 3: cannot be greater than status.replicas",
		}},
		{"available and not ready", deployment(&v1.DeploymentStatus{Replicas: 2, ReadyReplicas: 1, AvailableReplicas: 2}), deployment(nil), []string{
			"status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
		}},
		{"fewer than none", deployment(&v1.DeploymentStatus{UpdatedReplicas: -1, UnavailableReplicas: -1}), deployment(nil), []string{
			"status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0",
			"status.updatedReplicas: Invalid value: -1: must be greater than or equal to 0",
		}},
		{
			"collisions that are forgotten", deployment(&v1.DeploymentStatus{CollisionCount: proto.Int32(1)}),
			deployment(&v1.DeploymentStatus{CollisionCount: proto.Int32(2)}),
			[]string{"status.collisionCount: Invalid value: 1: cannot be decremented"},
		},
		{"a node that offers nonsense", &v1.Node{Status: &v1.NodeStatus{Allocatable: map[string]string{"cpu": "-1"}}}, &v1.Node{}, []string{
			`status.allocatable[cpu]: Invalid value: "-1": must be greater than or equal to 0`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, sentences(ValidateStatus(tt.new, tt.old))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
