package why

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	v1 "orch/proto/v1"
)

// Change is one field that differs between two revisions of an object. From is
// empty for a field that was not there, To for one that is there no more.
type Change struct {
	// Path is as a person writes it, with the elements of lists by their name:
	// "spec.template.spec.containers[app].image".
	Path string `json:"path"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// String is "spec.replicas 3 → 6".
func (c Change) String() string {
	switch {
	case c.From == "":
		return fmt.Sprintf("%s = %s", c.Path, c.To)
	case c.To == "":
		return fmt.Sprintf("%s gone (was %s)", c.Path, c.From)
	}
	return fmt.Sprintf("%s %s → %s", c.Path, c.From, c.To)
}

// What stands for the values of a Secret, as in kubectl diff.
const (
	mask       = "***"
	maskBefore = "*** (before)"
	maskAfter  = "*** (after)"
)

// Maps are two revisions of an object as JSON has them, either of which may be
// nil. The values of Secrets are masked: whether two are equal shows, and nothing
// else. What apply keeps for itself is left out.
func Maps(before, after api.Object) (was, is map[string]any, err error) {
	if before != nil {
		was, err = manifest.ToMap(before)
	}
	if after != nil && err == nil {
		is, err = manifest.ToMap(after)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, m := range []map[string]any{was, is} {
		if meta, _ := m["metadata"].(map[string]any); meta != nil {
			annotations, _ := meta["annotations"].(map[string]any)
			if delete(annotations, api.AnnotationLastApplied); len(annotations) == 0 {
				delete(meta, "annotations")
			}
		}
	}
	_, a := before.(*v1.Secret)
	_, b := after.(*v1.Secret)
	if a || b {
		x, _ := was["data"].(map[string]any)
		y, _ := is["data"].(map[string]any)
		for k, v := range x {
			other, both := y[k]
			if x[k] = mask; both && other != v {
				x[k], y[k] = maskBefore, maskAfter
			}
		}
		for k := range y {
			if y[k] != maskAfter {
				y[k] = mask
			}
		}
	}
	return was, is, nil
}

// unremarkable are fields whose change says nothing that the entry does not.
var unremarkable = map[string]bool{
	"metadata.resourceVersion": true, "metadata.generation": true, "status.observedGeneration": true,
	"metadata.annotations[" + api.AnnotationTerminations + "]": true, "metadata.annotations[" + api.AnnotationRevision + "]": true,
	"metadata.annotations[" + api.AnnotationMaxReplicas + "]": true, "metadata.annotations[" + api.AnnotationDesiredReplicas + "]": true,
}

// inCondition finds what a condition says besides its status and reason.
var inCondition = regexp.MustCompile(`conditions\[\w+\]\.(message|last\w+Time|type)$`)

// Changes are the fields in which two revisions of an object differ, by path.
// Times and sentences of conditions and what keeps accounts are left out; values
// of Secrets are masked.
func Changes(before, after api.Object) []Change {
	if before == nil || after == nil {
		return nil
	}
	was, is, err := Maps(before, after)
	if err != nil {
		return nil
	}
	var all []Change
	differ(&all, "", was, is)
	return all
}

// differ compares two values of one field.
func differ(all *[]Change, path string, was, is any) {
	a, aIsMap := children(was)
	b, bIsMap := children(is)
	if aIsMap && bIsMap || aIsMap && is == nil || bIsMap && was == nil {
		keys := map[string]bool{}
		for k := range a {
			keys[k] = true
		}
		for k := range b {
			keys[k] = true
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			differ(all, path+k, a[k], b[k])
		}
		return
	}
	from, to := text(was), text(is)
	if path = strings.TrimPrefix(path, "."); from == to || unremarkable[path] || inCondition.MatchString(path) {
		return
	}
	*all = append(*all, Change{path, from, to})
}

// children are the parts of a value that has parts, by what is added to its path.
// Elements of lists go by their name, their type, or where they stand.
func children(v any) (map[string]any, bool) {
	parts := map[string]any{}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if strings.ContainsAny(k, "./") {
				parts["["+k+"]"] = e
			} else {
				parts["."+k] = e
			}
		}
	case []any:
		for i, e := range v {
			name := fmt.Sprint(i)
			if m, ok := e.(map[string]any); ok {
				for _, key := range []string{"name", "type", "containerPort", "mountPath", "key", "uid"} {
					if s, ok := m[key]; ok {
						name = fmt.Sprint(s)
						break
					}
				}
			}
			parts["["+name+"]"] = e
		}
	default:
		return nil, false
	}
	return parts, true
}

// maxValue is the most that is shown of one value.
const maxValue = 80

func text(v any) string {
	s, ok := v.(string)
	if !ok && v != nil {
		b, _ := json.Marshal(v) // of what ToMap made, which is JSON
		s = string(b)
	}
	if r := []rune(s); len(r) > maxValue {
		s = string(r[:maxValue]) + "…"
	}
	return s
}
