package apiserver

import (
	"context"
	"strings"

	"orch/pkg/api"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// filter is what a list or a watch asks for.
type filter struct {
	kind      *api.Kind
	namespace string // "" is all
	labels    api.Selector
	fields    api.FieldSelector
	// exact is the only key that can pass; "" where several can.
	exact string
	// node is the only node whose pods, or injections, can pass; "" where several can.
	node string
	// selective says that an object has to be decoded to know whether it
	// passes; else its key tells.
	selective bool
}

func newFilter(kind, namespace, labels, fields string) (*filter, error) {
	k, err := kindOf(kind)
	if err != nil {
		return nil, err
	}
	f := &filter{kind: k}
	if k.Namespaced {
		f.namespace = namespace
	}
	if f.labels, err = api.ParseSelector(labels); err != nil {
		return nil, api.Errorf(api.ErrBadRequest, "unable to parse label selector %q: %v", labels, err)
	}
	if f.fields, err = api.ParseFieldSelector(k, fields); err != nil {
		return nil, api.Errorf(api.ErrBadRequest, "unable to parse field selector %q: %v", fields, err)
	}
	f.selective = !f.labels.Empty() || !f.fields.Empty()
	if name, ok := f.fields.RequiresExact("metadata.name"); ok && (f.namespace != "" || !k.Namespaced) {
		f.exact = keyOf(k, f.namespace, name)
	}
	f.node, _ = f.fields.RequiresExact("spec.nodeName")
	return f, nil
}

// prefix is what all keys that can pass begin with.
func (f *filter) prefix() string {
	if f.namespace == "" {
		return f.kind.Name + "/"
	}
	return f.kind.Name + "/" + f.namespace + "/"
}

// topic is the narrowest one of the store that holds all that can pass, so that
// a watcher is not woken for what it did not ask for.
func (f *filter) topic() string {
	switch {
	case f.exact != "":
		return f.exact
	case f.node != "":
		return ofNode(f.kind, f.node)
	case f.namespace != "":
		return f.kind.Name + "/" + f.namespace
	}
	return f.kind.Name
}

// passes says whether an object that has the filter's prefix passes it.
func (f *filter) passes(o api.Object) bool {
	return f.labels.Matches(o.GetMetadata().GetLabels()) && f.fields.Matches(o)
}

// matches says whether an entry that holds an object passes the filter.
func (s *Server) matches(f *filter, e store.Entry) (bool, error) {
	if !strings.HasPrefix(e.Key, f.prefix()) {
		return false, nil
	}
	if !f.selective {
		return true, nil
	}
	o, err := s.object(e)
	if err != nil {
		return false, err
	}
	return f.passes(o), nil
}

// event is what an entry means to a watcher with this filter; nil for nothing.
// An object that begins to pass is ADDED for it, one that no longer does is
// DELETED, whatever happened to the object itself.
func (s *Server) event(ctx context.Context, f *filter, e store.Entry) (*v1.WatchEvent, error) {
	passes, err := s.matches(f, e)
	if err != nil {
		return nil, err
	}
	passed, err := s.matchedBefore(ctx, f, e)
	if err != nil {
		return nil, err
	}
	there := passes && !e.Deleted
	event := &v1.WatchEvent{Revision: e.Revision}
	switch {
	case there && passed:
		event.Type = v1.WatchEvent_TYPE_MODIFIED
	case there:
		event.Type = v1.WatchEvent_TYPE_ADDED
	case passed:
		event.Type = v1.WatchEvent_TYPE_DELETED
	default:
		return nil, nil
	}
	if !passes { // shown as it was when it still passed
		if e.Value, err = s.previous(ctx, f, e); err != nil {
			return nil, err
		}
	}
	event.Object = wire(e)
	return event, nil
}

// matchedBefore says whether what e replaced passed the filter. Mostly it was
// written a moment ago, and is still there decoded.
func (s *Server) matchedBefore(ctx context.Context, f *filter, e store.Entry) (bool, error) {
	switch {
	case e.Prev == 0 || !strings.HasPrefix(e.Key, f.prefix()):
		return false, nil
	case !f.selective:
		return true, nil
	}
	if o := s.cache.get(e.Prev); o != nil {
		return f.passes(o), nil
	}
	value, err := s.previous(ctx, f, e)
	if err != nil {
		return false, err
	}
	return s.matches(f, store.Entry{Revision: e.Prev, Key: e.Key, Value: value})
}

// previous is the value that e replaced.
func (s *Server) previous(ctx context.Context, f *filter, e store.Entry) ([]byte, error) {
	was, err := s.store.Get(ctx, e.Key, e.Revision-1)
	return was.Value, storeError(err, f.kind, e.Key)
}
