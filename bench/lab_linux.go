package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"orch/examples/webflix"
	"orch/pkg/client"
	"orch/test/lab"
)

func initLab() { lab.Init() }

// labPods is how many pods run on three machines, two on each.
const labPods = 6

// inLab calls f with three machines on which Orch runs, as it is by default, and a
// Deployment of labPods pods that are Ready.
func (b *bench) inLab(ctx context.Context, f func(context.Context, *lab.Lab, *client.Client) error) (err error) {
	if err := lab.Missing(); err != nil {
		fmt.Fprintln(os.Stderr, "skipped:", err)
		return nil
	}
	l, err := lab.New(ctx, lab.Options{Machines: 3, Bin: b.bin, Images: buildImages})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if err := l.Up(ctx); err != nil {
		return err
	}
	c, err := l.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := deploy(ctx, l, c); err != nil {
		return err
	}
	return f(ctx, l, c)
}

// buildImages gives a machine those of the example.
func buildImages(ctx context.Context, m *lab.Machine) error {
	engine, err := m.Engine()
	if err != nil {
		return err
	}
	defer engine.Close()
	return webflix.BuildImages(ctx, engine, io.Discard)
}

// deploy applies the Deployment and waits until its pods are Ready.
func deploy(ctx context.Context, l *lab.Lab, c *client.Client) error {
	if err := l.Apply(ctx, deployment("lab", labPods)); err != nil {
		return err
	}
	_, err := readyPods(ctx, c, "app=lab", "", labPods)
	return err
}

// lab kills machines and measures until their pods are Ready on others: from the
// moment that the machine does nothing more to the moment that a watch of the API
// shows it.
func (b *bench) lab(ctx context.Context) error { return b.inLab(ctx, b.killMachines) }

func (b *bench) killMachines(ctx context.Context, l *lab.Lab, c *client.Client) error {
	var moved []time.Duration
	for i := range b.rounds {
		if err := deploy(ctx, l, c); err != nil {
			return err
		}
		m := l.Machines[i%len(l.Machines)]
		if err := m.Kill(); err != nil {
			return err
		}
		begin := time.Now()
		if _, err := readyPods(ctx, c, "app=lab", m.Name, labPods); err != nil {
			return err
		}
		moved = append(moved, time.Since(begin))
		if err := m.Boot(ctx); err != nil {
			return err
		}
		if err := m.StartAgent(); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"wait", "node/" + m.Name, "--for=condition=Ready", "--timeout=1m"},
			{"delete", "deployment", "lab", "--cascade=foreground"},
			{"wait", "--for=delete", "pod", "-l", "app=lab", "--timeout=2m"},
		} {
			if _, err := l.Orchctl(ctx, args...); err != nil {
				return err
			}
		}
	}
	b.under("lab: machine killed → its pods Ready on others", "s", median(moved).Seconds(), 5)
	return nil
}
