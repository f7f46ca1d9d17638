// Command demo tells Webflix's story on a real cluster in about a minute: three
// replicas run, one is killed and comes back, a spike is met with six, version
// 1.2.0 rolls out, and everything is taken away again.
//
// It drives orchctl as a person would, prints each command before it runs it,
// and watches through the API to measure. Run it with `make demo`, or `make demo
// KEEP=1` to keep the cluster, or `make demo RUNTIME=fake` without Docker.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"orch/examples/webflix"
	"orch/pkg/api"
	"orch/pkg/cli/config"
	"orch/pkg/cli/local"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/docker"
	v1 "orch/proto/v1"
)

const (
	cluster    = "webflix"
	deployment = "recommend-service"
	selector   = "app=" + deployment
)

// story is one telling.
type story struct {
	out     io.Writer
	bin     string
	home    string
	runtime string
	keep    bool
	// pause is how long the reader gets before each chapter.
	pause time.Duration
	step  int
	// more is told after the last chapter.
	more []func(context.Context, *client.Client) error
	// cluster's uid, to look for what is left behind.
	uid string
}

func main() {
	s := &story{out: os.Stdout}
	flag.StringVar(&s.runtime, "runtime", local.Docker, "docker or fake")
	flag.BoolVar(&s.keep, "keep", false, "leave the cluster running at the end")
	flag.DurationVar(&s.pause, "pause", 5*time.Second, "time to read before each chapter")
	flag.StringVar(&s.bin, "bin", "bin", "folder with the three binaries")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.tell(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// tell runs the story from the images to the clean-up. A failure half-way
// cleans up too.
func (s *story) tell(ctx context.Context) (err error) {
	if s.bin, err = filepath.Abs(s.bin); err != nil {
		return err
	}
	if !s.keep {
		// A home of its own, so that the demo changes nothing of the user's.
		if s.home, err = os.MkdirTemp("", "orch-demo-"); err != nil {
			return err
		}
		defer os.RemoveAll(s.home)
	}
	start := time.Now()
	if err := s.images(ctx); err != nil {
		return err
	}
	defer func() {
		if !s.keep || err != nil {
			// Also when the story was interrupted, with a context of its own.
			err = errors.Join(err, s.down(context.WithoutCancel(ctx)))
		}
	}()
	if err := s.up(ctx); err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	for _, chapter := range append([]func(context.Context, *client.Client) error{s.deploy, s.heal, s.scale, s.roll}, s.more...) {
		if err := s.read(ctx); err != nil {
			return err
		}
		if err := chapter(ctx, cl); err != nil {
			return err
		}
	}
	if err := s.read(ctx); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\nThe story took %.0f s, with pauses of %v to read.\n", time.Since(start).Seconds(), s.pause)
	if s.keep {
		s.next()
	}
	return nil
}

// read gives the reader time.
func (s *story) read(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.pause):
		return nil
	}
}

// title begins a chapter.
func (s *story) title(format string, args ...any) {
	s.step++
	fmt.Fprintf(s.out, "\n── %d. %s\n", s.step, fmt.Sprintf(format, args...))
}

// why explains what just happened.
func (s *story) why(format string, args ...any) {
	fmt.Fprintf(s.out, "   → %s\n", fmt.Sprintf(format, args...))
}

// orchctl shows a command and runs it.
func (s *story) orchctl(ctx context.Context, args ...string) error {
	fmt.Fprintf(s.out, "   $ orchctl %s\n", strings.Join(args, " "))
	cmd := s.command(ctx, args...)
	out := &indent{w: s.out}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("orchctl %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (s *story) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "orchctl"), args...)
	cmd.Env = os.Environ()
	if s.home != "" {
		cmd.Env = append(cmd.Env, "ORCH_HOME="+s.home)
	}
	return cmd
}

// indent moves every line a bit to the right.
type indent struct {
	w   io.Writer
	mid bool // in the middle of a line
}

func (i *indent) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if !i.mid {
			line = "   " + line
		}
		i.mid = !strings.HasSuffix(line, "\n")
		if _, err := io.WriteString(i.w, line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (s *story) images(ctx context.Context) error {
	if s.runtime != local.Docker {
		s.title("No images are needed: containers are simulated")
		return nil
	}
	s.title("Images of recommend-service, from this repository's Go code")
	rt, err := docker.New("")
	if err != nil {
		return err
	}
	defer rt.Close()
	if err := webflix.BuildImages(ctx, rt, s.out); err != nil {
		if errors.Is(err, container.ErrUnavailable) {
			return fmt.Errorf("%w: start a Docker engine, or see the story with simulated containers: make demo RUNTIME=fake", err)
		}
		return err
	}
	return nil
}

func (s *story) up(ctx context.Context) error {
	s.title("A cluster of one API server and three node agents")
	if err := s.orchctl(ctx, "up", "--name", cluster, "--nodes", "3", "--runtime", s.runtime); err != nil {
		return err
	}
	return s.orchctl(ctx, "get", "nodes", "-o", "wide")
}

// client connects to the cluster, to watch and to measure.
func (s *story) client() (*client.Client, error) {
	home := s.home
	if home == "" {
		var err error
		if home, err = config.Home(); err != nil {
			return nil, err
		}
	}
	return config.Dial(config.Path(home), cluster)
}

func (s *story) deploy(ctx context.Context, cl *client.Client) error {
	system, err := client.For[*v1.Namespace](cl).Get(ctx, "", api.NamespaceSystem)
	if err != nil {
		return err
	}
	s.uid = system.GetMetadata().GetUid()
	s.title("Three replicas of %s on three nodes", webflix.Image("1.0.1"))
	if err := s.orchctl(ctx, "apply", "-f", "examples/webflix/"); err != nil {
		return err
	}
	if err := s.rollout(ctx); err != nil {
		return err
	}
	if err := s.orchctl(ctx, "get", "pods", "-o", "wide"); err != nil {
		return err
	}
	s.why("The Deployment made a ReplicaSet, that made 3 pods, the scheduler spread them, and each node's agent started a container.")
	return nil
}

func (s *story) rollout(ctx context.Context) error {
	return s.orchctl(ctx, "rollout", "status", "deployment/"+deployment, "--timeout=5m")
}

// heal kills one container from outside, and measures until its replacement
// runs.
func (s *story) heal(ctx context.Context, cl *client.Client) error {
	s.title("One container is killed")
	pods, err := client.For[*v1.Pod](cl).List(ctx, client.ListOptions{Namespace: api.NamespaceDefault, LabelSelector: selector})
	if err != nil {
		return err
	}
	pod := pods.Items[0]
	m, st := pod.GetMetadata(), pod.GetStatus().GetContainerStatuses()[0]
	kill := func(ctx context.Context) error {
		return s.orchctl(ctx, "exec", m.GetName(), "--", "kill", "1")
	}
	if s.runtime == local.Docker {
		kill = func(ctx context.Context) error { return s.dockerKill(ctx, st.GetContainerId()) }
	}

	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	watch := client.WatchOptions{Namespace: m.GetNamespace(), FieldSelector: "metadata.name=" + m.GetName()}
	var killed time.Time
	for e, err := range client.For[*v1.Pod](cl).Watch(ctx, watch) {
		if err != nil {
			return fmt.Errorf("watch the pod heal: %w", err)
		}
		if e.Type == v1.WatchEvent_TYPE_SYNCED {
			killed = time.Now()
			if err := kill(ctx); err != nil {
				return err
			}
			continue
		}
		if killed.IsZero() || e.Object == nil {
			continue
		}
		now := e.Object.GetStatus().GetContainerStatuses()[0]
		running := now.GetState().GetRunning()
		if now.GetRestartCount() <= st.GetRestartCount() || running == nil {
			continue
		}
		s.why("Healed: from the kill to a running replacement took %.2f s, until the API showed it %.2f s.",
			running.GetStartedAt().AsTime().Sub(killed).Seconds(), time.Since(killed).Seconds())
		if err := s.orchctl(ctx, "get", "pods"); err != nil {
			return err
		}
		s.why("The agent saw the process end and started attempt %d in the same pod, with the same address %s.", now.GetRestartCount(), e.Object.GetStatus().GetPodIp())
		return s.orchctl(ctx, "why", "pod/"+m.GetName())
	}
	return fmt.Errorf("pod %s did not heal", m.GetName())
}

// dockerKill is plain `docker kill`; without Docker's command line it asks the
// engine for the same.
func (s *story) dockerKill(ctx context.Context, id string) error {
	_, id, _ = strings.Cut(id, "://")
	fmt.Fprintf(s.out, "   $ docker kill %.12s\n", id)
	if _, err := exec.LookPath("docker"); err == nil {
		out, err := exec.CommandContext(ctx, "docker", "kill", id).CombinedOutput()
		if err != nil {
			return fmt.Errorf("docker kill: %w: %s", err, out)
		}
		return nil
	}
	rt, err := docker.New("")
	if err != nil {
		return err
	}
	defer rt.Close()
	return rt.Kill(ctx, id, "SIGKILL")
}

func (s *story) scale(ctx context.Context, _ *client.Client) error {
	s.title("Friday evening: a spike, met with six replicas")
	if err := s.orchctl(ctx, "scale", "deployment/"+deployment, "--replicas=6"); err != nil {
		return err
	}
	if err := s.rollout(ctx); err != nil {
		return err
	}
	if err := s.orchctl(ctx, "get", "deployments,replicasets"); err != nil {
		return err
	}
	s.why("Only spec.replicas was written. The controller saw 3 where 6 were wanted and made the difference.")
	return nil
}

// roll rolls version 1.2.0 out and proves from the log that the promised number
// of replicas was there at every revision, and that all else was true.
func (s *story) roll(ctx context.Context, cl *client.Client) error {
	s.title("Version 1.2.0 is rolled out")
	deployments := client.For[*v1.Deployment](cl)
	before, err := deployments.Get(ctx, api.NamespaceDefault, deployment)
	if err != nil {
		return err
	}
	if err := s.orchctl(ctx, "set", "image", "deployment/"+deployment, "app="+webflix.Image("1.2.0")); err != nil {
		return err
	}
	if err := s.rollout(ctx); err != nil {
		return err
	}
	// Old pods may still be on their way out, which only the plain list says.
	for _, args := range [][]string{{"get", "pods"}, {"get", "replicasets", "-o", "wide"}} {
		if err := s.orchctl(ctx, args...); err != nil {
			return err
		}
	}
	if err := s.orchctl(ctx, "rollout", "history", "deployment/"+deployment); err != nil {
		return err
	}
	// It fails where a rule or a promise was broken.
	if err := s.orchctl(ctx, "invariants", "--since", fmt.Sprint(before.GetMetadata().GetResourceVersion())); err != nil {
		return err
	}
	s.why("After each write of the rollout 5 of 6 were ready at least, as promised (maxUnavailable 25%%).")
	return nil
}

// down takes the cluster away and looks for anything left behind.
func (s *story) down(ctx context.Context) error {
	s.title("Down, with nothing left behind")
	if err := s.orchctl(ctx, "down", "--name", cluster); err != nil {
		return err
	}
	if s.runtime != local.Docker || s.uid == "" {
		return nil
	}
	rt, err := docker.New("")
	if err != nil {
		return err
	}
	defer rt.Close()
	left, err := rt.List(ctx, map[string]string{local.LabelCluster: s.uid})
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%d containers were left behind", len(left))
	}
	s.why("No container, no network and no process of the cluster is left; only the images %s and %s are, and that of the sandboxes, for the next time.", webflix.Image("1.0.1"), webflix.Image("1.2.0"))
	return nil
}

// next says what to try on a cluster that was kept.
func (s *story) next() {
	kill := "docker kill $(bin/orchctl get pods -o jsonpath='{.items[0].status.containerStatuses[0].containerID}' | cut -d/ -f3)"
	if s.runtime == local.Fake {
		kill = "bin/orchctl exec deployment/recommend-service -- kill 1"
	}
	home := "~/.orch"
	if h := os.Getenv("ORCH_HOME"); h != "" {
		home = h
	}
	fmt.Fprintf(s.out, `
The cluster %[1]q is still running, and the current context. Try:

   bin/orchctl get pods -w                                   # leave it open beside the rest
   %[2]s
   bin/orchctl scale deployment/recommend-service --replicas=12
   bin/orchctl rollout undo deployment/recommend-service
   bin/orchctl logs -f deployment/recommend-service
   bin/orchctl describe deployment recommend-service
   kill -9 $(cut -d' ' -f1 %[4]s/clusters/%[1]s/node-2.pid)   # an agent dies; its containers do not
   bin/orchctl up --name %[1]s --runtime %[3]s                # starts what is missing
   bin/orchctl down --name %[1]s
`, cluster, kill, s.runtime, home)
}
