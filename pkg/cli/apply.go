package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
)

// writeFlags are what verbs that write have in common.
type writeFlags struct {
	dryRun   string
	output   string
	validate string
}

func (w *writeFlags) add(c *cobra.Command, validate bool) {
	c.Flags().StringVar(&w.dryRun, "dry-run", "none", "none, client (only print what would be sent) or server (everything but the write)")
	c.Flags().Lookup("dry-run").NoOptDefVal = "client"
	c.Flags().StringVarP(&w.output, "output", "o", "", "print the objects in this format instead of a line: "+printer.Formats)
	if validate {
		c.Flags().StringVar(&w.validate, "validate", "strict", "what to do about unknown fields: strict (refuse), warn or ignore")
		c.Flags().Lookup("validate").NoOptDefVal = "strict"
	}
}

func (w *writeFlags) check() error {
	switch w.dryRun {
	case "none", "client", "server":
		return nil
	}
	return fmt.Errorf(`invalid dry-run value (%s): must be "none", "server", or "client"`, w.dryRun)
}

// options are the client's options for --dry-run=server.
func (w *writeFlags) options() []client.WriteOption {
	if w.dryRun == "server" {
		return []client.WriteOption{client.DryRun}
	}
	return nil
}

// done prints the line for one object that was written ("pod/web created"), or
// the object itself with -o.
func (w *writeFlags) done(out io.Writer, o api.Object, verb string) error {
	p, err := printer.New(w.output)
	if err != nil {
		return err
	}
	if p != nil {
		return p.Print(out, []api.Object{o}, true)
	}
	_, err = fmt.Fprintf(out, "%s %s%s\n", printer.Name(o), verb, w.suffix())
	return err
}

// suffix follows what is said of an object that was not really written.
func (w *writeFlags) suffix() string {
	return map[string]string{"client": " (dry run)", "server": " (server dry run)"}[w.dryRun]
}

func newApply(f *factory) *cobra.Command {
	var (
		s selection
		w writeFlags
	)
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the cluster's objects as a manifest says",
		Long: "Create the objects of a manifest, or change in them what the manifest changes: a\n" +
			"three-way merge of what was applied before, the manifest, and what is there.\n" +
			"Fields that no manifest ever named keep the values that others gave them.",
		Example: "  orchctl apply -f examples/webflix/\n  cat web.yaml | orchctl apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(s.files) == 0 {
				return fmt.Errorf("must specify -f FILE: files, folders, or - for standard input")
			}
			if err := w.check(); err != nil {
				return err
			}
			v, err := manifest.ParseValidation(w.validate)
			if err != nil {
				return err
			}
			docs, errs := s.documents(f, v)
			if len(docs) == 0 {
				return f.report(errs)
			}
			ctx, cl, err := f.begin(c.Context(), "Applied", "applied with orchctl")
			if err != nil {
				return err
			}
			for _, d := range docs {
				if d.Object.GetMetadata().GetName() == "" && d.Object.GetMetadata().GetGenerateName() != "" {
					errs = append(errs, fmt.Errorf("%s: from %s*: cannot use generate name with apply", d.Source, d.Object.GetMetadata().GetGenerateName()))
					continue
				}
				if w.dryRun == "client" {
					m, verb := d.Object.GetMetadata(), "configured"
					if _, err := client.ForKind(cl, api.KindOf(d.Object)).Get(ctx, m.GetNamespace(), m.GetName()); errors.Is(err, api.ErrNotFound) {
						verb = "created"
					}
					if err := w.done(f.Out, d.Object, verb); err != nil {
						return err
					}
					continue
				}
				data, err := withNamespace(d)
				if err != nil {
					return err
				}
				o, result, warnings, err := cl.Apply(ctx, data, client.ApplyOptions{DryRun: w.dryRun == "server", Validation: string(v)})
				if err != nil {
					errs = append(errs, fmt.Errorf("%w (in %s)", err, d.Source))
					continue
				}
				// Those about unknown fields were shown when the file was read.
				if v == manifest.Strict {
					for _, text := range warnings {
						fmt.Fprintln(f.Err, "Warning: "+text)
					}
				}
				if err := w.done(f.Out, o, result); err != nil {
					return err
				}
			}
			return f.report(errs)
		},
	}
	s.fileFlags(c, "apply")
	w.add(c, true)
	return c
}

// withNamespace is the document as the user wrote it, with the namespace of the
// request where it names none.
func withNamespace(d manifest.Document) ([]byte, error) {
	var m map[string]any
	if err := json.Unmarshal(d.JSON, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", d.Source, err)
	}
	meta, ok := m["metadata"].(map[string]any)
	ns := d.Object.GetMetadata().GetNamespace()
	if !ok || ns == "" || meta["namespace"] == ns {
		return d.JSON, nil
	}
	meta["namespace"] = ns
	return json.Marshal(m)
}
