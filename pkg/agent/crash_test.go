package agent_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
	v1 "orch/proto/v1"
)

// An agent that is killed stops between two calls to the engine, or while the
// engine carries one out and nobody hears the answer. Here it dies at each of
// these moments of a pod's life in turn: while the pod starts, while a container
// of it is healed, while it ends.
func TestTheAgentMayDieAtAnyCallToTheEngine(t *testing.T) {
	for call := 1; ; call++ {
		died := false
		for _, carriedOut := range []bool{false, true} {
			died = dieAt(t, call, carriedOut) || died
		}
		if !died {
			if call < 20 {
				t.Errorf("a pod's life had only %d calls", call-1)
			}
			return
		}
		if testing.Short() {
			call += 4 // every fifth
		}
	}
}

// dieAt lets a pod live, with an agent that dies at its n-th call, and says
// whether it came to that.
func dieAt(t *testing.T, n int, carriedOut bool) (died bool) {
	t.Helper()
	t.Run(fmt.Sprintf("call %d, carried out %t", n, carriedOut), func(t *testing.T) {
		programs := map[string]fake.Program{"step:1": faketest.ExitAfter(time.Second, 0)}
		bubble(t, fake.Options{ExitLag: 40 * time.Millisecond, Programs: programs}, func(t *testing.T, c *cluster, engine *fake.Engine) {
			mortal := &mortal{left: n, carriedOut: carriedOut, dead: make(chan struct{})}
			first := c.start("n1", between{engine, mortal.around})
			buried := make(chan struct{})
			go func() {
				defer close(buried)
				select {
				case <-mortal.dead:
					first.kill()
					c.start("n1", engine)
				case <-t.Context().Done():
				}
			}()

			c.setConfigMap("c", map[string]string{"key": "value"})
			c.create(pod("web", withInit("step:1", "proxy:1"), withSidecar("img:2"),
				withVolume(configMapVolume("config", "c")), withVolume(&v1.Volume{Name: "scratch"})))
			c.until("web", "ready", running)
			c.create(pod("other"))
			c.until("other", "ready", running)
			c.compareRunning(engine, []string{"other/POD", "other/app", "web/POD", "web/app", "web/proxy", "web/side"})
			untouched := c.find(engine, "web", "side")

			if err := engine.Kill(t.Context(), c.find(engine, "web", "app"), "SIGKILL"); err != nil {
				t.Fatal(err)
			}
			c.until("web", "healed", restarted(1))
			time.Sleep(time.Minute) // virtual: whoever has something to make too much has made it
			c.compareRunning(engine, []string{"other/POD", "other/app", "web/POD", "web/app", "web/proxy", "web/side"})
			if c.find(engine, "web", "side") != untouched {
				t.Error("a container that ran was replaced")
			}

			for _, name := range []string{"web", "other"} {
				c.delete(name, nil)
				c.until(name, "gone", gone)
			}
			synctest.Wait()
			c.expect(engine)
			if left := c.left(); len(left) > 0 {
				t.Errorf("volumes are left: %v", left)
			}
			select {
			case <-mortal.dead:
				died = true
				<-buried
			default:
			}
		})
	})
	return died
}

// mortal is the life of an agent that dies at a call, which is carried out or not,
// and reaches the engine no more from then on.
type mortal struct {
	carriedOut bool
	dead       chan struct{}

	mu   sync.Mutex // guards left
	left int
}

func (m *mortal) around(ctx context.Context, _, _ string, call func(context.Context) error) error {
	m.mu.Lock()
	m.left--
	left := m.left
	m.mu.Unlock()
	if left > 0 {
		return call(ctx)
	}
	if left == 0 {
		if m.carriedOut {
			_ = call(context.WithoutCancel(ctx)) // nobody hears how it went
		}
		close(m.dead)
	}
	<-ctx.Done()
	return ctx.Err()
}

// Calls that do not return, whatever they are, are the matter of their own pod:
// the node stays Ready, the others are healed, and when the calls return all is
// as it should be.
func TestCallsThatHangAreTheMatterOfTheirPod(t *testing.T) {
	for _, op := range []string{"CreateSandbox", "Create", "Start", "Exec", "Inspect", "Wait", "Stop", "Remove", "List"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, fake.Options{Local: everyImage, ExitLag: 40 * time.Millisecond}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				var well atomic.Value // the uid of the pod that is well; others are stuck
				var hangs atomic.Bool
				returns := make(chan struct{})
				c.start("n1", between{engine, func(ctx context.Context, called, uid string, call func(context.Context) error) error {
					if known := well.Load(); called == op && uid != "" && known != nil && known != uid {
						hangs.Store(true)
						select {
						case <-returns:
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					return call(ctx)
				}})
				c.create(pod("well"))
				well.Store(c.until("well", "ready", running).GetMetadata().GetUid())
				ready := api.GetCondition(c.untilNode("n1", api.ConditionTrue).GetStatus().GetConditions(), api.NodeReady)

				alive := execProbe("true")
				alive.TimeoutSeconds, alive.FailureThreshold = 1, 1
				c.create(pod("stuck", withProbes(nil, alive, nil)))
				time.Sleep(5 * time.Second) // virtual
				// What needs the other calls.
				if id := c.find(engine, "stuck", "app"); id != "" {
					_ = engine.Kill(t.Context(), id, "SIGKILL")
				}
				time.Sleep(5 * time.Second) // virtual
				if op == "Stop" || op == "Remove" || op == "List" {
					c.delete("stuck", nil)
				}
				for n := range int32(12) { // two minutes of it
					healed := time.Now()
					if err := engine.Kill(t.Context(), c.find(engine, "well", "app"), "SIGKILL"); err != nil {
						t.Fatal(err)
					}
					c.until("well", "healed", restarted(n+1))
					if took := time.Since(healed); took > time.Second {
						t.Errorf("the other pod was healed after %s", took)
					}
					time.Sleep(10 * time.Second) // virtual
				}
				now := api.GetCondition(c.untilNode("n1", api.ConditionTrue).GetStatus().GetConditions(), api.NodeReady)
				if !now.GetLastTransitionTime().AsTime().Equal(ready.GetLastTransitionTime().AsTime()) {
					t.Errorf("the node was not Ready all the time: %v, then %v", ready, now)
				}
				if !hangs.Load() {
					t.Errorf("no %s was asked for", op)
				}
				close(returns)
				time.Sleep(10 * time.Minute) // virtual: longer than the longest back-off
				if p := c.get("stuck"); p != nil && p.GetMetadata().GetDeletionTimestamp() == nil {
					c.compareRunning(engine, []string{"stuck/POD", "stuck/app", "well/POD", "well/app"})
					if !running(p) {
						t.Errorf("stuck is %v", p.GetStatus())
					}
					return
				}
				c.until("stuck", "gone", gone)
				c.compareRunning(engine, []string{"well/POD", "well/app"})
			})
		})
	}
}

// between is an engine with something between it and the agent. uid is that of
// the pod that a call concerns; "" where it concerns all.
type between struct {
	*fake.Engine
	around func(ctx context.Context, op, uid string, call func(context.Context) error) error
}

func passed[T any](ctx context.Context, b between, op, uid string, call func(context.Context) (T, error)) (answer T, err error) {
	err = b.around(ctx, op, uid, func(ctx context.Context) (err error) {
		answer, err = call(ctx)
		return err
	})
	return answer, err
}

// of is the pod whose container has the id.
func (b between) of(ctx context.Context, id string) (uid string) {
	c, _ := b.Engine.Inspect(ctx, id)
	return c.Labels[lifecycle.LabelPodUID]
}

func (b between) CreateSandbox(ctx context.Context, s container.Sandbox) (container.Container, error) {
	return passed(ctx, b, "CreateSandbox", s.Labels[lifecycle.LabelPodUID], func(ctx context.Context) (container.Container, error) { return b.Engine.CreateSandbox(ctx, s) })
}

func (b between) Create(ctx context.Context, c container.Config) (string, error) {
	return passed(ctx, b, "Create", c.Labels[lifecycle.LabelPodUID], func(ctx context.Context) (string, error) { return b.Engine.Create(ctx, c) })
}

func (b between) Start(ctx context.Context, id string) (container.Container, error) {
	return passed(ctx, b, "Start", b.of(ctx, id), func(ctx context.Context) (container.Container, error) { return b.Engine.Start(ctx, id) })
}

func (b between) Inspect(ctx context.Context, id string) (container.Container, error) {
	return passed(ctx, b, "Inspect", b.of(ctx, id), func(ctx context.Context) (container.Container, error) { return b.Engine.Inspect(ctx, id) })
}

func (b between) Wait(ctx context.Context, id string) (container.Container, error) {
	return passed(ctx, b, "Wait", b.of(ctx, id), func(ctx context.Context) (container.Container, error) { return b.Engine.Wait(ctx, id) })
}

func (b between) List(ctx context.Context, labels map[string]string) ([]container.Container, error) {
	return passed(ctx, b, "List", labels[lifecycle.LabelPodUID], func(ctx context.Context) ([]container.Container, error) { return b.Engine.List(ctx, labels) })
}

func (b between) Exec(ctx context.Context, id string, o container.ExecOptions) (int, error) {
	return passed(ctx, b, "Exec", b.of(ctx, id), func(ctx context.Context) (int, error) { return b.Engine.Exec(ctx, id, o) })
}

func (b between) Stop(ctx context.Context, id string, grace time.Duration) error {
	return b.around(ctx, "Stop", b.of(ctx, id), func(ctx context.Context) error { return b.Engine.Stop(ctx, id, grace) })
}

func (b between) Kill(ctx context.Context, id, signal string) error {
	return b.around(ctx, "Kill", b.of(ctx, id), func(ctx context.Context) error { return b.Engine.Kill(ctx, id, signal) })
}

func (b between) Remove(ctx context.Context, id string) error {
	return b.around(ctx, "Remove", b.of(ctx, id), func(ctx context.Context) error { return b.Engine.Remove(ctx, id) })
}
