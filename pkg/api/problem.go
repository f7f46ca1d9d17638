package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "orch/proto/v1"
)

// path leads to a field: spec.containers[0].resources.limits[cpu].
type path string

func (p path) child(name string) path {
	if p == "" {
		return path(name)
	}
	return p + "." + path(name)
}

func (p path) index(i int) path  { return p + path("["+strconv.Itoa(i)+"]") }
func (p path) key(k string) path { return p + path("["+k+"]") }

// problems collects what is wrong with an object, in Kubernetes' types and
// words: the value first, then the reason.
type problems struct{ list []*v1.FieldError }

func (e *problems) add(p path, reason, message, detail string) {
	if detail != "" {
		message += ": " + detail
	}
	e.list = append(e.list, &v1.FieldError{Field: string(p), Reason: reason, Message: message})
}

func (e *problems) invalid(p path, value any, detail string) {
	e.add(p, "FieldValueInvalid", "Invalid value: "+show(value), detail)
}

// invalidEach reports each message about one value.
func (e *problems) invalidEach(p path, value any, msgs []string) {
	for _, m := range msgs {
		e.invalid(p, value, m)
	}
}

func (e *problems) required(p path, detail string) {
	e.add(p, "FieldValueRequired", "Required value", detail)
}

func (e *problems) duplicate(p path, value any) {
	e.add(p, "FieldValueDuplicate", "Duplicate value: "+show(value), "")
}

func (e *problems) forbidden(p path, detail string) {
	e.add(p, "FieldValueForbidden", "Forbidden", detail)
}

func (e *problems) tooLong(p path, most int) {
	e.add(p, "FieldValueTooLong", "Too long", fmt.Sprintf("may not be more than %d bytes", most))
}

func (e *problems) notSupported(p path, value string, supported ...string) {
	for i, s := range supported {
		supported[i] = strconv.Quote(s)
	}
	e.add(p, "FieldValueNotSupported", "Unsupported value: "+show(value), "supported values: "+strings.Join(supported, ", "))
}

func (e *problems) nonNegative(p path, value int64) {
	if value < 0 {
		e.invalid(p, value, notNegative)
	}
}

// oneOf reports a missing or an unknown word.
func (e *problems) oneOf(p path, value string, supported ...string) {
	switch {
	case slices.Contains(supported, value):
	case value == "":
		e.required(p, "")
	default:
		e.notSupported(p, value, supported...)
	}
}

// maybeOneOf reports an unknown word; none at all is right.
func (e *problems) maybeOneOf(p path, value string, supported ...string) {
	if value != "" {
		e.oneOf(p, value, supported...)
	}
}

// present reports a missing text.
func (e *problems) present(p path, value string) {
	if value == "" {
		e.required(p, "")
	}
}

// valid reports a missing text, or what a rule says of it.
func (e *problems) valid(p path, value string, rule func(string) []string) {
	if value == "" {
		e.required(p, "")
		return
	}
	e.invalidEach(p, value, rule(value))
}

const (
	notNegative = "must be greater than or equal to 0"
	immutable   = "field is immutable"
)

// show writes a value as Kubernetes' messages do: numbers plainly, all else as
// JSON.
func show(value any) string {
	switch v := value.(type) {
	case string:
		return strconv.Quote(v)
	case *v1.IntOrString:
		if n, ok := v.GetValue().(*v1.IntOrString_Int); ok {
			return strconv.Itoa(int(n.Int))
		}
		return strconv.Quote(v.GetStr())
	case *v1.RoleRef:
		value = showRoleRef(v)
	case *v1.LabelSelector:
		value = showLabelSelector(v)
	case []*v1.OwnerReference:
		refs := make([]any, len(v))
		for i, r := range v {
			refs[i] = showOwnerReference(r)
		}
		value = refs
	case *v1.OwnerReference:
		value = showOwnerReference(v)
	}
	b, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(b)
}

// showLabelSelector gives the selector the JSON names that its users write.
func showLabelSelector(s *v1.LabelSelector) any {
	type expression struct {
		Key      string   `json:"key"`
		Operator string   `json:"operator"`
		Values   []string `json:"values,omitempty"`
	}
	var out struct {
		MatchLabels      map[string]string `json:"matchLabels,omitempty"`
		MatchExpressions []expression      `json:"matchExpressions,omitempty"`
	}
	out.MatchLabels = s.GetMatchLabels()
	for _, e := range s.GetMatchExpressions() {
		out.MatchExpressions = append(out.MatchExpressions, expression{e.GetKey(), e.GetOperator(), e.GetValues()})
	}
	return out
}

func showOwnerReference(r *v1.OwnerReference) any {
	return struct {
		APIVersion         string `json:"apiVersion"`
		Kind               string `json:"kind"`
		Name               string `json:"name"`
		UID                string `json:"uid"`
		Controller         *bool  `json:"controller,omitempty"`
		BlockOwnerDeletion *bool  `json:"blockOwnerDeletion,omitempty"`
	}{r.GetApiVersion(), r.GetKind(), r.GetName(), r.GetUid(), r.Controller, r.BlockOwnerDeletion}
}
