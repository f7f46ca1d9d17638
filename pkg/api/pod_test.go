package api

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	v1 "orch/proto/v1"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func TestAConditionKeepsTheTimeOfItsLastTransition(t *testing.T) {
	var conds []*v1.Condition
	if !SetCondition(&conds, &v1.Condition{Type: PodReady, Status: ConditionTrue}, noon) {
		t.Error("a new condition is a change")
	}
	if SetCondition(&conds, &v1.Condition{Type: PodReady, Status: ConditionTrue}, noon.Add(time.Hour)) {
		t.Error("the same condition again is no change")
	}
	if !SetCondition(&conds, &v1.Condition{Type: PodReady, Status: ConditionTrue, Reason: "Why"}, noon.Add(time.Hour)) {
		t.Error("another reason is a change")
	}
	if got := conds[0].LastTransitionTime.AsTime(); !got.Equal(noon) {
		t.Errorf("last transition %v, want that of the status", got)
	}
	SetCondition(&conds, &v1.Condition{Type: PodReady, Status: ConditionFalse}, noon.Add(2*time.Hour))
	if got := conds[0].LastTransitionTime.AsTime(); !got.Equal(noon.Add(2*time.Hour)) || len(conds) != 1 {
		t.Errorf("last transition %v of %d conditions", got, len(conds))
	}
}

func TestAPodIsAvailableWhenItHasBeenReadyForLongEnough(t *testing.T) {
	pod := &v1.Pod{Status: &v1.PodStatus{Phase: PodRunning}}
	SetCondition(&pod.Status.Conditions, &v1.Condition{Type: PodReady, Status: ConditionTrue}, noon)
	for _, tt := range []struct {
		name    string
		minimum int32
		after   time.Duration
		want    bool
	}{
		{"at once where no time is asked for", 0, 0, true},
		{"not before the time is over", 10, 9 * time.Second, false},
		{"when the time is over", 10, 10 * time.Second, true},
		{"not when the clock was set back", 10, -time.Hour, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := IsPodAvailable(pod, tt.minimum, noon.Add(tt.after)); got != tt.want {
				t.Errorf("available: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestAPodIsActiveUntilItEndsOrItsEndIsAskedFor(t *testing.T) {
	for _, tt := range []struct {
		name             string
		pod              *v1.Pod
		active, terminal bool
	}{
		{"pending", &v1.Pod{Status: &v1.PodStatus{Phase: PodPending}}, true, false},
		{"deleted", &v1.Pod{Metadata: &v1.ObjectMeta{DeletionTimestamp: timestamppb.New(noon)}}, false, false},
		{"failed", &v1.Pod{Status: &v1.PodStatus{Phase: PodFailed}}, false, true},
		{"succeeded", &v1.Pod{Status: &v1.PodStatus{Phase: PodSucceeded}}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if IsPodActive(tt.pod) != tt.active || IsPodTerminal(tt.pod) != tt.terminal {
				t.Errorf("active %v, terminal %v", IsPodActive(tt.pod), IsPodTerminal(tt.pod))
			}
		})
	}
}

func container(limits, requests map[string]string) *v1.Container {
	return &v1.Container{Resources: &v1.ResourceRequirements{Limits: limits, Requests: requests}}
}

func TestAPodRequestsWhatItsContainersRequest(t *testing.T) {
	spec := &v1.PodSpec{Containers: []*v1.Container{
		container(nil, map[string]string{"cpu": "250m", "memory": "64Mi"}),
		container(map[string]string{"cpu": "1", "memory": "1Gi"}, map[string]string{"memory": "0"}),
		container(map[string]string{"ephemeral-storage": "1M"}, nil),
		container(nil, nil),
	}}
	want := Resources{MilliCPU: 1250, Memory: 64 << 20, EphemeralStorage: 1e6, Pods: 1}
	if got := PodRequests(spec); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestQOSClasses(t *testing.T) {
	both := map[string]string{"cpu": "1", "memory": "1Gi"}
	for _, tt := range []struct {
		name, want string
		containers []*v1.Container
	}{
		{"nothing asked for is best effort", QOSBestEffort, []*v1.Container{container(nil, nil)}},
		{"zero is nothing", QOSBestEffort, []*v1.Container{container(nil, map[string]string{"cpu": "0"})}},
		{"limits alone are guaranteed", QOSGuaranteed, []*v1.Container{container(both, nil)}},
		{"equal amounts may be written differently", QOSGuaranteed, []*v1.Container{container(both, map[string]string{"cpu": "1000m", "memory": "1024Mi"})}},
		{"a smaller request is burstable", QOSBurstable, []*v1.Container{container(both, map[string]string{"cpu": "1m"})}},
		{"one container without limits is enough to be burstable", QOSBurstable, []*v1.Container{container(both, nil), container(nil, nil)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := QOSClass(&v1.PodSpec{Containers: tt.containers}); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestScaledValues(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		total    int32
		up       bool
		want     int32
	}{
		{"a number is itself", "3", 10, true, 3},
		{"a share is rounded up", "25%", 10, true, 3},
		{"a share is rounded down", "25%", 10, false, 2},
		{"nothing of nothing", "25%", 0, true, 0},
		{"more than all", "150%", 10, false, 15},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := ParseIntOrString(tt.in)
			if FormatIntOrString(v) != tt.in {
				t.Errorf("%s is written %s", tt.in, FormatIntOrString(v))
			}
			if got, err := ScaledValue(v, tt.total, tt.up); err != nil || got != tt.want {
				t.Errorf("got %d, %v, want %d", got, err, tt.want)
			}
		})
	}
	for _, v := range []*v1.IntOrString{nil, ParseIntOrString("some"), ParseIntOrString("%")} {
		if _, err := ScaledValue(v, 1, true); err == nil {
			t.Errorf("%v has a value", v)
		}
	}
}

func TestTheTemplateHashIsTheSameInEveryRelease(t *testing.T) {
	deployment := validDeployment()
	if got, want := TemplateHash(deployment.Spec.Template, 0), "6bc5b7668b"; got != want {
		t.Errorf("got %s, want %s: every ReplicaSet of every cluster would be replaced at the next upgrade", got, want)
	}
	if TemplateHash(deployment.Spec.Template, 0) == TemplateHash(deployment.Spec.Template, 1) {
		t.Error("a collision must change the hash")
	}
}

func TestTheTemplateHashDependsOnEveryField(t *testing.T) {
	template := validDeployment().Spec.Template
	seen := map[string]string{TemplateHash(template, 0): "no change"}
	for name, change := range map[string]func(*v1.PodTemplateSpec){
		"image":        func(t *v1.PodTemplateSpec) { t.Spec.Containers[0].Image = "b" },
		"label":        func(t *v1.PodTemplateSpec) { t.Metadata.Labels["a"] = "b" },
		"label's key":  func(t *v1.PodTemplateSpec) { t.Metadata.Labels["a="] = "b" },
		"command":      func(t *v1.PodTemplateSpec) { t.Spec.Containers[0].Command = []string{"a"} },
		"args":         func(t *v1.PodTemplateSpec) { t.Spec.Containers[0].Args = []string{"a"} },
		"two args":     func(t *v1.PodTemplateSpec) { t.Spec.Containers[0].Args = []string{"a", "b"} },
		"one with ,":   func(t *v1.PodTemplateSpec) { t.Spec.Containers[0].Args = []string{`a","b`} },
		"grace period": func(t *v1.PodTemplateSpec) { t.Spec.TerminationGracePeriodSeconds = proto.Int64(0) },
		"no grace":     func(t *v1.PodTemplateSpec) { t.Spec.TerminationGracePeriodSeconds = nil },
		"containers":   func(t *v1.PodTemplateSpec) { t.Spec.Containers = append(t.Spec.Containers, &v1.Container{}) },
	} {
		changed := proto.Clone(template).(*v1.PodTemplateSpec)
		change(changed)
		hash := TemplateHash(changed, 0)
		if other, ok := seen[hash]; ok {
			t.Errorf("%s and %s have the hash %s", name, other, hash)
		}
		seen[hash] = name
	}
}

func TestGeneratedNamesFitALabel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.StringMatching(`[a-z]([a-z0-9]{0,80})-`).Draw(t, "base")
		name := GenerateName(base)
		if msgs := dnsLabel(name); len(msgs) > 0 || !strings.HasPrefix(name, base[:min(len(base), 58)]) {
			t.Fatalf("%s: %v", name, msgs)
		}
	})
}
