package agent

import (
	"context"
	"errors"
	"io"
	"net"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// PortForward connects a stream to a port of a pod on this node. Each direction
// ends by itself; the stream ends when both have, or the pod's connection breaks.
// A client that goes away closes the connection.
func (a *Agent) PortForward(stream v1.Streams_PortForwardServer) error {
	return api.ToStatus(a.portForward(stream))
}

func (a *Agent) portForward(stream v1.Streams_PortForwardServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	r := first.GetRequest()
	if r.GetPort() < 1 || r.GetPort() > 65535 {
		return api.Errorf(api.ErrBadRequest, "port %d is not between 1 and 65535", r.GetPort())
	}
	pod, ok := a.mirror.Get(api.Key{Namespace: r.GetNamespace(), Name: r.GetPod()})
	if !ok {
		return api.NotFound(a.mirror.Kind(), r.GetPod())
	}
	var sandbox string
	for _, c := range a.observer.Pod(pod.GetMetadata().GetUid()) {
		if c.Name == lifecycle.SandboxSlot && c.Running() {
			sandbox = c.ID // the newest: they come in the order of their attempts
		}
	}
	if sandbox == "" {
		return api.Errorf(api.ErrBadRequest, "pod %q is not running", r.GetPod())
	}
	conn, err := a.runtime.Dial(stream.Context(), sandbox, int(r.GetPort()))
	if err != nil {
		return streamError(err)
	}
	defer conn.Close()
	// A client that goes away, or the agent's end.
	defer context.AfterFunc(stream.Context(), func() { conn.Close() })()
	if err := stream.Send(&v1.PortForwardOutput{}); err != nil {
		return err
	}

	// It ends with conn or with the stream, the latest when this call returns.
	written := make(chan error, 1)
	go func() {
		err := write(conn, stream)
		if err != nil {
			conn.Close() // nobody can use what is read either
		}
		written <- err
	}()
	out := chunks(func(b []byte) error { return stream.Send(&v1.PortForwardOutput{Data: b}) })
	if _, err := io.CopyBuffer(out, struct{ io.Reader }{conn}, make([]byte, chunkSize)); err != nil {
		return forwardError(stream.Context(), err)
	}
	if err := stream.Send(&v1.PortForwardOutput{CloseWrite: true}); err != nil {
		return err
	}
	return forwardError(stream.Context(), <-written)
}

// write copies the client's data to conn, until the client writes no more.
func write(conn net.Conn, stream v1.Streams_PortForwardServer) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if half, ok := conn.(interface{ CloseWrite() error }); ok {
				return half.CloseWrite()
			}
			return nil
		}
		if err == nil {
			_, err = conn.Write(m.GetData())
		}
		if err != nil {
			return err
		}
	}
}

// forwardError is why a connection broke.
func forwardError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return api.Errorf(api.ErrUnavailable, "the pod's connection broke: %v", err)
}
