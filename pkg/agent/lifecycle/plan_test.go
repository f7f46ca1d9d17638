package lifecycle

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/agent/probe"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func TestPlan(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name string
		view View
		want []string
		wake time.Duration // 0: never
	}{
		// A pod begins.
		{"a new pod gets a sandbox first", view(newPod()), []string{"create sandbox 0"}, 0},
		{"containers start together once the sandbox lives", view(newPod(sidecar), sandbox()), []string{"start app 0 in sandbox0", "start side 0 in sandbox0"}, 0},
		{"what is being made is not made twice", view(newPod()).with(busy(SandboxSlot, CreateSandbox)), nil, 0},
		{"what is being started is not started twice", view(newPod(), sandbox()).with(busy("app", Start)), nil, 0},
		{"while the sandbox is started, containers are made", view(newPod(), sandbox(created)).with(busy(SandboxSlot, CreateSandbox)), []string{"create app 0 in sandbox0"}, 0},
		{"and started when it lives", view(newPod(), sandbox(), app(created)), []string{"start app 0 in sandbox0 as app0"}, 0},
		{"with policy Never too", view(newPod(policy("Never")), sandbox(created), app(created)).with(busy(SandboxSlot, CreateSandbox)), nil, 0},
		{"where it died instead they are made again in the next one", view(newPod(), sandbox(attempt(1)), app(created)), []string{"remove app0"}, 0},
		{"a sandbox that nobody is starting is replaced", view(newPod(), sandbox(created)), []string{"create sandbox 1", "remove sandbox0"}, 0},
		{"with policy Always the image is pulled while the sandbox is made", view(newPod(pulls(api.PullAlways))), []string{"create sandbox 0", "pull for app"}, 0},
		{
			"with policy Always a pulled image is used once",
			view(newPod(pulls(api.PullAlways)), sandbox(), app(exited(1, time.Hour, 0))).with(func(m *Memory) { m.Pulled["app"] = 0 }),
			[]string{"pull for app"},
			0,
		},
		{
			"an image that the engine lacks is pulled",
			view(newPod(), sandbox()).with(func(m *Memory) { m.Missing["app"] = true }),
			[]string{"pull for app"},
			0,
		},
		{
			"a failed pull is tried again after its back-off, and not before",
			view(newPod(), sandbox()).with(failed("app", ReasonErrImagePull, 3*s, 10*s)), nil, 7 * s,
		},
		{
			"a pull waits until it is known which of its secrets there are",
			view(newPod(pullSecrets("a"), pulls(api.PullAlways)), sandbox()), nil, 0,
		},
		{
			"a pull takes the secrets that there are, and names those that are missing",
			view(newPod(pullSecrets("a", "b", ""), pulls(api.PullAlways)), sandbox()).finding(secret("b")),
			[]string{"pull for app with b without a"},
			0,
		},
		{"a name that is no image's is not asked for", view(newPod(image("UPPER:!")), sandbox()), nil, 0},
		{"a sandbox that failed is tried again later", view(newPod()).with(failed(SandboxSlot, ReasonSandboxError, 0, s)), nil, s},

		// It goes on.
		{"a pod that runs needs nothing", view(newPod(), sandbox(), app()), nil, 0},
		{"an adopted container of the same spec is not touched", view(newPod(), sandbox(), app(carries(20*s), attempt(7))), nil, 0},
		{"another image in the spec replaces the container", view(newPod(image("img:2")), sandbox(), app()), []string{"stop app0 within 30s"}, 0},
		{"the replacement does not wait", view(newPod(image("img:2")), sandbox(), app(exited(143, s, 0), carries(40*s))), []string{"start app 1 in sandbox0"}, 0},
		{"a container of an agent that died before starting it is started", view(newPod(), sandbox(), app(created)), []string{"start app 0 in sandbox0 as app0"}, 0},

		// It crashes.
		{"the first crash is healed at once", view(newPod(), sandbox(), app(exited(1, s, 0))), []string{"start app 1 in sandbox0 carrying 10s"}, 0},
		{"healing does not wait for the exit code with policy Always", view(newPod(), sandbox(), app(ended)), []string{"start app 1 in sandbox0"}, 0},
		{"policy OnFailure waits for the exit code", view(newPod(policy("OnFailure")), sandbox(), app(ended)), nil, 0},
		{"policy Never does not let the sandbox go before the exit code is known", view(newPod(policy("Never")), sandbox(), app(ended)), nil, 0},
		{"the second crash waits", view(newPod(), sandbox(), app(attempt(1), carries(10*s), exited(1, s, 4*s))), nil, 6 * s},
		{"after the wait it is started with the next back-off", view(newPod(), sandbox(), app(attempt(1), carries(10*s), exited(1, s, 10*s))), []string{"start app 2 in sandbox0 carrying 20s"}, 0},
		{"who ran as long as the back-off is healed at once, with the same", view(newPod(), sandbox(), app(attempt(3), carries(40*s), exited(137, 40*s, 0))), []string{"start app 4 in sandbox0 carrying 40s"}, 0},
		{"after ten minutes all is forgiven", view(newPod(), sandbox(), app(attempt(9), carries(300*s), exited(137, 600*s, 0))), []string{"start app 10 in sandbox0"}, 0},
		{"what could not be started counts as a crash", view(newPod(), sandbox(), app(cannotRun)), []string{"start app 1 in sandbox0 carrying 10s"}, 0},
		{"policy OnFailure restarts a failure", view(newPod(policy("OnFailure")), sandbox(), app(exited(1, s, 0))), []string{"start app 1 in sandbox0 carrying 10s"}, 0},
		{"policy OnFailure is content with code 0", view(newPod(policy("OnFailure")), sandbox(), app(exited(0, s, 0))), []string{"remove sandbox0"}, 0},
		{"policy Never is content with anything", view(newPod(policy("Never")), sandbox(), app(exited(1, s, 0))), []string{"remove sandbox0"}, 0},
		{"a sandbox stays while one container has work", view(newPod(policy("Never"), sidecar), sandbox(), app(exited(0, s, 0)), side()), nil, 0},

		// A probe wants it ended.
		{"a container that failed its liveness probe is stopped", view(newPod(probed), sandbox(), app()).unwell(probe.Liveness), []string{"stop app0 within 30s"}, 0},
		{"within the probe's own grace period, where it has one", view(newPod(probed), sandbox(), app()).unwell(probe.Startup), []string{"stop app0 within 7s"}, 0},
		{"with policy Never too", view(newPod(probed, policy("Never")), sandbox(), app()).unwell(probe.Liveness), []string{"stop app0 within 30s"}, 0},
		{"and is then started as after any crash", view(newPod(probed), sandbox(), app(carries(10*s), exited(137, 5*s, 0))).unwell(probe.Liveness), nil, 10 * s},

		{
			"the time that it takes to end is no time that it ran",
			view(newPod(), sandbox(), app(attempt(1), carries(10*s), exited(137, 40*s, 0))).with(func(m *Memory) { m.Stopped["app1"] = Stopped{At: now.Add(-31 * s)} }),
			nil, 10 * s,
		},
		{
			"nor does a container run whose postStart hook fails, however long that takes",
			view(newPod(hooked), sandbox(), app(attempt(1), carries(20*s), exited(137, 60*s, 0))).with(func(m *Memory) { m.PostStart["app1"] = errors.New("broken") }),
			nil, 20 * s,
		},
		{"nor one that never passes its startup probe", view(newPod(probed), sandbox(), app(carries(10*s), exited(137, 50*s, 0))).unwell(probe.Startup), nil, 10 * s},

		// Its sandbox dies.
		{
			"all containers move to a new sandbox",
			view(newPod(sidecar), sandbox(exited(137, s, 0)), app(), side()),
			[]string{"create sandbox 1", "stop app0 within 30s", "remove sandbox0", "stop side0 within 30s"},
			0,
		},
		{"a sandbox that ends in a loop is made again ever later", view(newPod(), sandbox(attempt(1), carries(10*s), exited(1, s, 4*s))), []string{"remove sandbox1"}, 6 * s},
		{"a removed sandbox's number is not used again", view(newPod(), app(inSandbox(2))), []string{"create sandbox 3", "stop app0 within 30s"}, 0},
		{
			"in the new sandbox nothing waits",
			view(newPod(), sandbox(attempt(1)), app(exited(137, s, 0), carries(80*s))),
			[]string{"start app 1 in sandbox1 carrying 1m20s"},
			0,
		},
		{"policy Never does not survive its sandbox", view(newPod(policy("Never")), sandbox(exited(137, s, 0)), app()), []string{"stop app0 within 30s", "remove sandbox0"}, 0},
		{"what succeeded under OnFailure stays", view(newPod(policy("OnFailure"), sidecar), sandbox(exited(137, s, 0)), app(exited(0, s, 0)), side(exited(2, s, 0))), []string{"create sandbox 1", "remove sandbox0"}, 0},

		// It is tidied.
		{
			"the attempt before the present one stays for its log, older ones go",
			view(newPod(), sandbox(), app(attempt(3)), app(attempt(2), exited(1, s, s)), app(attempt(1), exited(1, s, s)), app(exited(1, s, s))),
			[]string{"remove app0", "remove app1"},
			0,
		},
		{
			"nothing is tidied while it is being started",
			view(newPod(), sandbox(), app(attempt(2), exited(1, time.Hour, 0)), app(attempt(1), exited(1, s, s)), app(exited(1, s, s))).with(busy("app", Start)),
			nil, 0,
		},
		{"a second life of an old attempt is ended", view(newPod(), sandbox(), app(attempt(1)), app()), []string{"stop app0 within 30s"}, 0},
		{"containers of no name in the spec go", view(newPod(), sandbox(), app(), side(exited(0, s, s))), []string{"remove side0"}, 0},

		// It ends.
		{
			"all containers are asked to end at once",
			view(newPod(sidecar, deleted(30, 0)), sandbox(), app(), side()),
			[]string{"stop app0 within 30s", "stop side0 within 30s"},
			30 * s,
		},
		{"an agent that comes later grants what is left of the grace period", view(newPod(deleted(30, 20*s)), sandbox(), app()), []string{"stop app0 within 10s"}, 10 * s},
		{"a clock that was set back grants no more than the grace period", view(newPod(deleted(30, -time.Hour)), sandbox(), app()), []string{"stop app0 within 30s"}, 30 * s},
		{
			"what does not end in time although the engine was to kill it is killed",
			view(newPod(deleted(30, 31*s)), sandbox(), app()).with(busy("app0", Stop), func(m *Memory) { m.Deadline, m.StopBy["app0"] = now.Add(-s), now.Add(-s) }),
			[]string{"kill app0"},
			9 * s,
		},
		{
			"a grace period made shorter overtakes the stop under way",
			view(newPod(deleted(1, s)), sandbox(), app()).with(busy("app0", Stop), func(m *Memory) { m.Deadline, m.StopBy["app0"] = now, now.Add(29*s) }),
			[]string{"kill app0"},
			10 * s,
		},
		{"nothing is restarted in an ending pod", view(newPod(sidecar, deleted(30, 0)), sandbox(), app(exited(1, s, 0)), side()), []string{"stop side0 within 30s"}, 30 * s},
		{"what has ended is removed, sandbox and all", view(newPod(deleted(30, 0)), sandbox(), app(exited(0, s, 0))), []string{"remove sandbox0", "remove app0"}, 0},
		{"an exit code is waited for before its container goes", view(newPod(deleted(30, 0)), sandbox(), app(ended)), []string{"remove sandbox0"}, s},
		{"what is being started is waited for, to be undone", view(newPod(deleted(0, 0)), sandbox()).with(busy("app", Start)), nil, 10 * s},
		{"a pull is not", view(newPod(deleted(0, 0))).with(busy("pull/app", Pull)), []string{"verify"}, 0},
		{"the engine itself is asked whether all is gone", view(newPod(deleted(30, 0))), []string{"verify"}, 0},
		{"then the API server is told", view(newPod(deleted(30, 0))).with(func(m *Memory) { m.Empty = true }), []string{"delete"}, 0},
		{"it is told once", view(newPod(deleted(30, 0))).with(func(m *Memory) { m.Empty, m.Deleted = true, true }), nil, 0},
		{"containers without a pod get two seconds", view(nil, sandbox(), app()), []string{"stop app0 within 2s"}, 2 * s},
		{"and are removed then", view(nil, sandbox(), app(exited(137, s, 0))), []string{"remove sandbox0", "remove app0"}, 0},
		{"a pod that has failed in the API is not started again", view(newPod(phase(api.PodFailed)), app(exited(1, s, 0))), nil, 0},
		{"and what runs of it is ended", view(newPod(phase(api.PodFailed)), sandbox(), app()), []string{"stop app0 within 30s"}, 30 * s},

		// Somebody removes a container.
		{"a container that somebody removed is started again", view(newPod(reported(3)), sandbox()), []string{"start app 4 in sandbox0 carrying 10s"}, 0},
		{"but not with policy Never", view(newPod(reported(0), policy("Never")), sandbox()), []string{"remove sandbox0"}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.view.Memory.Observe(test.view)
			got := Plan(test.view)
			var actions []string
			for _, a := range got.Actions {
				actions = append(actions, short(a))
			}
			if diff := cmp.Diff(test.want, actions); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
			var wake time.Duration
			if !got.Wake.IsZero() {
				wake = got.Wake.Sub(now)
			}
			if wake != test.wake {
				t.Errorf("wakes after %s, want %s", wake, test.wake)
			}
			if got.Done || got.Verdict != nil {
				t.Errorf("done %t, verdict %v", got.Done, got.Verdict)
			}
		})
	}
}

// reported says that an earlier agent saw the container run.
func reported(restarts int32) func(*v1.Pod) {
	return func(pod *v1.Pod) {
		pod.Status.PodIp = "10.0.0.2"
		pod.Status.ContainerStatuses = []*v1.ContainerStatus{{
			Name: "app", RestartCount: restarts, ContainerId: "docker://gone",
			State: &v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: timestamppb.New(now.Add(-time.Hour))}},
		}}
	}
}

func TestPlanIsDoneWhenNeitherPodNorContainersAreLeft(t *testing.T) {
	v := view(nil).with(func(m *Memory) { m.Empty = true })
	if got := Plan(v); !got.Done || len(got.Actions) > 0 {
		t.Errorf("got %+v, want done", got)
	}
}

func TestPlanEndsAPodAtItsActiveDeadline(t *testing.T) {
	deadline := func(pod *v1.Pod) {
		pod.Spec.ActiveDeadlineSeconds = proto.Int64(60)
		pod.Status.StartTime = timestamppb.New(now.Add(-50 * time.Second))
	}
	v := view(newPod(deadline), sandbox(), app()).with()
	if got := Plan(v); got.Verdict != nil || got.Wake.Sub(now) != 10*time.Second {
		t.Fatalf("ten seconds before: verdict %v, wakes %s", got.Verdict, got.Wake.Sub(now))
	}
	v.Now = now.Add(10 * time.Second)
	got := Plan(v)
	if got.Verdict == nil || got.Verdict.Reason != "DeadlineExceeded" {
		t.Fatalf("at the deadline: verdict %v", got.Verdict)
	}
	v.Memory.Verdict = got.Verdict
	v.Memory.Observe(v)
	if actions := Plan(v).Actions; len(actions) != 1 || short(actions[0]) != "stop app0 within 30s" {
		t.Errorf("after it: %v", actions)
	}
}

func TestAnotherImageDoesNotWaitForTheOneThatFailed(t *testing.T) {
	v := view(newPod(), sandbox()).with(failed("app", ReasonErrImagePull, 0, 5*time.Minute), func(m *Memory) {
		m.Missing["app"] = true
	})
	if actions := Plan(v).Actions; len(actions) != 0 {
		t.Fatalf("before its back-off is over: %v", actions)
	}
	v.Pod = newPod(image("img:2"))
	v.Memory.Observe(v)
	if actions := Plan(v).Actions; len(actions) != 1 || short(actions[0]) != "start app 0 in sandbox0" {
		t.Errorf("with another image: %v", actions)
	}
}

func TestPlanFailsAPodThatIsNeverRestartedAndLostItsSandboxHalfStarted(t *testing.T) {
	v := view(newPod(policy("Never"), sidecar), sandbox(exited(137, time.Second, 0)), app(exited(137, time.Second, 0))).with()
	if got := Plan(v); got.Verdict == nil {
		t.Errorf("got %+v, want a verdict", got)
	}
}

func TestCrashBackOff(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name               string
		current, ran       time.Duration
		wantWait, wantNext time.Duration
	}{
		{"the first crash waits for nothing and arms ten seconds", 0, s, 0, 10 * s},
		{"a long first run arms nothing", 0, 10 * s, 0, 0},
		{"the second waits ten seconds and arms twenty", 10 * s, 9 * s, 10 * s, 20 * s},
		{"a run as long as the back-off waits for nothing and arms the same", 20 * s, 20 * s, 0, 20 * s},
		{"five minutes is the most", 160 * s, s, 160 * s, 300 * s},
		{"and stays the most", 300 * s, s, 300 * s, 300 * s},
		{"ten minutes forgive all", 300 * s, 600 * s, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wait, next := crashBackOff(test.current, test.ran)
			if wait != test.wantWait || next != test.wantNext {
				t.Errorf("got wait %s, next %s; want %s, %s", wait, next, test.wantWait, test.wantNext)
			}
		})
	}
}

func TestRetryDelayDoublesUpToFiveMinutes(t *testing.T) {
	var got []time.Duration
	for count := 1; count <= 7; count++ {
		got = append(got, RetryDelay(10*time.Second, count)/time.Second)
	}
	if diff := cmp.Diff([]time.Duration{10, 20, 40, 80, 160, 300, 300}, got); diff != "" {
		t.Errorf("seconds (-want +got):\n%s", diff)
	}
}

func TestBackdateKeepsWaitsWithinBounds(t *testing.T) {
	if got := Backdate(now, now.Add(-time.Hour)); !got.Equal(now.Add(-time.Hour)) {
		t.Errorf("an hour ago became %s", got)
	}
	// The clock was set back after the engine wrote the time down.
	if got := Backdate(now, now.Add(time.Hour)); !got.Equal(now) {
		t.Errorf("a time to come became %s, want now", got)
	}
	v := view(newPod(), sandbox(), app(attempt(1), carries(10*time.Second), exited(1, time.Second, 0), func(c *Container) {
		c.FinishedAt = now.Add(time.Hour)
		c.EndedAt = Backdate(now, c.FinishedAt)
	})).with()
	if wake := Plan(v).Wake.Sub(now); wake != 10*time.Second {
		t.Errorf("waits %s, want 10s", wake)
	}
}

// What an agent has seen itself is measured with a clock that nobody sets. Where
// the engine's and the API's clock is set meanwhile, by a second or by a day,
// forward or back, nothing comes earlier or later for it.
func TestAClockThatIsSetMovesNoWait(t *testing.T) {
	const s = time.Second
	begins := func() map[string]View {
		return map[string]View{
			"a back-off":         view(newPod(), sandbox(), app(attempt(1), carries(20*s), exited(1, s, 3*s))).with(),
			"a failed pull":      view(newPod(), sandbox()).with(failed("app", ReasonErrImagePull, 3*s, 10*s)),
			"a grace period":     view(newPod(deleted(30, 0)), sandbox(), app()).with(busy("app0", Stop)),
			"an active deadline": view(newPod(func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = proto.Int64(60) }), sandbox(), app()).with(),
		}
	}
	for name, still := range begins() {
		want := Plan(still)
		if !want.Wake.After(now) {
			t.Fatalf("%s waits for nothing", name)
		}
		for _, set := range []time.Duration{-24 * time.Hour, -s, s, 24 * time.Hour} {
			v := begins()[name]
			for i := range v.Containers {
				c := &v.Containers[i]
				for _, stamp := range []*time.Time{&c.CreatedAt, &c.StartedAt, &c.FinishedAt} {
					if !stamp.IsZero() {
						*stamp = stamp.Add(set)
					}
				}
			}
			if d := v.Pod.GetMetadata().GetDeletionTimestamp(); d != nil {
				v.Pod.Metadata.DeletionTimestamp = timestamppb.New(d.AsTime().Add(set))
			}
			v.Pod.Status.StartTime = timestamppb.New(now.Add(set))
			v.Memory.Observe(v)
			got := Plan(v)
			if !got.Wake.Equal(want.Wake) || len(got.Actions) != len(want.Actions) {
				t.Errorf("%s, clock set by %s: wakes at %s with %v; want %s, %v", name, set, got.Wake, got.Actions, want.Wake, want.Actions)
			}
		}
	}
}
