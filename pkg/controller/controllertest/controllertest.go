// Package controllertest is a cluster for the tests of controllers: a real API
// server on a store in memory, and an agent that only pretends.
//
// The one invariant: tests wait for writes, never for time.
//
// Read next: any integration test below pkg/controller.
package controllertest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/store"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

// patience is how long Eventually waits for a write that makes its condition
// true. It is a limit for broken tests, not a measure.
const patience = 2 * time.Minute

// Cluster is an API server and a client of it.
type Cluster struct {
	Client *client.Client
	Store  store.Store

	t testing.TB

	mu       sync.Mutex // protects what follows
	listener *bufconn.Listener
	stop     func() // ends the server; nil while there is none
}

// Start starts a cluster that ends with the test.
func Start(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{Store: memstore.New(), t: t, listener: bufconn.Listen(1)}
	_ = c.listener.Close()
	conn, err := client.Dial("passthrough:///server", "test", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		c.mu.Lock()
		l := c.listener
		c.mu.Unlock()
		return l.DialContext(ctx)
	}))
	if err != nil {
		t.Fatal(err)
	}
	c.Client = conn
	c.StartServer()
	t.Cleanup(func() {
		_ = conn.Close()
		c.StopServer()
		_ = c.Store.Close()
	})
	return c
}

// StartServer starts the API server again after StopServer.
func (c *Cluster) StartServer() {
	c.t.Helper()
	server, err := apiserver.New(c.Store, apiserver.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.ServeInner(ctx, l); err != nil {
			c.t.Errorf("serve: %v", err)
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listener = l
	c.stop = func() { cancel(); <-done }
}

// StopServer ends the API server; the store stays.
func (c *Cluster) StopServer() {
	c.mu.Lock()
	stop := c.stop
	c.stop = nil
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// Go runs something that lives until the test ends, before the server does.
func (c *Cluster) Go(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil {
			c.t.Errorf("run: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	c.t.Cleanup(stop)
	return stop
}

// Eventually waits until the condition holds, looking again after every write
// and, for conditions that are not in the store, from time to time.
func (c *Cluster) Eventually(what string, condition func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := c.Store.Watch("", c.Store.Revision())
	defer w.Close()
	for !condition() {
		wait, stop := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := w.Next(wait)
		stop()
		if err != nil && (ctx.Err() != nil || wait.Err() == nil) {
			c.t.Fatalf("never came true: %s (%v)", what, err)
		}
	}
}

// Quiet waits until no write has come for a moment, and returns how many writes
// the log holds. It is for tests that count writes, which run in a bubble of
// testing/synctest: there the moment passes only when nothing is left to do, on
// a busy machine too.
func (c *Cluster) Quiet() int64 {
	c.t.Helper()
	for {
		w := c.Store.Watch("", c.Store.Revision())
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		_, err := w.Next(ctx)
		cancel()
		w.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			return c.Store.Revision()
		}
	}
}

// Agent pretends to schedule and run pods: all go to one node, are at once ready,
// unless Ready says otherwise, and end as soon as they are asked to.
type Agent struct {
	// Node is where the pods go; default "node-1".
	Node string
	// Ready says whether a pod is ready; nil: all are.
	Ready func(*v1.Pod) bool
	// Holds says whether a pod stays though it was asked to end; nil: none.
	Holds func(*v1.Pod) bool
}

// Run works until ctx ends. Conflicts are left to the next event.
func (a Agent) Run(ctx context.Context, c *client.Client) error {
	pods := client.For[*v1.Pod](c.As("agent"))
	for e, err := range pods.Watch(ctx, client.WatchOptions{}) {
		if err != nil {
			return nil // the end of ctx, or of the server
		}
		if e.Object == nil || e.Type == v1.WatchEvent_TYPE_DELETED {
			continue
		}
		if err := a.handle(ctx, pods, e.Object); err != nil && ctx.Err() == nil &&
			!errors.Is(err, api.ErrConflict) && !errors.Is(err, api.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (a Agent) handle(ctx context.Context, pods client.Resource[*v1.Pod], p *v1.Pod) error {
	m := p.GetMetadata()
	switch {
	case m.GetDeletionTimestamp() != nil:
		if a.Holds != nil && a.Holds(p) || m.GetDeletionGracePeriodSeconds() == 0 {
			return nil
		}
		now := int64(0)
		_, err := pods.Delete(ctx, m.GetNamespace(), m.GetName(), client.DeleteOptions{GracePeriodSeconds: &now, UID: m.GetUid()})
		return err
	case p.GetSpec().GetNodeName() == "":
		p.Spec.NodeName = a.Node
		if a.Node == "" {
			p.Spec.NodeName = "node-1"
		}
		_, err := pods.Update(ctx, p)
		return err
	case p.GetStatus().GetPhase() != api.PodPending && p.GetStatus().GetPhase() != "":
		return nil
	case a.Ready == nil || a.Ready(p):
		return SetReady(ctx, pods, p, true)
	}
	return SetReady(ctx, pods, p, false)
}

// SetReady makes a pod run, ready or not.
func SetReady(ctx context.Context, pods client.Resource[*v1.Pod], p *v1.Pod, ready bool) error {
	p = api.Clone(p)
	if p.Status == nil {
		p.Status = &v1.PodStatus{}
	}
	p.Status.Phase = api.PodRunning
	status := api.ConditionFalse
	if ready {
		status = api.ConditionTrue
	}
	api.SetCondition(&p.Status.Conditions, &v1.Condition{Type: api.PodReady, Status: status}, time.Now())
	_, err := pods.UpdateStatus(ctx, p)
	return err
}
