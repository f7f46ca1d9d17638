package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// bulk is how many pods the rate is measured with.
const bulk = 50

// bulkRounds is how often: a round takes most of a minute.
const bulkRounds = 5

// startConcurrency is what serves the engine best on two cores: more only adds
// latency.
const startConcurrency = 4

// start measures one pod, and fifty on three agents, from apply to Running, and
// a bare client that makes the same containers.
func (b *bench) start(ctx context.Context) error {
	c, err := b.up(ctx)
	if err != nil {
		return err
	}
	defer c.down(ctx)
	p, err := newPeer(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.clean(ctx) }()

	var orch, bare []time.Duration
	for i := range b.rounds {
		name := fmt.Sprintf("one-%d", i)
		_, took, err := c.running(ctx, name, 1)
		if err != nil {
			return err
		}
		orch = append(orch, took)
		begin := time.Now()
		if _, _, err := p.pod(ctx); err != nil {
			return err
		}
		bare = append(bare, time.Since(begin))
		if err := c.remove(ctx, name); err != nil {
			return err
		}
		if err := p.clean(ctx); err != nil {
			return err
		}
	}
	b.atLeast("start: one pod, apply → Running", 1/median(orch).Seconds(), "bare client", 1/median(bare).Seconds(), 0.9)

	var orchRate, bareRate []float64
	for i := range bulkRounds {
		fmt.Fprintf(os.Stderr, "       %d pods, round %d of %d ...\n", bulk, i+1, bulkRounds)
		name := fmt.Sprintf("bulk-%d", i)
		_, took, err := c.running(ctx, name, bulk)
		if err != nil {
			return err
		}
		orchRate = append(orchRate, bulk/took.Seconds())
		if err := c.remove(ctx, name); err != nil {
			return err
		}
		rate, err := p.bulk(ctx, func(ctx context.Context) error { _, _, err := p.pod(ctx); return err })
		if err != nil {
			return err
		}
		bareRate = append(bareRate, rate)
	}
	b.atLeast(fmt.Sprintf("start: %d pods on 3 agents", bulk), median(orchRate), fmt.Sprintf("bare client, %d at once", startConcurrency), median(bareRate), 0.9)
	return nil
}

// bulk makes as many pods as it is named after, a few at once, removes them, and
// returns how many it made in a second.
func (p *peer) bulk(ctx context.Context, pod func(context.Context) error) (float64, error) {
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(startConcurrency)
	for range bulk {
		g.Go(func() error { return pod(gctx) })
	}
	err := g.Wait()
	took := time.Since(begin)
	return bulk / took.Seconds(), errors.Join(err, p.clean(ctx))
}

func killProcess(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }
