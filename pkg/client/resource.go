package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// pageSize is how many objects a page of a list has where the caller does not
// say: kubectl's --chunk-size.
const pageSize = 500

// Resource is the objects of one kind. It is a value: make one where it is
// needed.
//
// Concurrency: all methods may be called from several goroutines.
type Resource[T api.Object] struct {
	c    *Client
	kind *api.Kind
}

// For returns the objects of T's kind: client.For[*v1.Pod](c).
func For[T api.Object](c *Client) Resource[T] {
	var zero T
	return Resource[T]{c, api.KindOf(zero)}
}

// ForKind returns the objects of a kind that is known only at run time.
func ForKind(c *Client, k *api.Kind) Resource[api.Object] {
	return Resource[api.Object]{c, k}
}

// List is what [Resource.List] found.
type List[T api.Object] struct {
	Items []T
	// Revision is the one that the list shows.
	Revision int64
}

// ListOptions narrow a list.
type ListOptions struct {
	// Namespace is empty for all.
	Namespace string
	// LabelSelector and FieldSelector are as kubectl takes them.
	LabelSelector, FieldSelector string
	// Limit is the size of the pages that are fetched; default 500.
	Limit int32
	// At is the revision to read; 0 is now.
	At int64
	// AtTime, where set, means the newest revision that was written by then.
	AtTime time.Time
}

// DeleteOptions say how an object is to end.
type DeleteOptions struct {
	// GracePeriodSeconds, for pods: nil is the pod's own, 0 kills and forgets
	// at once.
	GracePeriodSeconds *int64
	// UID and ResourceVersion, where set, must be those of the object.
	UID             string
	ResourceVersion int64
	// PropagationPolicy is Background (also ""), Foreground or Orphan.
	PropagationPolicy string
	DryRun            bool
	// Evict, for pods: the error is [api.ErrTooManyRequests] where a
	// PodDisruptionBudget forbids it.
	Evict bool
}

// WatchOptions narrow a watch.
type WatchOptions struct {
	Namespace, LabelSelector, FieldSelector string
	// From, where set, asks only for changes after this revision.
	From *int64
	// Wait makes the watch wait for a server that is away, rather than fail.
	Wait bool
}

// Event is one message of a watch.
type Event[T api.Object] struct {
	Type v1.WatchEvent_Type
	// Object is the zero T for SYNCED and BOOKMARK.
	Object   T
	Revision int64
}

// WriteOption changes how a write is made.
type WriteOption func(dryRun *bool)

// DryRun makes the server do everything but write.
func DryRun(dryRun *bool) { *dryRun = true }

// Kind is the kind of the objects.
func (r Resource[T]) Kind() *api.Kind { return r.kind }

// Get returns one object.
func (r Resource[T]) Get(ctx context.Context, namespace, name string) (T, error) {
	return r.GetAt(ctx, namespace, name, 0)
}

// GetAt returns one object as it was at a revision; 0 is now.
func (r Resource[T]) GetAt(ctx context.Context, namespace, name string, revision int64) (T, error) {
	return r.get(ctx, &v1.GetRequest{Namespace: namespace, Name: name, AtRevision: revision})
}

// GetAtTime returns one object as it was at a time.
func (r Resource[T]) GetAtTime(ctx context.Context, namespace, name string, t time.Time) (T, error) {
	return r.get(ctx, &v1.GetRequest{Namespace: namespace, Name: name, AtTime: Timestamp(t)})
}

func (r Resource[T]) get(ctx context.Context, q *v1.GetRequest) (T, error) {
	call, cancel := withTimeout(ctx)
	defer cancel()
	q.Kind = r.kind.Name
	o, err := r.c.resources.Get(call, q)
	return r.answer(ctx, o, err)
}

// Timestamp is a time as requests have it: nil for the zero time.
func Timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// List returns all objects that the options let through, in the order of their
// keys, all at one revision. It fetches as many pages as there are.
func (r Resource[T]) List(ctx context.Context, o ListOptions) (List[T], error) {
	limit := o.Limit
	if limit <= 0 {
		limit = pageSize
	}
	var all List[T]
	for next := ""; ; {
		page, err := r.page(ctx, &v1.ListRequest{
			Kind: r.kind.Name, Namespace: o.Namespace, LabelSelector: o.LabelSelector, FieldSelector: o.FieldSelector,
			Limit: limit, Continue: next, AtRevision: o.At, AtTime: Timestamp(o.AtTime),
		})
		if err != nil {
			return List[T]{}, err
		}
		all.Revision = page.GetRevision()
		for _, w := range page.GetItems() {
			t, err := unwrap[T](w)
			if err != nil {
				return List[T]{}, err
			}
			all.Items = append(all.Items, t)
		}
		if next = page.GetContinue(); next == "" {
			return all, nil
		}
	}
}

func (r Resource[T]) page(ctx context.Context, q *v1.ListRequest) (*v1.ListResponse, error) {
	call, cancel := withTimeout(ctx)
	defer cancel()
	page, err := r.c.resources.List(call, q)
	if err != nil {
		return nil, callError(ctx, err)
	}
	return page, nil
}

// Create stores a new object and returns it as the server completed it.
func (r Resource[T]) Create(ctx context.Context, o T, opts ...WriteOption) (T, error) {
	return r.write(ctx, "Create", opts, func(ctx context.Context, dryRun bool, c *v1.Cause) (*v1.Object, error) {
		return r.c.resources.Create(ctx, &v1.CreateRequest{Object: api.Wrap(o), DryRun: dryRun, Cause: c})
	})
}

// Update replaces metadata and spec. Where o has a resource version, the object
// must still be at it; else the error is [api.ErrConflict].
func (r Resource[T]) Update(ctx context.Context, o T, opts ...WriteOption) (T, error) {
	return r.write(ctx, "Update", opts, func(ctx context.Context, dryRun bool, c *v1.Cause) (*v1.Object, error) {
		return r.c.resources.Update(ctx, &v1.UpdateRequest{Object: api.Wrap(o), DryRun: dryRun, Cause: c})
	})
}

// UpdateStatus replaces status, on the same condition as Update.
func (r Resource[T]) UpdateStatus(ctx context.Context, o T, opts ...WriteOption) (T, error) {
	return r.write(ctx, "UpdateStatus", opts, func(ctx context.Context, dryRun bool, c *v1.Cause) (*v1.Object, error) {
		return r.c.resources.UpdateStatus(ctx, &v1.UpdateRequest{Object: api.Wrap(o), DryRun: dryRun, Cause: c})
	})
}

// write makes a call that writes, and notes what was written.
func (r Resource[T]) write(ctx context.Context, verb string, opts []WriteOption, call func(context.Context, bool, *v1.Cause) (*v1.Object, error)) (T, error) {
	dryRun := false
	for _, set := range opts {
		set(&dryRun)
	}
	bounded, cancel := withTimeout(ctx)
	defer cancel()
	o, err := call(bounded, dryRun, r.c.cause(ctx, verb))
	written, err := r.answer(ctx, o, err)
	if err == nil && !dryRun {
		noteWrite(ctx, written)
	}
	return written, err
}

// modifyTries is how often Modify begins again before it reports the conflict:
// with the pauses between them about a second.
const modifyTries = 10

// Modify gets the object, lets f change it, and updates it; and begins again
// where somebody else was faster. An error of f ends it.
func (r Resource[T]) Modify(ctx context.Context, namespace, name string, f func(T) error) (T, error) {
	var zero T
	for try := 1; ; try++ {
		o, err := r.Get(ctx, namespace, name)
		if err != nil {
			return zero, err
		}
		if err := f(o); err != nil {
			return zero, err
		}
		a, err := r.Update(ctx, o)
		if !errors.Is(err, api.ErrConflict) || try == modifyTries {
			return a, err
		}
		select {
		case <-ctx.Done():
			return zero, ctx.Err()
		case <-time.After(time.Duration(try) * time.Duration(10+rand.IntN(10)) * time.Millisecond):
		}
	}
}

// Delete asks for the object's end and returns it as it then is: with a
// deletion timestamp where something still holds it, else as it was last.
func (r Resource[T]) Delete(ctx context.Context, namespace, name string, o DeleteOptions) (T, error) {
	return r.write(ctx, "Delete", []WriteOption{func(dryRun *bool) { *dryRun = o.DryRun }}, func(ctx context.Context, dryRun bool, c *v1.Cause) (*v1.Object, error) {
		return r.c.resources.Delete(ctx, &v1.DeleteRequest{
			Kind: r.kind.Name, Namespace: namespace, Name: name,
			GracePeriodSeconds: o.GracePeriodSeconds, Uid: o.UID, ResourceVersion: o.ResourceVersion,
			PropagationPolicy: o.PropagationPolicy, DryRun: dryRun, Evict: o.Evict, Cause: c,
		})
	})
}

// Watch yields what there is, a SYNCED event, and then every change; or, with
// From, only the changes after that revision. It ends with an error, always:
// the context's, [api.ErrExpired] where From is no longer in the log, or
// [api.ErrUnavailable] where the server went away.
func (r Resource[T]) Watch(ctx context.Context, o WatchOptions) iter.Seq2[Event[T], error] {
	return func(yield func(Event[T], error) bool) {
		outer := ctx
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := r.c.resources.Watch(metadata.AppendToOutgoingContext(ctx, ActorKey, r.c.actor), &v1.WatchRequest{
			Kind: r.kind.Name, Namespace: o.Namespace, LabelSelector: o.LabelSelector, FieldSelector: o.FieldSelector,
			FromRevision: o.From,
		}, grpc.WaitForReady(o.Wait))
		for err == nil {
			var m *v1.WatchEvent
			if m, err = stream.Recv(); err != nil {
				break
			}
			e := Event[T]{Type: m.GetType(), Revision: m.GetRevision()}
			if m.GetObject() != nil {
				if e.Object, err = unwrap[T](m.GetObject()); err != nil {
					break
				}
			}
			if !yield(e, nil) {
				return
			}
		}
		if isEOF(err) {
			err = api.Errorf(api.ErrUnavailable, "the server ended the watch of %s", r.kind.Resource())
		}
		yield(Event[T]{}, callError(outer, err))
	}
}

// answer unwraps what a call returned.
func (r Resource[T]) answer(ctx context.Context, o *v1.Object, err error) (T, error) {
	if err != nil {
		var zero T
		return zero, callError(ctx, err)
	}
	return unwrap[T](o)
}

func unwrap[T api.Object](w *v1.Object) (T, error) {
	t, ok := api.Unwrap(w).(T)
	if !ok {
		return t, fmt.Errorf("the server answered with %T instead of %T: %w", w.GetKind(), t, api.ErrInternal)
	}
	return t, nil
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
