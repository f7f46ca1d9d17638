package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// moment is a point of the past: a revision or a time. The zero moment is now.
type moment struct {
	revision int64
	time     time.Time
	text     string
}

const momentForms = "a revision (812), a time (2026-11-22T18:31:02Z), or how long ago (10m)"

// String, Set and Type make a moment a flag.
func (m *moment) String() string { return m.text }

// Type is what help calls it.
func (m *moment) Type() string { return "REV|TIME" }

// Set reads one.
func (m *moment) Set(text string) error {
	*m = moment{text: text}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
		m.revision = n
		return nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		m.time = t
		return nil
	}
	if d, err := time.ParseDuration(strings.TrimSuffix(text, " ago")); err == nil && d > 0 {
		m.time = time.Now().Add(-d)
		return nil
	}
	return fmt.Errorf("%q is none: give %s", text, momentForms)
}

// get reads one object as it was.
func (m *moment) get(ctx context.Context, r client.Resource[api.Object], t target) (api.Object, error) {
	if !m.time.IsZero() {
		return r.GetAtTime(ctx, t.namespace, t.name, m.time)
	}
	return r.GetAt(ctx, t.namespace, t.name, m.revision)
}

// when is the moment's time; that of a revision the log tells.
func (m *moment) when(ctx context.Context, c *client.Client) (time.Time, error) {
	if !m.time.IsZero() {
		return m.time, nil
	}
	if m.revision > 0 {
		for e, err := range c.History(ctx, &v1.HistoryRequest{Revisions: []int64{m.revision}}) {
			return e.GetTime().AsTime(), err
		}
		return time.Time{}, fmt.Errorf("the log does not tell of revision %d: it is yet to come, or was compacted", m.revision)
	}
	return time.Now(), nil
}

// span makes a request ask for what was written from one moment to another.
func span(r *v1.HistoryRequest, from, to moment) *v1.HistoryRequest {
	r.AfterRevision, r.ToRevision = max(from.revision-1, 0), to.revision
	r.Since, r.Until = client.Timestamp(from.time), client.Timestamp(to.time)
	return r
}

// begin reads arguments that name exactly one object, and begins to ask for it.
func (s *selection) begin(ctx context.Context, f *factory, args []string) (context.Context, *client.Client, target, error) {
	targets, err := s.parse(f, args)
	if err == nil && (len(targets) != 1 || targets[0].name == "") {
		err = fmt.Errorf("name one object, as TYPE/NAME or TYPE NAME")
	}
	if err != nil {
		return nil, nil, target{}, err
	}
	ctx, cl, err := f.begin(ctx, "Get", "")
	return ctx, cl, targets[0], err
}

func newHistory(f *factory) *cobra.Command {
	var (
		s      selection
		from   moment
		all    bool
		limit  int32
		output string
	)
	c := &cobra.Command{
		Use: "history (TYPE/NAME | TYPE NAME)", Short: "Show the revisions of an object: when, who, why, and what changed",
		Long: "Show the revisions of an object, oldest first: when it was written, by whom, the\n" +
			"reason, and what changed. What is gone is shown as long as the log remembers it.",
		Example:           "  orchctl history deployment/recommend-service\n  orchctl history node/node-1 --all --limit 20",
		ValidArgsFunction: f.completeKinds, Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cl, t, err := s.begin(c.Context(), f, args)
			if err != nil {
				return err
			}
			r := span(&v1.HistoryRequest{Kind: t.kind.Name, Namespace: t.namespace, Name: t.name, Limit: limit}, from, moment{})
			if !all {
				r.ExceptReasons = []string{"Heartbeat"}
			}
			steps, rows := []why.Step{}, [][]string{{"REVISION", "TIME", "BY", "REASON", "CHANGE"}}
			var before *v1.LogEntry
			for e, err := range cl.History(ctx, r) {
				if err != nil {
					return err
				}
				step := why.Tell(e, before)
				steps, before = append(steps, step), e
				who := step.Actor
				if step.SteppedBy != "" {
					who += ", stepped by " + step.SteppedBy
				}
				rows = append(rows, []string{strconv.FormatInt(step.Revision, 10), step.Time.Format(time.RFC3339), who, step.Reason, changed(e, step)})
			}
			switch {
			case output == "json":
				return printJSON(f, steps)
			case len(steps) == 0:
				return api.NotFound(t.kind, t.name)
			}
			return printer.Rows(f.Out, rows)
		},
	}
	c.Flags().Var(&from, "since", "only what was written from then on: "+momentForms)
	c.Flags().Int32Var(&limit, "limit", 0, "only so many revisions, the newest; 0 is all")
	c.Flags().BoolVar(&all, "all", false, "also the heartbeats of nodes")
	jsonFlag(c, &output, "a table")
	return c
}

// changed says in short what an entry changed.
func changed(e *v1.LogEntry, s why.Step) string {
	switch {
	case e.GetDeleted():
		return "deleted"
	case e.GetPrevious() == 0:
		return "created"
	case len(s.Changes) == 0:
		return s.Text
	}
	return why.Summary(s.Changes)
}

// jsonFlag adds the flag --output, which takes json or nothing.
func jsonFlag(c *cobra.Command, output *string, otherwise string) {
	c.Flags().StringVarP(output, "output", "o", "", "output format: json")
	c.PreRunE = func(*cobra.Command, []string) error {
		if *output != "" && *output != "json" {
			return fmt.Errorf("--output %q: use json, or none for %s", *output, otherwise)
		}
		return nil
	}
}

func printJSON(f *factory, v any) error {
	e := json.NewEncoder(f.Out)
	e.SetIndent("", "    ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func newReplay(f *factory) *cobra.Command {
	var (
		from, to moment
		pace     speed
		all      bool
	)
	c := &cobra.Command{
		Use: "replay --from REV|TIME", Short: "Tell again what happened in the cluster", Args: cobra.NoArgs,
		Long: "Tell what was written from a revision or a time on, one line each, in the pace\n" +
			"that --speed says; without it, at once. What only keeps accounts is left out, and\n" +
			"so are events, which say the same. -n NAMESPACE tells of one namespace.",
		Example: "  orchctl replay --from 10m\n  orchctl replay --from 812 --to 900 --speed 10x",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := f.client()
			if err != nil {
				return err
			}
			before := map[why.Key]*v1.LogEntry{}
			var last time.Time
			for e, err := range cl.History(c.Context(), span(&v1.HistoryRequest{Namespace: f.namespace}, from, to)) {
				if err != nil {
					return err
				}
				key := why.KeyOf(e)
				if before[key] == nil && e.GetPrevious() != 0 {
					for was, err := range cl.History(c.Context(), &v1.HistoryRequest{Revisions: []int64{e.GetPrevious()}}) {
						if err != nil {
							return err
						}
						before[key] = was
					}
				}
				step := why.Tell(e, before[key])
				before[key] = e
				if !all && (step.Quiet || e.GetKind() == "Event") {
					continue
				}
				if err := pace.wait(c.Context(), step.Time.Sub(last), last.IsZero()); err != nil {
					return err
				}
				last = step.Time
				fmt.Fprintf(f.Out, "%s  rev %-6d %s %s%s\n", clock(step.Time), step.Revision, step.Object, step.Text, by(step))
			}
			if last.IsZero() {
				fmt.Fprintln(f.Err, "Nothing was written then.")
			}
			return nil
		},
	}
	c.Flags().Var(&from, "from", "begin here: "+momentForms)
	c.Flags().Var(&to, "to", "end here; now if it is not given")
	c.Flags().Var(&pace, "speed", "how fast: 1x as it was, 10x ten times as fast")
	c.Flags().BoolVar(&all, "all", false, "also what keeps accounts, and events")
	_ = c.MarkFlagRequired("from") // it is defined above
	return c
}

// speed is how fast a story is told; 0 is at once.
type speed float64

// String, Set and Type make a speed a flag.
func (s *speed) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(*s), 'g', -1, 64) + "x"
}

// Type is what help calls it.
func (s *speed) Type() string { return "FACTOR" }

// Set reads "10x".
func (s *speed) Set(text string) error {
	n, err := strconv.ParseFloat(strings.TrimSuffix(text, "x"), 64)
	if err != nil || n <= 0 {
		return fmt.Errorf("%q is none: give a factor such as 10x", text)
	}
	*s = speed(n)
	return nil
}

func (s speed) wait(ctx context.Context, d time.Duration, first bool) error {
	if s == 0 || first {
		return ctx.Err()
	}
	return pauseFor(ctx, time.Duration(float64(d)/float64(s)))
}

// differences are the objects that the arguments name, or all but events, at two
// moments: those of one moment only have nil at the other.
func differences(ctx context.Context, f *factory, s *selection, args []string, from, to moment) (pairs [][2]api.Object, err error) {
	if len(args) == 0 {
		var kinds []string
		for _, k := range api.Kinds() {
			if k.Name != "Event" {
				kinds = append(kinds, k.Resource())
			}
		}
		args = []string{strings.Join(kinds, ",")}
	}
	targets, err := s.parse(f, args)
	if err != nil {
		return nil, err
	}
	c, err := f.client()
	if err != nil {
		return nil, err
	}
	where := map[string]int{}
	for i, m := range []moment{from, to} {
		s.at = m
		answer, errs := s.fetch(ctx, c, targets)
		if none := !slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, api.ErrForbidden) }); none && len(errs) == len(targets) {
			return nil, errs[0] // all of it may not be read
		}
		errs = slices.DeleteFunc(errs, func(err error) bool { return isMissing(err, len(targets) > 1) })
		if len(errs) > 0 {
			return nil, f.report(errs)
		}
		for _, a := range answer {
			for _, o := range a.objects {
				id := a.kind.Name + "/" + api.KeyOf(o).String()
				n, ok := where[id]
				if !ok {
					n, where[id] = len(pairs), len(pairs)
					pairs = append(pairs, [2]api.Object{})
				}
				pairs[n][i] = o
			}
		}
	}
	if len(pairs) == 0 {
		return nil, fmt.Errorf("there was nothing of this at either moment")
	}
	return pairs, nil
}
