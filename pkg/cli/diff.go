package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/client"
	"orch/pkg/why"
)

func newDiff(f *factory) *cobra.Command {
	var (
		s        selection
		from, to moment
	)
	c := &cobra.Command{
		Use: "diff -f FILE | --from REV|TIME [--to REV|TIME] [TYPE [NAME...] | TYPE/NAME...]", Short: "Show what apply would change, or what has changed",
		Long: "Show what apply would change, or, with --from, what changed between two moments\n" +
			"of the past (until now without --to): of what the arguments name, or of\n" +
			"everything. It is shown as 'diff -u -N' does, or the program in\n" +
			"KUBECTL_EXTERNAL_DIFF; the values of Secrets are masked. The exit code is 0 for\n" +
			"no differences, 1 for some, and more for an error.",
		Example:           "  orchctl diff -f examples/webflix/\n  orchctl diff --from 812 --to 866 deployment/recommend-service\n  orchctl diff --from 10m",
		ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			err := runDiff(c.Context(), f, &s, args, from, to)
			var exit *exitError
			if err != nil && !errors.As(err, &exit) {
				return &exitError{code: 2, text: explain(err)}
			}
			return err
		},
	}
	s.fileFlags(c, "compare")
	c.Flags().Var(&from, "from", "compare the past, from this moment: "+momentForms)
	c.Flags().Var(&to, "to", "until this moment; now if it is not given")
	c.Flags().BoolVarP(&s.allNamespaces, "all-namespaces", "A", false, "with --from, objects of all namespaces")
	c.MarkFlagsMutuallyExclusive("from", "filename")
	return c
}

// runDiff writes the two sides of each difference into two folders and has a
// program compare them.
func runDiff(ctx context.Context, f *factory, s *selection, args []string, from, to moment) error {
	var pairs [][2]api.Object
	var err error
	switch {
	case from.text != "":
		pairs, err = differences(ctx, f, s, args, from, to)
	case len(s.files) == 0 || len(args) > 0 || to.text != "":
		return fmt.Errorf("must specify -f FILE: files, folders, or - for standard input; or --from REV|TIME to compare the past")
	default:
		pairs, err = wouldChange(ctx, f, s)
	}
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "orchctl-diff-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	live, merged := filepath.Join(dir, "LIVE"), filepath.Join(dir, "MERGED")
	for _, d := range []string{live, merged} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	for _, p := range pairs {
		o := p[1]
		o = cmp.Or(o, p[0])
		k, m := api.KindOf(o), o.GetMetadata()
		file := strings.ReplaceAll(fmt.Sprintf("%s.%s.%s.%s", strings.ReplaceAll(k.APIVersion(), "/", "."), k.Name, m.GetNamespace(), m.GetName()), "/", "_")
		before, after, err := why.Maps(p[0], p[1])
		if err != nil {
			return err
		}
		if err := writeYAML(filepath.Join(live, file), before); err != nil {
			return err
		}
		if err := writeYAML(filepath.Join(merged, file), after); err != nil {
			return err
		}
	}
	program := []string{"diff", "-u", "-N"}
	if p := strings.Fields(os.Getenv("KUBECTL_EXTERNAL_DIFF")); len(p) > 0 {
		program = p
	}
	cmd := exec.CommandContext(ctx, program[0], append(program[1:], live, merged)...) //nolint:gosec // the user's own choice of program
	cmd.Stdout, cmd.Stderr = f.Out, f.Err
	err = cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return &exitError{code: ended.ExitCode()}
	}
	if err != nil {
		return fmt.Errorf("run %s (name another program in KUBECTL_EXTERNAL_DIFF): %w", program[0], err)
	}
	return nil
}

// wouldChange are the objects of the files, as they are and as apply would make
// them.
func wouldChange(ctx context.Context, f *factory, s *selection) (pairs [][2]api.Object, err error) {
	docs, errs := s.documents(f, manifest.Strict)
	if len(errs) > 0 {
		return nil, f.report(errs)
	}
	cl, err := f.client()
	if err != nil {
		return nil, err
	}
	for _, d := range docs {
		data, err := withNamespace(d)
		if err != nil {
			return nil, err
		}
		k, m := api.KindOf(d.Object), d.Object.GetMetadata()
		before, err := client.ForKind(cl, k).Get(ctx, m.GetNamespace(), m.GetName())
		if err != nil && !errors.Is(err, api.ErrNotFound) {
			return nil, err
		}
		after, _, _, err := cl.Apply(ctx, data, client.ApplyOptions{DryRun: true})
		if err != nil {
			return nil, fmt.Errorf("%w (in %s)", err, d.Source)
		}
		pairs = append(pairs, [2]api.Object{before, after})
	}
	return pairs, nil
}

// isMissing says that an error is no reason to compare nothing: the object was
// not there, or, where all kinds are compared, one may not be read.
func isMissing(err error, several bool) bool {
	return errors.Is(err, api.ErrNotFound) || several && errors.Is(err, api.ErrForbidden)
}

// writeYAML writes an object for comparison; none is no file.
func writeYAML(path string, o map[string]any) error {
	if o == nil {
		return nil
	}
	data, err := yaml.Marshal(o)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
