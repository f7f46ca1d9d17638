package apiserver

import (
	"bytes"
	"context"
	"errors"
	"time"

	"orch/pkg/api"
	"orch/pkg/apiserver/admission"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// nameTries is how many names the server makes up for a generateName before it
// gives up; Kubernetes' figure.
const nameTries = 8

// Create stores a new object.
func (s *Server) Create(ctx context.Context, r *v1.CreateRequest) (*v1.Object, error) {
	o, err := s.objectOf(r.GetObject())
	if err != nil {
		return nil, err
	}
	if err := s.authorizeWrite(ctx, "create", "", o, r.GetDryRun()); err != nil {
		return nil, err
	}
	return s.write(ctx, "create", api.KindOf(o), api.KeyOf(o), r.GetCause(), r.GetDryRun(), func(dryRun bool) (store.Entry, error) {
		o := o
		if dryRun { // what is made up for a try does not count
			o = api.Clone(o)
		}
		return s.create(ctx, o, causeOf(ctx, r.GetCause(), "Create"), dryRun)
	})
}

// Update replaces metadata and spec.
func (s *Server) Update(ctx context.Context, r *v1.UpdateRequest) (*v1.Object, error) {
	return s.replace(ctx, r, "", s.admitUpdate(ctx), "update", "Update")
}

// UpdateStatus replaces status.
func (s *Server) UpdateStatus(ctx context.Context, r *v1.UpdateRequest) (*v1.Object, error) {
	return s.replace(ctx, r, "status", admission.Status, "update status", "UpdateStatus")
}

// replace is both: of a subresource, in the words of a held write and of a cause.
func (s *Server) replace(ctx context.Context, r *v1.UpdateRequest, sub string, how admit, verb, reason string) (*v1.Object, error) {
	o, err := s.objectOf(r.GetObject())
	if err != nil {
		return nil, err
	}
	if err := s.authorizeWrite(ctx, "update", sub, o, r.GetDryRun()); err != nil {
		return nil, err
	}
	return s.write(ctx, verb, api.KindOf(o), api.KeyOf(o), r.GetCause(), r.GetDryRun(), func(dryRun bool) (store.Entry, error) {
		return s.update(ctx, o, how, causeOf(ctx, r.GetCause(), reason), dryRun)
	})
}

// authorizeWrite refuses a write that the caller may not do.
func (s *Server) authorizeWrite(ctx context.Context, verb, sub string, o api.Object, dryRun bool) error {
	k, m := api.KindOf(o), o.GetMetadata()
	noteOf(ctx).object(k, m.GetNamespace(), m.GetName())
	noteOf(ctx).dryRun = dryRun
	return s.authorize(ctx, on(verb, k, sub, m.GetNamespace(), m.GetName()))
}

// objectOf takes the object out of a request and gives it the namespace that
// Kubernetes' URL would have named.
func (s *Server) objectOf(w *v1.Object) (api.Object, error) {
	o := api.Unwrap(w)
	if o == nil {
		return nil, api.Errorf(api.ErrBadRequest, "the request holds no object of a kind that this server knows")
	}
	m := o.GetMetadata()
	if m == nil {
		return nil, api.Errorf(api.ErrBadRequest, "metadata: Required value: every object needs a name")
	}
	if m.GetNamespace() == "" && api.KindOf(o).Namespaced {
		m.Namespace = api.NamespaceDefault
	}
	return o, nil
}

// create carries a new object through admission and stores it. The object
// becomes the server's.
func (s *Server) create(ctx context.Context, o api.Object, c store.Cause, dryRun bool) (store.Entry, error) {
	k, m := api.KindOf(o), o.GetMetadata()
	noteOf(ctx).object(k, m.GetNamespace(), m.GetName())
	if k.Namespaced {
		// Held until the object is stored: see Server.terminations.
		s.terminations.RLock()
		defer s.terminations.RUnlock()
		if err := s.admitNamespace(ctx, k, m); err != nil {
			return store.Entry{}, err
		}
	}
	generated := m.GetName() == "" && m.GetGenerateName() != ""
	for try := 1; ; try++ {
		if generated {
			m.Name = api.GenerateName(m.GetGenerateName())
		}
		s.tolerate(o)
		if err := admission.Create(o, s.now()); err != nil {
			return store.Entry{}, err
		}
		if err := s.secure(ctx, o, nil); err != nil {
			return store.Entry{}, err
		}
		if err := s.restrict(ctx, o, nil); err != nil {
			return store.Entry{}, err
		}
		value, err := encode(o)
		if err != nil {
			return store.Entry{}, err
		}
		e, err := s.commitCreate(ctx, k, o, value, c, dryRun)
		if !errors.Is(err, store.ErrConflict) {
			return e, storeError(err, k, m.GetName())
		}
		if !generated || try == nameTries {
			return store.Entry{}, api.AlreadyExists(k, m.GetName())
		}
	}
}

func (s *Server) commitCreate(ctx context.Context, k *api.Kind, o api.Object, value []byte, c store.Cause, dryRun bool) (store.Entry, error) {
	if !dryRun {
		return s.commit(ctx, o, store.Change{Value: value, Expect: store.ExpectAbsent, Cause: c})
	}
	_, err := s.store.Get(ctx, keyOf(k, o.GetMetadata().GetNamespace(), o.GetMetadata().GetName()), 0)
	if err == nil {
		return store.Entry{}, store.ErrConflict
	} else if !errors.Is(err, store.ErrNotFound) {
		return store.Entry{}, err
	}
	return store.Entry{Value: value}, nil
}

// admit says what an object that came with a request becomes, given the one that
// it is to replace. It may change o, and be called with it again.
type admit func(o, old api.Object, now time.Time) (api.Object, error)

// update replaces an object by what is admitted of o. Where o names a resource
// version, the object must be at it; else the update is tried until it is not
// overtaken. What changes nothing is answered without a new revision.
func (s *Server) update(ctx context.Context, o api.Object, how admit, c store.Cause, dryRun bool) (store.Entry, error) {
	k, m := api.KindOf(o), o.GetMetadata()
	want, uid := m.GetResourceVersion(), m.GetUid()
	noteOf(ctx).object(k, m.GetNamespace(), m.GetName())
	if k == kindNamespace {
		defer s.hold(m.GetName())()
	}
	for {
		old, err := s.meantBy(ctx, k, api.KeyOf(o), uid, want)
		if err != nil {
			return store.Entry{}, err
		}
		next, err := how(o, old.object, s.now())
		if err != nil {
			return store.Entry{}, err
		}
		if err := s.restrict(ctx, next, old.object); err != nil {
			return store.Entry{}, err
		}
		value, err := encode(next)
		if err != nil {
			return store.Entry{}, err
		}
		gone := next.GetMetadata().GetDeletionTimestamp() != nil && !admission.Held(next)
		if dryRun {
			return store.Entry{Revision: old.Revision, Value: value, Deleted: gone}, nil
		}
		if !gone && bytes.Equal(value, old.Value) {
			return old.Entry, nil
		}
		e, err := s.commit(ctx, next, store.Change{Value: value, Delete: gone, Expect: old.Revision, Cause: c})
		if err == nil || want != 0 || !errors.Is(err, store.ErrConflict) {
			return e, storeError(err, k, m.GetName())
		}
	}
}

// meantBy is current for a write: the object must still be the one that the client
// means, by uid and version as far as it names them.
func (s *Server) meantBy(ctx context.Context, k *api.Kind, key api.Key, uid string, version int64) (record, error) {
	old, err := s.current(ctx, k, key.Namespace, key.Name)
	if err != nil {
		return record{}, err
	}
	if has := old.object.GetMetadata().GetUid(); uid != "" && uid != has {
		return record{}, api.Conflict(k, key.Name, "Precondition failed: UID in precondition: "+uid+", UID in object meta: "+has)
	}
	if version != 0 && version != old.Revision {
		return record{}, api.Conflict(k, key.Name, modified)
	}
	return old, nil
}

// admitNamespace says whether new objects may be made in a namespace. The
// caller has terminations read-locked.
func (s *Server) admitNamespace(ctx context.Context, k *api.Kind, m *v1.ObjectMeta) error {
	ns, err := s.namespace(ctx, m.GetNamespace())
	if err != nil {
		return err
	}
	if ns.object.GetMetadata().GetDeletionTimestamp() != nil {
		return api.Terminating(k, m.GetName(), m.GetNamespace())
	}
	s.active.Store(m.GetNamespace(), ns)
	return nil
}

// namespace is the record of a namespace, which is in memory where objects have
// lately been made in it.
func (s *Server) namespace(ctx context.Context, name string) (record, error) {
	if known, ok := s.active.Load(name); ok {
		return known.(record), nil
	}
	return s.current(ctx, kindNamespace, "", name)
}

// hold lets nobody make objects in any namespace until its result is called, so
// that this one can be written.
func (s *Server) hold(namespace string) (release func()) {
	s.terminations.Lock()
	s.active.Delete(namespace)
	return s.terminations.Unlock
}
