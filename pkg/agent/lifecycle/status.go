package lifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Reasons of container states, as Kubernetes has them.
const (
	ReasonContainerCreating    = "ContainerCreating"
	ReasonPodInitializing      = "PodInitializing"
	ReasonCrashLoopBackOff     = "CrashLoopBackOff"
	ReasonErrImagePull         = "ErrImagePull"
	ReasonImagePullBackOff     = "ImagePullBackOff"
	ReasonErrImageNeverPull    = "ErrImageNeverPull"
	ReasonInvalidImageName     = "InvalidImageName"
	ReasonContainerConfigError = "CreateContainerConfigError"
	ReasonCreateContainerError = "CreateContainerError"
	ReasonRunContainerError    = "RunContainerError"
	ReasonPostStartHookError   = "PostStartHookError"
	ReasonSandboxError         = "CreatePodSandboxError"
	ReasonOOMKilled            = "OOMKilled"
	ReasonError                = "Error"
	ReasonCompleted            = "Completed"
	ReasonCannotRun            = "ContainerCannotRun"
	ReasonStatusUnknown        = "ContainerStatusUnknown"
)

const (
	// statusPatience is how long the exit code of a process that was seen to
	// end may take to become known; after that its loss is reported.
	statusPatience = time.Second
	// errImagePullShown is how long a failed pull is shown as such, before it
	// is shown as a wait for the next try.
	errImagePullShown = time.Second
)

// Status says how the pod stands. It starts from the status reported last, of
// which it keeps what others wrote and the times of conditions that did not
// change. Pod must not be nil.
func Status(v View) *v1.PodStatus {
	s := &v1.PodStatus{}
	switch {
	case v.Memory.Status != nil:
		s = proto.Clone(v.Memory.Status).(*v1.PodStatus)
	case v.Pod.GetStatus() != nil:
		s = proto.Clone(v.Pod.GetStatus()).(*v1.PodStatus)
	}
	for _, c := range v.Pod.GetStatus().GetConditions() {
		if !slices.Contains(ownConditions, c.GetType()) {
			api.SetCondition(&s.Conditions, c, v.wall())
		}
	}
	w := writer{View: v, old: api.AllStatuses(s)}
	s.StartTime = cmp.Or(s.StartTime, timestamppb.New(v.Memory.Begun.Add(v.Shift)))
	s.HostIp = v.HostIP
	s.QosClass = api.QOSClass(v.Pod.GetSpec())
	s.ObservedGeneration = v.Pod.GetMetadata().GetGeneration()
	s.InitContainerStatuses, s.ContainerStatuses = nil, nil
	for _, c := range v.Pod.GetSpec().GetInitContainers() {
		s.InitContainerStatuses = append(s.InitContainerStatuses, w.container(c))
	}
	for _, c := range v.Pod.GetSpec().GetContainers() {
		s.ContainerStatuses = append(s.ContainerStatuses, w.container(c))
	}
	slices.SortFunc(s.ContainerStatuses, func(a, b *v1.ContainerStatus) int { return cmp.Compare(a.GetName(), b.GetName()) })

	s.Phase = w.phase(s)
	if verdict := v.Memory.Verdict; verdict != nil && s.Phase == api.PodFailed {
		s.Reason, s.Message = verdict.Reason, verdict.Message
		if verdict.Disruption {
			api.SetCondition(&s.Conditions, &v1.Condition{
				Type: api.DisruptionTarget, Status: api.ConditionTrue, Reason: "TerminationByKubelet", Message: verdict.Message,
			}, v.wall())
		}
	}
	w.neverRan(s)
	w.address(s)
	w.conditions(s)
	return s
}

// neverRan says of the containers of a pod that has failed that none will come of
// those that were waited for, in Kubernetes' words.
func (w writer) neverRan(s *v1.PodStatus) {
	if s.Phase != api.PodFailed || len(w.unprepared(s)) > 0 {
		return
	}
	for _, c := range s.GetContainerStatuses() {
		if c.GetState().GetWaiting() != nil {
			c.State = &v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
				ExitCode: 137, Reason: ReasonStatusUnknown, Message: notLocated,
			}}
		}
	}
}

// notLocated is Kubernetes' sentence about a container of which nothing is known
// when its pod has ended.
const notLocated = "The container could not be located when the pod was terminated"

// ownConditions are those that the agent alone writes.
var ownConditions = []string{api.PodInitialized, api.PodReady, api.ContainersReady}

// StatusDue is when the status changes though nothing else does; zero is never.
func StatusDue(v View) (due time.Time) {
	at := func(t time.Time) {
		if t.After(v.Now) && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	for _, f := range v.Memory.Failures {
		if f.Reason == ReasonErrImagePull {
			at(f.At.Add(errImagePullShown))
		}
	}
	for _, c := range v.Containers {
		if c.Ended && !c.ExitKnown() {
			at(c.EndedAt.Add(statusPatience))
		}
	}
	return due
}

type writer struct {
	View
	old []*v1.ContainerStatus
}

// address is the sandbox's. A pod that has ended keeps the one it had.
func (w writer) address(s *v1.PodStatus) {
	ended := s.Phase == api.PodSucceeded || s.Phase == api.PodFailed || w.Pod.GetMetadata().GetDeletionTimestamp() != nil
	sandbox := w.newestSandbox()
	if ended && (sandbox == nil || !sandbox.Running()) {
		return
	}
	s.PodIp, s.PodIps = "", nil
	if sandbox == nil || !sandbox.Running() {
		return
	}
	ip := sandbox.IP
	if w.Pod.GetSpec().GetHostNetwork() {
		ip = w.HostIP
	}
	if ip != "" {
		s.PodIp, s.PodIps = ip, []*v1.PodIP{{Ip: ip}}
	}
}

// container describes one container of the spec.
func (w writer) container(c *v1.Container) *v1.ContainerStatus {
	var old *v1.ContainerStatus
	for _, o := range w.old {
		if o.GetName() == c.GetName() {
			old = o
		}
	}
	last, ok := w.Memory.Last[c.GetName()]
	s := &v1.ContainerStatus{Name: c.GetName(), Image: c.GetImage(), State: &v1.ContainerState{}, Started: proto.Bool(false)}
	before := w.before(last)
	if ok && (!last.Exited() && (!last.Running() || !w.begun(c, last)) || before != nil && w.untold(before)) {
		// Made and not started yet, or not to the end of its hook, or sooner than the
		// engine tells how the life before went: until then that is what there is.
		s.RestartCount = int32(last.Attempt)
		if err := w.Memory.PostStart[last.ID]; err != nil {
			s.State.Waiting = &v1.ContainerStateWaiting{Reason: ReasonPostStartHookError, Message: err.Error()}
			s.LastState = w.lastState(last, old)
			return s
		}
		if ok = before != nil; ok {
			last = *before
		}
	}
	if !ok {
		s.State.Waiting = w.waiting(c)
		s.LastState = old.GetLastState()
		return s
	}
	s.RestartCount = int32(last.Attempt)
	s.ContainerId, s.ImageId = w.id(last.ID), w.imageID(last, old)
	if last.Image != "" {
		s.Image = last.Image
	}
	switch d := decide(w.View, c); {
	case last.Running() || w.untold(&last):
		s.State.Running = &v1.ContainerStateRunning{StartedAt: timestamppb.New(last.StartedAt)}
		h, _ := w.health(c, last)
		s.Ready, *s.Started = h.Ready && !w.isStep(c), h.Started
	case !w.Ending() && d.what == begin && (d.at.After(w.Now) || w.failing(c)):
		s.State.Waiting = w.waiting(c)
		if d.at.After(w.Now) {
			s.State.Waiting = &v1.ContainerStateWaiting{
				Reason: ReasonCrashLoopBackOff,
				Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s; next try at %s",
					d.wait, c.GetName(), FullName(w.Pod), clock(d.at)),
			}
		}
		s.LastState = &v1.ContainerState{Terminated: w.terminated(last)}
		return s
	default:
		s.State.Terminated = w.terminated(last)
		s.Ready = w.isStep(c) && last.ExitKnown() && last.ExitCode == 0
	}
	s.LastState = w.lastState(last, old)
	return s
}

// untold says that the engine is about to tell how a container ended. Until then it
// counts as running.
func (w writer) untold(c *Container) bool {
	return c.Ended && !c.ExitKnown() && !c.Lost && w.Now.Before(c.EndedAt.Add(statusPatience))
}

// lastState is how the attempt before ended: as seen, or as reported before it
// was removed.
func (w writer) lastState(last Container, old *v1.ContainerStatus) *v1.ContainerState {
	before := w.before(last)
	switch {
	case before != nil && before.Exited() && !w.untold(before):
		return &v1.ContainerState{Terminated: w.terminated(*before)}
	case old.GetContainerId() != "" && old.GetContainerId() != w.id(last.ID) && old.GetState().GetTerminated() != nil:
		return &v1.ContainerState{Terminated: old.GetState().GetTerminated()}
	case old.GetLastState().GetTerminated().GetContainerId() != w.id(last.ID):
		return old.GetLastState()
	}
	return nil
}

// before returns the attempt before this one, or nil. Somebody may have removed
// it since.
func (w writer) before(c Container) *Container {
	var found *Container
	if b, ok := w.Memory.Before[c.Name]; ok && b.Lost && b.Attempt < c.Attempt {
		found = &b
	}
	for i, o := range w.Containers {
		if o.Name == c.Name && o.Attempt < c.Attempt && (found == nil || found.Attempt < o.Attempt) {
			found = &w.Containers[i]
		}
	}
	return found
}

func (w writer) terminated(c Container) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{ContainerId: w.id(c.ID), ExitCode: int32(c.ExitCode), Message: w.withoutIDs(c)}
	if !c.StartedAt.IsZero() {
		t.StartedAt = timestamppb.New(c.StartedAt)
	}
	t.FinishedAt = timestamppb.New(c.EndedAt)
	if !c.FinishedAt.IsZero() {
		t.FinishedAt = timestamppb.New(c.FinishedAt)
	}
	// An engine notes the start after the process has begun, and so perhaps after
	// it has ended.
	if t.StartedAt != nil && t.FinishedAt.AsTime().Before(t.StartedAt.AsTime()) {
		t.FinishedAt = t.StartedAt
	}
	switch {
	case !c.ExitKnown():
		t.ExitCode, t.Reason = 137, ReasonStatusUnknown
		t.Message = notLocated
		if !c.Lost {
			t.Message = "The container's process ended, and the engine does not tell its exit code"
		}
	case c.cannotRun():
		t.Reason = ReasonCannotRun
	case w.starved(c):
		t.Reason = ReasonOOMKilled
	case c.ExitCode == 0:
		t.Reason = ReasonCompleted
	default:
		t.Reason = ReasonError
	}
	t.Message = cmp.Or(t.Message, w.Memory.Messages[c.ID], w.Memory.Unhealthy[c.ID].Message)
	for _, s := range w.old { // an earlier agent may have known why; not so who knew not even the code
		for _, was := range []*v1.ContainerStateTerminated{s.GetState().GetTerminated(), s.GetLastState().GetTerminated()} {
			if t.Message == "" && was.GetContainerId() == t.ContainerId && was.GetReason() != ReasonStatusUnknown {
				t.Message = was.GetMessage()
			}
		}
	}
	return t
}

// withoutIDs is the engine's error with names in the place of the ids that it
// uses, which would make the same error another one with each attempt.
func (w writer) withoutIDs(c Container) string {
	if c.Error == "" {
		return ""
	}
	names := []string{c.ID, c.Name}
	for _, o := range w.Containers {
		names = append(names, o.ID, o.Name)
	}
	return strings.NewReplacer(names...).Replace(c.Error)
}

// failing says that the next start of the container failed and is waited for.
func (w writer) failing(c *v1.Container) bool {
	return w.Memory.Failures[c.GetName()].Reason != "" || w.configError(c) != nil
}

// waiting says why the container has not been started.
func (w writer) waiting(c *v1.Container) *v1.ContainerStateWaiting {
	if err := checkImageName(c.GetImage()); err != nil {
		return &v1.ContainerStateWaiting{
			Reason:  ReasonInvalidImageName,
			Message: fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", c.GetImage(), c.GetImage(), err),
		}
	}
	f := w.Memory.Failures[c.GetName()]
	switch {
	case f.Reason == ReasonErrImagePull && !w.Now.Before(f.At.Add(errImagePullShown)):
		return &v1.ContainerStateWaiting{
			Reason:  ReasonImagePullBackOff,
			Message: fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", c.GetImage(), f.Message),
		}
	case f.Reason != "":
		return &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	if err := w.configError(c); err != nil {
		return &v1.ContainerStateWaiting{Reason: ReasonContainerConfigError, Message: err.Error()}
	}
	waiting := &v1.ContainerStateWaiting{Reason: ReasonContainerCreating}
	if len(w.Pod.GetSpec().GetInitContainers()) > 0 {
		waiting.Reason = ReasonPodInitializing
	}
	if f := w.Memory.Failures[SandboxSlot]; f.Reason != "" && !w.sandboxAlive() {
		waiting.Message = "Failed to create pod sandbox: " + f.Message
	}
	return waiting
}

// tally counts how containers stand.
type tally struct{ running, waiting, stopped, succeeded int }

func (t *tally) add(c *v1.ContainerStatus) {
	end := c.GetState().GetTerminated()
	switch {
	case c.GetState().GetRunning() != nil:
		t.running++
	case end != nil:
		t.stopped++
		if end.GetExitCode() == 0 {
			t.succeeded++
		}
	case c.GetLastState().GetTerminated() != nil:
		t.stopped++
	default:
		t.waiting++
	}
}

// phase sums the containers up, as the kubelet's getPhase. A phase that ends a
// pod is never left, and never entered before the last process has ended.
func (w writer) phase(s *v1.PodStatus) string {
	// What has ended stays so, also where the mirror has not heard of it yet and
	// the engine no longer knows with what exit code.
	for _, said := range []*v1.PodStatus{w.Pod.GetStatus(), w.Memory.Status} {
		if phase := said.GetPhase(); phase == api.PodSucceeded || phase == api.PodFailed {
			return phase
		}
	}
	var main, init tally
	for _, c := range s.GetContainerStatuses() {
		main.add(c)
	}
	preparing := false
	for i, c := range s.GetInitContainerStatuses() {
		init.add(c)
		preparing = preparing || c.GetState().GetRunning() != nil && w.isStep(w.Pod.GetSpec().GetInitContainers()[i])
	}
	begun := main.running+main.stopped > 0
	running := main.running + init.running
	switch {
	case running == 0 && (w.Memory.Verdict != nil || !begun && w.finished()):
		return api.PodFailed
	case (preparing || main.waiting > 0 || len(w.unprepared(s)) > 0) && !(w.Ending() && begun):
		return api.PodPending
	case running > 0:
		return api.PodRunning
	case w.Ending():
		if main.succeeded == main.stopped {
			return api.PodSucceeded
		}
		return api.PodFailed
	}
	return api.PodRunning // all wait to be started again
}

// unprepared are the names of the init containers that have not done their part,
// as far as the status shows: where a container has begun, all that it waited
// for have, except what a new sandbox has to run once more.
func (w writer) unprepared(s *v1.PodStatus) (names []string) {
	for _, c := range s.GetContainerStatuses() {
		if c.GetState().GetRunning() != nil || c.GetState().GetTerminated() != nil {
			return nil
		}
	}
	for i, c := range w.Pod.GetSpec().GetInitContainers() {
		is := s.GetInitContainerStatuses()[i]
		if api.IsSidecar(c) && !is.GetStarted() || !api.IsSidecar(c) && !is.GetReady() {
			names = append(names, c.GetName())
		}
	}
	return names
}

// conditions are those that the agent writes, and PodScheduled where nobody
// else did.
func (w writer) conditions(s *v1.PodStatus) {
	set := func(typ string, ok bool, reason, message string) {
		c := &v1.Condition{Type: typ, Status: "True"}
		if !ok {
			c.Status, c.Reason, c.Message = "False", reason, message
		}
		api.SetCondition(&s.Conditions, c, w.wall())
	}
	var unready []string
	for i, c := range s.GetInitContainerStatuses() {
		if api.IsSidecar(w.Pod.GetSpec().GetInitContainers()[i]) && !c.GetReady() {
			unready = append(unready, c.GetName())
		}
	}
	for _, c := range s.GetContainerStatuses() {
		if !c.GetReady() {
			unready = append(unready, c.GetName())
		}
	}
	ready, reason := len(unready) == 0, "ContainersNotReady"
	message := fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	switch s.Phase {
	case api.PodSucceeded:
		ready, reason, message = false, "PodCompleted", ""
	case api.PodFailed:
		ready, reason, message = false, "PodFailed", ""
	}
	left := w.unprepared(s)
	set(api.PodInitialized, len(left) == 0 || s.Phase == api.PodSucceeded, "ContainersNotInitialized",
		fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(left, " ")))
	set(api.PodReady, ready, reason, message)
	set(api.ContainersReady, ready, reason, message)
	set(api.PodScheduled, true, "", "")
}

// imageID is how Kubernetes names what a container runs: by its digest where a
// registry knows it, else by the engine's id. It does not change while the
// container is the same, whatever becomes of the image's names.
func (w writer) imageID(c Container, old *v1.ContainerStatus) string {
	if old.GetContainerId() == w.id(c.ID) && strings.Contains(old.GetImageId(), "@") {
		return old.GetImageId()
	}
	found := w.id(c.ImageID)
	if w.Digests == nil {
		return found
	}
	asked, _ := reference.ParseNormalizedNamed(c.Image)
	for i, digest := range w.Digests(c.ImageID) {
		named, err := reference.ParseNormalizedNamed(digest)
		if err == nil && (i == 0 || asked != nil && named.Name() == asked.Name()) {
			found = named.String()
		}
	}
	return found
}

// id is how Kubernetes writes an engine's id: "docker://…".
func (w writer) id(id string) string {
	if id == "" {
		return ""
	}
	return w.Engine + "://" + id
}
