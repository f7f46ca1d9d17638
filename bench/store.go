package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/identity"
	"orch/pkg/store"
	"orch/pkg/store/boltstore"
	v1 "orch/proto/v1"
)

const (
	writers = 64
	// turn is how long the one writes before the other does: whatever else the
	// machine does for longer than that hits both.
	turn = 250 * time.Millisecond
	// turns is how often each has its turn in a round.
	turns = 8
)

// pod is the object that is written: about what a replica of the example is.
func pod(name string) *v1.Pod {
	return &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: api.NamespaceDefault, Labels: map[string]string{"app": "recommend-service", "pod-template-hash": "6d4cf56db6"}},
		Spec: &v1.PodSpec{Containers: []*v1.Container{{
			Name: "app", Image: "recommend-service:1.0.1",
			Ports:     []*v1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			Resources: &v1.ResourceRequirements{Requests: map[string]string{"cpu": "50m", "memory": "16Mi"}},
		}}},
	}
}

// perSecond lets 64 writers write for a turn, and returns the rate.
func perSecond(ctx context.Context, write func(ctx context.Context, n int64) error) (float64, error) {
	var n atomic.Int64
	begin := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for range writers {
		g.Go(func() error {
			for time.Since(begin) < turn {
				if err := write(ctx, n.Add(1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(n.Load()) / time.Since(begin).Seconds(), err
}

// comparison is what came of two that took turns: the medians of their rates, and
// of the ratios of turns that followed each other.
type comparison struct {
	orch, peer, ratio float64
}

// compare lets two take turns, each as often first as second.
func (b *bench) compare(ctx context.Context, orch, peer func(ctx context.Context, n int64) error) (comparison, error) {
	var o, p, ratios []float64
	for i := range b.rounds * turns {
		first, second := orch, peer
		if i%2 == 1 {
			first, second = second, first
		}
		x, err := perSecond(ctx, first)
		if err != nil {
			return comparison{}, err
		}
		y, err := perSecond(ctx, second)
		if err != nil {
			return comparison{}, err
		}
		if i%2 == 1 {
			x, y = y, x
		}
		o, p, ratios = append(o, x), append(p, y), append(ratios, x/y)
	}
	return comparison{median(o), median(p), median(ratios)}, nil
}

// store measures durable creates beside raw bbolt, the same bytes under the same
// kind of key, in files of the same disk.
func (b *bench) store(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "orch-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := boltstore.Open(filepath.Join(dir, "orch.db"), boltstore.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	raw, err := bbolt.Open(filepath.Join(dir, "raw.db"), 0o600, nil)
	if err != nil {
		return err
	}
	defer raw.Close()
	// With the default of 1,000, 64 writers would wait out the whole delay.
	raw.MaxBatchSize = writers
	bucket := []byte("pods")
	if err := raw.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(bucket); return err }); err != nil {
		return err
	}
	value, err := proto.Marshal(api.Wrap(pod("web")))
	if err != nil {
		return err
	}
	key := func(n int64) string { return fmt.Sprintf("Pod/default/web-%08d", n) }
	var orchN, rawN atomic.Int64
	c, err := b.compare(ctx,
		func(ctx context.Context, _ int64) error {
			_, err := s.Commit(ctx, store.Change{
				Key: key(orchN.Add(1)), Value: value, Expect: store.ExpectAbsent, Topics: []string{"Pod@node-1"},
				Cause: store.Cause{Actor: "bench", Reason: "Created", Message: "wanted 3, had 2", Trigger: 1},
			})
			return err
		},
		func(_ context.Context, _ int64) error {
			k := []byte(key(rawN.Add(1)))
			return raw.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(k, value) })
		})
	if err != nil {
		return err
	}
	b.compared("store: durable creates, 64 writers", c, "raw bbolt.Batch", 0.5)
	return nil
}

// echo answers Create with what it was sent: what the wire alone costs.
type echo struct {
	v1.UnimplementedResourcesServer
}

func (echo) Create(_ context.Context, r *v1.CreateRequest) (*v1.Object, error) {
	return r.GetObject(), nil
}

// grpc measures creates through the API beside a unary echo of the same message,
// both over loopback and the same TLS.
func (b *bench) grpc(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "orch-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := boltstore.Open(filepath.Join(dir, "orch.db"), boltstore.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	authority, err := identity.OpenAuthority(dir, time.Hour)
	if err != nil {
		return err
	}
	user, err := identity.NewPair(ctx, "", authority.For(identity.User{Name: "bench", Groups: []string{identity.GroupMasters}}))
	if err != nil {
		return err
	}
	dialTLS := credentials.NewTLS(identity.DialTLS(identity.ServerName, user, authority.Certificate()))
	server, err := apiserver.New(s, apiserver.Options{Authority: authority})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- server.Serve(serving, l) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, "bench: serve:", err)
		}
	}()
	c, err := client.Dial(l.Addr().String(), "bench", grpc.WithTransportCredentials(dialTLS))
	if err != nil {
		return err
	}
	defer c.Close()

	el, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	es := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServeTLS(server.Self(), authority.Certificate()))))
	v1.RegisterResourcesServer(es, echo{})
	go func() { _ = es.Serve(el) }()
	defer es.Stop()
	conn, err := grpc.NewClient(el.Addr().String(), grpc.WithTransportCredentials(dialTLS))
	if err != nil {
		return err
	}
	defer conn.Close()
	echoes := v1.NewResourcesClient(conn)

	var n atomic.Int64
	request := func() *v1.CreateRequest {
		return &v1.CreateRequest{
			Object: api.Wrap(pod(fmt.Sprintf("web-%08d", n.Add(1)))),
			Cause:  &v1.Cause{Actor: "bench", Reason: "Created", Message: "wanted 3, had 2", Trigger: 1},
		}
	}
	resources := c.Resources()
	rates, err := b.compare(ctx,
		func(ctx context.Context, _ int64) error { _, err := resources.Create(ctx, request()); return err },
		func(ctx context.Context, _ int64) error { _, err := echoes.Create(ctx, request()); return err })
	if err != nil {
		return err
	}
	b.compared("grpc: durable creates, 64 writers", rates, "unary echo of the same message", 0.35)
	return nil
}
