// Package jsonpath is kubectl's JSONPath templates: text with expressions in
// braces, over the trees that encoding/json makes.
//
//	{.items[*].metadata.name}
//	{range .items[*]}{.metadata.name}{"\t"}{.status.phase}{"\n"}{end}
//	{.status.conditions[?(@.type=="Ready")].status}
//	{.metadata.labels.kubernetes\.io/hostname}
//
// The one invariant: a template prints what kubectl prints for it; where kubectl
// walks a Go map, in a fixed order. test/conformance compares the two, so what
// looks odd here (a $ is no root, a text in an expression replaces what was
// found) is odd there. Left out are accidents: a range without {end}, and the
// bytes of a string as its values.
//
// Read next: parse.go, then eval.go.
package jsonpath

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// Template is a parsed template.
//
// Concurrency: a Template is read-only and may be used by several goroutines.
type Template struct {
	nodes []node
}

// Parse reads a template. Fields that the data does not have print nothing, as
// kubectl's default is.
func Parse(template string) (*Template, error) {
	p := parser{text: template}
	nodes, err := p.template(0)
	if err != nil {
		return nil, err
	}
	return &Template{nodes: nodes}, nil
}

var relaxed = regexp.MustCompile(`^(?:\{\.?([^{}]+)\}|\.?([^{}]+))$`)

// ParseRelaxed reads one expression whose braces and first dot may be left out,
// as custom-columns, --sort-by and wait take it: "metadata.name",
// ".metadata.name", "{.metadata.name}".
func ParseRelaxed(path string) (*Template, error) {
	parts := relaxed.FindStringSubmatch(path)
	if parts == nil {
		return nil, errors.New("unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'")
	}
	return Parse("{." + parts[1] + parts[2] + "}")
}

// Execute prints the template's text with what its expressions find: strings as
// they are, objects and lists as JSON, several values with a space between. On
// an error nothing is printed.
func (t *Template) Execute(w io.Writer, data any) error {
	var b bytes.Buffer
	if err := t.print(&b, t.nodes, data); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (t *Template) print(b *bytes.Buffer, nodes []node, data any) error {
	for _, n := range nodes {
		found, err := evaluate(n.steps, []any{data})
		if err != nil {
			return err
		}
		for i, v := range found {
			switch {
			case n.isRange:
				err = t.print(b, n.body, v)
			case i > 0:
				b.WriteByte(' ')
				fallthrough
			default:
				err = printValue(b, v)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func printValue(b *bytes.Buffer, v any) error {
	switch v.(type) {
	case nil, map[string]any, []any:
		data, err := json.Marshal(v)
		b.Write(data)
		return err
	}
	fmt.Fprint(b, v)
	return nil
}

// Find returns the values that the template's expressions find, in order, and
// no text.
func (t *Template) Find(data any) ([]any, error) {
	return t.find(t.nodes, data)
}

func (t *Template) find(nodes []node, data any) ([]any, error) {
	var all []any
	for _, n := range nodes {
		if n.isText {
			continue
		}
		found, err := evaluate(n.steps, []any{data})
		if err != nil {
			return nil, err
		}
		if !n.isRange {
			all = append(all, found...)
			continue
		}
		for _, v := range found {
			inner, err := t.find(n.body, v)
			if err != nil {
				return nil, err
			}
			all = append(all, inner...)
		}
	}
	return all, nil
}
