package lifecycle

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

func TestSetUser(t *testing.T) {
	for _, tt := range []struct {
		name      string
		pod       *v1.PodSecurityContext
		container *v1.SecurityContext
		image     string
		want      string
		refused   string
	}{
		{"nothing asked for leaves it to the image", nil, nil, "app", "", ""},
		{"the pod's user", &v1.PodSecurityContext{RunAsUser: proto.Int64(7)}, nil, "app", "7", ""},
		{"the container's goes before the pod's", &v1.PodSecurityContext{RunAsUser: proto.Int64(7), RunAsGroup: proto.Int64(8)}, &v1.SecurityContext{RunAsUser: proto.Int64(9)}, "", "9:8", ""},
		{"a group alone keeps the image's user", nil, &v1.SecurityContext{RunAsGroup: proto.Int64(8)}, "app:app", "app:8", ""},
		{"a group alone keeps root", nil, &v1.SecurityContext{RunAsGroup: proto.Int64(8)}, "", "0:8", ""},
		{"no root where the image is not", &v1.PodSecurityContext{RunAsNonRoot: proto.Bool(true)}, nil, "1000:1000", "", ""},
		{"no root where the image is root", &v1.PodSecurityContext{RunAsNonRoot: proto.Bool(true)}, nil, "", "", `container has runAsNonRoot and image will run as root (pod: "web_default(u1)", container: app)`},
		{"no root where the image is root by number", nil, &v1.SecurityContext{RunAsNonRoot: proto.Bool(true)}, "0:5", "", `container has runAsNonRoot and image will run as root (pod: "web_default(u1)", container: app)`},
		{"no root where nobody can tell", nil, &v1.SecurityContext{RunAsNonRoot: proto.Bool(true)}, "app", "", `container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: "web_default(u1)", container: app)`},
		{"no root where root is asked for", &v1.PodSecurityContext{RunAsNonRoot: proto.Bool(true)}, &v1.SecurityContext{RunAsUser: proto.Int64(0)}, "1000", "", `container's runAsUser breaks non-root policy (pod: "web_default(u1)", container: app)`},
		{"the container may be allowed what the pod is not", &v1.PodSecurityContext{RunAsNonRoot: proto.Bool(true)}, &v1.SecurityContext{RunAsNonRoot: proto.Bool(false)}, "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := newPod(func(p *v1.Pod) {
				p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext = tt.pod, tt.container
			})
			var config container.Config
			err := SetUser(&config, pod, pod.Spec.Containers[0], func() (string, error) { return tt.image, nil })
			if err != nil && (err.Error() != tt.refused || !errors.Is(err, ErrConfig)) || err == nil && tt.refused != "" {
				t.Errorf("error %v, want %q", err, tt.refused)
			}
			if config.Security.User != tt.want {
				t.Errorf("user %q, want %q", config.Security.User, tt.want)
			}
		})
	}
}

func TestIsolationReachesTheRuntime(t *testing.T) {
	pod := newPod(func(p *v1.Pod) {
		p.Spec.SecurityContext = &v1.PodSecurityContext{
			SupplementalGroups: []int64{5}, SeccompProfile: &v1.SeccompProfile{Type: api.SeccompUnconfined},
			Sysctls: []*v1.Sysctl{{Name: "net/ipv4/ip_forward", Value: "1"}},
		}
		p.Spec.ShareProcessNamespace, p.Spec.HostIpc = proto.Bool(true), true
		p.Spec.HostAliases = []*v1.HostAlias{{Ip: "10.0.0.1", Hostnames: []string{"a", "b"}}}
		p.Spec.DnsPolicy, p.Spec.DnsConfig = api.DNSNone, &v1.PodDNSConfig{
			Nameservers: []string{"10.0.0.2"}, Searches: []string{"local"},
			Options: []*v1.PodDNSConfigOption{{Name: "ndots", Value: proto.String("2")}, {Name: "rotate"}},
		}
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{
			Capabilities:           &v1.Capabilities{Add: []string{"NET_ADMIN"}, Drop: []string{"ALL"}},
			ReadOnlyRootFilesystem: proto.Bool(true), AllowPrivilegeEscalation: proto.Bool(true),
		}
	})
	s := SandboxConfig(Owner{}, pod, Action{Attempt: 0})
	s.Name, s.Labels = "", nil
	if diff := cmp.Diff(container.Sandbox{
		Hostname: "web", HostIPC: true, Hosts: []container.Host{{IP: "10.0.0.1", Name: "a"}, {IP: "10.0.0.1", Name: "b"}},
		DNS:     &container.DNS{Nameservers: []string{"10.0.0.2"}, Searches: []string{"local"}, Options: []string{"ndots:2", "rotate"}},
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
	}, s); diff != "" {
		t.Errorf("sandbox (-want +got):\n%s", diff)
	}
	c := ContainerConfig(Owner{}, pod, pod.Spec.Containers[0], Action{Sandbox: &Container{}})
	if diff := cmp.Diff(container.Security{
		Groups: []int64{5}, CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"}, NewPrivileges: true, Unconfined: true, ReadOnlyRootFS: true,
	}, c.Security); diff != "" || c.PID != container.PIDSandbox || !c.HostIPC {
		t.Errorf("PID %q, IPC of the host %t, security (-want +got):\n%s", c.PID, c.HostIPC, diff)
	}

	pod.Spec.HostNetwork, pod.Spec.HostPid = true, true
	pod.Spec.Containers[0].Ports = []*v1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
	pod.Spec.Containers[0].SecurityContext = &v1.SecurityContext{Privileged: proto.Bool(true), SeccompProfile: &v1.SeccompProfile{Type: api.SeccompRuntimeDefault}}
	s = SandboxConfig(Owner{}, pod, Action{Attempt: 0})
	if !s.HostNetwork || s.Hostname != "" || s.Ports != nil {
		t.Errorf("on the node's network: %+v", s)
	}
	c = ContainerConfig(Owner{}, pod, pod.Spec.Containers[0], Action{Sandbox: &Container{}})
	if c.PID != container.PIDHost || !c.Security.Privileged || !c.Security.NewPrivileges || c.Security.Unconfined {
		t.Errorf("privileged: PID %q, %+v", c.PID, c.Security)
	}
}

func TestAPodOnTheNodesNetworkHasItsAddress(t *testing.T) {
	v := view(newPod(func(p *v1.Pod) { p.Spec.HostNetwork = true }), sandbox(func(c *Container) { c.IP = "" }))
	v.HostIP = "192.0.2.1"
	v.Memory.Observe(v)
	if got := Status(v); got.GetPodIp() != v.HostIP || len(got.GetPodIps()) != 1 {
		t.Errorf("address %q", got.GetPodIp())
	}
}
