package conformance

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Few words, so that selectors meet labels.
var word = rapid.SampledFrom([]string{"app", "tier", "example.com/role", "a", "b", "web", "1", "Web_2.x"})

func drawLabels(t *rapid.T) map[string]string {
	return rapid.MapOfN(word, rapid.OneOf(word, rapid.Just("")), 0, 4).Draw(t, "labels")
}

// selectorText draws what is, or nearly is, a label selector.
func selectorText(t *rapid.T) string {
	part := rapid.Custom(func(t *rapid.T) string {
		token := rapid.OneOf(word, rapid.SampledFrom([]string{
			"=", "==", "!=", "!", " in ", " notin ", "in", "notin", "(", ")", ",", " ", ">", "<", "a/b/c", "-x", "ä", "",
		}))
		key, values := word.Draw(t, "key"), strings.Join(rapid.SliceOfN(word, 0, 3).Draw(t, "values"), ", ")
		switch rapid.IntRange(0, 7).Draw(t, "form") {
		case 0:
			return key
		case 1:
			return "!" + key
		case 2:
			return key + rapid.SampledFrom([]string{"=", "==", " == ", "!=", " != "}).Draw(t, "operator") + word.Draw(t, "value")
		case 3:
			return key + "="
		case 4:
			return key + " in (" + values + ")"
		case 5:
			return key + " notin (" + values + ")"
		}
		return strings.Join(rapid.SliceOfN(token, 0, 6).Draw(t, "tokens"), "")
	})
	return strings.Join(rapid.SliceOfN(part, 0, 3).Draw(t, "parts"), ",")
}

func TestSelectorsAgreeWithKubernetes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := selectorText(t)
		theirs, theirErr := labels.Parse(text)
		ours, ourErr := api.ParseSelector(text)
		if (theirErr == nil) != (ourErr == nil) {
			if ourErr != nil && strings.ContainsAny(text, "<>") {
				return // comparisons of numbers are not implemented
			}
			t.Fatalf("%q: Kubernetes says %v, Orch says %v", text, theirErr, ourErr)
		}
		if ourErr != nil {
			return
		}
		for range 5 {
			set := drawLabels(t)
			if got, want := ours.Matches(set), theirs.Matches(labels.Set(set)); got != want {
				t.Errorf("%q matches %v: %t, want %t", text, set, got, want)
			}
		}
		if got, want := ours.Empty(), theirs.Empty(); got != want {
			t.Errorf("%q is empty: %t, want %t", text, got, want)
		}
		again, err := labels.Parse(ours.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := requirements(again), requirements(theirs); !slices.Equal(got, want) {
			t.Errorf("%q: Orch writes %q, Kubernetes %q", text, got, want)
		}
	})
}

// requirements are the parts of a selector in an order of their own:
// Kubernetes' is left open where a key comes twice.
func requirements(s labels.Selector) []string {
	var texts []string
	parts, _ := s.Requirements()
	for _, r := range parts {
		texts = append(texts, r.String())
	}
	slices.Sort(texts)
	return texts
}

func TestLabelSelectorsAgreeWithKubernetes(t *testing.T) {
	operator := rapid.SampledFrom([]string{"In", "NotIn", "Exists", "DoesNotExist", "Is"})
	rapid.Check(t, func(t *rapid.T) {
		var theirs *metav1.LabelSelector
		var ours *v1.LabelSelector
		if rapid.Bool().Draw(t, "set") {
			theirs = &metav1.LabelSelector{MatchLabels: drawLabels(t)}
			ours = &v1.LabelSelector{MatchLabels: theirs.MatchLabels}
			for range rapid.IntRange(0, 2).Draw(t, "expressions") {
				key, op, values := word.Draw(t, "key"), operator.Draw(t, "operator"), rapid.SliceOfN(word, 0, 2).Draw(t, "values")
				theirs.MatchExpressions = append(theirs.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOperator(op), Values: values})
				ours.MatchExpressions = append(ours.MatchExpressions, &v1.LabelSelectorRequirement{Key: key, Operator: op, Values: values})
			}
		}
		a, theirErr := metav1.LabelSelectorAsSelector(theirs)
		b, ourErr := api.SelectorOf(ours)
		if (theirErr == nil) != (ourErr == nil) {
			t.Fatalf("%v: Kubernetes says %v, Orch says %v", theirs, theirErr, ourErr)
		}
		if ourErr != nil {
			return
		}
		for range 5 {
			set := drawLabels(t)
			if got, want := b.Matches(set), a.Matches(labels.Set(set)); got != want {
				t.Errorf("%v matches %v: %t, want %t", theirs, set, got, want)
			}
		}
	})
}
