package apiserver

import (
	"cmp"
	"context"
	"strings"

	"orch/pkg/api"
	"orch/pkg/apiserver/authz"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// maxCause bounds a cause's message, in bytes; Kubernetes' bound for the
// message of an event.
const maxCause = 1024

// causeOf completes what a client says about why it writes, so that every entry
// of the log has a cause. The actor is the user of the client's certificate;
// only parts of this process say themselves who they are. The reason is else the
// verb.
func causeOf(ctx context.Context, c *v1.Cause, verb string) store.Cause {
	cause := store.Cause{Actor: c.GetActor(), Reason: c.GetReason(), Message: c.GetMessage(), Trigger: c.GetTrigger()}
	who := callerOf(ctx)
	if !who.trusted || cause.Actor == "" {
		cause.Actor = who.Name
	}
	if who.trusted { // its own parts do not say so: the gate does
		cause.SteppedBy = c.GetSteppedBy()
	}
	cause.Reason = cmp.Or(cause.Reason, verb)
	if len(cause.Message) > maxCause {
		cause.Message = strings.ToValidUTF8(cause.Message[:maxCause-3], "") + "..."
	}
	return cause
}

// note is what the server remembers of a request while it handles it, for its
// log line and its metrics.
//
// Concurrency: it belongs to the goroutine of the request.
type note struct {
	caller          *caller
	request         authz.Request // as it was authorized
	allowedBy       string
	dryRun          bool
	kind            *api.Kind
	namespace, name string
	entry           store.Entry // of the write, if there was one
	warnings        []string    // for the client, see warn
	audit           string      // for the log: what its namespace audits
}

type noteKey struct{}

// noteOf returns the note of a request; where there is none, one that nobody will
// read.
func noteOf(ctx context.Context) *note {
	if n, ok := ctx.Value(noteKey{}).(*note); ok {
		return n
	}
	return &note{}
}

func (n *note) object(k *api.Kind, namespace, name string) {
	n.kind, n.namespace, n.name = k, namespace, name
}
