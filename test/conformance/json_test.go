package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	strictjson "sigs.k8s.io/json"

	"orch/pkg/api/manifest"
	v1 "orch/proto/v1"
)

// What Orch writes, Kubernetes reads strictly, and writes in the same way; and
// what Kubernetes then writes, Orch reads as the object that it was.
func TestKubernetesReadsWhatOrchWrites(t *testing.T) {
	for _, k := range withTypes() {
		t.Run(k.Name, rapid.MakeCheck(func(t *rapid.T) {
			theirs := kubernetes[k.Name]()
			ours := k.New()
			fillMessage(t, ours.ProtoReflect(), reflect.TypeOf(theirs).Elem())
			ours.ProtoReflect().Mutable(ours.ProtoReflect().Descriptor().Fields().ByName("metadata"))

			data, err := manifest.Marshal(ours)
			if err != nil {
				t.Fatal(err)
			}
			readStrictly(t, data, theirs)
			back, err := json.Marshal(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tree(t, back, true), tree(t, data, false)); diff != "" {
				t.Errorf("-Kubernetes +Orch\n%s", diff)
			}
			again, _, err := manifest.Unmarshal(back, manifest.Strict)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(ours, again, protocmp.Transform()); diff != "" {
				t.Errorf("-before +after\n%s", diff)
			}
		}))
	}
}

// What Kubernetes writes of the fields that Orch implements, Orch keeps.
func TestOrchReadsWhatKubernetesWrites(t *testing.T) {
	for _, k := range withTypes() {
		t.Run(k.Name, rapid.MakeCheck(func(t *rapid.T) {
			theirs := kubernetes[k.Name]()
			fillStruct(t, reflect.ValueOf(theirs).Elem(), k.New().ProtoReflect().Descriptor())
			data, err := json.Marshal(theirs)
			if err != nil {
				t.Fatal(err)
			}
			m := tree(t, data, false)
			m["apiVersion"], m["kind"] = k.APIVersion(), k.Name
			if data, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			ours, _, err := manifest.Unmarshal(data, manifest.Strict)
			if err != nil {
				t.Fatal(err)
			}
			if data, err = manifest.Marshal(ours); err != nil {
				t.Fatal(err)
			}
			again := kubernetes[k.Name]()
			readStrictly(t, data, again)
			reflect.ValueOf(again).Elem().FieldByName("TypeMeta").SetZero()
			if !apiequality.Semantic.DeepEqual(theirs, again) {
				t.Errorf("-before +after\n%s", cmp.Diff(theirs, again))
			}
		}))
	}
}

func readStrictly(t *rapid.T, data []byte, to any) {
	doubts, err := strictjson.UnmarshalStrict(data, to)
	if err != nil || len(doubts) > 0 {
		t.Fatalf("Kubernetes refuses %s: %v %v", data, err, doubts)
	}
}

// tree decodes JSON. Of Kubernetes' it leaves out two nulls that Orch does not
// write: a selector that is not set, for which Orch's empty one would mean
// everything; and the times of conditions, of which each kind has others, while
// Orch has one message for all.
func tree(t *rapid.T, data []byte, isTheirs bool) map[string]any {
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	if isTheirs {
		dropNulls(m, "selector", "lastProbeTime", "lastUpdateTime", "lastHeartbeatTime")
	}
	return m
}

func dropNulls(v any, names ...string) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range names {
			if e, ok := v[name]; ok && e == nil {
				delete(v, name)
			}
		}
		for _, e := range v {
			dropNulls(e, names...)
		}
	case []any:
		for _, e := range v {
			dropNulls(e, names...)
		}
	}
}

// fillMessage sets fields of a message at random: those that Kubernetes' type
// has, because Orch's conditions have more.
func fillMessage(t *rapid.T, msg protoreflect.Message, typ reflect.Type) {
	theirs := map[string]reflect.Type{}
	jsonFields(typ, theirs)
	for i := range msg.Descriptor().Fields().Len() {
		fd := msg.Descriptor().Fields().Get(i)
		typ, ok := theirs[fd.JSONName()]
		// A quantity that Kubernetes holds by value it always writes.
		held := typ == reflect.TypeFor[resource.Quantity]()
		if !ok || !rapid.Bool().Draw(t, fd.JSONName()) && !held {
			continue
		}
		switch {
		case fd.IsMap():
			to := msg.Mutable(fd).Map()
			for range rapid.IntRange(0, 3).Draw(t, "entries") {
				to.Set(protoreflect.ValueOfString(text(t)).MapKey(), drawValue(t, fd.MapValue(), isQuantity(fd), to.NewValue, nil))
			}
		case fd.IsList():
			to := msg.Mutable(fd).List()
			for range rapid.IntRange(1, 3).Draw(t, "elements") {
				to.Append(drawValue(t, fd, false, to.NewElement, typ))
			}
		default:
			msg.Set(fd, drawValue(t, fd, isQuantity(fd), func() protoreflect.Value { return msg.NewField(fd) }, typ))
			if typ.Kind() == reflect.Struct && !held && isEmpty(msg.Get(fd).Message()) {
				msg.Clear(fd) // what Kubernetes holds by value is not set when it is empty
			}
		}
	}
}

func drawValue(t *rapid.T, fd protoreflect.FieldDescriptor, quantity bool, create func() protoreflect.Value, typ reflect.Type) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.StringKind:
		if quantity {
			q := drawQuantity(t)
			return protoreflect.ValueOfString(q.String())
		}
		return protoreflect.ValueOfString(text(t))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	}
	to := create()
	switch m := to.Message().Interface().(type) {
	case *timestamppb.Timestamp:
		at := drawTime(t)
		if typ == reflect.TypeFor[metav1.MicroTime]() {
			at = at.Add(time.Duration(rapid.IntRange(0, 999_999).Draw(t, "micros")) * time.Microsecond)
		}
		return protoreflect.ValueOfMessage(timestamppb.New(at).ProtoReflect())
	case *v1.IntOrString:
		x := drawIntOrString(t)
		if m.Value = (&v1.IntOrString_Int{Int: x.IntVal}); x.Type == intstr.String {
			m.Value = &v1.IntOrString_Str{Str: x.StrVal}
		}
	default:
		fillMessage(t, to.Message(), typ)
	}
	return to
}

// fillStruct sets at random those fields of Kubernetes' type that the message
// has too.
func fillStruct(t *rapid.T, v reflect.Value, md protoreflect.MessageDescriptor) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fd := md.Fields().ByJSONName(name)
		switch {
		case name == "" && f.Type.Name() != "TypeMeta":
			fillStruct(t, v.Field(i), md)
		case name == "resourceVersion":
			// Any string there, a number here.
			v.Field(i).SetString(fmt.Sprint(rapid.Int64Min(1).Draw(t, name)))
		case fd != nil && rapid.Bool().Draw(t, name):
			fillValue(t, v.Field(i), fd)
		}
	}
}

func fillValue(t *rapid.T, v reflect.Value, fd protoreflect.FieldDescriptor) {
	switch v.Interface().(type) {
	case metav1.Time:
		v.Set(reflect.ValueOf(metav1.NewTime(drawTime(t).Local())))
		return
	case metav1.MicroTime:
		v.Set(reflect.ValueOf(metav1.NewMicroTime(drawTime(t).Local())))
		return
	case intstr.IntOrString:
		v.Set(reflect.ValueOf(drawIntOrString(t)))
		return
	case resource.Quantity:
		v.Set(reflect.ValueOf(drawQuantity(t)))
		return
	case []byte:
		v.SetBytes(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.String:
		v.SetString(text(t))
	case reflect.Int32:
		v.SetInt(int64(rapid.Int32().Draw(t, "int32")))
	case reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "int64"))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillValue(t, v.Elem(), fd)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), rapid.IntRange(1, 3).Draw(t, "elements"), 3))
		for i := range v.Len() {
			fillValue(t, v.Index(i), fd)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			e := reflect.New(v.Type().Elem()).Elem()
			fillValue(t, e, fd.MapValue())
			v.SetMapIndex(reflect.ValueOf(text(t)).Convert(v.Type().Key()), e)
		}
	case reflect.Struct:
		fillStruct(t, v, fd.Message())
	default:
		t.Fatalf("%s is a %s", fd.FullName(), v.Type())
	}
}

func text(t *rapid.T) string {
	return rapid.OneOf(rapid.StringMatching(`[a-z]{1,8}`), rapid.String()).Draw(t, "text")
}

func drawTime(t *rapid.T) time.Time {
	return time.Unix(rapid.Int64Range(-1<<32, 1<<36).Draw(t, "seconds"), 0).UTC()
}

func drawIntOrString(t *rapid.T) intstr.IntOrString {
	if rapid.Bool().Draw(t, "isString") {
		return intstr.FromString(text(t))
	}
	return intstr.FromInt32(rapid.Int32().Draw(t, "int"))
}

// isQuantity reports whether a field, or the values of a map, are quantities.
func isQuantity(fd protoreflect.FieldDescriptor) bool {
	switch fd.JSONName() {
	case "limits", "requests", "capacity", "allocatable", "divisor", "sizeLimit":
		return true
	}
	return false
}

func isEmpty(m protoreflect.Message) bool {
	if x, ok := m.Interface().(*v1.IntOrString); ok {
		return x.GetStr() == "" && x.GetInt() == 0 && x.GetValue() != nil && x.ProtoReflect().WhichOneof(x.ProtoReflect().Descriptor().Oneofs().Get(0)).Name() == "int"
	}
	empty := true
	m.Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
		empty = false
		return false
	})
	return empty
}
