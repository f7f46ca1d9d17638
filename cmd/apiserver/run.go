package main

import (
	"cmp"
	"context"
	"crypto/tls"
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
	"google.golang.org/grpc/test/bufconn"

	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/controller/node"
	"orch/pkg/daemon"
	"orch/pkg/identity"
	"orch/pkg/store"
	"orch/pkg/store/boltstore"
	"orch/pkg/store/sealed"
)

// Files of the data folder.
const (
	storeFile          = "store.db"
	secretsKeyFile     = "secrets.key"
	addressFile        = "address"
	metricsAddressFile = "metrics-address"
	adminFile          = "admin.pem"
)

// run is main without the process: it returns when ctx ends, or when something
// has failed that the server cannot be without.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	if done, err := command(ctx, args, stdout, stderr); done {
		return err
	}
	o, err := parse(args, stdout, stderr)
	if errors.Is(err, daemon.ErrDone) {
		return nil
	} else if err != nil {
		return err
	}
	registry := daemon.NewRegistry()

	s, err := openStore(ctx, o, registry)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	authority, admin, err := openAuthority(o)
	if err != nil {
		return err
	}
	audit, err := openAudit(o)
	if err != nil {
		return err
	}
	defer audit.Close()
	g, err := openGossip(o)
	if err != nil {
		return err
	}
	defer g.close()
	server, err := apiserver.New(s, apiserver.Options{
		Logger: o.logger, Registerer: registry, Authority: authority, Audit: audit, Version: version,
		Gossip: g.tell, NotReadySeconds: o.notReady, UnreachableSeconds: o.unreachable,
	})
	if err != nil {
		return err
	}
	defer server.Stop()
	return serve(ctx, o, server, g, authority, admin, registry)
}

// admin is who has started the server: the one user that it makes by itself.
var admin = identity.User{Name: "admin", Groups: []string{identity.GroupMasters}}

// openAuthority opens or makes the cluster's certificate authority, and the
// certificate of its first user.
func openAuthority(o options) (*identity.Authority, *identity.Pair, error) {
	authority, err := identity.OpenAuthority(o.dataDir, o.signingDuration)
	if err != nil {
		return nil, nil, err
	}
	pair, err := authority.OpenPair(filepath.Join(o.dataDir, adminFile), admin)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of the administrator: %w", err)
	}
	return authority, pair, nil
}

// openStore opens the store in the data folder, which it makes first. Secrets
// are encrypted in it.
func openStore(ctx context.Context, o options, r prometheus.Registerer) (store.Store, error) {
	if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	commits := commitHistogram(r)
	bolt, err := boltstore.Open(filepath.Join(o.dataDir, storeFile), boltstore.Options{
		KeepEntries: o.keepRevisions,
		KeepFor:     o.keepHistory,
		OnCommit:    func(_ int, took time.Duration) { commits.Observe(took.Seconds()) },
	})
	if err != nil {
		return nil, err
	}
	keys, err := sealed.LoadKeys(o.secretsKeys())
	if err != nil {
		return nil, errors.Join(err, bolt.Close())
	}
	s := sealed.New(bolt, keys, "Secret/")
	n, err := s.Reseal(ctx, store.Cause{Actor: "apiserver", Reason: "EncryptSecret", Message: "it was not encrypted with the newest key"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("secrets cannot be decrypted with the keys of %s; put back the file that they were written with: %w", o.secretsKeys(), err), s.Close())
	}
	if err := keys.Forget(o.secretsKeys()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if n > 0 {
		o.logger.Info("secrets encrypted with the newest key", "count", n)
	}
	r.MustRegister(storeGauges(bolt)...)
	return s, nil
}

// secretsKeys is the file with the keys that Secrets are encrypted with.
func (o options) secretsKeys() string {
	return cmp.Or(o.secretsKeyFile, filepath.Join(o.dataDir, secretsKeyFile))
}

// serve runs the API and the components until ctx ends. The components end
// first, while the API is still there to take their last writes.
func serve(ctx context.Context, o options, server *apiserver.Server, g *gossip, authority *identity.Authority, pair *identity.Pair, registry *prometheus.Registry) error {
	l, err := listen(ctx, o.listen, filepath.Join(o.dataDir, addressFile))
	if err != nil {
		return err
	}
	defer os.Remove(filepath.Join(o.dataDir, addressFile))

	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	group, serving := errgroup.WithContext(serving)
	inner := bufconn.Listen(1 << 20)
	group.Go(func() error { return server.Serve(serving, l) })
	group.Go(func() error { return server.ServeInner(serving, inner) })
	failed := func(err error) { o.logger.Error("certificate not renewed", "error", err) }
	group.Go(func() error { pair.KeepFresh(serving, authority.For(admin), failed); return nil })
	if o.metricsListen != "" {
		m, err := listen(ctx, o.metricsListen, filepath.Join(o.dataDir, metricsAddressFile))
		if err != nil {
			stopServing()
			return errors.Join(err, group.Wait())
		}
		defer os.Remove(filepath.Join(o.dataDir, metricsAddressFile))
		m = tls.NewListener(m, identity.ServeMetricsTLS(server.Self(), authority.Certificate(), server.Believe))
		group.Go(func() error { return daemon.ServeMetrics(serving, m, registry) })
	}
	o.logger.Info("serving", "address", l.Addr().String(), "data-dir", o.dataDir, "version", version)
	group.Go(func() error {
		defer stopServing()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(serving, cancel)()
		return runComponents(ctx, o, server, g.witness(), inner)
	})
	err = group.Wait()
	o.logger.Info("stopped")
	return err
}

// listen listens on address and writes to a file where that is, for those who
// asked for any port.
func listen(ctx context.Context, address, file string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if err := identity.WriteFile(file, []byte(l.Addr().String()+"\n")); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// runComponents runs the controllers and the scheduler as clients of the API.
func runComponents(ctx context.Context, o options, server *apiserver.Server, witness node.Witness, l *bufconn.Listener) error {
	c, err := client.Dial("passthrough:///apiserver", "apiserver",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		return err
	}
	defer c.Close()
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range components(c, o, server, witness) {
		group.Go(func() error { return run(ctx) })
	}
	group.Go(func() error { <-ctx.Done(); return nil })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
