package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"orch/pkg/agent/probe"
	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// prepared has an init container, a sidecar and another init container before
// its container app.
func prepared(pod *v1.Pod) {
	pod.Spec.InitContainers = []*v1.Container{
		{Name: "first", Image: "img:1"},
		{Name: "proxy", Image: "img:1", RestartPolicy: proto.String("Always")},
		{Name: "second", Image: "img:1"},
	}
}

// asked has a startup probe in its sidecar.
func asked(pod *v1.Pod) {
	pod.Spec.InitContainers[1].StartupProbe = &v1.Probe{Exec: &v1.ExecAction{Command: []string{"up"}}}
}

func of(name string, changes ...func(*Container)) Container {
	c := app(changes...)
	c.Name, c.SpecHash = name, SpecHash(&v1.Container{Name: name, Image: "img:1"})
	c.ID = strings.Replace(c.ID, "app", name, 1)
	return c
}

func TestPlanKeepsTheOrder(t *testing.T) {
	const s = time.Second
	done := exited(0, s, s)
	tests := []struct {
		name string
		view View
		want []string
		wake time.Duration
	}{
		{"the first init container is made while the sandbox starts", view(newPod(prepared), sandbox(created)).with(busy(SandboxSlot, CreateSandbox)), []string{"create first 0 in sandbox0"}, 0},
		{"it is started alone", view(newPod(prepared), sandbox()), []string{"start first 0 in sandbox0"}, 0},
		{"the next waits while it runs", view(newPod(prepared), sandbox(), of("first")), nil, 0},
		{"and until its exit code is known", view(newPod(prepared), sandbox(), of("first", ended)), nil, 0},
		{"then it is the next one's turn", view(newPod(prepared), sandbox(), of("first", done)), []string{"start proxy 0 in sandbox0"}, 0},
		{"a sidecar is not waited for to end", view(newPod(prepared), sandbox(), of("first", done), of("proxy")), []string{"start second 0 in sandbox0"}, 0},
		{"but to have started", view(newPod(prepared, asked), sandbox(), of("first", done), of("proxy")), nil, 0},
		{
			"as its startup probe says",
			view(newPod(prepared, asked), sandbox(), of("first", done), of("proxy")).is("proxy0", probe.Health{Started: true}),
			[]string{"start second 0 in sandbox0"},
			0,
		},
		{"containers come last", view(newPod(prepared), sandbox(), of("first", done), of("proxy"), of("second", done)), []string{"start app 0 in sandbox0"}, 0},
		{"and then nothing is to be done", view(newPod(prepared), sandbox(), of("first", done), of("proxy"), of("second", done), app()), nil, 0},

		{"one that fails is tried again", view(newPod(prepared), sandbox(), of("first", exited(1, s, s))), []string{"start first 1 in sandbox0 carrying 10s"}, 0},
		{"after its back-off", view(newPod(prepared), sandbox(), of("first", carries(10*s), exited(1, s, 4*s))), nil, 6 * s},
		{"with policy OnFailure too", view(newPod(prepared, policy("OnFailure")), sandbox(), of("first", exited(1, s, s))), []string{"start first 1 in sandbox0 carrying 10s"}, 0},
		{"with policy Never it fails the pod, and what runs is ended", view(newPod(prepared, policy("Never")), sandbox(), of("first", done), of("proxy"), of("second", exited(1, s, s))), []string{"stop proxy0 within 30s"}, 30 * s},
		{"and then the sandbox goes", view(newPod(prepared, policy("Never")), sandbox(), of("first", exited(1, s, s))), []string{"remove sandbox0"}, 0},
		{"an image that becomes another one does not end it", view(newPod(prepared, func(p *v1.Pod) { p.Spec.InitContainers[0].Image = "img:2" }), sandbox(), of("first")), nil, 0},

		{"a sidecar that crashes is started again", view(newPod(prepared, policy("Never")), sandbox(), of("first", done), of("proxy", exited(0, s, s)), of("second", done), app()), []string{"start proxy 1 in sandbox0 carrying 10s"}, 0},
		{"before its first success it holds up the rest", view(newPod(prepared, asked), sandbox(), of("first", done), of("proxy", exited(0, s, s))), []string{"start proxy 1 in sandbox0 carrying 10s"}, 0},
		{"one with another image is replaced", view(newPod(prepared, func(p *v1.Pod) { p.Spec.InitContainers[1].Image = "img:2" }), sandbox(), of("first", done), of("proxy"), of("second", done), app()), []string{"stop proxy0 within 30s"}, 0},
		{"one that is not well is ended", view(newPod(prepared, asked), sandbox(), of("first", done), of("proxy"), of("second", done), app()).is("proxy0", probe.Health{Failed: probe.Startup}), []string{"stop proxy0 within 30s"}, 0},

		{"what is initialized stays so when old containers are removed", view(newPod(prepared), sandbox(), of("proxy"), app()), nil, 0},
		{"also in the middle", view(newPod(prepared), sandbox(), of("proxy")), []string{"start second 0 in sandbox0"}, 0},
		{"a sidecar that somebody removed is started again", view(newPod(prepared), sandbox(), app()), []string{"start proxy 0 in sandbox0"}, 0},

		{
			"a new sandbox waits until all of the old one has ended",
			view(newPod(prepared), sandbox(attempt(1)), of("first", done), of("proxy"), of("second", done), app(exited(1, s, s))),
			[]string{"stop proxy0 within 30s"},
			0,
		},
		{
			"and then begins with the first init container",
			view(newPod(prepared), sandbox(attempt(1)), of("first", done), of("proxy", exited(0, s, s)), of("second", done), app(exited(1, s, s))),
			[]string{"start first 1 in sandbox1"},
			0,
		},

		{"sidecars do not keep a pod whose work is done", view(newPod(prepared, policy("OnFailure")), sandbox(), of("first", done), of("proxy"), of("second", done), app(done)), []string{"stop proxy0 within 30s"}, 30 * s},
		{"nor are they started for it", view(newPod(prepared, policy("OnFailure")), sandbox(), of("first", done), of("proxy", exited(1, s, s)), of("second", done), app(done)), []string{"remove sandbox0"}, 0},
		{"a pod that ends stops its containers first", view(newPod(prepared, deleted(30, 0)), sandbox(), of("first", done), of("proxy"), of("second", done), app()), []string{"stop app0 within 30s"}, 30 * s},
		{"and its sidecars when they have ended", view(newPod(prepared, deleted(30, 0)), sandbox(), of("first", done), of("proxy"), of("second", done), app(exited(0, s, 0))), []string{"stop proxy0 within 30s"}, 30 * s},
		{
			"or when there is no more time, with two seconds of their own",
			view(newPod(prepared, deleted(30, 30*s)), sandbox(), of("proxy"), app()).with(busy("app0", Stop), func(m *Memory) { m.StopBy["app0"] = now }),
			[]string{"stop proxy0 within 2s"},
			s,
		},

		{"a postStart hook is done when the program runs", view(newPod(hooked), sandbox(), app()), []string{"postStart hook app0"}, 0},
		{"once", view(newPod(hooked), sandbox(), app()).with(func(m *Memory) { m.PostStart["app0"] = nil }), nil, 0},
		{"also when another agent did it", view(newPod(hooked, reportedAs("app0")), sandbox(), app()), nil, 0},
		{"where it fails the container is ended, after its preStop hook", view(newPod(hooked), sandbox(), app()).with(func(m *Memory) { m.PostStart["app0"] = errors.New("broken") }), []string{"preStop hook app0 within 30s"}, 30 * s},
		{"a pod that ends does its preStop hooks first", view(newPod(hooked, deleted(30, 0)), sandbox(), app()), []string{"preStop hook app0 within 30s"}, 30 * s},
		{"not where the program has ended", view(newPod(hooked, deleted(30, 0)), sandbox(), app(exited(0, s, s))), []string{"remove sandbox0", "remove app0"}, 0},
		{"nor without any time", view(newPod(hooked, deleted(30, 30*s)), sandbox(), app()), []string{"stop app0 within 2s"}, 10 * s},
		{
			"a container gets what its hook leaves of the grace period",
			view(newPod(hooked, deleted(30, 20*s)), sandbox(), app()).with(func(m *Memory) { m.PreStop["app0"], m.StopBy["app0"] = true, now.Add(10*s) }),
			[]string{"stop app0 within 10s"},
			10 * s,
		},
		{
			"and at least two seconds",
			view(newPod(hooked, deleted(30, 30*s)), sandbox(), app()).with(busy(HookSlot+"app0", PreStop), func(m *Memory) { m.StopBy["app0"] = now }),
			[]string{"stop app0 within 2s"},
			10 * s,
		},
		{
			"a hook uses up the grace period of a container that a probe ends, too",
			view(newPod(probed, hooked), sandbox(), app()).unwell(probe.Liveness).with(func(m *Memory) {
				m.PostStart["app0"], m.PreStop["app0"], m.StopBy["app0"] = nil, true, now.Add(5*s)
			}),
			[]string{"stop app0 within 5s"},
			0,
		},
		{"a sidecar's hook does not wait for its turn", view(newPod(prepared, deleted(30, 0), func(p *v1.Pod) { p.Spec.InitContainers[1].Lifecycle = hooks }), sandbox(), of("proxy"), app()), []string{"preStop hook proxy0 within 30s", "stop app0 within 30s"}, 30 * s},
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
			if wake := got.Wake.Sub(now); !got.Wake.IsZero() && wake != test.wake || got.Wake.IsZero() && test.wake != 0 {
				t.Errorf("wakes after %s, want %s", wake, test.wake)
			}
		})
	}
}

var hooks = &v1.Lifecycle{
	PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"hello"}}},
	PreStop:   &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 5}},
}

func hooked(pod *v1.Pod) { pod.Spec.Containers[0].Lifecycle = hooks }

func reportedAs(id string) func(*v1.Pod) {
	return func(pod *v1.Pod) {
		reported(0)(pod)
		pod.Status.ContainerStatuses[0].ContainerId = "docker://" + id
	}
}

func TestAContainerRunsWhenItsPostStartHookIsOver(t *testing.T) {
	v := view(newPod(hooked), sandbox(), app()).with()
	if got := Status(v).GetContainerStatuses()[0]; got.GetState().GetWaiting().GetReason() != ReasonContainerCreating || got.GetReady() {
		t.Errorf("before: %v", got)
	}
	if targets := Targets(view(newPod(hooked, probed), sandbox(), app()).with()); len(targets) > 0 {
		t.Errorf("it is asked how it is before: %v", targets)
	}
	v.Memory.PostStart["app0"] = nil
	if got := Status(v).GetContainerStatuses()[0]; got.GetState().GetRunning() == nil || !got.GetReady() {
		t.Errorf("after: %v", got)
	}
}

func TestAContainerWhosePostStartHookFailedSaysSoWhileItIsBeingEnded(t *testing.T) {
	broken := func(id string) func(*Memory) {
		return func(m *Memory) { m.PostStart[id] = errors.New("no greeting") }
	}
	for _, test := range []struct {
		name     string
		view     View
		restarts int32
		last     string // the reason of the end before
	}{
		{"in its first life", view(newPod(hooked), sandbox(), app()).with(broken("app0")), 0, ""},
		{"in its second", view(newPod(hooked), sandbox(), app(exited(137, time.Second, time.Second)), app(attempt(1))).with(broken("app0"), broken("app1")), 1, ReasonError},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Status(test.view).GetContainerStatuses()[0]
			if w := got.GetState().GetWaiting(); w.GetReason() != ReasonPostStartHookError || w.GetMessage() != "no greeting" || got.GetReady() || got.GetStarted() {
				t.Errorf("it is %v", got)
			}
			if got.GetRestartCount() != test.restarts || got.GetLastState().GetTerminated().GetReason() != test.last {
				t.Errorf("before it was %v", got)
			}
		})
	}
}

func (v View) is(id string, h probe.Health) View {
	v.Health = map[string]probe.Health{id: h}
	return v
}

// world is a simulated engine: what a plan asks for happens at once, in whole or
// up to a point, and programs end as chance will have it.
type world struct {
	*rapid.T
	pod        *v1.Pod
	containers []Container
	memory     *Memory
	now        time.Time
	ids        int
}

func (w *world) view() View {
	v := View{Pod: w.pod, Containers: w.containers, Memory: w.memory, Engine: "docker", Now: w.now, Health: map[string]probe.Health{}}
	for _, c := range w.containers {
		v.Health[c.ID] = probe.Health{Started: true, Ready: true}
	}
	return v
}

// step observes, decides, does, and checks that nothing is out of order.
func (w *world) step() {
	v := w.view()
	w.memory.Observe(v)
	plan := Plan(v)
	if plan.Verdict != nil {
		w.memory.Verdict = plan.Verdict
	}
	for _, a := range plan.Actions {
		if rapid.IntRange(0, 9).Draw(w.T, "lost") > 0 {
			w.do(a)
		}
	}
	w.memory.Status = Status(w.view())
	if w.pod.Status = w.memory.Status; api.IsPodTerminal(w.pod) {
		for _, c := range w.containers {
			if c.Running() && c.Name != SandboxSlot {
				w.Fatalf("the pod is %s and %s runs", w.pod.Status.Phase, c.Name)
			}
		}
	}
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 400).Draw(w.T, "seconds")) * time.Second)
}

func (w *world) do(a Action) {
	w.ids++
	made := Container{
		Name: a.Container, Attempt: a.Attempt, BackOff: a.BackOff, BegunAt: w.now,
		Container: container.Container{ID: fmt.Sprint(a.Container, w.ids), State: container.StateRunning, IP: "10.0.0.2", StartedAt: w.now},
	}
	switch a.Verb {
	case CreateSandbox:
		w.containers = append(w.containers, made)
	case Start:
		w.inOrder(a)
		made.Sandbox = a.Sandbox.Attempt
		made.SpecHash = SpecHash(api.FindContainer(w.pod.GetSpec(), a.Container))
		w.containers = append(w.containers, made)
	case Stop, Kill:
		w.lastInOrder(a)
		w.end(a.ID, 137)
	case Remove:
		for i, c := range w.containers {
			if c.ID == a.ID {
				w.containers = append(w.containers[:i:i], w.containers[i+1:]...)
				break
			}
		}
	}
}

func (w *world) end(id string, code int) {
	for i := range w.containers {
		if c := &w.containers[i]; c.ID == id && c.Running() {
			c.State, c.ExitCode, c.FinishedAt, c.EndedAt = container.StateExited, code, w.now, w.now
		}
	}
}

// inOrder fails where a container is started whose turn it is not.
func (w *world) inOrder(a Action) {
	begun := false // by then nothing before it has to be looked for
	for _, c := range w.containers {
		if c.Name == a.Container && c.Running() {
			w.Fatalf("%s is started twice", c.Name)
		}
		main := !strings.HasPrefix(c.Name, "init") && c.Name != SandboxSlot
		begun = begun || main && c.Sandbox == a.Sandbox.Attempt
	}
	for _, before := range w.pod.Spec.InitContainers {
		if before.GetName() == a.Container || begun {
			return
		}
		did := false
		for _, c := range w.containers {
			succeeded := !c.Running() && c.ExitCode == 0
			did = did || c.Name == before.GetName() && c.Sandbox == a.Sandbox.Attempt && (succeeded || api.IsSidecar(before))
		}
		if !did {
			w.Fatalf("%s is started before %s has done its part: %v", a.Container, before.GetName(), w.containers)
		}
	}
}

// lastInOrder fails where a sidecar of an ending pod is ended before those that
// need it, with time left.
func (w *world) lastInOrder(a Action) {
	spec := api.FindContainer(w.pod.GetSpec(), a.Container)
	if !w.view().Ending() || spec == nil || !api.IsSidecar(spec) || !w.now.Before(w.memory.Deadline) {
		return
	}
	after := false
	for _, later := range api.LastingContainers(w.pod.Spec) {
		for _, c := range w.containers {
			if after && c.Name == later.GetName() && c.Running() {
				w.Fatalf("sidecar %s is ended while %s runs", a.Container, c.Name)
			}
		}
		after = after || later.GetName() == a.Container
	}
}

// Whatever ends when, and whatever the agent forgets: no container runs before
// its turn, and no sidecar ends before those that it stands by.
func TestTheOrderIsNeverViolated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{T: t, memory: NewMemory(), now: now}
		w.pod = newPod(policy(rapid.SampledFrom([]string{"Always", "OnFailure", "Never"}).Draw(t, "policy")))
		for i := range rapid.IntRange(0, 3).Draw(t, "init containers") {
			c := &v1.Container{Name: fmt.Sprint("init", i), Image: "img:1"}
			if rapid.Bool().Draw(t, "sidecar") {
				c.RestartPolicy = proto.String("Always")
			}
			w.pod.Spec.InitContainers = append(w.pod.Spec.InitContainers, c)
		}
		if rapid.Bool().Draw(t, "two") {
			sidecar(w.pod)
		}
		api.Default(w.pod)
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {},
			"step": func(t *rapid.T) {
				w.T = t
				w.step()
			},
			"a container ends": func(t *rapid.T) {
				if len(w.containers) > 0 {
					c := rapid.SampledFrom(w.containers).Draw(t, "which")
					w.end(c.ID, rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "code"))
				}
			},
			"the agent forgets all": func(*rapid.T) { w.memory = NewMemory() },
			"the pod is deleted": func(t *rapid.T) {
				if rapid.IntRange(0, 5).Draw(t, "now") == 0 && w.pod.Metadata.DeletionTimestamp == nil {
					deleted(30, now.Sub(w.now))(w.pod)
				}
			},
		})
	})
}

// A program that ends at once, a thousand times: it is started ever more rarely,
// and neither what is kept nor what is reported grows.
func TestAThousandCrashesLeaveNothingBehind(t *testing.T) {
	pod, memory := newPod(prepared), NewMemory()
	var containers []Container
	at, begun, size := now, now, 0
	for len(containers) == 0 || containers[len(containers)-1].Attempt < 1000 {
		v := View{Pod: pod, Containers: containers, Memory: memory, Engine: "docker", Now: at}
		memory.Observe(v)
		plan := Plan(v)
		for _, a := range plan.Actions {
			c := Container{Name: a.Container, Attempt: a.Attempt, BackOff: a.BackOff, BegunAt: at, SpecHash: SpecHash(api.FindContainer(pod.Spec, a.Container))}
			c.Container = container.Container{ID: fmt.Sprint(a.Container, a.Attempt), State: container.StateRunning, StartedAt: at}
			switch a.Verb {
			case Start: // and it has ended already
				if begun.Add(maxBackOff).Before(at) {
					t.Fatalf("attempt %d waited %s", a.Attempt, at.Sub(begun))
				}
				begun, c.State, c.ExitCode, c.FinishedAt, c.EndedAt = at, container.StateExited, 1, at, at
				containers = append(containers, c)
			case CreateSandbox:
				containers = append(containers, c)
			case Remove:
				containers = slices.DeleteFunc(containers, func(c Container) bool { return c.ID == a.ID })
			}
		}
		memory.Status = Status(View{Pod: pod, Containers: containers, Memory: memory, Engine: "docker", Now: at})
		size = proto.Size(memory.Status)
		if len(plan.Actions) == 0 {
			at = plan.Wake
		}
	}
	if len(containers) > 4 {
		t.Errorf("%d containers are kept", len(containers))
	}
	if size > 2000 {
		t.Errorf("the status has %d bytes", size)
	}
	if n := len(memory.Failures) + len(memory.StopBy) + len(memory.Stopped) + len(memory.Unhealthy) + len(memory.LogRead) + len(memory.PostStart); n > 0 {
		t.Errorf("%d entries are remembered", n)
	}
}

func TestStatusOfAPodWithInitContainers(t *testing.T) {
	const s = time.Second
	done := exited(0, s, s)
	tests := []struct {
		name        string
		view        View
		phase       string
		initialized string
		message     string
	}{
		{"nothing has begun", view(newPod(prepared)), "Pending", "False", "containers with incomplete status: [first proxy second]"},
		{"the first runs", view(newPod(prepared), sandbox(), of("first")), "Pending", "False", "containers with incomplete status: [first proxy second]"},
		{"the sidecar runs", view(newPod(prepared), sandbox(), of("first", done), of("proxy")), "Pending", "False", "containers with incomplete status: [second]"},
		{"the last is tried again", view(newPod(prepared), sandbox(), of("first", done), of("proxy"), of("second", carries(10*s), exited(1, s, s))), "Pending", "False", "containers with incomplete status: [second]"},
		{"all is prepared", view(newPod(prepared), sandbox(), of("first", done), of("proxy"), of("second", done)), "Pending", "True", ""},
		{"the container runs", view(newPod(prepared), sandbox(), of("first", done), of("proxy"), of("second", done), app()), "Running", "True", ""},
		{"the sidecar crashed", view(newPod(prepared), sandbox(), of("first", done), of("proxy", carries(10*s), exited(1, s, s)), of("second", done), app()), "Running", "True", ""},
		{"the work is done and the sidecar still runs", view(newPod(prepared, policy("Never")), sandbox(), of("first", done), of("proxy"), of("second", done), app(done)), "Running", "True", ""},
		{"the work is done", view(newPod(prepared, policy("Never")), sandbox(), of("first", done), of("proxy", exited(137, s, s)), of("second", done), app(done)), "Succeeded", "True", ""},
		{"an init container failed for good", view(newPod(prepared, policy("Never")), sandbox(), of("first", exited(1, s, s))), "Failed", "False", "containers with incomplete status: [first proxy second]"},
		{"it failed and the sidecar still runs", view(newPod(prepared, policy("Never")), sandbox(), of("first", done), of("proxy"), of("second", exited(1, s, s))), "Pending", "False", "containers with incomplete status: [second]"},
		{"deleted before anything was done", view(newPod(prepared, deleted(30, 0)), sandbox(), of("first")), "Pending", "False", "containers with incomplete status: [first proxy second]"},
		{"a new sandbox is prepared again", view(newPod(prepared), sandbox(attempt(1)), of("first", inSandbox(1)), app(exited(1, s, s))), "Pending", "True", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.view.Memory.Observe(test.view)
			got := Status(test.view)
			c := api.GetCondition(got.GetConditions(), api.PodInitialized)
			if got.GetPhase() != test.phase || c.GetStatus() != test.initialized || c.GetMessage() != test.message {
				t.Errorf("phase %s, initialized %s %q; want %s, %s %q", got.GetPhase(), c.GetStatus(), c.GetMessage(), test.phase, test.initialized, test.message)
			}
		})
	}
}
