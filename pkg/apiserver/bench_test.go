package apiserver_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/store/boltstore"
	v1 "orch/proto/v1"
)

// BenchmarkCreate is durable creates through gRPC by 64 writers; BenchmarkEcho
// is the same message through gRPC with nothing behind it. Their ratio is what
// admission and the disk cost.
func BenchmarkCreate(b *testing.B) {
	s, err := boltstore.Open(b.TempDir()+"/store.db", boltstore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	server, err := apiserver.New(s, apiserver.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Stop()
	writers(b, func(l net.Listener) error { return server.ServeInner(context.Background(), l) })
}

func BenchmarkEcho(b *testing.B) {
	g := grpc.NewServer()
	v1.RegisterResourcesServer(g, echo{})
	defer g.Stop()
	writers(b, g.Serve)
}

type echo struct {
	v1.UnimplementedResourcesServer
}

func (echo) Create(_ context.Context, r *v1.CreateRequest) (*v1.Object, error) {
	return r.GetObject(), nil
}

// writers creates b.N pods from 64 goroutines on one connection.
func writers(b *testing.B, serve func(net.Listener) error) {
	l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	c := v1.NewResourcesClient(conn)
	var n atomic.Int64
	b.SetParallelism(32) // times two processors
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p := pod(fmt.Sprintf("pod-%d", n.Add(1)))
			_, err := c.Create(b.Context(), &v1.CreateRequest{Object: api.Wrap(p), Cause: &v1.Cause{Actor: "bench", Reason: "Bench", Message: "a pod of the benchmark"}})
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}
