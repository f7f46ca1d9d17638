package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/agent/observer"
	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// Pauses between tries to write a status while the API server is away or ill.
const (
	minReportPause = 100 * time.Millisecond
	maxReportPause = time.Second
	// correctPause is before a status is written again that somebody else has
	// overwritten: who insists on another one must not be answered at once, for
	// ever.
	correctPause = time.Second
)

// report is what a pod's agent says of it.
type report struct {
	status *v1.PodStatus
	ledger string // the annotation of terminations; "" is none to write
	hints  lifecycle.Hints
}

// in says that the pod says so already.
func (r report) in(pod *v1.Pod) bool {
	return proto.Equal(pod.GetStatus(), r.status) &&
		(r.ledger == "" || pod.GetMetadata().GetAnnotations()[api.AnnotationTerminations] == r.ledger)
}

// reporter writes the status of one pod: the latest wins, one write is under
// way at a time, and what says nothing new is not written.
//
// Concurrency: all methods may be called from several goroutines.
type reporter struct {
	pods    client.Resource[*v1.Pod]
	lasting func(uid string, types []string) int64 // the revision that has the pod hurt now; 0: none
	uid     string
	key     api.Key
	log     *slog.Logger
	tasks   sync.WaitGroup

	mu      sync.Mutex // protects what follows
	known   *v1.Pod    // the newest version seen, from the mirror or an answer
	shown   int64      // the version that the mirror showed last
	wanted  report
	ctx     context.Context //nolint:containedctx // of the wanted status: its end and its trigger
	wrote   *report         // as the server took it last
	writing chan struct{}   // nil: no write under way; closed when all is written
}

func newReporter(a *Agent, uid string, key api.Key) *reporter {
	return &reporter{pods: a.pods, lasting: a.faults.Lasting, uid: uid, key: key, log: a.log}
}

// Report makes status the one to write, with the ledger of terminations. pod is what the mirror shows. The write
// carries ctx's trigger and ends with ctx.
func (r *reporter) Report(ctx context.Context, pod *v1.Pod, status *v1.PodStatus, ledger string, hints lifecycle.Hints) {
	wanted := report{status, ledger, hints}
	r.mu.Lock()
	defer r.mu.Unlock()
	version := pod.GetMetadata().GetResourceVersion()
	if version < r.shown { // the store was restored: what was newer is no more
		r.known = nil
	}
	r.shown = version
	r.see(pod)
	if r.writing == nil && wanted.in(r.known) {
		return
	}
	r.ctx, r.wanted = ctx, wanted
	if r.writing == nil {
		r.writing = make(chan struct{})
		r.tasks.Go(r.write)
	}
}

// see makes pod the known version unless a newer one was seen: what the mirror
// shows may overtake the answer to a write. The caller holds r.mu.
func (r *reporter) see(pod *v1.Pod) {
	if r.known == nil || r.known.GetMetadata().GetResourceVersion() < pod.GetMetadata().GetResourceVersion() {
		r.known = pod
	}
}

// Flush returns when the status given last is written, or cannot be.
func (r *reporter) Flush(ctx context.Context) {
	r.mu.Lock()
	writing := r.writing
	r.mu.Unlock()
	if writing == nil {
		return
	}
	select {
	case <-writing:
	case <-ctx.Done():
	}
}

// Wait returns when no write is under way.
func (r *reporter) Wait() { r.tasks.Wait() }

// write writes until nothing new is wanted.
func (r *reporter) write() {
	pause := minReportPause
	for corrected := false; ; {
		r.mu.Lock()
		ctx, wanted := r.ctx, r.wanted
		again := r.wrote != nil && r.wrote.ledger == wanted.ledger && proto.Equal(r.wrote.status, wanted.status)
		if wanted.in(r.known) || ctx.Err() != nil {
			close(r.writing)
			r.writing = nil
			r.mu.Unlock()
			return
		}
		pod := proto.CloneOf(r.known)
		r.mu.Unlock()
		if again && !corrected {
			corrected = true
			observer.Sleep(ctx, correctPause)
			continue
		}

		x := lifecycle.Explain(pod, wanted.status, wanted.ledger, wanted.hints)
		// What follows from the version that is replaced, which may be the agent's own.
		cause := client.WithTrigger(client.WithCause(ctx, x.Reason, "%s", x.Message), max(client.TriggerOf(ctx), pod.GetMetadata().GetResourceVersion()))
		if x.Fact { // it began here, whatever the pod's version, or with who hurt it
			cause = client.WithTrigger(cause, cmp.Or(x.Trigger, r.lasting(r.uid, x.Suspects)))
		}
		pod.Status = wanted.status
		if wanted.ledger != "" {
			api.Put(&pod.Metadata.Annotations, api.AnnotationTerminations, wanted.ledger)
		}
		answer, err := r.pods.UpdateStatus(cause, pod)
		conflict := errors.Is(err, api.ErrConflict)
		if conflict {
			answer, err = r.pods.Get(ctx, r.key.Namespace, r.key.Name)
			if err == nil && answer.GetMetadata().GetUid() != r.uid {
				err = api.NotFound(r.pods.Kind(), r.key.Name)
			}
		}
		switch {
		case err == nil:
			pause = minReportPause
			r.mu.Lock()
			if !conflict {
				r.wrote, corrected = &wanted, false
			}
			if conflict { // what there is counts: a store that was restored may have less than was known
				r.known = nil
			}
			r.see(answer)
			r.mu.Unlock()
		case ctx.Err() != nil:
		case errors.Is(err, api.ErrNotFound), errors.Is(err, api.ErrInvalid), errors.Is(err, api.ErrBadRequest), errors.Is(err, api.ErrForbidden), errors.Is(err, api.ErrTooLarge):
			if !errors.Is(err, api.ErrNotFound) {
				r.log.Error("pod status was refused", "pod", r.key, "error", err)
			}
			r.mu.Lock()
			if r.wanted.status == wanted.status { // as if written: the same again would fare no better
				r.known = pod
			}
			r.mu.Unlock()
		default: // what is wrong with the server, as a full disk is, will pass
			observer.Sleep(ctx, pause)
			pause = min(2*pause, maxReportPause)
		}
	}
}
