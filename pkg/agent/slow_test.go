package agent_test

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"orch/pkg/container"
	"orch/pkg/container/fake"
	v1 "orch/proto/v1"
)

// flooding is an engine on which everything writes without end and reads
// nothing, and which counts.
type flooding struct {
	*fake.Engine
	written atomic.Int64
	ended   chan struct{} // closed when the writer ends
}

func (f *flooding) flood(w io.Writer) error {
	defer close(f.ended)
	for {
		n, err := w.Write(make([]byte, 4<<10))
		if f.written.Add(int64(n)); err != nil {
			return err
		}
	}
}

func (f *flooding) Logs(_ context.Context, _ string, _ container.LogOptions, stdout, _ io.Writer) error {
	return f.flood(stdout)
}

func (f *flooding) Exec(_ context.Context, _ string, o container.ExecOptions) (int, error) {
	return 0, f.flood(o.Stdout)
}

func (f *flooding) Attach(_ context.Context, _ string, o container.ExecOptions) (int, error) {
	return 0, f.flood(o.Stdout)
}

func (f *flooding) Dial(context.Context, string, int) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() { _ = f.flood(theirs) }()
	return ours, nil
}

// inFlight is more than lies between a writer and a reader who does not read:
// the windows of a connection and the buffer of the test's own.
const inFlight = 4 << 20

// Who does not read holds the writer on the node back, and who leaves ends it;
// that nothing goes on after that is what the bubble sees to.
func TestAClientThatDoesNotReadHoldsTheNodeBackAndLetsItGo(t *testing.T) {
	exec := &v1.ExecInput{Input: &v1.ExecInput_Request{Request: &v1.ExecRequest{Namespace: "default", Pod: "web", Command: []string{"yes"}, Stdin: true}}}
	forward := &v1.PortForwardInput{Input: &v1.PortForwardInput_Request{Request: &v1.PortForwardRequest{Namespace: "default", Pod: "web", Port: 80}}}
	// Each opens a stream, reads a little of it, and returns what sends as much
	// as a writer on the client's side likes; nil where there is no such way.
	tests := map[string]func(context.Context, v1.StreamsClient) (send func([]byte) error, err error){
		"logs -f": func(ctx context.Context, c v1.StreamsClient) (func([]byte) error, error) {
			stream, err := c.Logs(ctx, &v1.LogsRequest{Namespace: "default", Pod: "web", Follow: true})
			if err == nil {
				_, err = stream.Recv()
			}
			return nil, err
		},
		"exec": func(ctx context.Context, c v1.StreamsClient) (func([]byte) error, error) {
			stream, err := c.Exec(ctx)
			return interactive(stream, err, exec)
		},
		"attach": func(ctx context.Context, c v1.StreamsClient) (func([]byte) error, error) {
			stream, err := c.Attach(ctx)
			return interactive(stream, err, exec)
		},
		"port-forward": func(ctx context.Context, c v1.StreamsClient) (func([]byte) error, error) {
			stream, err := c.PortForward(ctx)
			if err == nil {
				err = stream.Send(forward)
			}
			if err == nil {
				_, err = stream.Recv()
			}
			return func(b []byte) error {
				return stream.Send(&v1.PortForwardInput{Input: &v1.PortForwardInput_Data{Data: b}})
			}, err
		},
	}
	for name, open := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				f := &flooding{Engine: engine, ended: make(chan struct{})}
				streams := c.start("n1", f).streams(t)
				c.create(pod("web", func(p *v1.Pod) { p.Spec.Containers[0].Stdin = true }))
				c.until("web", "ready", running)

				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				send, err := open(ctx, streams)
				if err != nil {
					t.Fatal(err)
				}
				var sent atomic.Int64
				sender := make(chan struct{})
				go func() {
					defer close(sender)
					for send != nil && send(make([]byte, 4<<10)) == nil {
						sent.Add(4 << 10)
					}
				}()
				synctest.Wait() // until nobody can go on
				if n := f.written.Load(); n == 0 || n > inFlight {
					t.Errorf("%d bytes were written to a client that does not read", n)
				}
				if n := sent.Load(); n > inFlight {
					t.Errorf("%d bytes were sent to a process that does not read", n)
				}
				leave()
				<-f.ended
				<-sender
			})
		})
	}
}

// interactive begins an exec or attach.
func interactive(stream v1.Streams_ExecClient, err error, first *v1.ExecInput) (func([]byte) error, error) {
	if err == nil {
		err = stream.Send(first)
	}
	if err == nil {
		_, err = stream.Recv()
	}
	return func(b []byte) error { return stream.Send(&v1.ExecInput{Input: &v1.ExecInput_Stdin{Stdin: b}}) }, err
}
