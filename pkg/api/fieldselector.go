package api

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "orch/proto/v1"
)

// FieldSelector chooses objects of one kind by a few of their fields, those
// that Kubernetes offers for that kind. The zero value matches everything.
//
// Concurrency: a FieldSelector is read-only once made.
type FieldSelector struct {
	terms []fieldTerm
}

type fieldTerm struct {
	field, value string
	not          bool
}

// selectable lists, per kind, the fields beyond metadata.name and
// metadata.namespace.
var selectable = map[string][]string{
	"Pod":             {"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase", "status.podIP"},
	"Node":            {"spec.unschedulable"},
	"Namespace":       {"status.phase"},
	"Secret":          {"type"},
	"ChaosExperiment": {"status.phase"},
	"ChaosInjection":  {"spec.experiment", "spec.nodeName"},
	"Event": {
		"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
		"reason", "reportingComponent", "source", "type",
	},
}

// ParseFieldSelector reads a selector as `orchctl --field-selector` takes it,
// such as "spec.nodeName=node-1,status.phase!=Running". In values a backslash
// stands before a comma, an equals sign, or a backslash.
func ParseFieldSelector(k *Kind, text string) (FieldSelector, error) {
	var s FieldSelector
	for _, term := range splitUnescaped(text) {
		if term == "" {
			continue
		}
		field, value, not, ok := cutTerm(term)
		if !ok {
			return FieldSelector{}, fmt.Errorf("invalid selector: '%s'; can't understand '%s'", text, term)
		}
		value, err := unescapeField(value)
		if err != nil {
			return FieldSelector{}, err
		}
		known := field == "metadata.name" || field == "metadata.namespace" && k.Namespaced || slices.Contains(selectable[k.Name], field)
		if !known {
			return FieldSelector{}, fmt.Errorf("field label not supported: %s", field)
		}
		s.terms = append(s.terms, fieldTerm{field, value, not})
	}
	slices.SortStableFunc(s.terms, func(a, b fieldTerm) int { return strings.Compare(a.field, b.field) })
	return s, nil
}

// Matches says whether the object is chosen. It must be of the kind that the
// selector was parsed for.
func (s FieldSelector) Matches(o Object) bool {
	for _, t := range s.terms {
		if (fieldValue(o, t.field) == t.value) == t.not {
			return false
		}
	}
	return true
}

// Empty says whether the selector chooses everything.
func (s FieldSelector) Empty() bool { return len(s.terms) == 0 }

// RequiresExact returns the one value of a field that chosen objects have, if
// the selector says so.
func (s FieldSelector) RequiresExact(field string) (value string, ok bool) {
	for _, t := range s.terms {
		if t.field == field && !t.not {
			return t.value, true
		}
	}
	return "", false
}

// String is the selector as [ParseFieldSelector] reads it.
func (s FieldSelector) String() string {
	parts := make([]string, len(s.terms))
	for i, t := range s.terms {
		op := "="
		if t.not {
			op = "!="
		}
		parts[i] = t.field + op + fieldEscaper.Replace(t.value)
	}
	return strings.Join(parts, ",")
}

// fieldValue is the text of one of the selectable fields of an object.
func fieldValue(o Object, field string) string {
	if e, ok := o.(*v1.Event); ok && field == "source" {
		return cmp.Or(e.GetSource().GetComponent(), e.GetReportingComponent())
	}
	m := o.ProtoReflect()
	var value protoreflect.Value
	for name := range strings.SplitSeq(field, ".") {
		fd := m.Descriptor().Fields().ByJSONName(name)
		if value = m.Get(fd); fd.Message() != nil {
			m = value.Message()
		}
	}
	if n, ok := value.Interface().(int64); ok && n == 0 {
		return "" // a resource version that is not known
	}
	return value.String()
}

var fieldEscaper = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `=`, `\=`)

// splitUnescaped cuts at commas that no backslash stands before.
func splitUnescaped(s string) []string {
	var terms []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ',':
			terms = append(terms, s[start:i])
			start = i + 1
		}
	}
	return append(terms, s[start:])
}

// cutTerm cuts at the first operator.
func cutTerm(s string) (field, value string, not, ok bool) {
	for i := range len(s) {
		switch {
		case strings.HasPrefix(s[i:], "!="):
			return s[:i], s[i+2:], true, true
		case strings.HasPrefix(s[i:], "=="):
			return s[:i], s[i+2:], false, true
		case s[i] == '=':
			return s[:i], s[i+1:], false, true
		}
	}
	return "", "", false, false
}

func unescapeField(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
			if i == len(s) || !strings.ContainsRune(`\,=`, rune(s[i])) {
				return "", fmt.Errorf("invalid field selector: invalid escape sequence in value: %s", s)
			}
		case ',', '=':
			return "", fmt.Errorf("invalid field selector: unescaped character in value: %c", s[i])
		}
		b.WriteByte(s[i])
	}
	return b.String(), nil
}
