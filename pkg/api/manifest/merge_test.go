package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// The cases that test/conformance cannot compare with Kubernetes, and a few that
// show how the merge works.
func TestMerge(t *testing.T) {
	tests := []struct {
		name                   string
		last, next, live, want string
	}{
		{
			name: "what the manifest says is set, and what it does not own stays",
			last: `spec: {replicas: 1}`,
			next: `spec: {replicas: 2}`,
			live: `{metadata: {labels: {by: other}}, spec: {replicas: 1, paused: true}}`,
			want: `{metadata: {labels: {by: other}}, spec: {replicas: 2, paused: true}}`,
		},
		{
			name: "what the manifest no longer says is removed",
			last: `{metadata: {labels: {a: x, b: x}}, spec: {replicas: 1, paused: true}}`,
			next: `{metadata: {labels: {a: x}}, spec: {paused: true}}`,
			live: `{metadata: {labels: {a: x, b: x, c: x}}, spec: {replicas: 7, paused: true}}`,
			want: `{metadata: {labels: {a: x, c: x}}, spec: {paused: true}}`,
		},
		{
			name: "without a manifest before, nothing is removed",
			next: `spec: {paused: true}`,
			live: `spec: {replicas: 7}`,
			want: `{metadata: {}, spec: {replicas: 7, paused: true}}`,
		},
		{
			name: "null removes, also what another has set",
			next: `metadata: {labels: {a: null}}`,
			live: `metadata: {labels: {a: x, b: x}}`,
			want: `metadata: {labels: {b: x}}`,
		},
		{
			name: "containers and their environment are merged by name",
			last: `spec: {template: {spec: {containers: [{name: a, image: "i:1", env: [{name: A, value: "1"}, {name: B, value: "1"}]}]}}}`,
			next: `spec: {template: {spec: {containers: [{name: a, image: "i:2", env: [{name: A, value: "2"}]}]}}}`,
			live: `spec: {template: {spec: {containers: [{name: a, image: "i:1", tty: true, env: [{name: A, value: "1"}, {name: B, value: "1"}, {name: C, value: "1"}]}, {name: side, image: s}]}}}`,
			want: `{metadata: {}, spec: {template: {spec: {containers: [{name: a, image: "i:2", tty: true, env: [{name: A, value: "2"}, {name: C, value: "1"}]}, {name: side, image: s}]}}}}`,
		},
		{
			name: "ports are merged by number and protocol, which is TCP where it is left out",
			last: `spec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 53}]}]}}}`,
			next: `spec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 53, name: dns}, {containerPort: 53, protocol: UDP}]}]}}}`,
			live: `spec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 53, protocol: TCP, hostPort: 53}]}]}}}`,
			want: `{metadata: {}, spec: {template: {spec: {containers: [{name: a, ports: [{containerPort: 53, protocol: TCP, hostPort: 53, name: dns}, {containerPort: 53, protocol: UDP}]}]}}}}`,
		},
		{
			name: "a list whose elements cannot be told apart is taken from the manifest",
			next: `spec: {template: {spec: {containers: [{name: a, env: [{name: A, value: "1"}, {name: A, value: "2"}]}]}}}`,
			live: `spec: {template: {spec: {containers: [{name: a, env: [{name: B, value: "1"}]}]}}}`,
			want: `{metadata: {}, spec: {template: {spec: {containers: [{name: a, env: [{name: A, value: "1"}, {name: A, value: "2"}]}]}}}}`,
		},
		{
			name: "command and args are taken as a whole",
			last: `spec: {template: {spec: {containers: [{name: a, args: [x, y]}]}}}`,
			next: `spec: {template: {spec: {containers: [{name: a, args: [x, z]}]}}}`,
			live: `spec: {template: {spec: {containers: [{name: a, args: [x, y, w]}]}}}`,
			want: `{metadata: {}, spec: {template: {spec: {containers: [{name: a, args: [x, z]}]}}}}`,
		},
		{
			name: "finalizers are a set",
			last: `metadata: {finalizers: [a, b]}`,
			next: `metadata: {finalizers: [b, c]}`,
			live: `metadata: {finalizers: [a, b, other]}`,
			want: `metadata: {finalizers: [b, c, other]}`,
		},
		{
			name: "another strategy does not keep the parameters of the one before",
			last: `spec: {strategy: {type: RollingUpdate}}`,
			next: `spec: {strategy: {type: Recreate}}`,
			live: `spec: {strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%}}}`,
			want: `{metadata: {}, spec: {strategy: {type: Recreate}}}`,
		},
		{
			name: "what belongs to the server stays as it is",
			last: `metadata: {uid: u}`,
			next: `{metadata: {creationTimestamp: null, generation: 1, managedFields: [{manager: kubectl}]}, status: {replicas: 9}}`,
			live: `{metadata: {uid: u, resourceVersion: "5", creationTimestamp: "2020-01-02T03:04:05Z", generation: 3}, status: {replicas: 3}}`,
			want: `{metadata: {uid: u, resourceVersion: "5", creationTimestamp: "2020-01-02T03:04:05Z", generation: 3}, status: {replicas: 3}}`,
		},
		{
			name: "a resourceVersion is a demand, which the server checks",
			next: `metadata: {resourceVersion: "4"}`,
			live: `metadata: {resourceVersion: "5"}`,
			want: `metadata: {resourceVersion: "4"}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Merge(toJSON(t, tt.last), toJSON(t, tt.next), toJSON(t, tt.live))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(toJSON(t, tt.want)), string(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// toJSON returns the JSON of a Deployment with these fields.
func toJSON(t *testing.T, fields string) []byte {
	t.Helper()
	if fields == "" {
		return nil
	}
	if !strings.HasPrefix(fields, "{") {
		fields = "{" + fields + "}"
	}
	data, err := yaml.YAMLToJSON([]byte("{apiVersion: apps/v1, kind: Deployment, " + fields[1:]))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMergeRefusesWhatIsNoObject(t *testing.T) {
	const d = `{"apiVersion":"apps/v1","kind":"Deployment"}`
	for _, tt := range []struct{ last, next, live, want string }{
		{"{", d, d, "merge last applied: invalid JSON at byte 1: unexpected EOF"},
		{d, "[]", d, "merge: expected an object with apiVersion and kind, found a list"},
		{d, d, "", "merge live object: invalid JSON at byte 0: unexpected EOF"},
	} {
		if _, err := Merge([]byte(tt.last), []byte(tt.next), []byte(tt.live)); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}
