// Package admission says what an object becomes on its way into the store, and
// what a request for its deletion makes of it. No store, no context, and time is an
// argument; all that is made up here is a new object's uid, and an experiment's seed.
//
// The one invariant: what Create, Update, Status and Delete return is whole and
// valid, where what they are given as old was.
//
// Read next: kinds.go (what differs between kinds), delete.go, then write.go of
// package apiserver, which carries it out.
package admission

import (
	"time"

	"github.com/google/uuid"

	"orch/pkg/api"
)

// Create makes a new object whole: what belongs to the server is the
// server's, defaults are in, and all of it is valid.
func Create(o api.Object, now time.Time) error {
	m := o.GetMetadata()
	if m.GetResourceVersion() != 0 {
		return api.Errorf(api.ErrBadRequest, "resourceVersion should not be set on objects to be created")
	}
	m.Uid = uuid.NewString()
	m.CreationTimestamp = stamp(now)
	m.DeletionTimestamp, m.DeletionGracePeriodSeconds = nil, nil
	m.Generation = 0
	if hasGeneration(o) {
		m.Generation = 1
	}
	api.Default(o)
	prepareCreate(o, now)
	return api.Invalid(api.KindOf(o), m.GetName(), api.Validate(o))
}

// Update makes the object of an update whole: what belongs to the server stays
// as it was, and so does status. It changes o, and may be called with it again,
// for another old.
func Update(o, old api.Object, now time.Time) (api.Object, error) {
	m, was := o.GetMetadata(), old.GetMetadata()
	m.ResourceVersion = 0
	m.Uid = was.GetUid()
	m.CreationTimestamp = was.GetCreationTimestamp()
	m.DeletionTimestamp, m.DeletionGracePeriodSeconds = was.GetDeletionTimestamp(), was.DeletionGracePeriodSeconds
	m.Generation = was.GetGeneration()
	if m.GetGenerateName() == "" {
		m.GenerateName = was.GetGenerateName()
	}
	api.Default(o)
	if err := prepareUpdate(o, old, now); err != nil {
		return nil, err
	}
	if err := api.Invalid(api.KindOf(o), m.GetName(), api.ValidateUpdate(o, old)); err != nil {
		return nil, err
	}
	if asksForMore(o, old) {
		m.Generation++
	}
	return o, nil
}

// Status makes the object of a status update: the old one, but for status. Its
// other parts are shared with old.
func Status(o, old api.Object, _ time.Time) (api.Object, error) {
	next := withStatus(old, o)
	if next == nil {
		return nil, api.Errorf(api.ErrUnimplemented, "%s have no status", api.KindOf(o).Resource())
	}
	return next, api.Invalid(api.KindOf(o), old.GetMetadata().GetName(), api.ValidateStatus(next, old))
}
