package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	v1 "orch/proto/v1"
)

// maxDepth bounds how deeply a document may be nested, so that a hostile one
// cannot exhaust the stack. The deepest object of any kind has about ten
// levels.
const maxDepth = 100

// parseJSON reads one JSON value: map[string]any, []any, string, json.Number,
// bool or nil. It also says which keys are given more than once; the last one
// wins, as in Kubernetes.
func parseJSON(data []byte) (tree any, twice []*v1.FieldError, err error) {
	p := parser{dec: json.NewDecoder(bytes.NewReader(data))}
	p.dec.UseNumber()
	if tree, err = p.value("", 0); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, nil, fmt.Errorf("invalid JSON at byte %d: %w", p.dec.InputOffset(), err)
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("invalid JSON at byte %d: more than one value", p.dec.InputOffset())
	}
	return tree, p.twice, nil
}

type parser struct {
	dec   *json.Decoder
	twice []*v1.FieldError
}

func (p *parser) value(path string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested more than %d levels deep", maxDepth)
	}
	token, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		m := map[string]any{}
		for p.dec.More() {
			key, err := p.dec.Token()
			if err != nil {
				return nil, err
			}
			name := fmt.Sprint(key) // it is a string: the decoder refuses other keys
			if _, ok := m[name]; ok {
				report(&p.twice, join(path, name), "FieldValueDuplicate", fmt.Sprintf("field %q is given more than once", join(path, name)))
			}
			if m[name], err = p.value(join(path, name), depth+1); err != nil {
				return nil, err
			}
		}
		_, err := p.dec.Token()
		return m, err
	case json.Delim('['):
		s := []any{}
		for p.dec.More() {
			e, err := p.value(index(path, len(s)), depth+1)
			if err != nil {
				return nil, err
			}
			s = append(s, e)
		}
		_, err := p.dec.Token()
		return s, err
	}
	return token, nil
}

// join and index form paths as Kubernetes writes them: spec.containers[0].name.
func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func index(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}

// describe names a JSON value for people.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprintf("the boolean %t", v)
	case string:
		if len(v) > 40 {
			v = v[:40] + "…"
		}
		return fmt.Sprintf("the string %q", v)
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	}
	return fmt.Sprintf("the number %v", v)
}
