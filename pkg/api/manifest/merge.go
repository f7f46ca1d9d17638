package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// mergeKeys says which lists are merged element by element, by the message of
// their elements, and which fields tell the elements apart. Every other list
// is taken from the manifest as a whole. The keys are the patchMergeKey of
// Kubernetes' types, but for ports: by containerPort alone Kubernetes' client
// confuses 53/TCP with 53/UDP, so the protocol counts too.
var mergeKeys = map[protoreflect.FullName][]string{
	nameOf(&v1.Condition{}):            {"type"},
	nameOf(&v1.Container{}):            {"name"},
	nameOf(&v1.LocalObjectReference{}): {"name"},
	nameOf(&v1.ContainerPort{}):        {"containerPort", "protocol"},
	nameOf(&v1.EnvVar{}):               {"name"},
	nameOf(&v1.HostAlias{}):            {"ip"},
	nameOf(&v1.OwnerReference{}):       {"uid"},
	nameOf(&v1.Volume{}):               {"name"},
	nameOf(&v1.VolumeMount{}):          {"mountPath"},
}

// keyDefaults are the values of key fields that a manifest may leave out.
var keyDefaults = map[string]any{"protocol": "TCP"}

// sets are the lists of strings that are merged as sets.
var sets = []protoreflect.FullName{
	nameOf(&v1.ObjectMeta{}) + ".finalizers",
}

// retainKeys are the messages of which nothing stays that the manifest does not
// name: otherwise "type: Recreate" would meet the rollingUpdate of the time
// before. They are those whose patchStrategy in Kubernetes is retainKeys.
var retainKeys = []protoreflect.FullName{
	nameOf(&v1.DeploymentStrategy{}),
	nameOf(&v1.Volume{}),
}

// Fields of metadata that a manifest cannot change, and those that it can only
// demand: the server compares them.
var (
	serverOwned = []string{"creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "managedFields", "selfLink"}
	identity    = []string{"generateName", "name", "namespace", "resourceVersion", "uid"}
)

// Merge returns live as it is after manifest has been applied to it, as
// kubectl apply would have it (a three-way strategic merge): what the manifest
// says is set, what lastApplied said and the manifest no longer says is
// removed, and all else stays. A null in the manifest removes. Lists are merged
// as mergeKeys has it. Status, and what else belongs to the server, stays
// live's.
//
// All are JSON objects of one kind; lastApplied may be empty, for an object
// that was never applied.
func Merge(lastApplied, manifest, live []byte) ([]byte, error) {
	if len(lastApplied) == 0 {
		lastApplied = []byte("{}")
	}
	var trees [3]map[string]any
	for i, data := range [][]byte{lastApplied, manifest, live} {
		tree, _, err := parseJSON(data)
		if err != nil {
			return nil, fmt.Errorf("merge %s: %w", []string{"last applied", "manifest", "live object"}[i], err)
		}
		if trees[i], err = asObject(tree); err != nil {
			return nil, fmt.Errorf("merge: %w", err)
		}
	}
	k, err := kindOf(trees[1])
	if err != nil {
		return nil, err
	}
	return json.Marshal(mergeObject(trees[0], trees[1], trees[2], k))
}

func mergeObject(last, next, live map[string]any, k *api.Kind) map[string]any {
	merged := mergeMap(last, next, live, k.New().ProtoReflect().Descriptor())
	put(merged, "status", live, true)
	liveMeta, _ := live["metadata"].(map[string]any)
	meta, ok := merged["metadata"].(map[string]any)
	if !ok {
		meta = map[string]any{}
		merged["metadata"] = meta
	}
	for _, name := range serverOwned {
		put(meta, name, liveMeta, true)
	}
	for _, name := range identity {
		put(meta, name, liveMeta, meta[name] == nil)
	}
	return merged
}

// put makes the field of to that of from, also where that is not set.
func put(to map[string]any, name string, from map[string]any, really bool) {
	if !really {
		return
	}
	delete(to, name)
	if v, ok := from[name]; ok {
		to[name] = v
	}
}

// mergeMap merges two objects; md is nil where the fields have no descriptor.
func mergeMap(last, next, live map[string]any, md protoreflect.MessageDescriptor) map[string]any {
	merged := map[string]any{}
	maps.Copy(merged, live)
	for name := range last {
		if _, ok := next[name]; !ok {
			delete(merged, name)
		}
	}
	for name, v := range next {
		if v == nil {
			delete(merged, name)
			continue
		}
		var fd protoreflect.FieldDescriptor
		if md != nil {
			fd = md.Fields().ByJSONName(name)
		}
		merged[name] = mergeValue(last[name], v, live[name], fd)
	}
	if md != nil && slices.Contains(retainKeys, md.FullName()) && len(next) > 0 {
		maps.DeleteFunc(merged, func(name string, _ any) bool { return next[name] == nil })
	}
	return merged
}

func mergeValue(last, next, live any, fd protoreflect.FieldDescriptor) any {
	switch next := next.(type) {
	case map[string]any:
		last, _ := last.(map[string]any)
		live, _ := live.(map[string]any)
		return mergeMap(last, next, live, messageOf(fd))
	case []any:
		last, _ := last.([]any)
		live, _ := live.([]any)
		if key := elementKey(fd); key != nil {
			return mergeList(last, next, live, key, messageOf(fd))
		}
		return withoutNulls(next)
	}
	return next
}

// messageOf returns the message that a field's objects are, or nil.
func messageOf(fd protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if fd == nil || fd.IsMap() {
		return nil
	}
	return fd.Message()
}

// elementKey returns the function that tells a list's elements apart ("" for an
// element without its key), or nil where the list is taken as a whole.
func elementKey(fd protoreflect.FieldDescriptor) func(any) string {
	switch {
	case fd == nil || !fd.IsList():
		return nil
	case slices.Contains(sets, fd.FullName()):
		return func(e any) string { s, _ := e.(string); return s }
	case fd.Message() == nil || mergeKeys[fd.Message().FullName()] == nil:
		return nil
	}
	return func(e any) string {
		m, _ := e.(map[string]any)
		var parts []string
		for _, name := range mergeKeys[fd.Message().FullName()] {
			v := m[name]
			if v == nil {
				v = keyDefaults[name]
			}
			if v == nil {
				return ""
			}
			parts = append(parts, fmt.Sprint(v))
		}
		return strings.Join(parts, "/")
	}
}

// mergeList merges lists by key. The manifest's elements come in its order;
// elements that are live's alone keep their order, each before the first of
// the manifest's that stood behind it. Where keys are missing or not unique
// there is nothing to merge by, and the manifest's list is taken.
func mergeList(last, next, live []any, key func(any) string, md protoreflect.MessageDescriptor) []any {
	lastAt, nextAt, liveAt := positions(last, key), positions(next, key), positions(live, key)
	if nextAt == nil || liveAt == nil {
		return withoutNulls(next)
	}
	merged := make([]any, 0, len(next)+len(live))
	for _, e := range next {
		var l, o map[string]any
		if i, ok := lastAt[key(e)]; ok {
			l, _ = last[i].(map[string]any)
		}
		if i, ok := liveAt[key(e)]; ok {
			o, _ = live[i].(map[string]any)
		}
		if m, ok := e.(map[string]any); ok {
			e = mergeMap(l, m, o, md)
		}
		merged = append(merged, e)
	}
	at := 0
	for i, e := range live {
		_, owned := lastAt[key(e)]
		_, kept := nextAt[key(e)]
		if owned || kept {
			continue
		}
		for at < len(merged) {
			if j, ok := liveAt[key(merged[at])]; ok && j > i {
				break
			}
			at++
		}
		merged = slices.Insert(merged, at, e)
		at++
	}
	return merged
}

// positions returns where each key is, or nil where a key is missing or not
// unique.
func positions(list []any, key func(any) string) map[string]int {
	at := make(map[string]int, len(list))
	for i, e := range list {
		k := key(e)
		if _, ok := at[k]; ok || k == "" {
			return nil
		}
		at[k] = i
	}
	return at
}

// withoutNulls returns a list without the fields that are null: they ask for
// removal, and there is nothing to remove.
func withoutNulls(list []any) []any {
	clean := make([]any, len(list))
	for i, e := range list {
		switch v := e.(type) {
		case map[string]any:
			e = mergeMap(nil, v, nil, nil)
		case []any:
			e = withoutNulls(v)
		}
		clean[i] = e
	}
	return clean
}

func nameOf(m protoreflect.ProtoMessage) protoreflect.FullName {
	return m.ProtoReflect().Descriptor().FullName()
}
