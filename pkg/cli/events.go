package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/cli/printer"
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
			return g.run(c.Context(), f, []string{"events"})
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
