package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"orch/pkg/container"
)

// Stats reads the container's control groups where this process can see them,
// which costs a few small files. Elsewhere the engine is asked, to whom it costs
// some milliseconds.
func (r *Runtime) Stats(ctx context.Context, c container.Container) (container.Stats, error) {
	if s, err := r.cgroupStats(c.ID, c.PID); err == nil {
		return s, nil
	}
	return ask(ctx, r, "stats of container "+c.ID, func(ctx context.Context, cli *client.Client) (s container.Stats, err error) {
		answer, err := cli.ContainerStatsOneShot(ctx, c.ID)
		if err != nil {
			return s, err
		}
		defer answer.Body.Close()
		var told dockercontainer.StatsResponse
		if err := json.NewDecoder(answer.Body).Decode(&told); err != nil {
			return s, fmt.Errorf("decode the engine's answer: %w", err)
		}
		if told.Read.Year() <= 1 { // how the engine says that it has nothing to tell
			return s, container.ErrNotRunning
		}
		inactive, ok := told.MemoryStats.Stats["total_inactive_file"] // cgroup v1
		if !ok {
			inactive = told.MemoryStats.Stats["inactive_file"]
		}
		return container.Stats{
			At: told.Read, CPU: time.Duration(told.CPUStats.CPUUsage.TotalUsage),
			MemoryBytes: max(0, int64(told.MemoryStats.Usage)-int64(inactive)), PIDs: int64(told.PidsStats.Current),
		}, nil
	})
}

// DiskUsage asks the engine to count what the container has written beside its
// image, and adds its log where that can be seen.
func (r *Runtime) DiskUsage(ctx context.Context, id string) (int64, error) {
	return ask(ctx, r, "disk usage of container "+id, func(ctx context.Context, cli *client.Client) (bytes int64, err error) {
		inspected, _, err := cli.ContainerInspectWithRaw(ctx, id, true)
		if err != nil {
			return 0, err
		}
		if inspected.SizeRw != nil {
			bytes = *inspected.SizeRw
		}
		if inspected.LogPath == "" {
			return bytes, nil
		}
		logs, _ := filepath.Glob(inspected.LogPath + "*") // the turned ones too
		for _, log := range logs {
			if info, err := os.Stat(log); err == nil {
				bytes += info.Size()
			}
		}
		return bytes, nil
	})
}

// Machine looks at this machine, if the engine's data is on it: a remote engine,
// or one in a virtual machine of its own (Docker Desktop), tells nothing of the
// kind.
func (r *Runtime) Machine(ctx context.Context) (container.Machine, error) {
	m := container.Machine{At: time.Now()}
	if !strings.HasPrefix(r.Host(), "unix://") {
		return m, nil
	}
	root := r.root.Load()
	if root == nil {
		var err error
		root, err = ask(ctx, r, "engine info", func(ctx context.Context, cli *client.Client) (*string, error) {
			i, err := cli.Info(ctx)
			return &i.DockerRootDir, err
		})
		if err != nil {
			return m, err
		}
		r.root.Store(root)
	}
	if _, err := os.Stat(*root); err != nil {
		return m, nil
	}
	lookAround(&m, *root)
	return m, nil
}
