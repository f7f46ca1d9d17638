// Package manifest turns objects into Kubernetes' JSON and YAML, and back.
//
// The one invariant: what it accepts is a valid Kubernetes manifest with the
// same meaning. A field that Orch does not know is therefore never passed over
// in silence, unless Kubernetes itself would change nothing for it; and what
// Marshal writes, Kubernetes' own types read strictly (test/conformance proves
// it).
//
// The codec is driven by the descriptors of proto/v1: names are json_name, and
// the options json_form and always of meta.proto say where Kubernetes' form
// differs from the type. A new field needs no code here.
//
// Read next: encode.go and decode.go (one object), document.go (files and
// streams), merge.go (apply).
package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"orch/pkg/api"
)

// Validation says what becomes of fields that are unknown or given twice. It
// is kubectl's --validate and the server's fieldValidation. Values of a wrong
// type are errors with each of them.
type Validation string

const (
	// Strict refuses the document. It is the default: the empty Validation
	// means Strict.
	Strict Validation = "Strict"
	// Warn takes the fields out and reports them.
	Warn Validation = "Warn"
	// Ignore takes the fields out.
	Ignore Validation = "Ignore"
)

// ParseValidation reads the value of --validate: strict, true, warn, ignore or
// false, in any case.
func ParseValidation(s string) (Validation, error) {
	switch strings.ToLower(s) {
	case "", "strict", "true":
		return Strict, nil
	case "warn":
		return Warn, nil
	case "ignore", "false":
		return Ignore, nil
	}
	return "", api.Errorf(api.ErrBadRequest, "invalid validation %q: want strict (or true), warn, or ignore (or false)", s)
}

// Marshal returns the object's JSON on one line: apiVersion, kind and metadata
// first, then its other fields in the order of its message; keys further down
// are sorted. Equal objects have equal bytes.
func Marshal(o api.Object) ([]byte, error) {
	m, err := ToMap(o)
	if err != nil {
		return nil, err
	}
	names := []string{"apiVersion", "kind"}
	fields := o.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		names = append(names, fields.Get(i).JSONName())
	}
	var b bytes.Buffer
	sep := byte('{')
	for _, name := range names {
		v, ok := m[name]
		if !ok {
			continue
		}
		value, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("marshal %s: %w", name, err)
		}
		b.WriteByte(sep)
		fmt.Fprintf(&b, "%q:", name)
		b.Write(value)
		sep = ','
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// MarshalYAML returns the object's YAML as kubectl get -o yaml prints it: keys
// sorted.
func MarshalYAML(o api.Object) ([]byte, error) {
	m, err := ToMap(o)
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(m)
}

// Unmarshal reads one object from one JSON document. All that is wrong with the
// document is in the one error, sorted by field; it is an [api.StatusError] of
// kind [api.ErrBadRequest] whose causes name the fields. Warnings are those of
// [Warn].
func Unmarshal(data []byte, v Validation) (o api.Object, warnings []string, err error) {
	tree, twice, err := parseJSON(data)
	if err != nil {
		return nil, nil, api.Errorf(api.ErrBadRequest, "%s", err)
	}
	m, err := asObject(tree)
	if err != nil {
		return nil, nil, err
	}
	return fromMap(m, v, twice)
}

func asObject(tree any) (map[string]any, error) {
	m, ok := tree.(map[string]any)
	if !ok {
		return nil, api.Errorf(api.ErrBadRequest, "expected an object with apiVersion and kind, found %s", describe(tree))
	}
	return m, nil
}
