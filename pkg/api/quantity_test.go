package api

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestQuantitiesAreWrittenInTheirCanonicalForm(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"a whole number stays", "4", "4"},
		{"a fraction becomes thousandths", "0.5", "500m"},
		{"a fraction of a binary suffix becomes the next smaller one", "1.5Gi", "1536Mi"},
		{"thousands take a suffix", "100000", "100k"},
		{"only a whole multiple takes the suffix", "1500", "1500"},
		{"thousandths that make a whole lose their suffix", "2000m", "2"},
		{"less than 1024 has no binary form", "0.5Ki", "512"},
		{"a fraction of a byte has no binary form", "1.0001Ki", "1024102400u"},
		{"an exponent stays an exponent", "12e6", "12e6"},
		{"an exponent becomes a multiple of three", "1e7", "10e6"},
		{"a capital exponent becomes a small one", "1E3", "1e3"},
		{"E without digits is exa", "1E", "1E"},
		{"zero has no suffix", "0Mi", "0"},
		{"a sign is kept", "-1.5", "-1500m"},
		{"a plus is dropped", "+5", "5"},
		{"too fine is rounded away from zero", "0.0000000001", "1n"},
		{"too fine below zero is rounded away from zero", "-0.0000000001", "-1n"},
		{"binary amounts end at the largest int64", "100Ei", "9223372036854775807"},
		{"decimal amounts do not", "1000E", "1000E"},
		{"a point without digits after it is fine", "5.", "5"},
		{"a point without digits before it is fine", ".5", "500m"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := MustParseQuantity(tt.in).String(); got != tt.want {
				t.Errorf("ParseQuantity(%q) = %s, want %s", tt.in, got, tt.want)
			}
		})
	}
}

func TestQuantitiesThatAreNoneAreRefused(t *testing.T) {
	for _, in := range []string{"", " 1", "1 ", "1,5", "1.2.3", "k", "+", ".", "1K", "1mi", "1e", "1e1.5", "1KiB", "--1", "0x10", "1e1001", "1e99999999999", "NaN"} {
		if q, err := ParseQuantity(in); err == nil {
			t.Errorf("ParseQuantity(%q) = %s, want an error", in, q)
		}
	}
}

func TestQuantityValuesAreRoundedAwayFromZeroAndKeptInRange(t *testing.T) {
	for _, tt := range []struct {
		in           string
		value, milli int64
	}{
		{"1500m", 2, 1500},
		{"-1500m", -2, -1500},
		{"1Mi", 1 << 20, 1000 << 20},
		{"1u", 1, 1},
		{"9E", 9e18, math.MaxInt64},
		{"100E", math.MaxInt64, math.MaxInt64},
		{"-100E", math.MinInt64, math.MinInt64},
	} {
		q := MustParseQuantity(tt.in)
		if q.Value() != tt.value || q.MilliValue() != tt.milli {
			t.Errorf("%s is %d and %d thousandths, want %d and %d", tt.in, q.Value(), q.MilliValue(), tt.value, tt.milli)
		}
	}
}

func TestTheZeroQuantityIsZero(t *testing.T) {
	var q Quantity
	if q.String() != "0" || q.Sign() != 0 || q.Value() != 0 || q.Cmp(NewQuantity(0)) != 0 {
		t.Errorf("the zero value is %s", q)
	}
	if got := q.Add(MustParseQuantity("1Mi")).String(); got != "1Mi" {
		t.Errorf("0 + 1Mi = %s, want it in Mi", got)
	}
}

// drawQuantity draws a text that is a quantity.
func drawQuantity(t *rapid.T, label string) string {
	number := rapid.StringMatching(`[+-]?([0-9]{1,20}(\.[0-9]{0,12})?|\.[0-9]{1,12})`).Draw(t, label)
	suffix := rapid.SampledFrom([]string{"", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "e-2", "E4"}).Draw(t, label+"'s suffix")
	return number + suffix
}

func TestQuantityInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q, r := MustParseQuantity(drawQuantity(t, "q")), MustParseQuantity(drawQuantity(t, "r"))
		again, err := ParseQuantity(q.String())
		if err != nil || again.Cmp(q) != 0 {
			t.Fatalf("%s reads back as %s, %v", q, again, err)
		}
		if again.String() != q.String() {
			t.Fatalf("the canonical form %s has itself another: %s", q, again)
		}
		if q.Cmp(r) != -r.Cmp(q) || q.Cmp(r) != q.Sub(r).Sign() {
			t.Fatalf("order of %s and %s", q, r)
		}
		if back := q.Add(r).Sub(r); back.Cmp(q) != 0 {
			t.Fatalf("%s + %s - %s = %s", q, r, r, back)
		}
	})
}

func FuzzQuantity(f *testing.F) {
	for _, s := range []string{"1", "500m", "1.5Gi", "1e3", "-.5n", "1000E", "9999999999999999999Ei", "+", "1e-1000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := ParseQuantity(s)
		if err != nil {
			return
		}
		again, err := ParseQuantity(q.String())
		if err != nil || again.Cmp(q) != 0 || again.String() != q.String() {
			t.Fatalf("%q is written %q, which reads as %s, %v", s, q, again, err)
		}
	})
}
