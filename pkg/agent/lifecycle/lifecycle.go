// Package lifecycle decides what a pod on this node needs next and says how it
// stands. It is pure: no engine, no API, no clock. The time is an argument.
//
// Its one invariant: whatever is decided follows from the pod object, the
// containers that carry its uid, and a [Memory] that may be lost at any moment
// (the agent may be killed); losing it can cost time, but never doubles a
// container, forgets one, or touches one that runs as it should.
//
// Read next: plan.go (what to do), status.go (what to report), backoff.go (when
// a crashed container is tried again), ledger.go (how containers ended), config.go
// (its environment), volume.go (its files), spec.go (what the engine is asked for);
// then package agent, which carries the decisions out.
package lifecycle

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"orch/pkg/agent/probe"
	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// Labels on every sandbox and container. They are the agent's only lasting
// memory.
const (
	LabelCluster      = "orch.dev/cluster" // uid of the namespace kube-system
	LabelNode         = "orch.dev/node"
	LabelPodUID       = "orch.dev/pod-uid"
	LabelPodName      = "orch.dev/pod-name"
	LabelPodNamespace = "orch.dev/pod-namespace"
	LabelKind         = "orch.dev/kind"      // KindSandbox or KindContainer
	LabelContainer    = "orch.dev/container" // name in the pod's spec
	LabelAttempt      = "orch.dev/attempt"   // from 0; a container's restart count
	LabelSandbox      = "orch.dev/sandbox"   // attempt of the sandbox that it joined
	LabelSpecHash     = "orch.dev/spec-hash"
	LabelBackOff      = "orch.dev/back-off" // what a next crash has to wait: "20s"
)

// Values of LabelKind.
const (
	KindSandbox   = "sandbox"
	KindContainer = "container"
)

// SandboxSlot is the sandbox's name among the names of a pod's containers. It
// can be no container's name, and is Kubernetes' word for it.
const SandboxSlot = "POD"

// Container is a sandbox or container of a pod, as seen.
type Container struct {
	container.Container
	// Name in the pod's spec, or SandboxSlot.
	Name     string
	Attempt  int
	Sandbox  int // attempt of the sandbox that it joined
	SpecHash string
	BackOff  time.Duration
	// Ended says that the machine saw its process end; the engine may not know
	// yet, and then State still says running and ExitCode means nothing.
	Ended bool
	// BegunAt and EndedAt are when this agent saw it start and end, or its best
	// guess where it was not there. Unlike the engine's times they carry Go's
	// monotonic reading, so that setting the clock cannot stretch or shorten a
	// wait.
	BegunAt, EndedAt time.Time
	// Lost says that there is no such container any more.
	Lost bool
}

// Parse reads the labels. It returns false for what no agent made.
func Parse(c container.Container) (p Container, pod api.Key, uid string, ok bool) {
	l := c.Labels
	uid = l[LabelPodUID]
	p = Container{Container: c, Name: l[LabelContainer], SpecHash: l[LabelSpecHash]}
	if l[LabelKind] == KindSandbox {
		p.Name = SandboxSlot
	}
	var err error
	if p.Attempt, err = strconv.Atoi(l[LabelAttempt]); err != nil || uid == "" || p.Name == "" {
		return Container{}, api.Key{}, "", false
	}
	p.Sandbox, _ = strconv.Atoi(l[LabelSandbox])       // absent on sandboxes
	p.BackOff, _ = time.ParseDuration(l[LabelBackOff]) // absent: none yet
	return p, api.Key{Namespace: l[LabelPodNamespace], Name: l[LabelPodName]}, uid, true
}

// Seen tells others of containers, without those that no agent made.
func Seen(list []container.Container) (all []*v1.NodeContainer) {
	for _, c := range list {
		p, pod, uid, ok := Parse(c)
		if !ok {
			continue
		}
		x := &v1.NodeContainer{Id: p.ID, Namespace: pod.Namespace, Pod: pod.Name, PodUid: uid, Container: p.Name, Attempt: int32(p.Attempt), Running: p.Running(), Paused: p.State == container.StatePaused}
		if p.Name == SandboxSlot {
			x.Container = ""
		}
		all = append(all, x)
	}
	return all
}

// Running says that its process lives.
func (c *Container) Running() bool {
	return !c.Ended && !c.Lost && (c.State == container.StateRunning || c.State == container.StatePaused)
}

// Exited says that it has run, or failed to, and does no more.
func (c *Container) Exited() bool {
	return c.Ended || c.Lost && c.State != container.StateCreated ||
		c.State == container.StateExited || c.cannotRun()
}

// ExitKnown says that ExitCode means something.
func (c *Container) ExitKnown() bool { return c.State == container.StateExited || c.cannotRun() }

// cannotRun says that the engine tried to start it and failed.
func (c *Container) cannotRun() bool {
	return c.State == container.StateCreated && (c.Error != "" || c.ExitCode != 0)
}

// ran is for how long it ran.
func (c *Container) ran() time.Duration {
	switch {
	case c.cannotRun():
		return 0
	case !c.BegunAt.IsZero() && !c.EndedAt.IsZero():
		return c.EndedAt.Sub(c.BegunAt)
	}
	return max(0, c.FinishedAt.Sub(c.StartedAt))
}

// View is all that a decision rests on.
type View struct {
	// Pod is nil when the API server knows no pod of this uid any more.
	Pod *v1.Pod
	// Containers are the pod's sandboxes and containers, in any order.
	Containers []Container
	// Memory may be empty, never nil.
	Memory *Memory
	// HostIP is the node's address; Engine the scheme of ids, such as "docker".
	HostIP, Engine string
	// Objects finds the ConfigMaps and Secrets of References; nil finds none.
	Objects Objects
	// Digests finds the names by digest of the image with this id; nil finds none.
	Digests func(id string) []string
	// Allocatable is what the node offers to pods.
	Allocatable map[string]string
	// Refused says why the node does not begin with a pod; "" where it does. Nil
	// refuses none.
	Refused func(*v1.PodSpec) string
	// Health is what probes found out, by the ids of running containers.
	Health map[string]probe.Health
	Now    time.Time
	// Shift is how far the node's clock is ahead of Now, on purpose: it counts in the
	// times that are told to others, or by them.
	Shift time.Duration
}

// wall is what the node's clock shows.
func (v View) wall() time.Time { return v.Now.Add(v.Shift) }

// Memory is what the agent remembers of a pod between two decisions.
type Memory struct {
	// Busy holds the slots with a call under way, and which. A slot is
	// SandboxSlot, a container's name (its start), an id (its stop or removal),
	// or one of these behind "pull/" or "kill/".
	Busy map[string]Verb
	// Failures holds, by slot, what failed last, until it works.
	Failures map[string]Failure
	// Pulled holds, by container, the attempt for which its image was fetched.
	Pulled map[string]int
	// Missing holds the containers whose image the engine does not have.
	Missing map[string]bool
	// Last holds, by name, the newest container ever seen, in its last state.
	Last map[string]Container
	// Before holds, by name, the one before Last, as it was when that came.
	Before map[string]Container
	// StopBy holds, by id, when the stop under way will kill.
	StopBy map[string]time.Time
	// Unhealthy holds, by id, the probe's answer for which a container is ended.
	Unhealthy map[string]probe.Health
	// PostStart holds, by id, how the postStart hooks that are over went; PreStop
	// those preStop hooks that are over.
	PostStart map[string]error
	PreStop   map[string]bool
	// Stopped holds, by id, what the agent asked to end.
	Stopped map[string]Stopped
	// Terminations are how containers ended; nil until the pod was seen.
	Terminations api.Terminations
	// Killers says, by id, who had a container killed on purpose.
	Killers map[string]Killer
	// Messages holds, by id, what containers said at their end.
	Messages map[string]string
	// LogRead holds, by id, what ended and whose log needs no reading any more.
	LogRead map[string]bool
	// Volumes holds, by name, the fingerprint of those that were made; empty where
	// another agent did. Mounted says that something of them may be on the node.
	Volumes map[string]string
	Mounted bool
	// Begun is when the pod came to this node.
	Begun time.Time
	// Deadline is when what still runs has to be killed; zero unless the pod is
	// ending.
	Deadline time.Time
	// Verdict is why the agent ended the pod; nil if it did not.
	Verdict *Verdict
	// Status is the last status reported.
	Status *v1.PodStatus
	// Empty says that the engine was asked and has nothing of this pod.
	Empty bool
	// Deleted says that the API server was told that nothing is left.
	Deleted bool

	observed bool              // Observe was called with a pod
	grace    *int64            // the grace period on which Deadline rests
	specs    map[string]string // by container, the SpecHash that Failures, Pulled and Missing speak of
	secrets  string            // the versions of the Secrets with which images were pulled
}

// Stopped says why and when, with the time of its hook, a container was first
// asked to end.
type Stopped struct {
	Why string
	At  time.Time
}

// Killer is what had a container killed on purpose, and the revision that it has.
type Killer struct {
	Name     string
	Revision int64
}

// Failure is an engine call that failed, and when to try again.
type Failure struct {
	// Reason is Kubernetes' word (ErrImagePull, CreateContainerError, …); empty
	// where the engine did not answer, which is nobody's fault.
	Reason  string
	Message string
	Count   int
	At      time.Time
	Retry   time.Time
}

// Verdict is a reason of the agent's own to end a pod.
type Verdict struct {
	Reason, Message string
	// Grace is what its containers get to end; 0 is what the pod says.
	Grace time.Duration
	// Disruption says that it is the node's fault, which the pod's condition of
	// that name tells.
	Disruption bool
}

// NewMemory returns the memory of one who has seen nothing yet.
func NewMemory() *Memory {
	return &Memory{
		Busy:     map[string]Verb{},
		Failures: map[string]Failure{},
		Pulled:   map[string]int{},
		Missing:  map[string]bool{},
		Last:     map[string]Container{},
		Before:   map[string]Container{},
		StopBy:   map[string]time.Time{},
		Volumes:  map[string]string{},
		specs:    map[string]string{},

		Unhealthy: map[string]probe.Health{},
		Stopped:   map[string]Stopped{},
		Killers:   map[string]Killer{},
		Messages:  map[string]string{},
		PostStart: map[string]error{},
		PreStop:   map[string]bool{},
		LogRead:   map[string]bool{},
	}
}

// goneGrace is what containers get whose pod is gone from the API: the
// kubelet's minimum for forced deletion.
const goneGrace = 2 * time.Second

// Observe takes a look at the pod into the memory. Call it before Plan and
// Status.
func (m *Memory) Observe(v View) {
	for name, last := range m.Last {
		if last.Lost = true; last.EndedAt.IsZero() {
			last.EndedAt = v.Now
		}
		m.Last[name] = last
	}
	for _, c := range v.Containers {
		if last, ok := m.Last[c.Name]; !ok || last.Attempt <= c.Attempt {
			if ok && last.Attempt < c.Attempt {
				m.Before[c.Name] = last
			}
			m.Last[c.Name] = c
		}
		if h := v.Health[c.ID]; h.Failed != "" {
			m.Unhealthy[c.ID] = h
		}
		m.Empty = false
	}
	if v.Pod != nil && m.Begun.IsZero() {
		m.Begun = v.Now
		if t := v.Pod.GetStatus().GetStartTime(); t != nil {
			m.Begun = Backdate(v.wall(), t.AsTime()).Add(-v.Shift)
		}
	}
	for _, c := range api.AllContainers(v.Pod.GetSpec()) {
		m.observeSpec(c)
	}
	m.observeSecrets(v)
	if v.Pod != nil && !m.observed {
		m.recall(v)
	}
	m.observeEnds(v)
	m.observeEnd(v)
	m.observed = m.observed || v.Pod != nil
}

// observeSpec forgets what was learned of another image: a corrected name does
// not wait for what the wrong one has earned.
func (m *Memory) observeSpec(c *v1.Container) {
	name, hash := c.GetName(), SpecHash(c)
	if before, ok := m.specs[name]; ok && before != hash {
		delete(m.Failures, name)
		delete(m.Pulled, name)
		delete(m.Missing, name)
	}
	m.specs[name] = hash
}

// observeSecrets ends the wait for the next pull when a Secret came or changed:
// the right password need not wait for what the wrong one has earned.
func (m *Memory) observeSecrets(v View) {
	secrets, missing, known := v.pullSecrets()
	if !known {
		return
	}
	versions := fmt.Sprint(missing)
	for _, s := range secrets {
		versions += fmt.Sprintf(" %s@%d", s.GetMetadata().GetName(), s.GetMetadata().GetResourceVersion())
	}
	if m.secrets != versions {
		m.secrets = versions
		for slot, f := range m.Failures {
			if f.Reason == ReasonErrImagePull {
				f.Retry = v.Now
				m.Failures[slot] = f
			}
		}
	}
}

// recall takes from the pod's status what an earlier agent saw of containers
// that somebody removed since, so that their restarts go on counting.
func (m *Memory) recall(v View) {
	for _, s := range api.AllStatuses(v.Pod.GetStatus()) {
		last, ok := m.Last[s.GetName()]
		if ok && last.Attempt >= int(s.GetRestartCount()) || s.GetContainerId() == "" && s.GetRestartCount() == 0 {
			continue
		}
		c := Container{Name: s.GetName(), Attempt: int(s.GetRestartCount()), Lost: true, BegunAt: v.Now, EndedAt: v.Now}
		c.Sandbox = reportedSandbox(v)
		_, c.ID, _ = strings.Cut(s.GetContainerId(), "://")
		c.Image = s.GetImage()
		_, c.ImageID, _ = strings.Cut(s.GetImageId(), "://")
		c.State = container.StateRunning
		if c.ID == "" { // reported when it was made, and not started yet
			c.State = container.StateCreated
		}
		if t := s.GetState().GetTerminated(); t != nil {
			c.State, c.ExitCode, c.OOMKilled = container.StateExited, int(t.GetExitCode()), t.GetReason() == ReasonOOMKilled
			c.StartedAt, c.FinishedAt = t.GetStartedAt().AsTime(), t.GetFinishedAt().AsTime()
		}
		m.Last[c.Name] = c
	}
}

// reportedSandbox is the attempt of the sandbox that the pod's status speaks of,
// or of none that there is.
func reportedSandbox(v View) int {
	s := v.newestSandbox()
	if s == nil || s.IP != v.Pod.GetStatus().GetPodIp() && !v.Pod.GetSpec().GetHostNetwork() {
		return -1
	}
	return s.Attempt
}

// observeEnd sets the deadline. An agent that was there when deletion was
// asked for measures the grace period itself; one that came later has to
// believe the timestamp.
func (m *Memory) observeEnd(v View) {
	var grace time.Duration
	switch meta := v.Pod.GetMetadata(); {
	case v.Pod == nil:
		if m.grace != nil && *m.grace == -1 {
			return
		}
		forced := int64(-1)
		m.grace, grace = &forced, goneGrace
	case meta.GetDeletionTimestamp() != nil:
		seconds := meta.GetDeletionGracePeriodSeconds()
		if m.grace != nil && *m.grace <= seconds {
			return
		}
		m.grace, grace = &seconds, time.Duration(seconds)*time.Second
		if !m.observed {
			grace = min(grace, max(0, meta.GetDeletionTimestamp().AsTime().Sub(v.wall())))
		}
	case v.Ending():
		if !m.Deadline.IsZero() {
			return
		}
		grace = time.Duration(v.Pod.GetSpec().GetTerminationGracePeriodSeconds()) * time.Second
		if m.Verdict != nil && m.Verdict.Grace > 0 {
			grace = m.Verdict.Grace
		}
	default:
		return
	}
	if d := v.Now.Add(grace); m.Deadline.IsZero() || d.Before(m.Deadline) {
		m.Deadline = d
	}
}

// Backdate returns the time t as seen from now, with now's monotonic reading,
// and never after now: a clock that was set back cannot make a wait longer
// than it was meant to be.
func Backdate(now, t time.Time) time.Time {
	return now.Add(-max(0, now.Sub(t)))
}
