package api

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "orch/proto/v1"
)

func TestAnExperimentSaysAllThatItsFaultNeedsAndNothingElse(t *testing.T) {
	web := &v1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	kill := func(change func(*v1.ChaosExperimentSpec)) *v1.ChaosExperimentSpec {
		s := &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: FaultKillContainer}, Selector: web}
		change(s)
		return s
	}
	of := func(f *v1.ChaosFault) *v1.ChaosExperimentSpec {
		return kill(func(s *v1.ChaosExperimentSpec) { s.Fault = f })
	}
	node := func(f *v1.ChaosFault) *v1.ChaosExperimentSpec {
		return &v1.ChaosExperimentSpec{Fault: f, NodeSelector: &v1.LabelSelector{}, FaultSeconds: 5}
	}
	steady := func(st *v1.ChaosSteadyState) *v1.ChaosExperimentSpec {
		return kill(func(s *v1.ChaosExperimentSpec) { s.SteadyState = []*v1.ChaosSteadyState{st} })
	}
	for name, tt := range map[string]struct {
		spec *v1.ChaosExperimentSpec
		want string // "" for valid
	}{
		"a kill":              {kill(func(*v1.ChaosExperimentSpec) {}), ""},
		"a kill of all pods":  {kill(func(s *v1.ChaosExperimentSpec) { s.Selector = &v1.LabelSelector{} }), ""},
		"nothing":             {&v1.ChaosExperimentSpec{}, "spec.fault.type: Required value"},
		"an unknown fault":    {of(&v1.ChaosFault{Type: "Melt"}), `spec.fault.type: Unsupported value: "Melt": supported values: "KillContainer", `},
		"no selector":         {kill(func(s *v1.ChaosExperimentSpec) { s.Selector = nil }), "spec.selector: Required value"},
		"an unknown signal":   {of(&v1.ChaosFault{Type: FaultKillContainer, Signal: "KILL"}), `spec.fault.signal: Unsupported value: "KILL"`},
		"a foreign parameter": {of(&v1.ChaosFault{Type: FaultKillContainer, Percent: 5}), "spec.fault.percent: Forbidden: may not be set for KillContainer"},
		"a missing parameter": {of(&v1.ChaosFault{Type: FaultNetworkLoss}), "spec.fault.percent: Required value"},
		"too many per cent":   {of(&v1.ChaosFault{Type: FaultStressCPU, Percent: 101}), "spec.fault.percent: Invalid value: 101: must be between 1 and 100, inclusive"},
		"an unknown mode":     {kill(func(s *v1.ChaosExperimentSpec) { s.Mode = "Some" }), `spec.mode: Unsupported value: "Some"`},
		"a value too much":    {kill(func(s *v1.ChaosExperimentSpec) { s.Value = 2 }), "spec.value: Forbidden: may only be set for mode Fixed or FixedPercent"},
		"no value":            {kill(func(s *v1.ChaosExperimentSpec) { s.Mode = ChaosFixed }), "spec.value: Invalid value: 0: must be between 1 and"},
		"a negative duration": {kill(func(s *v1.ChaosExperimentSpec) { s.DurationSeconds = -1 }), "spec.durationSeconds: Invalid value: -1"},
		"what is over lasting": {
			kill(func(s *v1.ChaosExperimentSpec) { s.FaultSeconds = 5 }),
			"spec.faultSeconds: Forbidden: may not be set for KillContainer, which is over at once",
		},
		"peers of a kill": {kill(func(s *v1.ChaosExperimentSpec) { s.PeerSelector = web }), "spec.peerSelector: Forbidden"},
		"a crash":         {node(&v1.ChaosFault{Type: FaultCrashAgent}), ""},
		"an endless crash": {
			&v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: FaultCrashAPIServer}}, "spec.faultSeconds: Required value: how long it is down",
		},
		"a crash of pods": {of(&v1.ChaosFault{Type: FaultCrashAgent}), "spec.selector: Forbidden: may not be set for CrashAgent; spec.nodeSelector: Required value"},
		"a pause that outlasts its round": {
			kill(func(s *v1.ChaosExperimentSpec) {
				s.Fault, s.EverySeconds, s.FaultSeconds = &v1.ChaosFault{Type: FaultPauseContainer}, 5, 6
			}), "spec.faultSeconds: Invalid value: 6: must not be greater than `everySeconds`",
		},
		"a steady state of nothing": {steady(&v1.ChaosSteadyState{}), "spec.steadyState[0]: Required value: must specify exactly one"},
		"replicas":                  {steady(&v1.ChaosSteadyState{ReadyReplicas: &v1.ChaosReadyReplicas{Name: "web", AtLeast: 2}}), ""},
		"replicas of nobody":        {steady(&v1.ChaosSteadyState{ReadyReplicas: &v1.ChaosReadyReplicas{}}), "spec.steadyState[0].readyReplicas.name: Required value"},
		"a probe of a file": {
			steady(&v1.ChaosSteadyState{HttpGet: &v1.ChaosProbe{Url: "file:///etc/passwd"}}),
			`spec.steadyState[0].httpGet.url: Invalid value: "file:///etc/passwd": must be an address such as`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := &v1.ChaosExperiment{Metadata: &v1.ObjectMeta{Name: "x", Namespace: "default"}, Spec: tt.spec}
			Default(x)
			got := texts(Validate(x))
			if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func texts(problems []*v1.FieldError) string {
	var all []string
	for _, p := range problems {
		all = append(all, p.GetField()+": "+p.GetMessage())
	}
	return strings.Join(all, "; ")
}

func TestAnExperimentCanOnlyBeStopped(t *testing.T) {
	old := &v1.ChaosExperiment{
		Metadata: &v1.ObjectMeta{Name: "x", Namespace: "default"},
		Spec:     &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: FaultKillPod}, Selector: &v1.LabelSelector{}, Seed: 7},
	}
	Default(old)
	stopped := Clone(old)
	stopped.Spec.Stop = true
	if got := texts(ValidateUpdate(stopped, old)); got != "" {
		t.Errorf("an experiment cannot be stopped: %s", got)
	}
	if got := texts(ValidateUpdate(old, stopped)); !strings.Contains(got, "cannot go on") {
		t.Errorf("an experiment goes on: %s", got)
	}
	other := Clone(old)
	other.Spec.Seed = 8
	if got := texts(ValidateUpdate(other, old)); !strings.HasPrefix(got, "spec.seed: Forbidden") {
		t.Errorf("another seed: %s", got)
	}
}

func TestAnInjectionNamesItsTargetAndEnds(t *testing.T) {
	until := &timestamppb.Timestamp{Seconds: 1}
	for name, tt := range map[string]struct {
		spec *v1.ChaosInjectionSpec
		want string
	}{
		"a pause": {&v1.ChaosInjectionSpec{
			Experiment: "x", Fault: &v1.ChaosFault{Type: FaultPauseContainer}, NodeName: "n", PodName: "p", PodUid: "u", Until: until,
		}, ""},
		"an endless one": {&v1.ChaosInjectionSpec{
			Experiment: "x", Fault: &v1.ChaosFault{Type: FaultPauseContainer}, NodeName: "n", PodName: "p", PodUid: "u",
		}, "spec.until: Required value"},
		"one of nobody": {&v1.ChaosInjectionSpec{
			Experiment: "x", Fault: &v1.ChaosFault{Type: FaultKillContainer}, NodeName: "n",
		}, "spec.podName: Required value"},
		"a server on a node": {&v1.ChaosInjectionSpec{
			Experiment: "x", Fault: &v1.ChaosFault{Type: FaultDropWatches}, NodeName: "n", Until: until,
		}, "spec.nodeName: Forbidden: may not be set for DropWatches"},
	} {
		i := &v1.ChaosInjection{Metadata: &v1.ObjectMeta{Name: "i", Namespace: "default"}, Spec: tt.spec}
		if got := texts(Validate(i)); tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
