package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"orch/internal/testimage"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container/docker"
	v1 "orch/proto/v1"
)

const (
	// An engine keeps at most 30 MB of a container's log (Orch's setting), so
	// that what is read beside it is less; what is followed can be more.
	logBytes    = 24 << 20
	followBytes = 1 << 30
)

// streamed is a cluster with one pod of the test image, which has these
// arguments, and the id of its container.
func (b *bench) streamed(ctx context.Context, args string, until func(*v1.Pod) bool) (c *cluster, id string, down func(), err error) {
	rt, err := docker.New("")
	if err != nil {
		return nil, "", nil, err
	}
	image := fmt.Sprintf("orch-bench-stream:%d", time.Now().UnixNano())
	if err := testimage.Import(ctx, rt, image); err != nil {
		rt.Close()
		return nil, "", nil, err
	}
	down = func() {
		if c != nil {
			c.down(ctx)
		}
		_ = rt.RemoveImage(context.WithoutCancel(ctx), image)
		rt.Close()
	}
	if c, err = b.up(ctx); err != nil {
		down()
		return nil, "", nil, err
	}
	if id, err = c.pod(ctx, "streamed", image, args, until); err != nil {
		down()
	}
	return c, id, down, err
}

// pod runs a pod of one container until it is as wanted, and returns the
// container's id.
func (c *cluster) pod(ctx context.Context, name, image, args string, until func(*v1.Pod) bool) (string, error) {
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: %q, imagePullPolicy: Never, args: [%s]}]
`, name, image, args)
	if err := c.orchctl(ctx, manifest, "apply", "-f", "-"); err != nil {
		return "", err
	}
	for e, err := range client.For[*v1.Pod](c.client).Watch(ctx, client.WatchOptions{Namespace: api.NamespaceDefault, FieldSelector: "metadata.name=" + name}) {
		if err != nil {
			return "", err
		}
		if e.Object != nil && until(e.Object) {
			return e.Object.GetStatus().GetContainerStatuses()[0].GetContainerId()[len("docker://"):], nil
		}
	}
	return "", ctx.Err()
}

// command runs a program and returns how long it took and how much it printed.
func (c *cluster) command(ctx context.Context, name string, args ...string) (time.Duration, int64, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(cmd.Environ(), "ORCH_HOME="+c.home)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	n, err := io.Copy(io.Discard, out)
	if err != nil {
		return 0, 0, err
	}
	if err := cmd.Wait(); err != nil {
		return 0, 0, fmt.Errorf("%s %v: %w", name, args, err)
	}
	return time.Since(begin), n, nil
}

// exec measures a command that does nothing, from the start of orchctl to its
// end, beside the docker command.
func (b *bench) exec(ctx context.Context) error {
	c, id, down, err := b.streamed(ctx, "", api.IsPodReady)
	if err != nil {
		return err
	}
	defer down()
	var orch, peer []time.Duration
	for range 5 * b.rounds { // each takes a fraction of a second, and they scatter
		took, _, err := c.command(ctx, filepath.Join(c.bin, "orchctl"), "exec", "streamed", "--", testimage.Path, "-exit", "0")
		if err != nil {
			return err
		}
		orch = append(orch, took)
		if took, _, err = c.command(ctx, "docker", "exec", id, testimage.Path, "-exit", "0"); err != nil {
			return err
		}
		peer = append(peer, took)
	}
	b.atMost("exec: a command that does nothing", median(orch), "docker exec", median(peer), 1.3)
	return nil
}

// logs measures how fast a log of short lines is read, beside the docker
// command, and how much memory it takes to follow a gigabyte without a line's
// end.
func (b *bench) logs(ctx context.Context) error {
	c, id, down, err := b.streamed(ctx, fmt.Sprintf(`"-bytes=%d", "-exit=0"`, logBytes), api.IsPodTerminal)
	if err != nil {
		return err
	}
	defer down()
	orchctl := filepath.Join(c.bin, "orchctl")
	var orch, peer []float64
	for range b.rounds {
		took, n, err := c.command(ctx, orchctl, "logs", "streamed")
		if err != nil {
			return err
		}
		orch = append(orch, float64(n)/1e6/took.Seconds())
		took, m, err := c.command(ctx, "docker", "logs", id)
		if err != nil {
			return err
		}
		if n != m {
			return fmt.Errorf("orchctl printed %d bytes of log, docker %d", n, m)
		}
		peer = append(peer, float64(m)/1e6/took.Seconds())
	}
	b.atLeast("logs: MB of lines of 100 bytes", median(orch), "docker logs", median(peer), 0.8)
	return b.follow(ctx, c)
}

// follow reads a gigabyte that comes as one line, and looks at the memory of
// those through whom it goes. The bytes are not compared: an engine that rotates
// a log while it is followed repeats some of it, and skips files when the reader
// is slower than the writer, as under docker logs.
func (b *bench) follow(ctx context.Context, c *cluster) error {
	streamed, err := client.For[*v1.Pod](c.client).Get(ctx, api.NamespaceDefault, "streamed")
	if err != nil {
		return err
	}
	pids, err := c.pids()
	if err != nil {
		return err
	}
	before := map[string]float64{}
	for name, pid := range pids {
		if before[name], err = memory(pid, "VmRSS"); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "       following a gigabyte ...")
	begun := func(p *v1.Pod) bool { return p.GetStatus().GetPhase() != api.PodPending }
	image := streamed.GetSpec().GetContainers()[0].GetImage()
	if _, err := c.pod(ctx, "endless", image, fmt.Sprintf(`"-bytes=%d", "-width=0", "-exit=0"`, followBytes), begun); err != nil {
		return err
	}
	if _, n, err := c.command(ctx, filepath.Join(c.bin, "orchctl"), "logs", "-f", "endless"); err != nil {
		return err
	} else if n < followBytes/8 {
		return fmt.Errorf("%d bytes of the log of %d came", n, followBytes)
	}
	grown := map[bool]float64{} // the API server, or the agent that grew most
	for name, pid := range pids {
		peak, err := memory(pid, "VmHWM")
		if err != nil {
			return err
		}
		grown[name == "apiserver"] = max(grown[name == "apiserver"], peak-before[name])
	}
	b.under("logs -f: 1 GB in one line, API server grows", "MB", grown[true], 32)
	b.under("logs -f: 1 GB in one line, an agent grows", "MB", grown[false], 32)
	return nil
}
