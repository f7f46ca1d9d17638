package apiserver

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	"orch/pkg/api"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// When a watcher that nothing happens for is told how far it has come, so that
// it can go on from there after a broken connection, rather than list anew.
const (
	bookmarkEvery = time.Minute
	// After this many revisions a bookmark is sent at the next check.
	bookmarkRevisions = 1000
	bookmarkCheck     = 10 * time.Second
)

// Watch sends what there is and then what happens to it.
func (s *Server) Watch(r *v1.WatchRequest, stream grpc.ServerStreamingServer[v1.WatchEvent]) error {
	ctx := stream.Context()
	f, err := newFilter(r.GetKind(), r.GetNamespace(), r.GetLabelSelector(), r.GetFieldSelector())
	if err != nil {
		return err
	}
	noteOf(ctx).object(f.kind, r.GetNamespace(), "")
	if err := s.authorize(ctx, onFilter("watch", f)); err != nil {
		return err
	}
	defer s.metrics.watching(f.kind)()
	who := watcherOf(ctx)
	if err := s.broken.wait(ctx, who, s.now()); err != nil {
		return err
	}

	from := r.GetFromRevision()
	switch head := s.store.Revision(); {
	case r.FromRevision == nil:
		if err := s.snapshot(ctx, f, head, stream); err != nil {
			return err
		}
		from = head
	case from > head:
		// The client knows a past that this store has not had: it was restored
		// from a snapshot, or begun anew. Listing anew is the way out, as it is
		// where the log was compacted.
		return api.Errorf(api.ErrExpired, "too new resource version: %d (%d): the store was restored; list again", from, head)
	}
	return s.follow(ctx, f, who, from, stream)
}

// snapshot sends all that there is at a revision.
func (s *Server) snapshot(ctx context.Context, f *filter, at int64, stream grpc.ServerStreamingServer[v1.WatchEvent]) error {
	for e, err := range s.scan(ctx, f, at, "") {
		if err != nil {
			return err
		}
		if err := stream.Send(&v1.WatchEvent{Type: v1.WatchEvent_TYPE_ADDED, Object: wire(e), Revision: e.Revision}); err != nil {
			return err
		}
	}
	return stream.Send(&v1.WatchEvent{Type: v1.WatchEvent_TYPE_SYNCED, Revision: at})
}

// follow sends what happens after a revision, until ctx ends.
func (s *Server) follow(ctx context.Context, f *filter, who watcher, from int64, stream grpc.ServerStreamingServer[v1.WatchEvent]) error {
	w := s.store.Watch(f.topic(), from)
	defer w.Close()
	told, toldAt := from, s.now()
	live, end := s.broken.live(ctx)
	defer func() { end() }()
	for {
		entries, err := nextWithin(live, w, bookmarkCheck)
		if live.Err() != nil && ctx.Err() == nil { // what is broken has changed
			end()
			live, end = s.broken.live(ctx)
		} else if err != nil {
			return storeError(err, f.kind, "")
		}
		if len(entries) > 0 {
			s.metrics.wakeups.Inc()
		}
		for _, e := range entries {
			event, err := s.event(ctx, f, e)
			if err != nil {
				return err
			}
			if event == nil {
				continue
			}
			if err := s.broken.wait(ctx, who, e.Time); err != nil {
				return err
			}
			if err := stream.Send(event); err != nil {
				return err
			}
			told, toldAt = e.Revision, s.now()
		}
		reached := w.Progress()
		if err := s.broken.wait(ctx, who, time.Time{}); err != nil {
			return err
		}
		if len(entries) == 0 && bookmarkDue(reached-told, s.now().Sub(toldAt)) {
			if err := stream.Send(&v1.WatchEvent{Type: v1.WatchEvent_TYPE_BOOKMARK, Revision: reached}); err != nil {
				return err
			}
			told, toldAt = reached, s.now()
		}
	}
}

// bookmarkDue says whether a watcher that is behind by so many revisions, and
// has heard nothing for so long, is to be told.
func bookmarkDue(behind int64, silent time.Duration) bool {
	return behind >= bookmarkRevisions || behind > 0 && silent >= bookmarkEvery
}

// nextWithin is w.Next for at most d; nothing and no error when that is over.
func nextWithin(ctx context.Context, w store.Watcher, d time.Duration) ([]store.Entry, error) {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	entries, err := w.Next(wait)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, nil
	}
	return entries, err
}
