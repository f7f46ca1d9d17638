// Package apiserver is the one door to the cluster's state: the Resources
// service over a store, and the Streams service, which it passes on to the
// agents.
//
// The one invariant: what is in the store went through admission. Every object
// has a name, a uid and its defaults, is valid, and lies in a namespace that
// was not being deleted when the object was made; so no reader checks again.
//
// A write, from top to bottom: intercept.go (limits, panics, the log, errors to
// statuses), write.go (read, decide, commit), package admission (the decision),
// security.go (what the namespace lets its pods ask for), record.go (an object
// as bytes). Then delete.go and apply.go, which end in the same commit; read.go,
// filter.go and watch.go for the other direction; package streams for logs and
// exec. Read next: pkg/client, the other end of the wire.
package apiserver

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"orch/pkg/api"
	"orch/pkg/apiserver/gate"
	"orch/pkg/apiserver/streams"
	"orch/pkg/identity"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// Limits. Where Kubernetes has the same limit, the figure is its default.
const (
	// maxObject is the most bytes that an object may have in the store: etcd's
	// limit for a request.
	maxObject = 1536 << 10
	// maxManifest is the most bytes of a manifest: kube-apiserver's limit for a
	// request body.
	maxManifest = 3 << 20
	// maxMessage is where the server stops to read a message. It is larger than
	// what it accepts, so that a message between the two is refused with a
	// sentence that says which limit it broke.
	maxMessage = 12 << 20
	// maxInFlight is how many requests may be served at a time, watches and
	// streams not counted: kube-apiserver's --max-requests-inflight.
	maxInFlight = 400
	// maxStreams is how many requests one connection may have open, watches
	// included.
	maxStreams = 1024
	// streamWorkers is how many goroutines wait for requests, so that not each
	// request has to grow a stack of its own: as many as write at once in a busy
	// cluster.
	streamWorkers = 64
	// graceOfStop is how long requests may take to end when the server stops.
	graceOfStop = 5 * time.Second
)

// Kinds that the server itself looks up.
var (
	kindNamespace = api.KindByName("Namespace")
	kindNode      = api.KindByName("Node")
	kindPod       = api.KindByName("Pod")
	kindChaos     = api.KindByName("ChaosExperiment")
	kindEvent     = api.KindByName("Event")
)

// Options say how a server behaves. The zero value is the default.
type Options struct {
	// Logger takes a line for each request: writes at level Info, reads at
	// Debug. Nil logs nothing.
	Logger *slog.Logger
	// Registerer takes the server's metrics; nil keeps them to itself.
	Registerer prometheus.Registerer
	// MaxInFlight is how many requests may be served at a time; 0 is 400.
	MaxInFlight int
	// DialNode connects to an agent; nil is TCP. The address is host:port.
	// Without an Authority, nothing on that way is encrypted: it is in memory.
	DialNode func(ctx context.Context, address string) (net.Conn, error)
	// Version is the server's own, for Version to tell.
	Version string
	// Audit takes a line for each write and each refusal; nil takes none.
	Audit io.Writer
	// Authority makes certificates, and says which are believed. Without one,
	// the server has no other callers than those of ServeInner.
	Authority *identity.Authority
	// Gossip is what nodes are told so that they become members; nil: nothing.
	Gossip *v1.Gossip
	// NotReadySeconds and UnreachableSeconds are how long pods that do not say
	// stay bound to a node that is not ready, or silent.
	NotReadySeconds, UnreachableSeconds int64
}

// Server is the API server.
//
// Concurrency: all methods may be called from several goroutines.
type Server struct {
	v1.UnimplementedResourcesServer

	store   store.Store
	logger  *slog.Logger
	metrics *metrics
	cache   cache
	grpc    *grpc.Server
	health  *health.Server
	streams *streams.Service
	now     func() time.Time
	version string

	// notReady and unreachable are the seconds of Options.
	notReady, unreachable int64

	// inFlight has a token for each request that is being served.
	inFlight chan struct{}

	// terminations keeps the writes of namespaces, the beginning of a deletion
	// above all (locked), and the making of objects in them (read-locked, from the
	// look at the namespace until the commit) apart; else an object could appear
	// in a namespace that has already been emptied.
	terminations sync.RWMutex
	// active holds the namespaces that take new objects, each as a record by its
	// name, as far as somebody has looked; entries are made with terminations
	// read-locked and taken away with it locked, before every write of the
	// namespace. It saves each create a look into the store.
	active sync.Map

	// cluster is the uid of kube-system.
	cluster string

	authority *identity.Authority // may be nil
	self      *identity.Pair      // the server's own; nil without authority
	sessions  sessions
	joins     joins
	leases    leases
	gossip    *v1.Gossip // may be nil
	policies  policies
	// revocations counts the writes that may have revoked a user.
	revocations atomic.Int64
	gate        *gate.Gate
	audit       slog.Handler
	broken      brokenWatches
	attended    attendance

	running context.Context //nolint:containedctx // ends when the server begins to stop; it ends watches
	end     context.CancelFunc
	stop    sync.Once
	stopped chan struct{} // closed when no request is being served any more
}

// New returns a server over a store, which stays the caller's, and makes the
// namespaces that every cluster has. The uid of kube-system is the cluster's id.
func New(s store.Store, o Options) (*Server, error) {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = maxInFlight
	}
	server := &Server{
		store: s, logger: o.Logger, now: time.Now, version: o.Version,
		authority: o.Authority, gossip: o.Gossip,
		notReady: o.NotReadySeconds, unreachable: o.UnreachableSeconds,
		audit:    newAuditor(o.Audit),
		gate:     gate.New(),
		health:   health.NewServer(),
		inFlight: make(chan struct{}, o.MaxInFlight),
		stopped:  make(chan struct{}),
	}
	server.running, server.end = context.WithCancel(context.Background())
	server.metrics = newMetrics(o.Registerer, server)
	if o.Authority != nil {
		var err error
		if server.self, err = identity.NewPair(context.Background(), "", o.Authority.ForServer()); err != nil {
			return nil, fmt.Errorf("certificate of the API server: %w", err)
		}
	}
	server.streams = streams.New(objects{server}, o.DialNode, server.credentialsFor)
	server.grpc = server.newGRPC()
	if err := server.bootstrap(context.Background()); err != nil {
		return nil, err
	}
	return server, nil
}

// bootstrap makes the namespaces that every cluster has.
func (s *Server) bootstrap(ctx context.Context) error {
	for _, name := range []string{api.NamespaceDefault, api.NamespaceSystem} {
		if err := s.ensure(ctx, &v1.Namespace{Metadata: &v1.ObjectMeta{Name: name}}, "every cluster has this namespace"); err != nil {
			return err
		}
	}
	system, err := s.current(ctx, kindNamespace, "", api.NamespaceSystem)
	if err != nil {
		return fmt.Errorf("read namespace %s: %w", api.NamespaceSystem, err)
	}
	s.cluster = system.object.GetMetadata().GetUid()
	if err := s.expectAttendance(ctx); err != nil {
		return err
	}
	if err := s.bootstrapPauses(ctx); err != nil {
		return fmt.Errorf("read which controllers are paused: %w", err)
	}
	return s.bootstrapRoles(ctx)
}

func (s *Server) newGRPC() *grpc.Server {
	tls := insecure.NewCredentials() // nobody, as long as there is no authority
	if s.authority != nil {
		tls = credentials.NewTLS(identity.ServeTLS(s.self, s.authority.Certificate()))
	}
	g := grpc.NewServer(
		grpc.Creds(transport{tls}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// Clients ping every 10 s at the most; who pings faster is cut off.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	v1.RegisterResourcesServer(g, s)
	v1.RegisterStreamsServer(g, s.streams)
	v1.RegisterIdentityServer(g, &certificates{s: s})
	v1.RegisterClusterServer(g, &cluster{s: s})
	v1.RegisterControllersServer(g, &controllers{s: s})
	healthpb.RegisterHealthServer(g, s.health)
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	s.health.SetServingStatus(v1.Resources_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	reflection.Register(g)
	return g
}

// credentialsFor are those with which the server speaks to a node's agent.
func (s *Server) credentialsFor(node string) credentials.TransportCredentials {
	if s.authority == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(identity.DialTLS(identity.NodeServerName(node), s.self, s.authority.Certificate()))
}

// Self is the server's own key and certificate; nil without an authority.
func (s *Server) Self() *identity.Pair { return s.self }

// Serve answers the connections of a listener until ctx ends: TLS 1.3, with
// client certificates of the authority. Then it ends watches and streams with
// [api.ErrUnavailable], so that clients look for the next server, finishes the
// requests that it is serving, and returns. A server can serve several
// listeners; when one ends, all do, and for good.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.self != nil {
		ctx, cancel := context.WithCancel(ctx)
		var renewing sync.WaitGroup
		renewing.Go(func() {
			s.self.KeepFresh(ctx, s.authority.ForServer(), func(err error) { s.logger.Error("certificate not renewed", "error", err) })
		})
		defer renewing.Wait()
		defer cancel()
	}
	return s.serve(ctx, l)
}

func (s *Server) serve(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, s.Stop)()
	err := s.grpc.Serve(l)
	if s.running.Err() != nil { // not the end of the listener, but ours
		<-s.stopped
		return nil
	}
	return err
}

// ServeInner is Serve for connections within this process, without TLS: for the
// parts of the control plane, which may do everything and write in the name
// that each of them says.
func (s *Server) ServeInner(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, innerListener{l, &caller{
		User: identity.User{Name: "system:apiserver", Groups: []string{identity.GroupMasters, identity.GroupAuthenticated}}, trusted: true, inner: true,
	}})
}

// ServeAs is ServeInner for one user, who is no more trusted than with a
// certificate.
func (s *Server) ServeAs(ctx context.Context, l net.Listener, u identity.User) error {
	return s.serve(ctx, innerListener{l, &caller{User: u, inner: true}})
}

// Stop ends the server as Serve does when its context ends, and returns when no
// request is being served any more. It may be called twice.
func (s *Server) Stop() {
	s.stop.Do(func() {
		defer close(s.stopped)
		s.end()
		s.health.Shutdown()
		hard := time.AfterFunc(graceOfStop, s.grpc.Stop)
		defer hard.Stop()
		s.grpc.GracefulStop()
		s.streams.Close()
	})
	<-s.stopped
}

// objects are the objects of the server, for streams.
type objects struct{ s *Server }

func (o objects) Pod(ctx context.Context, verb, sub, namespace, name string) (*v1.Pod, error) {
	key, err := o.s.ask(ctx, verb, kindPod, sub, namespace, name)
	if err != nil {
		return nil, err
	}
	return get[*v1.Pod](ctx, o.s, key.Namespace, key.Name)
}

func (o objects) MayReadStats(ctx context.Context, node string) error {
	noteOf(ctx).object(kindNode, "", node)
	return o.s.authorize(ctx, on("get", kindNode, "stats", "", node))
}

func (o objects) Node(ctx context.Context, name string) (*v1.Node, error) {
	return get[*v1.Node](ctx, o.s, "", name)
}
