package apiserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/apiserver/authz"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// logChunk is how many entries of the log are read at a time.
const logChunk = 500

// maxRevisions bounds how many single entries one request may ask for.
const maxRevisions = 1000

// History sends entries of the log, oldest first. Asked from no revision, it
// begins where the log does.
func (s *Server) History(r *v1.HistoryRequest, stream grpc.ServerStreamingServer[v1.LogEntry]) error {
	ctx := stream.Context()
	if err := presentOnly(ctx); err != nil {
		return err
	}
	if len(r.GetRevisions()) > 0 {
		return s.single(ctx, r.GetRevisions(), stream)
	}
	if r.GetKind() == "" && r.GetName() != "" {
		return api.Errorf(api.ErrBadRequest, "a history of %q needs a kind", r.GetName())
	}
	after, to, err := s.span(ctx, r)
	if err != nil {
		return err
	}
	var entries iter.Seq2[store.Entry, error]
	if r.GetName() != "" {
		k, err := kindOf(r.GetKind())
		if err != nil {
			return err
		}
		key, err := s.ask(ctx, "get", k, "", r.GetNamespace(), r.GetName())
		if err != nil {
			return err
		}
		entries = s.historyOf(ctx, keyOf(k, key.Namespace, key.Name), after)
	} else {
		kinds, err := s.readableKinds(ctx, r.GetKind(), r.GetNamespace())
		if err != nil {
			return err
		}
		entries = s.log(ctx, kinds, r.GetNamespace(), after)
	}
	entries = upTo(entries, to, r.GetExceptReasons())
	if r.GetLimit() > 0 {
		entries = newest(entries, int(r.GetLimit()))
	}
	for e, err := range entries {
		if err != nil {
			return err
		}
		if err := stream.Send(logEntry(e)); err != nil {
			return err
		}
	}
	return nil
}

// span is the part of the log that a request means: the revisions in (after, to],
// where 0 is no bound.
func (s *Server) span(ctx context.Context, r *v1.HistoryRequest) (after, to int64, err error) {
	after, to = r.GetAfterRevision(), r.GetToRevision()
	if r.GetSince() != nil {
		after, err = s.store.At(ctx, r.GetSince().AsTime().Add(-1))
		if after == 0 && err == nil && s.store.Compacted() > 0 {
			_, err = s.moment(ctx, 0, r.GetSince()) // it says where the log ends
		}
		if err != nil {
			return 0, 0, err
		}
	}
	if r.GetUntil() != nil {
		if to, err = s.moment(ctx, 0, r.GetUntil()); err != nil {
			return 0, 0, err
		}
	}
	if after > 0 {
		_, err = s.moment(ctx, after, nil)
	}
	return after, to, err
}

// single sends the entries of single revisions: those that the caller may get,
// and of the others that they are there.
func (s *Server) single(ctx context.Context, revisions []int64, stream grpc.ServerStreamingServer[v1.LogEntry]) error {
	if len(revisions) > maxRevisions {
		return api.Errorf(api.ErrBadRequest, "%d revisions at once, at most %d may be asked for", len(revisions), maxRevisions)
	}
	for _, rev := range slices.Sorted(slices.Values(revisions)) {
		if rev <= s.store.Compacted() || rev > s.store.Revision() {
			continue
		}
		entries, err := s.store.Log(ctx, rev-1, 1)
		switch {
		case errors.Is(err, store.ErrCompacted):
			continue
		case err != nil:
			return storeError(err, kindNamespace, "")
		case len(entries) == 0 || entries[0].Revision != rev:
			continue
		}
		kind, namespace, name := splitKey(entries[0].Key)
		answer := logEntry(entries[0])
		k, err := kindOf(kind)
		if err == nil {
			err = s.authorize(ctx, on("get", k, "", namespace, name))
		}
		if errors.Is(err, api.ErrForbidden) {
			answer = &v1.LogEntry{Revision: rev, Time: answer.GetTime(), Kind: kind, Withheld: true}
			err = nil
		}
		if err == nil {
			err = stream.Send(answer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readableKinds are the names of the kinds whose entries a caller gets who asks
// for those of one kind, or of all ("") that they may list; nil is all of them.
func (s *Server) readableKinds(ctx context.Context, kind, namespace string) (map[string]bool, error) {
	if k := api.KindByName(kind); k != nil {
		return map[string]bool{kind: true}, s.authorize(ctx, on("list", k, "", namespace, ""))
	}
	refused := s.authorize(ctx, authz.Request{Verb: "list", Group: "*", Resource: "*", Namespace: namespace})
	if refused == nil && kind == "" {
		return nil, nil
	}
	kinds := map[string]bool{kind: kind != ""}
	for _, k := range api.Kinds() {
		if kind == "" && s.authorize(ctx, on("list", k, "", namespace, "")) == nil {
			kinds[k.Name], refused = true, nil
		}
	}
	if errors.Is(refused, api.ErrForbidden) {
		where := "in all namespaces at once: name one"
		if namespace != "" {
			where = fmt.Sprintf("in the namespace %q", namespace)
		}
		refused = api.Errorf(api.ErrForbidden, "the log is forbidden: User %q cannot list objects of any kind %s", callerOf(ctx).Name, where)
	}
	return kinds, refused
}

// presentOnly refuses nodes the past. What a node may read follows from the pods
// that are on it now; whose something of the same name was before, nobody says.
func presentOnly(ctx context.Context) error {
	if node := callerOf(ctx).NodeName(); node != "" {
		return api.Errorf(api.ErrForbidden, "node %q can only read what is there now", node)
	}
	return nil
}

// moment is the revision that a read of the past means: at, or the newest that
// was written by a time; 0 where it names neither. Errors: api.ErrExpired, with
// where the log ends; api.ErrForbidden for nodes.
func (s *Server) moment(ctx context.Context, at int64, when *timestamppb.Timestamp) (int64, error) {
	if at != 0 || when != nil {
		if err := presentOnly(ctx); err != nil {
			return 0, err
		}
	}
	if when != nil {
		if at != 0 {
			return 0, api.Errorf(api.ErrBadRequest, "name a revision or a time, not both")
		}
		var err error
		if at, err = s.store.At(ctx, when.AsTime()); err != nil || at > 0 {
			return at, err
		}
	}
	compacted := s.store.Compacted()
	if when == nil && (at == 0 || at >= compacted) {
		return at, nil
	}
	oldest, err := s.store.Log(ctx, compacted, 1)
	if err != nil || len(oldest) == 0 {
		return 0, api.Errorf(api.ErrExpired, "the log reaches back to revision %d", compacted)
	}
	return 0, api.Errorf(api.ErrExpired, "the log reaches back to revision %d, of %s", max(compacted, oldest[0].Revision), oldest[0].Time.Format(time.RFC3339))
}

// historyOf yields the entries of one key.
func (s *Server) historyOf(ctx context.Context, key string, after int64) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		entries, err := s.store.History(ctx, key, 0)
		if err != nil {
			yield(store.Entry{}, storeError(err, kindNamespace, ""))
			return
		}
		for _, e := range slices.Backward(entries) {
			if e.Revision > after && !yield(e, nil) {
				return
			}
		}
	}
}

// log yields the entries of some kinds, or of all (nil), in a namespace, or in
// all.
func (s *Server) log(ctx context.Context, kinds map[string]bool, namespace string, after int64) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		after = cmp.Or(after, s.store.Compacted())
		for {
			entries, err := s.store.Log(ctx, after, logChunk)
			if err != nil {
				yield(store.Entry{}, storeError(err, kindNamespace, ""))
				return
			}
			if len(entries) == 0 {
				return
			}
			for _, e := range entries {
				k, ns, _ := splitKey(e.Key)
				if (kinds == nil || kinds[k]) && (namespace == "" || namespace == ns) && !yield(e, nil) {
					return
				}
				after = e.Revision
			}
		}
	}
}

// upTo yields the entries up to a revision (0: all), without those that have one
// of the reasons.
func upTo(entries iter.Seq2[store.Entry, error], to int64, except []string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		for e, err := range entries {
			if to > 0 && e.Revision > to {
				return
			}
			if (err != nil || !slices.Contains(except, e.Cause.Reason)) && !yield(e, err) {
				return
			}
		}
	}
}

// newest yields only the last n entries of a sequence.
func newest(entries iter.Seq2[store.Entry, error], n int) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		var kept []store.Entry
		for e, err := range entries {
			if err != nil {
				yield(e, err)
				return
			}
			if kept = append(kept, e); len(kept) >= 2*n { // forget in bulk: each entry is moved once
				kept = append(kept[:0], kept[len(kept)-n:]...)
			}
		}
		for _, e := range kept[max(0, len(kept)-n):] {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func logEntry(e store.Entry) *v1.LogEntry {
	kind, namespace, name := splitKey(e.Key)
	return &v1.LogEntry{
		Revision: e.Revision, Time: timestamppb.New(e.Time),
		Kind: kind, Namespace: namespace, Name: name,
		Deleted: e.Deleted, Object: wire(e), Previous: e.Prev,
		Cause: &v1.Cause{Actor: e.Cause.Actor, Reason: e.Cause.Reason, Message: e.Cause.Message, Trigger: e.Cause.Trigger, SteppedBy: e.Cause.SteppedBy},
	}
}

// splitKey is the reverse of keyOf.
func splitKey(key string) (kind, namespace, name string) {
	kind, rest, _ := strings.Cut(key, "/")
	if ns, n, ok := strings.Cut(rest, "/"); ok {
		return kind, ns, n
	}
	return kind, "", rest
}
