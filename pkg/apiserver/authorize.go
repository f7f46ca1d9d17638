package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"orch/pkg/api"
	"orch/pkg/apiserver/admission"
	"orch/pkg/apiserver/authz"
	"orch/pkg/identity"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// policies keeps the roles and bindings as they were last read.
//
// Concurrency: all methods may be called from several goroutines.
type policies struct {
	kept    atomic.Pointer[keptPolicy]
	changed atomic.Int64 // the newest revision of a role or binding
}

type keptPolicy struct {
	authz.Policy
	at int64 // the revision that it was read at, or a later one
}

// wrote is told of every write.
func (p *policies) wrote(k *api.Kind, revision int64) {
	if k.Group != api.GroupRBAC {
		return
	}
	for {
		before := p.changed.Load()
		if before >= revision || p.changed.CompareAndSwap(before, revision) {
			return
		}
	}
}

// policy is all roles and bindings, no older than the last write that was
// answered.
func (s *Server) policy(ctx context.Context) (*authz.Policy, error) {
	if kept := s.policies.kept.Load(); kept != nil && kept.at >= s.policies.changed.Load() {
		return &kept.Policy, nil
	}
	p := &keptPolicy{at: s.store.Revision(), Policy: authz.Policy{
		Roles: map[api.Key]*v1.Role{}, ClusterRoles: map[string]*v1.ClusterRole{}, RoleBindings: map[string][]*v1.RoleBinding{},
	}}
	roles, err1 := all[*v1.Role](ctx, s, "", p.at)
	for _, r := range roles {
		p.Roles[api.KeyOf(r)] = r
	}
	clusterRoles, err2 := all[*v1.ClusterRole](ctx, s, "", p.at)
	for _, r := range clusterRoles {
		p.ClusterRoles[r.GetMetadata().GetName()] = r
	}
	bindings, err3 := all[*v1.RoleBinding](ctx, s, "", p.at)
	for _, b := range bindings {
		ns := b.GetMetadata().GetNamespace()
		p.RoleBindings[ns] = append(p.RoleBindings[ns], b)
	}
	var err4 error
	p.ClusterRoleBindings, err4 = all[*v1.ClusterRoleBinding](ctx, s, "", p.at)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	s.policies.kept.Store(p)
	return &p.Policy, nil
}

// authorize refuses what the caller may not do.
func (s *Server) authorize(ctx context.Context, r authz.Request) error {
	c := callerOf(ctx)
	noteOf(ctx).request = r
	if c.trusted {
		return nil
	}
	allowed, why, err := s.may(ctx, c.User, r)
	switch {
	case err != nil:
		return err
	case !allowed:
		return r.Refusal(c.User, why)
	}
	noteOf(ctx).allowedBy = why
	return nil
}

// may says whether a user may do something, and by or because of what.
func (s *Server) may(ctx context.Context, u identity.User, r authz.Request) (allowed bool, why string, err error) {
	if u.In(identity.GroupMasters) {
		return true, "", nil
	}
	if node := u.NodeName(); node != "" {
		allowed, refusal, err := authz.NodeMay(node, r, facts{ctx, s})
		if err != nil || allowed {
			return allowed, "", err
		}
		why = refusal
	}
	p, err := s.policy(ctx)
	if err != nil {
		return false, "", err
	}
	if allowed, by := p.Allows(u, r); allowed {
		return true, by, nil
	}
	return false, why, nil
}

// on is a request for objects of a kind. A namespace that is there is, as in
// Kubernetes, one of its own objects, so that who has a role in it may see it.
func on(verb string, k *api.Kind, sub, namespace, name string) authz.Request {
	if k == kindNamespace && verb != "create" {
		namespace = name
	}
	return authz.Request{Verb: verb, Group: k.Group, Resource: k.Plural, Subresource: sub, Namespace: namespace, Name: name}
}

// onFilter is a request for the objects that pass a filter.
func onFilter(verb string, f *filter) authz.Request {
	r := on(verb, f.kind, "", f.namespace, "")
	r.Name, _ = f.fields.RequiresExact("metadata.name")
	r.Node = f.node
	return r
}

// facts are what rules for nodes ask of the server.
type facts struct {
	ctx context.Context //nolint:containedctx // it lives as long as one question
	s   *Server
}

func (f facts) Pod(namespace, name string) (*v1.Pod, error) {
	p, err := get[*v1.Pod](f.ctx, f.s, namespace, name)
	return p, api.IgnoreNotFound(err)
}

func (f facts) Injection(namespace, name string) (*v1.ChaosInjection, error) {
	i, err := get[*v1.ChaosInjection](f.ctx, f.s, namespace, name)
	return i, api.IgnoreNotFound(err)
}

func (f facts) PodsOn(node, namespace string) ([]*v1.Pod, error) {
	pods, err := all[*v1.Pod](f.ctx, f.s, namespace, 0)
	return slices.DeleteFunc(pods, func(p *v1.Pod) bool { return p.GetSpec().GetNodeName() != node }), err
}

// restrict refuses what the caller may not write into an object that they may
// write: nodes, what is not theirs; everybody, roles that allow more than they
// may do themselves. Old is what the object replaces, or nil.
func (s *Server) restrict(ctx context.Context, o, old api.Object) error {
	c := callerOf(ctx)
	if c.trusted || c == nobody || c.In(identity.GroupMasters) { // nobody: the server itself writes
		return nil
	}
	k, m := api.KindOf(o), o.GetMetadata()
	if node := c.NodeName(); node != "" {
		why, err := authz.RestrictNode(node, o, old, facts{ctx, s})
		if err != nil {
			return err
		}
		if why != "" {
			return api.Forbidden(k, m.GetName(), why)
		}
	}
	if k.Group != api.GroupRBAC {
		return nil
	}
	return s.restrictRoles(ctx, c.User, k, o)
}

// restrictRoles is Kubernetes' guard against granting oneself more: a role may
// hold what its writer may do, or the writer has the verb escalate; a role may be
// bound by who has all of it, or has the verb bind.
func (s *Server) restrictRoles(ctx context.Context, u identity.User, k *api.Kind, o api.Object) error {
	p, err := s.policy(ctx)
	if err != nil {
		return err
	}
	m := o.GetMetadata()
	var wanted []*v1.PolicyRule
	exempt := on("escalate", k, "", m.GetNamespace(), m.GetName())
	switch o := o.(type) {
	case *v1.Role:
		wanted = o.GetRules()
	case *v1.ClusterRole:
		wanted = o.GetRules()
	case *v1.RoleBinding:
		wanted, exempt = p.RulesIn(o.GetRoleRef(), m.GetNamespace()), bind(o.GetRoleRef(), m.GetNamespace())
	case *v1.ClusterRoleBinding:
		wanted, exempt = p.RulesIn(o.GetRoleRef(), ""), bind(o.GetRoleRef(), "")
	}
	missing := authz.Missing(p.RulesOf(u, m.GetNamespace()), wanted)
	if allowed, _, err := s.may(ctx, u, exempt); err != nil || allowed || len(missing) == 0 {
		return err
	}
	text := make([]string, len(missing))
	for i, r := range missing {
		text[i] = authz.Describe(r)
	}
	return api.Forbidden(k, m.GetName(), fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", u.Name, u.Groups, strings.Join(text, "\n")))
}

// bind is the request to bind a role, for which a role has to be there.
func bind(ref *v1.RoleRef, namespace string) authz.Request {
	k := api.KindByName(ref.GetKind())
	if k == nil {
		return authz.Request{Verb: "bind"}
	}
	return on("bind", k, "", namespace, ref.GetName())
}

// bootstrapRoles makes the roles and bindings that every cluster has, and adds to
// them what a newer server knows.
func (s *Server) bootstrapRoles(ctx context.Context) error {
	roles, binding := authz.Defaults()
	for _, r := range roles {
		if err := s.ensure(ctx, r, "every cluster has this role or binding"); err != nil {
			return err
		}
	}
	return s.ensure(ctx, binding, "every cluster has this role or binding")
}

// ensure makes an object that every cluster has.
func (s *Server) ensure(ctx context.Context, o api.Object, why string) error {
	_, err := s.create(ctx, api.Clone(o), store.Cause{Actor: "apiserver", Reason: "Bootstrap", Message: why}, false)
	if want, ok := o.(*v1.ClusterRole); ok && errors.Is(err, api.ErrAlreadyExists) {
		err = s.reconcileRole(ctx, want)
	}
	if err != nil && !errors.Is(err, api.ErrAlreadyExists) {
		return fmt.Errorf("create %s %s: %w", api.KindOf(o).Name, o.GetMetadata().GetName(), err)
	}
	return nil
}

func (s *Server) reconcileRole(ctx context.Context, want *v1.ClusterRole) error {
	there, err := s.current(ctx, api.KindOf(want), "", want.GetMetadata().GetName())
	if err != nil {
		return err
	}
	next := authz.Reconciled(there.object.(*v1.ClusterRole), want)
	if next == nil {
		return nil
	}
	_, err = s.update(ctx, next, admission.Update, store.Cause{Actor: "apiserver", Reason: "Reconcile", Message: "this role lacked what the server now knows"}, false)
	return err
}
