package api

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "orch/proto/v1"
)

// ChaosScope is what a fault is done to.
type ChaosScope string

// The scopes of faults.
const (
	ScopePod       ChaosScope = "pod"
	ScopeNode      ChaosScope = "node"
	ScopeAPIServer ChaosScope = "apiserver"
)

// FaultKind is what is known of a type of fault.
type FaultKind struct {
	Scope ChaosScope
	// Lasts: it is broken until it is healed. Else it is over at once.
	Lasts bool
	// Agent: the agent of the target's node does it, not the API server.
	Agent bool
	// Needs and takes name fields of ChaosFault that it must and may have.
	needs, takes []string
}

var containerFields = []string{"containers"}

var faultKinds = map[string]FaultKind{
	FaultKillContainer:  {Scope: ScopePod, Agent: true, takes: []string{"containers", "signal"}},
	FaultKillPod:        {Scope: ScopePod, takes: []string{"gracePeriodSeconds"}},
	FaultPauseContainer: {Scope: ScopePod, Lasts: true, Agent: true, takes: containerFields},
	FaultStressCPU:      {Scope: ScopePod, Lasts: true, Agent: true, needs: []string{"percent"}, takes: containerFields},
	FaultStressMemory:   {Scope: ScopePod, Lasts: true, Agent: true, needs: []string{"percent"}, takes: containerFields},
	FaultNetworkLoss:    {Scope: ScopePod, Lasts: true, Agent: true, needs: []string{"percent"}},
	FaultNetworkCut:     {Scope: ScopePod, Lasts: true, Agent: true},
	FaultNetworkDelay:   {Scope: ScopePod, Lasts: true, Agent: true, needs: []string{"delayMilliseconds"}},
	FaultCrashAgent:     {Scope: ScopeNode, Lasts: true, Agent: true},
	FaultStopNode:       {Scope: ScopeNode, Lasts: true, Agent: true},
	FaultShiftClock:     {Scope: ScopeNode, Lasts: true, Agent: true, needs: []string{"offsetSeconds"}},
	FaultCrashAPIServer: {Scope: ScopeAPIServer, Lasts: true},
	FaultDropWatches:    {Scope: ScopeAPIServer, Lasts: true, takes: []string{"actors"}},
	FaultDelayWatches:   {Scope: ScopeAPIServer, Lasts: true, needs: []string{"delayMilliseconds"}, takes: []string{"actors"}},
}

// FaultKindOf returns what is known of a type of fault; ok is false for one that
// there is not.
func FaultKindOf(typ string) (k FaultKind, ok bool) {
	k, ok = faultKinds[typ]
	return k, ok
}

// FaultTypes lists all types of faults, as ChaosFault's comment does.
func FaultTypes() []string {
	return []string{
		FaultKillContainer, FaultKillPod, FaultPauseContainer, FaultStressCPU, FaultStressMemory, FaultNetworkLoss, FaultNetworkCut,
		FaultNetworkDelay, FaultCrashAgent, FaultStopNode, FaultCrashAPIServer, FaultDropWatches, FaultDelayWatches, FaultShiftClock,
	}
}

// ChaosTarget is what an injection is done to: "pod/web-1", "node/node-1" or
// "apiserver".
func ChaosTarget(i *v1.ChaosInjection) string {
	switch s := i.GetSpec(); {
	case s.GetPodName() != "":
		return "pod/" + s.GetPodName()
	case s.GetNodeName() != "":
		return "node/" + s.GetNodeName()
	}
	return "apiserver"
}

// Count says how many there are of what has a plural in s: "1 round", "2 rounds".
func Count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}

// IsInjectionOver says that an injection's status is its last.
func IsInjectionOver(i *v1.ChaosInjection) bool {
	phase := i.GetStatus().GetPhase()
	return phase == ChaosHealed || phase == ChaosFailed
}

// IsChaosProtected says whether an object's label keeps it from every fault.
func IsChaosProtected(o Object) bool {
	return o.GetMetadata().GetLabels()[LabelChaosProtected] == "true"
}

// NodeCanInject says whether the agent of a node has said that it can do a fault.
func NodeCanInject(n *v1.Node, fault string) bool {
	if fault == FaultNetworkDelay && n.GetMetadata().GetLabels()[LabelChaosNetem] != "true" {
		return false
	}
	return slices.Contains(strings.Split(n.GetMetadata().GetAnnotations()[AnnotationChaosFaults], ","), fault)
}

// signals are those that a container can be killed with.
var signals = []string{
	"SIGKILL", "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM",
}

const (
	// maxFaultSeconds bounds all times of an experiment: a day.
	maxFaultSeconds = 24 * 60 * 60
	// maxDelay bounds delays: a minute, in milliseconds.
	maxDelay = 60_000
)

func (e *problems) experiment(s *v1.ChaosExperimentSpec) {
	const p path = "spec"
	k, known := e.fault(p.child("fault"), s.GetFault())
	e.modeAndValue(p, s)
	e.within(p.child("everySeconds"), int64(s.GetEverySeconds()), 0, maxFaultSeconds)
	e.within(p.child("durationSeconds"), int64(s.GetDurationSeconds()), 1, maxFaultSeconds)
	e.within(p.child("faultSeconds"), int64(s.GetFaultSeconds()), 0, maxFaultSeconds)
	e.nonNegative(p.child("seed"), s.GetSeed())
	e.steadyState(p.child("steadyState"), s.GetSteadyState())
	if s.GetProbe() != nil {
		e.chaosProbe(p.child("probe"), s.GetProbe())
	}
	e.labelSelector(p.child("selector"), s.GetSelector())
	e.labelSelector(p.child("nodeSelector"), s.GetNodeSelector())
	e.labelSelector(p.child("peerSelector"), s.GetPeerSelector())
	if !known {
		return
	}
	refuse := func(name string, selector *v1.LabelSelector) {
		if selector != nil {
			e.forbidden(p.child(name), "may not be set for "+s.GetFault().GetType())
		}
	}
	switch k.Scope {
	case ScopePod:
		if s.GetSelector() == nil {
			e.required(p.child("selector"), "say which pods may be hit; {} is all of the namespace")
		}
	case ScopeNode:
		refuse("selector", s.GetSelector())
		if s.GetNodeSelector() == nil {
			e.required(p.child("nodeSelector"), "say which nodes may be hit; {} is all of them")
		}
	case ScopeAPIServer:
		refuse("selector", s.GetSelector())
		refuse("nodeSelector", s.GetNodeSelector())
	}
	if t := s.GetFault().GetType(); t != FaultNetworkLoss && t != FaultNetworkCut && t != FaultNetworkDelay {
		refuse("peerSelector", s.GetPeerSelector())
	}
	if !k.Lasts && s.GetFaultSeconds() != 0 {
		e.forbidden(p.child("faultSeconds"), "may not be set for "+s.GetFault().GetType()+", which is over at once")
	}
	if NeedsDownTime(s.GetFault().GetType()) && s.GetFaultSeconds() == 0 {
		e.required(p.child("faultSeconds"), "how long it is down")
	}
	if every := s.GetEverySeconds(); every > 0 && s.GetFaultSeconds() > every {
		e.invalid(p.child("faultSeconds"), s.GetFaultSeconds(), "must not be greater than `everySeconds`: the next choice would find the last one broken")
	}
}

// NeedsDownTime says that a fault needs faultSeconds: what is down cannot be told to
// come back, so it must know when.
func NeedsDownTime(fault string) bool {
	return fault == FaultCrashAgent || fault == FaultStopNode || fault == FaultCrashAPIServer
}

func (e *problems) modeAndValue(p path, s *v1.ChaosExperimentSpec) {
	e.oneOf(p.child("mode"), s.GetMode(), ChaosOne, ChaosAll, ChaosFixed, ChaosFixedPercent)
	v := p.child("value")
	switch s.GetMode() {
	case ChaosFixed:
		e.within(v, int64(s.GetValue()), 1, 100_000)
	case ChaosFixedPercent:
		e.within(v, int64(s.GetValue()), 1, 100)
	default:
		if s.GetValue() != 0 {
			e.forbidden(v, "may only be set for mode Fixed or FixedPercent")
		}
	}
}

// fault checks that a fault has the parameters of its type, and no others.
func (e *problems) fault(p path, f *v1.ChaosFault) (FaultKind, bool) {
	k, known := FaultKindOf(f.GetType())
	if !known {
		e.oneOf(p.child("type"), f.GetType(), FaultTypes()...)
		return k, false
	}
	fields := f.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		name, set := fd.JSONName(), f.ProtoReflect().Has(fd)
		switch {
		case name == "type":
		case slices.Contains(k.needs, name):
			if !set {
				e.required(p.child(name), "")
			}
		case set && !slices.Contains(k.takes, name):
			e.forbidden(p.child(name), "may not be set for "+f.GetType())
		}
	}
	if f.GetPercent() != 0 {
		e.within(p.child("percent"), int64(f.GetPercent()), 1, 100)
	}
	if f.GetDelayMilliseconds() != 0 {
		e.within(p.child("delayMilliseconds"), int64(f.GetDelayMilliseconds()), 1, maxDelay)
	}
	e.within(p.child("offsetSeconds"), int64(f.GetOffsetSeconds()), -maxFaultSeconds, maxFaultSeconds)
	e.nonNegative(p.child("gracePeriodSeconds"), f.GetGracePeriodSeconds())
	e.maybeOneOf(p.child("signal"), f.GetSignal(), slices.Clone(signals)...)
	for i, c := range f.GetContainers() {
		e.invalidEach(p.child("containers").index(i), c, dnsLabel(c))
	}
	return k, true
}

func (e *problems) steadyState(all path, states []*v1.ChaosSteadyState) {
	for i, s := range states {
		p := all.index(i)
		r := s.GetReadyReplicas()
		switch {
		case (r == nil) == (s.GetHttpGet() == nil):
			e.required(p, "must specify exactly one of readyReplicas and httpGet")
		case r == nil:
			e.chaosProbe(p.child("httpGet"), s.GetHttpGet())
		default:
			p = p.child("readyReplicas")
			e.oneOf(p.child("kind"), r.GetKind(), "Deployment", "ReplicaSet")
			e.present(p.child("name"), r.GetName())
			e.nonNegative(p.child("atLeast"), int64(r.GetAtLeast()))
		}
	}
}

func (e *problems) chaosProbe(p path, probe *v1.ChaosProbe) {
	u, err := url.Parse(probe.GetUrl())
	switch {
	case probe.GetUrl() == "":
		e.required(p.child("url"), "")
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		e.invalid(p.child("url"), probe.GetUrl(), "must be an address such as http://10.244.0.5:8080/health")
	}
	e.within(p.child("periodMilliseconds"), int64(probe.GetPeriodMilliseconds()), 10, maxDelay)
	e.within(p.child("timeoutMilliseconds"), int64(probe.GetTimeoutMilliseconds()), 1, maxDelay)
	e.within(p.child("failureThreshold"), int64(probe.GetFailureThreshold()), 1, 1000)
}

// within refuses what is less than least or more than most.
func (e *problems) within(p path, n, least, most int64) {
	if n < least || n > most {
		e.invalid(p, n, outside(least, most))
	}
}

// experimentUpdate: an experiment may be stopped, and nothing else.
func (e *problems) experimentUpdate(new, old *v1.ChaosExperimentSpec) {
	const p path = "spec"
	if old.GetStop() && !new.GetStop() {
		e.invalid(p.child("stop"), false, "what was stopped cannot go on: make another experiment")
	}
	same := &v1.ChaosExperimentSpec{}
	proto.Merge(same, new)
	same.Stop = old.GetStop()
	if changed := changes(p, old.ProtoReflect(), same.ProtoReflect()); len(changed) > 0 {
		e.forbidden(path(changed[0]), "an experiment may not change, only be stopped: make another one")
	}
}

func (e *problems) injection(s *v1.ChaosInjectionSpec) {
	const p path = "spec"
	e.present(p.child("experiment"), s.GetExperiment())
	k, known := e.fault(p.child("fault"), s.GetFault())
	if !known {
		return
	}
	need := func(name, value string, wanted bool) {
		if wanted && value == "" {
			e.required(p.child(name), "")
		} else if !wanted && value != "" {
			e.forbidden(p.child(name), "may not be set for "+s.GetFault().GetType())
		}
	}
	need("nodeName", s.GetNodeName(), k.Agent)
	need("podName", s.GetPodName(), k.Scope == ScopePod)
	need("podUid", s.GetPodUid(), k.Scope == ScopePod)
	if k.Lasts && s.GetUntil() == nil {
		e.required(p.child("until"), "what lasts must end")
	}
}

// injectionUpdate: an injection may be healed, and learn of new peers.
func (e *problems) injectionUpdate(new, old *v1.ChaosInjectionSpec) {
	const p path = "spec"
	if old.GetHeal() && !new.GetHeal() {
		e.invalid(p.child("heal"), false, "what is to be healed cannot be broken again")
	}
	same := &v1.ChaosInjectionSpec{}
	proto.Merge(same, new)
	same.Heal, same.PeerAddresses = old.GetHeal(), old.GetPeerAddresses()
	if changed := changes(p, old.ProtoReflect(), same.ProtoReflect()); len(changed) > 0 {
		e.forbidden(path(changed[0]), immutable)
	}
}
