package apiserver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/identity"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// record is an object with the entry of the log that holds it.
//
// The object is read-only, because it is shared with the cache, and carries no
// resource version: the entry's revision is the one place for it, so two equal
// objects have equal bytes.
type record struct {
	store.Entry
	object api.Object
}

// keyOf is where the store holds an object: "Pod/default/web-1", "Node/node-1".
func keyOf(k *api.Kind, namespace, name string) string {
	if !k.Namespaced {
		return k.Name + "/" + name
	}
	return k.Name + "/" + namespace + "/" + name
}

// encode returns the bytes that the store holds for an object: a v1.Object,
// with maps in order so that equal objects have equal bytes.
func encode(o api.Object) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(api.Wrap(o))
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", api.KindOf(o).Name, api.KeyOf(o), err)
	}
	return b, nil
}

// decode is the reverse of encode.
func decode(e store.Entry) (api.Object, error) {
	var w v1.Object
	if err := proto.Unmarshal(e.Value, &w); err != nil {
		return nil, fmt.Errorf("decode %s at revision %d: %w", e.Key, e.Revision, err)
	}
	o := api.Unwrap(&w)
	if o == nil || o.GetMetadata() == nil {
		return nil, fmt.Errorf("decode %s at revision %d: no object of a kind that this server knows", e.Key, e.Revision)
	}
	return o, nil
}

// Numbers of the fields that wire writes by hand.
const (
	fieldMetadata        protowire.Number = 1 // of every kind
	fieldResourceVersion protowire.Number = 5 // of ObjectMeta
)

// wire returns the entry's object as a message to send, with the entry's
// revision as its resource version, without decoding it: a read costs a copy.
//
// It leans on two rules of protobuf. A message's unknown fields are sent as they
// are; so the stored bytes become the unknown fields of an empty v1.Object. And
// where a message field comes twice, the receiver merges the two; so a second,
// tiny object that holds nothing but the resource version is sent behind the
// stored one. The result is for sending only: to the code of this process it
// looks empty.
func wire(e store.Entry) *v1.Object {
	kind, _, n := protowire.ConsumeTag(e.Value)
	w := &v1.Object{}
	if n < 0 {
		return w // not what encode made; decode reports it where it is read
	}
	var version, metadata, object []byte
	version = protowire.AppendTag(version, fieldResourceVersion, protowire.VarintType)
	version = protowire.AppendVarint(version, uint64(e.Revision))
	metadata = protowire.AppendTag(metadata, fieldMetadata, protowire.BytesType)
	metadata = protowire.AppendBytes(metadata, version)
	object = make([]byte, 0, len(e.Value)+len(metadata)+8)
	object = append(object, e.Value...)
	object = protowire.AppendTag(object, kind, protowire.BytesType)
	object = protowire.AppendBytes(object, metadata)
	w.ProtoReflect().SetUnknown(object)
	return w
}

// cacheSize is how many decoded objects are kept: enough for the objects that
// change all the time, a few MiB of memory.
const cacheSize = 1024

// cache keeps objects that were decoded or written last, so that a change is
// decoded once for many watchers and a writer need not decode what it replaces.
// Each revision has one place, which the next revision with the same place takes.
//
// Concurrency: all methods may be called from several goroutines.
type cache [cacheSize]atomic.Pointer[cached]

type cached struct {
	revision int64
	object   api.Object
}

func (c *cache) get(revision int64) api.Object {
	if e := c[revision%cacheSize].Load(); e != nil && e.revision == revision {
		return e.object
	}
	return nil
}

func (c *cache) put(revision int64, o api.Object) {
	c[revision%cacheSize].Store(&cached{revision, o})
}

// object decodes an entry, or finds it decoded.
func (s *Server) object(e store.Entry) (api.Object, error) {
	if o := s.cache.get(e.Revision); o != nil {
		return o, nil
	}
	o, err := decode(e)
	if err != nil {
		return nil, err
	}
	s.cache.put(e.Revision, o)
	return o, nil
}

// current reads an object as it is now. Errors: api.ErrNotFound.
func (s *Server) current(ctx context.Context, k *api.Kind, namespace, name string) (record, error) {
	e, err := s.store.Get(ctx, keyOf(k, namespace, name), 0)
	if err != nil {
		return record{}, storeError(err, k, name)
	}
	o, err := s.object(e)
	return record{e, o}, err
}

// get is the object of T's kind as it is now. Errors: api.ErrNotFound.
func get[T api.Object](ctx context.Context, s *Server, namespace, name string) (none T, err error) {
	r, err := s.current(ctx, api.KindOf(none), namespace, name)
	if err != nil {
		return none, err
	}
	return r.object.(T), nil
}

// all returns the objects of T's kind in a namespace, or in all (""), as they were
// at a revision; 0 is now.
func all[T api.Object](ctx context.Context, s *Server, namespace string, at int64) (found []T, err error) {
	f := &filter{kind: api.KindOf(*new(T)), namespace: namespace}
	page, err := s.store.List(ctx, f.prefix(), store.ListOptions{At: at})
	if err != nil {
		return nil, err
	}
	for _, e := range page.Entries {
		o, err := s.object(e)
		if err != nil {
			return nil, err
		}
		found = append(found, o.(T))
	}
	return found, nil
}

// topics are the names, besides its key, under which watchers find an object:
// pods and injections by their node, so that an agent is woken for its own only. The
// node never changes once it is set, so no change takes one out of a topic.
func topics(o api.Object) []string {
	var node string
	switch o := o.(type) {
	case *v1.Pod:
		node = o.GetSpec().GetNodeName()
	case *v1.ChaosInjection:
		node = o.GetSpec().GetNodeName()
	}
	if node == "" {
		return nil
	}
	return []string{ofNode(api.KindOf(o), node)}
}

func ofNode(k *api.Kind, node string) string { return k.Name + "@" + node }

// commit writes one change of an object and remembers it decoded. The errors
// are the store's, because the caller may want to try again.
func (s *Server) commit(ctx context.Context, o api.Object, c store.Change) (store.Entry, error) {
	if len(c.Value) > maxObject {
		return store.Entry{}, api.Errorf(api.ErrTooLarge, "Request entity too large: the object has %d bytes, the limit is %d", len(c.Value), maxObject)
	}
	k, m := api.KindOf(o), o.GetMetadata()
	c.Key = keyOf(k, m.GetNamespace(), m.GetName())
	c.Topics = topics(o)
	e, err := s.store.Commit(ctx, c)
	if err != nil {
		return store.Entry{}, err
	}
	s.cache.put(e.Revision, o)
	if k == kindNode && (c.Delete || m.GetDeletionTimestamp() != nil) {
		s.sessions.end(m.GetUid(), errRevoked)
	}
	if r, ok := o.(*v1.ConfigMap); ok && m.GetNamespace() == api.NamespaceSystem {
		s.revocations.Add(1)
		if !c.Delete && identity.RevokedUser(r) != "" {
			s.sessions.end(userSession(r.GetData()["user"]), errRevokedUser)
		}
	}
	if x, ok := o.(*v1.ChaosExperiment); ok && c.Expect == store.ExpectAbsent && x.GetSpec().GetAttended() {
		s.expect(api.KeyOf(x))
	}
	s.followPauses(o, e.Revision, c.Delete)
	s.policies.wrote(k, e.Revision)
	noteOf(ctx).entry = e
	return e, nil
}

// storeError is the one place where errors of the store become errors of the
// API. What it does not know stays as it is, and becomes api.ErrInternal.
func storeError(err error, k *api.Kind, name string) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return api.NotFound(k, name)
	case errors.Is(err, store.ErrConflict):
		return api.Conflict(k, name, modified)
	case errors.Is(err, store.ErrCompacted):
		return api.Errorf(api.ErrExpired, "The resourceVersion for the provided %s is too old: %v", k.Plural, err)
	case errors.Is(err, store.ErrFuture):
		return api.Errorf(api.ErrTimeout, "Too large resource version: %v", err)
	case errors.Is(err, store.ErrClosed):
		return api.Errorf(api.ErrUnavailable, "the API server is shutting down")
	}
	return err
}

// modified is Kubernetes' sentence for a write that came too late.
const modified = "the object has been modified; please apply your changes to the latest version and try again"
