package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// join measures how long a machine that has never seen the cluster takes from
// nodeagent --join to a node that is Ready, as others see it.
func (b *bench) join(ctx context.Context) error {
	c, err := b.up(ctx)
	if err != nil {
		return err
	}
	defer c.down(ctx)
	data := filepath.Join(c.home, "clusters", clusterName, "apiserver")
	token, err := exec.CommandContext(ctx, filepath.Join(b.bin, "apiserver"), "token", "create", "--data-dir", data).Output()
	if err != nil {
		return fmt.Errorf("token create: %w", err)
	}
	address, err := os.ReadFile(filepath.Join(data, "address"))
	if err != nil {
		return err
	}
	for _, runtime := range []string{"docker", "fake"} {
		var took []time.Duration
		for i := range b.rounds {
			name := fmt.Sprintf("%s-%d", runtime, i)
			one, err := c.joined(ctx, name, "--node-name", name, "--data-dir", filepath.Join(c.home, name), "--runtime", runtime,
				"--join", strings.TrimSpace(string(address)), "--token", strings.TrimSpace(string(token)), "--log-level", "warn")
			if err != nil {
				return err
			}
			took = append(took, one)
		}
		b.under("join: nodeagent --join → Ready, runtime "+runtime, "s", median(took).Seconds(), 2)
	}
	return nil
}

// joined runs an agent until its node is Ready.
func (c *cluster) joined(ctx context.Context, name string, args ...string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	agent := exec.CommandContext(ctx, filepath.Join(c.bin, "nodeagent"), args...)
	agent.Stderr = os.Stderr
	begin := time.Now()
	if err := agent.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = agent.Process.Signal(syscall.SIGTERM)
		_ = agent.Wait()
	}()
	for e, err := range client.For[*v1.Node](c.client).Watch(ctx, client.WatchOptions{FieldSelector: "metadata.name=" + name}) {
		if err != nil {
			return 0, err
		}
		if e.Object != nil && api.IsNodeReady(e.Object) {
			return time.Since(begin), nil
		}
	}
	return 0, fmt.Errorf("%s is not ready: %w", name, ctx.Err())
}
