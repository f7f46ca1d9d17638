package agent_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"orch/pkg/agent"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
	"orch/pkg/store"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

const s = time.Second

func TestPodRuns(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web", withSidecar("img:2")))
		p := c.until("web", "ready", running)
		if p.GetStatus().GetPhase() != api.PodRunning || p.GetStatus().GetPodIp() == "" || p.GetStatus().GetHostIp() != "127.0.0.1" {
			t.Errorf("status %v", p.GetStatus())
		}
		c.expect(engine, "web/POD#0 running", "web/app#0 running", "web/side#0 running")
	})
}

func TestContainerThatCrashesInALoopIsStartedEverMoreRarely(t *testing.T) {
	bubble(t, fake.Options{Program: faketest.ExitAfter(s, 3)}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		began := time.Now()
		var starts []time.Duration
		for n := range int32(6) {
			c.until("web", "started again", restarted(n))
			starts = append(starts, time.Since(began).Round(s))
		}
		// The first restart comes at once, the others after 10, 20, 40, 80 s.
		if diff := cmp.Diff([]time.Duration{0, 1 * s, 12 * s, 33 * s, 74 * s, 155 * s}, starts); diff != "" {
			t.Errorf("starts (-want +got):\n%s", diff)
		}
		p := c.until("web", "waiting", waitingFor("CrashLoopBackOff"))
		if got := status(p, "app").GetLastState().GetTerminated(); got.GetExitCode() != 3 || got.GetReason() != "Error" {
			t.Errorf("last state %v", got)
		}
		c.expect(engine, "web/POD#0 running", "web/app#4 exited", "web/app#5 exited")
	})
}

func TestBackOffSurvivesTheAgent(t *testing.T) {
	bubble(t, fake.Options{Program: faketest.ExitAfter(s, 3)}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		first := c.start("n1", engine)
		c.create(pod("web"))
		c.until("web", "started for the third time", restarted(2))
		c.until("web", "waiting", waitingFor("CrashLoopBackOff"))
		ended := time.Now()
		time.Sleep(5 * s) // virtual
		first.kill()
		c.start("n1", engine)
		c.until("web", "started for the fourth time", restarted(3))
		if waited := time.Since(ended).Round(s); waited != 20*s {
			t.Errorf("waited %s, want 20s", waited)
		}
	})
}

func TestContainerKilledNowAndThenIsHealedAtOnce(t *testing.T) {
	bubble(t, fake.Options{ExitLag: 40 * time.Millisecond}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		for n := range int32(5) {
			time.Sleep(10 * s) // virtual
			killed := time.Now()
			if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
				t.Fatal(err)
			}
			p = c.until("web", "restarted", restarted(n+1))
			// The engine itself learned of the end only after its lag.
			if healed := status(p, "app").GetState().GetRunning().GetStartedAt().AsTime().Sub(killed); healed > 10*time.Millisecond {
				t.Errorf("healed after %s of virtual time, want at once", healed)
			}
			p = c.until("web", "told of the end", func(p *v1.Pod) bool {
				return status(p, "app").GetLastState().GetTerminated().GetExitCode() == 137
			})
		}
	})
}

func TestPoliciesEndPods(t *testing.T) {
	tests := []struct {
		name, policy string
		code         int
		phase        string
		restarts     int32
	}{
		{"Never is Succeeded with code 0", "Never", 0, "Succeeded", 0},
		{"Never is Failed with another code", "Never", 1, "Failed", 0},
		{"OnFailure is Succeeded with code 0", "OnFailure", 0, "Succeeded", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, fake.Options{Program: faketest.ExitAfter(s, test.code), ExitLag: 40 * time.Millisecond}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				n := c.start("n1", engine)
				c.create(pod("job", withPolicy(test.policy)))
				p := c.until("job", "ended", api.IsPodTerminal)
				if p.GetStatus().GetPhase() != test.phase || p.GetStatus().GetPodIp() == "" {
					t.Errorf("status %v", p.GetStatus())
				}
				time.Sleep(s) // virtual
				c.expect(engine, "job/app#0 exited")
				n.kill()
				c.start("n1", engine)
				time.Sleep(time.Minute) // virtual
				c.expect(engine, "job/app#0 exited")
			})
		})
	}
}

func TestActiveDeadlineEndsAPod(t *testing.T) {
	bubble(t, fake.Options{Program: faketest.IgnoreSignals}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		began := time.Now()
		c.create(pod("job", func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = proto.Int64(60) }))
		p := c.until("job", "failed", api.IsPodTerminal)
		if p.GetStatus().GetReason() != "DeadlineExceeded" || time.Since(began).Round(s) != 90*s {
			t.Errorf("%s after %s, want DeadlineExceeded after 60s and 30s of grace", p.GetStatus().GetReason(), time.Since(began))
		}
		time.Sleep(time.Minute) // virtual: events are written in their own time
		synctest.Wait()
		if counts := c.eventCounts(); counts["DeadlineExceeded"] != 1 {
			t.Errorf("events %v", counts)
		}
	})
}

func TestDeletedPodGetsItsGracePeriod(t *testing.T) {
	tests := []struct {
		name    string
		program fake.Program
		grace   *int64
		shorten *int64 // asked for five seconds later
		want    time.Duration
	}{
		{"a container that obeys ends the wait", fake.Forever, nil, nil, 0},
		{"one that does not is killed at the end", faketest.IgnoreSignals, nil, nil, 30 * s},
		{"the deletion may say how long", faketest.IgnoreSignals, proto.Int64(7), nil, 7 * s},
		{"a shorter period asked for later counts", faketest.IgnoreSignals, nil, proto.Int64(3), 8 * s},
		{"a pod forgotten by the API is ended all the same", faketest.IgnoreSignals, nil, proto.Int64(0), 7 * s},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, fake.Options{Program: test.program}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				c.start("n1", engine)
				c.create(pod("web", withSidecar("img:2")))
				c.until("web", "ready", running)
				asked := time.Now()
				c.delete("web", test.grace)
				if test.shorten != nil {
					time.Sleep(5 * s) // virtual
					c.delete("web", test.shorten)
				}
				c.until("web", "gone", gone)
				for len(c.containers(engine)) > 0 {
					time.Sleep(time.Millisecond) // virtual
				}
				if took := time.Since(asked).Round(s); took != test.want {
					t.Errorf("took %s, want %s", took, test.want)
				}
			})
		})
	}
}

func TestAgentThatComesBackGrantsWhatIsLeftOfTheGracePeriod(t *testing.T) {
	bubble(t, fake.Options{Program: faketest.IgnoreSignals}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		n := c.start("n1", engine)
		c.create(pod("web"))
		c.until("web", "ready", running)
		asked := time.Now()
		c.delete("web", nil)
		time.Sleep(10 * s) // virtual
		n.kill()
		time.Sleep(10 * s) // virtual
		c.start("n1", engine)
		c.until("web", "gone", gone)
		if took := time.Since(asked).Round(s); took != 30*s {
			t.Errorf("took %s, want 30s", took)
		}
		c.expect(engine)
	})
}

func TestOnePullServesAllPods(t *testing.T) {
	pulls := make(chan string, 10)
	slow := func(ctx context.Context, ref string, o container.PullOptions) error {
		pulls <- ref
		return faketest.SlowRegistry(10*s)(ctx, ref, o)
	}
	bubble(t, fake.Options{Pull: slow}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("a"))
		c.create(pod("b"))
		c.create(pod("c", withImage("other:1")))
		for _, name := range []string{"a", "b", "c"} {
			c.until(name, "ready", running)
		}
		if len(pulls) != 2 {
			t.Errorf("%d pulls of 2 images", len(pulls))
		}
	})
}

func TestImageThatDoesNotExistHoldsUpNobodyElse(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		began := time.Now()
		c.create(pod("bad", withImage("does-not-exist:1")))
		c.create(pod("never", func(p *v1.Pod) { p.Spec.Containers[0].ImagePullPolicy = api.PullNever }))
		c.create(pod("good", withImage("good:1")))
		c.until("good", "ready", running)
		c.until("never", "told", waitingFor("ErrImageNeverPull"))
		c.until("bad", "told", waitingFor("ErrImagePull"))
		p := c.until("bad", "waiting", waitingFor("ImagePullBackOff"))
		if m := status(p, "app").GetState().GetWaiting().GetMessage(); !strings.Contains(m, "manifest unknown") {
			t.Errorf("message %q does not hold the engine's words", m)
		}
		engine.AddImage("does-not-exist:1", "img:1")
		c.until("never", "ready", running)
		c.until("bad", "ready", running)
		if waited := time.Since(began).Round(s); waited != 10*s {
			t.Errorf("tried again after %s, want 10s", waited)
		}
		c.delete("bad", nil)
		c.until("bad", "gone", gone)
	})
}

func TestImageThatGoesAfterItsPullIsPulledAgain(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		var mu sync.Mutex // guards the counts
		pulls, creates := 0, 0
		engine.SetHook(func(_ context.Context, op, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			switch op {
			case "Pull":
				pulls++
			case "Create":
				creates++
			}
			if (op == "Create" || op == "Image") && pulls < 2 && creates < 100 {
				return container.ErrNotFound
			}
			return nil
		})
		c.start("n1", engine)
		c.create(pod("web", func(p *v1.Pod) { p.Spec.Containers[0].ImagePullPolicy = api.PullAlways }))
		c.until("web", "ready", running)
		mu.Lock()
		defer mu.Unlock()
		if pulls != 2 || creates > 4 {
			t.Errorf("%d pulls and %d tries to make a container", pulls, creates)
		}
	})
}

func TestNameThatSomebodyElseHasIsTriedAgainWithPauses(t *testing.T) {
	for op, reason := range map[string]string{"CreateSandbox": "ContainerCreating", "Create": "CreateContainerError"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, fake.Options{Local: everyImage}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				var tries atomic.Int32
				engine.SetHook(func(_ context.Context, called, _ string) error {
					if called == op && tries.Add(1) < 100 {
						return container.ErrConflict
					}
					return nil
				})
				c.start("n1", engine)
				c.create(pod("web"))
				c.until("web", "told", func(p *v1.Pod) bool {
					w := status(p, "app").GetState().GetWaiting()
					return w.GetReason() == reason && w.GetMessage() != ""
				})
				time.Sleep(s) // virtual
				if n := tries.Load(); n > 3 {
					t.Errorf("tried %d times within a second", n)
				}
				engine.SetHook(nil)
				c.until("web", "ready", running)
			})
		})
	}
}

func TestDeletedPodDoesNotWaitForItsPull(t *testing.T) {
	bubble(t, fake.Options{Pull: faketest.SlowRegistry(time.Hour)}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		began := time.Now()
		c.create(pod("web"))
		time.Sleep(s) // virtual
		c.delete("web", nil)
		c.until("web", "gone", gone)
		if took := time.Since(began); took > 2*s {
			t.Errorf("took %s", took)
		}
		c.expect(engine)
	})
}

func TestCallsThatHangDelayTheirOwnPodOnly(t *testing.T) {
	for _, op := range []string{"CreateSandbox", "Create", "Start", "Stop", "Remove"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, fake.Options{Local: everyImage}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				var stuck string // the id of the stuck pod's container, once known
				engine.SetHook(func(ctx context.Context, called, target string) error {
					if called == op && (strings.Contains(target, "_stuck_") || target == stuck) {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				})
				c.start("n1", engine)
				names := []string{"stuck", "a", "b", "c", "d", "e", "f", "g"}
				c.create(pod("stuck"))
				if op == "Stop" || op == "Remove" {
					p := c.until("stuck", "ready", running)
					stuck = id(p, "app")
					c.delete("stuck", nil)
				}
				began := time.Now()
				for _, name := range names[1:] {
					c.create(pod(name))
				}
				for _, name := range names[1:] {
					c.until(name, "ready", running)
					c.delete(name, nil)
					c.until(name, "gone", gone)
				}
				if took := time.Since(began); took > s {
					t.Errorf("the others took %s of virtual time", took)
				}
				engine.SetHook(nil)
			})
		})
	}
}

func everyImage(string) bool { return true }

func TestAgentThatComesBackTouchesNothingThatRuns(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		n := c.start("n1", engine)
		c.create(pod("web", withSidecar("img:2")))
		before := c.until("web", "ready", running)
		n.kill()
		c.expect(engine, "web/POD#0 running", "web/app#0 running", "web/side#0 running")
		c.start("n1", engine)
		time.Sleep(time.Minute) // virtual
		after := c.get("web")
		if diff := cmp.Diff(before, after, protocmp.Transform()); diff != "" {
			t.Errorf("the pod was written (-before +after):\n%s", diff)
		}
		c.expect(engine, "web/POD#0 running", "web/app#0 running", "web/side#0 running")
	})
}

func TestOrphansGoAndStrangersStay(t *testing.T) {
	bubble(t, fake.Options{Local: everyImage}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		other := newCluster(t)
		n1 := c.start("n1", engine)
		c.start("n2", engine)
		other.start("n1", engine)
		c.create(pod("web"))
		c.create(pod("neighbour", onNode("n2")))
		other.create(pod("web"))
		c.until("web", "ready", running)
		c.until("neighbour", "ready", running)
		stranger := other.until("web", "ready", running)
		n1.kill()
		c.delete("web", proto.Int64(0))
		c.create(pod("web"))
		c.start("n1", engine)
		c.until("web", "ready", running)
		time.Sleep(time.Minute) // virtual
		c.expect(engine, "neighbour/POD#0 running", "neighbour/app#0 running", "web/POD#0 running", "web/app#0 running")
		other.expect(engine, "web/POD#0 running", "web/app#0 running")
		if id(other.get("web"), "app") != id(stranger, "app") {
			t.Error("the other cluster's container was touched")
		}
	})
}

func TestSandboxThatDiesTakesTheContainersAlong(t *testing.T) {
	for name, end := range map[string]func(context.Context, *fake.Engine, string) error{
		"killed":  func(ctx context.Context, e *fake.Engine, id string) error { return e.Kill(ctx, id, "SIGKILL") },
		"removed": func(ctx context.Context, e *fake.Engine, id string) error { return e.Remove(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				c.start("n1", engine)
				before := c.create(pod("web", withSidecar("img:2")))
				c.until("web", "ready", running)
				if err := end(t.Context(), engine, c.find(engine, "web", lifecycle.SandboxSlot)); err != nil {
					t.Fatal(err)
				}
				after := c.until("web", "restarted", func(p *v1.Pod) bool { return restarted(1)(p) && running(p) })
				if before.GetMetadata().GetUid() != after.GetMetadata().GetUid() {
					t.Error("the pod is another one")
				}
				synctest.Wait()
				c.expect(engine, "web/POD#1 running", "web/app#0 exited", "web/app#1 running", "web/side#0 exited", "web/side#1 running")
			})
		})
	}
}

func TestContainerThatSomebodyRemovesComesBack(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		if err := engine.Remove(t.Context(), id(p, "app")); err != nil {
			t.Fatal(err)
		}
		c.until("web", "restarted", restarted(1))
		c.expect(engine, "web/POD#0 running", "web/app#1 running")
	})
}

// Somebody starts a container with the very labels of one of ours: it is taken away,
// and for nobody to see it is a life of the pod's.
func TestAContainerInTheImageOfAnotherIsNoLifeOfIt(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		p = c.until("web", "restarted", func(p *v1.Pod) bool { return restarted(1)(p) && running(p) })
		ours, err := engine.Inspect(t.Context(), id(p, "app"))
		if err != nil {
			t.Fatal(err)
		}
		// Ids are in no order, and the agent may be asked to look at either first.
		for range 5 {
			theirs, err := engine.Create(t.Context(), container.Config{Name: uuid.NewString(), Image: "img:1", Labels: ours.Labels, Sandbox: c.find(engine, "web", lifecycle.SandboxSlot)})
			if err == nil {
				synctest.Wait()
				_, err = engine.Start(t.Context(), theirs)
			}
			if err != nil && !errors.Is(err, container.ErrNotFound) {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) // virtual
		}
		c.expect(engine, "web/POD#0 running", "web/app#0 exited", "web/app#1 running")
		for e, err := range c.client.History(t.Context(), &v1.HistoryRequest{Kind: "Pod", Namespace: "default", Name: "web"}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.GetRevision() > p.GetMetadata().GetResourceVersion() && e.GetCause().GetReason() != "TerminationRecorded" {
				t.Errorf("revision %d: %s", e.GetRevision(), e.GetCause().GetMessage())
			}
		}
		if got := id(c.get("web"), "app"); got != ours.ID {
			t.Errorf("the pod's container is %s, not %s", got, ours.ID)
		}
	})
}

func TestAnotherImageRestartsTheContainer(t *testing.T) {
	bubble(t, fake.Options{Local: everyImage}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web", withSidecar("img:1")))
		c.until("web", "ready", running)
		if _, err := c.pods.Modify(t.Context(), "default", "web", func(p *v1.Pod) error {
			p.Spec.Containers[0].Image = "img:2"
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		p := c.until("web", "restarted", restarted(1))
		if got := status(p, "app").GetImage(); got != "img:2" {
			t.Errorf("runs image %s", got)
		}
		synctest.Wait()
		c.expect(engine, "web/POD#0 running", "web/app#0 exited", "web/app#1 running", "web/side#0 running")
	})
}

func TestEngineThatGoesAwayAndComesBack(t *testing.T) {
	for name, kills := range map[string]bool{"with its containers": true, "and leaves them running": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				c.start("n1", engine)
				c.create(pod("web"))
				before := c.until("web", "ready", running)
				time.Sleep(time.Minute) // virtual

				stopped := time.Now()
				engine.StopEngine(kills)
				n := c.untilNode("n1", api.ConditionFalse)
				if took := time.Since(stopped); took > 2*s {
					t.Errorf("NotReady after %s", took)
				}
				if got := api.GetCondition(n.GetStatus().GetConditions(), api.NodeReady).GetReason(); got != "ContainerRuntimeNotReady" {
					t.Errorf("reason %s", got)
				}
				time.Sleep(time.Minute) // virtual
				back := time.Now()
				engine.StartEngine()
				c.untilNode("n1", api.ConditionTrue)
				after := c.until("web", "ready", func(p *v1.Pod) bool { return running(p) && (!kills || restarted(1)(p)) })
				if took := time.Since(back); took > s {
					t.Errorf("all was well again after %s", took)
				}
				if !kills && id(before, "app") != id(after, "app") {
					t.Error("the container was restarted although it ran")
				}
			})
		})
	}
}

func TestAgentStartsWithoutAnEngine(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		engine.StopEngine(false)
		c.start("n1", engine)
		c.create(pod("web"))
		c.untilNode("n1", api.ConditionFalse)
		engine.StartEngine()
		n := c.untilNode("n1", api.ConditionTrue)
		if got := n.GetStatus().GetCapacity()[api.ResourceCPU]; got != "4" {
			t.Errorf("capacity of cpu %q", got)
		}
		c.until("web", "ready", running)
	})
}

func TestAPIServerThatGoesAwayStopsNoHealing(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		c.stop()
		time.Sleep(time.Minute) // virtual
		c.expect(engine, "web/POD#0 running", "web/app#0 running")
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(s) // virtual
		c.expect(engine, "web/POD#0 running", "web/app#0 exited", "web/app#1 running")
		c.startServer()
		back := time.Now()
		c.until("web", "reported", restarted(1))
		if took := time.Since(back); took > 3*s {
			t.Errorf("reported after %s", took)
		}
	})
}

func TestNodeRegistersAndReregisters(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		n := c.untilNode("n1", api.ConditionTrue)
		if l := n.GetMetadata().GetLabels(); l[api.LabelHostname] != "n1" || l[api.LabelOS] != "linux" {
			t.Errorf("labels %v", l)
		}
		want := map[string]string{"cpu": "4", "ephemeral-storage": "104857600Ki", "memory": "8388608Ki", "pods": "110"}
		if diff := cmp.Diff(want, n.GetStatus().GetAllocatable()); diff != "" {
			t.Errorf("allocatable (-want +got):\n%s", diff)
		}
		nodes := client.For[*v1.Node](c.client)
		before := n.GetMetadata().GetResourceVersion()
		time.Sleep(16 * time.Minute) // virtual
		n, err := nodes.Get(t.Context(), "", "n1")
		if err != nil {
			t.Fatal(err)
		}
		if writes := n.GetMetadata().GetResourceVersion() - before; writes != 3 {
			t.Errorf("%d writes in 16 minutes, want one each 5 minutes", writes)
		}
		if _, err := nodes.Delete(t.Context(), "", "n1", client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.untilNode("n1", api.ConditionTrue)
	})
}

func TestNothingIsWrittenWhileNothingHappens(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		before := c.until("web", "ready", running)
		time.Sleep(time.Hour) // virtual
		if after := c.get("web"); after.GetMetadata().GetResourceVersion() != before.GetMetadata().GetResourceVersion() {
			t.Errorf("the pod was written: %v", after.GetStatus())
		}
	})
}

func TestStatusThatSomebodyElseWroteIsCorrected(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		api.SetCondition(&p.Status.Conditions, &v1.Condition{Type: api.PodReady, Status: api.ConditionFalse, Reason: "NodeLost"}, time.Now())
		if _, err := c.pods.UpdateStatus(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		c.until("web", "ready again", running)
	})
}

// Two who disagree must not fill the log: the node controller and the agent do,
// from the agent's return until its first heartbeat.
func TestStatusThatSomebodyElseInsistsOnIsCorrectedOnceASecond(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		began, rounds := time.Now(), 0
		for ; rounds < 10; rounds++ {
			p := c.until("web", "ready", running)
			api.SetCondition(&p.Status.Conditions, &v1.Condition{Type: api.PodReady, Status: api.ConditionFalse, Reason: "NodeLost"}, time.Now())
			if _, err := c.pods.UpdateStatus(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 9*time.Second { // virtual
			t.Errorf("%d corrections in %v", rounds, took)
		}
		c.until("web", "ready in the end", running)
	})
}

func TestStoreThatWasRestoredLearnsWhatIsTrue(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		backup, err := c.store.List(t.Context(), "", store.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for n := range int32(3) {
			time.Sleep(10 * s) // virtual
			if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
				t.Fatal(err)
			}
			p = c.until("web", "restarted", restarted(n+1))
		}
		c.stop()
		if err := c.store.Close(); err != nil {
			t.Fatal(err)
		}
		c.store = memstore.New() // its revisions are below those that the agent knows
		for _, e := range backup.Entries {
			if _, err := c.store.Commit(t.Context(), store.Change{Key: e.Key, Value: e.Value, Topics: e.Topics}); err != nil {
				t.Fatal(err)
			}
		}
		c.startServer()
		c.until("web", "shown as it is", restarted(3))
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("web", "restarted", restarted(4))
	})
}

func TestWritesSayWhatWasSeen(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("web", "restarted", restarted(1))
		var causes []string
		for e, err := range c.client.History(t.Context(), &v1.HistoryRequest{Kind: "Pod", Namespace: "default", Name: "web"}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.GetCause().GetActor() == "nodeagent/n1" {
				causes = append(causes, e.GetCause().GetMessage())
			}
		}
		all := strings.Join(causes, "; ")
		if !strings.Contains(all, "container app was killed from outside by signal 9") {
			t.Errorf("causes: %s", all)
		}
	})
}

func TestHostPortIsPublishedByTheSandbox(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		seen := &recording{Runtime: engine}
		c.start("n1", seen)
		c.create(pod("web", func(p *v1.Pod) {
			p.Spec.Hostname = "a-host"
			p.Spec.Containers[0].Ports = []*v1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
		}))
		c.until("web", "ready", running)
		want := []container.Port{{ContainerPort: 80, HostPort: 8080, Protocol: "TCP"}}
		if diff := cmp.Diff(want, seen.sandbox.Ports); diff != "" || seen.sandbox.Hostname != "a-host" {
			t.Errorf("host name %q, ports (-want +got):\n%s", seen.sandbox.Hostname, diff)
		}
	})
}

func TestAContainerThatWouldRunAsRootAgainstItsRulesIsNotCreated(t *testing.T) {
	user := func(ref string) string { return map[string]string{"nobody:1": "65534"}[ref] }
	bubble(t, fake.Options{User: user}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		nonRoot := func(p *v1.Pod) { p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsNonRoot: proto.Bool(true)} }
		c.create(pod("root", nonRoot))
		p := c.until("root", "refused", waitingFor("CreateContainerConfigError"))
		if got := status(p, "app").GetState().GetWaiting().GetMessage(); !strings.HasPrefix(got, "container has runAsNonRoot and image will run as root (pod: \"root_default(") {
			t.Errorf("message %q", got)
		}
		c.create(pod("nobody", nonRoot, withImage("nobody:1")))
		c.until("nobody", "ready", running)
	})
}

// recording keeps the last sandbox asked for.
type recording struct {
	container.Runtime
	sandbox container.Sandbox
}

func (r *recording) CreateSandbox(ctx context.Context, s container.Sandbox) (container.Container, error) {
	r.sandbox = s
	return r.Runtime.CreateSandbox(ctx, s)
}

func TestNewRefusesWhatMakesNoSense(t *testing.T) {
	good := agent.Options{NodeName: "n1", ClusterID: "c", Client: client.New(nil, "test"), Runtime: fake.New(fake.Options{}), DataDir: t.TempDir()}
	if _, err := agent.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*agent.Options){
		"no node name":      func(o *agent.Options) { o.NodeName = "" },
		"no cluster":        func(o *agent.Options) { o.ClusterID = "" },
		"no client":         func(o *agent.Options) { o.Client = nil },
		"no runtime":        func(o *agent.Options) { o.Runtime = nil },
		"relative folder":   func(o *agent.Options) { o.DataDir = "data" },
		"negative capacity": func(o *agent.Options) { o.Capacity = map[string]string{"cpu": "-1"} },
	} {
		o := good
		change(&o)
		if _, err := agent.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
