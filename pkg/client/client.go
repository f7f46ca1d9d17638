// Package client is the typed client of the API: what controllers, scheduler,
// agents and orchctl use, and the only way to the cluster's state.
//
//	pods := client.For[*v1.Pod](c)
//	pod, err := pods.Get(ctx, "default", "web-1")
//
// The one invariant: every write names its cause, and every error is one of the
// kinds of pkg/api, so that errors.Is(err, api.ErrNotFound) means the same on
// both sides of the wire.
//
// Read next: resource.go (the verbs), cause.go (why something is written, and
// what was), recorder.go (events for people), then pkg/informer.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"iter"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

const (
	// maxMessage bounds what the client takes in one message. A page of a list
	// is the largest; pages are pageSize objects.
	maxMessage = 64 << 20
	// callTimeout ends a call whose context has no deadline of its own: a hung
	// server must not hold a worker for ever.
	callTimeout = 30 * time.Second
	// pingEvery and pingTimeout are when a silent connection is tested and
	// given up, so that a watch notices a machine that vanished. 10 s is the
	// least that gRPC allows.
	pingEvery   = 10 * time.Second
	pingTimeout = 5 * time.Second
	// maxReconnect is the longest pause between two tries to reach the server:
	// short, because containers are not healed while the agents wait.
	maxReconnect = time.Second
)

// Client speaks to one API server as one actor.
//
// Concurrency: all methods may be called from several goroutines.
type Client struct {
	actor       string
	conn        grpc.ClientConnInterface
	resources   v1.ResourcesClient
	streams     v1.StreamsClient
	identity    v1.IdentityClient
	cluster     v1.ClusterClient
	controllers v1.ControllersClient
	close       func() error
}

// Dial returns a client of the server at target, which is "host:port" or
// "unix:///path". It connects when the first call is made and reconnects by
// itself, at the latest every second. A server in this process takes actor for
// the one who writes; any other believes the certificate alone, see [TLS].
// Options in opts win over Dial's own.
func Dial(target, actor string, opts ...grpc.DialOption) (*Client, error) {
	if !strings.Contains(target, ":///") && !strings.HasPrefix(target, "unix:") {
		// The plain dialer looks a host name up at every try, where gRPC's own
		// resolver waits half a minute before it looks again.
		target = "passthrough:///" + target
	}
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect},
			MinConnectTimeout: 2 * time.Second,
		}),
	}, opts...)...)
	if err != nil {
		return nil, api.Errorf(api.ErrBadRequest, "server address %q: %v", target, err)
	}
	c := New(conn, actor)
	c.close = conn.Close
	return c, nil
}

// New returns a client that speaks through conn, which stays the caller's.
func New(conn grpc.ClientConnInterface, actor string) *Client {
	return &Client{
		actor:       actor,
		conn:        conn,
		resources:   v1.NewResourcesClient(conn),
		streams:     v1.NewStreamsClient(conn),
		identity:    v1.NewIdentityClient(conn),
		cluster:     v1.NewClusterClient(conn),
		controllers: v1.NewControllersClient(conn),
		close:       func() error { return nil },
	}
}

// As returns a client that writes in another name over the same connection.
// Closing either does not matter to the connection of a New, and ends that of a
// Dial for both.
func (c *Client) As(actor string) *Client {
	other := *c
	other.actor = actor
	return &other
}

// ClusterKey is the gRPC metadata in which a client names the cluster that it
// means.
const ClusterKey = "orch-cluster"

// ActorKey is the gRPC metadata in which a part of the server's own process says
// whose watch it opens. Of anybody else, it is not believed.
const ActorKey = "orch-actor"

// OfCluster returns a client that speaks to the API server of one cluster only,
// over the same connection. Another cluster's server that has come to listen at
// the same address answers it with [api.ErrUnavailable], as if it were away.
func (c *Client) OfCluster(uid string) *Client {
	other := New(clusterConn{c.conn, uid}, c.actor)
	other.close = c.close
	return other
}

// WarningKey is the gRPC metadata in which a server sends, before its answer,
// what the user should know although the request was done.
const WarningKey = "orch-warning-bin"

// OnWarning makes [Dial] call f for each warning, before a call or the
// first answer of a stream returns.
func OnWarning(f func(text string)) []grpc.DialOption {
	all := func(header metadata.MD) {
		for _, text := range header.Get(WarningKey) {
			f(text)
		}
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			var header metadata.MD
			err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Header(&header))...)
			all(header)
			return err
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := open(ctx, desc, cc, method, opts...)
			return &warnedStream{s, sync.OnceFunc(func() {
				if header, err := s.Header(); err == nil {
					all(header)
				}
			})}, err
		}),
	}
}

// warnedStream has its header read with the first answer.
type warnedStream struct {
	grpc.ClientStream
	warn func()
}

func (s *warnedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	s.warn()
	return err
}

// clusterConn adds the cluster's id to every call.
type clusterConn struct {
	grpc.ClientConnInterface
	uid string
}

func (c clusterConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.ClientConnInterface.Invoke(metadata.AppendToOutgoingContext(ctx, ClusterKey, c.uid), method, args, reply, opts...)
}

func (c clusterConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.ClientConnInterface.NewStream(metadata.AppendToOutgoingContext(ctx, ClusterKey, c.uid), desc, method, opts...)
}

// Actor is the name in which the client writes.
func (c *Client) Actor() string { return c.actor }

// Resources is the generated client, for calls that the typed one lacks.
func (c *Client) Resources() v1.ResourcesClient { return c.resources }

// Streams is the generated client of the service for logs and exec.
func (c *Client) Streams() v1.StreamsClient { return c.streams }

// Identity is the generated client of the service that makes certificates.
func (c *Client) Identity() v1.IdentityClient { return c.identity }

// Cluster is the generated client of the service that tells nodes about each
// other.
func (c *Client) Cluster() v1.ClusterClient { return c.cluster }

// Controllers is the generated client of the service that pauses controllers.
func (c *Client) Controllers() v1.ControllersClient { return c.controllers }

// TLS is an option of [Dial] for a server that is not in this process.
func TLS(c *tls.Config) grpc.DialOption {
	return grpc.WithTransportCredentials(credentials.NewTLS(c))
}

// Close ends the connection that Dial opened.
func (c *Client) Close() error { return c.close() }

// ApplyOptions are for [Client.Apply].
type ApplyOptions struct {
	DryRun bool
	// Validation of unknown fields: Strict (also ""), Warn or Ignore.
	Validation string
}

// Apply sends one JSON document in Kubernetes' form and returns the object as
// it now is, what happened to it (created, configured, unchanged), and warnings
// for the user.
func (c *Client) Apply(ctx context.Context, manifest []byte, o ApplyOptions) (api.Object, string, []string, error) {
	call, cancel := withTimeout(ctx)
	defer cancel()
	r, err := c.resources.Apply(call, &v1.ApplyRequest{
		Manifest: manifest, DryRun: o.DryRun, FieldValidation: o.Validation,
		Cause: c.cause(ctx, "Apply"),
	})
	if err != nil {
		return nil, "", nil, callError(ctx, err)
	}
	object := api.Unwrap(r.GetObject())
	if object == nil {
		return nil, "", nil, api.Errorf(api.ErrInternal, "the server answered with an object of a kind that this client does not know")
	}
	if !o.DryRun {
		noteWrite(ctx, object)
	}
	return object, r.GetResult(), r.GetWarnings(), nil
}

// History yields entries of the log, oldest first; an error ends it.
func (c *Client) History(ctx context.Context, r *v1.HistoryRequest) iter.Seq2[*v1.LogEntry, error] {
	return func(yield func(*v1.LogEntry, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.resources.History(ctx, r)
		for err == nil {
			var e *v1.LogEntry
			if e, err = stream.Recv(); err == nil && !yield(e, nil) {
				return
			}
		}
		if !isEOF(err) {
			yield(nil, callError(ctx, err))
		}
	}
}

// withTimeout gives a call an end where its context has none.
func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callTimeout)
}

// callError turns what gRPC returned into an error of pkg/api; or into the
// context's own where the caller has ended the call.
func callError(ctx context.Context, err error) error {
	if c := ctx.Err(); c != nil && errors.Is(c, context.Canceled) {
		return c
	}
	return api.FromStatus(err)
}
