package apiserver

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"orch/pkg/api"
	"orch/pkg/identity"
)

// caller is who is at the other end of a connection.
//
// Concurrency: shared by all requests of the connection; the timer is made before
// the first of them.
type caller struct {
	credentials.CommonAuthInfo
	identity.User
	// trusted is a part of this process: it writes in the name that it says.
	trusted bool
	// inner is a caller in this process: without a certificate that could be
	// revoked.
	inner bool
	// issued is when the certificate was made that the connection was opened with.
	issued time.Time
	// believed is one more than Server.revocations was when this user was last looked
	// up and not found to be revoked.
	believed atomic.Int64
	// expiry closes the connection when the certificate ends that it was opened
	// with, or the one that was given for it since; nil for a connection without.
	expiry *time.Timer
}

// AuthType is what gRPC calls the way in which the caller was recognized.
func (*caller) AuthType() string { return "orch" }

var _ credentials.AuthInfo = (*caller)(nil)

var nobody = &caller{User: identity.User{Name: identity.Anonymous, Groups: []string{identity.GroupUnauthenticated}}}

// callerOf is who makes a request; nobody where that is not known.
func callerOf(ctx context.Context) *caller {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(*caller); ok {
			return c
		}
	}
	return nobody
}

// transport recognizes callers: by their certificate, or as a part of this
// process by the listener that they came through.
type transport struct {
	credentials.TransportCredentials
}

func (t transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if inner, ok := conn.(innerConn); ok {
		return inner.Conn, inner.caller, nil
	}
	raw := conn
	conn, info, err := t.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		return nil, nil, err
	}
	s, ok := info.(credentials.TLSInfo)
	if !ok || len(s.State.VerifiedChains) == 0 {
		return conn, nobody, nil
	}
	leaf := s.State.VerifiedChains[0][0]
	c := &caller{
		CommonAuthInfo: s.CommonAuthInfo, User: identity.UserOf(leaf), issued: identity.IssuedAt(leaf),
		expiry: time.AfterFunc(time.Until(leaf.NotAfter), func() { _ = raw.Close() }),
	}
	return &certifiedConn{conn, c.expiry}, c, nil
}

// Clone is for gRPC, which may copy credentials.
func (t transport) Clone() credentials.TransportCredentials {
	return transport{t.TransportCredentials.Clone()}
}

// certifiedConn stops the timer of its certificate when it is closed.
type certifiedConn struct {
	net.Conn
	expiry *time.Timer
}

func (c *certifiedConn) Close() error {
	c.expiry.Stop()
	return c.Conn.Close()
}

// innerListener is a listener in memory, for callers who are known.
type innerListener struct {
	net.Listener
	caller *caller
}

func (l innerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return innerConn{c, l.caller}, nil
}

type innerConn struct {
	net.Conn
	caller *caller
}

// sessions are the open streams of nodes, by the uid of the Node object, so that
// they end with it, and those of users, by [userSession].
//
// Concurrency: all methods may be called from several goroutines.
type sessions struct {
	mu   sync.Mutex
	ends map[string]map[*context.CancelCauseFunc]bool // guarded by mu
}

// errRevoked says that a node was taken out of the cluster.
var errRevoked = api.Errorf(api.ErrUnauthorized, "the node of this certificate was removed from the cluster: join again with a token")

// session is what the streams of a caller are found by; "" where nothing ends them.
func (c *caller) session() string {
	switch {
	case c.NodeName() != "":
		return c.UID
	case c.issued.IsZero():
		return ""
	}
	return userSession(c.Name)
}

func userSession(name string) string { return "user/" + name }

// add makes cancel the way to end a stream of a session, until the returned
// function is called.
func (s *sessions) add(id string, cancel context.CancelCauseFunc) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends == nil {
		s.ends = map[string]map[*context.CancelCauseFunc]bool{}
	}
	if s.ends[id] == nil {
		s.ends[id] = map[*context.CancelCauseFunc]bool{}
	}
	s.ends[id][&cancel] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.ends[id], &cancel); len(s.ends[id]) == 0 {
			delete(s.ends, id)
		}
	}
}

// end ends all streams of a session, and says why.
func (s *sessions) end(id string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cancel := range s.ends[id] {
		(*cancel)(why)
	}
}
