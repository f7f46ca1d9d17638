package apiserver

import (
	"bytes"
	"context"
	"errors"

	"orch/pkg/api"
	"orch/pkg/apiserver/admission"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// Delete asks for an object's end. What nothing holds goes at once; what has a
// grace period or finalizers is marked, and goes when the last of them is gone:
// by a Delete with a grace period of 0, or an Update that removes the last
// finalizer.
func (s *Server) Delete(ctx context.Context, r *v1.DeleteRequest) (*v1.Object, error) {
	k, err := kindOf(r.GetKind())
	if err != nil {
		return nil, err
	}
	noteOf(ctx).dryRun = r.GetDryRun()
	remove, verb, sub := s.remove, "delete", ""
	if r.GetEvict() {
		remove, verb, sub = s.evict, "create", "eviction"
	}
	key, err := s.ask(ctx, verb, k, sub, r.GetNamespace(), r.GetName())
	if err != nil {
		return nil, err
	}
	if err := admission.CheckDelete(k, key.Name, r.GetPropagationPolicy()); err != nil {
		return nil, err
	}
	if k == kindNamespace {
		defer s.hold(key.Name)()
	}
	return s.write(ctx, "delete", k, key, r.GetCause(), r.GetDryRun(), func(dryRun bool) (store.Entry, error) {
		r.DryRun = dryRun
		return remove(ctx, k, key, r)
	})
}

func (s *Server) remove(ctx context.Context, k *api.Kind, key api.Key, r *v1.DeleteRequest) (store.Entry, error) {
	for {
		old, err := s.meantBy(ctx, k, key, r.GetUid(), r.GetResourceVersion())
		if err != nil {
			return store.Entry{}, err
		}
		next := admission.Delete(old.object, r.GracePeriodSeconds, r.GetPropagationPolicy(), s.now())
		gone := !admission.Held(next)
		value := old.Value
		if gone {
			next = old.object // what goes is shown as it was last
		} else if value, err = encode(next); err != nil {
			return store.Entry{}, err
		}
		if r.GetDryRun() || !gone && bytes.Equal(value, old.Value) {
			return store.Entry{Revision: old.Revision, Value: value, Deleted: gone}, nil
		}
		e, err := s.commit(ctx, next, store.Change{
			Value: value, Delete: gone, Expect: old.Revision, Cause: causeOf(ctx, r.GetCause(), "Delete"),
		})
		if err == nil || r.GetResourceVersion() != 0 || !errors.Is(err, store.ErrConflict) {
			return e, storeError(err, k, key.Name)
		}
	}
}
