package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/chaos/report"
	"orch/pkg/client"
	"orch/pkg/invariant"
	v1 "orch/proto/v1"
)

func newChaosReport(f *factory) *cobra.Command {
	var output, out string
	c := &cobra.Command{
		Use: "report NAME", Short: "Tell how the cluster recovered from a chaos experiment", Args: cobra.ExactArgs(1),
		Long: "Tell from the log, for each fault of a chaos experiment, how long it took until it\n" +
			"was noticed, until a restart or a replacement was decided, until the replacement\n" +
			"had a node and its images, until containers ran, and until all was ready; and what\n" +
			"users lost meanwhile. While the experiment runs, it tells so far.",
		Example: "  orchctl chaos report kill-web\n  orchctl chaos report kill-web -o html --out report.html",
		RunE: func(c *cobra.Command, args []string) error {
			write := map[string]func(*report.Report, io.Writer) error{
				"": (*report.Report).Text, "text": (*report.Report).Text, "html": (*report.Report).HTML,
				"json": func(r *report.Report, w io.Writer) error { return printJSON(&factory{IO: IO{Out: w}}, r) },
			}[output]
			if write == nil {
				return fmt.Errorf("--output %q: use text, json or html", output)
			}
			ctx, cl, err := f.begin(c.Context(), "Get", "")
			if err != nil {
				return err
			}
			name, err := experimentName(f, args[0])
			if err != nil {
				return err
			}
			r, err := makeReport(ctx, cl, f.ns(), name)
			if err != nil {
				return err
			}
			var b bytes.Buffer
			if err := write(r, &b); err != nil {
				return err
			}
			if out == "" || out == "-" {
				_, err = f.Out.Write(b.Bytes())
				return err
			}
			if err := os.WriteFile(out, b.Bytes(), 0o644); err != nil { //nolint:gosec // to be looked at by anybody
				return err
			}
			fmt.Fprintf(f.Err, "Written to %s.\n", out)
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "output format: text, json or html")
	c.Flags().StringVar(&out, "out", "", "the file to write to, instead of standard output")
	return c
}

// makeReport reads what a report needs: the experiment, what there was when it
// began, and the log from then on. Who may not read that of all namespaces gets what
// that of the experiment's tells.
func makeReport(ctx context.Context, c *client.Client, namespace, name string) (*report.Report, error) {
	x, err := client.For[*v1.ChaosExperiment](c).Get(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	r, err := reportOn(ctx, c, x, "")
	if !errors.Is(err, api.ErrForbidden) {
		return r, err
	}
	if r, err = reportOn(ctx, c, x, namespace); err == nil {
		r.OnlyNamespace = true
		r.Violations = slices.DeleteFunc(r.Violations, func(v *invariant.Violation) bool { return v.Rule == invariant.Fits }) // no node is known
	}
	return r, err
}

// reportOn makes it of the log of one namespace, or ("") of all of it.
func reportOn(ctx context.Context, c *client.Client, x *v1.ChaosExperiment, namespace string) (*report.Report, error) {
	start := x.GetStatus().GetStartRevision()
	entries, err := logFrom(ctx, c, namespace, start)
	reachesBack := !errors.Is(err, api.ErrExpired)
	if !reachesBack {
		entries, err = logFrom(ctx, c, namespace, 0)
		if len(entries) > 0 {
			start = entries[0].GetRevision() - 1
		}
	}
	if err != nil {
		return nil, err
	}
	before, err := invariant.Before(ctx, c, namespace, start)
	if err != nil {
		return nil, err
	}
	r := report.Make(x, before, entries, time.Now())
	if !reachesBack {
		r.LogFrom = start + 1
	}
	return r, nil
}

func logFrom(ctx context.Context, c *client.Client, namespace string, after int64) (entries []*v1.LogEntry, err error) {
	for e, err := range c.History(ctx, &v1.HistoryRequest{Namespace: namespace, AfterRevision: after, ExceptReasons: []string{"Heartbeat"}}) {
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}
