package api

import (
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
