package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/cli/lab"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func newLab(f *factory) *cobra.Command {
	c := group("lab", "List the lessons of docs/labs, and grade one", newLabList(f), newLabCheck(f))
	c.Long = "The lessons of docs/labs. Each asks for things to do; 'lab check' looks in the log\n" +
		"whether they were done and what followed."
	return c
}

func newLabList(f *factory) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "list", Short: "List the lessons", Args: cobra.NoArgs, Example: "  orchctl lab list",
		RunE: func(*cobra.Command, []string) error {
			if output == "json" {
				return printJSON(f, lab.Lessons())
			}
			rows := [][]string{{"LAB", "TITLE", "MINUTES", "PAGE"}}
			for _, l := range lab.Lessons() {
				rows = append(rows, []string{strconv.Itoa(l.Number), l.Title, strconv.Itoa(l.Minutes), l.Page})
			}
			return printer.Rows(f.Out, rows)
		},
	}
	jsonFlag(c, &output, "a table")
	return c
}

func newLabCheck(f *factory) *cobra.Command {
	var (
		since  moment
		output string
	)
	c := &cobra.Command{
		Use: "check N", Short: "Grade a lesson from the log",
		Long: "Look in the log whether everything of a lesson was done, in one namespace, and\n" +
			"show which revision says so. The exit code is 1 where something is missing.",
		Example: "  orchctl lab check 2\n  orchctl lab check 2 --since 30m    # what was done before does not count\n  orchctl -n alice lab check 2",
		RunE: func(c *cobra.Command, args []string) error {
			lessons := lab.Lessons()
			i := slices.IndexFunc(lessons, func(l lab.Lesson) bool { return len(args) == 1 && strconv.Itoa(l.Number) == args[0] })
			if i < 0 {
				return fmt.Errorf("there is no lab %q: give one number; 'orchctl lab list' shows those that there are", strings.Join(args, " "))
			}
			lesson := lessons[i]
			cl, err := f.client()
			if err != nil {
				return err
			}
			ctx, cancel := f.request(c.Context(), "Get", "")
			defer cancel()
			log, err := labLog(ctx, cl, f.ns(), lesson.Kinds, since)
			if err != nil {
				return err
			}
			grade := lesson.Check(log)
			if output == "json" {
				err = printJSON(f, grade)
			} else {
				printGrade(f.Out, grade)
			}
			if err == nil && !grade.Done {
				return &exitError{code: 1}
			}
			return err
		},
	}
	c.Flags().Var(&since, "since", "only what was written from then on: "+momentForms)
	jsonFlag(c, &output, "a list")
	return c
}

// labLog fetches what a lesson is graded by, oldest first.
func labLog(ctx context.Context, c *client.Client, namespace string, kinds []string, since moment) ([]*v1.LogEntry, error) {
	requests := []*v1.HistoryRequest{{Namespace: namespace}}
	for _, k := range kinds {
		requests = append(requests, &v1.HistoryRequest{Kind: k})
	}
	var log []*v1.LogEntry
	for _, r := range requests {
		for e, err := range c.History(ctx, span(r, since, moment{})) {
			if errors.Is(err, api.ErrForbidden) && r.GetNamespace() == "" {
				break // its marks stay open
			}
			if err != nil {
				return nil, err
			}
			log = append(log, e)
		}
	}
	slices.SortFunc(log, func(a, b *v1.LogEntry) int { return cmp.Compare(a.GetRevision(), b.GetRevision()) })
	return log, nil
}

func printGrade(w io.Writer, g lab.Grade) {
	done := 0
	fmt.Fprintf(w, "Lab %d: %s\n\n", g.Lesson, g.Title)
	for _, m := range g.Marks {
		if !m.Done {
			fmt.Fprintf(w, "✗ %s\n    %s\n", m.Text, m.Hint)
			continue
		}
		done++
		fmt.Fprintf(w, "✓ %s\n    %s  %s (rev %d)\n", m.Text, clock(m.Time), m.Evidence, m.Revision)
	}
	fmt.Fprintf(w, "\n%d of %d.\n", done, len(g.Marks))
	if g.From > 0 && !g.Done {
		fmt.Fprintf(w, "Only what was written from revision %d on was looked at: what was done before does not count.\n", g.From)
	}
}
