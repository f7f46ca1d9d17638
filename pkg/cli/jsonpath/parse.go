package jsonpath

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// node is a part of a template: a text, an expression, or a range.
type node struct {
	steps  []step
	isText bool
	// A range repeats its body for each value that its steps find.
	isRange bool
	body    []node
}

// maxDepth bounds how deeply ranges may be nested.
const maxDepth = 100

type parser struct {
	text string
	pos  int
}

// template reads nodes to the end of the text or, inside of a range, to its
// {end}.
func (p *parser) template(depth int) ([]node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("ranges nested more than %d levels deep", maxDepth)
	}
	var nodes []node
	for p.pos < len(p.text) {
		text, _, isOpen := strings.Cut(p.text[p.pos:], "{")
		if p.pos += len(text); text != "" {
			nodes = append(nodes, node{steps: []step{constant{text, true}}, isText: true})
		}
		if !isOpen {
			break
		}
		p.pos++
		steps, word, err := p.expression()
		if err != nil {
			return nil, err
		}
		n := node{steps: steps}
		switch {
		case word == "end" && depth == 0:
			return nil, errors.New("not in range, nothing to end")
		case word == "end":
			return nodes, nil
		case word == "range":
			n.isRange = true
			if n.body, err = p.template(depth + 1); err != nil {
				return nil, err
			}
		}
		nodes = append(nodes, n)
	}
	if depth > 0 {
		return nil, errors.New("range without {end}")
	}
	return nodes, nil
}

// expression reads to the closing brace: the steps, and the keyword range or end
// if it has one.
func (p *parser) expression() (steps []step, word string, err error) {
	for {
		rest := p.text[p.pos:]
		first, _ := utf8.DecodeRuneInString(rest)
		var next []step
		switch {
		case rest == "" || first == '\n' || first == '\r':
			return nil, "", errors.New("unclosed action")
		case first == '}':
			p.pos++
			return steps, word, nil
		case first == ' ' || first == '\t' || first == '@' || first == '$': // the current value
			p.pos++
		case strings.HasPrefix(rest, "[?("):
			next, err = p.filter()
		case first == '[':
			next, err = p.brackets()
		case strings.HasPrefix(rest, ".."):
			next, err = p.descent(steps)
		case first == '.':
			p.pos++
			next = []step{p.field()}
		case first == '"' || first == '\'':
			next, err = p.quoted()
		case first == '+' || first == '-' || unicode.IsDigit(first):
			next, err = p.number()
		case isAlphanumeric(first):
			switch name := p.name(); name {
			case "true", "false":
				next = []step{constant{name == "true", false}}
			case "range", "end":
				word = name
			default:
				err = fmt.Errorf("unrecognized identifier %s", name)
			}
		default:
			err = fmt.Errorf("unrecognized character in action: %q", first)
		}
		if err != nil {
			return nil, "", err
		}
		steps = append(steps, next...)
	}
}

// parseSteps reads an expression that is a part of another.
func parseSteps(text string) ([]step, error) {
	p := parser{text: text + "}"}
	steps, word, err := p.expression()
	if err == nil && word != "" {
		err = fmt.Errorf("%s inside of an expression", word)
	}
	return steps, err
}

// descent reads .. and the name that may follow at once.
func (p *parser) descent(before []step) ([]step, error) {
	if n := len(before); n > 0 {
		if _, ok := before[n-1].(descend); ok {
			return nil, errors.New("invalid multiple recursive descent")
		}
	}
	p.pos += 2
	if r, _ := utf8.DecodeRuneInString(p.text[p.pos:]); isAlphanumeric(r) {
		return []step{descend{}, p.field()}, nil
	}
	return []step{descend{}}, nil
}

func (p *parser) field() step {
	if name := p.name(); name != "*" {
		return field(strings.ReplaceAll(name, `\`, ""))
	}
	return wildcard{}
}

// name reads up to what ends a name; a backslash makes the character behind it
// part of the name.
func (p *parser) name() string {
	start := p.pos
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n.,[]$@{}", p.text[p.pos]) < 0 {
		if p.text[p.pos] == '\\' && p.pos+1 < len(p.text) {
			p.pos++
		}
		p.pos++
	}
	return p.text[start:p.pos]
}

func (p *parser) number() ([]step, error) {
	start := p.pos
	for p.pos++; p.pos < len(p.text) && strings.IndexByte("0123456789.", p.text[p.pos]) >= 0; {
		p.pos++
	}
	text := p.text[start:p.pos]
	if n, err := strconv.Atoi(text); err == nil {
		return []step{constant{int64(n), false}}, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("cannot parse number %s", text)
	}
	return []step{constant{f, false}}, nil
}

// quoted reads a text in single or double quotes, with Go's escapes.
func (p *parser) quoted() ([]step, error) {
	quote := p.text[p.pos]
	rest := p.text[p.pos+1:]
	var b strings.Builder
	for rest != "" && rest[0] != '\n' {
		if rest[0] == quote {
			p.pos = len(p.text) - len(rest) + 1
			return []step{constant{b.String(), true}}, nil
		}
		r, multibyte, tail, err := strconv.UnquoteChar(rest, quote)
		if err != nil {
			return nil, fmt.Errorf("unquote string %s: %w", p.text[p.pos:], err)
		}
		if rest = tail; multibyte {
			b.WriteRune(r)
		} else {
			b.WriteByte(byte(r)) //nolint:gosec // UnquoteChar says that it is one byte
		}
	}
	return nil, errors.New("unterminated quoted string")
}

var (
	dictKey = regexp.MustCompile(`^'([^']*)'$`)
	bounds  = regexp.MustCompile(`^(-?\d*)(:-?\d*)?(:-?\d*)?$`)
)

// brackets reads [*], [1], [-1], [1:3], [::2], ['name'], or several of them with
// commas between.
func (p *parser) brackets() ([]step, error) {
	text, _, ok := strings.Cut(p.text[p.pos+1:], "]")
	if !ok || strings.Contains(text, "\n") {
		return nil, errors.New("unterminated array")
	}
	p.pos += len(text) + 2
	if parts := strings.Split(text, ","); len(parts) > 1 {
		var u union
		for _, part := range parts {
			steps, err := parseSteps("[" + strings.Trim(part, " ") + "]")
			if err != nil {
				return nil, err
			}
			u.of = append(u.of, steps)
		}
		return []step{u}, nil
	}
	if key := dictKey.FindStringSubmatch(text); key != nil {
		return parseSteps("." + key[1])
	}
	if text == "*" {
		text = ":"
	}
	b := bounds.FindStringSubmatch(text)
	if b == nil {
		return nil, fmt.Errorf("invalid array index %s", text)
	}
	s := slice{isIndex: b[2] == "" && b[3] == ""}
	for i, to := range []**int{&s.from, &s.to, &s.step} {
		digits := strings.TrimPrefix(b[i+1], ":")
		if digits == "" {
			continue
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			return nil, fmt.Errorf("array index %s is not a number", digits)
		}
		*to = &n
	}
	return []step{s}, nil
}

var comparison = regexp.MustCompile(`^([^!<>=]+)([!<>=]+)(.+?)$`)

// filter reads [?(LEFT OPERATOR RIGHT)], or [?(LEFT)] for what has LEFT.
func (p *parser) filter() ([]step, error) {
	rest := p.text[p.pos+len("[?("):]
	end, quote := -1, byte(0)
	for i := 0; i < len(rest) && end < 0; i++ {
		switch c := rest[i]; {
		case c == '\n':
			return nil, errors.New("unterminated filter")
		case quote == 0 && c == ')':
			end = i
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote && rest[i-1] != '\\':
			quote = 0
		}
	}
	switch {
	case end < 0:
		return nil, errors.New("unterminated filter")
	case !strings.HasPrefix(rest[end:], ")]"):
		return nil, errors.New("unclosed array expect ]")
	}
	p.pos += len("[?(") + end + len(")]")
	f := filter{}
	left, right := rest[:end], ""
	if parts := comparison.FindStringSubmatch(left); parts != nil {
		left, f.operator, right = parts[1], parts[2], parts[3]
		if compare[f.operator] == nil {
			return nil, fmt.Errorf("unrecognized filter operator %s", f.operator)
		}
	}
	var err error
	if f.left, err = parseSteps(left); err != nil {
		return nil, err
	}
	f.right, err = parseSteps(right)
	return []step{f}, err
}

func isAlphanumeric(r rune) bool {
	return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)
}
