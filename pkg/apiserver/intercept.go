package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"orch/pkg/api"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// unary goes around every request that has one answer: it limits how many there
// are, survives panics, turns errors into statuses, counts and logs.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
	if isOpen(info.FullMethod) {
		return handle(ctx, req)
	}
	n := &note{caller: callerOf(ctx)}
	begin := time.Now()
	select {
	case s.inFlight <- struct{}{}:
		func() {
			defer func() { <-s.inFlight }()
			defer s.recover(info.FullMethod, &err)
			if info.FullMethod != v1.Identity_Join_FullMethodName { // who joins has nothing to show but a token
				err = s.authenticate(ctx, n.caller)
			}
			if err == nil {
				err = s.meant(ctx)
			}
			if err != nil {
				return
			}
			answer, err = handle(context.WithValue(ctx, noteKey{}, n), req)
			if !errors.Is(err, api.ErrForbidden) {
				s.remind(info.FullMethod, n)
			}
			_ = grpc.SetHeader(ctx, n.warningHeader()) // where the client has gone there is no one to tell
		}()
	default:
		err = api.Errorf(api.ErrTooManyRequests, "too many requests are being served (%d); try again", cap(s.inFlight))
	}
	took := time.Since(begin)
	s.metrics.latency.WithLabelValues(path.Base(info.FullMethod)).Observe(took.Seconds())
	return answer, s.finish(ctx, info.FullMethod, n, took, err)
}

// stream goes around every request that lasts, and ends it when the server
// stops.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	if isOpen(info.FullMethod) {
		return handle(srv, ss)
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.running, func() { cancel(errStopping) })()
	n := &note{caller: callerOf(ctx)}
	if id := n.caller.session(); id != "" { // before authenticate looks, so that no end is missed
		defer s.sessions.add(id, cancel)()
	}
	begin := time.Now()
	func() {
		defer s.recover(info.FullMethod, &err)
		if err = s.authenticate(ctx, n.caller); err == nil {
			err = s.meant(ctx)
		}
		if err != nil {
			return
		}
		err = handle(srv, &serverStream{ss, context.WithValue(ctx, noteKey{}, n), sync.OnceFunc(func() {
			s.remind(info.FullMethod, n)
			_ = ss.SetHeader(n.warningHeader())
		})})
	}()
	for _, why := range []error{errStopping, errRevoked, errRevokedUser} {
		if err != nil && errors.Is(context.Cause(ctx), why) {
			err = why
		}
	}
	return s.finish(ss.Context(), info.FullMethod, n, time.Since(begin), err)
}

// meant refuses a client that means another cluster. An agent whose API server
// was replaced by another cluster's, or by one with an empty store, would
// otherwise take its pods for deleted.
func (s *Server) meant(ctx context.Context) error {
	for _, uid := range metadata.ValueFromIncomingContext(ctx, clusterKey) {
		if uid != s.cluster {
			return api.Errorf(api.ErrUnavailable, "this is the API server of cluster %s, not of %s", s.cluster, uid)
		}
	}
	return nil
}

// clusterKey is pkg/client's ClusterKey.
const clusterKey = "orch-cluster"

var errStopping = api.Errorf(api.ErrUnavailable, "the API server is shutting down")

// serverStream is a stream with another context, and warnings before what it sends
// first: by then it is known that the client may read.
type serverStream struct {
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // that is how gRPC hands it on
	warn func()
}

func (s *serverStream) SendMsg(m any) error {
	s.warn()
	return s.ServerStream.SendMsg(m)
}

func (s *serverStream) Context() context.Context { return s.ctx }

// isOpen says whether a method is for everybody: only health is. Interceptors
// leave it alone.
func isOpen(method string) bool {
	return strings.HasPrefix(method, "/"+healthpb.Health_ServiceDesc.ServiceName+"/")
}

// recover turns a panic of a handler into an error, so that one bad request does
// not end the server.
func (s *Server) recover(method string, err *error) {
	if p := recover(); p != nil {
		s.logger.Error("panic", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = api.Errorf(api.ErrInternal, "the API server failed to handle this request; its log says more")
	}
}

// finish counts, logs and audits a request, and returns its error as the client is to
// see it.
func (s *Server) finish(ctx context.Context, method string, n *note, took time.Duration, err error) error {
	err = statusOf(err)
	verb := path.Base(method)
	if auditErr := s.auditRequest(ctx, method, n, err); auditErr != nil {
		s.logger.Error("audit log cannot be written", "error", auditErr)
	}
	resource := ""
	if n.kind != nil {
		resource = n.kind.Plural
	}
	s.metrics.requests.WithLabelValues(verb, resource, status.Code(err).String()).Inc()

	level := slog.LevelDebug
	switch {
	case status.Code(err) == codes.Internal:
		level = slog.LevelError
	case n.entry.Revision != 0:
		level = slog.LevelInfo
	}
	if !s.logger.Enabled(ctx, level) {
		return err
	}
	if n.entry.Revision != 0 { // the name may have been made here
		_, n.namespace, n.name = splitKey(n.entry.Key)
	}
	// No part of an object is logged: it may be secret.
	attrs := append(make([]slog.Attr, 0, 10),
		slog.String("verb", verb), slog.String("resource", resource), slog.String("namespace", n.namespace), slog.String("name", n.name),
		slog.Duration("took", took))
	if e := n.entry; e.Revision != 0 {
		attrs = append(attrs, slog.Int64("revision", e.Revision), slog.String("actor", e.Cause.Actor),
			slog.String("reason", e.Cause.Reason), slog.String("cause", e.Cause.Message), slog.Int64("trigger", e.Cause.Trigger))
	}
	if n.audit != "" {
		attrs = append(attrs, slog.String("audit", n.audit))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	s.logger.LogAttrs(ctx, level, "request", attrs...)
	return err
}

// statusOf is [api.ToStatus] for what a handler may return: errors of the API,
// of the store where it could not be said which object it was about, and of
// contexts.
func statusOf(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return status.FromContextError(context.Canceled).Err()
	case errors.Is(err, context.DeadlineExceeded):
		return api.ToStatus(api.Errorf(api.ErrTimeout, "the request did not finish in time: %v", err))
	case errors.Is(err, store.ErrClosed):
		return api.ToStatus(errStopping)
	}
	return api.ToStatus(err)
}
