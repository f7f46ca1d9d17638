package agent_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// needs ends the test where the machine cannot do a fault.
func (c *cluster) needs(t *testing.T, typ string) {
	t.Helper()
	n := c.untilNode("n1", "True")
	if !strings.Contains(n.GetMetadata().GetAnnotations()[api.AnnotationChaosFaults], typ) {
		t.Skipf("the agent cannot do %s here: it is not root, or the kernel lacks something", typ)
	}
}

// untilTrue waits for what has no event.
func untilTrue(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); <-time.After(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to be that %s", what)
		}
	}
}

func TestDockerFaults(t *testing.T) {
	t.Parallel()
	engine := marked{testdocker.Require(t)}
	image := testimage.Build(t, engine.Engine)
	serving := program(image, "-listen", ":8080")
	ready := func(c *cluster, name string, changes ...func(*v1.Pod)) *v1.Pod {
		c.create(pod(name, append([]func(*v1.Pod){serving}, changes...)...))
		return c.until(name, "ready", running)
	}
	answers := func(p *v1.Pod) bool {
		client := http.Client{Timeout: time.Second, Transport: &http.Transport{
			DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, // which outlives its request
		}}
		r, err := client.Get("http://" + net.JoinHostPort(p.GetStatus().GetPodIp(), "8080") + "/healthz") //nolint:noctx // it has a limit
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	}

	t.Run("a paused container hangs, and the next agent heals it", func(t *testing.T) {
		c := newCluster(t)
		crashed := make(chan struct{})
		c.crash = func(time.Duration) error { close(crashed); return nil }
		first := c.start("n1", engine)
		p := ready(c, "web")
		c.inject("pause", &v1.ChaosFault{Type: api.FaultPauseContainer}, p, time.Hour)
		c.untilInjection("pause", api.ChaosInjected)
		if got := c.state(engine, "web", "app"); got != container.StatePaused {
			t.Errorf("container is %s", got)
		}
		if answers(p) {
			t.Error("a paused container answers")
		}
		c.inject("crash", &v1.ChaosFault{Type: api.FaultCrashAgent}, nil, time.Hour)
		<-crashed
		first.kill()
		c.heal("pause")
		c.start("n1", engine)
		c.untilInjection("pause", api.ChaosHealed)
		if got := c.state(engine, "web", "app"); got != container.StateRunning {
			t.Errorf("container is %s", got)
		}
		untilTrue(t, "it answers", func() bool { return answers(p) })
	})

	t.Run("a killed container is started again, once", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", engine)
		c.inject("kill", &v1.ChaosFault{Type: api.FaultKillContainer}, ready(c, "web"), 0)
		c.untilInjection("kill", api.ChaosHealed)
		p := c.until("web", "restarted", restarted(1))
		if ended := status(p, "app").GetLastState().GetTerminated(); ended.GetExitCode() != 137 {
			p = c.until("web", "told of the end", func(p *v1.Pod) bool {
				return status(p, "app").GetLastState().GetTerminated().GetExitCode() == 137
			})
		}
		entry := api.TerminationsOf(p).Find("app", status(p, "app").GetLastState().GetTerminated().GetContainerId())
		if entry == nil || entry.Reason != api.ReasonKilled || entry.Message != "SIGKILL by chaosinjection/kill" {
			t.Errorf("the ledger says %v", entry)
		}
	})

	t.Run("stress uses what the container's limits leave, and ends with its healing", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", engine)
		c.needs(t, api.FaultStressMemory)
		p := ready(c, "web", func(p *v1.Pod) {
			p.Spec.Containers[0].Resources = &v1.ResourceRequirements{Limits: map[string]string{"memory": "128Mi", "cpu": "500m"}}
		})
		used := func() container.Stats {
			found, err := engine.Inspect(t.Context(), c.find(engine, "web", "app"))
			if err != nil {
				t.Fatal(err)
			}
			s, err := engine.Stats(t.Context(), found)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		before := used()
		c.inject("memory", &v1.ChaosFault{Type: api.FaultStressMemory, Percent: 50}, p, time.Hour)
		c.inject("cpu", &v1.ChaosFault{Type: api.FaultStressCPU, Percent: 80}, p, time.Hour)
		c.untilInjection("memory", api.ChaosInjected)
		c.untilInjection("cpu", api.ChaosInjected)
		untilTrue(t, "64 MiB are used", func() bool { return used().MemoryBytes > before.MemoryBytes+48<<20 })
		untilTrue(t, "processor time is used", func() bool { return used().CPU > before.CPU+500*time.Millisecond })
		if restarts := status(c.get("web"), "app").GetRestartCount(); restarts != 0 {
			t.Errorf("the container was restarted %d times", restarts)
		}
		c.heal("memory")
		c.heal("cpu")
		c.untilInjection("memory", api.ChaosHealed)
		c.untilInjection("cpu", api.ChaosHealed)
		untilTrue(t, "the memory is free again", func() bool { return used().MemoryBytes < before.MemoryBytes+32<<20 })
	})

	networkFaults(t, "docker", engine, ready, answers)
}

// networkFaults are those that stand in the pod's own network.
func networkFaults(t *testing.T, name string, r container.Runtime, ready func(*cluster, string, ...func(*v1.Pod)) *v1.Pod, answers func(*v1.Pod) bool) {
	t.Run("a pod that is cut off from everybody on network "+name, func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", r)
		c.needs(t, api.FaultNetworkCut)
		p := ready(c, "web")
		untilTrue(t, "it answers", func() bool { return answers(p) })
		c.inject("cut", &v1.ChaosFault{Type: api.FaultNetworkCut}, p, time.Hour)
		c.untilInjection("cut", api.ChaosInjected)
		if answers(p) {
			t.Error("it answers")
		}
		if code, err := c.ask(r, "web", "localhost"); code != 0 || err != nil {
			t.Errorf("the pod does not reach itself: code %d, %v", code, err)
		}
		c.heal("cut")
		c.untilInjection("cut", api.ChaosHealed)
		untilTrue(t, "it answers", func() bool { return answers(p) })
	})

	t.Run("pods that are cut off from each other, until the API server is away, on network "+name, func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", r)
		c.needs(t, api.FaultNetworkCut)
		web, db, other := ready(c, "web"), ready(c, "db"), ready(c, "other")
		reaches := func(p *v1.Pod) bool {
			code, err := c.ask(r, "web", p.GetStatus().GetPodIp())
			if err != nil {
				t.Fatal(err)
			}
			return code == 0
		}
		untilTrue(t, "they reach each other", func() bool { return reaches(db) && reaches(other) })
		c.inject("cut", &v1.ChaosFault{Type: api.FaultNetworkCut}, web, time.Hour, db.GetStatus().GetPodIp())
		c.untilInjection("cut", api.ChaosInjected)
		if reaches(db) || !reaches(other) {
			t.Errorf("reaches db: %v, other: %v", reaches(db), reaches(other))
		}
		c.stop()
		untilTrue(t, "it is healed", func() bool { return reaches(db) })
	})

	t.Run("all packets lost are as good as a cut, on network "+name, func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", r)
		c.needs(t, api.FaultNetworkLoss)
		p := ready(c, "web")
		untilTrue(t, "it answers", func() bool { return answers(p) })
		c.inject("loss", &v1.ChaosFault{Type: api.FaultNetworkLoss, Percent: 100}, p, time.Hour)
		c.untilInjection("loss", api.ChaosInjected)
		if answers(p) {
			t.Error("it answers")
		}
		c.heal("loss")
		c.untilInjection("loss", api.ChaosHealed)
		untilTrue(t, "it answers", func() bool { return answers(p) })
	})
}

// ask lets a pod's container ask another one's server, and returns its exit code.
func (c *cluster) ask(r container.Runtime, pod, host string) (int, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Second)
	defer cancel()
	code, err := r.Exec(ctx, c.find(r, pod, "app"), container.ExecOptions{
		Command: []string{testimage.Path, "-get", "http://" + net.JoinHostPort(host, "8080") + "/healthz", "-exit", "0"},
	})
	if ctx.Err() != nil && c.t.Context().Err() == nil {
		return 1, nil
	}
	return code, err
}
