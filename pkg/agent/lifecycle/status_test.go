package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/agent/probe"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// line writes a status in one line per thing.
func line(s *v1.PodStatus) []string {
	out := []string{strings.TrimSpace(s.GetPhase() + " " + s.GetReason())}
	for _, c := range s.GetContainerStatuses() {
		text := fmt.Sprintf("%s: %s", c.GetName(), state(c.GetState()))
		if c.GetLastState().GetTerminated() != nil {
			text += ", last " + state(c.GetLastState())
		}
		if c.GetRestartCount() > 0 {
			text += fmt.Sprintf(", restarts %d", c.GetRestartCount())
		}
		if c.GetReady() {
			text += ", ready"
		}
		out = append(out, text)
	}
	ready := api.GetCondition(s.GetConditions(), api.PodReady)
	return append(out, strings.TrimSpace(fmt.Sprintf("Ready=%s %s %s", ready.GetStatus(), ready.GetReason(), ready.GetMessage())))
}

func state(s *v1.ContainerState) string {
	switch {
	case s.GetRunning() != nil:
		return "running"
	case s.GetTerminated() != nil:
		return fmt.Sprintf("%s %d", s.GetTerminated().GetReason(), s.GetTerminated().GetExitCode())
	}
	return strings.TrimSpace(s.GetWaiting().GetReason() + " " + s.GetWaiting().GetMessage())
}

func TestStatus(t *testing.T) {
	const s = time.Second
	const unready = "Ready=False ContainersNotReady containers with unready status: [app]"
	oom := func(c *Container) { c.OOMKilled = true }
	tests := []struct {
		name string
		view View
		want []string
	}{
		{"a new pod is Pending", view(newPod()), []string{"Pending", "app: ContainerCreating", unready}},
		{"a pod that runs is Running and Ready", view(newPod(), sandbox(), app()), []string{"Running", "app: running, ready", "Ready=True"}},
		{"with a readiness probe it is not ready before the probe says so", view(newPod(probed), sandbox(), app()).healthy(probe.Health{Started: true}), []string{"Running", "app: running", unready}},
		{"and ready then", view(newPod(probed), sandbox(), app()).healthy(probe.Health{Started: true, Ready: true}), []string{"Running", "app: running, ready", "Ready=True"}},
		{
			"a pod is Pending until each container has run",
			view(newPod(sidecar), sandbox(), app()),
			[]string{"Pending", "app: running, ready", "side: ContainerCreating", "Ready=False ContainersNotReady containers with unready status: [side]"},
		},
		{
			"a crash that is healed at once is shown as what it was",
			view(newPod(), sandbox(), app(exited(3, s, 0))),
			[]string{"Running", "app: Error 3", unready},
		},
		{
			"a crash that waits says until when",
			view(newPod(), sandbox(), app(attempt(2), carries(20*s), exited(3, s, 5*s)), app(attempt(1), exited(3, s, 9*s))),
			[]string{"Running", "app: CrashLoopBackOff back-off 20s restarting failed container=app pod=web_default(u1); next try at 2026-01-02T03:04:20Z, last Error 3, restarts 2", unready},
		},
		{
			"the life before is the last state",
			view(newPod(), sandbox(), app(attempt(1)), app(exited(137, s, s), oom)),
			[]string{"Running", "app: running, last OOMKilled 137, restarts 1, ready", "Ready=True"},
		},
		{
			"that a child ran out of memory once is not why a container fails later",
			view(newPod(), sandbox(), app(attempt(1)), app(exited(3, s, s), oom)),
			[]string{"Running", "app: running, last Error 3, restarts 1, ready", "Ready=True"},
		},
		{
			"until a new attempt is started, the one before is shown",
			view(newPod(), sandbox(), app(attempt(1), created), app(exited(3, s, 0))),
			[]string{"Running", "app: Error 3", unready},
		},
		{
			"the first attempt is not there before it is started",
			view(newPod(), sandbox(), app(created)),
			[]string{"Pending", "app: ContainerCreating", unready},
		},
		{
			"a start that fails without a trace says so",
			view(newPod(), sandbox(), app(created)).with(failed("app", ReasonRunContainerError, 0, 10*s)),
			[]string{"Pending", "app: RunContainerError the engine's words", unready},
		},
		{
			"an exit code that is not known yet is waited for",
			view(newPod(), sandbox(), app(ended)),
			[]string{"Running", "app: running, ready", "Ready=True"},
		},
		{
			"also when the next life has begun, so that no story begins before the one it follows",
			view(newPod(), sandbox(), app(attempt(1)), app(ended)),
			[]string{"Running", "app: running, ready", "Ready=True"},
		},
		{
			"nor is one told whose end is not known either",
			view(newPod(), sandbox(), app(attempt(1), ended), app(ended)),
			[]string{"Running", "app: running, ready", "Ready=True"},
		},
		{
			"but not for long",
			view(newPod(), sandbox(), app(ended, func(c *Container) { c.EndedAt = now.Add(-2 * s) })),
			[]string{"Running", "app: ContainerStatusUnknown 137", unready},
		},
		{
			"what the engine could not run says so",
			view(newPod(), sandbox(), app(attempt(1), carries(10*s), cannotRun)),
			[]string{"Running", "app: CrashLoopBackOff back-off 10s restarting failed container=app pod=web_default(u1); next try at 2026-01-02T03:04:15Z, last ContainerCannotRun 127, restarts 1", unready},
		},
		{
			"a failed pull shows the engine's words",
			view(newPod(), sandbox()).with(failed("app", ReasonErrImagePull, 0, 10*s)),
			[]string{"Pending", "app: ErrImagePull the engine's words", unready},
		},
		{
			"and then that it waits",
			view(newPod(), sandbox()).with(failed("app", ReasonErrImagePull, 5*s, 10*s)),
			[]string{"Pending", `app: ImagePullBackOff Back-off pulling image "img:1": ErrImagePull: the engine's words`, unready},
		},
		{
			"an image that may not be pulled",
			view(newPod(), sandbox()).with(failed("app", ReasonErrImageNeverPull, 5*s, 10*s)),
			[]string{"Pending", "app: ErrImageNeverPull the engine's words", unready},
		},
		{
			"a name that is no image's",
			view(newPod(image("UPPER:!")), sandbox()),
			[]string{"Pending", `app: InvalidImageName Failed to apply default image tag "UPPER:!": couldn't parse image name "UPPER:!": invalid reference format: repository name (library/UPPER) must be lowercase`, unready},
		},
		{
			"a sandbox that cannot be made",
			view(newPod()).with(failed(SandboxSlot, ReasonSandboxError, 0, s)),
			[]string{"Pending", "app: ContainerCreating Failed to create pod sandbox: the engine's words", unready},
		},
		{"policy Never ends as Succeeded", view(newPod(policy("Never")), app(exited(0, s, 0))), []string{"Succeeded", "app: Completed 0", "Ready=False PodCompleted"}},
		{"or as Failed", view(newPod(policy("Never")), app(exited(2, s, 0))), []string{"Failed", "app: Error 2", "Ready=False PodFailed"}},
		{
			"policy Never runs on while one container runs",
			view(newPod(policy("Never"), sidecar), sandbox(), app(exited(2, s, 0)), side()),
			[]string{"Running", "app: Error 2", "side: running, ready", unready},
		},
		{"policy OnFailure is not Failed by a failure", view(newPod(policy("OnFailure")), sandbox(), app(exited(2, s, 0))), []string{"Running", "app: Error 2", unready}},
		{"a pod that is being deleted still runs", view(newPod(deleted(30, 0)), sandbox(), app()), []string{"Running", "app: running, ready", "Ready=True"}},
		{"and ends as its containers did", view(newPod(deleted(30, 0)), app(exited(143, s, 0))), []string{"Failed", "app: Error 143", "Ready=False PodFailed"}},
		{
			"once it has ended as Failed it stays so, whatever is seen before that has come back from the server",
			view(newPod(deleted(30, 0)), app(exited(0, s, 0))).with(func(m *Memory) { m.Status = &v1.PodStatus{Phase: api.PodFailed} }),
			[]string{"Failed", "app: Completed 0", "Ready=False PodFailed"},
		},
		{
			"a pod past its deadline has failed when nothing runs any more",
			view(newPod(), app(exited(0, s, 0))).with(func(m *Memory) { m.Verdict = &Verdict{Reason: "DeadlineExceeded", Message: "too long"} }),
			[]string{"Failed DeadlineExceeded", "app: Completed 0", "Ready=False PodFailed"},
		},
		{
			"and not before",
			view(newPod(), sandbox(), app()).with(func(m *Memory) { m.Verdict = &Verdict{Reason: "DeadlineExceeded", Message: "too long"} }),
			[]string{"Running", "app: running, ready", "Ready=True"},
		},
		{
			"a pod that failed before it ran waits for nothing any more",
			view(newPod()).with(func(m *Memory) { m.Verdict = &Verdict{Reason: "DeadlineExceeded", Message: "too long"} }),
			[]string{"Failed DeadlineExceeded", "app: ContainerStatusUnknown 137", "Ready=False PodFailed"},
		},
		{
			"a container that somebody removed",
			view(newPod(policy("Never"), reported(0))),
			[]string{"Failed", "app: ContainerStatusUnknown 137", "Ready=False PodFailed"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.view.Memory.Observe(test.view)
			if diff := cmp.Diff(test.want, line(Status(test.view))); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStatusInFull(t *testing.T) {
	v := view(newPod(), sandbox(), app()).with()
	condition := func(typ string) *v1.Condition {
		return &v1.Condition{Type: typ, Status: "True", LastTransitionTime: timestamppb.New(now)}
	}
	started := true
	want := &v1.PodStatus{
		Phase: "Running", HostIp: "192.168.0.1", PodIp: "10.0.0.2", PodIps: []*v1.PodIP{{Ip: "10.0.0.2"}},
		StartTime: timestamppb.New(now), QosClass: "BestEffort", ObservedGeneration: 1,
		Conditions: []*v1.Condition{condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled")},
		ContainerStatuses: []*v1.ContainerStatus{{
			Name: "app", Image: "img:1", ImageId: "docker://sha256:1", ContainerId: "docker://app0", Ready: true, Started: &started,
			State: &v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: timestamppb.New(now.Add(-time.Minute))}},
		}},
	}
	got := Status(v)
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}

	v.Memory.Status, v.Now = got, now.Add(time.Hour)
	if diff := cmp.Diff(want, Status(v), protocmp.Transform()); diff != "" {
		t.Errorf("an hour later, nothing having changed (-want +got):\n%s", diff)
	}
}

func TestStatusNamesContainersAndNotTheirIDs(t *testing.T) {
	end := func(c *Container) { c.Error = "mount /containers/app0/file: cannot join sandbox0" }
	got := Status(view(newPod(policy("Never")), sandbox(), app(cannotRun, end)).with()).GetContainerStatuses()[0].GetState().GetTerminated()
	if want := "mount /containers/app/file: cannot join POD"; got.GetMessage() != want {
		t.Errorf("got %q, want %q", got.GetMessage(), want)
	}
}

func TestStatusKeepsWhatOthersWrote(t *testing.T) {
	pod := newPod(func(pod *v1.Pod) {
		pod.Status.Conditions = []*v1.Condition{{Type: "example.com/gate", Status: "True"}, {Type: "PodScheduled", Status: "True", Reason: "Bound"}}
	})
	v := view(pod, sandbox(), app()).with(func(m *Memory) { m.Status = &v1.PodStatus{} })
	got := Status(v).GetConditions()
	if api.GetCondition(got, "example.com/gate").GetStatus() != "True" {
		t.Errorf("a condition of somebody else is lost: %v", got)
	}
}

func TestStatusKeepsTheLastStateOfAnAttemptThatWasRemoved(t *testing.T) {
	v := view(newPod(), sandbox(), app(attempt(1)), app(exited(137, time.Second, 0))).with()
	v.Memory.Status = Status(v)
	v.Containers = v.Containers[:2]
	v.Memory.Observe(v)
	if got := Status(v).GetContainerStatuses()[0].GetLastState().GetTerminated(); got.GetExitCode() != 137 {
		t.Errorf("last state %v, want code 137", got)
	}
}

func TestImageID(t *testing.T) {
	const old = "docker.io/library/img@sha256:old"
	for _, test := range []struct {
		name    string
		digests []string
		before  string
		want    string
	}{
		{"an image that was built here has the engine's id", nil, "", "docker://sha256:1"},
		{"one of a registry has its name there", []string{"img@sha256:" + strings.Repeat("a", 64)}, "", "docker.io/library/img@sha256:" + strings.Repeat("a", 64)},
		{
			"of several that of the repository that was asked for",
			[]string{"reg.example/other@sha256:" + strings.Repeat("b", 64), "img@sha256:" + strings.Repeat("a", 64)},
			"",
			"docker.io/library/img@sha256:" + strings.Repeat("a", 64),
		},
		{"and else the first", []string{"reg.example/x@sha256:" + strings.Repeat("a", 64), "reg.example/y@sha256:" + strings.Repeat("b", 64)}, "", "reg.example/x@sha256:" + strings.Repeat("a", 64)},
		{"it stays while the container does", nil, old, old},
		{"an id becomes a name once that is known", []string{"img@sha256:" + strings.Repeat("a", 64)}, "docker://sha256:1", "docker.io/library/img@sha256:" + strings.Repeat("a", 64)},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := view(newPod(), sandbox(), app()).with(func(m *Memory) {
				m.Status = &v1.PodStatus{ContainerStatuses: []*v1.ContainerStatus{{Name: "app", ContainerId: "docker://app0", ImageId: test.before}}}
			})
			v.Digests = func(id string) []string {
				if id != "sha256:1" {
					t.Errorf("asked for image %q", id)
				}
				return test.digests
			}
			if got := Status(v).GetContainerStatuses()[0].GetImageId(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	running := Status(view(newPod(), sandbox(), app()).with())
	tests := []struct {
		name            string
		before          *v1.PodStatus
		after           View
		ledger          *api.Termination
		reason, message string
		fact            bool
	}{
		{"a start", nil, view(newPod(), sandbox(), app()), nil, "ContainerStarted", "container app started", false},
		{"an end by a signal", running, view(newPod(), sandbox(), app(exited(137, time.Second, 0))), nil, "ContainerExited", "container app exited with code 137 (killed by signal 9)", true},
		{
			"an end by a signal from outside", running, view(newPod(), sandbox(), app(exited(137, time.Second, 0))),
			&api.Termination{ContainerID: "docker://app0", Reason: api.ReasonKilled, Signal: 9},
			"ContainerExited", "container app was killed from outside by signal 9", true,
		},
		{
			"an end for want of memory", running, view(newPod(), sandbox(), app(exited(137, time.Second, 0))),
			&api.Termination{ContainerID: "docker://app0", Reason: ReasonOOMKilled},
			"ContainerExited", "container app ran out of memory at 64Mi and was killed", true,
		},
		{
			"an end that the agent brought about is no fact of its own", running, view(newPod(), sandbox(), app(exited(0, time.Second, 0))),
			&api.Termination{ContainerID: "docker://app0", Reason: api.ReasonStopped, Message: "the pod is being deleted"},
			"ContainerExited", "container app was stopped (the pod is being deleted) and exited with code 0", false,
		},
		{"an end and a start seen together", running, view(newPod(), sandbox(), app(attempt(1)), app(exited(1, time.Second, 0))), nil, "ContainerStarted", "container app exited with code 1 and was started again", true},
		{
			"an answer that was not the one that is wanted", running, view(newPod(probed), sandbox(), app()).healthy(probe.Health{Started: true, Unready: "Readiness probe failed: 503"}), nil,
			"ContainerUnready", "container app is no longer ready: Readiness probe failed: 503", true,
		},
		{
			"an answer after which it is ready follows from what was before", Status(view(newPod(probed), sandbox(), app()).with()),
			view(newPod(probed), sandbox(), app()).healthy(probe.Health{Started: true, Ready: true}), nil,
			"ContainerReady", "container app is ready", false,
		},
		{"a wait", running, view(newPod(), sandbox()), nil, "ContainerCreating", "container app is waiting: ContainerCreating", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pod := newPod()
			pod.Status = test.before
			pod.Spec.Containers[0].Resources = &v1.ResourceRequirements{Limits: map[string]string{"memory": "64Mi"}}
			ledger := ""
			if test.ledger != nil {
				ledger = api.Terminations{"app": {*test.ledger}}.String()
			}
			x := Explain(pod, Status(test.after.with()), ledger, HintsOf(test.after))
			if x.Reason != test.reason || x.Message != test.message || x.Fact != test.fact {
				t.Errorf("got %s: %s (%v); want %s: %s (%v)", x.Reason, x.Message, x.Fact, test.reason, test.message, test.fact)
			}
		})
	}
}

func TestAnEndIsTheWorkOfWhoIsKnownOrSuspected(t *testing.T) {
	running := Status(view(newPod(), sandbox(), app()).with())
	killed := view(newPod(), sandbox(), app(exited(137, time.Second, 0)))
	from := func(reason string) *api.Termination {
		return &api.Termination{ContainerID: "docker://app0", Reason: reason, Signal: 9}
	}
	for name, test := range map[string]struct {
		after   View
		end     *api.Termination
		killers map[string]Killer
		want    Explanation
	}{
		"killed by an injection": {
			killed, from(api.ReasonKilled),
			map[string]Killer{"app0": {"chaosinjection/a", 7}, "other": {"chaosinjection/b", 8}},
			Explanation{Trigger: 7},
		},
		"killed by nobody knows whom, and by no hindrance": {killed, from(api.ReasonKilled), map[string]Killer{"other": {"chaosinjection/b", 8}}, Explanation{}},
		"ended by itself":      {view(newPod(), sandbox(), app(exited(1, time.Second, 0))), from(ReasonError), nil, Explanation{Suspects: hindering}},
		"for want of memory":   {view(newPod(), sandbox(), app(exited(137, time.Second, 0), func(c *Container) { c.OOMKilled = true })), from(ReasonOOMKilled), nil, Explanation{Suspects: starving}},
		"for a liveness probe": {killed, from(api.ReasonLivenessFailed), nil, Explanation{Suspects: hindering}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod()
			pod.Status = running
			got := Explain(pod, Status(test.after.with()), api.Terminations{"app": {*test.end}}.String(), Hints{Killers: test.killers})
			if got.Trigger != test.want.Trigger || !slices.Equal(got.Suspects, test.want.Suspects) || !got.Fact {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// A code that the engine told too late is told again, with what it means.
func TestAnEndThatBecomesKnownIsToldAgain(t *testing.T) {
	pod := newPod()
	pod.Status = Status(view(pod, sandbox(), app(ended, func(c *Container) { c.EndedAt = now.Add(-2 * time.Second) })).with())
	x := Explain(pod, Status(view(pod, sandbox(), app(exited(137, time.Second, 0))).with()), "", Hints{})
	if x.Reason != "ContainerExited" || x.Message != "container app exited with code 137 (killed by signal 9)" {
		t.Errorf("%+v", x)
	}
	if x := Explain(pod, pod.GetStatus(), "", Hints{}); x.Reason != "StatusObserved" {
		t.Errorf("an end that is still unknown: %+v", x)
	}
}
