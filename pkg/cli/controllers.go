package cli

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"orch/pkg/api"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

func newControllers(f *factory) *cobra.Command {
	c := &cobra.Command{
		Use: "controllers", Aliases: []string{"controller"}, Short: "Pause controllers, see what they would do, and let them do it step by step",
		Long: "Pause the parts of the control plane, one by one. A paused controller goes on to\n" +
			"watch and to plan, but nothing that it would write is written: 'plan' shows it,\n" +
			"'step' carries out one write, and 'resume' lets it go. Nothing is lost meanwhile,\n" +
			"and nothing stale is written: what is held is always today's plan.",
		Example: "  orchctl controllers list\n  orchctl controllers pause replicaset\n" +
			"  orchctl controllers plan replicaset\n  orchctl controllers step replicaset\n  orchctl controllers resume --all",
	}
	c.AddCommand(newControllersList(f), newControllersPlan(f), newPause(f, true), newStep(f), newPause(f, false))
	return c
}

func newControllersList(f *factory) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "list [NAME...]", Short: "List the controllers, and whether they are paused", ValidArgsFunction: f.completeControllers,
		RunE: func(c *cobra.Command, args []string) error {
			all, err := f.controllers(c.Context(), args)
			if err != nil {
				return err
			}
			switch output {
			case "json", "yaml":
				return printControllers(f, output, all)
			case "":
			default:
				return fmt.Errorf("--output %q: use json or yaml, or none for a table", output)
			}
			rows := [][]string{{"NAME", "PAUSED", "HELD", "LAST WRITE"}}
			for _, one := range all {
				last := "<none>"
				if one.GetLastWrite() != nil {
					last = printer.Age(one.GetLastWrite(), time.Now())
				}
				paused := api.ConditionFalse
				if one.GetPaused() {
					paused = api.ConditionTrue
				}
				rows = append(rows, []string{one.GetName(), paused, fmt.Sprint(len(one.GetHeld())), last})
			}
			return printer.Rows(f.Out, rows)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "output format: json or yaml")
	return c
}

func newControllersPlan(f *factory) *cobra.Command {
	return &cobra.Command{
		Use: "plan [NAME...]", Short: "Show what paused controllers would write, as differences, and why", ValidArgsFunction: f.completeControllers,
		RunE: func(c *cobra.Command, args []string) error {
			all, err := f.controllers(c.Context(), args)
			if err != nil {
				return err
			}
			paused := 0
			for _, one := range all {
				switch {
				case one.GetPaused():
					paused++
					printPlan(f.Out, one)
				case len(args) > 0:
					fmt.Fprintf(f.Out, "controller/%s is not paused: it holds nothing\n", one.GetName())
				}
			}
			if paused == 0 && len(args) == 0 {
				fmt.Fprintln(f.Err, "No controller is paused.")
			}
			return nil
		},
	}
}

func newPause(f *factory, pause bool) *cobra.Command {
	verb, short := "pause", "Hold what controllers would write"
	if !pause {
		verb, short = "resume", "Let paused controllers go on"
	}
	var all bool
	c := &cobra.Command{
		Use: verb + " NAME... | --all", Short: short, ValidArgsFunction: f.completeControllers,
		RunE: func(c *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return fmt.Errorf("name one or more controllers, or give --all")
			}
			there, err := f.controllers(c.Context(), args)
			if err != nil {
				return err
			}
			ctx, cancel := f.request(c.Context(), "", "")
			defer cancel()
			for _, one := range there {
				if _, err := f.conn.Controllers().Pause(ctx, &v1.PauseRequest{Controller: one.GetName(), Paused: pause}); err != nil {
					return api.FromStatus(err)
				}
				fmt.Fprintf(f.Out, "controller/%s %sd\n", one.GetName(), verb)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, verb+" all controllers")
	return c
}

func newStep(f *factory) *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "step NAME", Short: "Let a paused controller make one write, and show what it would write next", Args: cobra.ExactArgs(1), ValidArgsFunction: f.completeControllers,
		Long: "Let a paused controller make one write: the next of what is held longest, or of\n" +
			"what --key names. Then show what was written, and what it would write next.",
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := f.controllers(c.Context(), args); err != nil {
				return err
			}
			ctx, cancel := f.request(c.Context(), "", "")
			defer cancel()
			r, err := f.conn.Controllers().Step(ctx, &v1.StepRequest{Controller: args[0], Key: key})
			if err != nil {
				return api.FromStatus(err)
			}
			w := r.GetWritten()
			fmt.Fprintf(f.Out, "controller/%s did: %s (rev %d)\n", args[0], headline(w), r.GetRevision())
			printWrite(f.Out, w)
			fmt.Fprintln(f.Out)
			if len(r.GetController().GetHeld()) == 0 {
				fmt.Fprintf(f.Out, "controller/%s holds nothing more.\n", args[0])
				return nil
			}
			fmt.Fprint(f.Out, "Next: ")
			printPlan(f.Out, r.GetController())
			return nil
		},
	}
	c.Flags().StringVar(&key, "key", "", "which of what is held: NAMESPACE/NAME, as 'plan' shows it")
	return c
}

// controllers asks for those of the names; for all where there are none.
func (f *factory) controllers(ctx context.Context, names []string) ([]*v1.Controller, error) {
	c, err := f.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := f.request(ctx, "", "")
	defer cancel()
	r, err := c.Controllers().ListControllers(ctx, &v1.ListControllersRequest{})
	if err != nil {
		return nil, api.FromStatus(err)
	}
	if len(names) == 0 {
		return r.GetControllers(), nil
	}
	var some []*v1.Controller
	var known []string
	for _, one := range r.GetControllers() {
		known = append(known, one.GetName())
		if slices.Contains(names, one.GetName()) {
			some = append(some, one)
		}
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("controllers %q not found: there are %s", name, strings.Join(known, ", "))
		}
	}
	return some, nil
}

func (f *factory) completeControllers(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	all, err := f.controllers(c.Context(), nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, one := range all {
		if !slices.Contains(args, one.GetName()) {
			names = append(names, one.GetName())
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// printPlan shows what a paused controller would write.
func printPlan(w io.Writer, c *v1.Controller) {
	switch n := len(c.GetHeld()); n {
	case 0:
		fmt.Fprintf(w, "controller/%s is paused and holds nothing: all is as it should be in its eyes\n", c.GetName())
	case 1:
		fmt.Fprintf(w, "controller/%s is paused and would write once:\n", c.GetName())
	default:
		fmt.Fprintf(w, "controller/%s is paused and would write %d times:\n", c.GetName(), n)
	}
	var texts []string
	times := map[string]int{}
	for _, held := range c.GetHeld() {
		var b strings.Builder
		fmt.Fprintf(&b, "%s, for %s\n", headline(held), held.GetKey())
		printWrite(&b, held)
		if times[b.String()]++; times[b.String()] == 1 {
			texts = append(texts, b.String())
		}
	}
	for _, text := range texts {
		if n := times[text]; n > 1 {
			text = strings.Replace(text, "\n", fmt.Sprintf(" (%d times)\n", n), 1)
		}
		fmt.Fprintf(w, "\n%s", text)
	}
}

// headline is what a write does, in short.
func headline(w *v1.HeldWrite) string { return w.GetVerb() + " " + objectOf(w) }

// objectOf names the object of a write. The name that a create makes up is not
// known before.
func objectOf(w *v1.HeldWrite) string {
	o := api.Unwrap(w.GetAfter())
	if o == nil {
		o = api.Unwrap(w.GetBefore())
	}
	name := printer.Name(o)
	if o.GetMetadata().GetName() == "" {
		name += o.GetMetadata().GetGenerateName() + "<random>"
	}
	return name
}

// usual is what every object has that a controller makes, and says nothing new.
var usual = regexp.MustCompile(`^(metadata\.(uid|creationTimestamp|generateName|name|namespace|ownerReferences.*)|spec\.tolerations\[node\.kubernetes\.io/.*|status\..*)$`)

// printWrite shows why a write is wanted, and what it changes.
func printWrite(w io.Writer, held *v1.HeldWrite) {
	cause := held.GetCause()
	fmt.Fprintf(w, "  %s: %s", cause.GetReason(), cause.GetMessage())
	switch t := cause.GetTrigger(); {
	case t > 0:
		fmt.Fprintf(w, " (because of rev %d)", t)
	case t == api.TriggerClock:
		fmt.Fprint(w, " (a time was over)")
	}
	fmt.Fprintln(w)
	before, after := api.Unwrap(held.GetBefore()), api.Unwrap(held.GetAfter())
	if after == nil {
		fmt.Fprintf(w, "    - %s\n", objectOf(held))
		return
	}
	isNew := before == nil
	if isNew {
		before = api.KindOf(after).New()
	}
	for _, c := range why.Changes(before, after) {
		if isNew && usual.MatchString(c.Path) {
			continue
		}
		if c.From != "" {
			fmt.Fprintf(w, "    - %s: %s\n", c.Path, c.From)
		}
		if c.To != "" {
			fmt.Fprintf(w, "    + %s: %s\n", c.Path, c.To)
		}
	}
}

// heldFor are sentences about what paused controllers would do to an object, or
// for it. Who may not know hears nothing.
func heldFor(ctx context.Context, c *client.Client, o why.Key) (lines []string) {
	r, err := c.Controllers().ListControllers(ctx, &v1.ListControllersRequest{})
	if err != nil {
		return nil
	}
	for _, one := range r.GetControllers() {
		for _, w := range one.GetHeld() {
			if concerns(w, o) {
				lines = append(lines, fmt.Sprintf("controller %s is paused and would %s: %s", one.GetName(), headline(w), w.GetCause().GetMessage()))
			}
		}
	}
	return lines
}

// concerns says whether a write is one of the object, or of one that it owns.
func concerns(w *v1.HeldWrite, key why.Key) bool {
	for _, o := range []api.Object{api.Unwrap(w.GetBefore()), api.Unwrap(w.GetAfter())} {
		if o == nil || o.GetMetadata().GetNamespace() != key.Namespace {
			continue
		}
		if api.KindOf(o).Name == key.Kind && o.GetMetadata().GetName() == key.Name {
			return true
		}
		for _, owner := range o.GetMetadata().GetOwnerReferences() {
			if owner.GetKind() == key.Kind && owner.GetName() == key.Name {
				return true
			}
		}
	}
	return false
}

// listed is a controller as -o json shows it.
type listed struct {
	Name      string `json:"name"`
	Paused    bool   `json:"paused"`
	LastWrite string `json:"lastWrite,omitempty"`
	Held      []held `json:"held"`
}

type held struct {
	Key     string         `json:"key"`
	Verb    string         `json:"verb"`
	Object  string         `json:"object"`
	Reason  string         `json:"reason"`
	Message string         `json:"message"`
	Trigger int64          `json:"trigger,omitempty"`
	Since   string         `json:"since"`
	Before  map[string]any `json:"before,omitempty"`
	After   map[string]any `json:"after,omitempty"`
}

func printControllers(f *factory, output string, all []*v1.Controller) error {
	items := []listed{}
	for _, one := range all {
		item := listed{Name: one.GetName(), Paused: one.GetPaused(), Held: []held{}}
		if t := one.GetLastWrite(); t != nil {
			item.LastWrite = t.AsTime().Format(time.RFC3339)
		}
		for _, w := range one.GetHeld() {
			before, after, err := why.Maps(api.Unwrap(w.GetBefore()), api.Unwrap(w.GetAfter()))
			if err != nil {
				return err
			}
			item.Held = append(item.Held, held{
				Key: w.GetKey(), Verb: w.GetVerb(), Object: objectOf(w), Since: w.GetSince().AsTime().Format(time.RFC3339),
				Reason: w.GetCause().GetReason(), Message: w.GetCause().GetMessage(), Trigger: w.GetCause().GetTrigger(),
				Before: before, After: after,
			})
		}
		items = append(items, item)
	}
	list := map[string]any{"kind": "ControllerList", "apiVersion": "orch.dev/v1", "items": items}
	if output == "json" {
		return printJSON(f, list)
	}
	data, err := yaml.Marshal(list)
	if err != nil {
		return err
	}
	_, err = f.Out.Write(data)
	return err
}
