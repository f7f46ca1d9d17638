package api

import (
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "orch/proto/v1"
)

func TestAPodRequestsWhatItNeedsAtItsWorstMoment(t *testing.T) {
	requests := func(cpu, memory string) *v1.ResourceRequirements {
		return &v1.ResourceRequirements{Requests: map[string]string{"cpu": cpu, "memory": memory}}
	}
	step := func(cpu, memory string) *v1.Container { return &v1.Container{Resources: requests(cpu, memory)} }
	sidecar := func(cpu, memory string) *v1.Container {
		return &v1.Container{Resources: requests(cpu, memory), RestartPolicy: proto.String(RestartPolicyAlways)}
	}
	tests := []struct {
		name                string
		init                []*v1.Container
		wantCPU, wantMemory int64
	}{
		{"containers are added up", nil, 300, 300},
		{"a small init container changes nothing", []*v1.Container{step("100m", "100")}, 300, 300},
		{"of a large one each resource counts by itself", []*v1.Container{step("1", "100")}, 1000, 300},
		{"init containers are not added up", []*v1.Container{step("1", "400"), step("500m", "500")}, 1000, 500},
		{"sidecars are added to the containers", []*v1.Container{sidecar("50m", "50")}, 350, 350},
		{"and to the init containers after them", []*v1.Container{step("400m", "1"), sidecar("50m", "50"), step("390m", "1")}, 440, 350},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := &v1.PodSpec{InitContainers: test.init, Containers: []*v1.Container{step("100m", "100"), step("200m", "200")}}
			got := PodRequests(spec)
			if want := (Resources{MilliCPU: test.wantCPU, Memory: test.wantMemory, Pods: 1}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestInitContainersCountForTheClassOfService(t *testing.T) {
	full := &v1.ResourceRequirements{Limits: map[string]string{"cpu": "1", "memory": "1Gi"}}
	spec := &v1.PodSpec{Containers: []*v1.Container{{Resources: full}}, InitContainers: []*v1.Container{{Resources: full}}}
	if got := QOSClass(spec); got != QOSGuaranteed {
		t.Errorf("all have limits: %s", got)
	}
	spec.InitContainers[0].Resources = nil
	if got := QOSClass(spec); got != QOSBurstable {
		t.Errorf("an init container has none: %s", got)
	}
}
