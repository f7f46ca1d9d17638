package lifecycle

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/agent/probe"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// look is a view of the pod with these containers, observed.
func look(pod *v1.Pod, m *Memory, containers ...Container) View {
	v := View{Pod: pod, Containers: containers, Memory: m, Engine: "docker", Now: now}
	m.Observe(v)
	return v
}

func TestLedgerSaysHowAContainerEnded(t *testing.T) {
	ran := func(code int) func(*Container) { return exited(code, 20*time.Second, time.Second) }
	tests := []struct {
		name    string
		end     func(*Container)
		prepare func(*Memory)
		others  []Container
		want    api.Termination
	}{
		{name: "a program that fails", end: ran(3), want: api.Termination{ExitCode: 3, Reason: "Error"}},
		{name: "a program that has done its work", end: ran(0), want: api.Termination{Reason: "Completed"}},
		{name: "a program that crashes by a signal", end: ran(139), want: api.Termination{ExitCode: 139, Signal: 11, Reason: "Error"}},
		{
			name: "want of memory", end: func(c *Container) { ran(137)(c); c.OOMKilled = true },
			want: api.Termination{ExitCode: 137, Signal: 9, Reason: "OOMKilled"},
		},
		{
			name: "want of memory that a child had, long before the agent ends the container", end: func(c *Container) { ran(137)(c); c.OOMKilled = true },
			prepare: func(m *Memory) { m.Stopped["app0"] = Stopped{Why: "failed"} },
			want:    api.Termination{ExitCode: 137, Signal: 9, Reason: "Stopped", Message: "failed"},
		},
		{
			name: "want of memory that a child had, long before the container was killed on purpose", end: func(c *Container) { ran(137)(c); c.OOMKilled = true },
			prepare: func(m *Memory) { m.Killers["app0"] = Killer{Name: "chaosinjection/x"} },
			want:    api.Termination{ExitCode: 137, Signal: 9, Reason: "Killed", Message: "SIGKILL by chaosinjection/x"},
		},
		{
			name: "want of memory that a child had, in a program that fails later", end: func(c *Container) { ran(3)(c); c.OOMKilled = true },
			want: api.Termination{ExitCode: 3, Reason: "Error"},
		},
		{
			name: "want of memory that a child had, in a program that is asked to end from outside", end: func(c *Container) { ran(143)(c); c.OOMKilled = true },
			want: api.Termination{ExitCode: 143, Signal: 15, Reason: "Killed", Message: "SIGTERM from outside: sent neither by the agent nor for want of memory"},
		},
		{
			name: "a kill that the agent has not asked for", end: ran(137),
			want: api.Termination{ExitCode: 137, Signal: 9, Reason: "Killed", Message: "SIGKILL from outside: sent neither by the agent nor for want of memory"},
		},
		{
			name: "an engine that was stopped", end: ran(143), others: []Container{sandbox(ran(143))},
			want: api.Termination{ExitCode: 143, Signal: 15, Reason: "Killed", Message: "SIGTERM from outside: sent neither by the agent nor for want of memory; the pod's sandbox ended too, as when the engine is stopped"},
		},
		{
			name: "a liveness probe", end: ran(0),
			prepare: func(m *Memory) {
				m.Unhealthy["app0"] = probe.Health{Failed: probe.Liveness, Message: "no answer"}
				m.Stopped["app0"] = Stopped{Why: "failed"}
			},
			want: api.Termination{Reason: "LivenessFailed", Message: "no answer"},
		},
		{
			name: "a startup probe", end: ran(137),
			prepare: func(m *Memory) { m.Unhealthy["app0"] = probe.Health{Failed: probe.Startup, Message: "no answer"} },
			want:    api.Termination{ExitCode: 137, Signal: 9, Reason: "StartupFailed", Message: "no answer"},
		},
		{
			name: "a postStart hook that failed", end: ran(143),
			prepare: func(m *Memory) {
				m.PostStart["app0"] = errors.New(`command "greet" ended with code 3: nobody there`)
				m.Stopped["app0"] = Stopped{Why: "FailedPostStartHook"}
			},
			want: api.Termination{ExitCode: 143, Signal: 15, Reason: "PostStartHookFailed", Message: `command "greet" ended with code 3: nobody there`},
		},
		{
			name: "an agent that ends a container", end: ran(143),
			prepare: func(m *Memory) {
				m.Stopped["app0"] = Stopped{Why: "Container app definition changed, will be restarted"}
			},
			want: api.Termination{ExitCode: 143, Signal: 15, Reason: "Stopped", Message: "Container app definition changed, will be restarted"},
		},
		{
			name: "an agent that ends the pod", end: ran(137),
			prepare: func(m *Memory) {
				m.Stopped["app0"] = Stopped{Why: "Stopping container app"}
				m.Verdict = &Verdict{Reason: "DeadlineExceeded", Message: "too long"}
			},
			want: api.Termination{ExitCode: 137, Signal: 9, Reason: "DeadlineExceeded", Message: "too long"},
		},
		{
			name: "an engine that could not start it", end: cannotRun,
			want: api.Termination{ExitCode: 127, Reason: "ContainerCannotRun", Message: "exec: no such file"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := NewMemory()
			if test.prepare != nil {
				test.prepare(m)
			}
			v := look(newPod(), m, append(test.others, app(test.end))...)
			got := v.Memory.Terminations["app"]
			if len(got) != 1 {
				t.Fatalf("%d entries", len(got))
			}
			test.want.ContainerID = "docker://app0"
			test.want.StartedAt, test.want.FinishedAt = got[0].StartedAt, got[0].FinishedAt
			if diff := cmp.Diff(test.want, got[0]); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if test.end != nil && !strings.Contains(test.name, "could not") && got[0].FinishedAt.Sub(got[0].StartedAt) != 20*time.Second {
				t.Errorf("it ran from %s to %s", got[0].StartedAt, got[0].FinishedAt)
			}
		})
	}
}

func TestLedgerWaitsForTheExitCode(t *testing.T) {
	m := NewMemory()
	if look(newPod(), m, sandbox(), app(ended)); len(m.Terminations["app"]) != 0 {
		t.Errorf("recorded before the engine knew: %v", m.Terminations)
	}
	look(newPod(), m, sandbox(), app(exited(4, time.Minute, 0)))
	if got := m.Terminations["app"]; len(got) != 1 || got[0].ExitCode != 4 {
		t.Errorf("%v", got)
	}
	// What the status said meanwhile does not outlive the doubt.
	m = NewMemory()
	p := newPod(func(p *v1.Pod) {
		p.Status.ContainerStatuses = []*v1.ContainerStatus{{Name: "app", LastState: &v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			ContainerId: "docker://app0", ExitCode: 137, Reason: ReasonStatusUnknown, Message: "The container's process ended, and the engine does not tell its exit code",
		}}}}
	})
	look(p, m, sandbox(), app(exited(4, time.Minute, 0)))
	if got := m.Terminations["app"]; len(got) != 1 || got[0].ExitCode != 4 || got[0].Message != "" {
		t.Errorf("%+v", got)
	}
	// What is gone before anybody could ask is recorded as that.
	m = NewMemory()
	look(newPod(), m, sandbox(), app())
	look(newPod(), m, sandbox())
	if got := m.Terminations["app"]; len(got) != 1 || got[0].Reason != ReasonStatusUnknown {
		t.Errorf("%v", got)
	}
}

func TestLedgerLearnsOfWantOfMemoryLate(t *testing.T) {
	m := NewMemory()
	c := app(exited(137, 20*time.Second, time.Second))
	look(newPod(), m, sandbox(), c)
	m.TookLog("docker", "app", c.ID, []byte("hungry"))
	c.OOMKilled = true
	look(newPod(), m, sandbox(), c)
	if e := m.Terminations["app"]; len(e) != 1 || e[0].Reason != ReasonOOMKilled || e[0].Message != "" || e[0].Log != "hungry" {
		t.Errorf("entered as %+v", e)
	}
}

// A program that ends at once may do so before the engine notes its start.
func TestNothingEndsBeforeItStarts(t *testing.T) {
	m := NewMemory()
	v := look(newPod(), m, sandbox(), app(exited(7, -time.Millisecond, time.Second)))
	e, s := m.Terminations["app"], Status(v).GetContainerStatuses()[0].GetLastState().GetTerminated()
	if s == nil {
		s = Status(v).GetContainerStatuses()[0].GetState().GetTerminated()
	}
	if len(e) != 1 || e[0].FinishedAt.Before(e[0].StartedAt) || s.GetFinishedAt().AsTime().Before(s.GetStartedAt().AsTime()) {
		t.Errorf("entered as %+v, reported as %v", e, s)
	}
}

func TestLedgerOutlivesTheAgent(t *testing.T) {
	first := NewMemory()
	v := look(newPod(), first, sandbox(), app(exited(3, time.Minute, time.Minute)), app(attempt(1)))
	first.TookLog("docker", "app", "app0", []byte("the end\n"))
	p := newPod(func(p *v1.Pod) {
		p.Metadata.Annotations = map[string]string{api.AnnotationTerminations: Ledger(v)}
	})
	second := NewMemory()
	look(p, second, sandbox(), app(attempt(1), exited(5, time.Minute, 0)))
	got := second.Terminations["app"]
	if len(got) != 2 || got[0].Log != "the end" || got[1].ExitCode != 5 || got[1].RestartCount != 1 {
		t.Errorf("%+v", got)
	}
}

func TestRestartsAreCountedThoughTheEngineForgotThem(t *testing.T) {
	reported := func(s *v1.ContainerStatus) func(*v1.Pod) {
		return func(p *v1.Pod) { s.Name = "app"; p.Status.ContainerStatuses = []*v1.ContainerStatus{s} }
	}
	end := &v1.ContainerStateTerminated{ContainerId: "docker://app4", ExitCode: 3, FinishedAt: timestamppb.New(now.Add(-time.Hour)), StartedAt: timestamppb.New(now.Add(-2 * time.Hour))}
	tests := []struct {
		name string
		pod  *v1.Pod
		want int
	}{
		{"it ran", newPod(reported(&v1.ContainerStatus{ContainerId: "docker://app4", RestartCount: 4, State: &v1.ContainerState{Running: &v1.ContainerStateRunning{}}})), 5},
		{"it waited after a crash", newPod(reported(&v1.ContainerStatus{
			ContainerId: "docker://app4", RestartCount: 4, LastState: &v1.ContainerState{Terminated: end},
			State: &v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: ReasonCrashLoopBackOff}},
		})), 5},
		{"it had ended", newPod(reported(&v1.ContainerStatus{ContainerId: "docker://app4", RestartCount: 4, State: &v1.ContainerState{Terminated: end}})), 5},
		{"it was made and not started", newPod(reported(&v1.ContainerStatus{RestartCount: 4, Started: proto.Bool(false), State: &v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}})), 4},
		{"there was none yet", newPod(reported(&v1.ContainerStatus{State: &v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}})), 0},
	}
	for _, test := range tests {
		v := look(test.pod, NewMemory(), sandbox())
		d := decide(v, test.pod.GetSpec().GetContainers()[0])
		if d.what != begin || d.attempt != test.want {
			t.Errorf("%s: next is attempt %d (%v), want %d", test.name, d.attempt, d.what, test.want)
		}
	}
}

func TestLogsAreReadBesideHealingAndNotBeforeIt(t *testing.T) {
	slots := func(as []Action) (s []string) {
		for _, a := range as {
			s = append(s, string(a.Verb)+" "+a.ID)
		}
		return s
	}
	m := NewMemory()
	v := look(newPod(), m, sandbox(), app(exited(1, time.Minute, 0)))
	if got := ReadLogs(v, Plan(v)); len(got) != 0 {
		t.Errorf("while the start is about to be asked for: %v", slots(got))
	}
	m.Busy["app"] = Start
	if got := ReadLogs(v, Plan(v)); len(got) != 0 {
		t.Errorf("while it is being started: %v", slots(got))
	}
	delete(m.Busy, "app")
	v = look(newPod(), m, sandbox(), app(exited(1, time.Minute, 0)), app(attempt(1)))
	if got := slots(ReadLogs(v, Plan(v))); !cmp.Equal(got, []string{"read log app0"}) {
		t.Errorf("after it: %v", got)
	}
	m.TookLog("docker", "app", "app0", nil)
	if got := ReadLogs(v, Plan(v)); len(got) != 0 {
		t.Errorf("an empty log is read once: %v", slots(got))
	}
	v = look(newPod(deleted(30, time.Second)), NewMemory(), sandbox(), app(exited(1, time.Minute, 0)))
	if got := ReadLogs(v, Plan(v)); len(got) != 0 {
		t.Errorf("of a pod that is being deleted: %v", slots(got))
	}
}

func TestLogLinesAreTextAndBounded(t *testing.T) {
	tests := []struct{ name, log, want string }{
		{"the last lines", "1\n2\n3\n4\n5\n6\n7\n", "3\n4\n5\n6\n7"},
		{"a last line without end", "one\ntwo", "one\ntwo"},
		{"bytes that are no text", "a\xff\x00b\n", "ab"},
		{"what would move a cursor", "\x1b[31mred\x1b[0m\r\n", "[31mred[0m"},
		{"a line longer than all", strings.Repeat("é", 400), strings.Repeat("é", tailBytes/2)},
	}
	for _, test := range tests {
		if got := clean(test.log); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		got := clean(string(rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "log")))
		if len(got) > tailBytes || !utf8.ValidString(got) || strings.Count(got, "\n") >= TailLines {
			t.Fatalf("%d bytes, %q", len(got), got)
		}
	})
}
