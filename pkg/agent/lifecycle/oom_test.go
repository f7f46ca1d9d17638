package lifecycle

import (
	"testing"

	v1 "orch/proto/v1"
)

func TestOOMScore(t *testing.T) {
	limits := func(cpu, memory string) *v1.ResourceRequirements {
		l := map[string]string{"cpu": cpu, "memory": memory}
		return &v1.ResourceRequirements{Limits: l, Requests: l}
	}
	requests := func(memory string) *v1.ResourceRequirements {
		return &v1.ResourceRequirements{Requests: map[string]string{"memory": memory}}
	}
	for name, tt := range map[string]struct {
		resources *v1.ResourceRequirements
		memory    int64
		want      int
	}{
		"Guaranteed goes last":                              {limits("1", "1Gi"), 10 << 30, -997},
		"BestEffort goes first":                             {nil, 10 << 30, 1000},
		"who requests a tenth goes after who uses that":     {requests("1Gi"), 10 << 30, 900},
		"who requests next to nothing goes after no other":  {requests("1"), 10 << 30, 999},
		"who requests everything goes before Guaranteed":    {requests("10Gi"), 10 << 30, 3},
		"who requests something of what nobody has counted": {requests("1Gi"), 0, 999},
	} {
		c := &v1.Container{Resources: tt.resources}
		if got := OOMScore(&v1.PodSpec{Containers: []*v1.Container{c}}, c, tt.memory); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	always := "Always"
	sidecar := &v1.Container{Name: "s", RestartPolicy: &always}
	spec := &v1.PodSpec{InitContainers: []*v1.Container{sidecar}, Containers: []*v1.Container{{Resources: requests("1Gi")}, {Resources: requests("2Gi")}}}
	if got := OOMScore(spec, sidecar, 10<<30); got != 900 {
		t.Errorf("a sidecar goes before those that it serves: %d", got)
	}
}
