package apiserver

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"iter"
	"strconv"
	"strings"

	"orch/pkg/api"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// Bounds of a list.
const (
	// scanChunk is how many keys are read from the store at a time.
	scanChunk = 500
	// maxPage ends a page of a list that is asked for without a limit, in
	// bytes, so that no answer exceeds the 4 MiB that a gRPC client takes by
	// default. The client goes on with the continue token.
	maxPage = 2 << 20
)

// Get returns one object.
func (s *Server) Get(ctx context.Context, r *v1.GetRequest) (*v1.Object, error) {
	k, err := kindOf(r.GetKind())
	if err != nil {
		return nil, err
	}
	key, err := s.ask(ctx, "get", k, "", r.GetNamespace(), r.GetName())
	if err != nil {
		return nil, err
	}
	at, err := s.moment(ctx, r.GetAtRevision(), r.GetAtTime())
	if err != nil {
		return nil, err
	}
	e, err := s.store.Get(ctx, keyOf(k, key.Namespace, key.Name), at)
	if err != nil {
		return nil, storeError(err, k, key.Name)
	}
	return wire(e), nil
}

// List returns a page of the objects of one kind.
func (s *Server) List(ctx context.Context, r *v1.ListRequest) (*v1.ListResponse, error) {
	f, err := newFilter(r.GetKind(), r.GetNamespace(), r.GetLabelSelector(), r.GetFieldSelector())
	if err != nil {
		return nil, err
	}
	noteOf(ctx).object(f.kind, r.GetNamespace(), "")
	if err := s.authorize(ctx, onFilter("list", f)); err != nil {
		return nil, err
	}
	at, err := s.moment(ctx, r.GetAtRevision(), r.GetAtTime())
	if err != nil {
		return nil, err
	}
	after := ""
	if r.GetContinue() != "" {
		t, err := parseToken(r.GetContinue(), f.prefix())
		if err != nil {
			return nil, err
		}
		at, after = t.revision, t.after
	}
	at = cmp.Or(at, s.store.Revision())
	page := &v1.ListResponse{Revision: at}
	last, size := "", 0
	for e, err := range s.scan(ctx, f, at, after) {
		if err != nil {
			return nil, listError(err, r.GetContinue() != "")
		}
		full := r.GetLimit() > 0 && len(page.GetItems()) == int(r.GetLimit())
		if full || len(page.GetItems()) > 0 && size+len(e.Value) > maxPage {
			page.Continue = token{at, last}.String()
			break
		}
		page.Items = append(page.Items, wire(e))
		last, size = e.Key, size+len(e.Value)
	}
	return page, nil
}

// listError is Kubernetes' sentence where a list cannot be finished as it was
// begun.
func listError(err error, continued bool) error {
	if continued && errors.Is(err, api.ErrExpired) {
		return api.Errorf(api.ErrExpired, "The provided continue parameter is too old to display a consistent list result. "+
			"You can start a new list without the continue parameter.")
	}
	return err
}

// scan yields the entries that the filter lets through, in the order of their
// keys, as they were at a revision.
func (s *Server) scan(ctx context.Context, f *filter, at int64, after string) iter.Seq2[store.Entry, error] {
	if at == 0 {
		return func(func(store.Entry, error) bool) {} // nothing was ever written
	}
	if f.exact != "" {
		return s.scanExact(ctx, f, at, after)
	}
	return func(yield func(store.Entry, error) bool) {
		for {
			page, err := s.store.List(ctx, f.prefix(), store.ListOptions{At: at, After: after, Limit: scanChunk})
			if err != nil {
				yield(store.Entry{}, storeError(err, f.kind, ""))
				return
			}
			for _, e := range page.Entries {
				ok, err := s.matches(f, e)
				if (ok || err != nil) && !yield(e, err) {
					return
				}
				after = e.Key
			}
			if !page.More {
				return
			}
		}
	}
}

// scanExact is scan for a filter that only one key can pass.
func (s *Server) scanExact(ctx context.Context, f *filter, at int64, after string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		e, err := s.store.Get(ctx, f.exact, at)
		switch {
		case errors.Is(err, store.ErrNotFound) || e.Key <= after && err == nil:
			return
		case err != nil:
			yield(e, storeError(err, f.kind, ""))
			return
		}
		if ok, err := s.matches(f, e); ok || err != nil {
			yield(e, err)
		}
	}
}

// token is what a continue token holds: the revision of the list and the key
// after which it goes on. Clients take it as it is.
type token struct {
	revision int64
	after    string
}

func (t token) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(t.revision, 10) + " " + t.after))
}

func parseToken(text, prefix string) (token, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	revision, after, ok := strings.Cut(string(raw), " ")
	n, numErr := strconv.ParseInt(revision, 10, 64)
	if err != nil || !ok || numErr != nil || n <= 0 || !strings.HasPrefix(after, prefix) {
		return token{}, api.Errorf(api.ErrBadRequest, "continue key is not valid: it is not from a list like this one")
	}
	return token{n, after}, nil
}

// kindOf returns the kind of a request.
func kindOf(name string) (*api.Kind, error) {
	if k := api.KindByName(name); k != nil {
		return k, nil
	}
	return nil, api.Errorf(api.ErrBadRequest, "no matches for kind %q", name)
}

// ask is what requests for one object begin with: it returns the key that is meant,
// once it is known that the caller may do this.
func (s *Server) ask(ctx context.Context, verb string, k *api.Kind, sub, namespace, name string) (api.Key, error) {
	key, err := keyIn(k, namespace, name)
	if err != nil {
		return key, err
	}
	noteOf(ctx).object(k, key.Namespace, key.Name)
	return key, s.authorize(ctx, on(verb, k, sub, key.Namespace, key.Name))
}

// keyIn returns the key that a request means: in the namespace default where it
// names none.
func keyIn(k *api.Kind, namespace, name string) (api.Key, error) {
	switch {
	case name == "":
		return api.Key{}, api.Errorf(api.ErrBadRequest, "name is required")
	case !k.Namespaced:
		return api.Key{Name: name}, nil
	case namespace == "":
		namespace = api.NamespaceDefault
	}
	return api.Key{Namespace: namespace, Name: name}, nil
}
