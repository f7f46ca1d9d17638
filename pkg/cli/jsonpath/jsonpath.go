// Package jsonpath is kubectl's JSONPath templates, by kubectl's own library: text
// with expressions in braces, over the trees that encoding/json makes.
//
//	{.items[*].metadata.name}
//	{range .items[*]}{.metadata.name}{"\t"}{.status.phase}{"\n"}{end}
//	{.status.conditions[?(@.type=="Ready")].status}
//	{.metadata.labels.kubernetes\.io/hostname}
//
// The one invariant: a template prints what kubectl prints for it, as often as it is
// executed. (The library forgets what follows a range, so it reads the text anew each
// time.)
package jsonpath

import (
	"errors"
	"fmt"
	"io"
	"regexp"

	"k8s.io/client-go/util/jsonpath"
)

// Template is a template that was understood.
//
// Concurrency: a Template is read-only and may be used by several goroutines.
type Template struct {
	text string
}

// Parse reads a template. Fields that the data does not have print nothing, as
// kubectl's default is.
func Parse(text string) (*Template, error) {
	t := &Template{text}
	return t, t.do(func(*jsonpath.JSONPath) error { return nil })
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
// they are, objects and lists as JSON, several values with a space between.
func (t *Template) Execute(w io.Writer, data any) error {
	return t.do(func(j *jsonpath.JSONPath) error { return j.Execute(w, data) })
}

// Find returns the values that the template's expressions find, in order.
func (t *Template) Find(data any) (all []any, err error) {
	err = t.do(func(j *jsonpath.JSONPath) error {
		results, err := j.FindResults(data)
		for _, values := range results {
			for _, v := range values {
				all = append(all, v.Interface())
			}
		}
		return err
	})
	return all, err
}

// do reads the text, and does something with it. Some texts and data make the
// library panic.
func (t *Template) do(use func(*jsonpath.JSONPath) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("jsonpath %s: %v", t.text, p)
		}
	}()
	j := jsonpath.New("template").AllowMissingKeys(true)
	if err := j.Parse(t.text); err != nil {
		return err
	}
	return use(j)
}
