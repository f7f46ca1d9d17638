package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/network"
	"orch/pkg/network/native"
	v1 "orch/proto/v1"
)

// Networks that pods can have.
const (
	networkDocker = "docker"
	networkNative = "native"
)

// networkPatience is how long the agent waits for the pods' network before it
// says that the node is not ready.
const networkPatience = 5 * time.Second

// openNetwork puts the network of the pods beside the engine; nil where the
// engine has its own.
func (o options) openNetwork(cluster string, engine container.Runtime) (container.Runtime, *native.Network, error) {
	if o.network != networkNative {
		return engine, nil, nil
	}
	n, err := native.New(native.Options{
		Cluster: cluster, Node: o.nodeName, Mode: o.routes, Engine: engine,
		Labels: lifecycle.Owner{Cluster: cluster, Node: o.nodeName}.Labels(), Logger: o.logger,
	})
	if err != nil {
		return nil, nil, err
	}
	return network.Wrap(engine, n), n, nil
}

// connect keeps the pods' network, if it is ours to keep, and tells how it is.
// connected is closed when pods can have it.
func connect(ctx context.Context, group *errgroup.Group, c *client.Client, n *native.Network, tell func(error), log *slog.Logger) (connected chan struct{}) {
	connected = make(chan struct{})
	if n == nil {
		close(connected)
		return connected
	}
	tell(errors.New("the API server has not told the node's subnet yet"))
	ready := sync.OnceFunc(func() { close(connected) })
	group.Go(func() error {
		return n.Run(ctx, func(err error) {
			if tell(err); err == nil {
				ready()
			}
		})
	})
	group.Go(func() error {
		for ctx.Err() == nil {
			// While the API server is away, what is known still holds.
			if err := api.FromStatus(followPeers(ctx, c, n.SetPeers)); !errors.Is(err, api.ErrUnavailable) && ctx.Err() == nil {
				log.Warn("the API server does not tell of the other nodes", "error", err)
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
		return nil
	})
	return connected
}

// followPeers hands on what the API server tells of the other nodes, until it
// tells nothing more.
func followPeers(ctx context.Context, c *client.Client, tell func([]network.Peer)) error {
	stream, err := c.Cluster().Peers(ctx, &v1.PeersRequest{})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		var peers []network.Peer
		for _, p := range answer.GetPeers() {
			address, _ := netip.ParseAddr(p.GetAddress()) // what cannot be read is not known
			subnet, _ := netip.ParsePrefix(p.GetPodCidr())
			peers = append(peers, network.Peer{Name: p.GetName(), Address: address, Subnet: subnet})
		}
		tell(peers)
	}
}
