package fault

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Verb is one kind of thing that a keeper does about an injection.
type Verb string

const (
	Inject Verb = "inject" // enter it into the journal, then break it
	Crash  Verb = "crash"  // the last part of CrashAgent and StopNode, once it was told
	Heal   Verb = "heal"   // undo it; harmless where nothing is broken
	Refuse Verb = "refuse" // enter that it was not done
	Tell   Verb = "tell"   // write to the API server what the journal says
	Forget Verb = "forget" // take it out of the journal
)

// Action is one thing to do.
type Action struct {
	Verb Verb
	// Injection is as the API server has it, or, where that has it no more, the
	// journal.
	Injection *v1.ChaosInjection
	// Why it is healed or refused, for people.
	Why string
}

// Record is what the journal says of an injection.
type Record struct {
	// Injection's status is how it really stands: Pending as long as it is being
	// broken.
	Injection *v1.ChaosInjection
	// Inherited says that an agent before this one wrote it.
	Inherited bool
}

// silentLimit is for how long the API server may not answer before all is healed:
// who wanted it cannot stop it any more.
const silentLimit = 10 * time.Second

// podPatience is how old an injection is at least when its pod, which is not known,
// counts as gone.
const podPatience = 5 * time.Second

// View is all that a decision rests on.
type View struct {
	// Injections are this node's, as the API server has them; nothing is known of
	// them before Synced.
	Injections []*v1.ChaosInjection
	Synced     bool
	// Records are the journal's, by uid.
	Records map[string]Record
	// Busy is what is being done about whom, by uid; Retry says when what failed is
	// tried again.
	Busy  map[string]Verb
	Retry map[string]time.Time
	// Pod finds a pod of the node. Known is the revision up to which it does, at
	// least: a pod that is not there may only not be known yet.
	Pod   func(uid string, key api.Key) *v1.Pod
	Known int64
	// Offered are the faults that can be done here; nil: not known yet.
	Offered []string
	// Silent is for how long the API server has not answered.
	Silent time.Duration
	// Ending says that the agent is about to end.
	Ending bool
	Now    time.Time
}

// Plan decides what has to be done now, and when to decide again even though
// nothing happens; zero is never.
func Plan(v View) (actions []Action, wake time.Time) {
	p := planner{View: v}
	here := map[string]bool{}
	for _, i := range v.Injections {
		uid := i.GetMetadata().GetUid()
		here[uid] = true
		r, known := v.Records[uid]
		switch {
		case v.Busy[uid] != "" || p.waits(uid):
		case known:
			p.keep(i, r)
		default:
			p.begin(i)
		}
	}
	for uid, r := range v.Records {
		switch {
		case here[uid] || v.Busy[uid] != "" || p.waits(uid):
		case v.Synced:
			p.keep(nil, r)
		case !api.IsInjectionOver(r.Injection): // as the API server wanted it last
			p.keep(r.Injection, r)
		}
	}
	slices.SortFunc(p.actions, func(a, b Action) int {
		return cmp.Compare(a.Injection.GetMetadata().GetResourceVersion(), b.Injection.GetMetadata().GetResourceVersion())
	})
	return p.actions, p.wake
}

type planner struct {
	View
	actions []Action
	wake    time.Time
}

func (p *planner) do(v Verb, i *v1.ChaosInjection, why string) {
	p.actions = append(p.actions, Action{Verb: v, Injection: i, Why: why})
}

func (p *planner) at(t time.Time) {
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
	}
}

// waits says that it is not yet time to try again.
func (p *planner) waits(uid string) bool {
	t := p.Retry[uid]
	if p.Now.Before(t) {
		p.at(t)
		return true
	}
	return false
}

// begin is for what the journal does not have.
func (p *planner) begin(i *v1.ChaosInjection) {
	s := i.GetSpec()
	switch phase := i.GetStatus().GetPhase(); {
	case api.IsInjectionOver(i):
	case phase == api.ChaosInjected:
		p.do(Heal, i, "the node's journal of faults was lost")
	case p.over(i) != "":
		p.do(Refuse, i, "not done: "+p.over(i))
	case p.Ending || p.Offered == nil || p.Silent >= silentLimit:
	case !slices.Contains(p.Offered, s.GetFault().GetType()):
		p.do(Refuse, i, "the agent of node "+s.GetNodeName()+" cannot do "+s.GetFault().GetType()+" here")
	case s.GetPodUid() == "":
		p.do(Inject, i, "")
	default:
		switch pod := p.Pod(s.GetPodUid(), podKey(i)); {
		case pod == nil && p.Known < i.GetMetadata().GetResourceVersion() && p.Now.Before(i.GetMetadata().GetCreationTimestamp().AsTime().Add(podPatience)):
			p.at(p.Now.Add(time.Second))
		case gone(pod):
			p.do(Refuse, i, "not done: the pod has ended")
		case api.IsChaosProtected(pod):
			p.do(Refuse, i, "the pod is protected by its label "+api.LabelChaosProtected)
		default:
			p.do(Inject, i, "")
		}
	}
}

// keep is for what the journal has. i is nil where the API server has it no more.
func (p *planner) keep(i *v1.ChaosInjection, r Record) {
	kind, _ := api.FaultKindOf(r.Injection.GetSpec().GetFault().GetType())
	now := cmp.Or(i, r.Injection)
	told := i != nil && proto.Equal(i.GetStatus(), r.Injection.GetStatus())
	switch phase := r.Injection.GetStatus().GetPhase(); {
	case api.IsInjectionOver(r.Injection):
		if i == nil || told {
			p.do(Forget, now, "")
		} else if !p.Ending {
			p.do(Tell, i, "")
		}
	case phase != api.ChaosInjected: // an agent ended in the middle of it
		p.do(Heal, now, "the agent ended while it broke it")
	case r.Inherited && dieWithAgent[now.GetSpec().GetFault().GetType()]:
		p.do(Heal, now, "")
	case i == nil:
		p.do(Heal, now, "the injection is gone")
	case p.over(i) != "":
		p.do(Heal, i, p.over(i))
	case p.Ending:
		p.do(Heal, i, "the agent ends")
	case p.Silent >= silentLimit:
		p.do(Heal, i, "the API server has not answered for "+silentLimit.String())
	case i.GetSpec().GetPodUid() != "" && p.Known > 0 && gone(p.Pod(i.GetSpec().GetPodUid(), podKey(i))):
		p.do(Heal, i, "the pod has ended")
	case !told:
		p.do(Tell, i, "")
	case api.NeedsDownTime(i.GetSpec().GetFault().GetType()):
		p.do(Crash, i, "")
	}
	if p.Silent < silentLimit && kind.Lasts {
		p.at(p.Now.Add(silentLimit - p.Silent))
	}
}

// over says why an injection is not to go on; "" where it is.
func (p *planner) over(i *v1.ChaosInjection) string {
	until := i.GetSpec().GetUntil()
	switch {
	case i.GetMetadata().GetDeletionTimestamp() != nil:
		return "the injection is being deleted"
	case i.GetSpec().GetHeal():
		return "it was to be healed"
	case until == nil:
		return ""
	case !p.Now.Before(until.AsTime()):
		return "its time is over"
	}
	p.at(until.AsTime())
	return ""
}

func gone(p *v1.Pod) bool { return p == nil || api.IsPodTerminal(p) }

func podKey(i *v1.ChaosInjection) api.Key {
	return api.Key{Namespace: i.GetMetadata().GetNamespace(), Name: i.GetSpec().GetPodName()}
}

// dieWithAgent are the faults that end with the agent that broke it.
var dieWithAgent = map[string]bool{
	api.FaultCrashAgent: true, api.FaultStopNode: true,
	api.FaultStressCPU: true, api.FaultStressMemory: true, api.FaultShiftClock: true,
}
