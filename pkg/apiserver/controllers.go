package apiserver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"orch/pkg/api"
	"orch/pkg/apiserver/admission"
	"orch/pkg/apiserver/authz"
	"orch/pkg/apiserver/gate"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// pausedName is the ConfigMap of kube-system whose keys are the controllers that
// are paused. So a pause outlives the server, and stands in the log.
const pausedName = "paused-controllers"

// What Step waits for: somebody to make use of the grant, and then to tell what
// comes next, until there is a pause.
const (
	stepPatience = 3 * api.HeldAgain
	nextPatience = 3 * api.HeldAgain / 2
	nextPause    = api.HeldAgain / 20
)

// write makes a write with do, or holds it where it is that of a paused
// controller: then it is only tried, and refused with [api.ErrHeld]. Events pass:
// they tell what has been done.
func (s *Server) write(ctx context.Context, verb string, k *api.Kind, key api.Key, c *v1.Cause, dryRun bool, do func(dryRun bool) (store.Entry, error)) (*v1.Object, error) {
	var visit *gate.Visit
	if !dryRun && callerOf(ctx).trusted && (k != kindEvent || verb == "delete") {
		visit = s.gate.Enter(c.GetActor())
	}
	if visit == nil {
		return answer(do(dryRun))
	}
	var held *v1.HeldWrite
	var e store.Entry
	var err error
	defer func() { visit.Leave(held, e.Revision, s.now()) }()
	if !visit.Paused {
		e, err = do(false)
		return answer(e, err)
	}
	noteOf(ctx).dryRun = true
	var old store.Entry
	if verb != "create" {
		r, err := s.current(ctx, k, key.Namespace, key.Name)
		if err != nil {
			return nil, err
		}
		old = r.Entry
	}
	tried, err := do(true)
	if err != nil || verb != "create" && !tried.Deleted && bytes.Equal(tried.Value, old.Value) {
		return answer(tried, err) // nothing would be written
	}
	if held, err = heldWrite(verb, key, c, old, tried); err != nil {
		return nil, err
	}
	if !visit.Pass(held, s.now()) {
		return nil, api.Errorf(api.ErrHeld, "controller %s is paused", visit.Controller())
	}
	noteOf(ctx).dryRun = false
	if e, err = do(false); err == nil && !e.Deleted {
		held.After = wire(e)
	}
	return answer(e, err)
}

func answer(e store.Entry, err error) (*v1.Object, error) {
	if err != nil {
		return nil, err
	}
	return wire(e), nil
}

// heldWrite says what a write would change.
func heldWrite(verb string, key api.Key, c *v1.Cause, old, tried store.Entry) (*v1.HeldWrite, error) {
	w := &v1.HeldWrite{Key: cmp.Or(c.GetRun().GetKey(), key.String()), Verb: verb, Cause: c}
	if old.Revision != 0 {
		w.Before = wire(old)
	}
	if tried.Deleted {
		return w, nil
	}
	o, err := decode(tried)
	if err != nil {
		return nil, err
	}
	m := o.GetMetadata()
	if m.ResourceVersion = old.Revision; verb == "create" {
		m.Uid, m.CreationTimestamp = "", nil // others in the end
		if m.GetGenerateName() != "" {
			m.Name = ""
		}
	}
	w.After = api.Wrap(o)
	return w, nil
}

// remind tells who works with objects that somebody is paused.
func (s *Server) remind(method string, n *note) {
	if c := n.caller; strings.HasPrefix(method, "/"+v1.Resources_ServiceDesc.ServiceName+"/") && !c.trusted && c.NodeName() == "" {
		if text := s.gate.Banner(); text != "" {
			n.warn(text)
		}
	}
}

// followPauses takes in a new revision of an object that says who is paused.
func (s *Server) followPauses(o api.Object, revision int64, deleted bool) {
	c, ok := o.(*v1.ConfigMap)
	if m := o.GetMetadata(); !ok || m.GetName() != pausedName || m.GetNamespace() != api.NamespaceSystem {
		return
	}
	s.gate.Set(func(name string) bool {
		_, paused := c.GetData()[name]
		return paused && !deleted
	}, revision)
}

// bootstrapPauses learns who was paused when the server ended.
func (s *Server) bootstrapPauses(ctx context.Context) error {
	r, err := s.current(ctx, kindConfigMap, api.NamespaceSystem, pausedName)
	if err == nil {
		s.followPauses(r.object, r.Revision, false)
	}
	return api.IgnoreNotFound(err)
}

// controllers is the Controllers service.
type controllers struct {
	v1.UnimplementedControllersServer
	s *Server

	pausing sync.Mutex // held while the ConfigMap is read and written
}

// authorize asks for a right to controllers.orch.dev, which is no kind: the roles
// that a cluster has give it to nobody but cluster-admin.
func (c *controllers) authorize(ctx context.Context, verb, name string) error {
	return c.s.authorize(ctx, authz.Request{Verb: verb, Group: "orch.dev", Resource: "controllers", Name: name})
}

// ListControllers tells of all controllers, or of those by whose names the caller
// has the right.
func (c *controllers) ListControllers(ctx context.Context, _ *v1.ListControllersRequest) (*v1.ListControllersResponse, error) {
	all := c.s.gate.List(c.s.now())
	if err := c.authorize(ctx, "list", ""); err != nil {
		all = slices.DeleteFunc(all, func(one *v1.Controller) bool { return c.authorize(ctx, "list", one.GetName()) != nil })
		if len(all) == 0 {
			return nil, err
		}
	}
	return &v1.ListControllersResponse{Controllers: all}, nil
}

func (c *controllers) get(name string) *v1.Controller {
	for _, one := range c.s.gate.List(c.s.now()) {
		if one.GetName() == name {
			return one
		}
	}
	return nil
}

// Pause pauses or resumes a controller.
func (c *controllers) Pause(ctx context.Context, r *v1.PauseRequest) (*v1.Controller, error) {
	if err := c.authorize(ctx, "update", r.GetController()); err != nil {
		return nil, err
	}
	if err := api.CheckControllers(r.GetController()); err != nil {
		return nil, err
	}
	c.pausing.Lock()
	defer c.pausing.Unlock()
	if err := c.set(ctx, r); err != nil {
		return nil, err
	}
	c.s.gate.Barrier()
	return c.get(r.GetController()), nil
}

func (c *controllers) set(ctx context.Context, r *v1.PauseRequest) error {
	verb, message := "Pause", "controller "+r.GetController()+" is paused"
	if !r.GetPaused() {
		verb, message = "Resume", "controller "+r.GetController()+" is resumed"
	}
	cause := causeOf(ctx, r.GetCause(), verb)
	cause.Message = cmp.Or(cause.Message, message)
	// The request is about the controller; that it writes a ConfigMap is no news.
	ctx = context.WithValue(ctx, noteKey{}, &note{})
	next := &v1.ConfigMap{Metadata: &v1.ObjectMeta{Namespace: api.NamespaceSystem, Name: pausedName}}
	old, err := c.s.current(ctx, kindConfigMap, api.NamespaceSystem, pausedName)
	switch {
	case err == nil:
		next = api.Clone(old.object.(*v1.ConfigMap))
	case !errors.Is(err, api.ErrNotFound):
		return err
	}
	if _, paused := next.GetData()[r.GetController()]; paused == r.GetPaused() {
		return nil
	}
	if r.GetPaused() {
		api.Put(&next.Data, r.GetController(), "paused")
	} else {
		delete(next.Data, r.GetController())
	}
	if err != nil {
		_, err = c.s.create(ctx, next, cause, false)
	} else {
		_, err = c.s.update(ctx, next, admission.Update, cause, false)
	}
	return err
}

// Step lets one write through and tells what came of it.
func (c *controllers) Step(ctx context.Context, r *v1.StepRequest) (*v1.StepResponse, error) {
	if err := c.authorize(ctx, "update", r.GetController()); err != nil {
		return nil, err
	}
	g := c.s.gate
	grant, err := g.Grant(r.GetController(), r.GetKey(), callerOf(ctx).Name)
	if err != nil {
		return nil, err
	}
	done := false
	for late := time.After(stepPatience); ; {
		changed, giveUp := g.Changed(), ctx.Err() != nil || c.s.running.Err() != nil
		select {
		case <-late:
			giveUp = true
		default:
		}
		var over bool
		if done, over = g.Take(grant, giveUp); over {
			break
		}
		select {
		case <-changed:
		case <-time.After(api.HeldAgain / 4):
		}
	}
	if !done {
		return nil, c.nothing(r)
	}
	// A run tells one write after the other: when nothing more comes, it has told all.
	late := time.After(nextPatience)
	for {
		var quiet <-chan time.Time
		changed := g.Changed()
		if g.Followed(grant) {
			quiet = time.After(nextPause)
		}
		select {
		case <-changed:
			continue
		case <-quiet:
		case <-late:
		case <-ctx.Done():
		case <-c.s.running.Done():
		}
		break
	}
	return &v1.StepResponse{Written: grant.Written, Revision: grant.Revision, Controller: c.get(r.GetController())}, nil
}

// nothing says why no step was made.
func (c *controllers) nothing(r *v1.StepRequest) error {
	var keys []string
	for _, w := range c.get(r.GetController()).GetHeld() {
		keys = append(keys, w.GetKey())
	}
	if r.GetKey() != "" && len(keys) > 0 {
		slices.Sort(keys)
		return api.Errorf(api.ErrBadRequest, "controller %s holds nothing of %s, but of %s", r.GetController(), r.GetKey(), strings.Join(slices.Compact(keys), ", "))
	}
	return api.Errorf(api.ErrBadRequest, "controller %s holds nothing: all is as it should be in its eyes", r.GetController())
}
