package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"orch/pkg/agent"
	"orch/pkg/agent/fault"
	"orch/pkg/api"
	"orch/pkg/chaos/crash"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/docker"
	"orch/pkg/container/fake"
	"orch/pkg/daemon"
	"orch/pkg/identity"
	"orch/pkg/membership"
	v1 "orch/proto/v1"
)

// run is main without the process: it returns when ctx ends, or when something
// has failed that the agent cannot be without.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == fault.StressCommand {
		return fault.Stress(args[1:], os.Stdin)
	}
	if len(args) > 0 && args[0] == "reset" {
		return reset(ctx, args[1:], stdout, stderr)
	}
	o, err := parse(args, stdout, stderr)
	if errors.Is(err, daemon.ErrDone) {
		return nil
	} else if err != nil {
		return err
	}
	engine, end, err := openRuntime(o)
	if err != nil {
		return err
	}
	defer end()
	if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	release, err := hold(o.dataDir)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	defer release()
	m, err := enter(ctx, o)
	if err != nil || m.cluster == "" { // "": asked to stop before there was a cluster
		return err
	}
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	c, err := client.Dial(o.server, "nodeagent/"+o.nodeName, onRefusal(refuse), client.TLS(m.dialTLS()))
	if err != nil {
		return err
	}
	defer c.Close()
	err = serve(ctx, o, c, engine, m)
	if why := context.Cause(ctx); errors.Is(why, api.ErrUnauthorized) {
		return fmt.Errorf("%w; containers go on running", why)
	}
	return err
}

// openRuntime returns the engine and what ends its use. An engine that does not
// answer is no reason to end: the node is NotReady until it does.
func openRuntime(o options) (container.Runtime, func(), error) {
	if o.runtime == "fake" {
		engine := fake.New(fake.Options{})
		return engine, engine.Shutdown, nil
	}
	engine, err := docker.New(o.engine)
	if err != nil {
		return nil, nil, err
	}
	return engine, func() { _ = engine.Close() }, nil
}

// serve runs the agent and the services around it until ctx ends.
func serve(ctx context.Context, o options, c *client.Client, engine container.Runtime, m *member) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return err
	}
	address, port := endpoint(ctx, l, o)
	data, err := filepath.Abs(filepath.Join(o.dataDir, volumesDir))
	if err == nil {
		err = os.MkdirAll(filepath.Join(data, m.cluster, o.nodeName), 0o700)
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	registry := daemon.NewRegistry()
	engine, pods, err := o.openNetwork(m.cluster, engine)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	a, err := agent.New(agent.Options{
		NodeName: o.nodeName, ClusterID: m.cluster, Client: c.OfCluster(m.cluster), Runtime: engine, DataDir: data,
		Capacity: o.capacity, Labels: o.labels, Address: address, StreamsPort: port,
		Reserved: o.reserved, Thresholds: o.thresholds, PressureTransition: o.transition, PodMaxPIDs: max(0, o.podMaxPIDs),
		Version: version, Logger: o.logger, Registerer: registry,
		FaultDir: filepath.Join(o.dataDir, faultsDir), Crash: crash.Now,
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	streams := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServeNodeTLS(m.pair, m.authority))))
	v1.RegisterStreamsServer(streams, a)

	group, ctx := errgroup.WithContext(ctx)
	connected := connect(ctx, group, c, pods, a.NetworkIs, o.logger)
	group.Go(func() error {
		select { // a node whose network takes a moment need not begin as NotReady
		case <-connected:
		case <-time.After(networkPatience):
		case <-ctx.Done():
		}
		return a.Run(ctx)
	})
	group.Go(func() error {
		membership.Join(ctx, c.OfCluster(m.cluster), o.server, membership.Options{
			Node: o.nodeName, Listen: o.gossip, Advertise: address, Logger: o.logger,
		})
		return nil
	})
	group.Go(func() error {
		m.pair.KeepFresh(ctx, renew(c), func(err error) { o.logger.Error("certificate not renewed", "error", err) })
		return nil
	})
	group.Go(func() error {
		// Streams may last as long as a container: the end of the agent ends them.
		defer context.AfterFunc(ctx, streams.Stop)()
		return streams.Serve(l)
	})
	if o.metricsListen != "" {
		group.Go(func() error { return serveMetrics(ctx, o, m, registry) })
	}
	o.logger.Info("serving", "node", o.nodeName, "address", l.Addr().String(), "runtime", o.runtime, "cluster", m.cluster, "version", version)
	err = group.Wait()
	o.logger.Info("stopped; containers go on running")
	return err
}

// endpoint is where others reach the listener.
func endpoint(ctx context.Context, l net.Listener, o options) (address string, port int) {
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return o.advertise, 0
	}
	address = cmp.Or(o.advertise, tcp.IP.String())
	if o.advertise == "" && tcp.IP.IsUnspecified() {
		// Nothing is sent: the kernel only says which way it would take.
		if way, err := (&net.Dialer{}).DialContext(ctx, "udp", o.server); err == nil {
			address, _, _ = net.SplitHostPort(way.LocalAddr().String())
			_ = way.Close()
		}
	}
	return address, tcp.Port
}

// serveMetrics answers /metrics, /healthz and /debug/pprof until ctx ends.
func serveMetrics(ctx context.Context, o options, m *member, r *prometheus.Registry) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.metricsListen)
	if err != nil {
		return err
	}
	l = tls.NewListener(l, identity.ServeMetricsTLS(m.pair, m.authority, func(*x509.Certificate) error { return nil }))
	o.logger.Info("serving metrics", "address", l.Addr().String())
	return daemon.ServeMetrics(ctx, l, r)
}
