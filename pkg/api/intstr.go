package api

import (
	"errors"
	"math"
	"strconv"
	"strings"

	v1 "orch/proto/v1"
)

// ScaledValue returns what v means of a total: a number is itself, "25%" is its
// share, rounded up or down as asked. A nil v is an error, as is a text that is
// no percentage.
func ScaledValue(v *v1.IntOrString, total int32, roundUp bool) (int32, error) {
	switch x := v.GetValue().(type) {
	case *v1.IntOrString_Int:
		return x.Int, nil
	case *v1.IntOrString_Str:
		digits, ok := strings.CutSuffix(x.Str, "%")
		percent, err := strconv.ParseInt(digits, 10, 32)
		if !ok || err != nil {
			return 0, errors.New("invalid value for IntOrString: " + strconv.Quote(x.Str) + " is not a percentage")
		}
		share := percent * int64(total)
		if roundUp {
			share += 99
		}
		return int32(max(math.MinInt32, min(math.MaxInt32, share/100))), nil
	}
	return 0, errors.New("nil value for IntOrString")
}

// ParseIntOrString returns a number where s is one that fits int32, and a text
// otherwise.
func ParseIntOrString(s string) *v1.IntOrString {
	if i, err := strconv.ParseInt(s, 10, 32); err == nil {
		return &v1.IntOrString{Value: &v1.IntOrString_Int{Int: int32(i)}}
	}
	return &v1.IntOrString{Value: &v1.IntOrString_Str{Str: s}}
}

// FormatIntOrString is the inverse of [ParseIntOrString]; nil is empty.
func FormatIntOrString(v *v1.IntOrString) string {
	switch x := v.GetValue().(type) {
	case *v1.IntOrString_Int:
		return strconv.Itoa(int(x.Int))
	case *v1.IntOrString_Str:
		return x.Str
	}
	return ""
}
