package podsecurity

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// rule is one of the standards' controls.
type rule struct {
	level string
	// since is the minor version of Kubernetes that brought the rule, stricter
	// the one from which the level restricted has a stricter rule in its place.
	since, stricter int
	// check returns the violation, if there is one.
	check func(pod) Violation
}

const always, never = 0, latest + 1

// rules are in the order in which Kubernetes reports them. What it forbids by
// fields that Orch does not have (AppArmor and SELinux profiles, procMount,
// Windows) needs no rule.
var rules = []rule{
	{Baseline, always, never, appArmor},
	{Baseline, always, 22, capabilities},
	{Baseline, always, never, hostNamespaces},
	{Baseline, always, always, hostPaths},
	{Baseline, always, never, hostPorts},
	{Baseline, 34, never, hosts},
	{Baseline, always, never, privileged},
	{Baseline, 19, 19, seccomp},
	{Baseline, always, never, sysctls},

	{Restricted, 8, never, privilegeEscalation},
	{Restricted, 22, never, dropAll},
	{Restricted, always, never, volumeTypes},
	{Restricted, always, never, nonRoot},
	{Restricted, 23, never, rootUser},
	{Restricted, 19, never, seccompSet},
}

// pod is what rules look at.
type pod struct {
	*v1.PodSpec
	all         []*v1.Container
	annotations map[string]string
	minor       int // of the standard's version
}

// who returns the names of the containers for which f is true.
func (p pod) who(f func(*v1.Container) bool) []string {
	var names []string
	for _, c := range p.all {
		if f(c) {
			names = append(names, c.GetName())
		}
	}
	return names
}

// found is the violation that the containers commit; none where there are none.
func found(reason string, containers []string, format string, args ...any) Violation {
	if len(containers) == 0 {
		return Violation{}
	}
	return Violation{reason, subject("container", containers) + " " + fmt.Sprintf(format, args...)}
}

// subject is `container "a"` or `containers "a", "b"`.
func subject(noun string, names []string) string {
	return plural(noun, len(names)) + " " + quoted(names)
}

func plural(noun string, n int) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

func quoted(names []string) string { return `"` + strings.Join(names, `", "`) + `"` }

type set map[string]bool

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

// appArmor looks at the annotations from before there was a field. Orch does
// nothing with them, but a manifest that it takes is to be good in Kubernetes.
func appArmor(p pod) Violation {
	var bad []string
	for key, value := range p.annotations {
		good := value == "" || value == "runtime/default" || strings.HasPrefix(value, "localhost/")
		if strings.HasPrefix(key, "container.apparmor.security.beta.kubernetes.io/") && !good {
			bad = append(bad, fmt.Sprintf("%s=%q", key, value))
		}
	}
	if len(bad) == 0 {
		return Violation{}
	}
	slices.Sort(bad)
	return Violation{
		plural("forbidden AppArmor profile", len(bad)),
		plural("annotation", len(bad)) + " must not set AppArmor profile type to " + quoted(bad),
	}
}

// bad collects the values that containers should not have, and the containers
// that have them.
func (p pod) bad(of func(*v1.Container) []string) (containers, values []string) {
	containers = p.who(func(c *v1.Container) bool {
		some := of(c)
		values = append(values, some...)
		return len(some) > 0
	})
	slices.Sort(values)
	return containers, slices.Compact(values)
}

// added returns the containers that add other capabilities than those, and
// which ones.
func (p pod) added(good ...string) (containers, bad []string) {
	return p.bad(func(c *v1.Container) []string {
		return slices.DeleteFunc(slices.Clone(c.GetSecurityContext().GetCapabilities().GetAdd()),
			func(name string) bool { return slices.Contains(good, name) })
	})
}

func capabilities(p pod) Violation {
	names, bad := p.added("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
		"NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT")
	return found("non-default capabilities", names, "must not include %s in securityContext.capabilities.add", quoted(bad))
}

func hostNamespaces(p pod) Violation {
	var shared []string
	for _, n := range []struct {
		name string
		host bool
	}{{"hostNetwork", p.GetHostNetwork()}, {"hostPID", p.GetHostPid()}, {"hostIPC", p.GetHostIpc()}} {
		if n.host {
			shared = append(shared, n.name+"=true")
		}
	}
	if len(shared) == 0 {
		return Violation{}
	}
	return Violation{"host namespaces", strings.Join(shared, ", ")}
}

// hostVolumes are the volumes that are a path of the node.
func (p pod) hostVolumes() (names []string) {
	for _, v := range p.GetVolumes() {
		if v.HostPath != nil {
			names = append(names, v.GetName())
		}
	}
	return names
}

func hostPaths(p pod) Violation {
	names := p.hostVolumes()
	if len(names) == 0 {
		return Violation{}
	}
	return Violation{"hostPath volumes", subject("volume", names)}
}

// volumeTypes refuses, of the types that Orch has, hostPath alone.
func volumeTypes(p pod) Violation {
	names := p.hostVolumes()
	if len(names) == 0 {
		return Violation{}
	}
	return Violation{"restricted volume types", subject("volume", names) + " " + uses(names) + ` restricted volume type "hostPath"`}
}

func hostPorts(p pod) Violation {
	names, ports := p.bad(func(c *v1.Container) (ports []string) {
		for _, port := range c.GetPorts() {
			if port.GetHostPort() != 0 {
				ports = append(ports, strconv.Itoa(int(port.GetHostPort())))
			}
		}
		return ports
	})
	return found("hostPort", names, "%s %s %s", uses(names), plural("hostPort", len(ports)), strings.Join(ports, ", "))
}

func uses(names []string) string {
	if len(names) == 1 {
		return "uses"
	}
	return "use"
}

// hosts looks for probes and hooks that are sent elsewhere than to the pod: the node
// would ask in the pod's name.
func hosts(p pod) Violation {
	names, elsewhere := p.bad(func(c *v1.Container) (hosts []string) {
		add := func(host string) {
			if host != "" {
				hosts = append(hosts, host)
			}
		}
		for _, probe := range []*v1.Probe{c.GetLivenessProbe(), c.GetReadinessProbe(), c.GetStartupProbe()} {
			add(probe.GetHttpGet().GetHost())
			add(probe.GetTcpSocket().GetHost())
		}
		for _, hook := range []*v1.LifecycleHandler{c.GetLifecycle().GetPostStart(), c.GetLifecycle().GetPreStop()} {
			add(hook.GetHttpGet().GetHost())
		}
		return hosts
	})
	slices.Sort(names)
	return found("probe or lifecycle host", slices.Compact(names), "%s %s %s", uses(names), plural("probe or lifecycle host", len(elsewhere)), quoted(elsewhere))
}

func privileged(p pod) Violation {
	return found("privileged", p.who(func(c *v1.Container) bool { return c.GetSecurityContext().GetPrivileged() }),
		"must not set securityContext.privileged=true")
}

// seccomp refuses profiles that are none.
func seccomp(p pod) Violation {
	types := set{}
	bad := func(p *v1.SeccompProfile) bool {
		if p == nil || p.GetType() == api.SeccompRuntimeDefault || p.GetType() == "Localhost" {
			return false
		}
		types[p.GetType()] = true
		return true
	}
	setters := p.setters(bad(p.GetSecurityContext().GetSeccompProfile()),
		func(c *v1.Container) bool { return bad(c.GetSecurityContext().GetSeccompProfile()) })
	if setters == "" {
		return Violation{}
	}
	return Violation{"seccompProfile", setters + " must not set securityContext.seccompProfile.type to " + quoted(types.sorted())}
}

// setters names those who set what is forbidden: `pod and container "a"`.
func (p pod) setters(itself bool, container func(*v1.Container) bool) string {
	var setters []string
	if itself {
		setters = append(setters, "pod")
	}
	if names := p.who(container); len(names) > 0 {
		setters = append(setters, subject("container", names))
	}
	return strings.Join(setters, " and ")
}

// safeSysctls are those that stay within the pod, with the minor version since
// which they are allowed.
var safeSysctls = map[string]int{
	"kernel.shm_rmid_forced":              always,
	"net.ipv4.ip_local_port_range":        always,
	"net.ipv4.tcp_syncookies":             always,
	"net.ipv4.ping_group_range":           always,
	"net.ipv4.ip_unprivileged_port_start": always,
	"net.ipv4.ip_local_reserved_ports":    27,
	"net.ipv4.tcp_keepalive_time":         29,
	"net.ipv4.tcp_fin_timeout":            29,
	"net.ipv4.tcp_keepalive_intvl":        29,
	"net.ipv4.tcp_keepalive_probes":       29,
	"net.ipv4.tcp_rmem":                   32,
	"net.ipv4.tcp_wmem":                   32,
	"net.ipv4.tcp_slow_start_after_idle":  37,
	"net.ipv4.tcp_notsent_lowat":          37,
}

func sysctls(p pod) Violation {
	var bad []string
	for _, c := range p.GetSecurityContext().GetSysctls() {
		if since, ok := safeSysctls[c.GetName()]; !ok || p.minor < since {
			bad = append(bad, c.GetName())
		}
	}
	if len(bad) == 0 {
		return Violation{}
	}
	return Violation{"forbidden sysctls", strings.Join(bad, ", ")}
}

func privilegeEscalation(p pod) Violation {
	names := p.who(func(c *v1.Container) bool {
		a := c.GetSecurityContext()
		return a == nil || a.AllowPrivilegeEscalation == nil || a.GetAllowPrivilegeEscalation()
	})
	return found("allowPrivilegeEscalation != false", names, "must set securityContext.allowPrivilegeEscalation=false")
}

func dropAll(p pod) Violation {
	keep := p.who(func(c *v1.Container) bool {
		return !slices.Contains(c.GetSecurityContext().GetCapabilities().GetDrop(), "ALL")
	})
	add, bad := p.added("NET_BIND_SERVICE")
	const reason = "unrestricted capabilities"
	v := found(reason, keep, `must set securityContext.capabilities.drop=["ALL"]`)
	if more := found(reason, add, "must not include %s in securityContext.capabilities.add", quoted(bad)); v.Reason == "" {
		return more
	} else if more.Reason != "" {
		v.Detail += "; " + more.Detail
	}
	return v
}

func nonRoot(p pod) Violation {
	const reason = "runAsNonRoot != true"
	says := func(b *bool, what bool) bool { return b != nil && *b == what }
	var whole *bool
	if c := p.GetSecurityContext(); c != nil {
		whole = c.RunAsNonRoot
	}
	of := func(c *v1.Container) *bool {
		if a := c.GetSecurityContext(); a != nil {
			return a.RunAsNonRoot
		}
		return nil
	}
	if setters := p.setters(says(whole, false), func(c *v1.Container) bool { return says(of(c), false) }); setters != "" {
		return Violation{reason, setters + " must not set securityContext.runAsNonRoot=false"}
	}
	silent := p.who(func(c *v1.Container) bool { return of(c) == nil && !says(whole, true) })
	return orPod(found(reason, silent, "must set securityContext.runAsNonRoot=true"))
}

// orPod says that the pod could do what its containers do not.
func orPod(v Violation) Violation {
	if v.Reason != "" {
		v.Detail = "pod or " + v.Detail
	}
	return v
}

func rootUser(p pod) Violation {
	whole := p.GetSecurityContext()
	setters := p.setters(whole != nil && whole.RunAsUser != nil && whole.GetRunAsUser() == 0, func(c *v1.Container) bool {
		a := c.GetSecurityContext()
		return a != nil && a.RunAsUser != nil && a.GetRunAsUser() == 0
	})
	if setters == "" {
		return Violation{}
	}
	return Violation{"runAsUser=0", setters + " must not set runAsUser=0"}
}

// seccompSet is seccomp, and demands that there is a profile.
func seccompSet(p pod) Violation {
	if v := seccomp(p); v.Reason != "" {
		return v
	}
	silent := p.who(func(c *v1.Container) bool {
		return c.GetSecurityContext().GetSeccompProfile() == nil && p.GetSecurityContext().GetSeccompProfile() == nil
	})
	return orPod(found("seccompProfile", silent, `must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"`))
}
