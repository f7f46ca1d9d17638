package apiserver_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

// fakeAgent serves streams that tests script.
type fakeAgent struct {
	v1.UnimplementedStreamsServer
	logs func(*v1.LogsRequest, grpc.ServerStreamingServer[v1.LogsChunk]) error
	exec func(grpc.BidiStreamingServer[v1.ExecInput, v1.ExecOutput]) error
	// conn is the last connection from the API server.
	conn *staleConn
}

func (*fakeAgent) Containers(context.Context, *v1.ContainersRequest) (*v1.ContainersResponse, error) {
	return &v1.ContainersResponse{Containers: []*v1.NodeContainer{{Id: "abc"}}}, nil
}

// staleConn may have ended at the other end: who writes is told that when he reads.
type staleConn struct {
	net.Conn
	stale atomic.Bool
}

func (c *staleConn) Write(b []byte) (int, error) {
	if c.stale.Load() {
		return len(b), c.Close()
	}
	return c.Conn.Write(b)
}

func (a *fakeAgent) Logs(r *v1.LogsRequest, s grpc.ServerStreamingServer[v1.LogsChunk]) error {
	return a.logs(r, s)
}

func (a *fakeAgent) Exec(s grpc.BidiStreamingServer[v1.ExecInput, v1.ExecOutput]) error {
	return a.exec(s)
}

const agentAddress = "10.0.0.1:10250"

// withAgent is a server with the node node-1, whose agent is a, and the pods
// web (one container), pair (two), new (no node) and lost (on a node whose agent
// does not answer).
func withAgent(t *testing.T, a *fakeAgent) *server {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	v1.RegisterStreamsServer(g, a)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})

	s := startOn(t, memstore.New(), apiserver.Options{DialNode: func(ctx context.Context, address string) (net.Conn, error) {
		if address != agentAddress {
			return nil, errors.New("no route to host")
		}
		conn, err := l.DialContext(ctx)
		a.conn = &staleConn{Conn: conn}
		return a.conn, err
	}})
	for name, ip := range map[string]string{"node-1": "10.0.0.1", "node-2": "10.0.0.2"} {
		must[*v1.Node](t)(client.For[*v1.Node](s.Client).Create(t.Context(), &v1.Node{
			Metadata: &v1.ObjectMeta{Name: name},
			Status: &v1.NodeStatus{
				Addresses:       []*v1.NodeAddress{{Type: "Hostname", Address: name}, {Type: "InternalIP", Address: ip}},
				DaemonEndpoints: &v1.NodeDaemonEndpoints{KubeletEndpoint: &v1.DaemonEndpoint{Port: 10250}},
			},
		}))
	}
	for name, node := range map[string]string{"web": "node-1", "pair": "node-1", "new": "", "lost": "node-2", "stray": "node-3"} {
		p := pod(name)
		p.Spec.NodeName = node
		if name == "pair" {
			p.Spec.Containers = append(p.Spec.Containers, &v1.Container{Name: "side", Image: "side:1"})
			p.Spec.InitContainers = []*v1.Container{{Name: "setup", Image: "setup:1"}}
		}
		must[*v1.Pod](t)(client.For[*v1.Pod](s.Client).Create(t.Context(), p))
	}
	return s
}

func TestLogsComeFromTheAgentOfThePodsNode(t *testing.T) {
	s := withAgent(t, &fakeAgent{logs: func(r *v1.LogsRequest, s grpc.ServerStreamingServer[v1.LogsChunk]) error {
		return s.Send(&v1.LogsChunk{Data: []byte(r.GetNamespace() + "/" + r.GetPod() + "/" + r.GetContainer())})
	}})
	for _, r := range []*v1.LogsRequest{{Pod: "web"}, {Namespace: "default", Pod: "pair", Container: "side"}} {
		stream, err := s.Streams().Logs(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		chunk, err := stream.Recv()
		want := map[string]string{"web": "default/web/web", "pair": "default/pair/side"}[r.GetPod()]
		if err != nil || string(chunk.GetData()) != want {
			t.Errorf("%v, %v; want %s", chunk, err, want)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	}
}

// The network was cut long enough for the agent to give a connection up, and the API
// server, which had nothing to say, does not know.
func TestWhatOnlyAsksIsAskedAgainWhereTheConnectionHasEnded(t *testing.T) {
	a := &fakeAgent{logs: func(_ *v1.LogsRequest, s grpc.ServerStreamingServer[v1.LogsChunk]) error {
		return s.Send(&v1.LogsChunk{Data: []byte("log")})
	}}
	s := withAgent(t, a)
	for range 2 {
		answer, err := s.Streams().Containers(t.Context(), &v1.ContainersRequest{Node: "node-1"})
		if err != nil || answer.GetContainers()[0].GetId() != "abc" {
			t.Fatalf("%v, %v", answer, err)
		}
		a.conn.stale.Store(true)
	}
	stream, err := s.Streams().Logs(t.Context(), &v1.LogsRequest{Pod: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if chunk, err := stream.Recv(); err != nil || string(chunk.GetData()) != "log" {
		t.Errorf("%v, %v", chunk, err)
	}
}

func TestStreamsThatCannotBeSayWhy(t *testing.T) {
	s := withAgent(t, &fakeAgent{
		logs: func(*v1.LogsRequest, grpc.ServerStreamingServer[v1.LogsChunk]) error {
			return api.ToStatus(api.Errorf(api.ErrBadRequest, `container "web" in pod "web" is waiting to start: ContainerCreating`))
		},
		exec: func(grpc.BidiStreamingServer[v1.ExecInput, v1.ExecOutput]) error { return nil },
	})
	for name, tt := range map[string]struct {
		pod, container string
		kind           error
		text           string
	}{
		"no such pod":                   {"none", "", api.ErrNotFound, `pods "none" not found`},
		"no name":                       {"", "", api.ErrBadRequest, "name is required"},
		"a pod without a node":          {"new", "", api.ErrBadRequest, "pod new does not have a host assigned"},
		"two containers and no name":    {"pair", "", api.ErrBadRequest, "a container name must be specified for pod pair, choose one of: [setup web side]"},
		"a container that is not there": {"web", "db", api.ErrBadRequest, "container db is not valid for pod web, choose one of: [web]"},
		"an agent that is away":         {"lost", "", api.ErrUnavailable, `the agent of node "node-2" cannot be reached`},
		"a node that is gone":           {"stray", "", api.ErrNotFound, `nodes "node-3" not found`},
		"what the agent says":           {"web", "", api.ErrBadRequest, "is waiting to start: ContainerCreating"},
	} {
		stream, err := s.Streams().Logs(t.Context(), &v1.LogsRequest{Pod: tt.pod, Container: tt.container})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		if err = api.FromStatus(err); !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, first := range map[string]*v1.ExecInput{
		"no request": {Input: &v1.ExecInput_Stdin{}},
		"no command": {Input: &v1.ExecInput_Request{Request: &v1.ExecRequest{Pod: "web"}}},
	} {
		stream, err := s.Streams().Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(first); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(api.FromStatus(err), api.ErrBadRequest) {
			t.Errorf("exec with %s: %v", name, err)
		}
	}
}

func TestExecGoesBothWays(t *testing.T) {
	s := withAgent(t, &fakeAgent{exec: func(s grpc.BidiStreamingServer[v1.ExecInput, v1.ExecOutput]) error {
		first, err := s.Recv()
		if err != nil {
			return err
		}
		if err := s.Send(&v1.ExecOutput{Output: &v1.ExecOutput_Stdout{Stdout: []byte(first.GetRequest().GetContainer() + ":")}}); err != nil {
			return err
		}
		for {
			in, err := s.Recv()
			if errors.Is(err, io.EOF) || in.GetCloseStdin() {
				return s.Send(&v1.ExecOutput{Output: &v1.ExecOutput_ExitCode{ExitCode: 3}})
			} else if err != nil {
				return err
			}
			if err := s.Send(&v1.ExecOutput{Output: &v1.ExecOutput_Stdout{Stdout: in.GetStdin()}}); err != nil {
				return err
			}
		}
	}})
	for _, end := range []string{"message", "half-close"} {
		stream, err := s.Streams().Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		send := func(in *v1.ExecInput) {
			t.Helper()
			if err := stream.Send(in); err != nil {
				t.Fatal(err)
			}
		}
		send(&v1.ExecInput{Input: &v1.ExecInput_Request{Request: &v1.ExecRequest{Pod: "web", Command: []string{"cat"}}}})
		send(&v1.ExecInput{Input: &v1.ExecInput_Stdin{Stdin: []byte("hello")}})
		if end == "message" {
			send(&v1.ExecInput{Input: &v1.ExecInput_CloseStdin{CloseStdin: true}})
		} else if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var text string
		var code int32
		for {
			out, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			text += string(out.GetStdout())
			code += out.GetExitCode()
		}
		if text != "web:hello" || code != 3 {
			t.Errorf("%s: %q, exit code %d", end, text, code)
		}
	}
}

// A reader that does not read stops the writer; a reader that leaves ends it.
func TestAnAgentIsHeldBackAndLetGo(t *testing.T) {
	sent := make(chan int)
	flood := func(send func([]byte) error) error {
		n := 0
		for ; send(make([]byte, 32<<10)) == nil; n++ {
		}
		sent <- n
		return nil
	}
	s := withAgent(t, &fakeAgent{
		logs: func(_ *v1.LogsRequest, s grpc.ServerStreamingServer[v1.LogsChunk]) error {
			return flood(func(b []byte) error { return s.Send(&v1.LogsChunk{Data: b}) })
		},
		exec: func(s grpc.BidiStreamingServer[v1.ExecInput, v1.ExecOutput]) error {
			return flood(func(b []byte) error { return s.Send(&v1.ExecOutput{Output: &v1.ExecOutput_Stdout{Stdout: b}}) })
		},
	})
	for name, open := range map[string]func(context.Context) (recv func() error){
		"logs": func(ctx context.Context) func() error {
			stream, err := s.Streams().Logs(ctx, &v1.LogsRequest{Pod: "web"})
			if err != nil {
				t.Fatal(err)
			}
			return func() error { _, err := stream.Recv(); return err }
		},
		"exec": func(ctx context.Context) func() error {
			stream, err := s.Streams().Exec(ctx)
			if err == nil {
				err = stream.Send(&v1.ExecInput{Input: &v1.ExecInput_Request{Request: &v1.ExecRequest{Pod: "web", Command: []string{"yes"}}}})
			}
			if err != nil {
				t.Fatal(err)
			}
			return func() error { _, err := stream.Recv(); return err }
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		recv := open(ctx)
		for range 10 {
			if err := recv(); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		// What is under way is bounded by the windows of two connections.
		if n := <-sent; n > 10+1000 {
			t.Errorf("%s: the agent sent %d chunks to a reader of 10", name, n)
		}
	}
}

func TestStreamsEndWhenTheServerStops(t *testing.T) {
	s := withAgent(t, &fakeAgent{logs: func(_ *v1.LogsRequest, s grpc.ServerStreamingServer[v1.LogsChunk]) error {
		if err := s.Send(&v1.LogsChunk{Data: []byte("begun")}); err != nil {
			return err
		}
		<-s.Context().Done() // as logs -f
		return s.Context().Err()
	}})
	stream, err := s.Streams().Logs(t.Context(), &v1.LogsRequest{Pod: "web", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(api.FromStatus(err), api.ErrUnavailable) {
		t.Errorf("ended with %v", err)
	}
}
