package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	"orch/pkg/controller/node"
	"orch/pkg/membership"
	v1 "orch/proto/v1"
)

// noGossip is the profile of a cluster whose members do not gossip.
const noGossip = "none"

// gossipPort is how far the port of the gossip is from that of the API: 7483 by
// default. In between are those of an agent on the same machine.
const gossipPort = 3

// checkGossip completes and checks the flags of the gossip.
func (o *options) checkGossip() error {
	if o.profile != noGossip && !slices.Contains(membership.Profiles, o.profile) {
		return fmt.Errorf("--membership-profile %q: want one of %v, or none", o.profile, membership.Profiles)
	}
	if o.gossip != "" {
		_, err := membership.Beside(o.gossip, 0)
		if err != nil {
			return fmt.Errorf("--gossip-address: %w", err)
		}
		return nil
	}
	var err error
	if o.gossip, err = membership.Beside(o.listen, gossipPort); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	return nil
}

// gossip is the API server as a member, or nothing.
type gossip struct {
	members *membership.Members // nil: no gossip
	tell    *v1.Gossip          // how nodes become members
	end     context.CancelFunc
	ended   chan struct{}
}

// openGossip becomes a member. Where that cannot be, the server does without:
// deaths are noticed later.
func openGossip(o options) (*gossip, error) {
	if o.profile == noGossip {
		return &gossip{}, nil
	}
	key, err := membership.OpenKey(o.dataDir)
	if err != nil {
		return nil, err
	}
	m, err := membership.New(membership.Options{
		Node: membership.Server, Listen: o.gossip, Advertise: o.advertise, Key: key, Profile: o.profile, Logger: o.logger,
	})
	if err != nil {
		o.logger.Error("no gossip with the agents: the death of a machine is noticed later; see --gossip-address", "error", err)
		return &gossip{}, nil
	}
	host, _, _ := net.SplitHostPort(o.gossip) // it was parsed before
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "" // where it was reached, nodes know
	}
	ctx, end := context.WithCancel(context.Background())
	g := &gossip{
		members: m, end: end, ended: make(chan struct{}),
		tell: &v1.Gossip{Key: key, Seed: net.JoinHostPort(host, strconv.Itoa(m.Port())), Profile: o.profile},
	}
	go func() {
		defer close(g.ended)
		_ = m.Run(ctx, nil) // without seeds, nothing fails
	}()
	return g, nil
}

func (g *gossip) close() {
	if g.members != nil {
		g.end()
		<-g.ended
	}
}

// witness is what the node controller hears of the gossip; nil: nothing.
func (g *gossip) witness() node.Witness {
	if g.members == nil {
		return nil
	}
	return g.members
}
