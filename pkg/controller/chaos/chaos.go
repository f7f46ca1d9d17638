// Package chaos runs ChaosExperiments: it chooses what is hit, makes an injection of
// each, and sees that everything is healed in the end. What agents cannot do, it
// does by itself: it kills pods, and breaks the API server.
//
// The one invariant: an experiment is over only when nothing that it broke is still
// broken, as far as those say who broke it; and each injection carries the time when
// they heal it without being told.
//
// Read next: plan.go (what an experiment needs now), choose.go (who is hit),
// inject.go (what this process breaks), then pkg/agent/fault.
package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Name is the actor in whose name the controller writes.
const Name = "chaos-controller"

// probeEvery is how often what a probe has counted is written.
const probeEvery = 2 * time.Second

// byExperiment is the index from an experiment's uid to its injections, byNamespace
// the one from a namespace to its pods and experiments.
const (
	byExperiment = "chaos/experiment"
	byNamespace  = "chaos/namespace"
)

// Prober asks an address all the time while it runs.
type Prober interface {
	Run(ctx context.Context) error
	// Resume begins with what was counted since a time, before this process began.
	Resume(before *v1.ChaosProbeStatus, since time.Time)
	Snapshot() *v1.ChaosProbeStatus
	// Healthy is nil while fewer requests in a row have failed than the probe's
	// threshold.
	Healthy() error
}

// Mirrors are what the controller reads; they run elsewhere.
type Mirrors struct {
	Pods        *informer.Informer[*v1.Pod]
	Nodes       *informer.Informer[*v1.Node]
	Deployments *informer.Informer[*v1.Deployment]
	Sets        *informer.Informer[*v1.ReplicaSet]
	// Experiments and Injections are this controller's own, watched in its name:
	// their watches are those that no experiment breaks.
	Experiments *informer.Informer[*v1.ChaosExperiment]
	Injections  *informer.Informer[*v1.ChaosInjection]
}

// Options of the controller.
type Options struct {
	// Server is what faults of the API server are done to; nil: they fail.
	Server Server
	// Probe makes a prober; nil: probes are not asked.
	Probe  func(*v1.ChaosProbe) Prober
	Logger *slog.Logger
}

// Controller is the shell around the plan.
type Controller struct {
	c         *client.Client
	m         Mirrors
	server    Server
	probe     func(*v1.ChaosProbe) Prober
	loop      *reconcile.Loop
	injecting *reconcile.Loop

	mu      sync.Mutex      // guards what follows
	ctx     context.Context //nolint:containedctx // that of Run, for the probes
	probing sync.WaitGroup
	probes  map[string]*probes // by the experiment's uid
}

// probes are those of one experiment.
type probes struct {
	stop   context.CancelFunc
	probe  Prober   // nil: none
	steady []Prober // in the order of the steady states; nil where that is no probe
}

// New returns a controller that reads from the mirrors, which must not have begun to
// run.
func New(c *client.Client, m Mirrors, o Options) *Controller {
	c = c.As(Name)
	r := &Controller{c: c, m: m, server: o.Server, probe: o.Probe, probes: map[string]*probes{}}
	r.loop = reconcile.New(Name, r.reconcile, reconcile.Options{
		Mirrors: []reconcile.Mirror{r.m.Experiments, r.m.Injections, m.Pods, m.Nodes, m.Deployments, m.Sets}, Logger: o.Logger,
	})
	r.injecting = reconcile.New(Name+"/inject", r.inject, reconcile.Options{Mirrors: []reconcile.Mirror{r.m.Injections}, Logger: o.Logger})
	r.m.Injections.AddIndex(byExperiment, func(i *v1.ChaosInjection) []string { return []string{api.ControllerOf(i).GetUid()} })
	r.m.Experiments.AddIndex(byNamespace, func(x *v1.ChaosExperiment) []string { return []string{x.GetMetadata().GetNamespace()} })
	m.Pods.AddIndex(byNamespace, func(p *v1.Pod) []string { return []string{p.GetMetadata().GetNamespace()} })
	r.m.Experiments.OnChange(func(c informer.Change[*v1.ChaosExperiment]) {
		r.loop.Enqueue(api.KeyOf(cmp.Or(c.New, c.Old)), c.Revision)
	})
	r.m.Injections.OnChange(func(c informer.Change[*v1.ChaosInjection]) {
		i := cmp.Or(c.New, c.Old)
		r.injecting.Enqueue(api.KeyOf(i), c.Revision)
		if owner := api.ControllerOf(i); owner != nil {
			r.loop.Enqueue(api.Key{Namespace: i.GetMetadata().GetNamespace(), Name: owner.GetName()}, c.Revision)
		}
	})
	m.Pods.OnChange(func(c informer.Change[*v1.Pod]) {
		if c.Old.GetStatus().GetPodIp() != c.New.GetStatus().GetPodIp() {
			r.concerns(cmp.Or(c.New, c.Old), c.Revision, func(s *v1.ChaosExperimentSpec) bool { return s.GetPeerSelector() != nil })
		}
	})
	replicas := func(o api.Object, revision int64) {
		r.concerns(o, revision, func(s *v1.ChaosExperimentSpec) bool { return len(s.GetSteadyState()) > 0 })
	}
	m.Deployments.OnChange(func(c informer.Change[*v1.Deployment]) { replicas(cmp.Or(c.New, c.Old), c.Revision) })
	m.Sets.OnChange(func(c informer.Change[*v1.ReplicaSet]) { replicas(cmp.Or(c.New, c.Old), c.Revision) })
	return r
}

// concerns enqueues the running experiments of an object's namespace that an object
// concerns.
func (r *Controller) concerns(o api.Object, revision int64, concerned func(*v1.ChaosExperimentSpec) bool) {
	for _, x := range r.m.Experiments.ByIndex(byNamespace, o.GetMetadata().GetNamespace()) {
		if !IsOver(x) && concerned(x.GetSpec()) {
			r.loop.Enqueue(api.KeyOf(x), revision)
		}
	}
}

// Run works until ctx ends and returns nil. What the API server's watches suffer
// ends with it.
func (r *Controller) Run(ctx context.Context) error {
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{r.loop.Run, r.injecting.Run} {
		group.Go(func() error { return run(ctx) })
	}
	err := group.Wait()
	r.probing.Wait()
	if r.server != nil {
		r.server.BreakWatches(nil)
	}
	return err
}

func (r *Controller) reconcile(ctx context.Context, key api.Key) (reconcile.Result, error) {
	x, ok := r.m.Experiments.Get(key)
	if !ok {
		return reconcile.Result{}, nil
	}
	s := State{
		Experiment: x, Injections: r.m.Injections.ByIndex(byExperiment, x.GetMetadata().GetUid()),
		Pods: r.m.Pods.ByIndex(byNamespace, key.Namespace), Nodes: r.m.Nodes.List(),
		Revision: r.m.Experiments.Revision(), Now: time.Now(),
	}
	asked := r.probesOf(x)
	var err error
	if s.Unsteady, err = r.unsteady(ctx, x, asked); err != nil {
		return reconcile.Result{}, err
	}
	if asked != nil && asked.probe != nil {
		s.Probe = asked.probe.Snapshot()
	}
	plan := MakePlan(s)
	if plan.Status.GetPhase() == api.ChaosFailed {
		// For good; but a mirror may not show yet what was there before the experiment.
		pods, err := client.For[*v1.Pod](r.c).List(ctx, client.ListOptions{Namespace: key.Namespace})
		nodes, failed := client.For[*v1.Node](r.c).List(ctx, client.ListOptions{})
		if err := errors.Join(err, failed); err != nil {
			return reconcile.Result{}, err
		}
		s.Pods, s.Nodes = pods.Items, nodes.Items
		plan = MakePlan(s)
	}
	if err := r.carryOut(ctx, x, plan); err != nil {
		return reconcile.Result{}, err
	}
	if asked != nil {
		plan.After = min(cmp.Or(plan.After, probeEvery), probeEvery)
	}
	return reconcile.Result{After: plan.After}, nil
}

func (r *Controller) carryOut(ctx context.Context, x *v1.ChaosExperiment, plan Plan) error {
	// What was made of the experiment is its consequence, and not that of the
	// clock or of the injection that came before.
	made := ctx
	if start := x.GetStatus().GetStartRevision(); start > 0 {
		made = client.WithTrigger(ctx, start)
	} else if x.GetStatus().GetStartTime() == nil {
		made = client.WithTrigger(ctx, x.GetMetadata().GetResourceVersion())
	}
	injections := client.For[*v1.ChaosInjection](r.c)
	for _, i := range plan.Create {
		doing := client.WithCause(made, "Injected", "round %d of chaosexperiment/%s: %s of %s", i.GetSpec().GetRound(), nameOf(x), i.GetSpec().GetFault().GetType(), api.ChaosTarget(i))
		if _, err := injections.Create(doing, i); err != nil && !errors.Is(err, api.ErrAlreadyExists) {
			return err
		}
	}
	for _, i := range plan.Peers {
		doing := client.WithCause(ctx, "PeersMoved", "the other side has other addresses now")
		if _, err := injections.Update(doing, i); err != nil && !errors.Is(err, api.ErrNotFound) {
			return err
		}
	}
	for _, i := range plan.Heal {
		i = api.Clone(i)
		i.Spec.Heal = true
		if _, err := injections.Update(client.WithCause(ctx, "Heal", "%s", plan.Why), i); err != nil && !errors.Is(err, api.ErrNotFound) {
			return err
		}
	}
	experiments := client.For[*v1.ChaosExperiment](r.c)
	if plan.Status != nil {
		next := api.Clone(x)
		next.Status = plan.Status
		reason := plan.Status.GetPhase()
		if reason == api.ChaosRunning && plan.Status.GetRounds() == x.GetStatus().GetRounds() {
			reason = "Progress"
		}
		after, err := experiments.UpdateStatus(client.WithCause(ctx, "Chaos"+reason, "is %s", strings.TrimSuffix(strings.ToLower(plan.Status.GetPhase())+": "+plan.Status.GetMessage(), ": ")), next)
		if err != nil {
			return err
		}
		x = after
	}
	if plan.Release && slices.Contains(x.GetMetadata().GetFinalizers(), api.FinalizerHeal) {
		next := api.Clone(x)
		next.Metadata.Finalizers = slices.DeleteFunc(next.Metadata.Finalizers, func(f string) bool { return f == api.FinalizerHeal })
		if _, err := experiments.Update(client.WithCause(ctx, "AllHealed", "nothing that the experiment broke is still broken"), next); err != nil && !errors.Is(err, api.ErrNotFound) {
			return err
		}
	}
	return nil
}

// unsteady says which part of the steady state does not hold. It asks the server:
// what is older than the experiment says nothing about it.
func (r *Controller) unsteady(ctx context.Context, x *v1.ChaosExperiment, asked *probes) (string, error) {
	for n, st := range x.GetSpec().GetSteadyState() {
		if want := st.GetReadyReplicas(); want != nil {
			o, err := client.ForKind(r.c, api.KindByName(want.GetKind())).Get(ctx, x.GetMetadata().GetNamespace(), want.GetName())
			if err != nil && !errors.Is(err, api.ErrNotFound) {
				return "", err
			}
			var ready int32
			switch o := o.(type) {
			case *v1.ReplicaSet:
				ready = o.GetStatus().GetReadyReplicas()
			case *v1.Deployment:
				ready = o.GetStatus().GetReadyReplicas()
			}
			if ready < want.GetAtLeast() {
				return fmt.Sprintf("%s %s has %d ready replicas, at least %d must be", want.GetKind(), want.GetName(), ready, want.GetAtLeast()), nil
			}
		}
		if asked != nil && n < len(asked.steady) && asked.steady[n] != nil {
			if err := asked.steady[n].Healthy(); err != nil {
				return err.Error(), nil
			}
		}
	}
	return "", nil
}

// probesOf starts the probes of an experiment that runs, and stops those of one that
// is over. It returns nil where there are none.
func (r *Controller) probesOf(x *v1.ChaosExperiment) *probes {
	if r.probe == nil {
		return nil
	}
	uid := x.GetMetadata().GetUid()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.probes[uid]
	if IsOver(x) {
		if p != nil {
			p.stop()
			delete(r.probes, uid)
		}
		return nil
	}
	if p != nil {
		return p
	}
	wanted := x.GetSpec().GetProbe() != nil
	for _, st := range x.GetSpec().GetSteadyState() {
		wanted = wanted || st.GetHttpGet() != nil
	}
	if !wanted {
		return nil
	}
	ctx, cancel := context.WithCancel(r.ctx)
	p = &probes{stop: cancel}
	start := func(spec *v1.ChaosProbe, before *v1.ChaosProbeStatus) Prober {
		if spec == nil {
			return nil
		}
		asking := r.probe(spec)
		if before != nil {
			asking.Resume(before, x.GetStatus().GetStartTime().AsTime())
		}
		r.probing.Go(func() { _ = asking.Run(ctx) })
		return asking
	}
	p.probe = start(x.GetSpec().GetProbe(), x.GetStatus().GetProbe())
	for _, st := range x.GetSpec().GetSteadyState() {
		p.steady = append(p.steady, start(st.GetHttpGet(), nil))
	}
	r.probes[uid] = p
	return p
}
