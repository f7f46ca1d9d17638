package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func newEvents(f *factory) *cobra.Command {
	var (
		g     getFlags
		about string
		types []string
	)
	c := &cobra.Command{
		Use: "events [--for TYPE/NAME]", Short: "Show what happened, oldest first", Args: cobra.NoArgs,
		Example: "  orchctl events\n  orchctl events --for pod/web-1 -w\n  orchctl events --types=Warning -A",
		RunE: func(c *cobra.Command, _ []string) error {
			if about != "" {
				s := selection{}
				t, err := s.parse(f, []string{about})
				if err != nil {
					return err
				}
				g.fields = "involvedObject.kind=" + t[0].kind.Name + ",involvedObject.name=" + t[0].name
			}
			if len(types) == 1 {
				g.fields = strings.TrimPrefix(g.fields+",type="+types[0], ",")
			}
			g.inOrder = sortEvents[api.Object]
			if g.watch || g.output != "" && g.output != "wide" {
				return g.run(c.Context(), f, []string{"events"})
			}
			cl, err := f.client()
			if err != nil {
				return err
			}
			o := client.ListOptions{FieldSelector: g.fields}
			if !g.allNamespaces {
				o.Namespace = f.ns()
			}
			list, err := client.For[*v1.Event](cl).List(c.Context(), o)
			if err != nil {
				return err
			}
			sortEvents(list.Items)
			var objects []api.Object
			for _, e := range list.Items {
				objects = append(objects, e)
			}
			k := api.KindByName("Event")
			if len(objects) == 0 {
				g.nothing(f, []target{{kind: k}})
				return nil
			}
			return g.table(f, false).Print(k, objects, time.Now())
		},
	}
	c.Flags().StringVar(&about, "for", "", "only events about this object, as TYPE/NAME")
	c.Flags().StringSliceVar(&types, "types", nil, "only events of this type: Normal or Warning")
	c.Flags().BoolVarP(&g.watch, "watch", "w", false, "go on with what will happen")
	c.Flags().BoolVarP(&g.allNamespaces, "all-namespaces", "A", false, "events of all namespaces")
	c.Flags().BoolVar(&g.noHeaders, "no-headers", false, "leave the header out")
	c.Flags().StringVarP(&g.output, "output", "o", "", "output format: "+printer.Formats)
	return c
}

// sortEvents puts events in the order in which they were last seen.
func sortEvents[T api.Object](events []T) {
	at := func(e T) time.Time { return printer.EventTime(api.Object(e).(*v1.Event)).AsTime() }
	slices.SortStableFunc(events, func(a, b T) int { return at(a).Compare(at(b)) })
}
