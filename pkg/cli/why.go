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

	"orch/pkg/api"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

func newWhy(f *factory) *cobra.Command {
	var (
		s      selection
		o      why.Options
		since  moment
		tree   bool
		output string
	)
	c := &cobra.Command{
		Use: "why (TYPE/NAME | TYPE NAME)", Short: "Explain why an object exists, and why it is as it is",
		Long: "Explain an object from the log: why it exists, why it is where it is, what became\n" +
			"of it, and who or what began it. The newest comes first; below each line stands\n" +
			"what made it necessary. What is gone is explained as long as the log remembers it.",
		Example: "  orchctl why pod/web-1\n  orchctl why deployment recommend-service --tree\n  orchctl why node/node-3 --since 10m",

		ValidArgsFunction: f.completeKinds, Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cl, t, err := s.begin(c.Context(), f, args)
			if err != nil {
				return err
			}
			key := why.Key{Kind: t.kind.Name, Namespace: t.namespace, Name: t.name}
			history, log, err := why.Gather(ctx, cl, key)
			switch {
			case err != nil:
				return err
			case len(history) == 0:
				return api.NotFound(t.kind, t.name)
			}
			if since.text != "" {
				if o.Since, err = since.when(ctx, cl); err != nil {
					return err
				}
			}
			x, now := why.Explain(key, history, log, o), present(ctx, cl, key)
			if output == "json" {
				return printJSON(f, struct {
					why.Explanation
					// Now is what it waits for at this moment.
					Now []string `json:"now,omitempty"`
				}{x, now})
			}
			fmt.Fprintf(f.Out, "%s %s\n\n", x.Object, untilNextTry(x.State, time.Now()))
			for _, text := range now {
				fmt.Fprintf(f.Out, "now           %s\n", text)
			}
			if tree {
				(&causes{out: f.Out, all: o.All}).draw(x)
			} else {
				tell(f.Out, x)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&tree, "tree", false, "begin with the causes, and show below each what came of it")
	c.Flags().Var(&since, "since", "only what happened from then on: "+momentForms)
	c.Flags().BoolVar(&o.All, "all", false, "also what only keeps accounts (counted, observed)")
	jsonFlag(c, &output, "sentences")
	return c
}

// maxWaiting is how many pods that are not ready are named.
const maxWaiting = 3

// present are sentences about what an object waits for at this moment, as far as no
// step of its own tells: what paused controllers hold, the last bad answer of a pod's
// probes, and the pods that a Deployment or ReplicaSet is not whole without. Who may
// not know hears nothing.
func present(ctx context.Context, c *client.Client, key why.Key) []string {
	lines := heldFor(ctx, c, key)
	o, err := client.ForKind(c, api.KindByName(key.Kind)).Get(ctx, key.Namespace, key.Name)
	if err != nil {
		return lines
	}
	var pods *v1.LabelSelector
	switch o := o.(type) {
	case *v1.Pod:
		if answer := badAnswer(ctx, c, o); answer != "" {
			lines = append(lines, answer)
		}
	case *v1.Deployment:
		pods = o.GetSpec().GetSelector()
	case *v1.ReplicaSet:
		pods = o.GetSpec().GetSelector()
	}
	selector, err := api.SelectorOf(pods)
	if pods == nil || err != nil {
		return lines
	}
	list, err := client.For[*v1.Pod](c).List(ctx, client.ListOptions{Namespace: key.Namespace, LabelSelector: selector.String()})
	if err != nil {
		return lines
	}
	waiting := slices.DeleteFunc(list.Items, func(p *v1.Pod) bool { return api.IsPodReady(p) || !api.IsPodActive(p) })
	for _, p := range waiting[:min(len(waiting), maxWaiting)] {
		text := fmt.Sprintf("pod/%s %s: %s", p.GetMetadata().GetName(), untilNextTry(why.PodState(p), time.Now()), badAnswer(ctx, c, p))
		lines = append(lines, strings.TrimSuffix(text, ": "))
	}
	if more := len(waiting) - maxWaiting; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more wait", more))
	}
	return lines
}

// badAnswer is what the probes of a pod that runs and is not ready were told last;
// "" where there is nothing.
func badAnswer(ctx context.Context, c *client.Client, p *v1.Pod) string {
	if p.GetStatus().GetPhase() != api.PodRunning || api.IsPodReady(p) {
		return ""
	}
	list, err := client.For[*v1.Event](c).List(ctx, client.ListOptions{
		Namespace: p.GetMetadata().GetNamespace(), FieldSelector: "reason=Unhealthy,involvedObject.uid=" + p.GetMetadata().GetUid(),
	})
	if err != nil || len(list.Items) == 0 {
		return ""
	}
	sortEvents(list.Items)
	last := list.Items[len(list.Items)-1]
	return fmt.Sprintf("%s (%s ago)", strings.TrimSpace(last.GetMessage()), printer.Age(printer.EventTime(last), time.Now()))
}

var nextTry = regexp.MustCompile(`next try at ([0-9T:-]+Z)`)

// untilNextTry says of each time of a next try that is to come how long it is until
// then: nobody has to compare it with a clock in another zone.
func untilNextTry(state string, now time.Time) string {
	return nextTry.ReplaceAllStringFunc(state, func(s string) string {
		at, err := time.Parse(time.RFC3339, nextTry.FindStringSubmatch(s)[1])
		if err != nil || !at.After(now) {
			return s
		}
		return "next try in " + printer.Duration(at.Sub(now))
	})
}

// tell prints the steps, newest first, and below each what led to it, as far as
// the object's own story does not say it.
func tell(w io.Writer, x why.Explanation) {
	told := map[int64]bool{}
	for _, s := range x.Steps {
		if s.Revision == 0 {
			fmt.Fprintf(w, "              %s\n", s.Text)
			continue
		}
		fmt.Fprintf(w, "%s  %s%s (rev %d)\n", clock(s.Time), s.Text, by(s), s.Revision)
		because(w, s, x.Object, told)
	}
}

// because prints, once each, what led to a step, until that is of the object whose
// story it is.
func because(w io.Writer, s why.Step, story string, told map[int64]bool) {
	meanwhile(w, "              ", s, told)
	for c := s.Because; c != nil && c.Object != story; c = c.Because {
		if c.Quiet && c.Because != nil {
			continue
		}
		if told[c.Revision] {
			fmt.Fprintf(w, "              ← see above (rev %d)\n", c.Revision)
			break
		}
		told[c.Revision] = true
		fmt.Fprintf(w, "              ← %s (rev %d)\n", line(*c), c.Revision)
		meanwhile(w, "              ", *c, told)
	}
}

// meanwhile prints, once each, what was broken on purpose when a step was made.
func meanwhile(w io.Writer, indent string, s why.Step, told map[int64]bool) {
	for _, m := range s.Meanwhile {
		if !told[m.Revision] {
			told[m.Revision] = true
			fmt.Fprintf(w, "%s~ meanwhile %s: %s (rev %d)\n", indent, m.Object, m.Text, m.Revision)
		}
	}
}

// clock is a time as all commands tell it, by the clock of who reads it: that of
// today without its date, to the millisecond, as most of what heals takes less than
// a second.
func clock(t time.Time) string {
	t = t.Local()
	if y, m, d := time.Now().Date(); t.Before(time.Date(y, m, d, 0, 0, 0, 0, t.Location())) {
		return t.Format("2006-01-02 15:04:05.000")
	}
	return t.Format("15:04:05.000")
}

// line is a step with its object.
func line(s why.Step) string {
	if s.Object == "" {
		return s.Text
	}
	return s.Object + " " + s.Text + by(s)
}

// by says where a chain began, where the sentence does not.
func by(s why.Step) string {
	switch s.Origin {
	case why.Node:
		if who := why.Who(s.Actor); !strings.Contains(s.Text, who) {
			return ", as " + who + " saw"
		}
	case why.Clock:
		return ", as the clock showed"
	case why.Bootstrap, why.User, why.Compacted, why.Withheld, why.Unknown:
	}
	return ""
}

// causes prints explanations as a tree: what began it, and below it what
// followed.
type causes struct {
	out io.Writer
	all bool
	// children are the revisions that follow from each; 0 has the beginnings.
	children map[int64][]int64
	steps    map[int64]why.Step
	told     map[int64]bool
}

func (t *causes) draw(x why.Explanation) {
	t.children, t.steps, t.told = map[int64][]int64{}, map[int64]why.Step{}, map[int64]bool{}
	for i := range x.Steps {
		t.add(&x.Steps[i])
	}
	for i, rev := range t.below(0) {
		if i > 0 {
			fmt.Fprintln(t.out)
		}
		t.branch(rev, "", "")
	}
}

// add enters a step below the nearest cause that is worth a line.
func (t *causes) add(s *why.Step) {
	if _, known := t.steps[s.Revision]; known || s.Revision == 0 {
		return
	}
	t.steps[s.Revision] = *s
	parent := s.Because
	for parent != nil && parent.Quiet && parent.Because != nil && !t.all {
		parent = parent.Because
	}
	if parent == nil {
		t.children[0] = append(t.children[0], s.Revision)
		return
	}
	t.children[parent.Revision] = append(t.children[parent.Revision], s.Revision)
	t.add(parent)
}

func (t *causes) below(rev int64) []int64 {
	slices.Sort(t.children[rev])
	return t.children[rev]
}

func (t *causes) branch(rev int64, first, rest string) {
	s := t.steps[rev]
	fmt.Fprintf(t.out, "%s%s  %s (rev %d)\n", first, clock(s.Time), line(s), rev)
	meanwhile(t.out, rest+"            ", s, t.told)
	children := t.below(rev)
	for i, child := range children {
		if i == len(children)-1 {
			t.branch(child, rest+"└─ ", rest+"   ")
		} else {
			t.branch(child, rest+"├─ ", rest+"│  ")
		}
	}
}
