package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"

	"orch/examples/webflix"
)

// peer is a bare client of the same engine: the same containers as a pod has,
// without anything around them.
type peer struct {
	cli     *client.Client
	sandbox string // the image of Orch's own sandboxes
	label   string
	n       atomic.Int64
}

func newPeer(ctx context.Context) (*peer, error) {
	cli, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, err
	}
	p := &peer{cli: cli, label: fmt.Sprintf("orch-bench=%d", time.Now().UnixNano())}
	images, err := cli.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", "orch-sandbox*"))})
	if err != nil {
		return nil, err
	}
	if len(images) == 0 || len(images[0].RepoTags) == 0 {
		return nil, fmt.Errorf("no sandbox image: run an agent on this engine first")
	}
	p.sandbox = images[0].RepoTags[0]
	return p, nil
}

func (p *peer) labels() map[string]string {
	k, v, _ := strings.Cut(p.label, "=")
	return map[string]string{k: v}
}

// create creates and starts one container and returns its id.
func (p *peer) create(ctx context.Context, imageRef string, host *dockercontainer.HostConfig) (string, error) {
	cfg := &dockercontainer.Config{Image: imageRef, Labels: p.labels()}
	r, err := p.cli.ContainerCreate(ctx, cfg, host, nil, nil, fmt.Sprintf("orch-bench-%d-%d", time.Now().UnixNano(), p.n.Add(1)))
	if err != nil {
		return "", err
	}
	return r.ID, p.cli.ContainerStart(ctx, r.ID, dockercontainer.StartOptions{})
}

// hostConfig is what Orch's agent asks for too, as far as it costs time.
func hostConfig(network string) *dockercontainer.HostConfig {
	h := &dockercontainer.HostConfig{NetworkMode: dockercontainer.NetworkMode(network), SecurityOpt: []string{"no-new-privileges"}}
	if strings.HasPrefix(network, "container:") {
		h.IpcMode = dockercontainer.IpcMode(network)
	} else {
		h.IpcMode = "shareable"
		h.LogConfig.Type = "none"
	}
	return h
}

// pod makes a sandbox and a container joined to it.
func (p *peer) pod(ctx context.Context) (sandbox, app string, err error) {
	if sandbox, err = p.create(ctx, p.sandbox, hostConfig("bridge")); err != nil {
		return "", "", err
	}
	app, err = p.join(ctx, sandbox)
	return sandbox, app, err
}

func (p *peer) join(ctx context.Context, sandbox string) (string, error) {
	return p.create(ctx, webflix.Image(webflix.Versions[0]), hostConfig("container:"+sandbox))
}

// clean removes everything of this peer.
func (p *peer) clean(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	list, err := p.cli.ContainerList(ctx, dockercontainer.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", p.label))})
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(4)
	for _, c := range list {
		g.Go(func() error { return p.cli.ContainerRemove(ctx, c.ID, dockercontainer.RemoveOptions{Force: true}) })
	}
	return g.Wait()
}

// follow passes the engine's container events to f until stop is called.
func (p *peer) follow(ctx context.Context, f func(events.Message)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	messages, errs := p.cli.Events(ctx, events.ListOptions{Filters: filters.NewArgs(filters.Arg("type", "container"))})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case m := <-messages:
				f(m)
			case <-errs: //nolint:errcheck // the stream ends with ctx
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}
