package lifecycle

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// ErrConfig is wrapped by what keeps a container from being asked for at all,
// until its pod or what the pod refers to is another one.
var ErrConfig = errors.New("container cannot be configured")

// configError has Kubernetes' sentence alone as its text.
type configError string

func (e configError) Error() string      { return string(e) }
func (configError) Is(target error) bool { return target == ErrConfig }

// SubPathError is why a part of a volume cannot be mounted, in the kubelet's
// words.
func SubPathError(m VolumeMount, c *v1.Container, err error) error {
	return configError(fmt.Sprintf("failed to prepare subPath for volumeMount %q of container %q: %v", m.Name, c.GetName(), err))
}

// isolate completes a sandbox by what the pod shares with its node.
func isolate(s *container.Sandbox, spec *v1.PodSpec) {
	s.HostNetwork, s.HostIPC = spec.GetHostNetwork(), spec.GetHostIpc()
	if s.HostNetwork {
		s.Hostname, s.Ports = "", nil // the node's own
	}
	for _, a := range spec.GetHostAliases() {
		for _, name := range a.GetHostnames() {
			s.Hosts = append(s.Hosts, container.Host{IP: a.GetIp(), Name: name})
		}
	}
	if spec.GetDnsPolicy() == api.DNSNone {
		c := spec.GetDnsConfig()
		s.DNS = &container.DNS{Nameservers: c.GetNameservers(), Searches: c.GetSearches()}
		for _, o := range c.GetOptions() {
			option := o.GetName()
			if o.GetValue() != "" {
				option += ":" + o.GetValue()
			}
			s.DNS.Options = append(s.DNS.Options, option)
		}
	}
	for _, c := range spec.GetSecurityContext().GetSysctls() {
		api.Put(&s.Sysctls, strings.ReplaceAll(c.GetName(), "/", "."), c.GetValue())
	}
}

// confine completes a container by what it may do, all but its user.
func confine(config *container.Config, spec *v1.PodSpec, c *v1.SecurityContext) {
	config.HostIPC = spec.GetHostIpc()
	switch {
	case spec.GetHostPid():
		config.PID = container.PIDHost
	case spec.GetShareProcessNamespace():
		config.PID = container.PIDSandbox
	}
	profile := cmp.Or(c.GetSeccompProfile(), spec.GetSecurityContext().GetSeccompProfile())
	config.Security = container.Security{
		Groups:         spec.GetSecurityContext().GetSupplementalGroups(),
		CapAdd:         c.GetCapabilities().GetAdd(),
		CapDrop:        c.GetCapabilities().GetDrop(),
		Privileged:     c.GetPrivileged(),
		NewPrivileges:  c.GetAllowPrivilegeEscalation() || c.GetPrivileged(),
		Unconfined:     profile.GetType() == api.SeccompUnconfined,
		ReadOnlyRootFS: c.GetReadOnlyRootFilesystem(),
	}
	if g := fsGroup(spec); g != nil {
		config.Security.Groups = append(slices.Clone(config.Security.Groups), *g)
	}
}

// SetUser sets whose processes the container's are, or says why they may not
// be. The image's user is asked for only where that decides. What breaks the
// rules of the pod wraps [ErrConfig].
func SetUser(config *container.Config, pod *v1.Pod, c *v1.Container, imageUser func() (string, error)) error {
	var user, group *int64
	nonRoot := false
	if s := pod.GetSpec().GetSecurityContext(); s != nil {
		user, group, nonRoot = s.RunAsUser, s.RunAsGroup, s.GetRunAsNonRoot()
	}
	if s := c.GetSecurityContext(); s != nil {
		user, group = cmp.Or(s.RunAsUser, user), cmp.Or(s.RunAsGroup, group)
		nonRoot = *cmp.Or(s.RunAsNonRoot, &nonRoot)
	}
	var name string
	switch {
	case user != nil:
		if name = strconv.FormatInt(*user, 10); nonRoot && *user == 0 {
			return configError(fmt.Sprintf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", FullName(pod), c.GetName()))
		}
	case nonRoot, group != nil:
		image, err := imageUser()
		if err != nil {
			return err
		}
		if name, _, _ = strings.Cut(image, ":"); name == "" {
			name = "0"
		}
		number, err := strconv.ParseInt(name, 10, 64)
		switch {
		case nonRoot && err != nil:
			return configError(fmt.Sprintf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)", name, FullName(pod), c.GetName()))
		case nonRoot && number == 0:
			return configError(fmt.Sprintf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", FullName(pod), c.GetName()))
		case group == nil:
			return nil // the image's user and group
		}
	}
	if config.Security.User = name; group != nil {
		config.Security.User += ":" + strconv.FormatInt(*group, 10)
	}
	return nil
}
