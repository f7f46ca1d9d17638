package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/client"
)

// selection is what a command line says about objects: TYPE [NAME...],
// TYPE/NAME ..., TYPE,TYPE, -f FILES, and the flags that narrow it.
type selection struct {
	files         []string
	recursive     bool
	labels        string
	fields        string
	all           bool
	allNamespaces bool
	// at is the moment to read; the zero one is now.
	at moment
}

// fileFlags adds -f and -R.
func (s *selection) fileFlags(c *cobra.Command, what string) {
	c.Flags().StringSliceVarP(&s.files, "filename", "f", nil, "files, directories, URLs, or - for standard input, with the objects to "+what)
	c.Flags().BoolVarP(&s.recursive, "recursive", "R", false, "go down into directories given with -f")
}

// selectorFlags adds -l, --field-selector and -A.
func (s *selection) selectorFlags(c *cobra.Command) {
	c.Flags().StringVarP(&s.labels, "selector", "l", "", "only objects with these labels (key=value,key!=value,key in (a,b),key,!key)")
	c.Flags().StringVar(&s.fields, "field-selector", "", "only objects with these fields (metadata.name=x,status.phase!=Running)")
	c.Flags().BoolVarP(&s.allNamespaces, "all-namespaces", "A", false, "objects of all namespaces")
}

// target is a kind, and a name unless all objects of the kind are meant.
type target struct {
	kind      *api.Kind
	namespace string
	name      string
}

func (t target) String() string { return t.kind.Plural + "/" + t.name }

// allKinds is what "all" stands for.
var allKinds = []string{"pods", "deployments", "replicasets"}

// kindOf finds the kind that a word means, or says which there are.
func kindOf(word string) (*api.Kind, error) {
	if k := api.KindByResource(word); k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("the server doesn't have a resource type %q: 'orchctl api-resources' lists those that it has", word)
}

// parse reads the arguments. Names come in the order in which they were given.
func (s *selection) parse(f *factory, args []string) ([]target, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("you must specify the type of resource, for example 'pods' or 'deployment/web': 'orchctl api-resources' lists the types")
	}
	var out []target
	add := func(k *api.Kind, name string) {
		t := target{kind: k, name: name}
		if k.Namespaced && !s.allNamespaces {
			t.namespace = f.ns()
		}
		out = append(out, t)
	}
	if strings.Contains(args[0], "/") {
		for _, a := range args {
			word, name, ok := strings.Cut(a, "/")
			if !ok || name == "" || strings.Contains(name, "/") {
				return nil, fmt.Errorf("arguments in resource/name form may not have more than one slash, and all must have that form: %q", a)
			}
			k, err := kindOf(word)
			if err != nil {
				return nil, err
			}
			add(k, name)
		}
	} else {
		var kinds []*api.Kind
		for word := range strings.SplitSeq(args[0], ",") {
			words := []string{word}
			if word == "all" {
				words = allKinds
			}
			for _, w := range words {
				k, err := kindOf(w)
				if err != nil {
					return nil, err
				}
				if !slices.Contains(kinds, k) {
					kinds = append(kinds, k)
				}
			}
		}
		for _, k := range kinds {
			if len(args) == 1 {
				add(k, "")
			}
			for _, name := range args[1:] {
				if strings.Contains(name, "/") {
					return nil, fmt.Errorf("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form: %q", name)
				}
				add(k, name)
			}
		}
	}
	for _, t := range out {
		if t.name == "" {
			continue
		}
		if s.labels != "" || s.fields != "" {
			return nil, fmt.Errorf("name cannot be provided when a selector is specified")
		}
		if s.allNamespaces && t.kind.Namespaced {
			return nil, fmt.Errorf("a resource cannot be retrieved by name across all namespaces: use -n NAMESPACE")
		}
	}
	return out, nil
}

// narrowed refuses to mean all objects of a kind where nobody has said so.
func (s *selection) narrowed(targets []target) error {
	wide := slices.ContainsFunc(targets, func(t target) bool { return t.name == "" })
	if wide && s.labels == "" && s.fields == "" && !s.all {
		return fmt.Errorf("resource(s) were provided, but no name was specified: name them, or use -l SELECTOR or --all")
	}
	return nil
}

// documents reads the manifests of -f and fills in the namespace. As in kubectl,
// what is wrong with some does not keep the others back.
func (s *selection) documents(f *factory, v manifest.Validation) (docs []manifest.Document, errs []error) {
	all, err := manifest.Load(s.files, s.recursive, f.In, v)
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			errs = append(errs, errors.New(err.Error())) // not a server's error: nothing was sent
		}
	}
	if len(all) == 0 && err == nil {
		return nil, []error{fmt.Errorf("no objects passed")}
	}
	for _, d := range all {
		for _, w := range d.Warnings {
			fmt.Fprintf(f.Err, "Warning: %s: %s\n", d.Source, w)
		}
		k, m := api.KindOf(d.Object), d.Object.GetMetadata()
		switch {
		case !k.Namespaced:
		case m.GetNamespace() == "":
			m.Namespace = f.ns()
		case f.namespace != "" && f.namespace != m.GetNamespace():
			errs = append(errs, fmt.Errorf("%s: the namespace from the provided object %q does not match the namespace %q: you must pass '--namespace=%s' to perform this operation", d.Source, m.GetNamespace(), f.namespace, m.GetNamespace()))
			continue
		}
		docs = append(docs, d)
	}
	return docs, errs
}

// targets is what -f or the arguments name; nothing where some of it is wrong.
func (s *selection) targets(f *factory, args []string) ([]target, error) {
	out, errs := s.goodTargets(f, args)
	if len(errs) > 0 {
		return nil, f.report(errs)
	}
	return out, nil
}

// goodTargets is what -f or the arguments name, without the documents that are
// wrong.
func (s *selection) goodTargets(f *factory, args []string) (out []target, errs []error) {
	if len(s.files) == 0 {
		out, err := s.parse(f, args)
		if err != nil {
			errs = append(errs, err)
		}
		return out, errs
	}
	if len(args) > 0 {
		return nil, []error{fmt.Errorf("when -f is given, resources may not be named as arguments")}
	}
	docs, errs := s.documents(f, manifest.Ignore)
	for _, d := range docs {
		m := d.Object.GetMetadata()
		out = append(out, target{kind: api.KindOf(d.Object), namespace: m.GetNamespace(), name: m.GetName()})
	}
	return out, errs
}

// found is one kind's part of an answer.
type found struct {
	kind    *api.Kind
	objects []api.Object
	// revision that the list shows; 0 for single objects.
	revision int64
	// single says that the user named the objects.
	single bool
}

// fetch gets what the targets name, grouped by kind in the order of first
// mention. The errors of objects that are not there come joined, beside those
// that are.
func (s *selection) fetch(ctx context.Context, c *client.Client, targets []target) ([]found, []error) {
	var out []found
	var errs []error
	group := func(k *api.Kind) *found {
		for i := range out {
			if out[i].kind == k {
				return &out[i]
			}
		}
		out = append(out, found{kind: k})
		return &out[len(out)-1]
	}
	for _, t := range targets {
		r := client.ForKind(c, t.kind)
		if t.name != "" {
			o, err := s.at.get(ctx, r, t)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			g := group(t.kind)
			g.single = true
			g.objects = append(g.objects, o)
			continue
		}
		l, err := r.List(ctx, client.ListOptions{
			Namespace: t.namespace, LabelSelector: s.labels, FieldSelector: s.fields, At: s.at.revision, AtTime: s.at.time,
		})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		g := group(t.kind)
		g.objects, g.revision = append(g.objects, l.Items...), l.Revision
	}
	return out, errs
}

// each fetches what the targets name and does something to every object. It says
// where there is none, and returns what report makes of the errors.
func (s *selection) each(ctx context.Context, f *factory, targets []target, do func(*client.Client, api.Object) error) error {
	c, err := f.client()
	if err != nil {
		return err
	}
	answer, errs := s.fetch(ctx, c, targets)
	n := 0
	for _, a := range answer {
		for _, o := range a.objects {
			n++
			if err := do(c, o); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if n == 0 && len(errs) == 0 {
		s.nothing(f, targets)
	}
	return f.report(errs)
}

// nothing says on standard error that there are no objects.
func (s *selection) nothing(f *factory, targets []target) {
	if s.allNamespaces || !slices.ContainsFunc(targets, func(t target) bool { return t.kind.Namespaced }) {
		fmt.Fprintln(f.Err, "No resources found")
		return
	}
	fmt.Fprintf(f.Err, "No resources found in %s namespace.\n", f.ns())
}

// withoutMissing leaves out the errors of objects that are not there.
func withoutMissing(errs []error) []error {
	return slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, api.ErrNotFound) })
}

// report prints all errors but the last, one a line, and returns the last, so
// that every object that failed is named.
func (f *factory) report(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	for _, err := range errs[:len(errs)-1] {
		fmt.Fprintln(f.Err, explain(err))
	}
	return errs[len(errs)-1]
}

// completeKinds completes TYPE, then the names of objects of that type.
func (f *factory) completeKinds(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 && !strings.Contains(prefix, "/") {
		var words []string
		for _, k := range api.Kinds() {
			words = append(words, k.Plural)
		}
		sort.Strings(words)
		return words, cobra.ShellCompDirectiveNoFileComp
	}
	word, before := prefix, ""
	if len(args) > 0 {
		word = args[0]
	} else if i := strings.Index(prefix, "/"); i >= 0 {
		word, before = prefix[:i], prefix[:i+1]
	}
	k := api.KindByResource(word)
	c, err := f.client()
	if k == nil || err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	l, err := client.ForKind(c, k).List(cmd.Context(), client.ListOptions{Namespace: f.namespaceFor(k)})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, o := range l.Items {
		names = append(names, before+o.GetMetadata().GetName())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// namespaceFor is the request's namespace for namespaced kinds, "" for others.
func (f *factory) namespaceFor(k *api.Kind) string {
	if k.Namespaced {
		return f.ns()
	}
	return ""
}
