// Package namespace empties namespaces that are being deleted.
//
// The one invariant: a namespace goes only when the server itself lists nothing
// in it any more. Nothing new can come: the server refuses that as soon as the
// deletion has begun.
//
// Read next: pkg/controller/garbage, which cleans up after owners.
package namespace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Name is the actor of all that the controller writes.
const Name = "namespace-controller"

// Conditions of a namespace that is being deleted.
const (
	contentFailure = "NamespaceDeletionContentFailure"
	contentRemains = "NamespaceContentRemaining"
	finalizersLeft = "NamespaceFinalizersRemaining"
)

// State is what a plan is made from.
type State struct {
	Namespace *v1.Namespace
	// Content is everything in it.
	Content []api.Object
	Now     time.Time
}

// Plan is what is to be done.
type Plan struct {
	// Delete are the objects that nobody has asked to go yet.
	Delete []api.Object
	// Finalize says that the namespace is empty and may go.
	Finalize bool
	// Status is what the status must be.
	Status *v1.NamespaceStatus
}

// MakePlan says what keeps a namespace that is being deleted, and what is still
// to be asked to go.
func MakePlan(s State) Plan {
	p := Plan{Status: api.CloneOrNew(s.Namespace.GetStatus())}
	kinds, finalizers := map[string]int{}, map[string]int{}
	for _, o := range s.Content {
		m := o.GetMetadata()
		if m.GetDeletionTimestamp() == nil {
			p.Delete = append(p.Delete, o)
		}
		kinds[api.KindOf(o).Plural+"."+api.KindOf(o).Group]++
		for _, f := range m.GetFinalizers() {
			finalizers[f]++
		}
	}
	p.Finalize = len(s.Content) == 0
	set := func(typ string, is bool, reason, message string) {
		status := api.ConditionFalse
		if is {
			status = api.ConditionTrue
		}
		api.SetCondition(&p.Status.Conditions, &v1.Condition{Type: typ, Status: status, Reason: reason, Message: message}, s.Now)
	}
	set(contentFailure, false, "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	if len(kinds) > 0 {
		set(contentRemains, true, "SomeResourcesRemain", "Some resources are remaining: "+list(kinds, "%s has %d resource instances"))
	} else {
		set(contentRemains, false, "ContentRemoved", "All content successfully removed")
	}
	if len(finalizers) > 0 {
		set(finalizersLeft, true, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+list(finalizers, "%s in %d resource instances"))
	} else {
		set(finalizersLeft, false, "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	}
	return p
}

func list(count map[string]int, format string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(count)) {
		all = append(all, fmt.Sprintf(format, k, count[k]))
	}
	return strings.Join(all, ", ")
}

// Controller is the shell around the plan.
type Controller struct {
	c          *client.Client
	namespaces *informer.Informer[*v1.Namespace]
	loop       *reconcile.Loop
	now        func() time.Time
}

// New returns a controller that reads from the mirror, which runs elsewhere and
// must not have begun to. [Controller.Gone] is to be told of what goes.
func New(c *client.Client, namespaces *informer.Informer[*v1.Namespace], log *slog.Logger) *Controller {
	n := &Controller{c: c.As(Name), namespaces: namespaces, now: time.Now}
	n.loop = reconcile.New(Name, n.reconcile, reconcile.Options{Mirrors: []reconcile.Mirror{namespaces}, Logger: log})
	namespaces.OnChange(func(c informer.Change[*v1.Namespace]) {
		if c.New.GetMetadata().GetDeletionTimestamp() != nil {
			n.loop.Enqueue(api.KeyOf(c.New), c.Revision)
		}
	})
	return n
}

// Gone tells the controller that an object of a namespace is gone: it may have
// been what kept the namespace.
func (n *Controller) Gone(namespace string, revision int64) {
	ns, ok := n.namespaces.Get(api.Key{Name: namespace})
	if ok && ns.GetMetadata().GetDeletionTimestamp() != nil {
		n.loop.Enqueue(api.KeyOf(ns), revision)
	}
}

// Run works until ctx ends and returns nil.
func (n *Controller) Run(ctx context.Context) error { return n.loop.Run(ctx) }

func (n *Controller) reconcile(ctx context.Context, key api.Key) (reconcile.Result, error) {
	ns, ok := n.namespaces.Get(key)
	if !ok || ns.GetMetadata().GetDeletionTimestamp() == nil {
		return reconcile.Result{}, nil
	}
	content, err := n.content(ctx, key.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	plan := MakePlan(State{Namespace: ns, Content: content, Now: n.now()})
	if plan.Finalize {
		return reconcile.Result{}, n.finalize(ctx, ns)
	}
	failures := n.delete(ctx, plan.Delete)
	if errors.Is(failures, api.ErrHeld) {
		return reconcile.Result{}, failures
	}
	if failures != nil {
		api.SetCondition(&plan.Status.Conditions, &v1.Condition{
			Type: contentFailure, Status: api.ConditionTrue, Reason: "ContentDeletionFailed", Message: failures.Error(),
		}, n.now())
	}
	if len(plan.Delete) > 0 && failures == nil {
		// Most of it is gone already; what is not is worth a condition.
		if content, err = n.content(ctx, key.Name); err != nil {
			return reconcile.Result{}, err
		}
		if plan = MakePlan(State{Namespace: ns, Content: content, Now: n.now()}); plan.Finalize {
			return reconcile.Result{}, n.finalize(ctx, ns)
		}
	}
	return reconcile.Result{}, errors.Join(failures, n.writeStatus(ctx, ns, plan.Status))
}

// content lists everything in a namespace.
func (n *Controller) content(ctx context.Context, namespace string) ([]api.Object, error) {
	var all []api.Object
	for _, k := range api.Kinds() {
		if !k.Namespaced {
			continue
		}
		l, err := client.ForKind(n.c, k).List(ctx, client.ListOptions{Namespace: namespace})
		if err != nil {
			return nil, fmt.Errorf("list %s of namespace %s: %w", k.Plural, namespace, err)
		}
		all = append(all, l.Items...)
	}
	return all, nil
}

// delete asks all objects to go, pods with the grace period that they ask for.
func (n *Controller) delete(ctx context.Context, objects []api.Object) error {
	var failures []error
	ctx = client.WithCause(ctx, "NamespaceDeleted", "its namespace is being deleted")
	for _, o := range objects {
		m := o.GetMetadata()
		_, err := client.ForKind(n.c, api.KindOf(o)).Delete(ctx, m.GetNamespace(), m.GetName(), client.DeleteOptions{UID: m.GetUid()})
		if err != nil && !errors.Is(err, api.ErrNotFound) && !errors.Is(err, api.ErrConflict) {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// finalize lets the namespace go.
func (n *Controller) finalize(ctx context.Context, ns *v1.Namespace) error {
	ctx = client.WithCause(ctx, "NamespaceEmpty", "nothing is left in the namespace")
	ns = api.Clone(ns)
	ns.Spec = cmp.Or(ns.Spec, &v1.NamespaceSpec{})
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f string) bool { return f == api.FinalizerKubernetes })
	_, err := client.For[*v1.Namespace](n.c).Update(ctx, ns)
	return api.IgnoreNotFound(err)
}

// writeStatus writes the status where it differs.
func (n *Controller) writeStatus(ctx context.Context, ns *v1.Namespace, status *v1.NamespaceStatus) error {
	if proto.Equal(status, ns.GetStatus()) {
		return nil
	}
	ctx = client.WithCause(ctx, "ContentCounted", "%s", api.GetCondition(status.GetConditions(), contentRemains).GetMessage())
	ns = api.Clone(ns)
	ns.Status = status
	_, err := client.For[*v1.Namespace](n.c).UpdateStatus(ctx, ns)
	return api.IgnoreNotFound(err)
}
