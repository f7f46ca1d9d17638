package api

import (
	"testing"

	"pgregory.net/rapid"

	v1 "orch/proto/v1"
)

func TestSelectorsChooseByLabels(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": "front", "cpus": "8", "empty": ""}
	for _, tt := range []struct {
		name, selector string
		want           bool
	}{
		{"the empty selector chooses everything", "", true},
		{"equal", "app=web", true},
		{"equal, written twice", "app==web", true},
		{"not equal", "app!=web", false},
		{"a missing label is not equal", "zone!=a", true},
		{"all parts must match", "app=web,tier=back", false},
		{"one of a set", "tier in (front, back)", true},
		{"none of a set", "tier notin (front,back)", false},
		{"a missing label is in no set", "zone notin (a)", true},
		{"a label exists", "app", true},
		{"a label does not exist", "!app", false},
		{"nothing after the sign is the empty value", "empty=", true},
		{"nothing in parentheses is the empty value", "empty in ()", true},
		{"nothing between commas is the empty value", "empty in (x,,y)", true},
		{"greater", "cpus>4", true},
		{"less", "cpus<4", false},
		{"a text is not greater than a number", "app>4", false},
		{"spaces do not matter", "  app  =  web ,  ! zone ", true},
		{"operators are good values", "app notin (in,notin)", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseSelector(tt.selector)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Matches(labels); got != tt.want {
				t.Errorf("%q matches: %v, want %v", tt.selector, got, tt.want)
			}
		})
	}
}

func TestSelectorsThatAreNoneAreRefused(t *testing.T) {
	for _, in := range []string{",", "a,", "a b", "a=b=c", "=b", "a in", "a in b", "a in (b", "a in (b c)", "!a=b", "a>b", "-a", "a=-", "a/b/c", "a in (b))", "a!b", "!"} {
		if s, err := ParseSelector(in); err == nil {
			t.Errorf("ParseSelector(%q) = %s, want an error", in, s)
		}
	}
}

func TestANilLabelSelectorChoosesNothingAndAnEmptyOneEverything(t *testing.T) {
	none, err := SelectorOf(nil)
	if err != nil || none.Matches(nil) || none.Empty() {
		t.Errorf("nil: matches %v, empty %v, %v", none.Matches(nil), none.Empty(), err)
	}
	all, err := SelectorOf(&v1.LabelSelector{})
	if err != nil || !all.Matches(nil) || !all.Empty() {
		t.Errorf("empty: matches %v, empty %v, %v", all.Matches(nil), all.Empty(), err)
	}
}

func TestALabelSelectorIsWrittenAsUsersWriteIt(t *testing.T) {
	s, err := SelectorOf(&v1.LabelSelector{
		MatchLabels: map[string]string{"tier": "front", "app": "web"},
		MatchExpressions: []*v1.LabelSelectorRequirement{
			{Key: "zone", Operator: "In", Values: []string{"b", "a"}},
			{Key: "old", Operator: "DoesNotExist"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "app=web,!old,tier=front,zone in (a,b)"; s.String() != want {
		t.Errorf("got %s, want %s", s, want)
	}
	if _, err := SelectorOf(&v1.LabelSelector{MatchExpressions: []*v1.LabelSelectorRequirement{{Key: "a", Operator: "Gt", Values: []string{"1"}}}}); err == nil {
		t.Error("an object's selector has no operator Gt")
	}
}

// checkSelector fails where what is read from s is not what is read from its
// own text.
func checkSelector(t interface {
	Fatalf(format string, args ...any)
}, text string, labels map[string]string,
) {
	s, err := ParseSelector(text)
	if err != nil {
		return
	}
	again, err := ParseSelector(s.String())
	if err != nil || again.String() != s.String() || again.Matches(labels) != s.Matches(labels) {
		t.Fatalf("%q is written %q, which reads as %q, %v", text, s, again, err)
	}
}

func TestSelectorsReadBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`(!?[ab]|[ab] ?(=|==|!=)[ab]?|[ab] (in|notin) \([ab]?(,[ab]?){0,2}\)|[ab][<>][0-9])(,([ab]|[ab]=[ab]))?`).Draw(t, "selector")
		labels := rapid.MapOf(rapid.SampledFrom([]string{"a", "b"}), rapid.SampledFrom([]string{"", "a", "b", "5"})).Draw(t, "labels")
		checkSelector(t, text, labels)
	})
}

func FuzzSelector(f *testing.F) {
	for _, s := range []string{"", "a=b", "a in (b,c),!d", "a notin ()", "x.io/y!=z", "a>1,b<2", "in in (in)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkSelector(t, s, map[string]string{"a": "b", "in": "in"}) })
}

func TestFieldSelectorsChooseByFields(t *testing.T) {
	pod := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: "web-1", Namespace: "shop"},
		Spec:     &v1.PodSpec{NodeName: "node-1"},
		Status:   &v1.PodStatus{Phase: PodRunning},
	}
	event := &v1.Event{
		Metadata:       &v1.ObjectMeta{Name: "e"},
		InvolvedObject: &v1.ObjectReference{Kind: "Pod", Name: "web-1", Uid: "u"},
		Type:           EventWarning, ReportingComponent: "scheduler",
	}
	node := &v1.Node{Spec: &v1.NodeSpec{Unschedulable: true}}
	for _, tt := range []struct {
		name, selector string
		object         Object
		want           bool
	}{
		{"the empty selector chooses everything", "", pod, true},
		{"a pod by its node", "spec.nodeName=node-1", pod, true},
		{"a pod by name and phase", "metadata.name==web-1,status.phase!=Running", pod, false},
		{"a pod without a node", "spec.nodeName=", pod, false},
		{"an event by its object", "involvedObject.kind=Pod,involvedObject.uid=u", event, true},
		{"an event by its type", "type!=Normal", event, true},
		{"an event's source may be its reporting component", "source=scheduler", event, true},
		{"a cordoned node", "spec.unschedulable=true", node, true},
		{"a backslash protects a sign", `metadata.name=a\,b\=c`, &v1.Node{Metadata: &v1.ObjectMeta{Name: "a,b=c"}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseFieldSelector(KindOf(tt.object), tt.selector)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Matches(tt.object); got != tt.want {
				t.Errorf("%q matches: %v, want %v", tt.selector, got, tt.want)
			}
			again, err := ParseFieldSelector(KindOf(tt.object), s.String())
			if err != nil || again.String() != s.String() {
				t.Errorf("%q reads back as %q, %v", s, again, err)
			}
		})
	}
}

func TestFieldSelectorsOfOtherFieldsAreRefused(t *testing.T) {
	for _, tt := range []struct{ kind, in string }{
		{"Pod", "spec.foo=1"},
		{"Node", "metadata.namespace=a"},
		{"Node", "spec.nodeName=a"},
		{"Pod", "metadata.name"},
		{"Pod", "metadata.name=a=b"},
		{"Pod", `metadata.name=a\b`},
	} {
		if _, err := ParseFieldSelector(KindByName(tt.kind), tt.in); err == nil {
			t.Errorf("%s has no field selector %q", tt.kind, tt.in)
		}
	}
}

func TestAFieldSelectorKnowsWhichValueItRequires(t *testing.T) {
	s, err := ParseFieldSelector(KindByName("Pod"), "spec.nodeName=node-1,status.phase!=Failed")
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := s.RequiresExact("spec.nodeName"); !ok || v != "node-1" {
		t.Errorf("spec.nodeName: %q, %v", v, ok)
	}
	if _, ok := s.RequiresExact("status.phase"); ok {
		t.Error("status.phase may have many values")
	}
}
