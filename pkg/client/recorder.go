package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

const (
	// maxPending bounds the events that wait to be sent.
	maxPending = 1000
	// repeatWithin is how long after the last one an equal event is counted up
	// in the same object: Kubernetes' ten minutes.
	repeatWithin = 10 * time.Minute
	// maxSimilar is how many events within that time may differ by their text
	// alone; the rest are counted up together, as in Kubernetes.
	maxSimilar = 10
	// eventTries is how often a write is tried while the server is away, with
	// eventPause between: as Kubernetes, but sooner.
	eventTries = 12
	eventPause = time.Second
	// maxEventName leaves room for the suffix in a name of 253 characters.
	maxEventName = 253 - 17
)

// Recorder tells people what happens to objects. An event that repeats within
// ten minutes is counted up in one Event object; of those whose texts differ, all
// beyond the tenth together. Events are a courtesy: where
// they come faster than they can be sent, the oldest are dropped, and the log
// says so.
//
// Concurrency: Event may be called from several goroutines and never blocks;
// Run once.
type Recorder struct {
	events    Resource[*v1.Event]
	component string
	host      string
	log       *slog.Logger
	wake      chan struct{} // capacity 1
	now       func() time.Time

	mu      sync.Mutex // protects what follows
	pending []*happening
	waiting map[eventKey]*happening // those in pending
	dropped int
	latest  time.Time // when the newest of all events began

	sent map[eventKey]*v1.Event // as last written; only Run's goroutine
}

// eventKey is what makes two events equal.
type eventKey struct {
	kind, namespace, name, uid string
	typ, reason, message       string
}

// happening is an event that waits, with the number of times it happened.
type happening struct {
	key         eventKey
	event       *v1.Event
	text        string // what it says now: key.message, or what Revise made of it
	times       int32
	first, last time.Time
	trigger     int64
}

// NewRecorder returns a recorder of a component ("deployment-controller") on a
// host (a node's name; may be empty).
func NewRecorder(c *Client, component, host string) *Recorder {
	return &Recorder{
		events:    For[*v1.Event](c),
		component: component,
		host:      host,
		log:       slog.Default().With("recorder", component),
		wake:      make(chan struct{}, 1),
		waiting:   map[eventKey]*happening{},
		sent:      map[eventKey]*v1.Event{},
		now:       time.Now,
	}
}

// SetClock makes the recorder take the time from another clock; before its first
// event.
func (r *Recorder) SetClock(now func() time.Time) { r.now = now }

// Event says that something happened to o. Type is Normal or Warning, reason
// one CamelCase word, the rest a sentence. The trigger of ctx becomes that of
// the write; the end of ctx does not matter.
func (r *Recorder) Event(ctx context.Context, o api.Object, typ, reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	r.record(ctx, o, eventKey{typ: typ, reason: reason, message: message}, message, 1)
}

// Revise replaces the text of the event that was sent last as message, which
// goes on: how far something is that takes its time.
func (r *Recorder) Revise(ctx context.Context, o api.Object, typ, reason, message, text string) {
	r.record(ctx, o, eventKey{typ: typ, reason: reason, message: message}, text, 0)
}

func (r *Recorder) record(ctx context.Context, o api.Object, key eventKey, text string, times int32) {
	k, m := api.KindOf(o), o.GetMetadata()
	key.kind, key.namespace, key.name, key.uid = k.Name, m.GetNamespace(), m.GetName(), m.GetUid()
	now := r.now().Round(0) // compared with times that came off the wire

	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.waiting[key]
	if h == nil {
		if len(r.pending) == maxPending {
			delete(r.waiting, r.pending[0].key)
			r.pending = r.pending[1:]
			r.dropped++
		}
		// No two events begin in the same nanosecond: their names tell them apart
		// by it.
		if !now.After(r.latest) {
			now = r.latest.Add(1)
		}
		r.latest = now
		h = &happening{key: key, first: now, event: r.newEvent(k, m, key)}
		r.pending = append(r.pending, h)
		r.waiting[key] = h
	}
	h.times += times
	h.text, h.last = text, now
	h.trigger = api.NewerTrigger(h.trigger, TriggerOf(ctx))
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// newEvent is the object for an event, without times and count.
func (r *Recorder) newEvent(k *api.Kind, m *v1.ObjectMeta, key eventKey) *v1.Event {
	namespace := cmp.Or(m.GetNamespace(), "default") // where Kubernetes puts those of cluster-wide objects
	return &v1.Event{
		Metadata: &v1.ObjectMeta{Namespace: namespace},
		InvolvedObject: &v1.ObjectReference{
			Kind: k.Name, ApiVersion: k.APIVersion(), Namespace: m.GetNamespace(), Name: m.GetName(), Uid: m.GetUid(),
			ResourceVersion: m.GetResourceVersion(),
		},
		Type: key.typ, Reason: key.reason, Message: key.message,
		Source:             &v1.EventSource{Component: r.component, Host: r.host},
		ReportingComponent: r.component, ReportingInstance: r.host,
	}
}

// Run sends events until ctx ends; then it returns nil. What still waits then
// is lost.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		for h := r.next(); h != nil; h = r.next() {
			r.send(ctx, h)
			if ctx.Err() != nil {
				return nil
			}
		}
	}
}

// next takes the oldest event that waits; nil where there is none.
func (r *Recorder) next() *happening {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dropped > 0 {
		r.log.Warn("events dropped: they come faster than they can be sent", "dropped", r.dropped)
		r.dropped = 0
	}
	if len(r.pending) == 0 {
		return nil
	}
	h := r.pending[0]
	r.pending = r.pending[1:]
	delete(r.waiting, h.key)
	return h
}

// send writes one event, and again while the server is away.
func (r *Recorder) send(ctx context.Context, h *happening) {
	ctx = WithCause(WithTrigger(ctx, h.trigger), h.key.reason, "%s", h.text)
	for try := 1; ; try++ {
		err := r.write(ctx, h)
		switch {
		case err == nil, ctx.Err() != nil:
			return
		case errors.Is(err, api.ErrUnavailable), errors.Is(err, api.ErrTimeout), errors.Is(err, api.ErrConflict):
			if try < eventTries {
				select {
				case <-ctx.Done():
				case <-time.After(eventPause):
				}
				continue
			}
		case errors.Is(err, api.ErrForbidden), errors.Is(err, api.ErrNotFound):
			// The namespace is going or gone, and its events with it.
			r.log.Debug("event not recorded", "reason", h.key.reason, "object", h.key.name, "error", err)
			return
		}
		r.log.Warn("event not recorded", "reason", h.key.reason, "object", h.key.name, "error", err)
		return
	}
}

// combined is how Kubernetes begins the text of events that differ by theirs.
const combined = "(combined from similar events): "

// combine makes an event whose text is new one of those that are counted up
// together, where there are enough of its kind.
func (r *Recorder) combine(h *happening) {
	if h.key.message == combined || r.sent[h.key] != nil {
		return
	}
	similar := 0
	for k, e := range r.sent {
		if k.message = h.key.message; k == h.key && h.last.Sub(e.GetLastTimestamp().AsTime()) < repeatWithin {
			similar++
		}
	}
	if similar >= maxSimilar {
		h.key.message, h.text = combined, combined+h.text
	}
}

// write counts the event up where an equal one was written lately, or else
// creates it.
func (r *Recorder) write(ctx context.Context, h *happening) error {
	r.combine(h)
	if last := r.sent[h.key]; last != nil && h.last.Sub(last.GetLastTimestamp().AsTime()) < repeatWithin {
		e := proto.CloneOf(last)
		e.Count, e.Message = e.GetCount()+h.times, h.text
		e.LastTimestamp = timestamppb.New(h.last)
		e.Metadata.ResourceVersion = 0 // nobody else writes it
		written, err := r.events.Update(ctx, e)
		if !errors.Is(err, api.ErrNotFound) {
			if err == nil {
				r.sent[h.key] = written
			}
			return err
		}
	}
	e := proto.CloneOf(h.event)
	e.Count, e.Message = max(1, h.times), h.text
	e.FirstTimestamp, e.LastTimestamp = timestamppb.New(h.first), timestamppb.New(h.last)
	e.Metadata.Name = fmt.Sprintf("%.*s.%x", maxEventName, h.key.name, h.first.UnixNano())
	written, err := r.events.Create(ctx, e)
	if errors.Is(err, api.ErrAlreadyExists) {
		return nil // an earlier try whose answer was lost
	}
	if err == nil {
		r.forgetOld(h.last)
		r.sent[h.key] = written
	}
	return err
}

// forgetOld keeps the memory of sent events small.
func (r *Recorder) forgetOld(now time.Time) {
	if len(r.sent) < maxPending {
		return
	}
	for k, e := range r.sent {
		if now.Sub(e.GetLastTimestamp().AsTime()) >= repeatWithin {
			delete(r.sent, k)
		}
	}
	if len(r.sent) >= maxPending {
		clear(r.sent) // repeated ones begin anew
	}
}
