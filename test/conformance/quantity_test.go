package conformance

import (
	"math"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"

	"orch/pkg/api"
)

// quantityText draws what is, or nearly is, a quantity.
func quantityText(t *rapid.T) string {
	return rapid.OneOf(
		rapid.StringMatching(`[+-]?[0-9]{1,12}(\.[0-9]{0,12})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,2})?`),
		rapid.StringMatching(`[+-.]{0,2}[0-9.]{0,5}[numkKMGTPEie]{0,3}[+-]?[0-9]{0,2}`),
		rapid.String(),
	).Draw(t, "quantity")
}

// drawQuantity draws a quantity of a size that clusters have, in its canonical
// form: Kubernetes remembers some others as they were written.
func drawQuantity(t *rapid.T) resource.Quantity {
	text := rapid.StringMatching(`-?[0-9]{1,6}(m|k|M|G|Ki|Mi|Gi|e3|e6)?`).Draw(t, "quantity")
	return resource.MustParse(api.MustParseQuantity(text).String())
}

// isNumber reports whether a quantity begins with a number that has digits.
func isNumber(quantity string) bool {
	s := strings.TrimLeft(quantity, "+-.")
	return s != "" && '0' <= s[0] && s[0] <= '9'
}

func TestQuantitiesAgreeWithKubernetes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := quantityText(t)
		theirs, theirErr := resource.ParseQuantity(text)
		ours, ourErr := api.ParseQuantity(text)
		if (theirErr == nil) != (ourErr == nil) {
			if ourErr != nil && !isNumber(text) {
				return // "E3" without a number: there an accident
			}
			t.Fatalf("%q: Kubernetes says %v, Orch says %v", text, theirErr, ourErr)
		}
		if ourErr != nil {
			return
		}
		amount := theirs.DeepCopy()
		if amount.Sign() < 0 {
			amount.Neg()
		}
		if amount.Cmp(resource.MustParse("999E")) > 0 {
			return // beyond the largest suffix: there an accident
		}
		// String would return some texts as they were written.
		number, suffix := theirs.CanonicalizeBytes(nil)
		if got, want := ours.String(), string(number)+string(suffix); got != want {
			t.Errorf("%q: canonical form %q, want %q", text, got, want)
		}
		// Orch holds what does not fit within the range of int64. Kubernetes
		// does not, and gives strange values for some negative amounts: -8568098290
		// for "-100Ti".
		if got, want := ours.Value(), theirs.Value(); got != want && theirs.Sign() > 0 && theirs.CmpInt64(math.MaxInt64) <= 0 {
			t.Errorf("%q: value %d, want %d", text, got, want)
		}
		if got, want := ours.MilliValue(), theirs.MilliValue(); got != want && theirs.Sign() > 0 && theirs.CmpInt64(math.MaxInt64/1000) <= 0 {
			t.Errorf("%q: milli value %d, want %d", text, got, want)
		}
		if got, want := ours.Sign(), theirs.Sign(); got != want {
			t.Errorf("%q: sign %d, want %d", text, got, want)
		}
	})
}

func TestQuantitiesCompareAndAddAsKubernetesDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawQuantity(t), drawQuantity(t)
		x, y := api.MustParseQuantity(a.String()), api.MustParseQuantity(b.String())
		if got, want := x.Cmp(y), a.Cmp(b); got != want {
			t.Errorf("%s and %s compare as %d, want %d", &a, &b, got, want)
		}
		sum, difference := a.DeepCopy(), a.DeepCopy()
		sum.Add(b)
		difference.Sub(b)
		if got, want := x.Add(y).String(), sum.String(); got != want {
			t.Errorf("%s + %s = %s, want %s", &a, &b, got, want)
		}
		if got, want := x.Sub(y).String(), difference.String(); got != want {
			t.Errorf("%s - %s = %s, want %s", &a, &b, got, want)
		}
	})
}
