package manifest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// printed are fields of metadata that kubectl get -o yaml prints and nobody
// writes. They are passed over, so that its output can be applied.
var printed = []string{"managedFields", "selfLink"}

// harmless are the values with which fields that Orch does not implement mean
// what Orch does anyway: most are the defaults that Kubernetes fills in, and so
// prints. null, {} and [] are harmless in every field.
var harmless = map[protoreflect.FullName]map[string][]any{
	nameOf(&v1.PodSpec{}): {
		"automountServiceAccountToken": {false},       // there are no service accounts
		"enableServiceLinks":           {true, false}, // there are no services
		"hostUsers":                    {true},
		"preemptionPolicy":             {"PreemptLowerPriority"},
		"priority":                     {json.Number("0")},
		"serviceAccount":               {"default"},
		"serviceAccountName":           {"default"},
		"setHostnameAsFQDN":            {false},
	},
	nameOf(&v1.Container{}): {
		"stdinOnce": {false},
	},
}

// unknown handles a field that the message does not have. A typo is one thing,
// a field that Kubernetes has and Orch not yet is another, and the reader is
// told which.
func (d *decoder) unknown(md protoreflect.MessageDescriptor, path, name string, value any) {
	full := join(path, name)
	theirs := kubernetesFields[string(md.Name())]
	switch {
	case len(d.doubts) >= maxReported: // looking for the nearest name takes its time
	case strings.HasPrefix(full, "status."):
		// The server does not take status from a manifest, and Kubernetes' has
		// more fields with each release.
	case slices.Contains(theirs, name):
		if isHarmless(md, name, value) {
			return
		}
		page := "docs/differences.md"
		if within((&v1.PodSpec{}).ProtoReflect().Descriptor(), md) {
			page = "docs/pods.md"
		}
		d.doubt(full, "field %q is a Kubernetes field that Orch does not implement (see %s)", full, page)
	default:
		known := slices.Clone(theirs)
		for i := range md.Fields().Len() {
			known = append(known, md.Fields().Get(i).JSONName())
		}
		d.doubt(full, "unknown field %q%s", full, didYouMean(name, known))
	}
}

// within says that md is whole or the type of something in it.
func within(whole, md protoreflect.MessageDescriptor) bool {
	if whole.FullName() == md.FullName() {
		return true
	}
	for i := range whole.Fields().Len() {
		if part := whole.Fields().Get(i).Message(); part != nil && within(part, md) {
			return true
		}
	}
	return false
}

func isHarmless(md protoreflect.MessageDescriptor, name string, value any) bool {
	if md.FullName() == nameOf(&v1.ObjectMeta{}) && slices.Contains(printed, name) {
		return true
	}
	switch v := value.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	if n, ok := number(value); ok {
		value = json.Number(n)
	}
	return slices.Contains(harmless[md.FullName()][name], value)
}

// kindOf returns the kind that a document says it is.
func kindOf(m map[string]any) (*api.Kind, error) {
	for _, name := range []string{"apiVersion", "kind"} {
		switch s, ok := m[name].(string); {
		case m[name] == nil || s == "" && ok:
			return nil, api.Errorf(api.ErrBadRequest, "%s is not set: a manifest begins like \"apiVersion: apps/v1\", \"kind: Deployment\"", name)
		case !ok:
			return nil, api.Errorf(api.ErrBadRequest, "%s: expected a string, found %s", name, describe(m[name]))
		}
	}
	name, version := fmt.Sprint(m["kind"]), fmt.Sprint(m["apiVersion"])
	k := api.KindByName(name)
	var all []string
	for _, k := range api.Kinds() {
		all = append(all, k.Name)
	}
	switch theirs, ok := kubernetesKinds[name]; {
	case k == nil && ok && theirs == version:
		return nil, api.Errorf(api.ErrBadRequest, "kind %q is a Kubernetes kind that Orch does not implement (see docs/differences.md). There are %s", name, strings.Join(all, ", "))
	case k == nil:
		return nil, api.Errorf(api.ErrBadRequest, "unknown kind %q in apiVersion %q%s There are %s", name, version,
			cmp.Or(didYouMean(name, append(slices.Collect(maps.Keys(kubernetesKinds)), all...)), "."), strings.Join(all, ", "))
	case version != k.APIVersion():
		return nil, api.Errorf(api.ErrBadRequest, "unknown apiVersion %q of kind %s: it is %q", version, name, k.APIVersion())
	}
	return k, nil
}

// didYouMean names the known word that is nearest, where one is near enough to
// be meant: `: did you mean "containers"?`.
func didYouMean(word string, known []string) string {
	best, least := "", 1+max(1, len(word)/3)
	if len(word) > 100 {
		return ""
	}
	for _, k := range slices.Sorted(slices.Values(known)) {
		if n := distance(strings.ToLower(word), strings.ToLower(k)); n < least {
			best, least = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// distance counts the letters that must be added, taken out, replaced or
// swapped with their neighbor to make one word of the other.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
