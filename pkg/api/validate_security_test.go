package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "orch/proto/v1"
)

func TestIsolationIsValidatedAsKubernetesDoes(t *testing.T) {
	sysctl := func(names ...string) *v1.PodSecurityContext {
		c := &v1.PodSecurityContext{}
		for _, name := range names {
			c.Sysctls = append(c.Sysctls, &v1.Sysctl{Name: name, Value: "1"})
		}
		return c
	}
	container := func(s *v1.PodSpec, c *v1.SecurityContext) { s.Containers[0].SecurityContext = c }
	for _, tt := range []struct {
		name   string
		change func(*v1.PodSpec)
		want   []string
	}{
		{"all that there is may be asked for together", func(s *v1.PodSpec) {
			s.SecurityContext = sysctl("net.ipv4.ip_forward", "kernel/shm_rmid_forced")
			s.SecurityContext.RunAsUser, s.SecurityContext.SupplementalGroups = proto.Int64(0), []int64{1, 2}
			container(s, &v1.SecurityContext{
				RunAsUser: proto.Int64(1 << 30), RunAsNonRoot: proto.Bool(true), ReadOnlyRootFilesystem: proto.Bool(true), AllowPrivilegeEscalation: proto.Bool(false),
				Capabilities: &v1.Capabilities{Add: []string{"NET_ADMIN"}, Drop: []string{"ALL"}}, SeccompProfile: &v1.SeccompProfile{Type: "RuntimeDefault"},
			})
			s.HostAliases = []*v1.HostAlias{{Ip: "10.0.0.1", Hostnames: []string{"db.local"}}}
			s.DnsPolicy, s.DnsConfig = DNSNone, &v1.PodDNSConfig{Nameservers: []string{"10.0.0.2"}, Searches: []string{"a.local."}, Options: []*v1.PodDNSConfigOption{{Name: "ndots", Value: proto.String("2")}}}
			s.ShareProcessNamespace = proto.Bool(true)
		}, nil},
		{"numbers of users and groups have a range", func(s *v1.PodSpec) {
			s.SecurityContext = &v1.PodSecurityContext{RunAsUser: proto.Int64(-1), SupplementalGroups: []int64{1 << 31}}
			container(s, &v1.SecurityContext{RunAsGroup: proto.Int64(1 << 31)})
		}, []string{
			"spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
			"spec.securityContext.supplementalGroups[0]: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
			"spec.containers[0].securityContext.runAsGroup: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
		}},
		{"who is privileged can escalate", func(s *v1.PodSpec) {
			container(s, &v1.SecurityContext{Privileged: proto.Bool(true), AllowPrivilegeEscalation: proto.Bool(false)})
		}, []string{"spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"}},
		{"who administers the system can escalate", func(s *v1.PodSpec) {
			container(s, &v1.SecurityContext{Capabilities: &v1.Capabilities{Add: []string{"CAP_SYS_ADMIN"}}, AllowPrivilegeEscalation: proto.Bool(false)})
		}, []string{"spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"capabilities\":{\"add\":[\"CAP_SYS_ADMIN\"]}}: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"}},
		{"a profile has a known type", func(s *v1.PodSpec) {
			s.SecurityContext = &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: "Localhost"}}
			container(s, &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{}})
		}, []string{
			`spec.securityContext.seccompProfile.type: Unsupported value: "Localhost": supported values: "RuntimeDefault", "Unconfined"`,
			"spec.containers[0].securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set",
		}},
		{"processes are shared with the pod or with the node", func(s *v1.PodSpec) {
			s.HostPid, s.ShareProcessNamespace = true, proto.Bool(true)
		}, []string{"spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"}},
		{"kernel parameters have names, once each", func(s *v1.PodSpec) {
			s.SecurityContext = sysctl("", "Net", "net.a", "net/a")
		}, []string{
			"spec.securityContext.sysctls[0].name: Required value",
			`spec.securityContext.sysctls[1].name: Invalid value: "Net": must have at most 253 characters and match regex ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?`,
			`spec.securityContext.sysctls[3].name: Duplicate value: "net/a"`,
		}},
		{"kernel parameters are not the node's", func(s *v1.PodSpec) {
			s.HostNetwork, s.HostIpc, s.SecurityContext = true, true, sysctl("net.a", "kernel.msgmax", "fs.mqueue.a", "kernel.pid_max", "Net")
		}, []string{
			`spec.securityContext.sysctls[0].name: Invalid value: "net.a": may not be specified when 'hostNetwork' is true`,
			`spec.securityContext.sysctls[1].name: Invalid value: "kernel.msgmax": may not be specified when 'hostIPC' is true`,
			`spec.securityContext.sysctls[2].name: Invalid value: "fs.mqueue.a": may not be specified when 'hostIPC' is true`,
			`spec.securityContext.sysctls[4].name: Invalid value: "Net": must have at most 253 characters and match regex ` + sysctlFormat,
		}},
		{"on the node's network a port is one of the node", func(s *v1.PodSpec) {
			s.HostNetwork = true
			s.Containers[0].Ports = []*v1.ContainerPort{{ContainerPort: 80, HostPort: 81, Protocol: "TCP"}}
		}, []string{"spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"}},
		{"aliases are addresses and names", func(s *v1.PodSpec) {
			s.HostAliases = []*v1.HostAlias{{Ip: "here", Hostnames: []string{"there."}}, {Ip: "fe80::1%eth0"}}
		}, []string{
			`spec.hostAliases[0].ip: Invalid value: "here": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			`spec.hostAliases[0].hostnames[0]: Invalid value: "there.": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
			`spec.hostAliases[1].ip: Invalid value: "fe80::1%eth0": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
		}},
		{"domains that are searched may have underscores", func(s *v1.PodSpec) {
			s.DnsPolicy, s.DnsConfig = DNSNone, &v1.PodDNSConfig{Nameservers: []string{"10.0.0.2"}, Searches: []string{".", "_tcp.local.", "a_"}}
		}, []string{
			`spec.dnsConfig.searches[2]: Invalid value: "a_": ` + breach(searchDomainRule, searchDomainFormat, "example.com"),
		}},
		{"a policy that is not known", func(s *v1.PodSpec) { s.DnsPolicy = "Mine" }, []string{
			`spec.dnsPolicy: Unsupported value: "Mine": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`,
		}},
		{"no policy needs a config", func(s *v1.PodSpec) { s.DnsPolicy = DNSNone }, []string{
			"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
		}},
		{"and a config a server", func(s *v1.PodSpec) { s.DnsPolicy, s.DnsConfig = DNSNone, &v1.PodDNSConfig{} }, []string{
			"spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
		}},
		{"what is added to the node's config is refused by name", func(s *v1.PodSpec) {
			s.DnsConfig = &v1.PodDNSConfig{Nameservers: []string{"a", "10.0.0.1", "10.0.0.2", "10.0.0.3"}, Options: []*v1.PodDNSConfigOption{{}}}
		}, []string{
			"spec.dnsConfig: Forbidden: Orch implements it only where `dnsPolicy` is None",
			`spec.dnsConfig.nameservers: Invalid value: ["a","10.0.0.1","10.0.0.2","10.0.0.3"]: must not have more than 3 nameservers`,
			`spec.dnsConfig.nameservers[0]: Invalid value: "a": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			"spec.dnsConfig.options[0]: Required value: must not be empty",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := validPod()
			tt.change(pod.Spec)
			if diff := cmp.Diff(tt.want, sentences(Validate(pod))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnTheNodesNetworkAPortIsOneOfTheNode(t *testing.T) {
	spec := func() *v1.PodSpec {
		return &v1.PodSpec{HostNetwork: true, Containers: []*v1.Container{{Ports: []*v1.ContainerPort{{ContainerPort: 80}}}}}
	}
	pod := &v1.Pod{Spec: spec()}
	if Default(pod); pod.Spec.Containers[0].Ports[0].HostPort != 80 {
		t.Errorf("ports %v", pod.Spec.Containers[0].Ports)
	}
	d := &v1.Deployment{Spec: &v1.DeploymentSpec{Template: &v1.PodTemplateSpec{Spec: spec()}}}
	if Default(d); d.Spec.Template.Spec.Containers[0].Ports[0].HostPort != 0 {
		t.Error("a template is a pod's only when there is one")
	}
}
