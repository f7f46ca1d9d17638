// Package garbage deletes what has lost its owners, and keeps the promises of
// the policies by which owners are deleted: Background, Foreground, Orphan.
//
// The one invariant: nothing is deleted for want of an owner before the server
// itself has said that no object with that uid exists. A mirror may be behind; a
// name may belong to another object by now.
//
// Read next: plan.go (what becomes of an object).
package garbage

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Name is the actor of all that the controller writes.
const Name = "generic-garbage-collector"

// byOwner is the index from an owner's uid to what it owns.
const byOwner = "owner"

// Mirror is a mirror of any kind.
type Mirror interface {
	reconcile.Mirror
	// Lookup returns one object, or nil.
	Lookup(key api.Key) api.Object
	// OwnedBy returns the objects that name this uid as an owner.
	OwnedBy(uid string) []api.Object
	// Watch calls f for every change; old or now is nil where there is none.
	Watch(f func(old, now api.Object, revision int64))
}

// MirrorOf makes a Mirror of an informer, which must not have begun to run.
func MirrorOf[T api.Object](i *informer.Informer[T]) Mirror {
	i.AddIndex(byOwner, func(o T) []string {
		var uids []string
		for _, r := range o.GetMetadata().GetOwnerReferences() {
			uids = append(uids, r.GetUid())
		}
		return uids
	})
	return mirror[T]{i}
}

type mirror[T api.Object] struct{ *informer.Informer[T] }

func (m mirror[T]) Lookup(key api.Key) api.Object {
	if o, ok := m.Get(key); ok {
		return o
	}
	return nil
}

func (m mirror[T]) OwnedBy(uid string) []api.Object {
	var all []api.Object
	for _, o := range m.ByIndex(byOwner, uid) {
		all = append(all, o)
	}
	return all
}

func (m mirror[T]) Watch(f func(old, now api.Object, revision int64)) {
	m.OnChange(func(c informer.Change[T]) {
		var old, now api.Object
		if present(c.Old) {
			old = c.Old
		}
		if present(c.New) {
			now = c.New
		}
		f(old, now, c.Revision)
	})
}

func present[T api.Object](o T) bool { return o.GetMetadata() != nil }

// Controller is the shell around the plan: one loop for each kind.
type Controller struct {
	c       *client.Client
	mirrors map[*api.Kind]Mirror
	loops   map[*api.Kind]*reconcile.Loop
}

// New returns a controller for the kinds of the mirrors, which run elsewhere.
func New(c *client.Client, mirrors []Mirror, log *slog.Logger) *Controller {
	g := &Controller{c: c.As(Name), mirrors: map[*api.Kind]Mirror{}, loops: map[*api.Kind]*reconcile.Loop{}}
	all := make([]reconcile.Mirror, len(mirrors))
	for i, m := range mirrors {
		all[i] = m
		g.mirrors[m.Kind()] = m
	}
	for _, m := range mirrors {
		k := m.Kind()
		g.loops[k] = reconcile.New(Name+"/"+k.Name, func(ctx context.Context, key api.Key) (reconcile.Result, error) {
			return reconcile.Result{}, g.reconcile(ctx, k, key)
		}, reconcile.Options{Workers: 2, Mirrors: all, Logger: log})
		m.Watch(g.onChange)
	}
	return g
}

// Run works until ctx ends and returns nil.
func (g *Controller) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range g.loops {
		group.Go(func() error { return l.Run(ctx) })
	}
	return group.Wait()
}

// onChange wakes what a change may concern: the object where its owners or its
// deletion changed, its dependents where it goes, its owners where it frees
// them. Most changes (a status, a heartbeat) concern nobody.
func (g *Controller) onChange(old, now api.Object, revision int64) {
	if now == nil {
		for _, d := range g.dependents(old) {
			g.wake(d, revision)
		}
		g.wakeOwners(old, revision)
		return
	}
	m := now.GetMetadata()
	if old == nil {
		if len(m.GetOwnerReferences()) > 0 || m.GetDeletionTimestamp() != nil {
			g.wake(now, revision)
		}
		return
	}
	before := old.GetMetadata()
	owners := !slices.EqualFunc(before.GetOwnerReferences(), m.GetOwnerReferences(), func(a, b *v1.OwnerReference) bool { return proto.Equal(a, b) })
	if owners || before.GetDeletionTimestamp() == nil != (m.GetDeletionTimestamp() == nil) ||
		!slices.Equal(before.GetFinalizers(), m.GetFinalizers()) {
		g.wake(now, revision)
	}
	if owners {
		g.wakeOwners(old, revision)
	}
}

func (g *Controller) wake(o api.Object, revision int64) {
	g.loops[api.KindOf(o)].Enqueue(api.KeyOf(o), revision)
}

// wakeOwners wakes owners that may wait for an object.
func (g *Controller) wakeOwners(o api.Object, revision int64) {
	for _, r := range o.GetMetadata().GetOwnerReferences() {
		if k, key, ok := follow(o, r); ok && g.loops[k] != nil {
			g.loops[k].Enqueue(key, revision)
		}
	}
}

// dependents are the objects of all kinds that name o as an owner.
func (g *Controller) dependents(o api.Object) []api.Object {
	var all []api.Object
	for _, k := range api.Kinds() {
		if m := g.mirrors[k]; m != nil {
			all = append(all, m.OwnedBy(o.GetMetadata().GetUid())...)
		}
	}
	return all
}

// follow says where a reference points. An owner with a namespace is in that of
// what it owns; an object without a namespace cannot have one.
func follow(o api.Object, r *v1.OwnerReference) (*api.Kind, api.Key, bool) {
	k := api.KindByName(r.GetKind())
	if k == nil || k.APIVersion() != r.GetApiVersion() {
		return nil, api.Key{}, false
	}
	key := api.Key{Name: r.GetName()}
	if k.Namespaced {
		if key.Namespace = o.GetMetadata().GetNamespace(); key.Namespace == "" {
			return nil, api.Key{}, false
		}
	}
	return k, key, true
}

func (g *Controller) reconcile(ctx context.Context, k *api.Kind, key api.Key) error {
	o := g.mirrors[k].Lookup(key)
	if o == nil {
		return nil
	}
	s := State{Object: o, Dependents: g.dependents(o)}
	if o.GetMetadata().GetDeletionTimestamp() == nil {
		for _, r := range o.GetMetadata().GetOwnerReferences() {
			state, err := g.owner(ctx, o, r)
			if err != nil {
				return err
			}
			s.Owners = append(s.Owners, state)
		}
	}
	return g.carryOut(ctx, o, MakePlan(s))
}

// owner says what there is at the end of a reference. What the mirror shows
// counts; that it does not show it does not.
func (g *Controller) owner(ctx context.Context, o api.Object, r *v1.OwnerReference) (Owner, error) {
	k, key, ok := follow(o, r)
	if !ok {
		return Unresolvable, nil
	}
	var owner api.Object
	if m := g.mirrors[k]; m != nil {
		owner = m.Lookup(key)
	}
	if owner == nil || owner.GetMetadata().GetUid() != r.GetUid() {
		var err error
		owner, err = client.ForKind(g.c, k).Get(ctx, key.Namespace, key.Name)
		if errors.Is(err, api.ErrNotFound) {
			return Absent, nil
		} else if err != nil {
			return Absent, err
		}
	}
	m := owner.GetMetadata()
	switch {
	case m.GetUid() != r.GetUid():
		return Absent, nil
	case m.GetDeletionTimestamp() != nil && slices.Contains(m.GetFinalizers(), api.FinalizerForeground):
		return Leaving, nil
	}
	return Present, nil
}

func (g *Controller) carryOut(ctx context.Context, o api.Object, p Plan) error {
	ctx = client.WithCause(ctx, p.Reason, "%s", p.Message)
	for _, d := range p.Wake {
		g.wake(d, client.TriggerOf(ctx))
	}
	for _, d := range p.Orphans {
		if err := g.update(ctx, d); err != nil {
			return err
		}
	}
	switch {
	case p.Update != nil:
		return g.update(ctx, p.Update)
	case p.Delete:
		m := o.GetMetadata()
		// At this very version: owners may have been added since.
		_, err := client.ForKind(g.c, api.KindOf(o)).Delete(ctx, m.GetNamespace(), m.GetName(), client.DeleteOptions{
			UID: m.GetUid(), ResourceVersion: m.GetResourceVersion(), PropagationPolicy: p.Policy,
		})
		return api.IgnoreNotFound(err)
	}
	return nil
}

func (g *Controller) update(ctx context.Context, o api.Object) error {
	_, err := client.ForKind(g.c, api.KindOf(o)).Update(ctx, o)
	return api.IgnoreNotFound(err)
}
