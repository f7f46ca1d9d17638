package api

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	v1 "orch/proto/v1"
)

func (e *problems) podSpec(p path, s *v1.PodSpec) {
	if len(s.GetContainers()) == 0 {
		e.required(p.child("containers"), "")
	}
	e.isolation(p, s)
	e.volumes(p, s)
	names, hostPorts := map[string]bool{}, map[string]bool{}
	for i, c := range s.GetContainers() {
		p := p.child("containers").index(i)
		e.container(p, c, names)
		e.ports(p.child("ports"), c.GetPorts(), hostPorts)
		e.probes(p, c)
		e.lifecycle(p.child("lifecycle"), c.GetLifecycle(), s.GetTerminationGracePeriodSeconds())
		if c.RestartPolicy != nil {
			e.forbidden(p.child("restartPolicy"), "may not be set for non-init containers")
		}
	}
	for i, c := range s.GetInitContainers() {
		p := p.child("initContainers").index(i)
		e.container(p, c, names)
		e.ports(p.child("ports"), c.GetPorts(), map[string]bool{}) // they run one by one
		e.initContainer(p, c, s.GetTerminationGracePeriodSeconds())
	}
	e.oneOf(p.child("restartPolicy"), s.GetRestartPolicy(), RestartPolicyAlways, RestartPolicyOnFailure, RestartPolicyNever)
	e.nonNegative(p.child("terminationGracePeriodSeconds"), s.GetTerminationGracePeriodSeconds())
	if d := s.GetActiveDeadlineSeconds(); hasDeadline(s) && (d < 1 || d > math.MaxInt32) {
		e.invalid(p.child("activeDeadlineSeconds"), d, outside(1, math.MaxInt32))
	}
	e.labels(p.child("nodeSelector"), s.GetNodeSelector())
	e.tolerations(p.child("tolerations"), s.GetTolerations())
	if s.GetNodeName() != "" {
		e.invalidEach(p.child("nodeName"), s.GetNodeName(), dnsSubdomain(s.GetNodeName()))
	}
	if s.GetHostname() != "" {
		e.invalidEach(p.child("hostname"), s.GetHostname(), dnsLabel(s.GetHostname()))
	}
}

// hasDeadline says whether a deadline is set, be it 0.
func hasDeadline(s *v1.PodSpec) bool { return s != nil && s.ActiveDeadlineSeconds != nil }

func (e *problems) container(p path, c *v1.Container, names map[string]bool) {
	switch name := c.GetName(); {
	case name == "":
		e.required(p.child("name"), "")
	case names[name]:
		e.duplicate(p.child("name"), name)
	default:
		names[name] = true
		e.invalidEach(p.child("name"), name, dnsLabel(name))
	}
	e.image(p.child("image"), c.GetImage())
	e.oneOf(p.child("imagePullPolicy"), c.GetImagePullPolicy(), PullAlways, PullIfNotPresent, PullNever)
	// Not filled in: see TerminationMessagePath.
	e.maybeOneOf(p.child("terminationMessagePolicy"), c.GetTerminationMessagePolicy(), TerminationMessageFile, TerminationMessageFallback)
	e.env(p.child("env"), c.GetEnv())
	e.envFrom(p.child("envFrom"), c.GetEnvFrom())
	e.resources(p.child("resources"), c.GetResources())
	e.securityContext(p.child("securityContext"), c.GetSecurityContext())
}

// initContainer checks what is different in an init container: it has to end, so
// that nobody asks it how it is, unless it is a sidecar.
func (e *problems) initContainer(p path, c *v1.Container, grace int64) {
	if c.RestartPolicy != nil && !IsSidecar(c) {
		e.notSupported(p.child("restartPolicy"), c.GetRestartPolicy(), RestartPolicyAlways)
	}
	if IsSidecar(c) {
		e.probes(p, c)
		e.lifecycle(p.child("lifecycle"), c.GetLifecycle(), grace)
		return
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"lifecycle", c.GetLifecycle() != nil},
		{"livenessProbe", c.GetLivenessProbe() != nil},
		{"readinessProbe", c.GetReadinessProbe() != nil},
		{"startupProbe", c.GetStartupProbe() != nil},
	} {
		if f.set {
			e.forbidden(p.child(f.name), "may not be set for init containers without restartPolicy=Always")
		}
	}
}

func (e *problems) image(p path, image string) {
	if image == "" {
		e.required(p, "")
	} else if strings.TrimSpace(image) != image {
		e.invalid(p, image, "must not have leading or trailing whitespace")
	}
}

// ports checks the ports of one container. Their names must differ within the
// container, and their host ports within the pod.
func (e *problems) ports(p path, ports []*v1.ContainerPort, hostPorts map[string]bool) {
	names := map[string]bool{}
	for i, port := range ports {
		p := p.index(i)
		if name := port.GetName(); name != "" {
			if msgs := portName(name); len(msgs) > 0 {
				e.invalidEach(p.child("name"), name, msgs)
			} else if names[name] {
				e.duplicate(p.child("name"), name)
			}
			names[name] = true
		}
		if port.GetContainerPort() == 0 {
			e.required(p.child("containerPort"), "")
		} else {
			e.invalidEach(p.child("containerPort"), port.GetContainerPort(), portNumber(port.GetContainerPort()))
		}
		e.oneOf(p.child("protocol"), port.GetProtocol(), ProtocolSCTP, ProtocolTCP, ProtocolUDP)
		if ip := port.GetHostIp(); ip != "" {
			e.ip(p.child("hostIP"), ip)
		}
		if port.GetHostPort() == 0 {
			continue
		}
		e.invalidEach(p.child("hostPort"), port.GetHostPort(), portNumber(port.GetHostPort()))
		key := fmt.Sprintf("%s/%s/%d", port.GetProtocol(), port.GetHostIp(), port.GetHostPort())
		if hostPorts[key] {
			e.duplicate(p.child("hostPort"), key)
		}
		hostPorts[key] = true
	}
}

func (e *problems) resources(p path, r *v1.ResourceRequirements) {
	limits := e.quantities(p.child("limits"), r.GetLimits(), ResourceCPU, ResourceEphemeralStorage, ResourceMemory)
	requests := e.quantities(p.child("requests"), r.GetRequests(), ResourceCPU, ResourceEphemeralStorage, ResourceMemory)
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		if limit, ok := limits[name]; ok && requests[name].Cmp(limit) > 0 {
			e.invalid(p.child("requests"), requests[name].String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit))
		}
	}
}

// quantities checks a list of resources and returns those that are right.
// Where supported is given, no others may be in the list.
func (e *problems) quantities(p path, list map[string]string, supported ...string) map[string]Quantity {
	good := make(map[string]Quantity, len(list))
	for _, name := range slices.Sorted(maps.Keys(list)) {
		p := p.key(name)
		if len(supported) > 0 && !slices.Contains(supported, name) {
			e.notSupported(p, name, slices.Clone(supported)...)
			continue
		}
		q, err := ParseQuantity(list[name])
		switch {
		case err != nil:
			e.invalid(p, list[name], err.Error())
		case q.Sign() < 0:
			e.invalid(p, q.String(), notNegative)
		default:
			good[name] = q
		}
	}
	return good
}
