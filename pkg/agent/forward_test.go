package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"orch/pkg/api"
	"orch/pkg/container/fake"
	v1 "orch/proto/v1"
)

func TestPortForward(t *testing.T) {
	// Port 80 answers what it has read when there is no more; port 81 closes at
	// once for writing and reads on; on port 82 nobody listens.
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	engine := fake.New(fake.Options{Dial: func(ctx context.Context, _ string, port int) (net.Conn, error) {
		if port == 82 {
			return nil, errors.New("connection refused")
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}})
	t.Cleanup(engine.Shutdown)
	c := newCluster(t)
	streams := c.start("n1", engine).streams(t)
	c.create(pod("web"))
	c.until("web", "ready", running)
	open := func(ctx context.Context, name string, port int32) (v1.Streams_PortForwardClient, net.Conn, error) {
		stream, err := streams.PortForward(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r := &v1.PortForwardRequest{Namespace: "default", Pod: name, Port: port}
		if err := stream.Send(&v1.PortForwardInput{Input: &v1.PortForwardInput_Request{Request: r}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			return nil, nil, api.FromStatus(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return stream, conn, nil
	}

	t.Run("both directions flow and end by themselves", func(t *testing.T) {
		stream, conn, err := open(t.Context(), "web", 80)
		if err != nil {
			t.Fatal(err)
		}
		answered := make(chan error, 1)
		go func() {
			text, err := io.ReadAll(conn)
			if err == nil {
				_, err = conn.Write(bytes.ToUpper(text))
			}
			conn.Close()
			answered <- err
		}()
		sent := strings.Repeat("x", 1<<20)
		for i := 0; i < len(sent); i += 1 << 16 {
			if err := stream.Send(&v1.PortForwardInput{Input: &v1.PortForwardInput_Data{Data: []byte(sent[i : i+1<<16])}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var got []byte
		closed := false
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			got, closed = append(got, m.GetData()...), m.GetCloseWrite()
		}
		if err := <-answered; err != nil || string(got) != strings.ToUpper(sent) || !closed {
			t.Errorf("%d bytes, end said: %v, %v", len(got), closed, err)
		}
	})

	t.Run("a pod that writes no more goes on reading", func(t *testing.T) {
		stream, conn, err := open(t.Context(), "web", 81)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); err != nil || !m.GetCloseWrite() {
			t.Fatalf("%v, %v", m, err)
		}
		_ = stream.Send(&v1.PortForwardInput{Input: &v1.PortForwardInput_Data{Data: []byte("late")}})
		_ = stream.CloseSend()
		if text, err := io.ReadAll(conn); err != nil || string(text) != "late" {
			t.Errorf("%q, %v", text, err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	})

	t.Run("a client that goes away closes the connection", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, conn, err := open(ctx, "web", 80)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		_, _ = io.ReadAll(conn) // returns, because the connection ends
	})

	for want, r := range map[string]struct {
		pod  string
		port int32
	}{
		`pods "nobody" not found`:           {"nobody", 80},
		"port 0 is not between 1 and 65535": {"web", 0},
		"connection refused":                {"web", 82},
	} {
		if _, _, err := open(t.Context(), r.pod, r.port); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
