package apiserver_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/store"
	"orch/pkg/store/boltstore"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long tests wait for what must come.
const patience = 2 * time.Minute

// server is a real server on a listener in memory, with the real client. It can
// be restarted under its clients.
type server struct {
	*client.Client
	store   store.Store
	conn    *grpc.ClientConn
	options apiserver.Options
	api     *apiserver.Server
	listen  atomic.Pointer[bufconn.Listener]
	stop    func() error // stops the server and waits for it; the store stays
}

// start returns a server on an empty store in memory.
func start(t testing.TB) *server {
	t.Helper()
	return startOn(t, memstore.New(), apiserver.Options{})
}

func startOn(t testing.TB, s store.Store, o apiserver.Options) *server {
	t.Helper()
	srv, err := newServer(s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, srv) })
	return srv
}

func newServer(s store.Store, o apiserver.Options) (*server, error) {
	srv := &server{store: s, options: o}
	if err := srv.start(); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///server",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return srv.listen.Load().DialContext(ctx) }))
	if err != nil {
		return nil, err
	}
	srv.conn, srv.Client = conn, client.New(conn, "tester")
	return srv, nil
}

func (s *server) start() error {
	a, err := apiserver.New(s.store, s.options)
	if err != nil {
		return err
	}
	l := bufconn.Listen(1 << 20)
	s.api = a
	s.listen.Store(l)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.ServeInner(ctx, l) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-served })
	return nil
}

func (s *server) close() error {
	s.conn.Close()
	err := s.stop()
	s.store.Close()
	return err
}

func closed(t interface{ Error(args ...any) }, s *server) {
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// startOnDisk returns a server on an empty bolt file.
func startOnDisk(t testing.TB, o apiserver.Options) (*server, *boltstore.Store) {
	t.Helper()
	b, err := boltstore.Open(filepath.Join(t.TempDir(), "store.db"), boltstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, b, o), b
}

// pod is a pod that is valid.
func pod(name string) *v1.Pod {
	return &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "web"}},
		Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "web", Image: "web:1"}}},
	}
}

func configMap(name string) *v1.ConfigMap {
	return &v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"}, Data: map[string]string{"key": "value"}}
}

func deployment(name string) *v1.Deployment {
	labels := map[string]string{"app": name}
	return &v1.Deployment{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: &v1.DeploymentSpec{
			Selector: &v1.LabelSelector{MatchLabels: labels},
			Template: &v1.PodTemplateSpec{Metadata: &v1.ObjectMeta{Labels: labels}, Spec: pod("").GetSpec()},
		},
	}
}

func namespace(name string) *v1.Namespace {
	return &v1.Namespace{Metadata: &v1.ObjectMeta{Name: name}}
}

// must is for what has to succeed: must(t)(f()).
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func names[T interface{ GetMetadata() *v1.ObjectMeta }](objects []T) string {
	var s []string
	for _, o := range objects {
		s = append(s, o.GetMetadata().GetName())
	}
	return fmt.Sprint(s)
}
