package api

import (
	"cmp"
	"slices"

	v1 "orch/proto/v1"
)

// Where the message of a container's end comes from.
const (
	TerminationMessageFile     = "File"
	TerminationMessageFallback = "FallbackToLogsOnError"
)

// TerminationMessagePath is where a container writes why it ends. The default is
// not filled in, because the names of ReplicaSets are hashes of their templates.
func TerminationMessagePath(c *v1.Container) string {
	if path := c.GetTerminationMessagePath(); path != "" {
		return path
	}
	return "/dev/termination-log"
}

// AllContainers are a pod's init containers and then its containers: the order
// in which they are started.
func AllContainers(s *v1.PodSpec) []*v1.Container {
	return slices.Concat(s.GetInitContainers(), s.GetContainers())
}

// ContainerNames are the names of all of them.
func ContainerNames(s *v1.PodSpec) (names []string) {
	for _, c := range AllContainers(s) {
		names = append(names, c.GetName())
	}
	return names
}

// AllStatuses are the statuses of all containers, those of init containers
// first.
func AllStatuses(s *v1.PodStatus) []*v1.ContainerStatus {
	return slices.Concat(s.GetInitContainerStatuses(), s.GetContainerStatuses())
}

// FindContainer returns the container of this name, or nil.
func FindContainer(s *v1.PodSpec, name string) *v1.Container {
	all := AllContainers(s)
	if i := slices.IndexFunc(all, func(c *v1.Container) bool { return c.GetName() == name }); i >= 0 {
		return all[i]
	}
	return nil
}

// ChooseContainer is the container that is meant: the one that is named, the one that
// the pod's annotation names, or the only one. Errors: ErrBadRequest.
func ChooseContainer(p *v1.Pod, name string) (*v1.Container, error) {
	containers := p.GetSpec().GetContainers()
	name = cmp.Or(name, p.GetMetadata().GetAnnotations()[AnnotationDefaultContainer])
	if name == "" && len(containers) == 1 {
		return containers[0], nil
	}
	if c := FindContainer(p.GetSpec(), name); c != nil {
		return c, nil
	}
	why := "container " + name + " is not valid"
	if name == "" {
		why = "a container name must be specified"
	}
	return nil, Errorf(ErrBadRequest, "%s for pod %s, choose one of: %v", why, p.GetMetadata().GetName(), ContainerNames(p.GetSpec()))
}

// IsSidecar says whether a container is an init container that goes on running
// beside the pod's containers. (Admission refuses restartPolicy elsewhere.)
func IsSidecar(c *v1.Container) bool { return c.GetRestartPolicy() == RestartPolicyAlways }

// LastingContainers are those that run as long as the pod does: sidecars and
// containers.
func LastingContainers(s *v1.PodSpec) []*v1.Container {
	return slices.DeleteFunc(AllContainers(s), func(c *v1.Container) bool {
		return !IsSidecar(c) && slices.Contains(s.GetInitContainers(), c)
	})
}
