package podsecurity_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api/podsecurity"
	v1 "orch/proto/v1"
)

// The words and the versions are compared with Kubernetes' own checks in
// test/conformance; this table is for reading.
func TestWhatEachLevelForbids(t *testing.T) {
	hardened := func() *v1.PodSpec {
		return &v1.PodSpec{
			SecurityContext: &v1.PodSecurityContext{
				RunAsNonRoot: proto.Bool(true), SeccompProfile: &v1.SeccompProfile{Type: "RuntimeDefault"},
			},
			Containers: []*v1.Container{{Name: "app", SecurityContext: &v1.SecurityContext{
				AllowPrivilegeEscalation: proto.Bool(false), Capabilities: &v1.Capabilities{Drop: []string{"ALL"}},
			}}},
		}
	}
	tests := map[string]struct {
		change               func(s *v1.PodSpec, c *v1.Container)
		baseline, restricted string
	}{
		"a hardened pod is fine everywhere": {func(*v1.PodSpec, *v1.Container) {}, "", ""},
		"the node's network is the node's": {
			func(s *v1.PodSpec, _ *v1.Container) { s.HostNetwork = true }, "host namespaces", "host namespaces",
		},
		"a privileged container is root on the node": {
			func(_ *v1.PodSpec, c *v1.Container) { c.SecurityContext.Privileged = proto.Bool(true) }, "privileged", "privileged",
		},
		"a port of the node is not the pod's": {
			func(_ *v1.PodSpec, c *v1.Container) { c.Ports = []*v1.ContainerPort{{HostPort: 80}} }, "hostPort", "hostPort",
		},
		"a probe of another host lets the node ask in the pod's name": {
			func(_ *v1.PodSpec, c *v1.Container) {
				c.LivenessProbe = &v1.Probe{TcpSocket: &v1.TCPSocketAction{Host: "10.0.0.1"}}
			}, "probe or lifecycle host", "probe or lifecycle host",
		},
		"a sysctl may reach beyond the pod": {
			func(s *v1.PodSpec, _ *v1.Container) {
				s.SecurityContext.Sysctls = []*v1.Sysctl{{Name: "kernel.msgmax"}}
			},
			"forbidden sysctls", "forbidden sysctls",
		},
		"no seccomp profile opens all system calls": {
			func(_ *v1.PodSpec, c *v1.Container) {
				c.SecurityContext.SeccompProfile = &v1.SeccompProfile{Type: "Unconfined"}
			}, "seccompProfile", "seccompProfile",
		},
		"a capability of Docker's default set may be added, but not where hardening is asked for": {
			func(_ *v1.PodSpec, c *v1.Container) { c.SecurityContext.Capabilities.Add = []string{"CHOWN"} }, "", "unrestricted capabilities",
		},
		"a capability beyond the default set may not": {
			func(_ *v1.PodSpec, c *v1.Container) { c.SecurityContext.Capabilities.Add = []string{"NET_ADMIN"} },
			"non-default capabilities", "unrestricted capabilities",
		},
		"root is for baseline": {
			func(s *v1.PodSpec, _ *v1.Container) { s.SecurityContext.RunAsUser = proto.Int64(0) }, "", "runAsUser=0",
		},
		"silence about root is for baseline": {
			func(s *v1.PodSpec, _ *v1.Container) { s.SecurityContext.RunAsNonRoot = nil }, "", "runAsNonRoot != true",
		},
		"privileges that grow are for baseline": {
			func(_ *v1.PodSpec, c *v1.Container) { c.SecurityContext.AllowPrivilegeEscalation = nil }, "", "allowPrivilegeEscalation != false",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for level, want := range map[string]string{
				podsecurity.Privileged: "", podsecurity.Baseline: tt.baseline, podsecurity.Restricted: tt.restricted,
			} {
				policy, _ := podsecurity.PolicyOf(map[string]string{podsecurity.LabelEnforce: level})
				spec := hardened()
				tt.change(spec, spec.GetContainers()[0])
				got := ""
				for _, v := range policy.Enforce.Check(nil, spec) {
					got += v.Reason
				}
				if got != want {
					t.Errorf("%s: %q, want %q", level, got, want)
				}
			}
		})
	}
}
