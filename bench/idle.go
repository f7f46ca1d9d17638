package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// idlePods is how many pods the idle cluster holds.
const idlePods = 30

// idleFor is how long the cluster is watched doing nothing.
const idleFor = 30 * time.Second

// idle measures what a cluster costs that has nothing to do.
func (b *bench) idle(ctx context.Context) error {
	c, err := b.up(ctx)
	if err != nil {
		return err
	}
	defer c.down(ctx)
	if _, _, err := c.running(ctx, "idle", idlePods); err != nil {
		return err
	}
	pids, err := c.pids()
	if err != nil {
		return err
	}
	settle(ctx, 15*time.Second) // what the start has left to do
	before := map[string]time.Duration{}
	for name, pid := range pids {
		if before[name], err = cpuTime(pid); err != nil {
			return err
		}
	}
	settle(ctx, idleFor)
	var agentCPU, agentRSS float64
	for name, pid := range pids {
		after, err := cpuTime(pid)
		if err != nil {
			return err
		}
		cpu := 100 * (after - before[name]).Seconds() / idleFor.Seconds()
		rss, err := memory(pid, "VmRSS")
		if err != nil {
			return err
		}
		if name == "apiserver" {
			b.under("idle: API server, 3 agents and 30 pods", "% of a core", cpu, 1)
			b.under("idle: API server, resident memory", "MB", rss, 80)
			continue
		}
		agentCPU, agentRSS = max(agentCPU, cpu), max(agentRSS, rss)
	}
	b.under("idle: the busiest agent", "% of a core", agentCPU, 1)
	b.under("idle: the largest agent, resident memory", "MB", agentRSS, 50)
	return ctx.Err()
}

func settle(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// cpuTime is the time on a processor that a process has used: utime and stime
// in ticks of 10 ms (proc(5); USER_HZ is 100 on Linux).
func cpuTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	var ticks int64
	for _, field := range f[11:13] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// memory is a process's memory in MB, by a name that proc(5) has for it: VmRSS
// is what is resident, VmHWM the most that ever was.
func memory(pid int, name string) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			kb, err := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", name, pid)
}
