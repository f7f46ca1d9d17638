package api

import (
	"regexp"
	"testing"

	"pgregory.net/rapid"
)

// What is looked at byte by byte is what the message says.
func TestSyntaxIsThatOfItsMessage(t *testing.T) {
	for name, rule := range map[string]struct {
		format string
		is     func(string) bool
	}{
		"qualified name": {qualifiedNameFormat, isQualifiedName},
		"label value":    {labelValueFormat, isLabelValue},
		"DNS label":      {dnsLabelFormat, isDNSLabel},
		"DNS subdomain":  {dnsSubdomainFormat, isDNSSubdomain},
	} {
		t.Run(name, func(t *testing.T) {
			want := regexp.MustCompile("^" + rule.format + "$")
			rapid.Check(t, func(t *rapid.T) {
				s := rapid.StringOfN(rapid.SampledFrom([]rune("azAZ09-_./\n é")), 0, 8, -1).Draw(t, "s")
				if rule.is(s) != want.MatchString(s) {
					t.Errorf("%q: %v", s, rule.is(s))
				}
			})
		})
	}
}
