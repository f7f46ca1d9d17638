// Package controller runs the controllers: all that makes the cluster as its
// objects say, apart from the scheduler and the agents.
//
// The one invariant: controllers share mirrors and nothing else. What one does,
// the others learn from the server.
//
// Read next: deployment, then replicaset, the two through which a Deployment
// becomes pods.
package controller

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"orch/pkg/api"
	"orch/pkg/chaos/prober"
	"orch/pkg/client"
	"orch/pkg/controller/chaos"
	"orch/pkg/controller/deployment"
	"orch/pkg/controller/disruption"
	"orch/pkg/controller/event"
	"orch/pkg/controller/garbage"
	"orch/pkg/controller/namespace"
	"orch/pkg/controller/node"
	"orch/pkg/controller/nodeipam"
	"orch/pkg/controller/replicaset"
	"orch/pkg/informer"
	v1 "orch/proto/v1"
)

// Options of the controllers.
type Options struct {
	// Logger; default none.
	Logger *slog.Logger
	// NodeMonitorGrace is how long a node's heartbeat may be missing; default
	// 40 s, Kubernetes' --node-monitor-grace-period. It is also how long pods
	// may be bound to a node that does not exist.
	NodeMonitorGrace time.Duration
	// NodeLeaseGrace is how long the lease of a node may be late that Witness thinks
	// dead; default [DefaultLeaseGrace]. Witness may be nil.
	NodeLeaseGrace time.Duration
	Witness        node.Witness
	// EventTTL is how long events stay; default 1 h, Kubernetes' --event-ttl.
	EventTTL time.Duration
	// ClusterCIDR is what nodes get the subnets of their pods of; the zero value:
	// they get none, and pods have what addresses the engine gives.
	ClusterCIDR netip.Prefix
	// Server is what experiments break of the API server; nil: they cannot.
	Server chaos.Server
}

// DefaultLeaseGrace is two renewals that are missing, and half a one.
const DefaultLeaseGrace = 2500 * time.Millisecond

// Run runs all controllers until ctx ends, and then returns nil.
func Run(ctx context.Context, c *client.Client, o Options) error {
	if o.NodeMonitorGrace <= 0 {
		o.NodeMonitorGrace = 40 * time.Second
	}
	if o.NodeLeaseGrace <= 0 {
		o.NodeLeaseGrace = DefaultLeaseGrace
	}
	if o.EventTTL <= 0 {
		o.EventTTL = time.Hour
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range assemble(c, o) {
		group.Go(func() error { return run(ctx) })
	}
	return group.Wait()
}

// assemble makes the mirrors and the controllers that read from them, and
// returns what is to run.
func assemble(c *client.Client, o Options) []func(context.Context) error {
	log := o.Logger
	configMaps := mirror[*v1.ConfigMap](c, log)
	deployments := mirror[*v1.Deployment](c, log)
	events := mirror[*v1.Event](c, log)
	namespaces := mirror[*v1.Namespace](c, log)
	nodes := mirror[*v1.Node](c, log)
	pods := mirror[*v1.Pod](c, log)
	sets := mirror[*v1.ReplicaSet](c, log)
	secrets := mirror[*v1.Secret](c, log)
	budgets := mirror[*v1.PodDisruptionBudget](c, log)
	experiments := mirror[*v1.ChaosExperiment](c.As(chaos.Name), log)
	injections := mirror[*v1.ChaosInjection](c.As(chaos.Name), log)
	all := []garbage.Mirror{
		garbage.MirrorOf(configMaps), garbage.MirrorOf(deployments), garbage.MirrorOf(events), garbage.MirrorOf(namespaces),
		garbage.MirrorOf(nodes), garbage.MirrorOf(pods), garbage.MirrorOf(sets), garbage.MirrorOf(secrets),
		garbage.MirrorOf(budgets), garbage.MirrorOf(experiments), garbage.MirrorOf(injections),
	}

	emptying := namespace.New(c, namespaces, log)
	for _, m := range all {
		m.Watch(func(old, now api.Object, revision int64) {
			if now == nil && old.GetMetadata().GetNamespace() != "" {
				emptying.Gone(old.GetMetadata().GetNamespace(), revision)
			}
		})
	}
	run := []func(context.Context) error{
		deployment.New(c, deployments, sets, pods, log).Run,
		replicaset.New(c, sets, pods, log).Run,
		garbage.New(c, all, log).Run,
		emptying.Run,
		node.New(c, nodes, pods, node.Options{Grace: o.NodeMonitorGrace, LeaseGrace: o.NodeLeaseGrace, Witness: o.Witness, Logger: log}).Run,
		disruption.New(c, budgets, pods, deployments, sets, log).Run,
		chaos.New(c, chaos.Mirrors{
			Pods: pods, Nodes: nodes, Deployments: deployments, Sets: sets, Experiments: experiments, Injections: injections,
		}, chaos.Options{
			Server: o.Server, Probe: func(p *v1.ChaosProbe) chaos.Prober { return prober.New(p) }, Logger: log,
		}).Run,
		event.New(c, events, o.EventTTL, log).Run,
		// None runs before all are made: a running mirror takes no more readers.
		configMaps.Run, deployments.Run, events.Run, namespaces.Run, nodes.Run, pods.Run, sets.Run, secrets.Run, budgets.Run,
		experiments.Run, injections.Run,
	}
	if o.ClusterCIDR.IsValid() {
		run = append(run, nodeipam.New(c, nodes, o.ClusterCIDR, log).Run)
	}
	return run
}

func mirror[T api.Object](c *client.Client, log *slog.Logger) *informer.Informer[T] {
	return informer.New(client.For[T](c), informer.Options{Logger: log})
}
