package main

import (
	"context"
	"fmt"
	"time"

	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"

	"orch/examples/webflix"
)

// heal kills a container and measures until its replacement runs: from the kill
// call to the engine's start event, whoever it was that acted. Three of them in
// turn, each round on a container that has not been killed before:
//
//   - Orch, with the API server and three agents as separate processes;
//   - a bare client that waits for the die event, creates and starts a
//     container in the living sandbox;
//   - the engine's own --restart=always.
func (b *bench) heal(ctx context.Context) error {
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

	pods, _, err := c.running(ctx, "heal", b.rounds)
	if err != nil {
		return err
	}
	seen := make(chan events.Message, 256)
	defer p.follow(ctx, func(m events.Message) {
		if m.Action == events.ActionDie || m.Action == events.ActionStart {
			seen <- m
		}
	})()
	// wait returns when an event comes that is wanted.
	wait := func(want func(events.Message) bool) error {
		limit := time.After(time.Minute)
		for {
			select {
			case m := <-seen:
				if want(m) {
					return nil
				}
			case <-limit:
				return fmt.Errorf("no replacement after a minute")
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	kill := func(id string) (time.Time, error) {
		begin := time.Now()
		return begin, p.cli.ContainerKill(ctx, id, "KILL")
	}
	var orch, bare, engine []time.Duration
	for i := range b.rounds {
		// Orch.
		pod := pods[i]
		id := pod.GetStatus().GetContainerStatuses()[0].GetContainerId()[len("docker://"):]
		begin, err := kill(id)
		if err != nil {
			return err
		}
		err = wait(func(m events.Message) bool {
			return m.Action == events.ActionStart && m.Actor.ID != id && m.Actor.Attributes["orch.dev/pod-uid"] == pod.GetMetadata().GetUid()
		})
		if err != nil {
			return fmt.Errorf("orch: %w", err)
		}
		orch = append(orch, time.Since(begin))

		// A bare client.
		sandbox, app, err := p.pod(ctx)
		if err != nil {
			return err
		}
		if begin, err = kill(app); err != nil {
			return err
		}
		if err := wait(func(m events.Message) bool { return m.Action == events.ActionDie && m.Actor.ID == app }); err != nil {
			return fmt.Errorf("bare client: %w", err)
		}
		next, err := p.join(ctx, sandbox)
		if err != nil {
			return err
		}
		if err := wait(func(m events.Message) bool { return m.Action == events.ActionStart && m.Actor.ID == next }); err != nil {
			return fmt.Errorf("bare client: %w", err)
		}
		bare = append(bare, time.Since(begin))

		// The engine itself.
		host := hostConfig("bridge")
		host.RestartPolicy = dockercontainer.RestartPolicy{Name: dockercontainer.RestartPolicyAlways}
		id, err = p.create(ctx, webflix.Image(webflix.Versions[0]), host)
		if err != nil {
			return err
		}
		// `docker kill` counts as the user's wish and is not restarted, so the
		// process is killed from inside the machine.
		info, err := p.cli.ContainerInspect(ctx, id)
		if err != nil {
			return err
		}
		for drained := false; !drained; { // its own first start
			select {
			case <-seen:
			case <-time.After(200 * time.Millisecond):
				drained = true
			}
		}
		begin = time.Now()
		if err := killProcess(info.State.Pid); err != nil {
			return err
		}
		if err := wait(func(m events.Message) bool { return m.Action == events.ActionStart && m.Actor.ID == id }); err != nil {
			return fmt.Errorf("restart policy: %w", err)
		}
		engine = append(engine, time.Since(begin))
	}
	b.atMost("heal: killed → replacement running", median(orch), "bare client: die event, create, start", median(bare), 1.1)
	b.atMost("heal: killed → replacement running", median(orch), "Docker --restart=always", median(engine), 1)
	return nil
}
