// Package faketest has the programs, registries and hooks that tests give to a
// fake engine. Nothing here runs in a cluster.
package faketest

import (
	"context"
	"time"

	"orch/pkg/container"
	"orch/pkg/container/fake"
)

// untilTerminated says whether the process was asked to end before ctx ended.
func untilTerminated(ctx context.Context, p *fake.Process) bool {
	for {
		select {
		case signal := <-p.Signals:
			if signal == "SIGTERM" || signal == "SIGINT" {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// ExitAfter returns a program that ends with code by itself after d, or with 0
// earlier when it is asked to.
func ExitAfter(d time.Duration, code int) fake.Program {
	return func(ctx context.Context, p *fake.Process) int {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		if untilTerminated(ctx, p) {
			return 0
		}
		return code
	}
}

// OOMAfter returns a program that the kernel kills after d for want of memory.
func OOMAfter(d time.Duration) fake.Program {
	return func(ctx context.Context, p *fake.Process) int {
		if ExitAfter(d, 137)(ctx, p) == 0 {
			return 0
		}
		return p.OOM()
	}
}

// IgnoreSignals is a program that only SIGKILL ends.
func IgnoreSignals(ctx context.Context, _ *fake.Process) int {
	<-ctx.Done()
	return 137
}

// Hang is a hook that lets the named calls block until their ctx ends.
func Hang(ops ...string) fake.Hook {
	return func(ctx context.Context, op, _ string) error {
		for _, hung := range ops {
			if op == hung {
				<-ctx.Done()
				return ctx.Err()
			}
		}
		return nil
	}
}

// SlowRegistry is [fake.Registry] with a time that each pull takes.
func SlowRegistry(d time.Duration) func(context.Context, string, container.PullOptions) error {
	return func(ctx context.Context, ref string, o container.PullOptions) error {
		select {
		case <-time.After(d):
			return fake.Registry(ctx, ref, o)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
