package api

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	v1 "orch/proto/v1"
)

func TestTolerates(t *testing.T) {
	taint := &v1.Taint{Key: "dedicated", Value: "films", Effect: EffectNoSchedule}
	for name, tt := range map[string]struct {
		toleration *v1.Toleration
		want       bool
	}{
		"the same key, value and effect":    {&v1.Toleration{Key: "dedicated", Operator: "Equal", Value: "films", Effect: "NoSchedule"}, true},
		"no operator means Equal":           {&v1.Toleration{Key: "dedicated", Value: "films", Effect: "NoSchedule"}, true},
		"no effect means all":               {&v1.Toleration{Key: "dedicated", Value: "films"}, true},
		"Exists takes any value":            {&v1.Toleration{Key: "dedicated", Operator: "Exists"}, true},
		"no key with Exists means all":      {&v1.Toleration{Operator: "Exists"}, true},
		"no key with Exists, of one effect": {&v1.Toleration{Operator: "Exists", Effect: "NoSchedule"}, true},
		"another value":                     {&v1.Toleration{Key: "dedicated", Value: "books"}, false},
		"another key":                       {&v1.Toleration{Key: "shared", Operator: "Exists"}, false},
		"another effect":                    {&v1.Toleration{Key: "dedicated", Operator: "Exists", Effect: "NoExecute"}, false},
		"an operator that nobody knows":     {&v1.Toleration{Key: "dedicated", Operator: "Like", Value: "films"}, false},
	} {
		if got := Tolerates([]*v1.Toleration{tt.toleration}, taint); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestTaintsFollowConditions(t *testing.T) {
	condition := func(typ, status string) *v1.Condition { return &v1.Condition{Type: typ, Status: status} }
	own := &v1.Taint{Key: "dedicated", Value: "films", Effect: EffectNoExecute}
	for name, tt := range map[string]struct {
		node *v1.Node
		want string
	}{
		"a node in good health has its own":     {&v1.Node{Spec: &v1.NodeSpec{Taints: []*v1.Taint{own}}, Status: &v1.NodeStatus{Conditions: []*v1.Condition{condition("Ready", "True"), condition("MemoryPressure", "False")}}}, "dedicated=films:NoExecute"},
		"not ready":                             {&v1.Node{Status: &v1.NodeStatus{Conditions: []*v1.Condition{condition("Ready", "False")}}}, "node.kubernetes.io/not-ready:NoSchedule"},
		"silent":                                {&v1.Node{Status: &v1.NodeStatus{Conditions: []*v1.Condition{condition("Ready", "Unknown"), condition("DiskPressure", "Unknown")}}}, "node.kubernetes.io/unreachable:NoSchedule"},
		"short of everything":                   {&v1.Node{Status: &v1.NodeStatus{Conditions: []*v1.Condition{condition("MemoryPressure", "True"), condition("DiskPressure", "True"), condition("PIDPressure", "True")}}}, "node.kubernetes.io/memory-pressure:NoSchedule node.kubernetes.io/disk-pressure:NoSchedule node.kubernetes.io/pid-pressure:NoSchedule"},
		"cordoned":                              {&v1.Node{Spec: &v1.NodeSpec{Unschedulable: true}}, "node.kubernetes.io/unschedulable:NoSchedule"},
		"what has passed goes":                  {&v1.Node{Spec: &v1.NodeSpec{Taints: []*v1.Taint{{Key: TaintMemoryPressure, Effect: EffectNoSchedule}, own}}}, "dedicated=films:NoExecute"},
		"what there is stays where it is":       {&v1.Node{Spec: &v1.NodeSpec{Unschedulable: true, Taints: []*v1.Taint{{Key: TaintUnschedulable, Effect: EffectNoSchedule}, own}}}, "node.kubernetes.io/unschedulable:NoSchedule dedicated=films:NoExecute"},
		"another effect of the same key is not": {&v1.Node{Spec: &v1.NodeSpec{Taints: []*v1.Taint{{Key: TaintNotReady, Effect: EffectNoExecute}}}}, "node.kubernetes.io/not-ready:NoExecute"},
	} {
		var got []string
		for _, taint := range NodeTaints(tt.node) {
			got = append(got, FormatTaint(taint))
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %s, want %s", name, s, tt.want)
		}
	}
}

// Once the taints are written, nothing is left to write.
func TestTaintsSettle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := &v1.Node{Spec: &v1.NodeSpec{Unschedulable: rapid.Bool().Draw(t, "cordoned")}, Status: &v1.NodeStatus{}}
		for _, c := range conditionTaints {
			SetCondition(&n.Status.Conditions, &v1.Condition{Type: c.condition, Status: rapid.SampledFrom([]string{"True", "False", "Unknown"}).Draw(t, c.key)}, time.Unix(1, 0))
		}
		for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", TaintNotReady, TaintDiskPressure, TaintUnschedulable}), 0, 4, rapid.ID[string]).Draw(t, "keys") {
			n.Spec.Taints = append(n.Spec.Taints, &v1.Taint{Key: key, Effect: rapid.SampledFrom([]string{EffectNoSchedule, EffectNoExecute}).Draw(t, "effect")})
		}
		n.Spec.Taints = NodeTaints(n)
		again := &v1.NodeSpec{Taints: NodeTaints(n), Unschedulable: n.Spec.Unschedulable}
		if !proto.Equal(n.Spec, again) {
			t.Fatalf("first %v, then %v", n.Spec, again)
		}
		if len(Validate(&v1.Node{Metadata: &v1.ObjectMeta{Name: "n"}, Spec: n.Spec})) > 0 {
			t.Fatalf("%v is not valid", n.Spec)
		}
	})
}

func TestPodsThatSayWhatTheyNeedTolerateMemoryPressure(t *testing.T) {
	for resources, want := range map[string]int{"": 0, "1Mi": 1} {
		s := &v1.PodSpec{Containers: []*v1.Container{{}}}
		if resources != "" {
			s.Containers[0].Resources = &v1.ResourceRequirements{Requests: map[string]string{"memory": resources}}
		}
		TolerateMemoryPressure(s)
		TolerateMemoryPressure(s) // twice is once
		if len(s.Tolerations) != want {
			t.Errorf("requesting %q: %v", resources, s.Tolerations)
		}
	}
}

func TestTaintsAndTolerationsAreValidated(t *testing.T) {
	pod := func(list ...*v1.Toleration) Object {
		return &v1.Pod{Spec: &v1.PodSpec{Tolerations: list}}
	}
	node := func(list ...*v1.Taint) Object { return &v1.Node{Spec: &v1.NodeSpec{Taints: list}} }
	for want, o := range map[string]Object{
		"": pod(&v1.Toleration{Key: "a", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: proto.Int64(-1)}, &v1.Toleration{Operator: "Exists"}),
		"spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"": pod(&v1.Toleration{Value: "x"}),
		"spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set":                         pod(&v1.Toleration{Key: "a", Effect: "NoSchedule", TolerationSeconds: proto.Int64(1)}),
		`spec.tolerations[0].operator: Invalid value: "x": value must be empty when ` + "`operator` is 'Exists'":                                        pod(&v1.Toleration{Key: "a", Operator: "Exists", Value: "x"}),
		`spec.tolerations[0].operator: Unsupported value: "Like": supported values: "Equal", "Exists"`:                                                  pod(&v1.Toleration{Key: "a", Operator: "Like"}),
		`spec.tolerations[0].effect: Unsupported value: "Never": supported values: "NoExecute", "NoSchedule", "PreferNoSchedule"`:                       pod(&v1.Toleration{Key: "a", Effect: "Never"}),
		`spec.taints[0].effect: Required value`:                                                           node(&v1.Taint{Key: "a"}),
		`spec.taints[1]: Duplicate value: "a=y:NoSchedule": taints must be unique by key and effect pair`: node(&v1.Taint{Key: "a", Value: "x", Effect: "NoSchedule"}, &v1.Taint{Key: "a", Value: "y", Effect: "NoSchedule"}),
	} {
		var got []string
		for _, e := range Validate(o) {
			if strings.Contains(e.GetField(), "taints") || strings.Contains(e.GetField(), "tolerations") {
				got = append(got, e.GetField()+": "+e.GetMessage())
			}
		}
		if s := strings.Join(got, "\n"); s != want {
			t.Errorf("%v:\n%s\nwant\n%s", o, s, want)
		}
	}
}

func TestTolerationsOfAPodCanOnlyBeAdded(t *testing.T) {
	old := []*v1.Toleration{{Key: "a", Operator: "Exists", Effect: EffectNoExecute}}
	for name, tt := range map[string]struct {
		new  []*v1.Toleration
		want string
	}{
		"another is added":          {append([]*v1.Toleration{{Key: "b", Operator: "Exists"}}, old...), ""},
		"the time is changed":       {[]*v1.Toleration{{Key: "a", Operator: "Exists", Effect: EffectNoExecute, TolerationSeconds: proto.Int64(9)}}, ""},
		"one is taken away":         {nil, "spec.tolerations: Forbidden: " + notModified},
		"one is changed to another": {[]*v1.Toleration{{Key: "a", Operator: "Exists"}}, "spec.tolerations: Forbidden: " + notModified},
	} {
		var e problems
		e.podUpdate(&v1.Pod{Spec: &v1.PodSpec{Tolerations: tt.new}}, &v1.Pod{Spec: &v1.PodSpec{Tolerations: old}})
		var got []string
		for _, problem := range e.list {
			got = append(got, problem.GetField()+": "+problem.GetMessage())
		}
		if s := strings.Join(got, "\n"); s != tt.want {
			t.Errorf("%s: %s, want %s", name, s, tt.want)
		}
	}
}
