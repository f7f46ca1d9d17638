package docker

import (
	"context"
	"maps"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/client"

	"orch/pkg/container"
)

// watched are the events that say something about a container's life. Others,
// above all the three for every exec, would wake the agent for each probe.
var watched = []events.Action{
	events.ActionCreate, events.ActionStart, events.ActionDie, events.ActionOOM,
	events.ActionPause, events.ActionUnPause, events.ActionDestroy,
}

// Watch calls f for each event of containers that carry the labels. Names of
// labels need a prefix ("orch.dev/node"): the engine puts attributes of its own
// among them, such as "name".
//
// The engine answers the request before it has subscribed to its own events, so
// that an answer alone proves nothing. Therefore the engine is first asked for
// its time, and then for the events since: it keeps the last 256 (1,000 in later
// versions) and replays those under the lock with which it subscribes.
func (r *Runtime) Watch(ctx context.Context, labels map[string]string, ready chan<- struct{}, f func(container.Event)) error {
	const op = "watch events"
	// Ends the subscription when f panics.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var since string
	err := r.do(ctx, op, func(ctx context.Context, cli *client.Client) error {
		info, err := cli.Info(ctx)
		since = info.SystemTime
		return err
	})
	if err != nil {
		return err
	}
	filter := labelFilter(labels)
	filter.Add("type", string(events.ContainerEventType))
	for _, action := range watched {
		filter.Add("event", string(action))
	}
	messages, failed := r.cli.Events(ctx, events.ListOptions{Since: since, Filters: filter})
	for {
		// An error that is there already means that the request failed.
		select {
		case err := <-failed:
			return sortError(ctx, op, err)
		default:
		}
		if ready != nil {
			close(ready)
			ready = nil
		}
		select {
		case m := <-messages:
			f(fromEvent(m))
		case err := <-failed:
			return sortError(ctx, op, err)
		}
	}
}

// fromEvent translates an event, without the engine's own attributes.
func fromEvent(m events.Message) container.Event {
	labels := maps.Clone(m.Actor.Attributes)
	for _, own := range []string{"image", "name", "exitCode", "signal", "execDuration"} {
		delete(labels, own)
	}
	return container.Event{
		ID:     m.Actor.ID,
		Action: string(m.Action),
		Labels: labels,
		Time:   time.Unix(0, m.TimeNano).UTC(),
	}
}
