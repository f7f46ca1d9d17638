// Package streams passes logs, commands and connections through to the agent of the pod's node.
//
// The one invariant: what one side does not read, the other cannot send on. The
// flow control of the two connections meets here, and nothing is kept in between.
//
// Read next: stream.go of pkg/agent, the other end.
package streams

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Objects are what has to be looked up. Errors are those of pkg/api.
type Objects interface {
	// Pod returns a pod whose subresource the caller may use in this way.
	Pod(ctx context.Context, verb, subresource, namespace, name string) (*v1.Pod, error)
	Node(ctx context.Context, name string) (*v1.Node, error)
	// MayReadStats refuses who may not read what a node uses, and has.
	MayReadStats(ctx context.Context, node string) error
}

// Service is the Streams service of the API server.
//
// Concurrency: all methods may be called from several goroutines.
type Service struct {
	v1.UnimplementedStreamsServer
	objects Objects
	dial    func(ctx context.Context, address string) (net.Conn, error)
	// credentials are those for the agent of a node.
	credentials func(node string) credentials.TransportCredentials

	mu     sync.Mutex
	agents map[string]agent // by the name of the node; guarded by mu
}

// agent is a connection to the agent of a node.
type agent struct {
	address string
	conn    *grpc.ClientConn
}

// onceMore asks again for what changes nothing where the connection has ended before
// an answer: after a cut of the network nobody has said so until it is used.
const onceMore = `{"methodConfig":[{"name":[{"service":"orch.v1.Streams","method":"Logs"},{"service":"orch.v1.Streams","method":"Stats"},{"service":"orch.v1.Streams","method":"Containers"}],
	"retryPolicy":{"maxAttempts":2,"initialBackoff":"0.1s","maxBackoff":"0.1s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}`

// New returns a service that reaches agents through dial; nil is TCP. The
// address is host:port.
func New(objects Objects, dial func(ctx context.Context, address string) (net.Conn, error), c func(node string) credentials.TransportCredentials) *Service {
	return &Service{objects: objects, dial: dial, credentials: c, agents: map[string]agent{}}
}

// Logs sends a container's output.
func (s *Service) Logs(r *v1.LogsRequest, down grpc.ServerStreamingServer[v1.LogsChunk]) error {
	ctx := down.Context()
	target, err := s.find(ctx, "get", "log", r.GetNamespace(), r.GetPod(), r.GetContainer())
	if err != nil {
		return err
	}
	r.Namespace, r.Container = target.namespace, target.container
	up, err := target.client.Logs(ctx, r)
	if err != nil {
		return target.failed(err)
	}
	for {
		chunk, err := up.Recv()
		if err != nil {
			return target.failed(err)
		}
		if err := down.Send(chunk); err != nil {
			return err
		}
	}
}

// Exec runs a command.
func (s *Service) Exec(down grpc.BidiStreamingServer[v1.ExecInput, v1.ExecOutput]) error {
	return pass(down, (*v1.ExecInput).GetRequest, func(ctx context.Context, r *v1.ExecRequest) (target, error) {
		if len(r.GetCommand()) == 0 {
			return target{}, api.Errorf(api.ErrBadRequest, "you must specify at least one command for the container")
		}
		t, err := s.find(ctx, "create", "exec", r.GetNamespace(), r.GetPod(), r.GetContainer())
		r.Namespace, r.Container = t.namespace, t.container
		return t, err
	}, v1.StreamsClient.Exec)
}

// Attach connects to a container's own input and output.
func (s *Service) Attach(down grpc.BidiStreamingServer[v1.ExecInput, v1.ExecOutput]) error {
	return pass(down, (*v1.ExecInput).GetRequest, func(ctx context.Context, r *v1.ExecRequest) (target, error) {
		t, err := s.find(ctx, "create", "attach", r.GetNamespace(), r.GetPod(), r.GetContainer())
		r.Namespace, r.Container = t.namespace, t.container
		return t, err
	}, v1.StreamsClient.Attach)
}

// PortForward is one connection to a port of a pod.
func (s *Service) PortForward(down grpc.BidiStreamingServer[v1.PortForwardInput, v1.PortForwardOutput]) error {
	return pass(down, (*v1.PortForwardInput).GetRequest, func(ctx context.Context, r *v1.PortForwardRequest) (target, error) {
		pod, err := s.objects.Pod(ctx, "create", "portforward", r.GetNamespace(), r.GetPod())
		if err != nil {
			return target{}, err
		}
		t, err := s.agentOf(ctx, pod)
		r.Namespace = t.namespace
		return t, err
	}, v1.StreamsClient.PortForward)
}

// Stats says what a node and its pods use now.
func (s *Service) Stats(ctx context.Context, r *v1.StatsRequest) (*v1.StatsResponse, error) {
	return ofNode(ctx, s, r, v1.StreamsClient.Stats)
}

// Containers says what the engine of a node has.
func (s *Service) Containers(ctx context.Context, r *v1.ContainersRequest) (*v1.ContainersResponse, error) {
	return ofNode(ctx, s, r, v1.StreamsClient.Containers)
}

// ofNode asks the agent of a node about all of it.
func ofNode[R interface{ GetNode() string }, A any](ctx context.Context, s *Service, r R,
	ask func(v1.StreamsClient, context.Context, R, ...grpc.CallOption) (A, error),
) (none A, err error) {
	if err := s.objects.MayReadStats(ctx, r.GetNode()); err != nil {
		return none, err
	}
	target, err := s.agentAt(ctx, r.GetNode())
	if err != nil {
		return none, err
	}
	answer, err := ask(target.client, ctx, r)
	if err != nil {
		return none, target.failed(err)
	}
	return answer, nil
}

// CopyTo writes files into a container.
func (s *Service) CopyTo(down grpc.BidiStreamingServer[v1.CopyInput, v1.CopyOutput]) error {
	return s.copy(down, v1.StreamsClient.CopyTo)
}

// CopyFrom reads files of a container.
func (s *Service) CopyFrom(down grpc.BidiStreamingServer[v1.CopyInput, v1.CopyOutput]) error {
	return s.copy(down, v1.StreamsClient.CopyFrom)
}

func (s *Service) copy(down grpc.BidiStreamingServer[v1.CopyInput, v1.CopyOutput],
	open func(v1.StreamsClient, context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[v1.CopyInput, v1.CopyOutput], error),
) error {
	return pass(down, (*v1.CopyInput).GetRequest, func(ctx context.Context, r *v1.CopyRequest) (target, error) {
		// kubectl copies by running tar, so this is for whom exec is.
		t, err := s.find(ctx, "create", "exec", r.GetNamespace(), r.GetPod(), r.GetContainer())
		r.Namespace, r.Container = t.namespace, t.container
		return t, err
	}, open)
}

// pass finds the agent that the first message of a stream is for, and passes that
// and all that follows on, both ways, until the agent ends the stream.
func pass[In, Out any, R comparable](down grpc.BidiStreamingServer[In, Out], request func(*In) R, find func(context.Context, R) (target, error),
	open func(v1.StreamsClient, context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[In, Out], error),
) error {
	first, err := down.Recv()
	if err != nil {
		return err
	}
	var none R
	if request(first) == none {
		return api.Errorf(api.ErrBadRequest, "the first message must hold the request")
	}
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	t, err := find(ctx, request(first))
	if err != nil {
		return err
	}
	up, err := open(t.client, ctx)
	if err != nil {
		return t.failed(err)
	}
	if err := up.Send(first); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv says why
		return t.failed(err)
	}
	// It ends when this call has ended, which ends down.
	go func() {
		for {
			in, err := down.Recv()
			switch {
			case errors.Is(err, io.EOF):
				_ = up.CloseSend()
				return
			case err != nil:
				cancel() // a client that goes away ends up
				return
			}
			if up.Send(in) != nil {
				return // Recv says why
			}
		}
	}()
	for {
		out, err := up.Recv()
		if err != nil {
			return t.failed(err)
		}
		if err := down.Send(out); err != nil {
			return err
		}
	}
}

// target is a pod, perhaps a container of it, and the agent that has it.
type target struct {
	namespace, container string
	node                 string
	client               v1.StreamsClient
}

// failed turns the end of a stream from an agent into the error of ours.
func (t target) failed(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	if s := status.Convert(err); s.Code() == codes.Unavailable && len(s.Details()) == 0 {
		return api.Errorf(api.ErrUnavailable, "the agent of node %q cannot be reached: %s", t.node, s.Message())
	}
	return err
}

// find looks up the pod, its container, and the agent of its node.
func (s *Service) find(ctx context.Context, verb, sub, namespace, name, container string) (target, error) {
	pod, err := s.objects.Pod(ctx, verb, sub, namespace, name)
	if err != nil {
		return target{}, err
	}
	c, err := api.ChooseContainer(pod, container)
	if err != nil {
		return target{}, err
	}
	t, err := s.agentOf(ctx, pod)
	t.container = c.GetName()
	return t, err
}

// agentOf finds the agent of the pod's node.
func (s *Service) agentOf(ctx context.Context, pod *v1.Pod) (target, error) {
	node := pod.GetSpec().GetNodeName()
	if node == "" {
		return target{}, api.Errorf(api.ErrBadRequest, "pod %s does not have a host assigned", pod.GetMetadata().GetName())
	}
	t, err := s.agentAt(ctx, node)
	t.namespace = pod.GetMetadata().GetNamespace()
	if err != nil {
		err = fmt.Errorf("the pod's node: %w", err)
	}
	return t, err
}

// agentAt finds the agent of a node.
func (s *Service) agentAt(ctx context.Context, node string) (target, error) {
	address, err := s.addressOf(ctx, node)
	if err != nil {
		return target{}, err
	}
	conn, err := s.connect(node, address)
	if err != nil {
		return target{}, err
	}
	return target{node: node, client: v1.NewStreamsClient(conn)}, nil
}

// addressOf is where the agent of a node serves streams.
func (s *Service) addressOf(ctx context.Context, name string) (string, error) {
	node, err := s.objects.Node(ctx, name)
	if err != nil {
		return "", err
	}
	ip, port := api.NodeAddress(node, api.NodeInternalIP), node.GetStatus().GetDaemonEndpoints().GetKubeletEndpoint().GetPort()
	if ip != "" && port > 0 {
		return net.JoinHostPort(ip, strconv.Itoa(int(port))), nil
	}
	return "", api.Errorf(api.ErrUnavailable, "the agent of node %q has not said where it serves logs and exec", name)
}

// connect returns the connection to a node's agent, a new one where the agent has
// moved.
func (s *Service) connect(node, address string) (*grpc.ClientConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.agents[node]
	if ok && known.address == address {
		return known.conn, nil
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(s.credentials(node)), grpc.WithNoProxy(), grpc.WithDefaultServiceConfig(onceMore)}
	if s.dial != nil {
		options = append(options, grpc.WithContextDialer(s.dial))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return nil, api.Errorf(api.ErrUnavailable, "the agent of node %q cannot be reached at %s: %v", node, address, err)
	}
	if ok {
		_ = known.conn.Close() // nobody serves there any more
	}
	s.agents[node] = agent{address, conn}
	return conn, nil
}

// Close ends all connections to agents.
func (s *Service) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for node, a := range s.agents {
		_ = a.conn.Close()
		delete(s.agents, node)
	}
}
