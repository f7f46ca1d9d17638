package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// healPatience is how long after the time of an injection its agent may take to say
// that it is healed. An agent that says nothing is away, and heals by itself.
const healPatience = 10 * time.Second

// beginPatience is how long after its creation an experiment waits for its steady
// state before it is not begun: a mirror may not show yet what its author has seen.
const beginPatience = 2 * time.Second

// conditionSteady is the condition of an experiment that becomes False, for good,
// when its steady state is violated.
const conditionSteady = "SteadyState"

// State is what a plan is made from.
type State struct {
	Experiment *v1.ChaosExperiment
	// Injections are those of the experiment, whatever their round.
	Injections []*v1.ChaosInjection
	// Pods are those of its namespace, Nodes all.
	Pods  []*v1.Pod
	Nodes []*v1.Node
	// Unsteady says which part of the steady state does not hold; "" for none.
	Unsteady string
	Probe    *v1.ChaosProbeStatus // nil: no probe
	// Revision that the mirrors show.
	Revision int64
	Now      time.Time
}

// Plan is what is to be done, in this order.
type Plan struct {
	// Create are new injections, named for their round and place in it, so that
	// making them twice makes them once. Heal are those that are to end now.
	Create []*v1.ChaosInjection
	Heal   []*v1.ChaosInjection
	// Peers are injections with the addresses that the other side has now.
	Peers []*v1.ChaosInjection
	// Why says why it is healed.
	Why string
	// Status is what the experiment's status must be; nil: as it is.
	Status *v1.ChaosExperimentStatus
	// Release: nothing is broken any more, and the object may go.
	Release bool
	// After is when to look again; 0: when something changes.
	After time.Duration
}

// MakePlan says what an experiment needs now.
func MakePlan(s State) (plan Plan) {
	x := s.Experiment
	status := proto.CloneOf(cmp.Or(x.GetStatus(), &v1.ChaosExperimentStatus{}))
	defer func() {
		if !proto.Equal(status, x.GetStatus()) {
			plan.Status = status
		}
	}()
	// An injection may have crashed the server before the round was noted.
	for _, i := range s.Injections {
		status.Rounds = max(status.Rounds, i.GetSpec().GetRound())
	}
	status.Injections = max(status.Injections, int32(len(s.Injections))) //nolint:gosec // a day has fewer seconds
	if IsOver(x) {
		plan.Release = x.GetMetadata().GetDeletionTimestamp() != nil
		return plan
	}
	if status.GetStartTime() == nil && x.GetMetadata().GetDeletionTimestamp() == nil && !x.GetSpec().GetStop() {
		if s.Unsteady != "" && s.Now.Before(x.GetMetadata().GetCreationTimestamp().AsTime().Add(beginPatience)) {
			return Plan{After: beginPatience / 10}
		} else if s.Unsteady != "" {
			finish(status, s, api.ChaosFailed, "not begun: "+s.Unsteady)
			return plan
		}
		status.Phase, status.StartTime = api.ChaosRunning, timestamppb.New(s.Now)
		status.StartRevision = x.GetMetadata().GetResourceVersion()
		for _, i := range s.Injections { // the server crashed before its beginning was noted
			if at := i.GetStatus().GetInjectedAt(); at != nil && at.AsTime().Before(status.GetStartTime().AsTime()) {
				status.StartTime = at
			}
		}
		if len(s.Injections) > 0 {
			status.Message = hits(x, status.GetRounds(), s.Injections)
		}
	}
	if s.Probe != nil {
		status.Probe = s.Probe
	}
	if s.Unsteady != "" && Steady(status) {
		violated(status, x, s)
	}
	if phase, why := ending(x, status, s.Now); phase != "" {
		return end(s, status, phase, why)
	}
	plan.After = next(x, status, s.Now)
	if round := due(x, status, s.Now); round > status.GetRounds() {
		plan.Create = strike(s, status, round)
		status.Rounds = round
		status.Injections += int32(len(plan.Create)) //nolint:gosec // a cluster has fewer pods
		plan.After = next(x, status, s.Now)
		if len(plan.Create) == 0 {
			if x.GetSpec().GetEverySeconds() == 0 {
				status.Rounds = 0
				finish(status, s, api.ChaosFailed, "nothing that may be hit was there")
				return Plan{}
			}
			status.Message = fmt.Sprintf("round %d: nothing that may be hit was there", round)
		} else {
			status.Message = hits(x, round, plan.Create)
		}
	}
	plan.Peers = movedPeers(s)
	return plan
}

// hits says what a round breaks.
func hits(x *v1.ChaosExperiment, round int32, injections []*v1.ChaosInjection) string {
	var all []string
	for _, i := range injections {
		if i.GetSpec().GetRound() == round {
			all = append(all, api.ChaosTarget(i))
		}
	}
	return fmt.Sprintf("round %d: %s of %s", round, x.GetSpec().GetFault().GetType(), strings.Join(all, ", "))
}

// IsOver says that an experiment does nothing any more, and has nothing broken.
func IsOver(x *v1.ChaosExperiment) bool {
	switch x.GetStatus().GetPhase() {
	case api.ChaosCompleted, api.ChaosStopped, api.ChaosFailed:
		return true
	}
	return false
}

// ending says how an experiment ends, where it is time for that.
func ending(x *v1.ChaosExperiment, status *v1.ChaosExperimentStatus, now time.Time) (phase, why string) {
	switch {
	case x.GetMetadata().GetDeletionTimestamp() != nil:
		return api.ChaosStopped, "it is being deleted"
	case !Steady(status):
		return api.ChaosStopped, "steady state violated: " + status.GetConditions()[0].GetMessage()
	case x.GetSpec().GetStop():
		if why := x.GetMetadata().GetAnnotations()[api.AnnotationChaosStopped]; why != "" {
			return api.ChaosStopped, why
		}
		return api.ChaosStopped, "somebody stopped it"
	case !now.Before(endOf(x, status)):
		return api.ChaosCompleted, fmt.Sprintf("%s in %v", api.Count(int(status.GetRounds()), "round"), endOf(x, status).Sub(status.GetStartTime().AsTime()))
	}
	return "", ""
}

// end heals what is broken, and finishes when nothing is.
func end(s State, status *v1.ChaosExperimentStatus, phase, why string) (plan Plan) {
	plan.Why = why
	open := 0
	for _, i := range s.Injections {
		if api.IsInjectionOver(i) {
			continue
		}
		if !i.GetSpec().GetHeal() {
			plan.Heal = append(plan.Heal, i)
		}
		patience := i.GetSpec().GetUntil().AsTime().Add(healPatience).Sub(s.Now)
		if i.GetSpec().GetUntil() != nil && patience <= 0 {
			continue
		}
		if open++; patience > 0 && (plan.After == 0 || patience < plan.After) {
			plan.After = patience
		}
	}
	if open > 0 {
		status.Message = fmt.Sprintf("%s; waiting for %s to heal", why, api.Count(open, "injection"))
		return plan
	}
	if failed := failures(s.Injections); phase == api.ChaosCompleted && len(failed) == int(status.GetInjections()) {
		phase, why = api.ChaosFailed, cmp.Or(strings.Join(slices.Compact(failed), "; "), "nothing that may be hit was there")+", in "+why
	}
	finish(status, s, phase, why)
	plan.Release = s.Experiment.GetMetadata().GetDeletionTimestamp() != nil
	return plan
}

// failures are why injections came to nothing, each for itself.
func failures(all []*v1.ChaosInjection) (some []string) {
	for _, i := range all {
		if i.GetStatus().GetPhase() == api.ChaosFailed {
			some = append(some, i.GetStatus().GetMessage())
		}
	}
	return some
}

func finish(status *v1.ChaosExperimentStatus, s State, phase, why string) {
	status.Phase, status.Message = phase, why
	status.EndTime, status.EndRevision = timestamppb.New(s.Now), s.Revision
	for _, i := range s.Injections { // their mirror may be further
		status.EndRevision = max(status.EndRevision, i.GetMetadata().GetResourceVersion())
	}
}

// Steady says that the steady state was not violated, as far as was looked.
func Steady(status *v1.ChaosExperimentStatus) bool {
	return len(status.GetConditions()) == 0 || status.GetConditions()[0].GetStatus() == api.ConditionTrue
}

func violated(status *v1.ChaosExperimentStatus, x *v1.ChaosExperiment, s State) {
	status.Conditions = []*v1.GenerationCondition{{
		Type: conditionSteady, Status: api.ConditionFalse, Reason: "Violated", Message: s.Unsteady,
		ObservedGeneration: x.GetMetadata().GetGeneration(), LastTransitionTime: timestamppb.New(s.Now.Truncate(time.Second)),
	}}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

func endOf(x *v1.ChaosExperiment, status *v1.ChaosExperimentStatus) time.Time {
	return status.GetStartTime().AsTime().Add(seconds(x.GetSpec().GetDurationSeconds()))
}

// due is the round whose time it is. Rounds that were missed, because the control
// plane was away, are not made up for.
func due(x *v1.ChaosExperiment, status *v1.ChaosExperimentStatus, now time.Time) int32 {
	every := x.GetSpec().GetEverySeconds()
	if every == 0 {
		return 1
	}
	return 1 + int32(now.Sub(status.GetStartTime().AsTime())/seconds(every)) //nolint:gosec // within a day
}

// next is how long it is until the next round, or the end.
func next(x *v1.ChaosExperiment, status *v1.ChaosExperimentStatus, now time.Time) time.Duration {
	left := endOf(x, status).Sub(now)
	if every := x.GetSpec().GetEverySeconds(); every > 0 {
		at := status.GetStartTime().AsTime().Add(time.Duration(due(x, status, now)) * seconds(every))
		left = min(left, at.Sub(now))
	}
	return left
}

// strike makes the injections of a round.
func strike(s State, status *v1.ChaosExperimentStatus, round int32) (made []*v1.ChaosInjection) {
	x, spec := s.Experiment, s.Experiment.GetSpec()
	there, hit := map[string]bool{}, map[string]bool{}
	for _, i := range s.Injections {
		there[nameOf(i)] = true
		if i.GetSpec().GetRound() == round || !api.IsInjectionOver(i) {
			hit[api.ChaosTarget(i)+i.GetSpec().GetPodUid()] = true
		}
	}
	until := endOf(x, status)
	if lasts := cmp.Or(spec.GetFaultSeconds(), spec.GetEverySeconds()); lasts > 0 && s.Now.Add(seconds(lasts)).Before(until) {
		until = s.Now.Add(seconds(lasts))
	}
	all := Candidates(spec, s.Pods, s.Nodes)
	for place, k := range Choose(spec, round, len(all)) {
		i := Injection(x, all[k], round, place, until)
		i.Spec.PeerAddresses = peers(spec, s.Pods)
		if there[nameOf(i)] || hit[api.ChaosTarget(i)+i.GetSpec().GetPodUid()] {
			continue
		}
		made = append(made, i)
	}
	return made
}

// Injection is what hits one target.
func Injection(x *v1.ChaosExperiment, t Target, round int32, place int, until time.Time) *v1.ChaosInjection {
	owner := api.NewControllerRef(x)
	owner.BlockOwnerDeletion = nil
	i := &v1.ChaosInjection{
		Metadata: &v1.ObjectMeta{
			Name: fmt.Sprintf("%s-%d-%d", nameOf(x), round, place+1), Namespace: x.GetMetadata().GetNamespace(),
			OwnerReferences: []*v1.OwnerReference{owner},
		},
		Spec: &v1.ChaosInjectionSpec{
			Experiment: nameOf(x), Fault: proto.CloneOf(x.GetSpec().GetFault()), Round: round, Until: timestamppb.New(until),
		},
	}
	if t.Pod != nil {
		i.Spec.PodName, i.Spec.PodUid = nameOf(t.Pod), t.Pod.GetMetadata().GetUid()
	}
	if kind, _ := api.FaultKindOf(x.GetSpec().GetFault().GetType()); kind.Agent {
		i.Spec.NodeName = nameOf(t.Node)
	}
	return i
}

// peers are the addresses of the other side of a fault of the network. There are none
// where it is everybody; but where it is nobody, because no pod has an address, one
// that nobody has.
func peers(spec *v1.ChaosExperimentSpec, pods []*v1.Pod) (addresses []string) {
	if spec.GetPeerSelector() == nil {
		return nil
	}
	for _, p := range pods {
		if ip := p.GetStatus().GetPodIp(); ip != "" && api.IsPodActive(p) && !p.GetSpec().GetHostNetwork() && matches(spec.GetPeerSelector(), p) {
			addresses = append(addresses, ip)
		}
	}
	slices.Sort(addresses)
	if len(addresses) == 0 {
		return []string{"192.0.2.1"} // RFC 5737: for documentation, nobody's
	}
	return addresses
}

// movedPeers are the injections that still name addresses of pods that are gone, or
// lack those of new ones.
func movedPeers(s State) (changed []*v1.ChaosInjection) {
	now := peers(s.Experiment.GetSpec(), s.Pods)
	if now == nil {
		return nil
	}
	for _, i := range s.Injections {
		if !api.IsInjectionOver(i) && !i.GetSpec().GetHeal() && !slices.Equal(i.GetSpec().GetPeerAddresses(), now) {
			i = api.Clone(i)
			i.Spec.PeerAddresses = now
			changed = append(changed, i)
		}
	}
	return changed
}
