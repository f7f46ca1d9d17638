package agent_test

import (
	"context"
	"encoding/binary"
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
		t.Skipf("the agent cannot do %s here: it is not root, or tc, iptables, netem or the control groups are not there", typ)
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
		untilTrue(t, "the pod reaches itself", func() bool { return c.reaches(r, "web", "localhost") })
		c.heal("cut")
		c.untilInjection("cut", api.ChaosHealed)
		untilTrue(t, "it answers", func() bool { return answers(p) })
	})

	t.Run("pods that are cut off from each other, until the API server is away, on network "+name, func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", r)
		c.needs(t, api.FaultNetworkCut)
		web, db, other := ready(c, "web"), ready(c, "db"), ready(c, "other")
		untilTrue(t, "they reach each other", func() bool {
			return c.reaches(r, "web", db.GetStatus().GetPodIp()) && c.reaches(r, "web", other.GetStatus().GetPodIp())
		})
		c.inject("cut", &v1.ChaosFault{Type: api.FaultNetworkCut}, web, time.Hour, db.GetStatus().GetPodIp())
		c.untilInjection("cut", api.ChaosInjected)
		if c.reaches(r, "web", db.GetStatus().GetPodIp()) {
			t.Error("it reaches db")
		}
		untilTrue(t, "it reaches other", func() bool { return c.reaches(r, "web", other.GetStatus().GetPodIp()) })
		c.stop()
		untilTrue(t, "it is healed", func() bool { return c.reaches(r, "web", db.GetStatus().GetPodIp()) })
	})

	// A ping and its answer have to come through: 0.7 × 0.7 = 0.49 of 2,000. By
	// Hoeffding's inequality the share that does is off by 0.075 or more with a
	// probability of at most 2·exp(-2·2000·0.075²) = 3.4e-10. A loss of 20% or 40%
	// would mean 0.64 or 0.36.
	t.Run("of packets lost by chance as many are lost as were asked for, on network "+name, func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", r)
		c.needs(t, api.FaultNetworkLoss)
		p := ready(c, "web")
		untilTrue(t, "it answers", func() bool { return answers(p) })
		c.inject("loss", &v1.ChaosFault{Type: api.FaultNetworkLoss, Percent: 30}, p, time.Hour)
		c.untilInjection("loss", api.ChaosInjected)
		if n := echoes(t, p.GetStatus().GetPodIp(), 2000); n <= 2000*(49-7.5)/100 || n >= 2000*(49+7.5)/100 {
			t.Errorf("%d of 2000 pings were answered, want about 980", n)
		}
		c.heal("loss")
		c.untilInjection("loss", api.ChaosHealed)
		if n := echoes(t, p.GetStatus().GetPodIp(), 50); n != 50 {
			t.Errorf("%d of 50 pings were answered when it was healed", n)
		}
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

	t.Run("what a pod sends comes later, until it is healed, on network "+name, func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", r)
		c.needs(t, api.FaultNetworkDelay)
		p := ready(c, "web")
		untilTrue(t, "it answers", func() bool { return answers(p) })
		const delay = 300 * time.Millisecond
		c.inject("delay", &v1.ChaosFault{Type: api.FaultNetworkDelay, DelayMilliseconds: int32(delay.Milliseconds())}, p, time.Hour)
		c.untilInjection("delay", api.ChaosInjected)
		for range 10 {
			began := time.Now()
			conn, err := net.DialTimeout("tcp", net.JoinHostPort(p.GetStatus().GetPodIp(), "8080"), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if took := time.Since(began); took < delay {
				t.Errorf("the pod accepted a connection after %s, before the delay of %s", took, delay)
			}
		}
		c.heal("delay")
		c.untilInjection("delay", api.ChaosHealed)
		c.inject("more", &v1.ChaosFault{Type: api.FaultNetworkDelay, DelayMilliseconds: 60_000}, p, time.Hour)
		c.untilInjection("more", api.ChaosInjected)
		if answers(p) {
			t.Error("it answers within a second")
		}
		c.heal("more")
		c.untilInjection("more", api.ChaosHealed)
		untilTrue(t, "it answers", func() bool { return answers(p) })
	})

	t.Run("what a pod sends to some comes later, until the next agent heals it, on network "+name, func(t *testing.T) {
		c := newCluster(t)
		crashed := make(chan struct{})
		c.crash = func(time.Duration) error { close(crashed); return nil }
		first := c.start("n1", r)
		c.needs(t, api.FaultNetworkDelay)
		web, db, other := ready(c, "web"), ready(c, "db"), ready(c, "other")
		untilTrue(t, "they reach each other", func() bool {
			return c.reaches(r, "web", db.GetStatus().GetPodIp()) && c.reaches(r, "web", other.GetStatus().GetPodIp())
		})
		c.inject("delay", &v1.ChaosFault{Type: api.FaultNetworkDelay, DelayMilliseconds: 60_000}, web, time.Hour, db.GetStatus().GetPodIp())
		c.untilInjection("delay", api.ChaosInjected)
		if c.reaches(r, "web", db.GetStatus().GetPodIp()) {
			t.Error("it reaches db in time")
		}
		untilTrue(t, "it reaches other", func() bool { return c.reaches(r, "web", other.GetStatus().GetPodIp()) })
		c.inject("second", &v1.ChaosFault{Type: api.FaultNetworkDelay, DelayMilliseconds: 1}, web, time.Hour)
		if got := c.untilInjection("second", api.ChaosFailed).GetStatus().GetMessage(); got == "" {
			t.Error("a second delay of the pod was refused without a reason")
		}
		if c.reaches(r, "web", db.GetStatus().GetPodIp()) {
			t.Error("the second delay healed the first")
		}
		c.inject("crash", &v1.ChaosFault{Type: api.FaultCrashAgent}, nil, time.Hour)
		<-crashed
		first.kill()
		c.heal("delay")
		c.start("n1", r)
		c.untilInjection("delay", api.ChaosHealed)
		untilTrue(t, "they reach each other", func() bool { return c.reaches(r, "web", db.GetStatus().GetPodIp()) })
	})
}

// echoes is how many of n pings to an address are answered.
func echoes(t *testing.T, address string, n int) int {
	t.Helper()
	conn, err := net.ListenIP("ip4:icmp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const id = 0x6f72
	to, answered, b := &net.IPAddr{IP: net.ParseIP(address)}, map[uint16]bool{}, make([]byte, 1500)
	// read takes answers until that of a ping has come, or none comes any more.
	read := func(seq uint16, patience time.Duration) {
		for {
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			size, from, err := conn.ReadFromIP(b)
			if err != nil {
				return
			}
			if size >= 8 && b[0] == 0 && from.IP.Equal(to.IP) && binary.BigEndian.Uint16(b[4:]) == id {
				got := binary.BigEndian.Uint16(b[6:])
				if answered[got] = true; got == seq {
					return
				}
			}
		}
	}
	for seq := range uint16(n) {
		ping := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16([]byte{8, 0, 0, 0}, id), seq)
		sum := uint32(0x0800) + id + uint32(seq)
		binary.BigEndian.PutUint16(ping[2:], ^uint16(sum+sum>>16))
		if _, err := conn.WriteTo(ping, to); err != nil {
			t.Fatal(err)
		}
		read(seq, 2*time.Millisecond)
	}
	read(uint16(n), 2*time.Second) // those that come late
	return len(answered)
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

// reaches says whether a pod's container reaches a host in time.
func (c *cluster) reaches(r container.Runtime, pod, host string) bool {
	c.t.Helper()
	code, err := c.ask(r, pod, host)
	if err != nil {
		c.t.Fatal(err)
	}
	return code == 0
}
