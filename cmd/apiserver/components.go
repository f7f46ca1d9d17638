package main

import (
	"context"
	"time"

	"orch/pkg/apiserver"
	"orch/pkg/chaos/crash"
	"orch/pkg/client"
	"orch/pkg/controller"
	"orch/pkg/controller/node"
	"orch/pkg/scheduler"
)

// components are the parts of the control plane that are clients of the API,
// each of which writes in its own name.
func components(c *client.Client, o options, server *apiserver.Server, witness node.Witness) []func(context.Context) error {
	return []func(context.Context) error{
		func(ctx context.Context) error {
			return controller.Run(ctx, c, controller.Options{
				Logger: o.logger, EventTTL: o.eventTTL, ClusterCIDR: o.clusterCIDR,
				NodeMonitorGrace: o.nodeGrace, NodeLeaseGrace: o.leaseGrace, Witness: witness, Server: breakable{server},
			})
		},
		scheduler.New(c, scheduler.Options{Logger: o.logger.With("component", "scheduler")}).Run,
	}
}

// breakable is the API server as what experiments break.
type breakable struct{ *apiserver.Server }

// Crash ends the process, which comes back after a time.
func (breakable) Crash(down time.Duration) error { return crash.Now(down) }
