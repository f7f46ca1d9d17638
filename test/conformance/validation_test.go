package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// drawName draws what is, or nearly is, a name.
func drawName(t *rapid.T) string {
	return rapid.OneOf(
		rapid.StringMatching(`[a-z0-9]([-a-z0-9.]{0,5}[a-z0-9])?`),
		rapid.StringMatching(`[-a-zA-Z0-9._/]{0,8}`),
		rapid.Map(rapid.IntRange(60, 260), func(n int) string { return strings.Repeat("a", n) }),
		rapid.String(),
	).Draw(t, "name")
}

func drawNames(t *rapid.T, label string) map[string]string {
	m := map[string]string{}
	for range rapid.IntRange(0, 2).Draw(t, label) {
		m[drawName(t)] = drawName(t)
	}
	return m
}

// wording makes one of two: Kubernetes is changing the words of some sentences,
// and uses the old and the new ones side by side.
var wording = strings.NewReplacer(" bytes", " characters", "a valid label key must", "a qualified name must")

// sentences are what is wrong, one sentence each, without values: Kubernetes
// and Orch show those differently where they have control characters.
func sentences(errs field.ErrorList) []string {
	var s []string
	for _, e := range errs {
		s = append(s, fmt.Sprintf("%s: %s: %s", e.Field, e.Type, wording.Replace(e.Detail)))
	}
	slices.Sort(s)
	return slices.Compact(s)
}

func ourSentences(errs []*v1.FieldError) []string {
	var s []string
	for _, e := range errs {
		kind, detail, _ := strings.Cut(e.GetMessage(), ": ")
		if kind == "Invalid value" || kind == "Duplicate value" {
			_, detail, _ = cutValue(detail)
		}
		s = append(s, fmt.Sprintf("%s: %s: %s", e.GetField(), kind, wording.Replace(detail)))
	}
	slices.Sort(s)
	return slices.Compact(s)
}

// cutValue cuts a value, mostly in quotes, from the detail behind it.
func cutValue(s string) (value, detail string, ok bool) {
	if i := strings.LastIndex(s, `": `); strings.HasPrefix(s, `"`) && i > 0 {
		return s[:i+1], s[i+3:], true
	}
	return strings.Cut(s, ": ")
}

func TestMetadataIsValidatedAsKubernetesDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		theirs := metav1.ObjectMeta{
			Name: drawName(t), Namespace: drawName(t), Labels: drawNames(t, "labels"), Annotations: drawNames(t, "annotations"),
		}
		ours := &v1.ObjectMeta{Name: theirs.Name, Namespace: theirs.Namespace, Labels: theirs.Labels, Annotations: theirs.Annotations}
		if rapid.Bool().Draw(t, "generated") {
			theirs.GenerateName = drawName(t)
			ours.GenerateName = theirs.GenerateName
		}
		for range rapid.IntRange(0, 2).Draw(t, "finalizers") {
			f := rapid.OneOf(rapid.SampledFrom([]string{"orphan", "foregroundDeletion", "example.com/x"}), rapid.Custom(drawName)).Draw(t, "finalizer")
			if f != "" && !strings.Contains(f, "/") && f != "orphan" && f != "foregroundDeletion" {
				continue // Kubernetes' core wants a domain, apimachinery alone does not
			}
			theirs.Finalizers, ours.Finalizers = append(theirs.Finalizers, f), append(ours.Finalizers, f)
		}
		for range rapid.IntRange(0, 2).Draw(t, "owners") {
			controller := rapid.Bool().Draw(t, "controller")
			version, kind := rapid.SampledFrom([]string{"v1", "apps/v1", "", "a/b/c"}).Draw(t, "version"), rapid.SampledFrom([]string{"Pod", "Event", ""}).Draw(t, "kind")
			name, uid := rapid.SampledFrom([]string{"a", ""}).Draw(t, "name"), rapid.SampledFrom([]string{"1", "2", ""}).Draw(t, "uid")
			theirs.OwnerReferences = append(theirs.OwnerReferences, metav1.OwnerReference{APIVersion: version, Kind: kind, Name: name, UID: types.UID(uid), Controller: &controller})
			ours.OwnerReferences = append(ours.OwnerReferences, &v1.OwnerReference{ApiVersion: version, Kind: kind, Name: name, Uid: uid, Controller: &controller})
		}
		want := sentences(apivalidation.ValidateObjectMeta(&theirs, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata")))
		got := ourSentences(api.Validate(&v1.ConfigMap{Metadata: ours}))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v\n-Kubernetes +Orch\n%s", ours, diff)
		}
	})
}

func TestLabelSelectorsAreValidatedAsKubernetesDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		theirs := &metav1.LabelSelector{MatchLabels: drawNames(t, "matchLabels")}
		ours := &v1.LabelSelector{MatchLabels: theirs.MatchLabels}
		for range rapid.IntRange(0, 2).Draw(t, "expressions") {
			key, op := drawName(t), rapid.SampledFrom([]string{"In", "NotIn", "Exists", "DoesNotExist", "Is", ""}).Draw(t, "operator")
			values := rapid.SliceOfN(rapid.Custom(drawName), 0, 2).Draw(t, "values")
			theirs.MatchExpressions = append(theirs.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOperator(op), Values: values})
			ours.MatchExpressions = append(ours.MatchExpressions, &v1.LabelSelectorRequirement{Key: key, Operator: op, Values: values})
		}
		path := field.NewPath("spec", "selector")
		want := sentences(metavalidation.ValidateLabelSelector(theirs, metavalidation.LabelSelectorValidationOptions{}, path))
		var got []string
		for _, s := range ourSentences(api.Validate(&v1.ReplicaSet{Spec: &v1.ReplicaSetSpec{Selector: ours}})) {
			if strings.HasPrefix(s, path.String()+".") {
				got = append(got, s)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v\n-Kubernetes +Orch\n%s", ours, diff)
		}
	})
}

func TestPercentagesAreScaledAsKubernetesDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringMatching(`[0-9]{1,4}%`), rapid.StringMatching(`[0-9]{0,3}%{0,2}`), rapid.String()).Draw(t, "text")
		number := rapid.Int32().Draw(t, "number")
		total, up := rapid.Int32Range(0, 100_000).Draw(t, "total"), rapid.Bool().Draw(t, "up")
		for _, pair := range []struct {
			theirs intstr.IntOrString
			ours   *v1.IntOrString
		}{
			{intstr.FromInt32(number), &v1.IntOrString{Value: &v1.IntOrString_Int{Int: number}}},
			{intstr.FromString(text), &v1.IntOrString{Value: &v1.IntOrString_Str{Str: text}}},
		} {
			want, theirErr := intstr.GetScaledValueFromIntOrPercent(&pair.theirs, int(total), up)
			got, ourErr := api.ScaledValue(pair.ours, total, up)
			if (theirErr == nil) != (ourErr == nil) || theirErr == nil && int(got) != want {
				t.Errorf("%v of %d, up %t: %d, %v, want %d, %v", pair.ours, total, up, got, ourErr, want, theirErr)
			}
		}
	})
}
