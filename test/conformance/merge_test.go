package conformance

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"pgregory.net/rapid"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	v1 "orch/proto/v1"
)

// The merge of apply gives what kubectl's three-way strategic merge gives.
func TestMergeAgreesWithKubernetes(t *testing.T) {
	schema, err := strategicpatch.NewPatchMetaFromStruct(appsv1.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		last := encode(t, drawDeployment(t, false))
		next := encode(t, drawDeployment(t, false))
		live := encode(t, drawDeployment(t, true))
		patch, err := strategicpatch.CreateThreeWayMergePatch(last, next, live, schema, true)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := strategicpatch.StrategicMergePatchUsingLookupPatchMeta(live, patch, schema)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(theirs, []byte(`"$`)) || bytes.Contains(theirs, []byte(`:null`)) {
			// Where another has removed from live what both manifests have, there
			// is nothing to carry the patch's directives out on, and Kubernetes
			// leaves them in: an accident.
			return
		}
		ours, err := manifest.Merge(last, next, live)
		if err != nil {
			t.Fatal(err)
		}
		// Finalizers are a set: where Kubernetes puts one that is new to the
		// manifest and old in live means nothing.
		options := []cmp.Option{protocmp.Transform(), protocmp.SortRepeatedFields(&v1.ObjectMeta{}, "finalizers")}
		if bytes.Contains(patch, []byte(`"$patch":"delete"`)) || bytes.Contains(patch, []byte(`"$deleteFromPrimitiveList`)) {
			// Kubernetes deletes within the list by which it then orders, and
			// so the order is an accident.
			options = append(options, anyOrder...)
		}
		if diff := cmp.Diff(decode(t, theirs), decode(t, ours), options...); diff != "" {
			t.Errorf("last %s\nnext %s\nlive %s\npatch %s\n-Kubernetes +Orch\n%s", last, next, live, patch, diff)
		}
	})
}

var anyOrder = []cmp.Option{
	protocmp.SortRepeated(func(a, b *v1.Container) bool { return a.GetName() < b.GetName() }),
	protocmp.SortRepeated(func(a, b *v1.ContainerPort) bool { return a.GetContainerPort() < b.GetContainerPort() }),
	protocmp.SortRepeated(func(a, b *v1.EnvVar) bool { return a.GetName() < b.GetName() }),
	protocmp.SortRepeated(func(a, b *v1.OwnerReference) bool { return a.GetUid() < b.GetUid() }),
}

func encode(t *rapid.T, v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decode(t *rapid.T, data []byte) api.Object {
	o, _, err := manifest.Unmarshal(data, manifest.Strict)
	if err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return o
}

// object collects fields that are there by chance.
type object map[string]any

func (o object) maybe(t *rapid.T, name string, draw func() any) {
	if rapid.Bool().Draw(t, name) {
		o[name] = draw()
	}
}

// drawDeployment draws a Deployment from so few words that three of them have
// much in common. A live one has what the server fills in; one of a manifest has
// nulls.
func drawDeployment(t *rapid.T, isLive bool) object {
	letter := rapid.SampledFrom([]string{"a", "b", "c"})
	oneOf := func(values ...any) func() any {
		return func() any { return rapid.SampledFrom(values).Draw(t, "value") }
	}
	pairs := func(values ...any) func() any {
		return func() any {
			m := object{}
			for range rapid.IntRange(0, 3).Draw(t, "pairs") {
				m[letter.Draw(t, "key")] = oneOf(values...)()
			}
			return m
		}
	}
	words := func() any { return rapid.SliceOfN(letter, 0, 3).Draw(t, "words") }
	set := func() any { return rapid.SliceOfNDistinct(letter, 0, 3, rapid.ID[string]).Draw(t, "set") }
	keyed := func(draw func(key string) any) func() any {
		return func() any {
			list := []any{}
			for _, key := range rapid.SliceOfNDistinct(letter, 1, 3, rapid.ID[string]).Draw(t, "keys") {
				list = append(list, draw(key))
			}
			return list
		}
	}
	port := func(key string) any {
		p := object{"containerPort": map[string]int{"a": 80, "b": 443, "c": 53}[key]}
		switch {
		case key == "c":
			p["protocol"] = "UDP"
		case isLive:
			p["protocol"] = "TCP"
		}
		p.maybe(t, "name", oneOf("x", "y"))
		return p
	}
	env := func(key string) any {
		e := object{"name": key}
		e.maybe(t, "value", oneOf("1", "2"))
		return e
	}
	container := func(key string) any {
		c := object{"name": key, "image": oneOf("i:1", "i:2")()}
		c.maybe(t, "command", words)
		c.maybe(t, "args", words)
		c.maybe(t, "workingDir", oneOf("/a", "/b"))
		c.maybe(t, "ports", keyed(port))
		c.maybe(t, "env", keyed(env))
		c.maybe(t, "resources", func() any {
			r := object{}
			r.maybe(t, "limits", pairs("1", "2"))
			r.maybe(t, "requests", pairs("1", "2"))
			return r
		})
		c.maybe(t, "tty", oneOf(true, false))
		return c
	}
	labels := pairs("1", "2")
	if !isLive {
		labels = pairs("1", "2", nil)
	}

	meta := object{"name": "web", "namespace": "default"}
	meta.maybe(t, "labels", labels)
	meta.maybe(t, "annotations", pairs("1", "2"))
	meta.maybe(t, "finalizers", set)
	meta.maybe(t, "ownerReferences", keyed(func(key string) any {
		return object{"uid": key, "name": oneOf("x", "y")(), "kind": "K", "apiVersion": "v1"}
	}))
	pod := object{"containers": keyed(container)()}
	pod.maybe(t, "nodeSelector", pairs("1", "2"))
	pod.maybe(t, "restartPolicy", oneOf("Always", "Never"))
	pod.maybe(t, "terminationGracePeriodSeconds", oneOf(0, 30))
	spec := object{
		"selector": object{"matchLabels": object{"app": "web"}},
		"template": object{"metadata": object{"labels": labels()}, "spec": pod},
	}
	spec.maybe(t, "replicas", oneOf(0, 1, 3))
	spec.maybe(t, "paused", oneOf(true, false))
	spec.maybe(t, "strategy", func() any {
		s := object{}
		s.maybe(t, "type", oneOf("RollingUpdate", "Recreate"))
		s.maybe(t, "rollingUpdate", func() any {
			r := object{}
			r.maybe(t, "maxSurge", oneOf(0, 1, "25%"))
			r.maybe(t, "maxUnavailable", oneOf(0, 1, "25%"))
			return r
		})
		return s
	})
	d := object{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
	if isLive {
		meta["uid"], meta["resourceVersion"], meta["creationTimestamp"] = "u", "7", "2020-01-02T03:04:05Z"
		d["status"] = object{"replicas": 3}
	}
	return d
}
