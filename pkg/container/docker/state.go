package docker

import (
	"context"
	"strings"
	"time"

	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"orch/pkg/container"
)

// List returns all containers that carry all the labels, with as much as the
// engine tells about many at once (see container.Runtime).
func (r *Runtime) List(ctx context.Context, labels map[string]string) ([]container.Container, error) {
	return ask(ctx, r, "list containers", func(ctx context.Context, cli *client.Client) (list []container.Container, err error) {
		summaries, err := cli.ContainerList(ctx, dockercontainer.ListOptions{All: true, Filters: labelFilter(labels)})
		for _, s := range summaries {
			list = append(list, fromSummary(s))
		}
		return list, err
	})
}

// Inspect returns one container, or container.ErrNotFound.
func (r *Runtime) Inspect(ctx context.Context, id string) (container.Container, error) {
	return ask(ctx, r, "inspect container "+id, func(ctx context.Context, cli *client.Client) (container.Container, error) {
		return inspect(ctx, cli, id)
	})
}

func inspect(ctx context.Context, cli *client.Client, id string) (container.Container, error) {
	inspected, err := cli.ContainerInspect(ctx, id)
	if err != nil {
		return container.Container{}, err
	}
	return fromInspect(inspected), nil
}

// labelFilter asks for what carries all the labels.
func labelFilter(labels map[string]string) filters.Args {
	args := filters.NewArgs()
	for name, value := range labels {
		args.Add("label", name+"="+value)
	}
	return args
}

func fromInspect(i dockercontainer.InspectResponse) container.Container {
	c := container.Container{
		ID:        i.ID,
		Name:      strings.TrimPrefix(i.Name, "/"),
		ImageID:   i.Image,
		CreatedAt: parseTime(i.Created),
	}
	if i.Config != nil {
		c.Labels = i.Config.Labels
		c.Image = i.Config.Image
	}
	if i.NetworkSettings != nil {
		if bridge := i.NetworkSettings.Networks["bridge"]; bridge != nil {
			c.IP = bridge.IPAddress
		}
	}
	if s := i.State; s != nil {
		c.State = state(s.Status)
		c.PID = s.Pid
		c.StartedAt = parseTime(s.StartedAt)
		c.FinishedAt = parseTime(s.FinishedAt)
		c.ExitCode = s.ExitCode
		c.OOMKilled = s.OOMKilled
		c.Error = s.Error
	}
	return c
}

func fromSummary(s dockercontainer.Summary) container.Container {
	c := container.Container{
		ID:        s.ID,
		Labels:    s.Labels,
		Image:     s.Image,
		ImageID:   s.ImageID,
		State:     state(s.State),
		CreatedAt: time.Unix(s.Created, 0).UTC(),
	}
	if len(s.Names) > 0 {
		c.Name = strings.TrimPrefix(s.Names[0], "/")
	}
	if s.NetworkSettings != nil {
		if bridge := s.NetworkSettings.Networks["bridge"]; bridge != nil {
			c.IP = bridge.IPAddress
		}
	}
	return c
}

// state translates Docker's seven states. A container that is being removed, or
// whose removal failed ("dead"), runs no process and has only to go.
func state(s dockercontainer.ContainerState) container.State {
	switch s {
	case dockercontainer.StateCreated:
		return container.StateCreated
	case dockercontainer.StateRunning, dockercontainer.StateRestarting:
		return container.StateRunning
	case dockercontainer.StatePaused:
		return container.StatePaused
	default:
		return container.StateExited
	}
}

// parseTime reads the engine's times, in which year 1 stands for never.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t
}
