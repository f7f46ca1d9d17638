package fault

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// injection is a pause of pod web for a minute, which the API server has had for long.
func injection(changes ...func(*v1.ChaosInjection)) *v1.ChaosInjection {
	i := &v1.ChaosInjection{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "web-1", Uid: "u1", ResourceVersion: 7, CreationTimestamp: timestamppb.New(now.Add(-time.Minute))},
		Spec: &v1.ChaosInjectionSpec{
			Experiment: "web", Fault: &v1.ChaosFault{Type: api.FaultPauseContainer}, NodeName: "n1", PodName: "web", PodUid: "p1",
			Until: timestamppb.New(now.Add(time.Minute)),
		},
		Status: &v1.ChaosInjectionStatus{},
	}
	for _, change := range changes {
		change(i)
	}
	return i
}

func of(typ string) func(*v1.ChaosInjection) {
	return func(i *v1.ChaosInjection) {
		i.Spec.Fault.Type = typ
		if k, _ := api.FaultKindOf(typ); k.Scope == api.ScopeNode {
			i.Spec.PodName, i.Spec.PodUid = "", ""
		}
	}
}

func is(phase string) func(*v1.ChaosInjection) {
	return func(i *v1.ChaosInjection) { i.Status.Phase = phase }
}

func over(i *v1.ChaosInjection)     { i.Spec.Until = timestamppb.New(now) }
func toHeal(i *v1.ChaosInjection)   { i.Spec.Heal = true }
func deleting(i *v1.ChaosInjection) { i.Metadata.DeletionTimestamp = timestamppb.New(now) }
func young(i *v1.ChaosInjection)    { i.Metadata.CreationTimestamp = timestamppb.New(now) }

func view(changes ...func(*View)) View {
	v := View{
		Synced: true, Records: map[string]Record{}, Busy: map[string]Verb{}, Retry: map[string]time.Time{},
		Pod:     func(string, api.Key) *v1.Pod { return &v1.Pod{Metadata: &v1.ObjectMeta{Uid: "p1"}} },
		Known:   5,
		Offered: []string{api.FaultKillContainer, api.FaultPauseContainer, api.FaultCrashAgent, api.FaultStressCPU, api.FaultShiftClock},
		Now:     now,
	}
	for _, change := range changes {
		change(&v)
	}
	return v
}

func wanted(i *v1.ChaosInjection) func(*View) {
	return func(v *View) { v.Injections = append(v.Injections, i) }
}

func recorded(i *v1.ChaosInjection) func(*View) {
	return func(v *View) { v.Records["u1"] = Record{Injection: i} }
}

func inherited(i *v1.ChaosInjection) func(*View) {
	return func(v *View) { v.Records["u1"] = Record{Injection: i, Inherited: true} }
}
func podGone(v *View)  { v.Pod = func(string, api.Key) *v1.Pod { return nil } }
func silent(v *View)   { v.Silent = silentLimit }
func ending(v *View)   { v.Ending = true }
func unsynced(v *View) { v.Synced, v.Injections = false, nil }

func TestPlan(t *testing.T) {
	injected := injection(is(api.ChaosInjected))
	tests := []struct {
		name string
		v    View
		want string
	}{
		{"what is new is broken", view(wanted(injection())), "inject"},
		{"not twice at once", view(wanted(injection()), func(v *View) { v.Busy["u1"] = Inject }), ""},
		{"nor before its pause after a failure is over", view(wanted(injection()), func(v *View) { v.Retry["u1"] = now.Add(1) }), ""},
		{"not after its time", view(wanted(injection(over))), "refuse: not done: its time is over"},
		{"not while the API server cannot stop it", view(wanted(injection()), silent), ""},
		{"not by an agent that ends", view(wanted(injection()), ending), ""},
		{"not what cannot be done here", view(wanted(injection(of(api.FaultNetworkDelay)))), "refuse: the agent of node n1 cannot do NetworkDelay here"},
		{"not before that is known", view(wanted(injection()), func(v *View) { v.Offered = nil }), ""},
		{"not to a pod that is gone", view(wanted(injection()), podGone), "refuse: not done: the pod has ended"},
		{"a pod may not be known yet", view(wanted(injection(young)), podGone), ""},
		{"not to a protected pod", view(wanted(injection()), func(v *View) {
			v.Pod = func(string, api.Key) *v1.Pod {
				return &v1.Pod{Metadata: &v1.ObjectMeta{Labels: map[string]string{api.LabelChaosProtected: "true"}}}
			}
		}), "refuse: the pod is protected by its label chaos.orch.dev/protected"},
		{"a fault of a node needs no pod", view(wanted(injection(of(api.FaultShiftClock))), podGone), "inject"},

		{"what is broken is told", view(wanted(injection()), recorded(injected)), "tell"},
		{"and then left so", view(wanted(injected), recorded(injected)), ""},
		{"until its time is over", view(wanted(injection(is(api.ChaosInjected), over)), recorded(injected)), "heal: its time is over"},
		{"or it is to be healed", view(wanted(injection(is(api.ChaosInjected), toHeal)), recorded(injected)), "heal: it was to be healed"},
		{"or deleted", view(wanted(injection(is(api.ChaosInjected), deleting)), recorded(injected)), "heal: the injection is being deleted"},
		{"or gone", view(recorded(injected)), "heal: the injection is gone"},
		{"or its pod is", view(wanted(injected), recorded(injected), podGone), "heal: the pod has ended"},
		{"or the agent ends", view(wanted(injected), recorded(injected), ending), "heal: the agent ends"},
		{"or the API server is away", view(wanted(injected), recorded(injected), silent), "heal: the API server has not answered for 10s"},
		{"what was healed is told", view(wanted(injected), recorded(injection(is(api.ChaosHealed)))), "tell"},
		{"and then forgotten", view(wanted(injection(is(api.ChaosHealed))), recorded(injection(is(api.ChaosHealed)))), "forget"},
		{"or when nobody asks any more", view(recorded(injection(is(api.ChaosHealed)))), "forget"},
		{"what is over is left alone", view(wanted(injection(is(api.ChaosHealed)))), ""},

		{"another agent goes on", view(wanted(injected), inherited(injected)), ""},
		{"and heals", view(wanted(injection(is(api.ChaosInjected), over)), inherited(injected)), "heal: its time is over"},
		{"also before the API server answers", view(unsynced, inherited(injection(is(api.ChaosInjected), over))), "heal: its time is over"},
		{"or where it does not answer", view(unsynced, inherited(injected), silent), "heal: the API server has not answered for 10s"},
		{"but keeps what was not told", view(unsynced, inherited(injection(is(api.ChaosHealed)))), ""},
		{"and what may be half done is healed", view(wanted(injection()), inherited(injection(is(api.ChaosPending)))), "heal: the agent ended while it broke it"},
		{"as is what it does not know of", view(wanted(injected)), "heal: the node's journal of faults was lost"},
		{"what ended with the agent is over", view(wanted(injection(is(api.ChaosInjected), of(api.FaultStressCPU))), inherited(injection(is(api.ChaosInjected), of(api.FaultStressCPU)))), "heal"},

		{"a crash is told first", view(wanted(injection(of(api.FaultCrashAgent))), recorded(injection(of(api.FaultCrashAgent), is(api.ChaosInjected)))), "tell"},
		{"then done", view(wanted(injection(of(api.FaultCrashAgent), is(api.ChaosInjected))), recorded(injection(of(api.FaultCrashAgent), is(api.ChaosInjected)))), "crash"},
		{"and not again", view(wanted(injection(of(api.FaultCrashAgent), is(api.ChaosInjected))), inherited(injection(of(api.FaultCrashAgent), is(api.ChaosInjected)))), "heal"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			actions, _ := Plan(test.v)
			got := ""
			for _, a := range actions {
				if got += string(a.Verb); a.Why != "" {
					got += ": " + a.Why
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever happens in whatever order, with agents that die between any two steps:
// nothing is broken that the journal does not have, each injection is broken once at
// most, and in the end all is healed and forgotten.
func TestPlanHealsWhateverHappens(t *testing.T) {
	types := []string{api.FaultKillContainer, api.FaultPauseContainer, api.FaultCrashAgent, api.FaultStressCPU, api.FaultShiftClock}
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom(types).Draw(t, "type")
		kind, _ := api.FaultKindOf(typ)
		object := injection(of(typ))
		v := view(wanted(object))
		broken, times := false, 0
		enter := func(phase string) {
			r := proto.CloneOf(object)
			r.Status = &v1.ChaosInjectionStatus{Phase: phase}
			v.Records["u1"] = Record{Injection: r, Inherited: v.Records["u1"].Inherited}
		}
		die := func() {
			for uid, r := range v.Records {
				r.Inherited = true
				v.Records[uid] = r
			}
			if dieWithAgent[typ] {
				broken = false
			}
		}
		step := func(mayDie bool) bool {
			actions, _ := Plan(v)
			if len(actions) > 1 {
				t.Fatalf("several things at once about one injection: %v", actions)
			}
			for _, a := range actions {
				dies := func(at string) bool {
					if mayDie && rapid.IntRange(0, 5).Draw(t, "dies "+at) == 0 {
						die()
						return true
					}
					return false
				}
				switch a.Verb {
				case Inject:
					if enter(api.ChaosPending); dies("before") {
						return true
					}
					times++
					if broken = kind.Lasts && !api.NeedsDownTime(typ); dies("after") {
						return true
					}
					phase := api.ChaosHealed
					if kind.Lasts {
						phase = api.ChaosInjected
					}
					enter(phase)
				case Crash:
					die()
				case Heal:
					if broken = false; !dies("healed") {
						enter(api.ChaosHealed)
					}
				case Refuse:
					enter(api.ChaosFailed)
				case Tell:
					object = proto.CloneOf(object)
					object.Status = proto.CloneOf(v.Records["u1"].Injection.GetStatus())
					v.Injections = []*v1.ChaosInjection{object}
				case Forget:
					delete(v.Records, "u1")
				}
			}
			if _, known := v.Records["u1"]; broken && !known {
				t.Fatal("broken, and the journal does not have it")
			}
			return len(actions) > 0
		}
		t.Repeat(map[string]func(*rapid.T){
			"step":    func(*rapid.T) { step(true) },
			"die":     func(*rapid.T) { die() },
			"silence": func(*rapid.T) { v.Silent = silentLimit - v.Silent },
			"pod": func(*rapid.T) {
				podGone(&v)
			},
			"heal": func(*rapid.T) {
				object = proto.CloneOf(object)
				object.Spec.Heal = true
				v.Injections = []*v1.ChaosInjection{object}
			},
			"unsync": func(*rapid.T) { v.Synced = !v.Synced },
		})
		v.Now, v.Silent, v.Synced = now.Add(time.Hour), 0, true
		for n := 0; step(false); n++ {
			if n > 10 {
				t.Fatal("it never comes to an end")
			}
		}
		if broken || len(v.Records) > 0 || times > 1 || !api.IsInjectionOver(object) {
			t.Fatal(fmt.Sprintf("broken %v, journal %v, times %d, status %v", broken, v.Records, times, object.GetStatus()))
		}
	})
}
