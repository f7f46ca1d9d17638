package lifecycle

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"

	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// Owner is whose containers these are.
type Owner struct{ Cluster, Node string }

// Labels are what all containers of this owner carry.
func (o Owner) Labels() map[string]string {
	return map[string]string{LabelCluster: o.Cluster, LabelNode: o.Node}
}

// PodLabels are what all containers of the pod carry.
func (o Owner) PodLabels(uid string) map[string]string {
	l := o.Labels()
	l[LabelPodUID] = uid
	return l
}

func (o Owner) labels(pod *v1.Pod, kind string, a Action) map[string]string {
	m := pod.GetMetadata()
	l := o.PodLabels(m.GetUid())
	l[LabelPodName], l[LabelPodNamespace] = m.GetName(), m.GetNamespace()
	l[LabelKind], l[LabelAttempt] = kind, strconv.Itoa(a.Attempt)
	if a.BackOff > 0 {
		l[LabelBackOff] = a.BackOff.String()
	}
	return l
}

// containerName is the same for the same attempt whoever makes it, so that two
// agents, or one agent that lost an answer, cannot make it twice.
func containerName(pod *v1.Pod, name string, attempt int) string {
	m := pod.GetMetadata()
	return engineName(name, m.GetName(), m.GetNamespace(), m.GetUid(), attempt)
}

func engineName(name, pod, namespace, uid string, attempt int) string {
	return fmt.Sprintf("orch_%s_%s_%s_%s_%d", name, pod, namespace, uid, attempt)
}

// Disown gives those containers that carry the labels of another one, which has the
// engine's name for them, a name of no spec: what somebody made in its image is taken
// away, and is no life of it.
func Disown(list []Container) {
	type life struct {
		name    string
		attempt int
	}
	genuine := func(c *Container) bool {
		return c.Container.Name == engineName(c.Name, c.Labels[LabelPodName], c.Labels[LabelPodNamespace], c.Labels[LabelPodUID], c.Attempt)
	}
	lives := map[life]bool{}
	for i := range list {
		if c := &list[i]; genuine(c) {
			lives[life{c.Name, c.Attempt}] = true
		}
	}
	for i := range list {
		if c := &list[i]; lives[life{c.Name, c.Attempt}] && !genuine(c) {
			c.Name = fmt.Sprintf("%s (not Orch's: %.12s)", c.Name, c.ID)
		}
	}
}

// SandboxConfig is what the engine is asked for as the pod's sandbox.
func SandboxConfig(o Owner, pod *v1.Pod, a Action) container.Sandbox {
	s := container.Sandbox{
		Name:     containerName(pod, SandboxSlot, a.Attempt),
		Hostname: hostname(pod),
		Labels:   o.labels(pod, KindSandbox, a),
	}
	for _, c := range api.LastingContainers(pod.GetSpec()) {
		for _, p := range c.GetPorts() {
			if p.GetHostPort() != 0 {
				s.Ports = append(s.Ports, container.Port{
					ContainerPort: p.GetContainerPort(), HostPort: p.GetHostPort(),
					HostIP: p.GetHostIp(), Protocol: p.GetProtocol(),
				})
			}
		}
	}
	isolate(&s, pod.GetSpec())
	return s
}

// hostname is the pod's name, cut to what Linux takes as a host name.
func hostname(pod *v1.Pod) string {
	h := cmp.Or(pod.GetSpec().GetHostname(), pod.GetMetadata().GetName())
	if len(h) > 63 {
		h = strings.TrimRight(h[:63], "-.")
	}
	return h
}

// ContainerConfig is what the engine is asked for as one container of the pod;
// [SetUser] completes it.
func ContainerConfig(o Owner, pod *v1.Pod, c *v1.Container, a Action) container.Config {
	l := o.labels(pod, KindContainer, a)
	l[LabelContainer], l[LabelSpecHash] = c.GetName(), SpecHash(c)
	l[LabelSandbox] = strconv.Itoa(a.Sandbox.Attempt)
	lookup := func(name string) (string, bool) { return lookupEnv(a.Env, name) }
	config := container.Config{
		Name:       containerName(pod, c.GetName(), a.Attempt),
		Image:      c.GetImage(),
		Sandbox:    a.Sandbox.ID,
		Command:    expandAll(c.GetCommand(), lookup),
		Args:       expandAll(c.GetArgs(), lookup),
		Env:        a.Env,
		WorkingDir: c.GetWorkingDir(),
		Labels:     l,
		Resources:  resources(c.GetResources()),
		Stdin:      c.GetStdin(),
		TTY:        c.GetTty(),
	}
	confine(&config, pod.GetSpec(), c.GetSecurityContext())
	return config
}

// lookupEnv finds a variable among NAME=value.
func lookupEnv(env []string, name string) (value string, ok bool) {
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// SpecHash changes when a running container has to be replaced. It covers the
// name and the image alone, as Kubernetes' does: all else of a container cannot
// change in a pod, and a field that a later release adds must not restart what
// runs.
func SpecHash(c *v1.Container) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%q%q", c.GetName(), c.GetImage())
	return hex.EncodeToString(h.Sum(nil))
}

// The kernel's and the kubelet's figures for CPU (kubelet cm/helpers_linux.go).
const (
	cpuPeriod   = 100_000 // microseconds
	minCPUQuota = 1_000
	minShares   = 2
	maxShares   = 262_144
)

// resources follows the kubelet: shares from the request, quota from the limit.
func resources(r *v1.ResourceRequirements) container.Resources {
	limits := api.ResourcesOf(r.GetLimits())
	request := cmp.Or(api.ResourcesOf(r.GetRequests()).MilliCPU, limits.MilliCPU)
	out := container.Resources{
		CPUShares:   min(max(request*1024/1000, minShares), maxShares),
		MemoryBytes: limits.Memory,
	}
	if limits.MilliCPU > 0 {
		out.CPUQuota = max(limits.MilliCPU*cpuPeriod/1000, minCPUQuota)
	}
	return out
}

// The kubelet's figures for whom the kernel ends first (pkg/kubelet/qos).
const (
	guaranteedOOMScore = -997
	bestEffortOOMScore = 1000
)

// OOMScore is whom the kernel ends first where the machine, whose memory that is,
// has none left: BestEffort, then who requested least of what he may use.
func OOMScore(s *v1.PodSpec, c *v1.Container, memory int64) int {
	switch api.QOSClass(s) {
	case api.QOSGuaranteed:
		return guaranteedOOMScore
	case api.QOSBestEffort:
		return bestEffortOOMScore
	}
	request := func(c *v1.Container) int64 { return api.ResourcesOf(c.GetResources().GetRequests()).Memory }
	own := request(c)
	if slices.Contains(s.GetInitContainers(), c) && api.IsSidecar(c) {
		// It does not go before those that it serves.
		own = max(own, request(slices.MinFunc(s.GetContainers(), func(a, b *v1.Container) int { return cmp.Compare(request(a), request(b)) })))
	}
	score := 1000
	if memory > 0 {
		score -= int(1000 * own / memory)
	}
	return min(max(score, 1000+guaranteedOOMScore), bestEffortOOMScore-1)
}

func expandAll(in []string, lookup func(string) (string, bool)) []string {
	var out []string
	for _, s := range in {
		out = append(out, expand(s, lookup))
	}
	return out
}

// expand replaces $(NAME) by the variable's value. As in Kubernetes, $$ stands
// for one $, and a reference to what does not exist stays as it is.
func expand(s string, lookup func(string) (string, bool)) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		rest := s[i+1:]
		switch end := strings.IndexByte(rest, ')'); {
		case rest[0] == '$':
			b.WriteByte('$')
			s = rest[1:]
		case rest[0] == '(' && end > 0:
			if value, ok := lookup(rest[1:end]); ok {
				b.WriteString(value)
			} else {
				b.WriteString("$" + rest[:end+1])
			}
			s = rest[end+1:]
		default:
			b.WriteString("$" + rest[:1])
			s = rest[1:]
		}
	}
}

// checkImageName says why no engine could know such an image.
func checkImageName(image string) error {
	_, err := reference.ParseNormalizedNamed(image)
	return err
}

// FullName is how the kubelet's messages name a pod: "web-1_default(uid)".
func FullName(pod *v1.Pod) string {
	m := pod.GetMetadata()
	return fmt.Sprintf("%s_%s(%s)", m.GetName(), m.GetNamespace(), m.GetUid())
}

// clock writes a time for people and programs.
func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
