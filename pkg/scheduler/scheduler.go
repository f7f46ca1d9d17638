// Package scheduler gives every pod a node: it filters the nodes that cannot
// take the pod, scores the others, and binds the pod to the best; or it says
// why none will do.
//
// The one invariant: a decision counts in the next one. A pod that the
// scheduler has bound takes its room at once, before anybody has seen it there,
// so a node is never promised twice.
//
// Read next: assign.go (one decision), filter.go and score.go (its two parts),
// cluster.go (what it looks at), plan.go (which pod when), and then this file
// (how it is carried out).
package scheduler

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/informer"
	v1 "orch/proto/v1"
)

// Name is the scheduler's name in the log, in events, and in the pods that want
// it: Kubernetes' default-scheduler.
const Name = api.DefaultScheduler

const (
	// writers is how many writes are under way at most. The store commits
	// concurrent writes together, so several cost hardly more than one.
	writers = 16
	// retryAll is when waiting pods are tried again though nothing relevant is
	// known to have happened: Kubernetes' podMaxInUnschedulablePodsDuration.
	retryAll = 5 * time.Minute
)

// Options are for [New].
type Options struct {
	// Logger is told of failed writes; default none.
	Logger *slog.Logger
}

// Scheduler places the pods that name the default scheduler and no node. It is a client like any other and can be started anew at any time: all
// that it knows it reads from the server.
//
// Concurrency: Run once. Two schedulers of one cluster do no harm, because a
// bind names the version of the pod that it has seen; they only fail each
// other's binds.
type Scheduler struct {
	pods     client.Resource[*v1.Pod]
	podsIn   *informer.Informer[*v1.Pod]
	nodesIn  *informer.Informer[*v1.Node]
	recorder *client.Recorder
	log      *slog.Logger
	wake     chan struct{} // capacity 1: something may be to be done

	mu      sync.Mutex // protects planner
	planner *planner
}

// New returns a scheduler that works through c.
func New(c *client.Client, o Options) *Scheduler {
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	c = c.As(Name)
	s := &Scheduler{
		pods:     client.For[*v1.Pod](c),
		recorder: client.NewRecorder(c, Name, ""),
		log:      log.With("component", Name),
		wake:     make(chan struct{}, 1),
		planner:  newPlanner(),
	}
	s.podsIn = informer.New(s.pods, informer.Options{Logger: s.log})
	s.nodesIn = informer.New(client.For[*v1.Node](c), informer.Options{Logger: s.log})
	s.podsIn.OnChange(s.podChanged)
	s.nodesIn.OnChange(s.nodeChanged)
	return s
}

// Run schedules until ctx ends; then it returns nil, after the writes that were
// under way.
func (s *Scheduler) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.podsIn.Run(ctx) })
	g.Go(func() error { return s.nodesIn.Run(ctx) })
	g.Go(func() error { return s.recorder.Run(ctx) })
	g.Go(func() error { s.loop(ctx); return nil })
	return g.Wait()
}

func (s *Scheduler) podChanged(c informer.Change[*v1.Pod]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	act := false
	if c.Old != nil && c.Old.GetMetadata().GetUid() != c.New.GetMetadata().GetUid() {
		act = s.planner.removePod(c.Old, c.Revision)
	}
	if c.New != nil {
		act = s.planner.setPod(c.New, c.Revision) || act
	}
	if act {
		s.signal()
	}
}

func (s *Scheduler) nodeChanged(c informer.Change[*v1.Node]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := c.Old.GetMetadata().GetName()
	if c.New != nil {
		name = c.New.GetMetadata().GetName()
	}
	if s.planner.setNode(name, c.New, c.Revision) {
		s.signal()
	}
}

func (s *Scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// loop makes plans and has them carried out, until ctx ends.
func (s *Scheduler) loop(ctx context.Context) {
	for _, synced := range []<-chan struct{}{s.nodesIn.Synced(), s.podsIn.Synced()} {
		select {
		case <-synced:
		case <-ctx.Done():
			return
		}
	}
	var writes errgroup.Group
	writes.SetLimit(writers)
	defer func() { _ = writes.Wait() }() // they return no errors
	everything := time.NewTicker(retryAll)
	defer everything.Stop()
	for {
		s.mu.Lock()
		actions, again := s.planner.plan(time.Now())
		s.mu.Unlock()
		for _, a := range actions {
			writes.Go(func() error { s.carryOut(ctx, a); return nil })
		}
		var alarm <-chan time.Time
		if !again.IsZero() {
			alarm = time.After(time.Until(again))
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-alarm:
		case <-everything.C:
			s.mu.Lock()
			s.planner.newEra(api.TriggerClock)
			s.mu.Unlock()
		}
	}
}

// carryOut makes one write and tells the planner what came of it.
func (s *Scheduler) carryOut(ctx context.Context, a action) {
	write := s.bind
	if a.node == "" {
		write = s.report
	}
	written, err := write(client.WithTrigger(ctx, a.trigger), a)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.signal()
	if err == nil {
		s.planner.succeeded(a, written, time.Now())
		return
	}
	why := refused
	switch {
	case errors.Is(err, api.ErrConflict), errors.Is(err, api.ErrNotFound):
		why = raced
	case errors.Is(err, api.ErrHeld):
		why = held
	case errors.Is(err, api.ErrUnavailable), errors.Is(err, api.ErrTimeout), errors.Is(err, api.ErrInternal), ctx.Err() != nil:
		why = unknown
	}
	s.planner.failed(a, why, time.Now())
	if why != raced && why != held && ctx.Err() == nil {
		s.log.Warn("write failed", "pod", api.KeyOf(a.pod), "node", a.node, "error", err)
	}
}

// bind gives the pod its node. The server adds the condition PodScheduled.
func (s *Scheduler) bind(ctx context.Context, a action) (*v1.Pod, error) {
	pod := api.Clone(a.pod)
	pod.Spec.NodeName = a.node
	written, err := s.pods.Update(client.WithCause(ctx, "Scheduled", "%s", a.message), pod)
	if err != nil {
		return nil, err
	}
	ctx = client.WithTrigger(ctx, version(written))
	s.recorder.Event(ctx, written, api.EventNormal, "Scheduled", "Successfully assigned %s to %s", api.KeyOf(pod), a.node)
	return written, nil
}

// report tells the pod's condition, and whoever reads events, why no node takes
// the pod.
func (s *Scheduler) report(ctx context.Context, a action) (*v1.Pod, error) {
	pod := api.Clone(a.pod)
	pod.Status = cmp.Or(pod.Status, &v1.PodStatus{})
	api.SetCondition(&pod.Status.Conditions, &v1.Condition{
		Type: api.PodScheduled, Status: api.ConditionFalse, Reason: api.ReasonUnschedulable, Message: a.message,
	}, time.Now())
	cause := strings.TrimSuffix(strings.TrimSuffix(a.message, ".")+": "+a.lack, ": ")
	written, err := s.pods.UpdateStatus(client.WithCause(ctx, "FailedScheduling", "%s", cause), pod)
	if err != nil {
		return nil, err
	}
	ctx = client.WithTrigger(ctx, version(written))
	s.recorder.Event(ctx, written, api.EventWarning, "FailedScheduling", "%s", a.message)
	return written, nil
}
