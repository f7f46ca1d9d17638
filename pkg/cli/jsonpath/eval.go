package jsonpath

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// step turns the values that the path has reached into those that it reaches
// next.
type step interface {
	walk(in []any) ([]any, error)
}

func evaluate(steps []step, values []any) ([]any, error) {
	for _, s := range steps {
		var err error
		if values, err = s.walk(values); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// constant takes the place of each value; a text takes that of all.
type constant struct {
	value  any
	isText bool
}

func (s constant) walk(in []any) ([]any, error) {
	if s.isText {
		return []any{s.value}, nil
	}
	return slices.Repeat([]any{s.value}, len(in)), nil
}

// field is the value of a name in an object.
type field string

func (s field) walk(in []any) ([]any, error) {
	var out []any
	for _, v := range in {
		if m, ok := v.(map[string]any); ok {
			if f, ok := m[string(s)]; ok {
				out = append(out, f)
			}
		}
	}
	return out, nil
}

// wildcard is all elements of a list, or all values of an object.
type wildcard struct{}

func (wildcard) walk(in []any) ([]any, error) {
	var out []any
	for _, v := range in {
		out = append(out, children(v)...)
	}
	return out, nil
}

// children are the elements of a list, or the values of an object in the order
// of their names.
func children(v any) []any {
	switch v := v.(type) {
	case []any:
		return v
	case map[string]any:
		values := make([]any, 0, len(v))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			values = append(values, v[name])
		}
		return values
	}
	return nil
}

// descend is every value that has values, at any depth.
type descend struct{}

func (s descend) walk(in []any) ([]any, error) {
	var out []any
	for _, v := range in {
		if c := children(v); len(c) > 0 {
			below, err := s.walk(c)
			if err != nil {
				return nil, err
			}
			out = append(append(out, v), below...)
		}
	}
	return out, nil
}

// union is what each of several paths finds, one after the other.
type union struct{ of [][]step }

func (s union) walk(in []any) ([]any, error) {
	var out []any
	for _, steps := range s.of {
		found, err := evaluate(steps, in)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// slice is a part of a list, like Go's but with a step, and with negative
// numbers counted from the end; nil is as far as the list goes.
type slice struct {
	from, to, step *int
	// isIndex asks for the one element at from.
	isIndex bool
}

func (s slice) walk(in []any) ([]any, error) {
	step := 1
	if s.step != nil {
		step = *s.step
	}
	if step <= 0 {
		return nil, errors.New("step must be > 0")
	}
	var out []any
	for _, v := range in {
		if v == nil {
			continue
		}
		list, ok := v.([]any)
		if !ok {
			return nil, fmt.Errorf("%s is not array or slice", typeOf(v))
		}
		from, to := 0, len(list)
		if s.from != nil {
			from = fromEnd(*s.from, len(list))
		}
		switch {
		case s.isIndex:
			to = from + 1
		case s.to != nil:
			to = fromEnd(*s.to, len(list))
		}
		switch {
		case from == to:
			continue
		case from < 0 || from >= len(list):
			return nil, fmt.Errorf("array index out of bounds: index %d, length %d", from, len(list))
		case to < 0 || to > len(list):
			return nil, fmt.Errorf("array index out of bounds: index %d, length %d", to-1, len(list))
		case from > to:
			return nil, fmt.Errorf("starting index %d is greater than ending index %d", from, to)
		}
		for i := from; i < to; i += step {
			out = append(out, list[i])
		}
	}
	return out, nil
}

func fromEnd(i, length int) int {
	if i < 0 {
		return i + length
	}
	return i
}

// filter is those elements of a list for which a comparison is true or, without
// an operator, which have what left names.
type filter struct {
	left, right []step
	operator    string
}

func (s filter) walk(in []any) ([]any, error) {
	var out []any
	for _, v := range in {
		list, ok := v.([]any)
		if !ok {
			return nil, fmt.Errorf("%s is not array or slice and cannot be filtered", typeOf(v))
		}
		for _, e := range list {
			pass, err := s.pass(e)
			if err != nil {
				return nil, err
			}
			if pass {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

func (s filter) pass(e any) (bool, error) {
	if s.operator == "" {
		left, err := evaluate(s.left, []any{e})
		return err == nil && len(left) > 0, nil //nolint:nilerr // what cannot be found does not exist
	}
	var sides [2]any
	for i, steps := range [][]step{s.left, s.right} {
		found, err := evaluate(steps, []any{e})
		switch {
		case err != nil:
			return false, err
		case len(found) == 0:
			return false, nil
		case len(found) > 1:
			return false, errors.New("can only compare one element at a time")
		}
		sides[i] = found[0]
	}
	order, err := orderOf(sides[0], sides[1])
	if err != nil {
		return false, err
	}
	if _, isBool := sides[0].(bool); isBool && s.operator != "==" && s.operator != "!=" {
		return false, errors.New("invalid type for comparison")
	}
	return compare[s.operator](order), nil
}

// compare says for each operator whether it holds for the order of its operands.
var compare = map[string]func(order int) bool{
	"==": func(order int) bool { return order == 0 },
	"!=": func(order int) bool { return order != 0 },
	"<":  func(order int) bool { return order < 0 },
	"<=": func(order int) bool { return order <= 0 },
	">":  func(order int) bool { return order > 0 },
	">=": func(order int) bool { return order >= 0 },
}

// orderOf compares two values of one type. Numbers are one type, whether they
// have a fraction or not; in kubectl they are two.
func orderOf(a, b any) (int, error) {
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return cmp.Compare(x, y), nil
		}
	case bool:
		if y, ok := b.(bool); ok {
			if x == y {
				return 0, nil
			}
			return 1, nil
		}
	case int64:
		if y, ok := b.(int64); ok {
			return cmp.Compare(x, y), nil
		}
	}
	x, isNumber := number(a)
	y, isToo := number(b)
	if !isNumber || !isToo {
		return 0, fmt.Errorf("incompatible types for comparison: %s and %s", typeOf(a), typeOf(b))
	}
	return cmp.Compare(x, y), nil
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int64:
		return float64(n), true
	case int:
		return float64(n), true
	}
	return 0, false
}

// typeOf names a value's type in JSON's words.
func typeOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case []any:
		return "list"
	case map[string]any:
		return "object"
	}
	return "number"
}
