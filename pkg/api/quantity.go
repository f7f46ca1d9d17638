package api

import (
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Quantity is an amount of a resource, exact to a billionth: "500m" of a CPU,
// "128Mi" of memory. It remembers which family of suffixes it was written with
// (decimal "k", binary "Ki" or exponent "e3") and writes itself in that family
// again. The zero value is 0.
//
// Parsing, comparison and the canonical form agree with
// k8s.io/apimachinery/pkg/api/resource, with three exceptions, all of them
// accidents there: a text without any digit ("k", "+") is refused; an exponent
// beyond ±1000 is refused; and a decimal amount above 999E keeps its "E"
// ("1000E", where apimachinery writes "1").
//
// Concurrency: a Quantity is a value and never changes.
type Quantity struct {
	// The amount is n × 10^exp; a nil n is 0. Nobody writes to *n once it is
	// here, because copies share it.
	n      *big.Int
	exp    int32
	format quantityFormat
}

// quantityFormat is a family of suffixes.
type quantityFormat uint8

const (
	decimalSI quantityFormat = iota
	binarySI
	decimalExponent
)

// nano is the finest exponent that a Quantity has; what is finer is rounded
// away from zero, so that who asks for a little does not get nothing.
const nano = -9

// maxExponent bounds the work that a few characters can cause.
const maxExponent = 1000

// Errors of ParseQuantity, in Kubernetes' words.
var (
	errQuantityFormat = errors.New("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
	errQuantitySuffix = errors.New("unable to parse quantity's suffix")
)

// decimalSuffix[i] stands for 10^(3i-9); binarySuffix[i] for 2^(10i).
var (
	decimalSuffix = [...]string{"n", "u", "m", "", "k", "M", "G", "T", "P", "E"}
	binarySuffix  = [...]string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
)

// ParseQuantity reads a quantity such as "1", "0.5", "500m", "1.5Gi" or "2e3".
// Binary quantities above 2^63-1 are cut to that.
func ParseQuantity(s string) (Quantity, error) {
	number, suffix, err := splitQuantity(s)
	if err != nil {
		return Quantity{}, err
	}
	sign := number[:len(number)-len(strings.TrimLeft(number, "+-"))]
	whole, fraction, _ := strings.Cut(number[len(sign):], ".")
	n, ok := new(big.Int).SetString(whole+fraction, 10)
	if !ok {
		return Quantity{}, errQuantityFormat
	}
	format, shift, exp, ok := readSuffix(suffix)
	if !ok {
		return Quantity{}, errQuantitySuffix
	}
	n.Lsh(n, shift)
	q := Quantity{n: n, exp: exp - int32(len(fraction)), format: format}.roundTo(nano)
	if format == binarySI {
		if q.cmpInt(math.MaxInt64) > 0 {
			q.n, q.exp = big.NewInt(math.MaxInt64), 0
		}
		if q.Sign() > 0 && q.cmpInt(1) < 0 {
			q.format = decimalSI
		}
	}
	if sign == "-" {
		q.n = new(big.Int).Neg(q.n)
	}
	return q, nil
}

// splitQuantity cuts s into its number and its suffix: a number is an optional
// sign and digits with at most one point among them; a suffix is letters, an
// optional sign, and digits.
func splitQuantity(s string) (number, suffix string, err error) {
	digits, points, i := 0, 0, 0
	if s != "" && (s[0] == '+' || s[0] == '-') {
		i++
	}
	for ; i < len(s) && points < 2; i++ {
		if s[i] == '.' {
			points++
		} else if '0' <= s[i] && s[i] <= '9' {
			digits++
		} else {
			break
		}
	}
	number, suffix = s[:i], s[i:]
	rest := strings.TrimLeft(suffix, "eEinumkKMGTP")
	if rest != "" && (rest[0] == '+' || rest[0] == '-') {
		rest = rest[1:]
	}
	if digits == 0 || points > 1 || strings.Trim(rest, "0123456789") != "" {
		return "", "", errQuantityFormat
	}
	return number, suffix, nil
}

// readSuffix says what a suffix multiplies with: 2^shift × 10^exp.
func readSuffix(s string) (format quantityFormat, shift uint, exp int32, ok bool) {
	for i, known := range decimalSuffix {
		if s == known {
			return decimalSI, 0, int32(3*i + nano), true
		}
	}
	for i, known := range binarySuffix {
		if s == known {
			return binarySI, uint(10 * i), 0, true
		}
	}
	if s[0] == 'e' || s[0] == 'E' {
		e, err := strconv.ParseInt(s[1:], 10, 32)
		return decimalExponent, 0, int32(e), err == nil && -maxExponent <= e && e <= maxExponent
	}
	return 0, 0, 0, false
}

// MustParseQuantity is [ParseQuantity] for constants; it panics on an error.
func MustParseQuantity(s string) Quantity {
	q, err := ParseQuantity(s)
	if err != nil {
		panic("api: " + strconv.Quote(s) + ": " + err.Error())
	}
	return q
}

// NewQuantity returns v units, written with decimal suffixes.
func NewQuantity(v int64) Quantity { return Quantity{n: big.NewInt(v)} }

// NewMilliQuantity returns v thousandths, written with decimal suffixes.
func NewMilliQuantity(v int64) Quantity { return Quantity{n: big.NewInt(v), exp: -3} }

// NewBinaryQuantity returns v units, written with binary suffixes.
func NewBinaryQuantity(v int64) Quantity { return Quantity{n: big.NewInt(v), format: binarySI} }

// Value returns the amount in whole units, rounded away from zero and held
// within int64.
func (q Quantity) Value() int64 { return q.scaled(0) }

// MilliValue returns the amount in thousandths, rounded away from zero and held
// within int64.
func (q Quantity) MilliValue() int64 { return q.scaled(-3) }

// Sign is -1, 0 or 1.
func (q Quantity) Sign() int { return q.int().Sign() }

// Cmp is -1 where q is less than r, 0 where they are equal, 1 where it is more.
func (q Quantity) Cmp(r Quantity) int {
	a, b, _ := align(q, r)
	return a.Cmp(b)
}

// Add returns q + r, in q's family of suffixes; in r's, where q is 0.
func (q Quantity) Add(r Quantity) Quantity {
	a, b, exp := align(q, r)
	return Quantity{n: new(big.Int).Add(a, b), exp: exp, format: q.formatWith(r)}
}

// Sub returns q - r, in q's family of suffixes; in r's, where q is 0.
func (q Quantity) Sub(r Quantity) Quantity {
	a, b, exp := align(q, r)
	return Quantity{n: new(big.Int).Sub(a, b), exp: exp, format: q.formatWith(r)}
}

// String is the canonical form: no fraction, and the largest suffix that loses
// nothing. What is below 1024 or no whole number has no binary form and is
// written with a decimal suffix.
func (q Quantity) String() string {
	if q.Sign() == 0 {
		return "0"
	}
	if q.format == binarySI && (q.cmpInt(-1024) <= 0 || q.cmpInt(1024) >= 0) {
		if whole := q.roundTo(0); whole.Cmp(q) == 0 {
			n, i := divideOut(whole.times10(whole.exp), 1024, len(binarySuffix)-1)
			return n.String() + binarySuffix[i]
		}
	}
	n, zeros := divideOut(q.int(), 10, math.MaxInt)
	exp := int(q.exp) + zeros
	largest := exp
	if q.format != decimalExponent {
		largest = min(exp, 18)
	}
	// Down to a multiple of three; % keeps the sign in Go.
	largest -= (largest%3 + 3) % 3
	n = Quantity{n: n}.times10(int32(exp - largest))
	switch {
	case q.format != decimalExponent:
		return n.String() + decimalSuffix[(largest-nano)/3]
	case largest == 0:
		return n.String()
	}
	return n.String() + "e" + strconv.Itoa(largest)
}

// int returns the mantissa, which is not to be written to.
func (q Quantity) int() *big.Int {
	if q.n == nil {
		return new(big.Int)
	}
	return q.n
}

func (q Quantity) cmpInt(v int64) int { return q.Cmp(NewQuantity(v)) }

func (q Quantity) formatWith(r Quantity) quantityFormat {
	if q.Sign() == 0 {
		return r.format
	}
	return q.format
}

// times10 returns the mantissa × 10^by; by is not negative.
func (q Quantity) times10(by int32) *big.Int {
	if by == 0 {
		return q.int()
	}
	return new(big.Int).Mul(q.int(), power10(by))
}

// roundTo returns q with an exponent of at least exp, rounded away from zero.
func (q Quantity) roundTo(exp int32) Quantity {
	if q.exp >= exp {
		return q
	}
	n, rest := new(big.Int).QuoRem(q.int(), power10(exp-q.exp), new(big.Int))
	n.Add(n, big.NewInt(int64(rest.Sign())))
	return Quantity{n: n, exp: exp, format: q.format}
}

// scaled returns q in units of 10^exp.
func (q Quantity) scaled(exp int32) int64 {
	q = q.roundTo(exp)
	n := q.times10(q.exp - exp)
	switch {
	case n.IsInt64():
		return n.Int64()
	case n.Sign() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}

// align returns the mantissas of both at their smaller exponent.
func align(q, r Quantity) (a, b *big.Int, exp int32) {
	exp = min(q.exp, r.exp)
	return q.times10(q.exp - exp), r.times10(r.exp - exp), exp
}

// divideOut divides n by factor as often as that leaves no rest, at most limit
// times.
func divideOut(n *big.Int, factor int64, limit int) (result *big.Int, times int) {
	f, rest := big.NewInt(factor), new(big.Int)
	for times < limit && n.Sign() != 0 {
		next, rest := new(big.Int).QuoRem(n, f, rest)
		if rest.Sign() != 0 {
			break
		}
		n = next
		times++
	}
	return n, times
}

func power10(n int32) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}
