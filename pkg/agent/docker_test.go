package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/container"
	"orch/pkg/network"
	"orch/pkg/network/native"
	v1 "orch/proto/v1"
)

// marked puts the label of the test's run on all that the agent makes. An agent
// that ends waits for what it has begun to make: the engine would make it all the
// same, after the test has cleaned up.
type marked struct{ *testdocker.Engine }

func (m marked) CreateSandbox(ctx context.Context, s container.Sandbox) (container.Container, error) {
	s.Labels = m.Labels(s.Labels)
	return m.Engine.CreateSandbox(context.WithoutCancel(ctx), s)
}

func (m marked) Create(ctx context.Context, c container.Config) (string, error) {
	c.Labels = m.Labels(c.Labels)
	return m.Engine.Create(context.WithoutCancel(ctx), c)
}

// program makes the test image's program of a container.
func program(image string, args ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = proto.Int64(2)
		for _, c := range p.Spec.Containers {
			c.Image, c.Args, c.ImagePullPolicy = image, args, api.PullNever
		}
	}
}

// output is what a container has printed, once it holds want.
func output(t *testing.T, r container.Runtime, id, want string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	seen := &until{want: want, cancel: cancel}
	err := r.Logs(ctx, id, container.LogOptions{Follow: true, Tail: -1}, seen, seen)
	if !strings.Contains(seen.String(), want) {
		t.Fatalf("the log has no %q: %q, %v", want, seen.String(), err)
	}
	return seen.String()
}

// until ends the reading when the text has come.
type until struct {
	bytes.Buffer
	want   string
	cancel func()
}

func (u *until) Write(b []byte) (int, error) {
	n, err := u.Buffer.Write(b)
	if strings.Contains(u.String(), u.want) {
		u.cancel()
	}
	return n, err
}

func TestDocker(t *testing.T) {
	t.Parallel()
	engine := marked{testdocker.Require(t)}
	image := testimage.Build(t, engine.Engine)
	testNetwork(t, engine, image, func(*cluster) container.Runtime { return engine })

	t.Run("a terminal is attached to, and follows the size of the client's", func(t *testing.T) {
		c := newCluster(t)
		streams := c.start("n1", engine).streams(t)
		c.create(pod("shell", program(image, "-tty"), func(p *v1.Pod) {
			p.Spec.Containers[0].Stdin, p.Spec.Containers[0].Tty = true, true
		}))
		output(t, engine, id(c.until("shell", "ready", running), "app"), "ready")
		ctx, leave := context.WithTimeout(t.Context(), 3*time.Minute)
		defer leave()
		stream, err := streams.Attach(ctx)
		if err != nil {
			t.Fatal(err)
		}
		send := func(in *v1.ExecInput) {
			t.Helper()
			if err := stream.Send(in); err != nil {
				t.Fatal(err)
			}
		}
		send(&v1.ExecInput{Input: &v1.ExecInput_Request{Request: &v1.ExecRequest{Namespace: "default", Pod: "shell", Stdin: true, Tty: true}}})
		text := ""
		for _, size := range []*v1.TerminalSize{{Width: 80, Height: 25}, {Width: 132, Height: 43}} {
			send(&v1.ExecInput{Input: &v1.ExecInput_Resize{Resize: size}})
			for want := fmt.Sprintf("%dx%d\r\n", size.GetWidth(), size.GetHeight()); !strings.Contains(text, want); {
				m, err := stream.Recv()
				if err != nil {
					t.Fatalf("waiting for %q after %q: %v", want, text, err)
				}
				text += string(m.GetStdout())
			}
		}
		// What is typed is what a terminal makes of it: ^C is a signal.
		send(&v1.ExecInput{Input: &v1.ExecInput_Stdin{Stdin: []byte{3}}})
		rest, _, code, err := drain(stream)
		if !strings.Contains(rest, "terminated") || code != 0 || err != nil {
			t.Errorf("after ^C: %q, code %d, %v", rest, code, err)
		}
	})

	t.Run("a container that uses more memory than its limit is OOMKilled", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", engine)
		c.create(pod("hungry", program(image, "-alloc", "64"), withPolicy("Never"), func(p *v1.Pod) {
			p.Spec.Containers[0].Resources = &v1.ResourceRequirements{Limits: map[string]string{"memory": "16Mi", "cpu": "500m"}}
		}))
		p := c.until("hungry", "ended", api.IsPodTerminal)
		if got := status(p, "app").GetState().GetTerminated(); got.GetReason() != "OOMKilled" || got.GetExitCode() != 137 {
			t.Errorf("ended as %v", got)
		}
	})

	t.Run("a pod that fills its disk limits is evicted, and what its container wrote goes with it", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", engine)
		scratch := &v1.Volume{Name: "scratch", EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: "4Mi"}}
		limited := func(p *v1.Pod) {
			p.Spec.Containers[0].Resources = &v1.ResourceRequirements{Limits: map[string]string{"ephemeral-storage": "4Mi"}}
		}
		c.create(pod("filler", program(image, "-fill", "8"), limited))
		c.create(pod("hoarder", program(image, "-fill", "8", "-into", "/scratch"), withVolume(scratch)))
		// What is in an emptyDir counts for the containers' limits as well.
		c.create(pod("sharer", program(image, "-fill", "8", "-into", "/scratch"), withVolume(&v1.Volume{Name: "scratch"}), limited))
		for name, want := range map[string]string{
			"filler":  "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ",
			"hoarder": `Usage of EmptyDir volume "scratch" exceeds the limit "4Mi". `,
			"sharer":  "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ",
		} {
			p := c.until(name, "ended", api.IsPodTerminal)
			if st := p.GetStatus(); st.GetPhase() != api.PodFailed || st.GetReason() != "Evicted" || st.GetMessage() != want {
				t.Errorf("%s %s: %s", st.GetPhase(), st.GetReason(), st.GetMessage())
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), c.patience)
		defer cancel()
		for len(c.containers(engine)) > 0 { // the status comes before
			if ctx.Err() != nil {
				t.Fatal("its containers are still there")
			}
		}
	})

	t.Run("an image that does not exist says what the engine says", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", engine)
		c.create(pod("bad", withImage("localhost:1/none:1")))
		c.create(pod("good", program(image)))
		c.until("good", "ready", running)
		p := c.until("bad", "waiting", waitingFor("ImagePullBackOff"))
		if m := status(p, "app").GetState().GetWaiting().GetMessage(); !strings.Contains(m, "localhost:1") || !strings.Contains(m, "Error response from daemon") {
			t.Errorf("message %q", m)
		}
	})

	t.Run("a command that does not exist is a container that cannot run", func(t *testing.T) {
		c := newCluster(t)
		streams := c.start("n1", engine).streams(t)
		c.create(pod("bad", program(image), func(p *v1.Pod) { p.Spec.Containers[0].Command = []string{"/nothing"} }))
		p := c.until("bad", "waiting", waitingFor("CrashLoopBackOff"))
		if got := status(p, "app").GetLastState().GetTerminated(); got.GetReason() != "ContainerCannotRun" || !strings.Contains(got.GetMessage(), "/nothing") {
			t.Errorf("last state %v", got)
		}
		if text, err := logs(t.Context(), streams, &v1.LogsRequest{Pod: "bad"}); text != "" || err != nil {
			t.Errorf("its log: %q, %v", text, err)
		}
	})

	t.Run("SIGTERM comes before the end, and SIGKILL to those who stay", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", engine)
		c.create(pod("web", withSidecar(image), program(image), func(p *v1.Pod) { p.Spec.Containers[1].Args = []string{"-ignore-term"} }))
		p := c.until("web", "ready", running)
		for _, name := range []string{"app", "side"} {
			output(t, engine, id(p, name), "ready") // it handles signals now
		}
		c.delete("web", proto.Int64(600))
		// The program ends with 0 when it hears SIGTERM, however long that takes.
		p = c.until("web", "half ended", func(p *v1.Pod) bool { return status(p, "app").GetState().GetTerminated() != nil })
		if code := status(p, "app").GetState().GetTerminated().GetExitCode(); code != 0 || status(p, "side").GetState().GetRunning() == nil {
			t.Errorf("app ended with code %d, side is %v", code, status(p, "side").GetState())
		}
		last := p
		c.delete("web", proto.Int64(1)) // the grace period may become shorter
		c.until("web", "gone", func(p *v1.Pod) bool {
			if p != nil {
				last = p
			}
			return p == nil
		})
		if code := status(last, "side").GetState().GetTerminated().GetExitCode(); code != 137 {
			t.Errorf("side ended with code %d", code)
		}
		c.expect(engine)
	})

	t.Run("an engine that goes away makes the node NotReady, and all is well when it is back", func(t *testing.T) {
		c := newCluster(t)
		through := newProxy(t, engine)
		c.start("n1", through)
		c.create(pod("killed", program(image)))
		c.create(pod("kept", program(image)))
		killed := c.until("killed", "ready", running)
		kept := c.until("kept", "ready", running)
		through.stop()
		c.untilNode("n1", api.ConditionFalse)
		if err := engine.Kill(t.Context(), id(killed, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		through.start()
		c.untilNode("n1", api.ConditionTrue)
		c.until("killed", "healed", func(p *v1.Pod) bool { return restarted(1)(p) && running(p) })
		if id(c.get("kept"), "app") != id(kept, "app") {
			t.Error("a container that ran all the time was restarted")
		}
	})

	t.Run("two clusters live side by side, and orphans are the own ones", func(t *testing.T) {
		mine, other := newCluster(t), newCluster(t)
		n := mine.start("n1", engine)
		other.start("n1", engine)
		mine.create(pod("web", program(image)))
		other.create(pod("web", program(image)))
		mine.until("web", "ready", running)
		stranger := other.until("web", "ready", running)
		n.kill()
		mine.delete("web", proto.Int64(0))
		mine.create(pod("next", program(image)))
		mine.start("n1", engine)
		mine.until("next", "ready", running)
		mine.untilContainers(engine, "next/POD#0 running", "next/app#0 running")
		other.expect(engine, "web/POD#0 running", "web/app#0 running")
		if id(other.get("web"), "app") != id(stranger, "app") {
			t.Error("the other cluster's container was touched")
		}
	})
}

// testNetwork is about what a pod's network is part of, whoever provides it.
func testNetwork(t *testing.T, engine marked, image string, runtime func(*cluster) container.Runtime) {
	t.Run("a container killed with docker kill is healed in the same sandbox", func(t *testing.T) {
		c := newCluster(t)
		n := c.start("n1", runtime(c))
		c.create(pod("web", program(image)))
		before := c.until("web", "ready", running)
		if err := engine.Kill(t.Context(), id(before, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		after := c.until("web", "healed", func(p *v1.Pod) bool {
			return restarted(1)(p) && status(p, "app").GetLastState().GetTerminated().GetExitCode() == 137
		})
		if before.GetStatus().GetPodIp() != after.GetStatus().GetPodIp() {
			t.Errorf("address %s became %s", before.GetStatus().GetPodIp(), after.GetStatus().GetPodIp())
		}

		n.kill()
		c.start("n1", runtime(c))
		// The second pod's readiness says that the new agent has looked at all.
		c.create(pod("other", program(image)))
		c.until("other", "ready", running)
		if got := id(c.get("web"), "app"); got != id(after, "app") {
			t.Error("a restarted agent restarted the container")
		}
		c.expect(engine, "other/POD#0 running", "other/app#0 running", "web/POD#0 running", "web/app#0 exited", "web/app#1 running")

		for _, name := range []string{"web", "other"} {
			c.delete(name, nil)
			c.until(name, "gone", gone)
		}
		c.expect(engine)
	})

	t.Run("containers of a pod share localhost, and its name is theirs", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", runtime(c))
		c.create(pod("web", withSidecar(image), program(image, "-listen", "127.0.0.1:8080", "-reply", "from the neighbour"), func(p *v1.Pod) {
			p.Spec.Containers[1].Args = nil
			p.Spec.Containers[1].Env = []*v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)2"}}
		}))
		p := c.until("web", "ready", running)
		output(t, engine, id(p, "app"), "listening on")
		var text bytes.Buffer
		code, err := engine.Exec(t.Context(), id(p, "side"), container.ExecOptions{
			Command: []string{testimage.Path, "-get", "http://127.0.0.1:8080/", "-hostname", "-env", "-exit", "0"},
			Stdout:  &text, Stderr: &text,
		})
		if code != 0 || err != nil {
			t.Errorf("code %d, %v", code, err)
		}
		for _, want := range []string{"from the neighbour", "web\n", "B=12"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("output %q has no %q", text.String(), want)
			}
		}
	})

	t.Run("probes reach a pod by its address and by exec", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", runtime(c))
		// Long enough for a busy engine: only what the program answers restarts it.
		every := func(p *v1.Probe, threshold int32) *v1.Probe {
			p.PeriodSeconds, p.FailureThreshold, p.TimeoutSeconds = 1, threshold, 60
			return p
		}
		c.create(pod("web", program(image, "-listen", ":8080"), withProbes(
			every(&v1.Probe{Exec: &v1.ExecAction{Command: []string{testimage.Path, "-get", "http://127.0.0.1:8080/", "-exit", "0"}}}, 100),
			every(httpProbe("/healthz"), 2),
			every(&v1.Probe{TcpSocket: &v1.TCPSocketAction{Port: api.ParseIntOrString("8080")}}, 2))))
		p := c.until("web", "ready", running)
		if code, err := engine.Exec(t.Context(), id(p, "app"), container.ExecOptions{
			Command: []string{testimage.Path, "-get", "http://127.0.0.1:8080/healthz?set=500", "-exit", "0"},
		}); code != 0 || err != nil {
			t.Fatalf("code %d, %v", code, err)
		}
		p = c.until("web", "restarted", func(p *v1.Pod) bool {
			return restarted(1)(p) && status(p, "app").GetLastState().GetTerminated().GetMessage() != ""
		})
		if got := status(p, "app").GetLastState().GetTerminated().GetMessage(); got != "Liveness probe failed: HTTP probe failed with statuscode: 500" {
			t.Errorf("message %q", got)
		}
		c.until("web", "ready again", running)
	})

	t.Run("a removed sandbox is replaced and the pod keeps its uid", func(t *testing.T) {
		c := newCluster(t)
		c.start("n1", runtime(c))
		before := c.create(pod("web", program(image)))
		c.until("web", "ready", running)
		if err := engine.Remove(t.Context(), c.find(engine, "web", lifecycle.SandboxSlot)); err != nil {
			t.Fatal(err)
		}
		after := c.until("web", "restarted", func(p *v1.Pod) bool { return restarted(1)(p) && running(p) })
		if before.GetMetadata().GetUid() != after.GetMetadata().GetUid() {
			t.Error("the pod is another one")
		}
	})
}

// The same with pods whose network is not the engine's.
func TestDockerWithTheNativeNetwork(t *testing.T) {
	t.Parallel()
	engine := marked{testdocker.Require(t)}
	if os.Geteuid() != 0 || goruntime.GOOS != "linux" {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root on Linux")
		}
		t.Skip("NEEDS ROOT ON LINUX, so that the native network is not tested")
	}
	subnets := map[string]netip.Prefix{} // by cluster: an agent that is started again has the same
	testNetwork(t, engine, testimage.Build(t, engine.Engine), func(c *cluster) container.Runtime {
		if !subnets[c.id].IsValid() {
			subnets[c.id] = testdocker.Subnet()
		}
		n, err := native.New(native.Options{
			Cluster: c.id, Node: "n1", Mode: native.HostGW, Engine: engine,
			Labels: lifecycle.Owner{Cluster: c.id, Node: "n1"}.Labels(), Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ready, done := make(chan error, 100), make(chan struct{})
		go func() {
			defer close(done)
			_ = n.Run(ctx, func(err error) { ready <- err })
		}()
		c.t.Cleanup(func() {
			cancel()
			<-done
			if err := native.Remove(c.id, "n1"); err != nil {
				c.t.Error(err)
			}
		})
		n.SetPeers([]network.Peer{{Name: "n1", Address: netip.MustParseAddr("127.0.0.1"), Subnet: subnets[c.id]}})
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
		return network.Wrap(engine, n)
	})
}

// untilContainers waits until the cluster's containers are these, looking
// whenever the engine says that something happened.
func (c *cluster) untilContainers(r container.Runtime, want ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), c.patience)
	defer cancel()
	news := make(chan struct{}, 1)
	ready := make(chan struct{})
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		_ = r.Watch(ctx, map[string]string{lifecycle.LabelCluster: c.id}, ready, func(container.Event) {
			select {
			case news <- struct{}{}:
			default:
			}
		})
	}()
	defer func() { cancel(); <-watching }()
	<-ready
	for fmt.Sprint(c.containers(r)) != fmt.Sprint(want) {
		select {
		case <-news:
		case <-ctx.Done():
			c.expect(r, want...)
			return
		}
	}
}
