package agent_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/api"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
	v1 "orch/proto/v1"
)

// ends are the terminations of container app, as "reason code signal".
func ends(p *v1.Pod) (list []string) {
	for _, e := range api.TerminationsOf(p)["app"] {
		list = append(list, fmt.Sprintf("#%d %s %d %d", e.RestartCount, e.Reason, e.ExitCode, e.Signal))
	}
	return list
}

// recorded says that n ends are known, the last with a log.
func recorded(n int) func(*v1.Pod) bool {
	return func(p *v1.Pod) bool {
		list := api.TerminationsOf(p)["app"]
		return len(list) == n && list[n-1].Log != ""
	}
}

func TestTheLastTenEndsOfAContainerAreKnown(t *testing.T) {
	life := 0
	program := func(ctx context.Context, p *fake.Process) int {
		life++
		fmt.Fprintf(p.Stdout, "life %d\nlast words %d\n", life, life)
		return faketest.ExitAfter(time.Minute, 3)(ctx, p)
	}
	bubble(t, fake.Options{Program: program}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web"))
		c.until("web", "restarted often", restarted(13))
		p := c.until("web", "recorded", func(p *v1.Pod) bool {
			list := api.TerminationsOf(p)["app"]
			return list[len(list)-1].RestartCount == 12 && list[len(list)-1].Log != ""
		})
		list := api.TerminationsOf(p)["app"]
		if len(list) != api.KeptTerminations {
			t.Fatalf("%d entries", len(list))
		}
		for i, e := range list {
			if want := fmt.Sprintf("life %d\nlast words %[1]d", i+4); e.ExitCode != 3 || e.Reason != "Error" || e.Log != want || e.FinishedAt.Sub(e.StartedAt) != time.Minute {
				t.Errorf("entry %d is %+v", i, e)
			}
		}
	})
}

func TestRestartsAndTheirReasonsOutliveAgentAndContainers(t *testing.T) {
	program := func(ctx context.Context, p *fake.Process) int {
		fmt.Fprintln(p.Stdout, "hello")
		return faketest.IgnoreSignals(ctx, p)
	}
	bubble(t, fake.Options{Program: program}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		first := c.start("n1", engine)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		p = c.until("web", "recorded", func(p *v1.Pod) bool { return recorded(1)(p) && restarted(1)(p) })
		first.kill()
		// While no agent looks, the container is killed and everything that has
		// ended is pruned.
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"app", "app"} {
			if err := engine.Remove(t.Context(), c.find(engine, "web", name)); err != nil {
				t.Fatal(err)
			}
		}
		c.expect(engine, "web/POD#0 running")
		c.start("n1", engine)
		c.until("web", "healed", restarted(2))
		synctest.Wait()
		want := []string{"#0 Killed 137 9", "#1 ContainerStatusUnknown 137 0"}
		if diff := cmp.Diff(want, ends(c.get("web"))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestAUserNeitherWritesNorLosesTheLedger(t *testing.T) {
	bubble(t, fake.Options{Program: faketest.ExitAfter(time.Minute, 3)}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		made := c.create(pod("web", func(p *v1.Pod) {
			p.Metadata.Annotations = map[string]string{api.AnnotationTerminations: `{"app":[{"containerID":"x"}]}`, "a": "b"}
		}))
		if got := made.GetMetadata().GetAnnotations(); !cmp.Equal(got, map[string]string{"a": "b"}) {
			t.Errorf("created with %v", got)
		}
		p := c.until("web", "restarted", func(p *v1.Pod) bool { return len(ends(p)) == 1 })
		want := ends(p)
		p = api.Clone(p)
		p.Metadata.ResourceVersion = 0
		p.Metadata.Annotations = map[string]string{"a": "c"}
		p, err := c.pods.Update(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, ends(p)); diff != "" || p.GetMetadata().GetAnnotations()["a"] != "c" {
			t.Errorf("after an update of %v (-want +got):\n%s", p.GetMetadata().GetAnnotations(), diff)
		}
	})
}

func TestDockerLedger(t *testing.T) {
	engine := marked{testdocker.Require(t)}
	image := testimage.Build(t, engine.Engine)
	c := newCluster(t)
	c.start("n1", engine)
	every := func(p *v1.Probe) *v1.Probe {
		p.PeriodSeconds, p.FailureThreshold, p.TimeoutSeconds = 1, 1, 60 // long enough for a busy engine
		return p
	}
	c.create(pod("exits", program(image, "-lines", "9", "-exit", "7")))
	c.create(pod("killed", program(image)))
	c.create(pod("hungry", program(image, "-stderr", "I am hungry", "-alloc", "64"), func(p *v1.Pod) {
		p.Spec.Containers[0].Resources = &v1.ResourceRequirements{Limits: map[string]string{"memory": "16Mi"}}
	}))
	// It is found ill only when it listens, which is after it hears signals.
	up := &v1.Probe{TcpSocket: &v1.TCPSocketAction{Port: api.ParseIntOrString("8080")}, PeriodSeconds: 1, FailureThreshold: 100, TimeoutSeconds: 60}
	ill := every(&v1.Probe{Exec: &v1.ExecAction{Command: []string{testimage.Path, "-exit", "1"}}})
	c.create(pod("sick", program(image, "-listen", ":8080"), withProbes(up, ill, nil), func(p *v1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = proto.Int64(60)
	}))

	p := c.until("killed", "ready", running)
	output(t, engine, id(p, "app"), "ready")
	if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]api.Termination{
		"exits":  {Reason: "Error", ExitCode: 7, Log: "line 5\nline 6\nline 7\nline 8\nline 9"},
		"killed": {Reason: "Killed", ExitCode: 137, Signal: 9, Message: "SIGKILL from outside: sent neither by the agent nor for want of memory", Log: "ready"},
		"hungry": {Reason: "OOMKilled", ExitCode: 137, Signal: 9, Log: "I am hungry"},
		"sick":   {Reason: "LivenessFailed", Message: "Liveness probe failed: ", Log: "listening on [::]:8080\nready\nterminated"},
	} {
		// The engine may tell that memory was the cause after it told the end: the
		// entry is then put right.
		p := c.until(name, "recorded as "+want.Reason, func(p *v1.Pod) bool {
			list := api.TerminationsOf(p)["app"]
			return len(list) > 0 && list[0].Log != "" && list[0].Reason == want.Reason
		})
		got := api.TerminationsOf(p)["app"][0]
		want.ContainerID, want.StartedAt, want.FinishedAt = got.ContainerID, got.StartedAt, got.FinishedAt
		if diff := cmp.Diff(want, got); diff != "" || got.FinishedAt.Before(got.StartedAt) {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestDockerLogIsFollowedOverARestart(t *testing.T) {
	engine := marked{testdocker.Require(t)}
	image := testimage.Build(t, engine.Engine)
	c := newCluster(t)
	streams := c.start("n1", engine).streams(t)
	c.create(pod("web", program(image, "-hostname")))
	p := c.until("web", "ready", running)
	output(t, engine, id(p, "app"), "ready")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream, err := streams.Logs(ctx, &v1.LogsRequest{Namespace: "default", Pod: "web", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	var text string
	for killed := false; strings.Count(text, "ready\n") < 2; {
		chunk, err := stream.Recv()
		if err != nil {
			t.Fatalf("%q, %v", text, err)
		}
		if text += string(chunk.GetData()); !killed && strings.Contains(text, "ready\n") {
			killed = true
			if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if text != "web\nready\nweb\nready\n" {
		t.Errorf("followed %q", text)
	}
}
