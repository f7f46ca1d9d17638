package lifecycle

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orch/pkg/container"
	v1 "orch/proto/v1"
)

func TestContainerConfig(t *testing.T) {
	pod := newPod(func(pod *v1.Pod) {
		c := pod.Spec.Containers[0]
		c.Command = []string{"/run", "$(GREETING)"}
		c.Args = []string{"--name=$(NAME)", "$$(NAME)", "$(NOBODY)"}
		c.Env = []*v1.EnvVar{{Name: "NAME", Value: "you"}, {Name: "GREETING", Value: "hello $(NAME), $(LATER)"}, {Name: "LATER", Value: "x"}}
		c.WorkingDir, c.Tty = "/data", true
		c.Resources = &v1.ResourceRequirements{
			Requests: map[string]string{"cpu": "250m"},
			Limits:   map[string]string{"cpu": "1500m", "memory": "64Mi"},
		}
	})
	s := sandbox(attempt(2))
	env, err := view(pod).Environment(pod.Spec.Containers[0])
	if err != nil {
		t.Fatal(err)
	}
	got := ContainerConfig(Owner{Cluster: "c1", Node: "n1"}, pod, pod.Spec.Containers[0], Action{Attempt: 3, BackOff: 20e9, Sandbox: &s, Env: env})
	want := container.Config{
		Name: "orch_app_web_default_u1_3", Image: "img:1", Sandbox: "sandbox2",
		Command:    []string{"/run", "hello you, $(LATER)"},
		Args:       []string{"--name=you", "$(NAME)", "$(NOBODY)"},
		Env:        []string{"NAME=you", "GREETING=hello you, $(LATER)", "LATER=x"},
		WorkingDir: "/data", TTY: true,
		Labels: map[string]string{
			"orch.dev/cluster": "c1", "orch.dev/node": "n1", "orch.dev/pod-uid": "u1", "orch.dev/pod-name": "web",
			"orch.dev/pod-namespace": "default", "orch.dev/kind": "container", "orch.dev/container": "app",
			"orch.dev/attempt": "3", "orch.dev/sandbox": "2", "orch.dev/back-off": "20s", "orch.dev/spec-hash": got.Labels[LabelSpecHash],
		},
		Resources: container.Resources{CPUShares: 256, CPUQuota: 150_000, MemoryBytes: 64 << 20},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}

	back, key, uid, ok := Parse(container.Container{ID: "x", Labels: got.Labels})
	if !ok || uid != "u1" || key.String() != "default/web" || back.Name != "app" || back.Attempt != 3 || back.Sandbox != 2 || back.BackOff != 20e9 {
		t.Errorf("the labels say %+v of pod %s, %s, %t", back, key, uid, ok)
	}
}

func TestSandboxConfig(t *testing.T) {
	pod := newPod(sidecar, func(pod *v1.Pod) {
		pod.Metadata.Name = strings.Repeat("a", 62) + "-bcd"
		pod.Spec.Containers[0].Ports = []*v1.ContainerPort{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 81}}
		pod.Spec.Containers[1].Ports = []*v1.ContainerPort{{ContainerPort: 53, HostPort: 53, Protocol: "UDP", HostIp: "127.0.0.1"}}
	})
	got := SandboxConfig(Owner{Cluster: "c1", Node: "n1"}, pod, Action{Attempt: 0})
	want := []container.Port{
		{ContainerPort: 80, HostPort: 8080, Protocol: "TCP"},
		{ContainerPort: 53, HostPort: 53, Protocol: "UDP", HostIP: "127.0.0.1"},
	}
	if diff := cmp.Diff(want, got.Ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if got.Hostname != strings.Repeat("a", 62) {
		t.Errorf("host name %q, want 62 a: at most 63 characters, and none of - and . at the end", got.Hostname)
	}
	if c, _, _, ok := Parse(container.Container{Labels: got.Labels}); !ok || c.Name != SandboxSlot {
		t.Errorf("the labels say %+v, %t", c, ok)
	}
}

func TestResources(t *testing.T) {
	tests := []struct {
		name             string
		requests, limits map[string]string
		want             container.Resources
	}{
		{"nothing asked gets the least share", nil, nil, container.Resources{CPUShares: 2}},
		{"a limit is a request too", nil, map[string]string{"cpu": "2"}, container.Resources{CPUShares: 2048, CPUQuota: 200_000}},
		{"a tiny limit is what the kernel takes", nil, map[string]string{"cpu": "1m"}, container.Resources{CPUShares: 2, CPUQuota: 1000}},
		{"a request alone sets no quota", map[string]string{"cpu": "100m", "memory": "1Gi"}, nil, container.Resources{CPUShares: 102}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := resources(&v1.ResourceRequirements{Requests: test.requests, Limits: test.limits})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("resources (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "EMPTY": ""}
	lookup := func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
	for in, want := range map[string]string{
		"":               "",
		"plain":          "plain",
		"$(A)":           "1",
		"x$(A)y$(EMPTY)": "x1y",
		"$(B)":           "$(B)",
		"$$(A)":          "$(A)",
		"$$$(A)":         "$1",
		"$A $ $":         "$A $ $",
		"$(A":            "$(A",
		"$$":             "$",
		"$()":            "$()",
		"$(A)$":          "1$",
	} {
		if got := expand(in, lookup); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSpecHashCoversNameAndImageAlone(t *testing.T) {
	a := &v1.Container{Name: "app", Image: "img:1"}
	if SpecHash(a) == SpecHash(&v1.Container{Name: "app", Image: "img:2"}) || SpecHash(a) == SpecHash(&v1.Container{Name: "ap", Image: "pimg:1"}) {
		t.Error("different containers have the same hash")
	}
	if SpecHash(a) != SpecHash(&v1.Container{Name: "app", Image: "img:1", Args: []string{"x"}}) {
		t.Error("what cannot change in a pod changes the hash")
	}
	if got := SpecHash(a); got != "45ce26d0" {
		t.Errorf("hash %s: running containers would be restarted by an upgrade of the agent", got)
	}
}
