package apiserver

import (
	"context"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// leases hands on which nodes say that they live. It keeps nothing, and nor does
// the store: a revision for each second of each node would drown all others, and
// nobody wants to read it later.
//
// Concurrency: all methods may be called from several goroutines.
type leases struct {
	mu        sync.Mutex
	listeners map[*listener]bool
}

// listener is one who wants to know. News wait in it, once for each node, so
// that a slow one holds up nobody.
type listener struct {
	news map[string]bool // guarded by the mutex of leases
	wake chan struct{}   // of size 1
}

func (l *leases) renew(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.listeners {
		w.news[node] = true
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (l *leases) listen() *listener {
	w := &listener{news: map[string]bool{}, wake: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	api.Put(&l.listeners, w, true)
	return w
}

func (l *leases) close(w *listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.listeners, w)
}

// take returns the nodes with news, by name.
func (l *leases) take(w *listener) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	nodes := slices.Sorted(maps.Keys(w.news))
	clear(w.news)
	return nodes
}

// RenewLease takes in that a node lives.
func (c *cluster) RenewLease(ctx context.Context, _ *v1.RenewLeaseRequest) (*v1.RenewLeaseResponse, error) {
	if err := nodesOnly(ctx); err != nil {
		return nil, err
	}
	name := callerOf(ctx).NodeName()
	c.s.leases.renew(name)
	r, err := c.s.current(ctx, kindNode, "", name)
	if err != nil {
		return nil, err
	}
	ready := api.GetCondition(r.object.(*v1.Node).GetStatus().GetConditions(), api.NodeReady).GetStatus()
	return &v1.RenewLeaseResponse{Unknown: ready != api.ConditionTrue && ready != api.ConditionFalse}, nil
}

// Leases sends the names of nodes that say that they live, as they do.
func (c *cluster) Leases(_ *v1.LeasesRequest, stream grpc.ServerStreamingServer[v1.LeasesResponse]) error {
	ctx := stream.Context()
	if err := c.s.authorize(ctx, on("watch", kindNode, "", "", "")); err != nil {
		return err
	}
	w := c.s.leases.listen()
	defer c.s.leases.close(w)
	// The first says that whoever listens hears all from now on.
	for {
		if err := stream.Send(&v1.LeasesResponse{Nodes: c.s.leases.take(w)}); err != nil {
			return err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
