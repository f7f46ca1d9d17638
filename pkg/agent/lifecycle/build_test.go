package lifecycle

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/agent/probe"
	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// now is when everything in these tests is decided.
var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// newPod returns a pod with one container app, as the API server would.
func newPod(changes ...func(*v1.Pod)) *v1.Pod {
	pod := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default", Uid: "u1", Generation: 1},
		Spec:     &v1.PodSpec{NodeName: "n1", Containers: []*v1.Container{{Name: "app", Image: "img:1"}}},
		Status:   &v1.PodStatus{},
	}
	for _, change := range changes {
		change(pod)
	}
	api.Default(pod)
	return pod
}

func policy(p string) func(*v1.Pod) { return func(pod *v1.Pod) { pod.Spec.RestartPolicy = p } }

func pulls(p string) func(*v1.Pod) {
	return func(pod *v1.Pod) { pod.Spec.Containers[0].ImagePullPolicy = p }
}

func image(ref string) func(*v1.Pod) {
	return func(pod *v1.Pod) { pod.Spec.Containers[0].Image = ref }
}

func pullSecrets(names ...string) func(*v1.Pod) {
	return func(pod *v1.Pod) {
		for _, name := range names {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, &v1.LocalObjectReference{Name: name})
		}
	}
}

func secret(name string) *v1.Secret {
	return &v1.Secret{Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"}}
}

// finding makes these be all the objects that there are.
func (v View) finding(objects ...api.Object) View {
	v.Objects = found(objects...)
	return v
}

func sidecar(pod *v1.Pod) {
	pod.Spec.Containers = append(pod.Spec.Containers, &v1.Container{Name: "side", Image: "img:1"})
}

// probed has a liveness probe, and a startup probe with a grace period.
func probed(pod *v1.Pod) {
	exec := &v1.ExecAction{Command: []string{"well"}}
	c := pod.Spec.Containers[0]
	c.LivenessProbe, c.ReadinessProbe = &v1.Probe{Exec: exec}, &v1.Probe{Exec: exec}
	c.StartupProbe = &v1.Probe{Exec: exec, TerminationGracePeriodSeconds: proto.Int64(7)}
}

// unwell lets a probe of container app have failed.
func (v View) unwell(kind probe.Kind) View {
	return v.healthy(probe.Health{Started: kind != probe.Startup, Failed: kind, Message: "it is not well"})
}

func (v View) healthy(h probe.Health) View {
	v.Health = map[string]probe.Health{"app0": h}
	return v
}

// deleted asks for the pod's end, ago before now.
func deleted(grace int64, ago time.Duration) func(*v1.Pod) {
	return func(pod *v1.Pod) {
		pod.Metadata.DeletionGracePeriodSeconds = proto.Int64(grace)
		pod.Metadata.DeletionTimestamp = timestamppb.New(now.Add(time.Duration(grace)*time.Second - ago))
	}
}

func phase(p string) func(*v1.Pod) { return func(pod *v1.Pod) { pod.Status.Phase = p } }

// sandbox returns the pod's sandbox, running.
func sandbox(changes ...func(*Container)) Container {
	c := Container{Name: SandboxSlot, Container: container.Container{ID: "sandbox0", State: container.StateRunning, IP: "10.0.0.2"}}
	for _, change := range changes {
		change(&c)
	}
	return c
}

// app returns the first attempt of container app, running for a minute.
func app(changes ...func(*Container)) Container {
	c := Container{
		Name: "app", SpecHash: SpecHash(&v1.Container{Name: "app", Image: "img:1"}),
		BegunAt: now.Add(-time.Minute),
		Container: container.Container{
			ID: "app0", State: container.StateRunning, Image: "img:1", ImageID: "sha256:1", StartedAt: now.Add(-time.Minute),
		},
	}
	for _, change := range changes {
		change(&c)
	}
	return c
}

func side(changes ...func(*Container)) Container {
	c := app(changes...)
	c.Name, c.SpecHash = "side", SpecHash(&v1.Container{Name: "side", Image: "img:1"})
	c.ID = strings.Replace(c.ID, "app", "side", 1)
	return c
}

func attempt(n int) func(*Container) {
	return func(c *Container) {
		c.ID = strings.TrimRight(c.ID, "0123456789") + fmt.Sprint(n)
		c.Attempt = n
	}
}

func inSandbox(n int) func(*Container) { return func(c *Container) { c.Sandbox = n } }

func carries(backOff time.Duration) func(*Container) {
	return func(c *Container) { c.BackOff = backOff }
}

// exited ended with code after running for ran, ago before now.
func exited(code int, ran, ago time.Duration) func(*Container) {
	return func(c *Container) {
		c.State, c.ExitCode, c.IP = container.StateExited, code, ""
		c.StartedAt, c.FinishedAt = now.Add(-ago-ran), now.Add(-ago)
		c.BegunAt, c.EndedAt = c.StartedAt, c.FinishedAt
	}
}

// ended ended now, and the engine has not said how.
func ended(c *Container) { c.Ended, c.EndedAt = true, now }

func created(c *Container) {
	c.State, c.StartedAt, c.BegunAt = container.StateCreated, time.Time{}, time.Time{}
}

func cannotRun(c *Container) {
	created(c)
	c.Error, c.ExitCode, c.EndedAt = "exec: no such file", 127, now
}

// view is the pod with these containers, and a memory that has seen them.
func view(pod *v1.Pod, containers ...Container) View {
	v := View{Pod: pod, Containers: containers, Memory: NewMemory(), HostIP: "192.168.0.1", Engine: "docker", Now: now}
	return v
}

// with changes the memory, after a first look.
func (v View) with(changes ...func(*Memory)) View {
	v.Memory.Observe(v)
	for _, change := range changes {
		change(v.Memory)
	}
	return v
}

func busy(slot string, verb Verb) func(*Memory) { return func(m *Memory) { m.Busy[slot] = verb } }

func failed(slot, reason string, ago, wait time.Duration) func(*Memory) {
	return func(m *Memory) {
		m.Failures[slot] = Failure{Reason: reason, Message: "the engine's words", Count: 1, At: now.Add(-ago), Retry: now.Add(-ago + wait)}
	}
}

// short writes an action in one line.
func short(a Action) string {
	s := string(a.Verb)
	switch a.Verb {
	case CreateSandbox:
		s += fmt.Sprintf(" %d", a.Attempt)
	case Create, Start:
		s += fmt.Sprintf(" %s %d in %s", a.Container, a.Attempt, a.Sandbox.ID)
		if a.ID != "" {
			s += " as " + a.ID
		}
		if a.BackOff > 0 {
			s += fmt.Sprintf(" carrying %s", a.BackOff)
		}
	case Pull:
		s += " for " + a.Container
		for _, secret := range a.Secrets {
			s += " with " + secret.GetMetadata().GetName()
		}
		for _, name := range a.MissingSecrets {
			s += " without " + name
		}
	case PostStart:
		s += " " + a.ID
	case Stop, PreStop:
		s += fmt.Sprintf(" %s within %s", a.ID, a.Grace)
	case Kill, Remove:
		s += " " + a.ID
	}
	return s
}
