package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
)

const editHelp = `# Please edit the object below. Lines beginning with a '#' will be ignored,
# and an empty file will abort the edit. If an error occurs while saving this file will be
# reopened with the relevant failures.
#
`

func newEdit(f *factory) *cobra.Command {
	var s selection
	c := &cobra.Command{
		Use: "edit (TYPE NAME | TYPE/NAME)", Short: "Change objects in your editor",
		Long:              "Change objects in the editor that KUBE_EDITOR, ORCH_EDITOR or EDITOR names (default vi).",
		ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			targets, err := s.targets(f, args)
			if err != nil {
				return err
			}
			return s.each(c.Context(), f, targets, func(cl *client.Client, o api.Object) error {
				return editOne(c.Context(), f, cl, o)
			})
		},
	}
	s.fileFlags(c, "edit")
	return c
}

// editOne opens the editor until what it saves is accepted, is unchanged or is
// empty.
func editOne(ctx context.Context, f *factory, c *client.Client, o api.Object) error {
	original, err := manifest.MarshalYAML(o)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp("", "orchctl-edit-*.yaml")
	if err != nil {
		return err
	}
	path := file.Name()
	file.Close()
	keep := false
	defer func() {
		if !keep {
			os.Remove(path)
		}
	}()
	text, problem := original, ""
	for {
		head := editHelp
		if problem != "" {
			head += "# " + strings.ReplaceAll(problem, "\n", "\n# ") + "\n#\n"
		}
		if err := os.WriteFile(path, append([]byte(head), text...), 0o600); err != nil {
			return err
		}
		if err := runEditor(ctx, f, path); err != nil {
			return err
		}
		saved, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		saved = stripComments(saved)
		switch {
		case len(bytes.TrimSpace(saved)) == 0:
			fmt.Fprintln(f.Err, "Edit cancelled, saved file was empty.")
			return nil
		case bytes.Equal(saved, original):
			fmt.Fprintln(f.Err, "Edit cancelled, no changes made.")
			return nil
		case problem != "" && bytes.Equal(saved, text):
			keep = true
			return fmt.Errorf("edit cancelled, no valid changes were saved; a copy of your changes is in %s (%s)", path, problem)
		}
		text = saved
		switch err = saveEdit(ctx, f, c, o, saved); {
		case err == nil:
			return nil
		case !errors.Is(err, api.ErrInvalid) && !errors.Is(err, api.ErrBadRequest) && !errors.Is(err, errManifest):
			keep = true
			return fmt.Errorf("%w; a copy of your changes is in %s", err, path)
		}
		problem = err.Error()
	}
}

// errManifest marks what the user can mend in the editor.
var errManifest = errors.New("the file is not a valid manifest")

func saveEdit(ctx context.Context, f *factory, c *client.Client, o api.Object, saved []byte) error {
	var changed api.Object
	for d, err := range manifest.Decode(bytes.NewReader(saved), "the edited file", manifest.Strict) {
		if err != nil {
			return fmt.Errorf("%w: %w", errManifest, err)
		}
		changed = d.Object
	}
	if changed == nil {
		return fmt.Errorf("%w: it holds no object", errManifest)
	}
	if api.KindOf(changed) != api.KindOf(o) || api.KeyOf(changed) != api.KeyOf(o) {
		return fmt.Errorf("%w: kind, name and namespace cannot be changed", errManifest)
	}
	ctx, cancel := f.request(ctx, "Edited", "edited with orchctl")
	defer cancel()
	changed, err := client.ForKind(c, api.KindOf(o)).Update(ctx, changed)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f.Out, "%s edited\n", printer.Name(changed))
	return err
}

func runEditor(ctx context.Context, f *factory, path string) error {
	editor := "vi"
	for _, v := range []string{"KUBE_EDITOR", "ORCH_EDITOR", "EDITOR"} {
		if e := os.Getenv(v); e != "" {
			editor = e
			break
		}
	}
	// Through the shell, because EDITOR may hold flags ("code --wait").
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", path) //nolint:gosec // the user's own editor
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f.In, f.Out, f.Err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("editor %q: %w (choose another with EDITOR=…)", editor, err)
	}
	return nil
}

func stripComments(data []byte) []byte {
	var out []byte
	for line := range bytes.Lines(data) {
		if !bytes.HasPrefix(line, []byte("#")) {
			out = append(out, line...)
		}
	}
	return out
}
