package chaos

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

// Server is the API server as what may be broken.
type Server interface {
	// Crash ends the process as kill -9 would; it is back after a time. It returns
	// only where that cannot be done.
	Crash(down time.Duration) error
	// BreakWatches makes these injections, and no others, hold for watches.
	BreakWatches([]*v1.ChaosInjection)
}

// inject carries out an injection that concerns no node, and heals it.
func (r *Controller) inject(ctx context.Context, key api.Key) (reconcile.Result, error) {
	i, ok := r.m.Injections.Get(key)
	r.breakWatches()
	if !ok || i.GetSpec().GetNodeName() != "" || api.IsInjectionOver(i) {
		return reconcile.Result{}, nil
	}
	ctx = client.WithTrigger(ctx, i.GetMetadata().GetResourceVersion())
	left := time.Until(i.GetSpec().GetUntil().AsTime())
	over := i.GetSpec().GetHeal() || left <= 0
	switch injected := i.GetStatus().GetPhase() == api.ChaosInjected; {
	case over && injected:
		return reconcile.Result{}, r.report(ctx, i, api.ChaosHealed, "")
	case over:
		return reconcile.Result{}, r.report(ctx, i, api.ChaosFailed, "it was over before it began")
	case injected:
		return reconcile.Result{After: left}, nil
	}
	switch fault := i.GetSpec().GetFault().GetType(); {
	case fault == api.FaultKillPod:
		return reconcile.Result{}, r.killPod(ctx, i)
	case r.server == nil:
		return reconcile.Result{}, r.report(ctx, i, api.ChaosFailed, "this API server cannot do it")
	case fault == api.FaultCrashAPIServer:
		// The report first: there is no afterwards.
		if err := r.report(ctx, i, api.ChaosInjected, ""); err != nil {
			return reconcile.Result{}, err
		}
		return reconcile.Result{}, r.server.Crash(left)
	}
	return reconcile.Result{After: left}, r.report(ctx, i, api.ChaosInjected, "")
}

// breakWatches tells the server which watches are to be broken now.
func (r *Controller) breakWatches() {
	if r.server == nil {
		return
	}
	var active []*v1.ChaosInjection
	for _, i := range r.m.Injections.List() {
		switch i.GetSpec().GetFault().GetType() {
		case api.FaultDropWatches, api.FaultDelayWatches:
			if i.GetStatus().GetPhase() == api.ChaosInjected && !i.GetSpec().GetHeal() && time.Now().Before(i.GetSpec().GetUntil().AsTime()) {
				active = append(active, i)
			}
		}
	}
	r.server.BreakWatches(active)
}

func (r *Controller) killPod(ctx context.Context, i *v1.ChaosInjection) error {
	s := i.GetSpec()
	doing := client.WithCause(ctx, "ChaosKill", "killed by chaosinjection/%s of chaosexperiment/%s, round %d", nameOf(i), s.GetExperiment(), s.GetRound())
	_, err := client.For[*v1.Pod](r.c).Delete(doing, i.GetMetadata().GetNamespace(), s.GetPodName(),
		client.DeleteOptions{UID: s.GetPodUid(), GracePeriodSeconds: proto.Int64(s.GetFault().GetGracePeriodSeconds())})
	switch {
	case errors.Is(err, api.ErrNotFound), errors.Is(err, api.ErrConflict):
		return r.report(ctx, i, api.ChaosFailed, "the pod was gone")
	case err != nil:
		return err
	}
	return r.report(ctx, i, api.ChaosHealed, "")
}

// report writes what has become of an injection.
func (r *Controller) report(ctx context.Context, i *v1.ChaosInjection, phase, message string) error {
	i = api.Clone(i)
	now := timestamppb.Now()
	before := i.GetStatus()
	i.Status = &v1.ChaosInjectionStatus{Phase: phase, Message: message, InjectedAt: before.GetInjectedAt(), HealedAt: before.GetHealedAt()}
	if phase != api.ChaosFailed && i.Status.InjectedAt == nil {
		i.Status.InjectedAt = now
	}
	if phase == api.ChaosHealed {
		i.Status.HealedAt = now
	}
	ctx = client.WithCause(ctx, "Chaos"+phase, "is %s: %s of %s", strings.ToLower(phase), i.GetSpec().GetFault().GetType(), api.ChaosTarget(i))
	_, err := client.For[*v1.ChaosInjection](r.c).UpdateStatus(ctx, i)
	return err
}
