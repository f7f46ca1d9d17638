package api

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	v1 "orch/proto/v1"
)

// Values of dnsPolicy. An empty one is ClusterFirst.
const (
	DNSClusterFirst            = "ClusterFirst"
	DNSClusterFirstWithHostNet = "ClusterFirstWithHostNet"
	DNSDefault                 = "Default"
	DNSNone                    = "None"
)

// Types of a seccomp profile.
const (
	SeccompRuntimeDefault = "RuntimeDefault"
	SeccompUnconfined     = "Unconfined"
)

// Kubernetes' limits, which are those of libc and of resolv.conf.
const (
	maxNameservers = 3
	maxSearchPaths = 32
	maxSearchChars = 2048
	maxSysctlName  = 253
)

const sysctlFormat = `([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?`

var sysctlName = regexp.MustCompile("^" + sysctlFormat + "$")

// ipcSysctls belong to the IPC namespace, as does all below fs.mqueue.
var ipcSysctls = []string{
	"kernel.sem", "kernel.shm", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
	"kernel.msg", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni",
}

const badIP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"

// isolation checks what a pod shares with its node, and how its containers see
// the network.
func (e *problems) isolation(p path, s *v1.PodSpec) {
	at := p.child("securityContext")
	if c := s.GetSecurityContext(); c != nil {
		e.ids(at, c.RunAsUser, c.RunAsGroup, c.GetSeccompProfile())
	}
	for i, g := range s.GetSecurityContext().GetSupplementalGroups() {
		e.id(at.child("supplementalGroups").index(i), &g)
	}
	if s.GetHostPid() && s.GetShareProcessNamespace() {
		e.invalid(p.child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	e.sysctls(at.child("sysctls"), s)
	for i, c := range s.GetContainers() {
		e.sharedPorts(p.child("containers").index(i), s, c)
	}
	for i, c := range s.GetInitContainers() {
		e.sharedPorts(p.child("initContainers").index(i), s, c)
	}
	for i, a := range s.GetHostAliases() {
		p := p.child("hostAliases").index(i)
		e.ip(p.child("ip"), a.GetIp())
		for j, h := range a.GetHostnames() {
			e.invalidEach(p.child("hostnames").index(j), h, dnsSubdomain(h))
		}
	}
	e.maybeOneOf(p.child("dnsPolicy"), s.GetDnsPolicy(), DNSClusterFirstWithHostNet, DNSClusterFirst, DNSDefault, DNSNone)
	e.dnsConfig(p.child("dnsConfig"), s.GetDnsPolicy(), s.GetDnsConfig())
}

// sharedPorts checks that a port on the node's own network is the node's.
func (e *problems) sharedPorts(p path, s *v1.PodSpec, c *v1.Container) {
	for j, port := range c.GetPorts() {
		if h := port.GetHostPort(); s.GetHostNetwork() && h != 0 && h != port.GetContainerPort() {
			e.invalid(p.child("ports").index(j).child("hostPort"), h, "must match `containerPort` when `hostNetwork` is true")
		}
	}
}

func (e *problems) ip(p path, ip string) {
	if addr, err := netip.ParseAddr(ip); err != nil || addr.Zone() != "" {
		e.invalid(p, ip, badIP)
	}
}

// ids checks what pods and containers have in common.
func (e *problems) ids(p path, user, group *int64, profile *v1.SeccompProfile) {
	e.id(p.child("runAsUser"), user)
	e.id(p.child("runAsGroup"), group)
	if profile != nil {
		p := p.child("seccompProfile").child("type")
		if profile.GetType() == "" {
			e.required(p, "type is required when seccompProfile is set")
		} else {
			e.oneOf(p, profile.GetType(), SeccompRuntimeDefault, SeccompUnconfined)
		}
	}
}

func (e *problems) id(p path, id *int64) {
	if id != nil && (*id < 0 || *id > math.MaxInt32) {
		e.invalid(p, *id, outside(0, math.MaxInt32))
	}
}

func (e *problems) securityContext(p path, c *v1.SecurityContext) {
	if c == nil {
		return
	}
	e.ids(p, c.RunAsUser, c.RunAsGroup, c.GetSeccompProfile())
	if c.AllowPrivilegeEscalation == nil || c.GetAllowPrivilegeEscalation() {
		return
	}
	if c.GetPrivileged() {
		e.invalid(p, map[string]bool{"allowPrivilegeEscalation": false, "privileged": true}, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
	}
	if slices.Contains(c.GetCapabilities().GetAdd(), "CAP_SYS_ADMIN") {
		e.invalid(p, map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"add": c.GetCapabilities().GetAdd()}}, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
	}
}

func (e *problems) sysctls(all path, s *v1.PodSpec) {
	seen := map[string]bool{}
	for i, c := range s.GetSecurityContext().GetSysctls() {
		p, name := all.index(i).child("name"), c.GetName()
		dotted := strings.ReplaceAll(name, "/", ".")
		switch {
		case name == "":
			e.required(p, "")
		case len(name) > maxSysctlName || !sysctlName.MatchString(name):
			e.invalid(p, name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctlName, sysctlFormat))
		case seen[dotted]:
			e.duplicate(p, name)
		}
		switch {
		case s.GetHostNetwork() && strings.HasPrefix(dotted, "net."):
			e.invalid(p, name, "may not be specified when 'hostNetwork' is true")
		case s.GetHostIpc() && (slices.Contains(ipcSysctls, dotted) || strings.HasPrefix(dotted, "fs.mqueue.")):
			e.invalid(p, name, "may not be specified when 'hostIPC' is true")
		}
		seen[dotted] = true
	}
}

// dnsConfig refuses, beside what Kubernetes refuses, a dnsConfig that only adds
// to what the node's says: the engine can replace that, but not add to it.
func (e *problems) dnsConfig(p path, policy string, c *v1.PodDNSConfig) {
	switch {
	case policy == DNSNone && c == nil:
		e.required(p, "must provide `dnsConfig` when `dnsPolicy` is None")
		return
	case policy == DNSNone && len(c.GetNameservers()) == 0:
		e.required(p.child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")
		return
	case c == nil:
		return
	case policy != DNSNone:
		e.forbidden(p, "Orch implements it only where `dnsPolicy` is None")
	}
	if len(c.GetNameservers()) > maxNameservers {
		e.invalid(p.child("nameservers"), c.GetNameservers(), fmt.Sprintf("must not have more than %d nameservers", maxNameservers))
	}
	for i, ns := range c.GetNameservers() {
		e.ip(p.child("nameservers").index(i), ns)
	}
	searches := p.child("searches")
	if len(c.GetSearches()) > maxSearchPaths {
		e.invalid(searches, c.GetSearches(), fmt.Sprintf("must not have more than %d search paths", maxSearchPaths))
	}
	if len(strings.Join(c.GetSearches(), " ")) > maxSearchChars {
		e.invalid(searches, c.GetSearches(), fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchChars))
	}
	for i, s := range c.GetSearches() {
		if s != "." {
			e.invalidEach(searches.index(i), strings.TrimSuffix(s, "."), searchDomain(strings.TrimSuffix(s, ".")))
		}
	}
	for i, o := range c.GetOptions() {
		if o.GetName() == "" {
			e.required(p.child("options").index(i), "must not be empty")
		}
	}
}
