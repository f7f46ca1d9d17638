package manifest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// fromMap decodes an object. twice says which keys the document gives more than
// once.
func fromMap(m map[string]any, v Validation, twice []*v1.FieldError) (api.Object, []string, error) {
	k, err := kindOf(m)
	if err != nil {
		return nil, nil, err
	}
	d := decoder{secret: k.Name == "Secret"}
	for _, e := range twice {
		report(&d.doubts, e.GetField(), e.GetReason(), e.GetMessage())
	}
	o := k.New()
	d.message(o.ProtoReflect(), without(m, "apiVersion", "kind"), "")
	name := o.GetMetadata().GetName()

	var warnings []string
	switch v {
	case Warn:
		sort(d.doubts)
		warnings = messages(d.doubts)
	case Ignore:
	default:
		d.errors = append(d.errors, d.doubts...)
	}
	if len(d.errors) > 0 {
		sort(d.errors)
		return nil, warnings, &api.StatusError{
			Reason: api.ErrBadRequest, Kind: k.Name, Name: name, Causes: d.errors,
			Message: sentence(k.Name, name, d.errors),
		}
	}
	return o, warnings, nil
}

// sentence says in one line what is wrong with an object.
func sentence(kind, name string, errs []*v1.FieldError) string {
	return fmt.Sprintf("%s %q cannot be read: %s", kind, name, strings.Join(messages(errs), "; "))
}

// decoder collects all that is wrong with a document.
type decoder struct {
	errors []*v1.FieldError // values that cannot be read
	doubts []*v1.FieldError // fields that would be lost
	// secret says that values of data are not to be shown: errors are logged.
	secret bool
}

// maxReported bounds how many errors, and how much of each, a document can
// cause, so that the answer to a hostile one is not larger than itself.
const (
	maxReported = 100
	maxText     = 1000
	maxQuantity = 100 // characters; parsing takes more than linear time
)

func (d *decoder) doubt(path, format string, args ...any) {
	report(&d.doubts, path, "FieldValueInvalid", fmt.Sprintf(format, args...))
}

func (d *decoder) fail(path, format string, args ...any) {
	report(&d.errors, path, "FieldValueTypeInvalid", path+": "+fmt.Sprintf(format, args...))
}

func report(to *[]*v1.FieldError, path, reason, message string) {
	if len(*to) < maxReported {
		*to = append(*to, &v1.FieldError{Field: clip(path), Reason: reason, Message: clip(message)})
	}
}

func clip(s string) string {
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// wrong says that a value is of the wrong type.
func (d *decoder) wrong(path, want string, found any) {
	d.fail(path, "expected %s, found %s", want, d.describe(path, found))
}

// hides says whether what stands at path is secret.
func (d *decoder) hides(path string) bool {
	return d.secret && (strings.HasPrefix(path, "data") || strings.HasPrefix(path, "stringData"))
}

func (d *decoder) describe(path string, v any) string {
	if !d.hides(path) {
		return describe(v)
	}
	switch v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	}
	return "a number"
}

func (d *decoder) message(msg protoreflect.Message, m map[string]any, path string) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fd := msg.Descriptor().Fields().ByJSONName(name)
		switch {
		case fd == nil:
			d.unknown(msg.Descriptor(), path, name, m[name])
		case m[name] != nil: // null is not set
			d.field(msg, fd, m[name], join(path, name))
		}
	}
}

func (d *decoder) field(msg protoreflect.Message, fd protoreflect.FieldDescriptor, v any, path string) {
	switch {
	case fd.IsMap():
		m, ok := v.(map[string]any)
		if !ok {
			d.wrong(path, "an object", v)
			return
		}
		to := msg.Mutable(fd).Map()
		isText := fd.MapValue().Kind() == protoreflect.StringKind && formOf(fd) == v1.JSONForm_JSON_FORM_UNSPECIFIED
		for _, k := range slices.Sorted(maps.Keys(m)) {
			v := m[k]
			if v == nil && isText {
				v = "" // a key without a value, as Kubernetes reads it
			}
			if e, ok := d.value(fd.MapValue(), formOf(fd), v, path+"["+k+"]", to.NewValue); ok {
				to.Set(protoreflect.ValueOfString(k).MapKey(), e)
			}
		}
	case fd.IsList():
		s, ok := v.([]any)
		if !ok {
			d.wrong(path, "a list", v)
			return
		}
		to := msg.Mutable(fd).List()
		for i, e := range s {
			if e, ok := d.value(fd, formOf(fd), e, index(path, i), to.NewElement); ok {
				to.Append(e)
			}
		}
	default:
		if e, ok := d.value(fd, formOf(fd), v, path, func() protoreflect.Value { return msg.NewField(fd) }); ok {
			msg.Set(fd, e)
		}
	}
}

// value decodes one value: the field itself, or an element of it. It reports
// false where there is nothing to set.
func (d *decoder) value(fd protoreflect.FieldDescriptor, form v1.JSONForm, v any, path string, create func() protoreflect.Value) (protoreflect.Value, bool) {
	var none protoreflect.Value
	switch fd.Kind() {
	case protoreflect.BoolKind:
		b, ok := v.(bool)
		if !ok {
			d.wrong(path, "true or false", v)
		}
		return protoreflect.ValueOfBool(b), ok
	case protoreflect.StringKind:
		if form == v1.JSONForm_JSON_FORM_QUANTITY {
			return d.quantity(v, path)
		}
		s, ok := v.(string)
		_, isNumber := number(v)
		_, isBool := v.(bool)
		switch {
		case d.hides(path) && (isNumber || isBool):
			d.fail(path, "expected a string, found %s: write it in quotes", d.describe(path, v))
		case isNumber:
			d.fail(path, "expected a string, found %s: write it in quotes, \"%v\"", describe(v), v)
		case isBool:
			d.fail(path, "expected a string, found %s: write it in quotes, as YAML reads yes, no, on, off, y and n as booleans too", describe(v))
		case !ok:
			d.wrong(path, "a string", v)
		}
		return protoreflect.ValueOfString(s), ok
	case protoreflect.BytesKind:
		s, ok := v.(string)
		if !ok {
			d.wrong(path, "a string in base64", v)
			return none, false
		}
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			d.fail(path, "expected base64, found %s: %s", d.describe(path, v), err)
		}
		return protoreflect.ValueOfBytes(b), err == nil
	case protoreflect.Int32Kind:
		n, ok := d.integer(v, path, math.MinInt32, math.MaxInt32)
		return protoreflect.ValueOfInt32(int32(n)), ok //nolint:gosec // integer checks the range
	case protoreflect.Int64Kind:
		if form == v1.JSONForm_JSON_FORM_STRING {
			s, ok := v.(string)
			n, err := strconv.ParseInt(s, 10, 64)
			if s != "" && err != nil || !ok {
				d.wrong(path, "a string of digits", v)
				return none, false
			}
			return protoreflect.ValueOfInt64(n), true
		}
		n, ok := d.integer(v, path, math.MinInt64, math.MaxInt64)
		return protoreflect.ValueOfInt64(n), ok
	}
	switch fd.Message().FullName() {
	case timestampName:
		return d.time(v, form, path)
	case intOrStringName:
		if s, ok := v.(string); ok {
			return protoreflect.ValueOfMessage((&v1.IntOrString{Value: &v1.IntOrString_Str{Str: s}}).ProtoReflect()), true
		}
		n, ok := d.integer(v, path, math.MinInt32, math.MaxInt32)
		return protoreflect.ValueOfMessage((&v1.IntOrString{Value: &v1.IntOrString_Int{Int: int32(n)}}).ProtoReflect()), ok && (n != 0 || !isAlways(fd)) //nolint:gosec // integer checks the range
	}
	m, ok := v.(map[string]any)
	if !ok {
		d.wrong(path, "an object", v)
		return none, false
	}
	to := create()
	d.message(to.Message(), m, path)
	return to, fd.IsList() || !isAlways(fd) || !isEmpty(to.Message())
}

// quantity decodes a quantity into its canonical form, as Kubernetes does.
func (d *decoder) quantity(v any, path string) (protoreflect.Value, bool) {
	s, ok := v.(string)
	if n, isNumber := number(v); isNumber {
		s, ok = n, true
	}
	s = strings.TrimSpace(s)
	if !ok || len(s) > maxQuantity {
		d.wrong(path, `a quantity such as "500m" or "128Mi"`, v)
		return protoreflect.Value{}, false
	}
	q, err := api.ParseQuantity(s)
	if err != nil {
		d.fail(path, "found %s: %s", describe(v), err)
		return protoreflect.Value{}, false
	}
	return protoreflect.ValueOfString(q.String()), true
}

func (d *decoder) integer(v any, path string, low, high int64) (int64, bool) {
	s, ok := number(v)
	if text, isText := v.(string); isText {
		if _, err := strconv.Atoi(text); err == nil {
			d.fail(path, "expected an integer, found %s: write it without quotes", describe(v))
			return 0, false
		}
	}
	if !ok {
		d.wrong(path, "an integer", v)
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < low || n > high {
		d.fail(path, "expected an integer from %d to %d, found %s", low, high, s)
		return 0, false
	}
	return n, true
}

// time decodes a time in whole seconds, or microseconds. Kubernetes' zero time
// is no time at all.
func (d *decoder) time(v any, form v1.JSONForm, path string) (protoreflect.Value, bool) {
	s, ok := v.(string)
	t, err := time.Parse(time.RFC3339, s)
	if !ok || err != nil {
		d.wrong(path, `a time such as "2006-01-02T15:04:05Z"`, v)
		return protoreflect.Value{}, false
	}
	unit := time.Second
	if form == v1.JSONForm_JSON_FORM_MICRO_TIME {
		unit = time.Microsecond
	}
	t = t.UTC().Truncate(unit)
	return protoreflect.ValueOfMessage(timestamppb.New(t).ProtoReflect()), !t.IsZero()
}

func isEmpty(m protoreflect.Message) bool {
	empty := true
	m.Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
		empty = false
		return false
	})
	return empty
}

// number returns the decimal text of a number of any type.
func number(v any) (string, bool) {
	switch v := v.(type) {
	case json.Number:
		return v.String(), true
	case int:
		return strconv.Itoa(v), true
	case int32:
		return strconv.FormatInt(int64(v), 10), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	}
	return "", false
}

func without(m map[string]any, names ...string) map[string]any {
	m = maps.Clone(m)
	for _, name := range names {
		delete(m, name)
	}
	return m
}

func sort(errs []*v1.FieldError) {
	slices.SortStableFunc(errs, func(a, b *v1.FieldError) int {
		return cmp.Or(cmp.Compare(a.GetField(), b.GetField()), cmp.Compare(a.GetMessage(), b.GetMessage()))
	})
}

func messages(errs []*v1.FieldError) []string {
	s := make([]string, len(errs))
	for i, e := range errs {
		s[i] = e.GetMessage()
	}
	return s
}
