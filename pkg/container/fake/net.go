package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"orch/pkg/container"
)

var _ container.Dialer = (*Engine)(nil)

// DialContext connects to a port of a sandbox's address. While a container runs
// in it, each port answers HTTP as Options.HTTP does, and the question of gRPC's
// health protocol with SERVING. A path that the command "answer" was given for
// answers with that status. Nobody answers for one that is paused.
func (e *Engine) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	refused := &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", address, syscall.ECONNREFUSED)}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if err := e.enter(ctx, "Dial", address); err != nil {
		return nil, err
	}
	e.mu.Lock()
	serves, frozen := false, false
	for _, c := range e.containers {
		sandbox := e.containers[c.config.Sandbox]
		inside := sandbox != nil && sandbox.IP == host
		serves = serves || inside && c.State == container.StateRunning
		frozen = frozen || inside && c.State == container.StatePaused
	}
	e.mu.Unlock()
	if !serves && !frozen {
		return nil, refused
	}
	ours, theirs := net.Pipe()
	if !serves { // the kernel takes what nobody reads
		e.running.Go(func() { _, _ = io.Copy(io.Discard, theirs); _ = theirs.Close() })
		return ours, nil
	}
	e.running.Go(func() { e.serve(theirs, host) })
	return ours, nil
}

// serve answers on one connection until the other side closes it.
func (e *Engine) serve(conn net.Conn, address string) {
	ended := make(chan struct{})
	listener := &oneConn{conn: closing{conn, sync.OnceFunc(func() { close(ended) })}, ended: ended}
	server := &http.Server{Protocols: new(http.Protocols)} //nolint:gosec // a pipe inside this process
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := e.statusOf(address, r.URL.Path); status != 0 {
			w.WriteHeader(status)
			return
		}
		e.answer(w, r)
	})
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	_ = server.Serve(listener) // ends with the connection
}

func (e *Engine) answer(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8, 1}) // HealthCheckResponse{status: SERVING}
		w.Header().Set("Grpc-Status", "0")
	case e.options.HTTP != nil:
		e.options.HTTP(w, r)
	}
}

// statusOf is what the containers at an address were told to answer to a path; 0
// where they were told nothing.
func (e *Engine) statusOf(address, path string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		sandbox := e.containers[c.config.Sandbox]
		if sandbox != nil && sandbox.IP == address && c.State == container.StateRunning && c.answers[path] != 0 {
			return c.answers[path]
		}
	}
	return 0
}

// tell makes a container answer a path with a status, until it ends.
func (e *Engine) tell(p *process, args []string) error {
	if len(args) != 2 || !strings.HasPrefix(args[0], "/") {
		return errors.New("want a path and a status, such as /ready 503")
	}
	status, err := strconv.Atoi(args[1])
	if err != nil || status < 200 || status > 599 {
		return fmt.Errorf("%s: want a status from 200 to 599", args[1])
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		if c.process == p {
			c.answers[args[0]] = status
		}
	}
	return nil
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn  net.Conn
	ended chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.ended
	return nil, errors.New("the connection has ended")
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// closing calls a function when the connection is closed.
type closing struct {
	net.Conn
	closed func()
}

func (c closing) Close() error {
	c.closed()
	return c.Conn.Close()
}
