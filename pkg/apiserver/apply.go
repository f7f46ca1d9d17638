package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// Results of Apply, in kubectl's words.
const (
	created    = "created"
	configured = "configured"
	unchanged  = "unchanged"
)

// Apply makes an object what a manifest says, and remembers the manifest in the
// annotation that kubectl uses for it. What the manifest before said and this
// one does not is removed; what others wrote stays.
//
// A conflict with another writer is no error: the merge is done again with what
// that one wrote, unless the manifest itself names a resource version.
func (s *Server) Apply(ctx context.Context, r *v1.ApplyRequest) (*v1.ApplyResponse, error) {
	if n := len(r.GetManifest()); n > maxManifest {
		return nil, api.Errorf(api.ErrTooLarge, "Request entity too large: the manifest has %d bytes, the limit is %d", n, maxManifest)
	}
	validation, err := manifest.ParseValidation(r.GetFieldValidation())
	if err != nil {
		return nil, api.Errorf(api.ErrBadRequest, "%v", err)
	}
	o, warnings, err := manifest.Unmarshal(r.GetManifest(), validation)
	if err != nil {
		return nil, badManifest(err)
	}
	if o, err = s.objectOf(api.Wrap(o)); err != nil {
		return nil, err
	}
	if o.GetMetadata().GetName() == "" {
		return nil, api.Errorf(api.ErrBadRequest, "metadata.name: Required value: apply needs a name to find the object by")
	}
	applied, err := lastApplied(r.GetManifest())
	if err != nil {
		return nil, badManifest(err)
	}
	c := causeOf(ctx, r.GetCause(), "Apply")
	for {
		e, result, err := s.apply(ctx, o, r.GetManifest(), applied, c, r.GetDryRun())
		again := errors.Is(err, api.ErrConflict) || errors.Is(err, api.ErrAlreadyExists) // another writer was faster
		if again && o.GetMetadata().GetResourceVersion() == 0 && o.GetMetadata().GetUid() == "" && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &v1.ApplyResponse{Object: wire(e), Result: result, Warnings: warnings}, nil
	}
}

// apply is one try of Apply. The object is the manifest's, applied what is to
// be remembered of it.
func (s *Server) apply(ctx context.Context, o api.Object, doc []byte, applied string, c store.Cause, dryRun bool) (store.Entry, string, error) {
	k, m := api.KindOf(o), o.GetMetadata()
	old, err := s.current(ctx, k, m.GetNamespace(), m.GetName())
	if err != nil && !errors.Is(err, api.ErrNotFound) {
		return store.Entry{}, "", err
	}
	verb := "patch"
	if err != nil {
		verb = "create"
	}
	if err := s.authorizeWrite(ctx, verb, "", o, dryRun); err != nil {
		return store.Entry{}, "", err
	}
	if err != nil {
		first := api.Clone(o)
		api.Put(&first.GetMetadata().Annotations, api.AnnotationLastApplied, applied)
		e, err := s.create(ctx, first, c, dryRun)
		return e, created, err
	}
	next, err := merge(old.object, doc)
	if err != nil {
		return store.Entry{}, "", err
	}
	api.Put(&next.GetMetadata().Annotations, api.AnnotationLastApplied, applied)
	n := next.GetMetadata()
	n.Namespace, n.Uid, n.ResourceVersion = m.GetNamespace(), m.GetUid(), old.Revision
	if v := m.GetResourceVersion(); v != 0 && v != old.Revision {
		return store.Entry{}, "", api.Conflict(k, m.GetName(), modified)
	}
	e, err := s.update(ctx, next, s.admitUpdate(ctx), c, dryRun)
	result := configured
	if bytes.Equal(e.Value, old.Value) {
		result = unchanged
	}
	return e, result, err
}

// merge returns the live object as the manifest changes it.
func merge(live api.Object, doc []byte) (api.Object, error) {
	text, err := manifest.Marshal(live)
	if err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	before := live.GetMetadata().GetAnnotations()[api.AnnotationLastApplied]
	merged, err := manifest.Merge([]byte(before), doc, text)
	if err != nil {
		return nil, badManifest(err)
	}
	// What is unknown was refused or reported when the manifest was read.
	o, _, err := manifest.Unmarshal(merged, manifest.Ignore)
	if err != nil {
		return nil, badManifest(err)
	}
	return o, nil
}

// lastApplied is what the annotation remembers of a manifest: all of it, but
// for the annotation itself, in kubectl's form.
func lastApplied(doc []byte) (string, error) {
	var tree map[string]any
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return "", err
	}
	if m, ok := tree["metadata"].(map[string]any); ok {
		if a, ok := m["annotations"].(map[string]any); ok {
			delete(a, api.AnnotationLastApplied)
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(tree)
	return b.String(), err
}

// badManifest says that the client's document is at fault, unless the error
// says something itself.
func badManifest(err error) error {
	var se *api.StatusError
	if errors.As(err, &se) {
		return err
	}
	return api.Errorf(api.ErrBadRequest, "%v", err)
}
