package fake

import (
	"context"
	"fmt"
	"strings"
	"time"

	"orch/pkg/api"
	"orch/pkg/container"
)

// Usage is what a simulated container uses from now on.
type Usage struct {
	MilliCPU    int64
	MemoryBytes int64
	DiskBytes   int64 // it stays until the container is removed
	PIDs        int64
}

// idle is what a container uses that nobody has told anything else: what a small
// service does that nobody asks.
var idle = Usage{MilliCPU: 1, MemoryBytes: 8 << 20, PIDs: 1}

// Totals of the simulated machine that nobody needs to choose.
const pidMax = 1 << 22

// SetUsage says what containers of an image use, those that run and those to
// come.
func (e *Engine) SetUsage(image string, u Usage) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.usages[image] = u
	for _, c := range e.containers {
		if c.config.Image == image && c.lives() {
			e.account(c)
			c.usage = u
		}
	}
}

// use changes what one container uses, as its user asked for.
func (e *Engine) use(p *process, args []string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		if c.process != p {
			continue
		}
		e.account(c)
		for _, a := range args {
			what, text, _ := strings.Cut(a, "=")
			q, err := api.ParseQuantity(text)
			if err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
			switch what {
			case "cpu":
				c.usage.MilliCPU = q.MilliValue()
			case "memory":
				c.usage.MemoryBytes = q.Value()
			case "disk":
				c.usage.DiskBytes = q.Value()
			default:
				return fmt.Errorf("%s: want cpu, memory or disk", a)
			}
		}
	}
	return nil
}

// SetOthers says what the machine's other programs use.
func (e *Engine) SetOthers(u Usage) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.others = u
}

// account adds the processor time since it was last added. The caller holds
// e.mu.
func (e *Engine) account(c *fakeContainer) {
	if c.State != container.StateRunning {
		return
	}
	now := time.Now().UTC()
	c.used += now.Sub(c.usedUntil) * time.Duration(c.usage.MilliCPU) / 1000
	c.usedUntil = now
}

// Stats returns what a container uses.
func (e *Engine) Stats(ctx context.Context, c container.Container) (container.Stats, error) {
	if err := e.enter(ctx, "Stats", c.ID); err != nil {
		return container.Stats{}, err
	}
	op := "stats of container " + c.ID
	e.mu.Lock()
	defer e.mu.Unlock()
	known, ok := e.containers[c.ID]
	switch {
	case !ok:
		return container.Stats{}, noContainer(op, c.ID)
	case !known.lives():
		return container.Stats{}, fmt.Errorf("%s: %w", op, container.ErrNotRunning)
	}
	e.account(known)
	return container.Stats{At: time.Now().UTC(), CPU: known.used, MemoryBytes: known.usage.MemoryBytes, PIDs: known.usage.PIDs}, nil
}

// DiskUsage returns what a container has written.
func (e *Engine) DiskUsage(ctx context.Context, id string) (int64, error) {
	if err := e.enter(ctx, "DiskUsage", id); err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.containers[id]
	if !ok {
		return 0, noContainer("disk usage of container "+id, id)
	}
	return c.usage.DiskBytes, nil
}

// Machine returns what the containers and the others leave.
func (e *Engine) Machine(ctx context.Context) (container.Machine, error) {
	if err := e.enter(ctx, "Machine", ""); err != nil {
		return container.Machine{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	m := container.Machine{At: time.Now()}
	used := e.others
	for _, c := range e.containers {
		e.account(c)
		m.CPU += c.used
		used.DiskBytes += c.usage.DiskBytes
		if c.lives() {
			used.MemoryBytes += c.usage.MemoryBytes
			used.PIDs += c.usage.PIDs
		}
	}
	left := func(capacity, used int64) container.Room {
		return container.Room{Capacity: capacity, Available: max(0, capacity-used)}
	}
	m.Memory, m.Disk, m.PIDs = left(e.options.MemoryBytes, used.MemoryBytes), left(e.options.DiskBytes, used.DiskBytes), left(pidMax, used.PIDs)
	return m, nil
}
