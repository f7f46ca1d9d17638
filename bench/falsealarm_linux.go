package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sync/errgroup"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
	"orch/test/lab"
)

// lossPercent is how many packets of all links are lost while alarms are counted.
const lossPercent = 20

// falsealarm loses packets on all links of three machines and keeps all processors
// busy, for as long as -alarms says, and counts what should not happen: nodes that
// are called NotReady, and pods that are evicted.
func (b *bench) falsealarm(ctx context.Context) error { return b.inLab(ctx, b.loseAndCount) }

func (b *bench) loseAndCount(ctx context.Context, l *lab.Lab, c *client.Client) error {
	for range runtime.NumCPU() {
		if err := l.API.Start("sh", "-c", "while :; do :; done"); err != nil {
			return err
		}
	}
	defer func() { _ = l.API.Signal("sh", syscall.SIGKILL) }()
	if err := l.Lose(lossPercent, append(slices.Clone(l.Machines), l.API)...); err != nil {
		return err
	}
	var alarms, evictions int
	during, cancel := context.WithTimeout(ctx, b.alarms)
	defer cancel()
	g, during := errgroup.WithContext(during)
	g.Go(func() error {
		ready := map[string]bool{}
		return each(during, c, func(n *v1.Node, _ bool) {
			name, now := n.GetMetadata().GetName(), api.IsNodeReady(n)
			if ready[name] && !now {
				alarms++
			}
			ready[name] = now
		})
	})
	g.Go(func() error {
		gone := map[string]bool{}
		return each(during, c, func(p *v1.Pod, deleted bool) {
			if uid := p.GetMetadata().GetUid(); !gone[uid] && (deleted || !api.IsPodActive(p)) {
				gone[uid] = true
				evictions++
			}
		})
	})
	if err := g.Wait(); err != nil {
		return err
	}
	b.rows = append(b.rows, row{
		what:   fmt.Sprintf("falsealarm: three nodes, %d %% loss, %d busy cores, %v", lossPercent, runtime.NumCPU(), b.alarms),
		orch:   fmt.Sprintf("%d NotReady, %d evicted", alarms, evictions),
		target: "none", ok: alarms+evictions == 0,
	})
	return nil
}

// each calls see with all objects of a kind, and with each change until ctx ends.
func each[T api.Object](ctx context.Context, c *client.Client, see func(o T, deleted bool)) error {
	for e, err := range client.For[T](c).Watch(ctx, client.WatchOptions{}) {
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		if e.Type == v1.WatchEvent_TYPE_ADDED || e.Type == v1.WatchEvent_TYPE_MODIFIED || e.Type == v1.WatchEvent_TYPE_DELETED {
			see(e.Object, e.Type == v1.WatchEvent_TYPE_DELETED)
		}
	}
	return nil
}
