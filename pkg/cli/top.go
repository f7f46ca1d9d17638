package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func newTop(f *factory) *cobra.Command {
	return group("top", "Show what nodes or pods use of cpu and memory", newTopPods(f), newTopNodes(f))
}

// topFlags are those that both have.
type topFlags struct {
	selection
	sortBy    string
	noHeaders bool
}

func (t *topFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&t.labels, "selector", "l", "", "only objects with these labels")
	c.Flags().StringVar(&t.sortBy, "sort-by", "", "cpu or memory")
	c.Flags().BoolVar(&t.noHeaders, "no-headers", false, "rows only")
}

func (t *topFlags) check(args []string) error {
	switch {
	case t.sortBy != "" && t.sortBy != "cpu" && t.sortBy != "memory":
		return fmt.Errorf("--sort-by accepts only cpu or memory")
	case len(args) > 1:
		return fmt.Errorf("one NAME at most, not %d", len(args))
	case len(args) == 1 && (t.labels != "" || t.fields != ""):
		return fmt.Errorf("only one of NAME or selector can be provided")
	}
	return nil
}

// use is one line: what something uses.
type use struct {
	cells []string // before the figures; for nodes the name
	*v1.Usage
}

// sorted orders lines by their cells, or the greatest first.
func (t *topFlags) sorted(uses []use) {
	slices.SortFunc(uses, func(a, b use) int {
		most := 0
		switch t.sortBy {
		case "cpu":
			most = cmp.Compare(b.GetCpuNanocores(), a.GetCpuNanocores())
		case "memory":
			most = cmp.Compare(b.GetMemoryBytes(), a.GetMemoryBytes())
		}
		return cmp.Or(most, slices.Compare(a.cells, b.cells))
	})
}

func (t *topFlags) print(out io.Writer, head []string, rows [][]string) error {
	w := tabwriter.NewWriter(out, 6, 4, 3, ' ', 0)
	if !t.noHeaders {
		rows = append([][]string{head}, rows...)
	}
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t")+"\t")
	}
	return w.Flush()
}

func milli(u *v1.Usage) int64 { return (u.GetCpuNanocores() + 999_999) / 1_000_000 } // as quantities: up

func cores(u *v1.Usage) string     { return fmt.Sprintf("%dm", milli(u)) }
func mebibytes(u *v1.Usage) string { return fmt.Sprintf("%dMi", u.GetMemoryBytes()>>20) }

func newTopPods(f *factory) *cobra.Command {
	var (
		t               topFlags
		containers, sum bool
	)
	c := &cobra.Command{
		Use: "pod [NAME | -l SELECTOR]", Aliases: []string{"pods", "po"}, Short: "Show what pods use of cpu and memory",
		Example: "  orchctl top pods\n  orchctl top pod web-1 --containers\n  orchctl top pods -A --sort-by=memory", ValidArgsFunction: f.completePods,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cl, pods, err := namedOrAll[*v1.Pod](c.Context(), f, &t, args)
			if err != nil {
				return err
			}
			var nodes []string
			for _, p := range pods {
				nodes = append(nodes, p.GetSpec().GetNodeName())
			}
			stats, err := statsOf(ctx, cl, nodes)
			if err != nil {
				return err
			}
			uses := podUses(pods, stats, containers, t.allNamespaces)
			switch {
			case len(uses) == 0 && len(pods) > 0:
				return fmt.Errorf("metrics not available yet")
			case len(uses) == 0:
				t.nothing(f, []target{{kind: api.KindByName("Pod")}})
				return nil
			}
			t.sorted(uses)
			head := []string{"NAME", "CPU(cores)", "MEMORY(bytes)"}
			if containers {
				head = slices.Insert(head, 0, "POD")
			}
			if t.allNamespaces {
				head = slices.Insert(head, 0, "NAMESPACE")
			}
			total := &v1.Usage{}
			var rows [][]string
			for _, u := range uses {
				rows = append(rows, append(u.cells, cores(u.Usage), mebibytes(u.Usage)))
				total.CpuNanocores += u.GetCpuNanocores()
				total.MemoryBytes += u.GetMemoryBytes()
			}
			if sum {
				empty := make([]string, len(head)-2)
				rows = append(rows, append(slices.Clone(empty), "________", "________"), append(slices.Clone(empty), cores(total), mebibytes(total)))
			}
			return t.print(f.Out, head, rows)
		},
	}
	t.add(c)
	c.Flags().StringVar(&t.fields, "field-selector", "", "only objects with these fields")
	c.Flags().BoolVarP(&t.allNamespaces, "all-namespaces", "A", false, "pods of all namespaces")
	c.Flags().BoolVar(&containers, "containers", false, "a line for each container")
	c.Flags().BoolVar(&sum, "sum", false, "end with the sum")
	return c
}

// namedOrAll begins to ask, for the object that args name, or all that the selectors
// leave.
func namedOrAll[T api.Object](ctx context.Context, f *factory, t *topFlags, args []string) (context.Context, *client.Client, []T, error) {
	if err := t.check(args); err != nil {
		return nil, nil, nil, err
	}
	ctx, c, err := f.begin(ctx, "Get", "")
	if err != nil {
		return nil, nil, nil, err
	}
	r, namespace := client.For[T](c), f.ns()
	if t.allNamespaces || !r.Kind().Namespaced {
		namespace = ""
	}
	if len(args) == 1 {
		o, err := r.Get(ctx, namespace, args[0])
		return ctx, c, []T{o}, err
	}
	l, err := r.List(ctx, client.ListOptions{Namespace: namespace, LabelSelector: t.labels, FieldSelector: t.fields})
	return ctx, c, l.Items, err
}

// statsOf asks the agents of the nodes, all at once. Who does not answer, while
// others do, is left out.
func statsOf(ctx context.Context, c *client.Client, nodes []string) (map[string]*v1.StatsResponse, error) {
	slices.Sort(nodes)
	nodes = slices.Compact(slices.DeleteFunc(nodes, func(n string) bool { return n == "" }))
	answers, errs := make([]*v1.StatsResponse, len(nodes)), make([]error, len(nodes))
	var group errgroup.Group
	for i, n := range nodes {
		group.Go(func() error {
			answers[i], errs[i] = c.Streams().Stats(ctx, &v1.StatsRequest{Node: n})
			return nil
		})
	}
	_ = group.Wait()
	stats := map[string]*v1.StatsResponse{}
	for i, n := range nodes {
		if errs[i] == nil {
			stats[n] = answers[i]
		}
	}
	if len(stats) == 0 && len(nodes) > 0 {
		return nil, api.FromStatus(errs[0])
	}
	return stats, nil
}

// podUses are the lines of the pods, or of their containers.
func podUses(pods []*v1.Pod, stats map[string]*v1.StatsResponse, containers, namespaces bool) []use {
	found := map[api.Key][]*v1.ContainerStats{}
	for _, answer := range stats {
		for _, p := range answer.GetPods() {
			found[api.Key{Namespace: p.GetNamespace(), Name: p.GetName()}] = p.GetContainers()
		}
	}
	var uses []use
	for _, p := range pods {
		cells := []string{p.GetMetadata().GetName()}
		if namespaces {
			cells = []string{p.GetMetadata().GetNamespace(), p.GetMetadata().GetName()}
		}
		sum := use{cells, &v1.Usage{}}
		of := found[api.KeyOf(p)]
		for _, c := range of {
			if containers {
				uses = append(uses, use{append(slices.Clone(cells), c.GetName()), c.GetUsage()})
			}
			sum.CpuNanocores += c.GetUsage().GetCpuNanocores()
			sum.MemoryBytes += c.GetUsage().GetMemoryBytes()
		}
		if len(of) > 0 && !containers {
			uses = append(uses, sum)
		}
	}
	return uses
}

func newTopNodes(f *factory) *cobra.Command {
	var (
		t            topFlags
		showCapacity bool
	)
	c := &cobra.Command{
		Use: "node [NAME | -l SELECTOR]", Aliases: []string{"nodes", "no"}, Short: "Show what nodes use of cpu and memory",
		Example: "  orchctl top nodes\n  orchctl top nodes --sort-by=cpu",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cl, nodes, err := namedOrAll[*v1.Node](c.Context(), f, &t, args)
			if err != nil {
				return err
			}
			var names []string
			of := map[string]api.Resources{}
			for _, n := range nodes {
				names = append(names, n.GetMetadata().GetName())
				whole := n.GetStatus().GetAllocatable()
				if showCapacity {
					whole = n.GetStatus().GetCapacity()
				}
				of[n.GetMetadata().GetName()] = api.ResourcesOf(whole)
			}
			stats, err := statsOf(ctx, cl, names)
			if err != nil {
				return err
			}
			var uses []use
			var rows, silent [][]string
			for _, n := range names {
				if s := stats[n]; s != nil {
					uses = append(uses, use{[]string{n}, s.GetNode()})
				} else {
					silent = append(silent, []string{n, "<unknown>", "<unknown>", "<unknown>", "<unknown>"})
				}
			}
			if len(names) == 0 {
				t.nothing(f, nil)
				return nil
			}
			t.sorted(uses)
			for _, u := range uses {
				whole := of[u.cells[0]]
				rows = append(rows, append(u.cells, cores(u.Usage), percent(milli(u.Usage), whole.MilliCPU), mebibytes(u.Usage), percent(u.GetMemoryBytes(), whole.Memory)))
			}
			return t.print(f.Out, []string{"NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"}, append(rows, silent...))
		},
	}
	t.add(c)
	c.Flags().BoolVar(&showCapacity, "show-capacity", false, "percentages of the capacity, and not of what pods can have")
	return c
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return "0%"
	}
	return fmt.Sprintf("%d%%", part*100/whole)
}
