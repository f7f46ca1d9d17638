// Package testcluster is a whole cluster in one process, for tests that tell a
// story: an API server on a store in memory, the controllers, the scheduler, and
// node agents on simulated engines, wired as the commands wire them, through
// connections in memory.
//
// The one invariant: nothing in it leaves the process, and time comes from the
// time package alone; so in a testing/synctest bubble a story of ten minutes
// takes none.
//
// Read next: story_test.go.
package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/container/fake"
	"orch/pkg/controller"
	"orch/pkg/identity"
	"orch/pkg/scheduler"
	"orch/pkg/store"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

// Options describe a cluster. The zero value is one node and all defaults.
type Options struct {
	// Nodes is how many nodes there are; 0 is 1. They are called node-1, node-2
	// and so on.
	Nodes int
	// Engine describes the simulated engine of a node; nil is fake's default.
	Engine func(node string) fake.Options
	// Store holds the state; nil is a new one in memory. It is closed with the
	// cluster.
	Store store.Store
	// Controllers are options of the controllers.
	Controllers controller.Options
	// Patience is how long Eventually waits; 0 is a minute. In a bubble it can
	// be as long as the story.
	Patience time.Duration
}

// Cluster is a running cluster. It ends with its test.
//
// Concurrency: its methods are for the goroutine of the test.
type Cluster struct {
	t       testing.TB
	options Options
	store   store.Store
	logger  *slog.Logger
	client  *client.Client
	id      string // of the cluster
	nodes   []*Node
	links   map[string]*Link // by node, and by the address of its agent

	mu     sync.Mutex                   // guards what follows, which dialers read
	doors  map[string]*bufconn.Listener // of the API server, by the node that comes through; "" is the control plane and the test
	agents map[string]*bufconn.Listener // by the address of the node

	// Crashes has how long the API server is to be down, when an experiment crashes
	// it. Whoever tells the story stops and starts it.
	Crashes chan time.Duration

	stopServer func()
}

// Start starts a cluster, which ends with the test, and returns when all nodes
// are ready. It is called in a testing/synctest bubble.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.Store == nil {
		o.Store = memstore.New()
	}
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	c := &Cluster{t: t, options: o, store: o.Store, agents: map[string]*bufconn.Listener{}, links: map[string]*Link{}, Crashes: make(chan time.Duration, 1)}
	for i := range o.Nodes {
		l := newLink()
		c.links[nodeName(i)], c.links[streamsAddress(i)] = l, l
		t.Cleanup(l.end)
	}
	var log lockedBuffer
	c.logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	t.Cleanup(func() {
		if err := c.store.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("warnings of the cluster:\n%s\nwhat was written:\n%s", log.String(), c.history())
		}
	})
	c.client = c.dial("test", "")
	t.Cleanup(func() { _ = c.client.Close() })
	c.StartAPIServer()
	t.Cleanup(func() { c.StopAPIServer() })
	system, err := client.For[*v1.Namespace](c.client).Get(t.Context(), "", api.NamespaceSystem)
	if err != nil {
		t.Fatal(err)
	}
	c.id = system.GetMetadata().GetUid()
	for i := range o.Nodes {
		n := c.newNode(i)
		c.nodes = append(c.nodes, n)
		n.Start()
	}
	c.Eventually("all nodes are ready", func() bool { return c.readyNodes() == o.Nodes })
	// The scheduler hears of a node on another watch than of the pods: without a
	// wait, the first pods could be placed before the last node is seen.
	synctest.Wait()
	return c
}

func (c *Cluster) readyNodes() int {
	c.t.Helper()
	l, err := client.For[*v1.Node](c.client).List(c.t.Context(), client.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	ready := 0
	for _, n := range l.Items {
		if api.IsNodeReady(n) {
			ready++
		}
	}
	return ready
}

// Client is a client of the API, in the name of "test".
func (c *Cluster) Client() *client.Client { return c.client }

// Node is the node with the index i, from 0.
func (c *Cluster) Node(i int) *Node { return c.nodes[i] }

// Runtime is the engine of the node with the index i.
func (c *Cluster) Runtime(i int) *fake.Engine { return c.nodes[i].Engine }

// dial returns a client that finds the API server also after a restart. The
// caller closes it. A node is let in as one, with no more rights than a machine
// with a certificate; "" may do everything.
func (c *Cluster) dial(actor, node string) *client.Client {
	c.t.Helper()
	d, err := client.Dial("passthrough:///apiserver", actor, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return c.through(ctx, node, Up, func(ctx context.Context) (net.Conn, error) {
			c.mu.Lock()
			l := c.doors[node]
			c.mu.Unlock()
			if l == nil {
				return nil, errors.New("connection refused")
			}
			return l.DialContext(ctx)
		})
	}))
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// through dials over the link of a node, or of an agent's address; the control
// plane, "", has none.
func (c *Cluster) through(ctx context.Context, node string, out int, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if l := c.links[node]; l != nil {
		return l.dial(ctx, out, dial)
	}
	return dial(ctx)
}

// StartAPIServer starts the API server with the controllers and the scheduler,
// as the command does.
func (c *Cluster) StartAPIServer() {
	c.t.Helper()
	server, err := apiserver.New(c.store, apiserver.Options{
		Logger: c.logger, DialNode: c.dialNode,
		NotReadySeconds: api.DefaultNotReadySeconds, UnreachableSeconds: api.DefaultUnreachableSeconds,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	inside := bufconn.Listen(1 << 20)
	doors := map[string]*bufconn.Listener{"": inside}
	var serving errgroup.Group
	serving.Go(func() error { return server.ServeInner(context.Background(), inside) })
	for i := range c.options.Nodes {
		l := bufconn.Listen(1 << 20)
		doors[nodeName(i)] = l
		serving.Go(func() error { return server.ServeAs(context.Background(), l, identity.Node(nodeName(i), "")) })
	}
	c.mu.Lock()
	c.doors = doors
	c.mu.Unlock()
	inner := c.dial("apiserver", "")
	ctx, cancel := context.WithCancel(context.Background())
	components, ctx := errgroup.WithContext(ctx)
	o := c.options.Controllers
	o.Logger, o.Server = c.logger, breakable{server, c.Crashes}
	components.Go(func() error { return controller.Run(ctx, inner, o) })
	components.Go(func() error { return scheduler.New(inner, scheduler.Options{Logger: c.logger}).Run(ctx) })
	c.stopServer = sync.OnceFunc(func() {
		cancel()
		if err := components.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			c.t.Errorf("controllers and scheduler: %v", err)
		}
		_ = inner.Close()
		c.mu.Lock()
		c.doors = nil
		c.mu.Unlock()
		server.Stop()
		if err := serving.Wait(); err != nil {
			c.t.Errorf("API server: %v", err)
		}
	})
}

// breakable is the API server as what experiments break.
type breakable struct {
	*apiserver.Server
	crashes chan<- time.Duration
}

func (b breakable) Crash(down time.Duration) error {
	select {
	case b.crashes <- down:
	default: // it is about to crash
	}
	return nil
}

// StopAPIServer ends API server, controllers and scheduler. The store stays.
func (c *Cluster) StopAPIServer() { c.stopServer() }

// RestartAPIServer ends API server, controllers and scheduler, and starts them
// anew.
func (c *Cluster) RestartAPIServer() {
	c.t.Helper()
	c.StopAPIServer()
	c.StartAPIServer()
}

// dialNode connects the API server to an agent.
func (c *Cluster) dialNode(ctx context.Context, address string) (net.Conn, error) {
	return c.through(ctx, address, Down, func(ctx context.Context) (net.Conn, error) {
		c.mu.Lock()
		l := c.agents[address]
		c.mu.Unlock()
		if l == nil {
			return nil, errors.New("no route to host")
		}
		return l.DialContext(ctx)
	})
}

// Apply applies manifests in YAML.
func (c *Cluster) Apply(text string) {
	c.t.Helper()
	for doc, err := range manifest.Decode(strings.NewReader(text), "test", manifest.Strict) {
		if err != nil {
			c.t.Fatal(err)
		}
		if _, _, _, err := c.client.Apply(c.t.Context(), doc.JSON, client.ApplyOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Eventually waits until the condition holds. It looks again after each write
// and, for conditions that are not in the store, from time to time.
func (c *Cluster) Eventually(what string, condition func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), c.options.Patience)
	defer cancel()
	w := c.store.Watch("", c.store.Revision())
	defer w.Close()
	for !condition() {
		if ctx.Err() != nil {
			c.t.Fatalf("after %v it is still not true that %s\n%s", c.options.Patience, what, c.describe())
		}
		wait, stop := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := w.Next(wait)
		stop()
		if err != nil && wait.Err() == nil {
			c.t.Fatalf("%s: %v", what, err)
		}
	}
}

// Always looks, after each write of a time, whether the condition holds.
func (c *Cluster) Always(what string, d time.Duration, condition func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	w := c.store.Watch("", c.store.Revision())
	defer w.Close()
	for {
		if !condition() {
			c.t.Fatalf("it is no longer true that %s\n%s", what, c.describe())
		}
		if _, err := w.Next(ctx); ctx.Err() != nil {
			return
		} else if err != nil {
			c.t.Fatalf("%s: %v", what, err)
		}
	}
}

// Pods are the pods with a label; "" is all.
func (c *Cluster) Pods(selector string) []*v1.Pod {
	c.t.Helper()
	l, err := client.For[*v1.Pod](c.client).List(c.t.Context(), client.ListOptions{LabelSelector: selector})
	if err != nil {
		c.t.Fatal(err)
	}
	return l.Items
}

// Ready are those of the pods that are ready and not about to end.
func (c *Cluster) Ready(selector string) []*v1.Pod {
	c.t.Helper()
	var ready []*v1.Pod
	for _, p := range c.Pods(selector) {
		if api.IsPodReady(p) && api.IsPodActive(p) {
			ready = append(ready, p)
		}
	}
	return ready
}

// history is the log of the store, but for what is written every few seconds.
func (c *Cluster) history() string {
	var b strings.Builder
	entries, err := c.store.Log(context.Background(), c.store.Compacted(), 0)
	if err != nil {
		return err.Error()
	}
	for _, e := range entries {
		if e.Cause.Reason != "Heartbeat" {
			fmt.Fprintf(&b, "%5d %s %-24s %-40s %s: %s (%d)\n", e.Revision, e.Time.Format("15:04:05.000"), e.Cause.Actor, e.Key, e.Cause.Reason, e.Cause.Message, e.Cause.Trigger)
		}
	}
	return b.String()
}

// describe is what a failed test shows of the cluster.
func (c *Cluster) describe() string {
	var b strings.Builder
	ctx := context.Background()
	if l, err := client.For[*v1.Node](c.client).List(ctx, client.ListOptions{}); err == nil {
		for _, n := range l.Items {
			fmt.Fprintf(&b, "node %s ready %v\n", n.GetMetadata().GetName(), api.IsNodeReady(n))
		}
	}
	if l, err := client.For[*v1.Pod](c.client).List(ctx, client.ListOptions{}); err == nil {
		for _, p := range l.Items {
			fmt.Fprintf(&b, "pod %s on %q %s ready %v ending %v %v\n", p.GetMetadata().GetName(), p.GetSpec().GetNodeName(),
				p.GetStatus().GetPhase(), api.IsPodReady(p), p.GetMetadata().GetDeletionTimestamp() != nil, p.GetStatus().GetContainerStatuses())
		}
	}
	if l, err := client.For[*v1.Event](c.client).List(ctx, client.ListOptions{}); err == nil {
		for _, e := range l.Items {
			fmt.Fprintf(&b, "event %s %s: %s\n", e.GetInvolvedObject().GetName(), e.GetReason(), e.GetMessage())
		}
	}
	return b.String()
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

var _ io.Writer = (*lockedBuffer)(nil)

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
