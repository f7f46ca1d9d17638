package lifecycle

import (
	"slices"

	"orch/pkg/agent/probe"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// health is how a running container is: as its probes say, or as it was
// reported by an agent before this one, or as it begins.
func (v View) health(spec *v1.Container, c Container) (h probe.Health, resumed bool) {
	if h, ok := v.Health[c.ID]; ok {
		return h, false
	}
	for _, s := range api.AllStatuses(v.Pod.GetStatus()) {
		if s.GetState().GetRunning() != nil && s.GetContainerId() == v.Engine+"://"+c.ID {
			return probe.Health{Started: s.GetStarted(), Ready: s.GetReady()}, true
		}
	}
	return probe.Fresh(spec), false
}

// begun says that nothing more belongs to the container's start: its postStart
// hook is over. An agent that finds it running does the hook again, unless one
// before it has reported it as running: as in Kubernetes, a hook is done at least
// once.
func (v View) begun(spec *v1.Container, c Container) bool {
	if spec.GetLifecycle().GetPostStart() == nil {
		return true
	}
	if err, over := v.Memory.PostStart[c.ID]; over {
		return err == nil
	}
	return slices.ContainsFunc(api.AllStatuses(v.Pod.GetStatus()), func(s *v1.ContainerStatus) bool {
		return s.GetState().GetRunning() != nil && s.GetContainerId() == v.Engine+"://"+c.ID
	})
}

func (v View) hookFailed(c Container) bool { return v.Memory.PostStart[c.ID] != nil }

// Targets are the containers that are to be probed.
func Targets(v View) []probe.Target {
	var targets []probe.Target
	sandbox := v.newestSandbox()
	if v.Pod == nil || sandbox == nil || !sandbox.Running() {
		return nil
	}
	for _, spec := range api.LastingContainers(v.Pod.GetSpec()) {
		c, ok := v.Memory.Last[spec.GetName()]
		if !ok || !c.Running() || c.Sandbox != sandbox.Attempt || !v.begun(spec, c) ||
			spec.GetLivenessProbe() == nil && spec.GetReadinessProbe() == nil && spec.GetStartupProbe() == nil {
			continue
		}
		t := probe.Target{ID: c.ID, Spec: spec, IP: sandbox.IP, Begun: c.BegunAt, Ending: v.Ending()}
		t.Was, t.Resumed = v.health(spec, c)
		t.Expand = func(command []string) []string { return expandStatic(spec, command) }
		targets = append(targets, t)
	}
	return targets
}

// expandStatic replaces references to variables whose values stand in the spec,
// as the kubelet does in what it asks of a container that runs.
func expandStatic(spec *v1.Container, command []string) []string {
	return expandAll(command, func(name string) (string, bool) {
		for _, e := range slices.Backward(spec.GetEnv()) {
			if e.GetName() == name && e.GetValueFrom() == nil {
				return e.GetValue(), true
			}
		}
		return "", false
	})
}
