package manifest

import (
	"encoding/base64"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// microTime is the layout of Kubernetes' MicroTime.
const microTime = "2006-01-02T15:04:05.000000Z07:00"

// ToMap returns the object as encoding/json would decode its JSON, but with
// integers as int64: what templates and JSONPath work on. The map is the
// caller's.
func ToMap(o api.Object) (map[string]any, error) {
	k := api.KindOf(o)
	if k == nil {
		return nil, fmt.Errorf("marshal %T: not a kind of object", o)
	}
	m := encodeMessage(o.ProtoReflect())
	m["apiVersion"], m["kind"] = k.APIVersion(), k.Name
	return m, nil
}

// encodeMessage returns the fields that are set, and those that are always
// written.
func encodeMessage(msg protoreflect.Message) map[string]any {
	m := map[string]any{}
	fields := msg.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case msg.Has(fd):
			m[fd.JSONName()] = encodeField(fd, msg.Get(fd))
		case isAlways(fd) && fd.HasPresence() && fd.Message() == nil:
			m[fd.JSONName()] = nil
		case isAlways(fd):
			m[fd.JSONName()] = encodeField(fd, msg.Get(fd))
		}
	}
	return m
}

// encodeField returns the value of a field, nil for a list or a time that is
// not set.
func encodeField(fd protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch {
	case fd.IsMap():
		m := make(map[string]any, v.Map().Len())
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			m[k.String()] = encodeValue(fd.MapValue(), formOf(fd), e)
			return true
		})
		return m
	case fd.IsList():
		if v.List().Len() == 0 {
			return nil
		}
		s := make([]any, v.List().Len())
		for i := range s {
			s[i] = encodeValue(fd, formOf(fd), v.List().Get(i))
		}
		return s
	}
	return encodeValue(fd, formOf(fd), v)
}

// encodeValue returns one value: the field itself, or an element of it.
func encodeValue(fd protoreflect.FieldDescriptor, form v1.JSONForm, v protoreflect.Value) any {
	switch fd.Kind() {
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes())
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		if form == v1.JSONForm_JSON_FORM_STRING {
			return fmt.Sprint(v.Int())
		}
		return v.Int()
	case protoreflect.MessageKind:
		switch fd.Message().FullName() {
		case timestampName:
			if !v.Message().IsValid() {
				return nil
			}
			t := v.Message().Interface().(*timestamppb.Timestamp).AsTime()
			if form == v1.JSONForm_JSON_FORM_MICRO_TIME {
				return t.Format(microTime)
			}
			return t.Format(time.RFC3339)
		case intOrStringName:
			x := v.Message().Interface().(*v1.IntOrString)
			if s, ok := x.GetValue().(*v1.IntOrString_Str); ok {
				return s.Str
			}
			return int64(x.GetInt())
		}
		return encodeMessage(v.Message())
	}
	return v.Interface() // a string or a bool
}

// Messages that are one value in JSON.
var (
	timestampName   = (*timestamppb.Timestamp)(nil).ProtoReflect().Descriptor().FullName()
	intOrStringName = (*v1.IntOrString)(nil).ProtoReflect().Descriptor().FullName()
)

// isAlways says that Kubernetes writes the field also when it is empty. Where
// the field is a message, an empty one therefore means the same as none, and is
// read as none.
func isAlways(fd protoreflect.FieldDescriptor) bool {
	always, _ := proto.GetExtension(fd.Options(), v1.E_Always).(bool)
	switch fd.Name() {
	case "metadata", "spec", "status":
		always = always || api.KindByName(string(fd.Parent().Name())) != nil
	}
	return always
}

func formOf(fd protoreflect.FieldDescriptor) v1.JSONForm {
	form, _ := proto.GetExtension(fd.Options(), v1.E_JsonForm).(v1.JSONForm)
	return form
}
