package cli

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/cli/jsonpath"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// getFlags are the flags of get.
type getFlags struct {
	selection
	output         string
	watch          bool
	watchOnly      bool
	sortBy         string
	showLabels     bool
	showKind       bool
	labelColumns   []string
	noHeaders      bool
	ignoreNotFound bool
	// inOrder, where set, sorts what is shown at once.
	inOrder func([]api.Object)
}

func newGet(f *factory) *cobra.Command {
	var g getFlags
	c := &cobra.Command{
		Use:   "get TYPE [NAME...] | TYPE/NAME... | -f FILE",
		Short: "Show one or many objects",
		Example: "  orchctl get pods -o wide\n" +
			"  orchctl get deployments,replicasets,pods -l app=recommend-service\n" +
			"  orchctl get pod web-1 -o jsonpath='{.status.podIP}'\n" +
			"  orchctl get pods -w\n  orchctl get pods --at 10m",
		ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			return g.run(c.Context(), f, args)
		},
	}
	g.fileFlags(c, "show")
	g.selectorFlags(c)
	c.Flags().StringVarP(&g.output, "output", "o", "", "output format: "+printer.Formats)
	c.Flags().BoolVarP(&g.watch, "watch", "w", false, "after the list, show every change until interrupted")
	c.Flags().Var(&g.at, "at", "show what was at this moment: "+momentForms)
	c.Flags().BoolVar(&g.watchOnly, "watch-only", false, "show only changes, not the list")
	c.Flags().StringVar(&g.sortBy, "sort-by", "", "sort by this field, as a JSONPath (for example '{.metadata.name}')")
	c.Flags().BoolVar(&g.showLabels, "show-labels", false, "show all labels as the last column")
	c.Flags().BoolVar(&g.showKind, "show-kind", false, "show names as TYPE/NAME")
	c.Flags().StringSliceVarP(&g.labelColumns, "label-columns", "L", nil, "labels to show as columns")
	c.Flags().BoolVar(&g.noHeaders, "no-headers", false, "leave the header out")
	c.Flags().BoolVar(&g.ignoreNotFound, "ignore-not-found", false, "no error for an object that does not exist")
	c.MarkFlagsMutuallyExclusive("at", "watch")
	c.MarkFlagsMutuallyExclusive("at", "watch-only")
	return c
}

func (g *getFlags) run(ctx context.Context, f *factory, args []string) error {
	p, err := printer.New(g.output)
	if err != nil {
		return err
	}
	targets, err := g.targets(f, args)
	if err != nil {
		return err
	}
	ctx, c, err := f.begin(ctx, "Get", "")
	if err != nil {
		return err
	}
	if g.watch || g.watchOnly {
		return g.follow(ctx, f, c, targets, p)
	}
	answer, errs := g.fetch(ctx, c, targets)
	if g.ignoreNotFound {
		errs = withoutMissing(errs)
	}
	var objects []api.Object
	for _, a := range answer {
		if g.inOrder != nil {
			g.inOrder(a.objects)
		}
		if g.sortBy != "" {
			if err := sortBy(a.objects, g.sortBy); err != nil {
				return err
			}
		}
		objects = append(objects, a.objects...)
	}
	if p != nil {
		// Where everything that was named is missing there is nothing to print.
		if len(objects) > 0 || len(errs) == 0 && !(g.ignoreNotFound && targets[0].name != "") {
			single := len(targets) == 1 && targets[0].name != ""
			if err := p.Print(f.Out, objects, single); err != nil {
				return err
			}
		}
		return f.report(errs)
	}
	now, err := g.at.when(ctx, c)
	if err != nil {
		return err
	}
	several := len(answer) > 1 || g.showKind
	shown := 0
	for _, a := range answer {
		if len(a.objects) == 0 {
			continue
		}
		if shown > 0 {
			fmt.Fprintln(f.Out)
		}
		shown++
		if err := g.table(f, several).Print(a.kind, a.objects, now); err != nil {
			return err
		}
	}
	if len(objects) == 0 && len(errs) == 0 && !g.ignoreNotFound {
		g.nothing(f, targets)
	}
	return f.report(errs)
}

func (g *getFlags) table(f *factory, withKind bool) *printer.Table {
	return &printer.Table{
		Out: f.Out, Wide: g.output == "wide", WithNamespace: g.allNamespaces, WithKind: withKind,
		ShowLabels: g.showLabels, LabelColumns: g.labelColumns, NoHeaders: g.noHeaders,
	}
}

// follow lists and then prints every change until it is interrupted, or the
// request's timeout is over. A watch that the server ends goes on from where it
// was.
func (g *getFlags) follow(ctx context.Context, f *factory, c *client.Client, targets []target, p printer.Printer) error {
	if len(targets) != 1 {
		return fmt.Errorf("you may only watch one resource type or object at a time")
	}
	t := targets[0]
	o := client.WatchOptions{Namespace: t.namespace, LabelSelector: g.labels, FieldSelector: g.fields}
	if t.name != "" {
		if _, err := client.ForKind(c, t.kind).Get(ctx, t.namespace, t.name); err != nil {
			return err
		}
		o.FieldSelector = "metadata.name=" + t.name
	}
	table := g.table(f, g.showKind)
	show := func(objects []api.Object) error {
		if p != nil {
			for _, o := range objects {
				if err := p.Print(f.Out, []api.Object{o}, true); err != nil {
					return err
				}
			}
			return nil
		}
		return table.Print(t.kind, objects, time.Now())
	}
	var initial []api.Object
	synced := false
	err := eachEvent(ctx, client.ForKind(c, t.kind), o, func(e client.Event[api.Object]) (bool, error) {
		switch e.Type {
		case v1.WatchEvent_TYPE_SYNCED:
			synced = true
			if g.watchOnly || len(initial) == 0 {
				return false, nil
			}
			if g.inOrder != nil {
				g.inOrder(initial)
			}
			return false, show(initial)
		case v1.WatchEvent_TYPE_BOOKMARK:
			return false, nil
		}
		if !synced {
			initial = append(initial, e.Object)
			return false, nil
		}
		return false, show([]api.Object{e.Object})
	})
	if synced && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, api.ErrTimeout)) {
		return nil // it has shown what it was given time for
	}
	return err
}

// eachEvent follows a watch until do returns true or an error, or ctx ends. It
// reconnects when the server goes away, and goes on after the last revision
// that it has seen.
func eachEvent(ctx context.Context, r client.Resource[api.Object], o client.WatchOptions, do func(client.Event[api.Object]) (bool, error)) error {
	for {
		var failed error
		for e, err := range r.Watch(ctx, o) {
			if err != nil {
				failed = err
				break
			}
			if e.Type == v1.WatchEvent_TYPE_SYNCED || o.From != nil {
				o.From = &e.Revision
			}
			done, err := do(e)
			if done || err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Before the first SYNCED nothing has been shown, so a server that
		// does not answer is an error that the user should see.
		if failed == nil || o.From == nil || !errors.Is(failed, api.ErrUnavailable) {
			return failed
		}
		if err := pauseFor(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// eachEventOf follows one object, also from before it is there.
func eachEventOf(ctx context.Context, c *client.Client, k *api.Kind, namespace, name string, do func(client.Event[api.Object]) (bool, error)) error {
	return eachEvent(ctx, client.ForKind(c, k), client.WatchOptions{Namespace: namespace, FieldSelector: "metadata.name=" + name}, do)
}

// sortBy sorts objects by the value at a path: numbers as numbers, quantities
// and times by what they mean, all else as text. Objects without one come
// first.
func sortBy(objects []api.Object, path string) error {
	t, err := jsonpath.ParseRelaxed(path)
	if err != nil {
		return fmt.Errorf("--sort-by %s: %w", path, err)
	}
	type row struct {
		o   api.Object
		key any
	}
	rows, found := make([]row, len(objects)), len(objects) == 0
	for i, o := range objects {
		rows[i].o = o
		m, err := manifest.ToMap(o)
		if err != nil {
			return err
		}
		if v, err := t.Find(m); err == nil && len(v) > 0 {
			rows[i].key, found = v[0], true
		}
	}
	if !found {
		return fmt.Errorf("couldn't find any field with path %q in the list of objects", path)
	}
	sort.SliceStable(rows, func(i, j int) bool { return less(rows[i].key, rows[j].key) })
	for i := range rows {
		objects[i] = rows[i].o
	}
	return nil
}

func less(a, b any) bool {
	if a == nil || b == nil {
		return a == nil && b != nil
	}
	if x, ok := number(a); ok {
		if y, ok := number(b); ok {
			return x < y
		}
	}
	x, y := fmt.Sprint(a), fmt.Sprint(b)
	if p, err := api.ParseQuantity(x); err == nil {
		if q, err := api.ParseQuantity(y); err == nil {
			return p.Cmp(q) < 0
		}
	}
	return strings.Compare(x, y) < 0
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case int32:
		return float64(n), true
	case int:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}
