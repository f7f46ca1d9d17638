package agent_test

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
	v1 "orch/proto/v1"
)

// withInit puts a step and a sidecar before the container.
func withInit(step, proxy string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.InitContainers = []*v1.Container{
			{Name: "init", Image: step},
			{Name: "proxy", Image: proxy, RestartPolicy: proto.String("Always")},
		}
	}
}

func initStatus(p *v1.Pod, i int) *v1.ContainerStatus {
	if all := p.GetStatus().GetInitContainerStatuses(); i < len(all) {
		return all[i]
	}
	return nil
}

func TestInitContainersRunBeforeTheContainersAndSidecarsBesideThem(t *testing.T) {
	bubble(t, fake.Options{Programs: map[string]fake.Program{"step:1": faketest.ExitAfter(5*s, 0)}}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		n := c.start("n1", engine)
		c.create(pod("web", withInit("step:1", "proxy:1")))
		c.until("web", "preparing", func(p *v1.Pod) bool { return initStatus(p, 0).GetState().GetRunning() != nil })
		c.expect(engine, "web/POD#0 running", "web/init#0 running")
		p := c.until("web", "ready", running)
		c.expect(engine, "web/POD#0 running", "web/app#0 running", "web/init#0 exited", "web/proxy#0 running")
		if api.GetCondition(p.GetStatus().GetConditions(), api.PodInitialized).GetStatus() != "True" || !initStatus(p, 0).GetReady() || !initStatus(p, 1).GetReady() {
			t.Errorf("status %v", p.GetStatus())
		}

		// Another agent, and nothing left of what has ended: it stays initialized.
		n.kill()
		if err := engine.Remove(t.Context(), c.find(engine, "web", "init")); err != nil {
			t.Fatal(err)
		}
		c.start("n1", engine)
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("web", "restarted", restarted(1))
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		c.expect(engine, "web/POD#0 running", "web/app#0 exited", "web/app#1 running", "web/proxy#0 running")

		// Without its sandbox it begins anew.
		if err := engine.Kill(t.Context(), c.find(engine, "web", "POD"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("web", "preparing again", func(p *v1.Pod) bool { return initStatus(p, 0).GetState().GetRunning() != nil })
		c.until("web", "ready again", running)

		began := time.Now()
		c.delete("web", nil)
		c.until("web", "gone", gone)
		c.expect(engine)
		if took := time.Since(began); took > 10*s {
			t.Errorf("took %s to end programs that end when they are asked to", took)
		}
	})
}

func TestInitContainerThatFails(t *testing.T) {
	bubble(t, fake.Options{Programs: map[string]fake.Program{"step:1": faketest.ExitAfter(s, 1)}}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web", withInit("step:1", "proxy:1")))
		p := c.until("web", "in its back-off", func(p *v1.Pod) bool {
			return initStatus(p, 0).GetState().GetWaiting().GetReason() == "CrashLoopBackOff"
		})
		if p.GetStatus().GetPhase() != api.PodPending {
			t.Errorf("phase %s", p.GetStatus().GetPhase())
		}
		c.create(pod("job", withInit("step:1", "proxy:1"), withPolicy("Never")))
		p = c.until("job", "failed", api.IsPodTerminal)
		if p.GetStatus().GetPhase() != api.PodFailed {
			t.Errorf("phase %s", p.GetStatus().GetPhase())
		}
		engine.SetProgram("step:1", faketest.ExitAfter(s, 0))
		c.until("web", "ready", running)
	})
}

func TestSidecarDoesNotKeepAJob(t *testing.T) {
	programs := map[string]fake.Program{"step:1": faketest.ExitAfter(s, 0), "img:1": faketest.ExitAfter(10*s, 0), "proxy:1": faketest.IgnoreSignals}
	bubble(t, fake.Options{Programs: programs}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		began := time.Now()
		c.create(pod("job", withInit("step:1", "proxy:1"), withPolicy("OnFailure")))
		p := c.until("job", "done", api.IsPodTerminal)
		// 1 s and 10 s of work, and 30 s of grace for a sidecar that does not listen.
		if took := time.Since(began).Round(s); p.GetStatus().GetPhase() != api.PodSucceeded || took != 41*s {
			t.Errorf("phase %s after %s", p.GetStatus().GetPhase(), took)
		}
		time.Sleep(s) // virtual
		synctest.Wait()
		c.expect(engine, "job/app#0 exited", "job/init#0 exited", "job/proxy#0 exited")
	})
}

func TestActiveDeadlineCountsInitContainersToo(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("job", withInit("forever:1", "proxy:1"), func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = proto.Int64(60) }))
		p := c.until("job", "failed", api.IsPodTerminal)
		if p.GetStatus().GetReason() != "DeadlineExceeded" {
			t.Errorf("status %v", p.GetStatus())
		}
	})
}

// eventCounts counts the events of the namespace by reason.
func (c *cluster) eventCounts() map[string]int {
	c.t.Helper()
	list, err := client.For[*v1.Event](c.client).List(c.t.Context(), client.ListOptions{Namespace: "default"})
	if err != nil {
		c.t.Fatal(err)
	}
	counts := map[string]int{}
	for _, e := range list.Items {
		counts[e.GetReason()] += int(max(1, e.GetCount()))
	}
	return counts
}

func withHooks(post, pre *v1.LifecycleHandler) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: post, PreStop: pre} }
}

func pause(seconds int64) *v1.LifecycleHandler {
	return &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: seconds}}
}

func TestHooksBelongToStartAndEnd(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		began := time.Now()
		c.create(pod("web", withHooks(pause(5), pause(7))))
		c.until("web", "ready", running)
		if took := time.Since(began).Round(s); took != 5*s {
			t.Errorf("ready after %s, want 5s", took)
		}
		began = time.Now()
		c.delete("web", nil)
		c.until("web", "gone", gone)
		if took := time.Since(began).Round(s); took != 7*s {
			t.Errorf("gone after %s, want 7s", took)
		}
		c.expect(engine)
	})
}

func TestHookThatOutlivesItsContainerHoldsUpNothing(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		p := c.create(pod("web", withHooks(nil, pause(30))))
		p = c.until(p.GetMetadata().GetName(), "ready", running)
		began := time.Now()
		c.delete("web", nil)
		time.Sleep(s) // virtual
		synctest.Wait()
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("web", "gone", gone)
		if took := time.Since(began); took > 3*s {
			t.Errorf("gone after %s", took)
		}
	})
}

func TestPreStopHookHasTheGracePeriodAndTheProgramTwoSeconds(t *testing.T) {
	bubble(t, fake.Options{Program: faketest.IgnoreSignals}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web", withHooks(nil, pause(30))))
		c.until("web", "ready", running)
		began := time.Now()
		c.delete("web", proto.Int64(10))
		c.until("web", "gone", gone)
		if took := time.Since(began).Round(s); took != 12*s {
			t.Errorf("gone after %s, want 10s of grace and 2s", took)
		}
	})
}

func TestPostStartHookThatFailsEndsTheContainer(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		hook := &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"false"}}}
		c.create(pod("web", withHooks(hook, nil)))
		c.until("web", "in its back-off", waitingFor("CrashLoopBackOff"))
		time.Sleep(time.Minute) // virtual: events are written in their own time
		synctest.Wait()
		if counts := c.eventCounts(); counts["FailedPostStartHook"] == 0 || counts["Killing"] == 0 {
			t.Errorf("events %v", counts)
		}
		c.create(pod("job", withHooks(hook, nil), withPolicy("Never")))
		c.until("job", "failed", api.IsPodTerminal)
	})
}

func TestPreStopHookThatFailsStopsNothing(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web", withHooks(nil, &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"false"}}})))
		c.until("web", "ready", running)
		c.delete("web", nil)
		c.until("web", "gone", gone)
		time.Sleep(time.Minute) // virtual: events are written in their own time
		synctest.Wait()
		if counts := c.eventCounts(); counts["FailedPreStopHook"] != 1 || counts["Killing"] != 1 {
			t.Errorf("events %v", counts)
		}
	})
}

func TestEndIsAnnouncedOnceHoweverLongTheEngineIsAway(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		c.until("web", "ready", running)
		engine.StopEngine(false)
		c.delete("web", nil)
		time.Sleep(30 * s) // virtual
		engine.StartEngine()
		c.until("web", "gone", gone)
		time.Sleep(time.Minute) // virtual: events are written in their own time
		synctest.Wait()
		if counts := c.eventCounts(); counts["Killing"] != 1 {
			t.Errorf("events %v", counts)
		}
	})
}

func TestStartThatWaitsForItsTurnEndsWithItsPod(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		engine.SetHook(faketest.Hang("CreateSandbox"))
		for _, name := range []string{"a", "b", "c", "d"} {
			c.create(pod(name))
		}
		time.Sleep(s) // virtual: all four are under way
		synctest.Wait()
		c.create(pod("late"))
		time.Sleep(s) // virtual
		synctest.Wait()
		began := time.Now()
		c.delete("late", nil)
		c.until("late", "gone", gone)
		if took := time.Since(began); took > 2*s {
			t.Errorf("gone after %s, although nothing of it was begun", took)
		}
		engine.SetHook(nil)
	})
}

func TestContainerThatSomebodyRemovedHasALastState(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		if err := engine.Remove(t.Context(), id(p, "app")); err != nil {
			t.Fatal(err)
		}
		p = c.until("web", "restarted", restarted(1))
		if end := status(p, "app").GetLastState().GetTerminated(); end.GetContainerId() == "" || end.GetExitCode() != 137 {
			t.Errorf("last state %v", end)
		}
	})
}

func TestOrderOnDocker(t *testing.T) {
	engine := testdocker.Require(t)
	image := testimage.Build(t, engine)

	t.Run("init containers run one after another, a sidecar goes on", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", marked{engine})
		c.create(pod("web", withInit(image, image), withImage(image), func(p *v1.Pod) {
			p.Spec.InitContainers[0].Args = []string{"-lines", "1", "-exit", "0"}
		}))
		p := c.until("web", "ready", running)
		first, proxy, app := initStatus(p, 0).GetState().GetTerminated(), initStatus(p, 1).GetState().GetRunning(), status(p, "app").GetState().GetRunning()
		if first.GetReason() != "Completed" || first.GetFinishedAt().AsTime().After(proxy.GetStartedAt().AsTime()) || proxy.GetStartedAt().AsTime().After(app.GetStartedAt().AsTime()) {
			t.Errorf("out of order: %v, %v, %v", first, proxy, app)
		}
		// Before it handles signals, process 1 hears none, and would be killed in the end.
		output(t, engine, id(p, "app"), "ready")
		_, sidecar, _ := strings.Cut(initStatus(p, 1).GetContainerId(), "://")
		output(t, engine, sidecar, "ready")
		var last *v1.Pod
		c.delete("web", nil)
		c.until("web", "gone", func(p *v1.Pod) bool {
			if p != nil {
				last = p
			}
			return p == nil
		})
		ended, side := status(last, "app").GetState().GetTerminated(), initStatus(last, 1).GetState().GetTerminated()
		if ended == nil || side == nil || side.GetFinishedAt().AsTime().Before(ended.GetFinishedAt().AsTime()) {
			t.Errorf("the sidecar ended before the container: %v, %v", side, ended)
		}
		c.expect(engine)
	})

	t.Run("hooks run in the container, and over the network", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", marked{engine})
		hook := func(path string) *v1.LifecycleHandler {
			return &v1.LifecycleHandler{HttpGet: &v1.HTTPGetAction{Path: path, Port: &v1.IntOrString{Value: &v1.IntOrString_Int{Int: 8080}}}}
		}
		c.create(pod("web", withImage(image), func(p *v1.Pod) {
			p.Spec.Containers[0].Args = []string{"-listen", ":8080"}
			// The program needs a moment until it listens; the question waits for it.
			p.Spec.Containers[0].StartupProbe = &v1.Probe{HttpGet: hook("/").HttpGet, PeriodSeconds: 1, FailureThreshold: 100, TimeoutSeconds: 60}
			p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{
				PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{testimage.Path, "-write", "/greeted", "-exit", "0"}}},
				PreStop:   hook("/nothing-is-here"), // any answer is one
			}
		}))
		p := c.until("web", "ready", running)
		var out bytes.Buffer
		if code, err := engine.Exec(t.Context(), id(p, "app"), container.ExecOptions{Command: []string{testimage.Path, "-print", "/greeted", "-exit", "0"}, Stdout: &out}); err != nil || code != 0 {
			t.Errorf("the hook left nothing: %s, code %d, error %v", out.String(), code, err)
		}
		c.delete("web", nil)
		c.until("web", "gone", gone)
		c.expect(engine)
	})

	t.Run("what a container has begun besides dies with it", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", marked{engine})
		c.create(pod("web", withImage(image)))
		p := c.until("web", "ready", running)
		out, stdout := io.Pipe()
		code := make(chan int, 1)
		go func() {
			n, _ := engine.Exec(t.Context(), id(p, "app"), container.ExecOptions{Command: []string{testimage.Path, "-ignore-term"}, Stdout: stdout})
			stdout.Close()
			code <- n
		}()
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("%q, error %v", line, err)
		}
		go func() { _, _ = io.Copy(io.Discard, out) }() // until it ends
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		if n := <-code; n != 137 {
			t.Errorf("ended with code %d", n)
		}
		c.until("web", "restarted", restarted(1))
	})
}
