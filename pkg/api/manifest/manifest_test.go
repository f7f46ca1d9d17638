package manifest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func TestMarshalWritesKubernetesJSON(t *testing.T) {
	tests := []struct {
		name string
		o    api.Object
		want string
	}{
		{
			name: "metadata, spec and status are written also when they are empty",
			o:    &v1.Namespace{},
			want: `{"apiVersion":"v1","kind":"Namespace","metadata":{},"spec":{},"status":{}}`,
		},
		{
			name: "an integer of 64 bits is a number, but resourceVersion is a string",
			o:    &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "a", Generation: 1 << 60, ResourceVersion: 12}},
			want: `{"apiVersion":"v1","kind":"Namespace","metadata":{"generation":1152921504606846976,"name":"a","resourceVersion":"12"},"spec":{},"status":{}}`,
		},
		{
			name: "an optional field that is zero is not an unset one",
			o:    &v1.ReplicaSet{Spec: &v1.ReplicaSetSpec{Replicas: proto.Int32(0)}},
			want: `{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{},"spec":{"replicas":0,"template":{"metadata":{},"spec":{"containers":null}}},"status":{"replicas":0}}`,
		},
		{
			name: "bytes are base64",
			o:    &v1.Secret{Data: map[string][]byte{"b": []byte("x"), "a": nil}},
			want: `{"apiVersion":"v1","kind":"Secret","metadata":{},"data":{"a":"","b":"eA=="}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Marshal(tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestMarshalYAMLSortsItsKeys(t *testing.T) {
	o := &v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "yes"}}
	y, err := MarshalYAML(o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("apiVersion: v1\ndata:\n  k: \"yes\"\nkind: ConfigMap\nmetadata:\n  name: a\n", string(y)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// deployment returns a Deployment's JSON with this inside its pod's spec.
func deployment(podSpec string) string {
	return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"template":{"spec":{` + podSpec + `}}}}`
}

func TestStrictRefusesWhatWouldBeLost(t *testing.T) {
	tests := []struct {
		name     string
		document string
		want     []string // messages of the causes
	}{
		{
			name:     "a typo is answered with the nearest name",
			document: deployment(`"contaners":[]`),
			want:     []string{`unknown field "spec.template.spec.contaners": did you mean "containers"?`},
		},
		{
			name:     "case counts",
			document: deployment(`"Containers":[]`),
			want:     []string{`unknown field "spec.template.spec.Containers": did you mean "containers"?`},
		},
		{
			name:     "a name that is like no other gets no advice",
			document: deployment(`"zebra":1`),
			want:     []string{`unknown field "spec.template.spec.zebra"`},
		},
		{
			name:     "a field of Kubernetes that is not implemented is no typo",
			document: deployment(`"affinity":{"nodeAffinity":{}}`),
			want:     []string{`field "spec.template.spec.affinity" is a Kubernetes field that Orch does not implement (see docs/pods.md)`},
		},
		{
			name:     "a value that changes nothing is no loss",
			document: deployment(`"affinity":null,"tolerations":[],"securityContext":{},"dnsPolicy":"ClusterFirst","priority":0`),
		},
		{
			name:     "a value that changes something is",
			document: deployment(`"hostUsers":false,"runtimeClassName":"other"`),
			want: []string{
				`field "spec.template.spec.hostUsers" is a Kubernetes field that Orch does not implement (see docs/pods.md)`,
				`field "spec.template.spec.runtimeClassName" is a Kubernetes field that Orch does not implement (see docs/pods.md)`,
			},
		},
		{
			name:     "a key given twice is refused",
			document: deployment(`"hostname":"a","hostname":"b"`),
			want:     []string{`field "spec.template.spec.hostname" is given more than once`},
		},
		{
			name:     "what kubectl get prints besides is passed over",
			document: `{"apiVersion":"v1","kind":"Pod","metadata":{"managedFields":[{"manager":"x"}],"selfLink":"/x"},"status":{"hostIPs":[{"ip":"1.2.3.4"}],"ofTheFuture":1}}`,
		},
		{
			name:     "everything wrong is said at once, in order of fields",
			document: `{"apiVersion":"v1","kind":"Pod","spec":{"zzzz":1,"hostname":7,"containers":[{"name":"a","env":[{"name":"A","value":8080}]}],"aaaa":1}}`,
			want: []string{
				`unknown field "spec.aaaa"`,
				`spec.containers[0].env[0].value: expected a string, found the number 8080: write it in quotes, "8080"`,
				`spec.hostname: expected a string, found the number 7: write it in quotes, "7"`,
				`unknown field "spec.zzzz"`,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Unmarshal([]byte(tt.document), Strict)
			if diff := cmp.Diff(tt.want, causes(t, err)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			_, warnings, err := Unmarshal([]byte(tt.document), Warn)
			if got := len(warnings) + len(causes(t, err)); got != len(tt.want) {
				t.Errorf("with Warn: %d warnings and errors, want %d: %v, %v", got, len(tt.want), warnings, err)
			}
		})
	}
}

// causes returns the messages of an error that is about fields.
func causes(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var se *api.StatusError
	if !errors.As(err, &se) || !errors.Is(err, api.ErrBadRequest) {
		t.Fatalf("%v is not a BadRequest", err)
	}
	return messages(se.Causes)
}

func TestWrongTypesAreErrorsHoweverLenient(t *testing.T) {
	tests := []struct {
		name, document, want string
	}{
		{"a string for a number", `{"spec":{"replicas":"3"}}`, `spec.replicas: expected an integer, found the string "3": write it without quotes`},
		{"a word for a number", `{"spec":{"replicas":"x"}}`, `spec.replicas: expected an integer, found the string "x"`},
		{"a fraction", `{"spec":{"replicas":1.5}}`, `spec.replicas: expected an integer from -2147483648 to 2147483647, found 1.5`},
		{"a number that is too large", `{"spec":{"replicas":3000000000}}`, `spec.replicas: expected an integer from -2147483648 to 2147483647, found 3000000000`},
		{"a number for a boolean", `{"spec":{"paused":1}}`, `spec.paused: expected true or false, found the number 1`},
		{"a list for an object", `{"spec":[]}`, `spec: expected an object, found a list`},
		{"an object for a list", `{"metadata":{"finalizers":{}}}`, `metadata.finalizers: expected a list, found an object`},
		{"a list for a map", `{"metadata":{"labels":[]}}`, `metadata.labels: expected an object, found a list`},
		{"a boolean for a label", `{"metadata":{"labels":{"on":true}}}`, `metadata.labels[on]: expected a string, found the boolean true: write it in quotes, as YAML reads yes, no, on, off, y and n as booleans too`},
		{"null in a list", `{"metadata":{"finalizers":[null]}}`, `metadata.finalizers[0]: expected a string, found null`},
		{"a resourceVersion that is none", `{"metadata":{"resourceVersion":"x"}}`, `metadata.resourceVersion: expected a string of digits, found the string "x"`},
		{"a time that is none", `{"metadata":{"creationTimestamp":"now"}}`, `metadata.creationTimestamp: expected a time such as "2006-01-02T15:04:05Z", found the string "now"`},
		{
			"a quantity that is none", `{"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}}}`,
			`spec.template.spec.containers[0].resources.limits[cpu]: found the string "lots": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			document := `{"apiVersion":"apps/v1","kind":"Deployment",` + tt.document[1:]
			for _, v := range []Validation{Strict, Warn, Ignore, ""} {
				_, _, err := Unmarshal([]byte(document), v)
				if diff := cmp.Diff([]string{tt.want}, causes(t, err)); diff != "" {
					t.Errorf("with %q: -want +got\n%s", v, diff)
				}
			}
		})
	}
}

func TestUnmarshalReadsKubernetesForms(t *testing.T) {
	const document = `{"apiVersion":"v1","kind":"Pod",
		"metadata":{"name":"a","creationTimestamp":null,"resourceVersion":"7","labels":{"empty":null}},
		"spec":{"terminationGracePeriodSeconds":0,"containers":[
			{"name":"c","resources":{"limits":{"cpu":0.5,"memory":"1024Mi"},"requests":{"cpu":"1000m"}}}]}}`
	want := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: "a", ResourceVersion: 7, Labels: map[string]string{"empty": ""}},
		Spec: &v1.PodSpec{
			TerminationGracePeriodSeconds: proto.Int64(0),
			Containers: []*v1.Container{{Name: "c", Resources: &v1.ResourceRequirements{
				Limits: map[string]string{"cpu": "500m", "memory": "1Gi"}, Requests: map[string]string{"cpu": "1"},
			}}},
		},
	}
	got, _, err := Unmarshal([]byte(document), Strict)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestWhatIsNoObjectIsRefused(t *testing.T) {
	tests := []struct {
		name, document, want string
	}{
		{"nothing", ``, "invalid JSON at byte 0: unexpected EOF"},
		{"half an object", `{"a":`, "invalid JSON at byte 5: unexpected EOF"},
		{"two objects", `{}{}`, "invalid JSON at byte 3: more than one value"},
		{"a list", `[]`, "expected an object with apiVersion and kind, found a list"},
		{"no kind", `{"apiVersion":"v1"}`, `kind is not set: a manifest begins like "apiVersion: apps/v1", "kind: Deployment"`},
		{"a kind that is a number", `{"apiVersion":"v1","kind":1}`, `kind: expected a string, found the number 1`},
		{
			"a typo in the kind", `{"apiVersion":"apps/v1","kind":"Deploymnet"}`,
			`unknown kind "Deploymnet" in apiVersion "apps/v1": did you mean "Deployment"? There are ConfigMap, Event, Namespace, Node, Pod, Secret, Deployment, ReplicaSet, ChaosExperiment, ChaosInjection, PodDisruptionBudget, ClusterRoleBinding, ClusterRole, RoleBinding, Role`,
		},
		{
			"a kind of Kubernetes", `{"apiVersion":"v1","kind":"Service"}`,
			`kind "Service" is a Kubernetes kind that Orch does not implement (see docs/differences.md). There are ConfigMap, Event, Namespace, Node, Pod, Secret, Deployment, ReplicaSet, ChaosExperiment, ChaosInjection, PodDisruptionBudget, ClusterRoleBinding, ClusterRole, RoleBinding, Role`,
		},
		{"an apiVersion of another kind", `{"apiVersion":"v1","kind":"Deployment"}`, `unknown apiVersion "v1" of kind Deployment: it is "apps/v1"`},
		{"what is nested too deeply", strings.Repeat("[", 200), "invalid JSON at byte 101: nested more than 100 levels deep"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Unmarshal([]byte(tt.document), Ignore)
			if !errors.Is(err, api.ErrBadRequest) {
				t.Fatalf("got %v, want a BadRequest", err)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestAHostileDocumentGetsAShortAnswer(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"apiVersion":"v1","kind":"Pod"`)
	for i := range 50_000 {
		fmt.Fprintf(&b, `,"unknown%d":1`, i)
	}
	b.WriteString(`,"` + strings.Repeat("y", 1<<20) + `":1}`)
	_, _, err := Unmarshal([]byte(b.String()), Strict)
	if n := len(err.Error()); n > 2*maxReported*maxText {
		t.Errorf("the error has %d bytes", n)
	}
}

// The codec knows the types of fields that objects have today; a new one must
// be taught to it.
func TestEveryFieldHasATypeThatTheCodecKnows(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var visit func(protoreflect.MessageDescriptor)
	visit = func(md protoreflect.MessageDescriptor) {
		if seen[md.FullName()] || md.FullName() == timestampName || md.FullName() == intOrStringName {
			return
		}
		seen[md.FullName()] = true
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			if fd.IsMap() {
				fd = fd.MapValue()
			}
			switch fd.Kind() {
			case protoreflect.BoolKind, protoreflect.StringKind, protoreflect.BytesKind, protoreflect.Int32Kind, protoreflect.Int64Kind:
			case protoreflect.MessageKind:
				visit(fd.Message())
			default:
				t.Errorf("%s is a %s", fd.FullName(), fd.Kind())
			}
		}
	}
	for _, k := range api.Kinds() {
		visit(k.New().ProtoReflect().Descriptor())
	}
}

func TestParseValidation(t *testing.T) {
	for s, want := range map[string]Validation{"": Strict, "true": Strict, "Strict": Strict, "warn": Warn, "false": Ignore, "ignore": Ignore} {
		if got, err := ParseValidation(s); got != want || err != nil {
			t.Errorf("ParseValidation(%q) = %q, %v, want %q", s, got, err, want)
		}
	}
	if _, err := ParseValidation("maybe"); err == nil {
		t.Error("maybe is accepted")
	}
}
