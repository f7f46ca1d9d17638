package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "orch/proto/v1"
)

// Selector chooses objects by their labels. The zero value matches everything.
//
// Concurrency: a Selector is read-only once made.
type Selector struct {
	requirements []requirement
	nothing      bool
}

// requirement is one condition on one label.
type requirement struct {
	key    string
	op     string   // one of the operators below
	values []string // sorted; one for = and !=, none for exists
}

// Operators of a requirement, as a selector writes them.
const (
	opEquals       = "="
	opDoubleEquals = "=="
	opNotEquals    = "!="
	opIn           = "in"
	opNotIn        = "notin"
	opExists       = "exists"
	opNotExists    = "!"
	opGreater      = ">"
	opLess         = "<"
)

// SelectorOf returns the selector that an object holds. As in Kubernetes a nil
// one matches nothing and an empty one matches everything.
func SelectorOf(ls *v1.LabelSelector) (Selector, error) {
	if ls == nil {
		return Selector{nothing: true}, nil
	}
	var s Selector
	for k, v := range ls.GetMatchLabels() {
		s.requirements = append(s.requirements, requirement{k, opEquals, []string{v}})
	}
	for _, e := range ls.GetMatchExpressions() {
		op, ok := map[string]string{"In": opIn, "NotIn": opNotIn, "Exists": opExists, "DoesNotExist": opNotExists}[e.GetOperator()]
		if !ok {
			return Selector{}, fmt.Errorf("%q is not a valid label selector operator", e.GetOperator())
		}
		s.requirements = append(s.requirements, requirement{e.GetKey(), op, slices.Sorted(slices.Values(e.GetValues()))})
	}
	for _, r := range s.requirements {
		if err := r.check(); err != nil {
			return Selector{}, err
		}
	}
	s.sort()
	return s, nil
}

// Matches says whether an object with these labels is chosen.
func (s Selector) Matches(labels map[string]string) bool {
	if s.nothing {
		return false
	}
	for _, r := range s.requirements {
		if !r.matches(labels) {
			return false
		}
	}
	return true
}

// Empty says whether the selector chooses everything.
func (s Selector) Empty() bool { return !s.nothing && len(s.requirements) == 0 }

// String is the selector as [ParseSelector] reads it. The one that matches
// nothing has no such form and is empty.
func (s Selector) String() string {
	parts := make([]string, len(s.requirements))
	for i, r := range s.requirements {
		parts[i] = r.String()
	}
	return strings.Join(parts, ",")
}

// AsLabelSelector is the selector as an object holds it; ok is false where it
// compares numbers, which no object can.
func (s Selector) AsLabelSelector() (l *v1.LabelSelector, ok bool) {
	l = &v1.LabelSelector{}
	operators := map[string]string{opIn: "In", opNotIn: "NotIn", opNotEquals: "NotIn", opExists: "Exists", opNotExists: "DoesNotExist"}
	for _, r := range s.requirements {
		operator, known := operators[r.op]
		switch {
		case r.op == opEquals || r.op == opDoubleEquals:
			operator = "In"
		case !known:
			return nil, false
		}
		l.MatchExpressions = append(l.MatchExpressions, &v1.LabelSelectorRequirement{Key: r.key, Operator: operator, Values: r.values})
	}
	return l, !s.nothing
}

// sort orders by key, so that equal selectors are written alike.
func (s *Selector) sort() {
	slices.SortStableFunc(s.requirements, func(a, b requirement) int {
		if c := strings.Compare(a.key, b.key); c != 0 {
			return c
		}
		return strings.Compare(a.String(), b.String())
	})
}

// matches follows Kubernetes: a label that is not there satisfies != and notin.
func (r requirement) matches(labels map[string]string) bool {
	value, has := labels[r.key]
	switch r.op {
	case opExists:
		return has
	case opNotExists:
		return !has
	case opEquals, opDoubleEquals, opIn:
		return has && slices.Contains(r.values, value)
	case opNotEquals, opNotIn:
		return !has || !slices.Contains(r.values, value)
	}
	have, err := strconv.ParseInt(value, 10, 64)
	if !has || err != nil {
		return false
	}
	bound, _ := strconv.ParseInt(r.values[0], 10, 64) // check has seen that it is one
	return r.op == opGreater && have > bound || r.op == opLess && have < bound
}

func (r requirement) String() string {
	switch r.op {
	case opExists:
		return r.key
	case opNotExists:
		return "!" + r.key
	case opIn, opNotIn:
		return r.key + " " + r.op + " (" + strings.Join(r.values, ",") + ")"
	}
	return r.key + r.op + r.values[0]
}

// check says what is wrong with key or values.
func (r requirement) check() error {
	if msgs := qualifiedName(r.key); len(msgs) > 0 {
		return fmt.Errorf("invalid label key %q: %s", r.key, strings.Join(msgs, "; "))
	}
	switch r.op {
	case opIn, opNotIn:
		if len(r.values) == 0 {
			return fmt.Errorf("label %q: for 'in', 'notin' operators, values set can't be empty", r.key)
		}
	case opExists, opNotExists:
		if len(r.values) != 0 {
			return fmt.Errorf("label %q: values set must be empty for exists and does not exist", r.key)
		}
	case opGreater, opLess:
		if _, err := strconv.ParseInt(r.values[0], 10, 64); err != nil {
			return fmt.Errorf("label %q: for 'Gt', 'Lt' operators, the value must be an integer", r.key)
		}
	}
	for _, v := range r.values {
		if msgs := labelValue(v); len(msgs) > 0 {
			return fmt.Errorf("invalid label value %q of key %q: %s", v, r.key, strings.Join(msgs, "; "))
		}
	}
	return nil
}

// ParseSelector reads a selector as `orchctl -l` takes it, such as
// "app=web,tier in (a,b),!canary". The empty text matches everything.
func ParseSelector(text string) (Selector, error) {
	p := selectorParser{rest: text}
	s, err := p.selector()
	if err != nil {
		return Selector{}, fmt.Errorf("unable to parse requirement: %w", err)
	}
	s.sort()
	return s, nil
}

// selectorParser reads a selector from left to right, one token ahead.
type selectorParser struct{ rest string }

func (p *selectorParser) selector() (Selector, error) {
	var s Selector
	if p.peek() == "" {
		return s, nil
	}
	for {
		r, err := p.requirement()
		if err == nil {
			err = r.check()
		}
		if err != nil {
			return Selector{}, err
		}
		s.requirements = append(s.requirements, r)
		switch t := p.next(); t {
		case "":
			return s, nil
		case ",":
		default:
			return Selector{}, fmt.Errorf("found '%s', expected: ',' or 'end of string'", t)
		}
	}
}

func (p *selectorParser) requirement() (requirement, error) {
	r := requirement{op: opExists}
	r.key = p.next()
	if r.key == "!" {
		r.op, r.key = opNotExists, p.next()
	}
	if !isWord(r.key) {
		return r, fmt.Errorf("found '%s', expected: identifier", r.key)
	}
	if t := p.peek(); t == "" || t == "," || r.op == opNotExists {
		return r, nil
	}
	switch r.op = p.next(); r.op {
	case opIn, opNotIn:
		var err error
		r.values, err = p.values()
		return r, err
	case opEquals, opDoubleEquals, opNotEquals, opGreater, opLess:
		value := ""
		if t := p.peek(); t != "" && t != "," {
			value = p.next()
			if !isWord(value) {
				return r, fmt.Errorf("found '%s', expected: identifier", value)
			}
		}
		r.values = []string{value}
		return r, nil
	}
	return r, fmt.Errorf("found '%s', expected: in, notin, =, ==, !=, gt, lt", r.op)
}

// values reads "(a,b)". Nothing between two commas is the empty value.
// (Kubernetes' parser trips over two commas before the parenthesis, as in
// "(a,,)"; in all else that was tried the two agree.)
func (p *selectorParser) values() ([]string, error) {
	if t := p.next(); t != "(" {
		return nil, fmt.Errorf("found '%s' expected: '('", t)
	}
	var values []string
	value := ""
	for {
		switch t := p.next(); {
		case t == ",", t == ")":
			values = append(values, value)
			value = ""
			if t == ")" {
				slices.Sort(values)
				return slices.Compact(values), nil
			}
		case isWord(t) && value == "":
			value = t
		default:
			return nil, fmt.Errorf("found '%s', expected: ',' or ')'", t)
		}
	}
}

// next takes the next token: an operator, a parenthesis, a comma, or a word. At
// the end it is empty.
func (p *selectorParser) next() string {
	t := p.peek()
	p.rest = strings.TrimLeft(p.rest, selectorSpace)[len(t):]
	return t
}

func (p *selectorParser) peek() string {
	s := strings.TrimLeft(p.rest, selectorSpace)
	for _, op := range []string{"==", "!=", "=", "!", "(", ")", ",", ">", "<"} {
		if strings.HasPrefix(s, op) {
			return op
		}
	}
	if end := strings.IndexAny(s, selectorSpecial+selectorSpace); end >= 0 {
		return s[:end]
	}
	return s
}

const (
	selectorSpace   = " \t\r\n"
	selectorSpecial = "=!(),><"
)

// isWord says whether a token can be a key or a value.
func isWord(token string) bool {
	return token != "" && !strings.ContainsAny(token, selectorSpecial)
}
