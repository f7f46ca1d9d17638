// Package claim decides which objects belong to an owner that selects by
// labels: ReplicaSets to a Deployment, Pods to a ReplicaSet.
//
// The one invariant: an object has at most one controller, known by its uid,
// and only that one may let it go.
//
// Read next: pkg/controller/replicaset, which claims pods.
package claim

import (
	"context"
	"errors"
	"maps"
	"slices"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// index finds the objects of a controller by its uid, and those that have none
// by their namespace.
const index = "controller"

// AddIndex prepares a mirror for [Candidates] and [Of].
func AddIndex[T api.Object](mirror *informer.Informer[T]) {
	mirror.AddIndex(index, func(o T) []string {
		if ref := api.ControllerOf(o); ref != nil {
			return []string{ref.GetUid()}
		}
		return []string{orphans(o.GetMetadata().GetNamespace())}
	})
}

// orphans is where the index has the objects of a namespace without a
// controller. No uid looks like it.
func orphans(namespace string) string { return "orphans in " + namespace }

// Of returns the objects that the owner with this uid controls.
func Of[T api.Object](mirror *informer.Informer[T], uid string) []T {
	return mirror.ByIndex(index, uid)
}

// Candidates returns the objects that owner controls and those of its namespace
// that nobody does.
func Candidates[T api.Object](mirror *informer.Informer[T], owner api.Object) []T {
	m := owner.GetMetadata()
	return append(Of(mirror, m.GetUid()), mirror.ByIndex(index, orphans(m.GetNamespace()))...)
}

// Wake asks for the work on an owner when it changes, and when an object does that
// it controls, or did before, or that nobody does and it would like to. What changes
// what is wanted, or whose and how many there are, goes before other news.
func Wake[O, T api.Object](loop *reconcile.Loop, owners *informer.Informer[O], objects *informer.Informer[T], selector func(O) *v1.LabelSelector) {
	owners.OnChange(func(c informer.Change[O]) {
		if c.New.GetMetadata() != nil {
			wake[O](c.Old, c.New, loop)(api.KeyOf(c.New), c.Revision)
		}
	})
	objects.OnChange(func(c informer.Change[T]) {
		ask := wake[T](c.Old, c.New, loop)
		for _, o := range []T{c.Old, c.New} {
			if ref := api.ControllerOf(o); ref != nil && ref.GetKind() == owners.Kind().Name {
				ask(api.Key{Namespace: o.GetMetadata().GetNamespace(), Name: ref.GetName()}, c.Revision)
			}
		}
		m := c.New.GetMetadata()
		if m == nil || api.ControllerOf(c.New) != nil {
			return
		}
		for _, owner := range owners.List() {
			if owner.GetMetadata().GetNamespace() != m.GetNamespace() {
				continue
			}
			if s, err := api.SelectorOf(selector(owner)); err == nil && s.Matches(m.GetLabels()) {
				ask(api.KeyOf(owner), c.Revision)
			}
		}
	})
}

// wake is how a loop is asked for work because of a change.
func wake[T api.Object](before, now T, loop *reconcile.Loop) func(api.Key, int64) {
	if isDemand(before, now) {
		return loop.Demand
	}
	return loop.Enqueue
}

// isDemand says that a change is one of what is wanted of an object, of whose it is,
// or of whether it is one of those that are there. What its status tells is news.
func isDemand(before, now api.Object) bool {
	was, is := before.GetMetadata(), now.GetMetadata()
	same := was == nil || is == nil || wanted(before) == wanted(now) && maps.Equal(was.GetLabels(), is.GetLabels()) &&
		api.ControllerOf(before).GetUid() == api.ControllerOf(now).GetUid()
	return !same || isThere(before) != isThere(now)
}

// wanted changes with what is wanted of an object. Nobody wants something else of a
// pod: that it gets a node is news.
func wanted(o api.Object) int64 {
	if _, isPod := o.(*v1.Pod); isPod {
		return 0
	}
	return o.GetMetadata().GetGeneration()
}

func isThere(o api.Object) bool {
	p, isPod := o.(*v1.Pod)
	return o.GetMetadata() != nil && o.GetMetadata().GetDeletionTimestamp() == nil && (!isPod || api.IsPodActive(p))
}

// Plan says what is whose.
type Plan[T api.Object] struct {
	// Keep are controlled by the owner and selected.
	Keep []T
	// Adopt are selected and have no controller.
	Adopt []T
	// Release are controlled by the owner but no longer selected.
	Release []T
}

// Decide sorts the candidates. As in Kubernetes an owner that is being deleted
// takes and gives nothing, and what is being deleted is not adopted.
func Decide[T api.Object](owner api.Object, selector api.Selector, candidates []T) Plan[T] {
	var p Plan[T]
	me := owner.GetMetadata()
	leaving := me.GetDeletionTimestamp() != nil
	for _, o := range candidates {
		m := o.GetMetadata()
		selected := selector.Matches(m.GetLabels())
		ref := api.ControllerOf(o)
		switch {
		case ref != nil && ref.GetUid() != me.GetUid():
		case ref != nil && selected:
			p.Keep = append(p.Keep, o)
		case leaving:
		case ref != nil:
			p.Release = append(p.Release, o)
		case selected && m.GetDeletionTimestamp() == nil && m.GetNamespace() == me.GetNamespace():
			p.Adopt = append(p.Adopt, o)
		}
	}
	return p
}

// Carry makes the plan true and returns what then belongs to the owner. Before
// it adopts, it asks the server whether the owner still lives: a mirror may show
// one that was deleted, or another of its name, a moment ago.
func Carry[T api.Object](ctx context.Context, c *client.Client, owner api.Object, p Plan[T]) ([]T, error) {
	objects := client.For[T](c)
	owned := slices.Clone(p.Keep)
	for _, o := range p.Release {
		if err := release(ctx, objects, owner, o); err != nil {
			return nil, err
		}
	}
	if len(p.Adopt) == 0 {
		return owned, nil
	}
	if err := alive(ctx, c, owner); err != nil {
		return nil, err
	}
	kind, me := api.KindOf(owner), owner.GetMetadata()
	ctx = client.WithCause(ctx, "Adopted", "%s %s selects it and it has no controller", kind.Name, me.GetName())
	for _, o := range p.Adopt {
		o = api.Clone(o)
		m := o.GetMetadata()
		m.OwnerReferences = append(m.OwnerReferences, api.NewControllerRef(owner))
		adopted, err := objects.Update(ctx, o)
		switch {
		case errors.Is(err, api.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			owned = append(owned, adopted)
		}
	}
	return owned, nil
}

func release[T api.Object](ctx context.Context, objects client.Resource[T], owner api.Object, o T) error {
	kind, me := api.KindOf(owner), owner.GetMetadata()
	ctx = client.WithCause(ctx, "Released", "%s %s no longer selects it", kind.Name, me.GetName())
	o = api.Clone(o)
	m := o.GetMetadata()
	m.OwnerReferences = slices.DeleteFunc(m.OwnerReferences, func(r *v1.OwnerReference) bool { return r.GetUid() == me.GetUid() })
	_, err := objects.Update(ctx, o)
	return api.IgnoreNotFound(err)
}

// alive returns an error unless the server knows the owner by its uid, not
// about to go.
func alive(ctx context.Context, c *client.Client, owner api.Object) error {
	k, m := api.KindOf(owner), owner.GetMetadata()
	now, err := client.ForKind(c, k).Get(ctx, m.GetNamespace(), m.GetName())
	if err != nil {
		return err
	}
	if uid := now.GetMetadata().GetUid(); uid != m.GetUid() {
		return api.Conflict(k, m.GetName(), "it is another object of the same name now")
	}
	if now.GetMetadata().GetDeletionTimestamp() != nil {
		return api.Conflict(k, m.GetName(), "it has just been deleted")
	}
	return nil
}
