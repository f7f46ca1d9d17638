package apiserver

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"path"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// newAuditor returns what takes a line of JSON for each write and each refusal:
// who, what and with which result, but nothing of any object.
func newAuditor(to io.Writer) slog.Handler {
	if to == nil {
		return slog.DiscardHandler
	}
	return slog.NewJSONHandler(to, nil)
}

// auditRequest writes the line of a request that has ended, if it is to have
// one. The message of an error is kept where it is a refusal: that names what
// was asked for, and holds no values.
func (s *Server) auditRequest(ctx context.Context, method string, n *note, err error) error {
	code, r, e := status.Code(err), n.request, n.entry
	refused := code == codes.PermissionDenied || code == codes.Unauthenticated
	wrote := err == nil && !n.dryRun && r.Verb != "" && !r.IsRead()
	if !refused && !wrote || !s.audit.Enabled(ctx, slog.LevelInfo) {
		return nil
	}
	user, decision, why := n.caller.Name, "allow", n.allowedBy
	if n.caller.trusted { // a part of the control plane, which says itself which
		user = cmp.Or(e.Cause.Actor, user)
	}
	if refused {
		decision, why = "forbid", status.Convert(err).Message()
	}
	if e.Revision != 0 { // the name may have been made here
		_, r.Namespace, r.Name = splitKey(e.Key)
	}
	line := slog.NewRecord(time.Now(), slog.LevelInfo, decision, 0)
	line.Add("user", user, "groups", n.caller.Groups, "verb", cmp.Or(r.Verb, path.Base(method)), "apiGroup", r.Group, "resource", r.Resource,
		"subresource", r.Subresource, "namespace", r.Namespace, "name", r.Name, "revision", e.Revision, "code", code.String(), "reason", why)
	if p, ok := peer.FromContext(ctx); ok {
		line.Add("from", p.Addr.String())
	}
	return s.audit.Handle(ctx, line)
}
