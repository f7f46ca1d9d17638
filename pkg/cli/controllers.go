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
	c := group("controllers", "Pause controllers, see what they would do, and let them do it step by step",
		newControllersList(f), newControllersPlan(f), newPause(f, true), newStep(f), newPause(f, false))
	c.Aliases = []string{"controller"}
	c.Long = "Pause the parts of the control plane, one by one. A paused controller goes on to\n" +
		"watch and to plan, but nothing that it would write is written: 'plan' shows it,\n" +
		"'step' carries out one write, and 'resume' lets it go. Nothing is lost meanwhile,\n" +
		"and nothing stale is written: what is held is always today's plan."
	c.Example = "  orchctl controllers list\n  orchctl controllers pause replicaset\n" +
		"  orchctl controllers plan replicaset\n  orchctl controllers step replicaset\n  orchctl controllers resume --all"
	return c
}

func newControllersList(f *factory) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "list [NAME...]", Short: "List the controllers, and whether they are paused", ValidArgsFunction: f.completeControllers(func(*v1.Controller) bool { return true }),
		Example: "  orchctl controllers list\n  orchctl controllers list replicaset -o yaml    # with what it holds",
		RunE: func(c *cobra.Command, args []string) error {
			all, err := f.controllers(c.Context(), args)
			if err != nil {
				return err
			}
			switch output {
			case "json", "yaml":
				return printControllers(f, output, all)
			case "name":
				for _, one := range all {
					fmt.Fprintf(f.Out, "controller/%s\n", one.GetName())
				}
				return nil
			case "":
			default:
				return fmt.Errorf("--output %q: use json, yaml or name, or none for a table", output)
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
	c.Flags().StringVarP(&output, "output", "o", "", "output format: json, yaml or name")
	return c
}

func newControllersPlan(f *factory) *cobra.Command {
	return &cobra.Command{
		Use: "plan [NAME...]", Short: "Show what paused controllers would write, as differences, and why", ValidArgsFunction: f.completeControllers((*v1.Controller).GetPaused),
		Example: "  orchctl controllers plan\n  orchctl controllers plan replicaset",
		RunE: func(c *cobra.Command, args []string) error {
			all, err := f.controllers(c.Context(), args)
			if err != nil {
				return err
			}
			var texts, idle []string
			for _, one := range all {
				switch {
				case len(one.GetHeld()) > 0:
					texts = append(texts, planOf(one))
				case one.GetPaused():
					idle = append(idle, one.GetName())
				case len(args) > 0:
					texts = append(texts, fmt.Sprintf("controller/%s is not paused: it holds nothing\n", one.GetName()))
				}
			}
			if len(idle) > 0 {
				texts = append(texts, fmt.Sprintf("paused, and would write nothing: %s\n", strings.Join(idle, ", ")))
			}
			if len(texts) == 0 {
				fmt.Fprintln(f.Err, "No controller is paused.")
			}
			fmt.Fprint(f.Out, strings.Join(texts, "\n"))
			return nil
		},
	}
}

func newPause(f *factory, pause bool) *cobra.Command {
	verb, short, already := "pause", "Hold what controllers would write", "is already paused"
	if !pause {
		verb, short, already = "resume", "Let paused controllers go on", "is not paused"
	}
	var all bool
	c := &cobra.Command{
		Use: verb + " NAME... | --all", Short: short, Example: "  orchctl controllers " + verb + " replicaset scheduler\n  orchctl controllers " + verb + " --all",
		ValidArgsFunction: f.completeControllers(func(c *v1.Controller) bool { return c.GetPaused() != pause }),
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
				if one.GetPaused() == pause {
					if !all {
						fmt.Fprintf(f.Out, "controller/%s %s\n", one.GetName(), already)
					}
					continue
				}
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
		Use: "step NAME", Short: "Let a paused controller make one write, and show what it would write next", Example: "  orchctl controllers step replicaset\n  orchctl controllers step deployment --key default/web",
		ValidArgsFunction: f.completeControllers((*v1.Controller).GetPaused),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("name one controller, such as replicaset: 'orchctl controllers list' says which are paused and hold something")
			}
			return nil
		},
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
			fmt.Fprintf(f.Out, "Next: %s", planOf(r.GetController()))
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

// completeControllers completes the names of those that a command is for.
func (f *factory) completeControllers(is func(*v1.Controller) bool) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
		all, _ := f.controllers(c.Context(), nil) // nobody reads an error here
		for _, one := range all {
			if is(one) && !slices.Contains(args, one.GetName()) && (c.Name() != "step" || len(args) == 0) {
				names = append(names, one.GetName())
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// planOf tells what a paused controller would write.
func planOf(c *v1.Controller) string {
	var all strings.Builder
	fmt.Fprintf(&all, "controller/%s is paused and would write ", c.GetName())
	if n := len(c.GetHeld()); n == 1 {
		fmt.Fprint(&all, "once:\n")
	} else {
		fmt.Fprintf(&all, "%d times:\n", n)
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
		fmt.Fprintf(&all, "\n%s", text)
	}
	return all.String()
}

// headline is what a write does, in short.
func headline(w *v1.HeldWrite) string { return w.GetVerb() + " " + nameOf(w) }

// objectOf is the object of a write as it will be; as it was, where it will be gone.
func objectOf(w *v1.HeldWrite) api.Object {
	if o := api.Unwrap(w.GetAfter()); o != nil {
		return o
	}
	return api.Unwrap(w.GetBefore())
}

// nameOf names the object of a write. The name that a create makes up is not
// known before.
func nameOf(w *v1.HeldWrite) string {
	o := objectOf(w)
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
		fmt.Fprintf(w, "    - %s\n", nameOf(held))
		return
	}
	isNew := before == nil
	if isNew {
		before = api.KindOf(after).New()
	}
	changes := why.Changes(before, after)
	if len(changes) == 0 {
		fmt.Fprintln(w, "    (nothing but accounts: a revision, a count, a time)")
	}
	for _, c := range changes {
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
	known := map[why.Key]bool{o: true}
	for _, one := range r.GetControllers() {
		for _, w := range one.GetHeld() {
			if before := api.Unwrap(w.GetBefore()); belongs(ctx, c, objectOf(w), known) || before != nil && belongs(ctx, c, before, known) {
				lines = append(lines, fmt.Sprintf("controller %s is paused and would %s: %s", one.GetName(), headline(w), w.GetCause().GetMessage()))
			}
		}
	}
	return slices.Compact(lines) // a pod for each replica that is missing
}

// belongs says whether an object is the one that is known, or is owned by it, by
// way of others too, which are known then.
func belongs(ctx context.Context, c *client.Client, o api.Object, known map[why.Key]bool) bool {
	m := o.GetMetadata()
	return known[why.Key{Kind: api.KindOf(o).Name, Namespace: m.GetNamespace(), Name: m.GetName()}] ||
		slices.ContainsFunc(m.GetOwnerReferences(), func(r *v1.OwnerReference) bool {
			owner := why.Key{Kind: r.GetKind(), Namespace: m.GetNamespace(), Name: r.GetName()}
			if _, seen := known[owner]; !seen {
				known[owner] = false // also where it owns itself, in the end
				if k := api.KindByName(owner.Kind); k != nil {
					up, err := client.ForKind(c, k).Get(ctx, owner.Namespace, owner.Name)
					known[owner] = err == nil && belongs(ctx, c, up, known)
				}
			}
			return known[owner]
		})
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
				Key: w.GetKey(), Verb: w.GetVerb(), Object: nameOf(w), Since: w.GetSince().AsTime().Format(time.RFC3339),
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
