// Package deployment rolls the template of each Deployment out over
// ReplicaSets.
//
// The one invariant: no plan takes the available pods below
// replicas - maxUnavailable, or the pods in all above replicas + maxSurge.
//
// Read next: plan.go (what comes next), rollout.go (one step of a rollout),
// scale.go (sizes), status.go (what the user is told).
package deployment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller/claim"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Name is the actor of all that the controller writes, and the source of its
// events.
const Name = "deployment-controller"

// Controller is the shell around the plan.
type Controller struct {
	c           *client.Client
	deployments *informer.Informer[*v1.Deployment]
	sets        *informer.Informer[*v1.ReplicaSet]
	pods        *informer.Informer[*v1.Pod]
	loop        *reconcile.Loop
	says        *client.Recorder
	now         func() time.Time
}

// New returns a controller that reads from the mirrors, which run elsewhere and
// must not have begun to.
func New(c *client.Client, deployments *informer.Informer[*v1.Deployment], sets *informer.Informer[*v1.ReplicaSet], pods *informer.Informer[*v1.Pod], log *slog.Logger) *Controller {
	c = c.As(Name)
	r := &Controller{c: c, deployments: deployments, sets: sets, pods: pods, says: client.NewRecorder(c, Name, ""), now: time.Now}
	r.loop = reconcile.New(Name, r.reconcile, reconcile.Options{Mirrors: []reconcile.Mirror{deployments, sets, pods}, Recorder: r.says, Logger: log})
	claim.AddIndex(sets)
	claim.AddIndex(pods)
	claim.Wake(r.loop, deployments, sets, func(d *v1.Deployment) *v1.LabelSelector { return d.GetSpec().GetSelector() })
	pods.OnChange(r.onPod)
	return r
}

// Run works until ctx ends and returns nil.
func (r *Controller) Run(ctx context.Context) error { return r.loop.Run(ctx) }

// onPod wakes a deployment of the strategy Recreate when a pod has ended: it may
// wait for that. All else that pods do shows in their set's status.
func (r *Controller) onPod(c informer.Change[*v1.Pod]) {
	if c.Old == nil || c.New != nil && !api.IsPodTerminal(c.New) {
		return
	}
	ref := api.ControllerOf(c.Old)
	if ref == nil {
		return
	}
	namespace := c.Old.GetMetadata().GetNamespace()
	set, _ := r.sets.Get(api.Key{Namespace: namespace, Name: ref.GetName()})
	owner := api.ControllerOf(set)
	if owner == nil {
		return
	}
	d, _ := r.deployments.Get(api.Key{Namespace: namespace, Name: owner.GetName()})
	if d.GetSpec().GetStrategy().GetType() == api.StrategyRecreate {
		r.loop.Demand(api.KeyOf(d), c.Revision)
	}
}

func (r *Controller) reconcile(ctx context.Context, key api.Key) (reconcile.Result, error) {
	d, ok := r.deployments.Get(key)
	if !ok {
		return reconcile.Result{}, nil
	}
	selector, err := api.SelectorOf(d.GetSpec().GetSelector())
	if err != nil {
		return reconcile.Result{}, err
	}
	sets, err := claim.Carry(ctx, r.c, d, claim.Decide(d, selector, claim.Candidates(r.sets, d)))
	if err != nil {
		return reconcile.Result{}, err
	}
	plan, err := r.plan(ctx, State{Deployment: d, Sets: sets, Now: r.now()})
	if err != nil {
		return reconcile.Result{}, err
	}
	for _, w := range plan.Writes {
		if err := r.carryOut(ctx, d, w); err != nil {
			return reconcile.Result{}, err
		}
	}
	if d, err = r.writeRevision(ctx, d, plan.Revision); err != nil {
		return reconcile.Result{}, err
	}
	// The annotation counts as a change of what is asked for, but this one was
	// made on the state that the plan saw.
	plan.Status.ObservedGeneration = d.GetMetadata().GetGeneration()
	return reconcile.Result{After: plan.After}, r.writeStatus(ctx, d, plan.Status)
}

// plan makes the plan. Recreate must not bring new pods while an old one runs,
// and the mirror of pods may be behind that of sets; so before such a plan is
// carried out, the server is asked.
func (r *Controller) plan(ctx context.Context, s State) (Plan, error) {
	if s.Deployment.GetSpec().GetStrategy().GetType() != api.StrategyRecreate {
		return MakePlan(s), nil
	}
	for _, set := range s.Sets {
		s.Pods = append(s.Pods, claim.Of(r.pods, set.GetMetadata().GetUid())...)
	}
	if plan := MakePlan(s); len(plan.Writes) == 0 {
		return plan, nil
	}
	l, err := client.For[*v1.Pod](r.c).List(ctx, client.ListOptions{Namespace: s.Deployment.GetMetadata().GetNamespace()})
	if err != nil {
		return Plan{}, err
	}
	s.Pods = nil
	for _, p := range l.Items {
		ref := api.ControllerOf(p)
		if slices.ContainsFunc(s.Sets, func(set *v1.ReplicaSet) bool { return set.GetMetadata().GetUid() == ref.GetUid() }) {
			s.Pods = append(s.Pods, p)
		}
	}
	return MakePlan(s), nil
}

// carryOut makes one write.
func (r *Controller) carryOut(ctx context.Context, d *v1.Deployment, w Write) error {
	ctx = client.WithCause(ctx, w.Reason, "%s", w.Message)
	sets := client.For[*v1.ReplicaSet](r.c)
	m := w.Set.GetMetadata()
	var err error
	switch w.Verb {
	case Create:
		if _, err = sets.Create(ctx, w.Set); err != nil {
			return r.createFailed(ctx, d, w.Set, err)
		}
	case Update:
		_, err = sets.Update(ctx, w.Set)
	case Delete:
		_, err = sets.Delete(ctx, m.GetNamespace(), m.GetName(), client.DeleteOptions{UID: m.GetUid(), ResourceVersion: m.GetResourceVersion()})
		err = api.IgnoreNotFound(err)
	}
	if err != nil {
		return fmt.Errorf("%s ReplicaSet %s: %w", w.Verb, m.GetName(), err)
	}
	if w.Event != "" {
		r.says.Event(ctx, d, api.EventNormal, "ScalingReplicaSet", "%s", w.Event)
	}
	return nil
}

// createFailed handles a new ReplicaSet that could not be made. Where its name
// is taken by one that is not what was to be made, two templates have the same
// hash: the collision is counted, and the next plan makes another name of it.
func (r *Controller) createFailed(ctx context.Context, d *v1.Deployment, set *v1.ReplicaSet, failure error) error {
	m := set.GetMetadata()
	failure = fmt.Errorf("create ReplicaSet %s: %w", m.GetName(), failure)
	status := api.CloneOrNew(d.GetStatus())
	switch {
	case errors.Is(failure, api.ErrAlreadyExists):
		there, err := client.For[*v1.ReplicaSet](r.c).Get(ctx, m.GetNamespace(), m.GetName())
		if err != nil {
			return err
		}
		if ref := api.ControllerOf(there); ref.GetUid() == d.GetMetadata().GetUid() && sameTemplate(there.GetSpec().GetTemplate(), set.GetSpec().GetTemplate()) {
			return failure // the one that was to be made, which the mirror will show soon
		}
		status.CollisionCount = proto.Int32(status.GetCollisionCount() + 1)
		ctx = client.WithCause(ctx, "NameCollision", "the name %s is taken by a ReplicaSet with another template", m.GetName())
	case errors.Is(failure, api.ErrUnavailable), errors.Is(failure, api.ErrHeld), api.IsTerminating(failure), ctx.Err() != nil:
		return failure // nobody to tell, or nothing, or the namespace is going
	default:
		message := fmt.Sprintf("Failed to create new replica set %q: %v", m.GetName(), failure)
		r.says.Event(ctx, d, api.EventWarning, "ReplicaSetCreateError", "%s", message)
		api.SetCondition(&status.Conditions, &v1.Condition{
			Type: api.DeploymentProgressing, Status: api.ConditionFalse, Reason: "ReplicaSetCreateError", Message: message,
			LastUpdateTime: timestamppb.New(r.now()),
		}, r.now())
	}
	if err := r.writeStatus(ctx, d, status); err != nil {
		return err
	}
	return failure
}

// writeRevision sees that the deployment says which revision it is at.
func (r *Controller) writeRevision(ctx context.Context, d *v1.Deployment, revision string) (*v1.Deployment, error) {
	if revision == "" || d.GetMetadata().GetAnnotations()[api.AnnotationRevision] == revision {
		return d, nil
	}
	ctx = client.WithCause(ctx, "RevisionSynced", "its template is that of revision %s", revision)
	d = api.Clone(d)
	api.Put(&d.Metadata.Annotations, api.AnnotationRevision, revision)
	return client.For[*v1.Deployment](r.c).Update(ctx, d)
}

// writeStatus writes the status where it differs.
func (r *Controller) writeStatus(ctx context.Context, d *v1.Deployment, status *v1.DeploymentStatus) error {
	if proto.Equal(status, d.GetStatus()) {
		return nil
	}
	ctx = client.WithCause(ctx, "StatusCounted", "%d of %d replicas are updated, %d available",
		status.GetUpdatedReplicas(), d.GetSpec().GetReplicas(), status.GetAvailableReplicas())
	d = api.Clone(d)
	d.Status = status
	_, err := client.For[*v1.Deployment](r.c).UpdateStatus(ctx, d)
	return api.IgnoreNotFound(err)
}
