package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"orch/examples/webflix"
	"orch/pkg/api"
	"orch/pkg/cli/config"
	"orch/pkg/client"
	"orch/pkg/container/docker"
	v1 "orch/proto/v1"
)

// cluster is a real one, made by orchctl up from the built binaries.
type cluster struct {
	bin, home string
	client    *client.Client
}

const clusterName = "bench"

// up starts a cluster of three agents with the images of the example, and with
// further flags of orchctl up.
func (b *bench) up(ctx context.Context, flags ...string) (*cluster, error) {
	rt, err := docker.New("")
	if err != nil {
		return nil, err
	}
	defer rt.Close()
	if _, err := rt.Image(ctx, webflix.Image(webflix.Versions[0])); err != nil {
		if err := webflix.BuildImages(ctx, rt, os.Stderr); err != nil {
			return nil, err
		}
	}
	home, err := os.MkdirTemp("", "orch-bench-")
	if err != nil {
		return nil, err
	}
	c := &cluster{bin: b.bin, home: home}
	flags = append([]string{"up", "--name", clusterName, "--nodes", "3", "--node-cpu", "16", "--node-memory", "16Gi", "--log-level", "warn"}, flags...)
	if err := c.orchctl(ctx, "", flags...); err != nil {
		c.down(ctx)
		return nil, err
	}
	if c.client, err = config.Dial(config.Path(home), clusterName); err != nil {
		c.down(ctx)
		return nil, err
	}
	return c, nil
}

func (c *cluster) down(ctx context.Context) {
	if c.client != nil {
		c.client.Close()
	}
	if err := c.orchctl(context.WithoutCancel(ctx), "", "down", "--name", clusterName); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.RemoveAll(c.home)
}

func (c *cluster) orchctl(ctx context.Context, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "orchctl"), args...)
	cmd.Env = append(os.Environ(), "ORCH_HOME="+c.home)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("orchctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// deployment is a manifest with n replicas of the example's service.
func deployment(name string, n int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: app, image: "%[3]s"}]
`, name, n, webflix.Image(webflix.Versions[0]))
}

// running applies a deployment of n replicas, and returns its pods once all are
// Ready, and how long that took.
func (c *cluster) running(ctx context.Context, name string, n int) ([]*v1.Pod, time.Duration, error) {
	begin := time.Now()
	if err := c.orchctl(ctx, deployment(name, n), "apply", "-f", "-"); err != nil {
		return nil, 0, err
	}
	pods, err := readyPods(ctx, c.client, "app="+name, "", n)
	return pods, time.Since(begin), err
}

// readyPods waits until n pods with these labels are ready that stay, none of them
// on the node but.
func readyPods(ctx context.Context, c *client.Client, labels, but string, n int) ([]*v1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	ready := map[string]*v1.Pod{}
	for e, err := range client.For[*v1.Pod](c).Watch(ctx, client.WatchOptions{Namespace: api.NamespaceDefault, LabelSelector: labels}) {
		if err != nil {
			return nil, err
		}
		if p := e.Object; p != nil {
			delete(ready, p.GetMetadata().GetUid())
			if e.Type != v1.WatchEvent_TYPE_DELETED && api.IsPodReady(p) && api.IsPodActive(p) && p.GetSpec().GetNodeName() != but {
				ready[p.GetMetadata().GetUid()] = p
			}
		}
		if len(ready) == n && e.Type != v1.WatchEvent_TYPE_ADDED { // of the list all has to be known
			return slices.Collect(maps.Values(ready)), nil
		}
	}
	return nil, fmt.Errorf("%d pods are not ready: %w", n, ctx.Err())
}

// remove deletes a deployment and waits until its pods are gone.
func (c *cluster) remove(ctx context.Context, name string) error {
	if err := c.orchctl(ctx, "", "delete", "deployment", name, "--cascade=foreground"); err != nil {
		return err
	}
	return c.orchctl(ctx, "", "wait", "--for=delete", "pod", "-l", "app="+name, "--timeout=2m")
}

// pids are the cluster's processes by the names of their pid files.
func (c *cluster) pids() (map[string]int, error) {
	files, err := filepath.Glob(filepath.Join(c.home, "clusters", clusterName, "*.pid"))
	if err != nil {
		return nil, err
	}
	pids := map[string]int{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		first, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte(" "))
		pid, err := strconv.Atoi(string(first))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		pids[strings.TrimSuffix(filepath.Base(f), ".pid")] = pid
	}
	return pids, nil
}
