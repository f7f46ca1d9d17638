package manifest

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

// Whatever the stream holds, nothing panics; and what can be read can be
// written, and read again as the same.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: c, image: i, resources: {limits: {cpu: 0.5}}}\n---\n",
		deployment(`"containers":[{"name":"a","ports":[{"containerPort":80}],"env":[{"name":"A","value":"1"}]}]`),
		`{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":0,"strategy":{"rollingUpdate":{"maxSurge":"25%","maxUnavailable":1}}}}`,
		`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Secret","data":{"a":"eA=="}}]}`,
		`{"apiVersion":"v1","kind":"Event","eventTime":"2020-01-02T03:04:05.123456Z","lastTimestamp":"2020-01-02T03:04:05+01:00"}`,
		"kind: NodeList\napiVersion: v1\nitems: [{status: {capacity: {cpu: 1e3, memory: 1.5Gi}}}]\n",
		"a: &a [*a]\n", "\ufeff{", "--- |\n  x\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for doc, err := range Decode(bytes.NewReader(data), "f", Ignore) {
			if err != nil {
				continue
			}
			written, err := Marshal(doc.Object)
			if err != nil {
				t.Fatal(err)
			}
			again, _, err := Unmarshal(written, Strict)
			if err != nil {
				t.Fatalf("%s: %v", written, err)
			}
			if diff := cmp.Diff(doc.Object, again, protocmp.Transform()); diff != "" {
				t.Fatalf("%s: -before +after\n%s", written, diff)
			}
			if _, err := Merge(doc.JSON, doc.JSON, written); err != nil {
				t.Fatal(err)
			}
		}
	})
}
