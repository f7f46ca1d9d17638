package agent_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container/fake"
	v1 "orch/proto/v1"
)

func execProbe(command ...string) *v1.Probe {
	return &v1.Probe{Exec: &v1.ExecAction{Command: command}, PeriodSeconds: 10, FailureThreshold: 3}
}

func httpProbe(path string) *v1.Probe {
	return &v1.Probe{HttpGet: &v1.HTTPGetAction{Path: path, Port: api.ParseIntOrString("8080")}, PeriodSeconds: 10}
}

func withProbes(startup, liveness, readiness *v1.Probe) func(*v1.Pod) {
	return func(p *v1.Pod) {
		c := p.Spec.Containers[0]
		c.StartupProbe, c.LivenessProbe, c.ReadinessProbe = startup, liveness, readiness
	}
}

// wellness is a command "well" and an HTTP server that answer as a test wants.
type wellness struct{ sick atomic.Bool }

func (w *wellness) options() fake.Options {
	return fake.Options{
		Command: func(ctx context.Context, p *fake.Process, command []string) (int, bool) {
			if command[0] == "hang" {
				<-ctx.Done()
			}
			if command[0] != "well" {
				return 0, false
			}
			if w.sick.Load() {
				_, _ = p.Stderr.Write([]byte("not well\n"))
				return 1, true
			}
			return 0, true
		},
		HTTP: func(rw http.ResponseWriter, _ *http.Request) {
			if w.sick.Load() {
				rw.WriteHeader(http.StatusServiceUnavailable)
			}
		},
	}
}

// awaitEvent waits until there is an event with this reason and message.
func (c *cluster) awaitEvent(reason, message string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), c.patience)
	defer cancel()
	for e, err := range client.For[*v1.Event](c.client).Watch(ctx, client.WatchOptions{Namespace: "default", Wait: true}) {
		if err != nil {
			c.t.Fatalf("waiting for event %s %q: %v", reason, message, err)
		}
		if e.Object.GetReason() == reason && strings.Contains(e.Object.GetMessage(), message) {
			return
		}
	}
}

func TestReadinessFollowsItsProbe(t *testing.T) {
	for name, readiness := range map[string]*v1.Probe{
		"exec": execProbe("well"), "httpGet": httpProbe("/healthz"),
	} {
		t.Run(name, func(t *testing.T) {
			var w wellness
			w.sick.Store(true)
			bubble(t, w.options(), func(t *testing.T, c *cluster, engine *fake.Engine) {
				first := c.start("n1", engine)
				c.create(pod("web", withProbes(nil, nil, readiness)))
				c.awaitEvent("Unhealthy", "Readiness probe failed: ")
				p := c.until("web", "running", restarted(0))
				if s := status(p, "app"); s.GetReady() || !s.GetStarted() || api.IsPodReady(p) {
					t.Errorf("status %v, want started and not ready", s)
				}
				w.sick.Store(false)
				c.until("web", "ready", running)

				// Another agent takes over: the pod does not become unready.
				first.kill()
				c.start("n1", engine)
				before := c.get("web")
				time.Sleep(time.Minute) // virtual
				synctest.Wait()
				if after := c.get("web"); !proto.Equal(api.GetCondition(before.GetStatus().GetConditions(), api.PodReady), api.GetCondition(after.GetStatus().GetConditions(), api.PodReady)) {
					t.Errorf("with another agent, %v became %v", before.GetStatus(), after.GetStatus())
				}
				w.sick.Store(true)
				c.until("web", "not ready", func(p *v1.Pod) bool { return !running(p) })
				if s := status(c.get("web"), "app"); s.GetRestartCount() != 0 {
					t.Errorf("a readiness probe restarted the container: %v", s)
				}
			})
		})
	}
}

func TestWhatAnAgentCannotWriteItSaysWhenAsked(t *testing.T) {
	var w wellness
	bubble(t, w.options(), func(t *testing.T, c *cluster, engine *fake.Engine) {
		n := c.start("n1", engine)
		ready := func() (all []string) {
			t.Helper()
			answer, err := n.Containers(t.Context(), &v1.ContainersRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range answer.GetContainers() {
				if x.Ready != nil {
					all = append(all, fmt.Sprint(x.GetContainer(), " ", x.GetReady()))
				}
			}
			return all
		}
		c.create(pod("web", withProbes(nil, nil, execProbe("well"))))
		c.until("web", "ready", running)
		if got := ready(); !slices.Equal(got, []string{"app true"}) {
			t.Errorf("of a pod that is ready the agent says %q", got)
		}
		c.stop()
		w.sick.Store(true)
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		if got := ready(); !slices.Equal(got, []string{"app false"}) {
			t.Errorf("while it cannot write it, the agent says %q", got)
		}
	})
}

func TestLivenessRestartsAndSaysWhy(t *testing.T) {
	for name, test := range map[string]struct {
		probe  *v1.Probe
		answer string
	}{
		"exec":                 {execProbe("well"), "Liveness probe failed: not well"},
		"httpGet":              {httpProbe("/"), "Liveness probe failed: HTTP probe failed with statuscode: 503"},
		"a command that hangs": {execProbe("hang"), `Liveness probe failed: command "hang" timed out`},
	} {
		t.Run(name, func(t *testing.T) {
			var w wellness
			bubble(t, w.options(), func(t *testing.T, c *cluster, engine *fake.Engine) {
				first := c.start("n1", engine)
				c.create(pod("web", withProbes(nil, test.probe, nil)))
				c.until("web", "ready", running)
				w.sick.Store(true)
				p := c.until("web", "restarted", restarted(1))
				w.sick.Store(false)
				if last := status(p, "app").GetLastState().GetTerminated(); last.GetMessage() != test.answer {
					t.Errorf("last state %v, want the message %q", last, test.answer)
				}
				c.awaitEvent("Unhealthy", test.answer)
				c.awaitEvent("Killing", "Container app failed liveness probe, will be restarted")
				// What was learnt outlives the agent that learnt it.
				first.kill()
				c.start("n1", engine)
				time.Sleep(5 * time.Second) // virtual
				synctest.Wait()
				if last := status(c.get("web"), "app").GetLastState().GetTerminated(); last.GetMessage() != test.answer {
					t.Errorf("with another agent, last state %v", last)
				}
			})
		})
	}
}

func TestLivenessEndsAPodThatIsNeverRestarted(t *testing.T) {
	var w wellness
	bubble(t, w.options(), func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		w.sick.Store(true)
		c.create(pod("job", withPolicy("Never"), withProbes(nil, execProbe("well"), nil)))
		c.until("job", "ended", api.IsPodTerminal)
		c.awaitEvent("Killing", "Container app failed liveness probe")
	})
}

func TestStartupProbeHoldsTheOthersBack(t *testing.T) {
	var w wellness
	bubble(t, w.options(), func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		w.sick.Store(true)
		began := time.Now()
		startup := execProbe("well")
		startup.FailureThreshold = 30
		c.create(pod("web", withProbes(startup, httpProbe("/"), nil)))
		c.awaitEvent("Unhealthy", "Startup probe failed: not well")
		time.Sleep(2 * time.Minute) // virtual: liveness alone would have ended it by now
		p := c.get("web")
		if s := status(p, "app"); s.GetStarted() || s.GetReady() || s.GetRestartCount() != 0 {
			t.Errorf("status %v, want neither started nor restarted", s)
		}
		w.sick.Store(false)
		c.until("web", "ready", running)

		w.sick.Store(true)
		c.until("web", "restarted", restarted(1))
		if took := time.Since(began); took > 4*time.Minute {
			t.Errorf("liveness took %s", took)
		}
	})
}

func TestStartupProbeThatFailsRestarts(t *testing.T) {
	var w wellness
	bubble(t, w.options(), func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		w.sick.Store(true)
		c.create(pod("web", withProbes(execProbe("well"), nil, nil)))
		c.until("web", "restarted", restarted(1))
		c.awaitEvent("Killing", "Container app failed startup probe, will be restarted")
	})
}

func TestOtherWaysToAsk(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		tcp := &v1.Probe{TcpSocket: &v1.TCPSocketAction{Port: api.ParseIntOrString("web")}}
		c.create(pod("tcp", withProbes(nil, nil, tcp), func(p *v1.Pod) {
			p.Spec.Containers[0].Ports = []*v1.ContainerPort{{Name: "web", ContainerPort: 80}}
		}))
		c.create(pod("grpc", withProbes(nil, nil, &v1.Probe{Grpc: &v1.GRPCAction{Port: 9000}})))
		c.until("tcp", "ready", running)
		c.until("grpc", "ready", running)
		c.create(pod("nowhere", withProbes(nil, nil, tcp)))
		c.awaitEvent("Unhealthy", "Readiness probe errored and resulted in unknown state: port web not found")
	})
}
