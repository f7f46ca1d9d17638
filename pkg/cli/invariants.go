package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	"orch/pkg/invariant"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// betweenLooks is how long after one another the machines are looked at: what is
// found in both looks is no change that was seen half-way.
const betweenLooks = time.Second

// findings are what invariants answers.
type findings struct {
	// FromRevision and ToRevision are the part of the log that was checked.
	FromRevision int64 `json:"fromRevision"`
	ToRevision   int64 `json:"toRevision"`
	// Nodes are those whose agents were asked, NotAsked those that did not answer,
	// and why.
	Nodes      []string               `json:"nodes"`
	NotAsked   map[string]string      `json:"notAsked,omitempty"`
	Rules      []invariant.Rule       `json:"rules"`
	Violations []*invariant.Violation `json:"violations"`
}

func newInvariants(f *factory) *cobra.Command {
	var (
		since         moment
		class, output string
		watch         bool
	)
	c := &cobra.Command{
		Use: "invariants", Short: "Check what must be true, whatever fails, and name what broke it", Args: cobra.NoArgs,
		Long: "Check what must be true in a cluster, whatever fails: after every write that the\n" +
			"log remembers, and on the machines as they are now. Rules of the class safety hold\n" +
			"always: where one is broken, Orch is. Those of the class promise are what users\n" +
			"were promised; a fault breaks them too, and then it counts for how long.\n" +
			"Each is named with the revision that broke it, and why that was written.\n\n" +
			"The exit code is 1 where something was broken.",
		Example: "  orchctl invariants\n  orchctl invariants --since 10m --class safety\n  orchctl invariants --watch",
		RunE: func(c *cobra.Command, _ []string) error {
			if class != "" && class != string(invariant.Safety) && class != string(invariant.Promise) {
				return fmt.Errorf("--class %q: use safety or promise, or none for both", class)
			}
			if watch && output != "" {
				return fmt.Errorf("--watch prints sentences only")
			}
			ctx, cl, err := f.begin(c.Context(), "Get", "")
			if err != nil {
				return err
			}
			i := &inspection{f: f, client: cl, class: invariant.Class(class), checker: invariant.New()}
			found, err := i.first(ctx, since)
			if err == nil && found.ToRevision == 0 && !watch {
				_, err = since.when(ctx, cl)
			}
			if errors.Is(err, api.ErrForbidden) {
				return api.Errorf(api.ErrForbidden, "you need the rights to list pods, deployments, replicasets, poddisruptionbudgets and nodes in all namespaces")
			} else if err != nil {
				return err
			}
			if output == "json" {
				err = printJSON(f, found)
			} else {
				err = i.print(found)
			}
			if err == nil && watch {
				err = i.follow(ctx, found)
			}
			if err != nil && (c.Context().Err() == nil || i.broken == 0) {
				return err
			}
			if i.broken > 0 {
				return &exitError{code: 1}
			}
			return nil
		},
	}
	c.Flags().Var(&since, "since", "only what was written from then on: "+momentForms)
	c.Flags().StringVar(&class, "class", "", "only rules of this class: safety or promise")
	jsonFlag(c, &output, "sentences")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and tell what breaks")
	return c
}

// inspection is one run of the command.
type inspection struct {
	f       *factory
	client  *client.Client
	class   invariant.Class
	checker *invariant.Checker
	request *v1.HistoryRequest     // for what of the log was not read yet
	before  []*invariant.Violation // what the last look at the machines found
	broken  int
}

// first checks the log as far as it goes, and the machines.
func (i *inspection) first(ctx context.Context, since moment) (*findings, error) {
	i.request = span(&v1.HistoryRequest{}, since, moment{})
	found := &findings{Rules: i.rules()}
	if err := i.read(ctx, found); err != nil {
		return nil, err
	}
	if _, err := i.look(ctx, found); err != nil {
		return nil, err
	}
	machines, err := i.again(ctx, found)
	if err != nil {
		return nil, err
	}
	found.Violations, err = i.explain(ctx, append(slices.Clone(i.checker.All()), machines...))
	return found, err
}

func (i *inspection) rules() (some []invariant.Rule) {
	for _, r := range invariant.Rules {
		if i.class == "" || r.Class == i.class {
			some = append(some, r)
		}
	}
	return some
}

// read shows the checker what it has not seen of the log.
func (i *inspection) read(ctx context.Context, found *findings) error {
	from, to, err := i.checker.Read(ctx, i.client, i.request)
	if to > 0 {
		i.request = &v1.HistoryRequest{AfterRevision: to}
		found.FromRevision, found.ToRevision = cmp.Or(found.FromRevision, from), to
	}
	return err
}

// again reads on and looks again, some time after the last look.
func (i *inspection) again(ctx context.Context, found *findings) ([]*invariant.Violation, error) {
	if err := pauseFor(ctx, betweenLooks); err != nil {
		return nil, err
	}
	if err := i.read(ctx, found); err != nil {
		return nil, err
	}
	return i.look(ctx, found)
}

// look is what the machines show now and showed a look ago. It enters which nodes
// answered, and what hindered the others.
func (i *inspection) look(ctx context.Context, found *findings) (again []*invariant.Violation, err error) {
	pods, nodes, failed, err := invariant.Look(ctx, i.client)
	if err != nil {
		return nil, err
	}
	found.Nodes, found.NotAsked = slices.AppendSeq([]string{}, maps.Keys(nodes)), map[string]string{}
	slices.Sort(found.Nodes)
	for node, err := range failed {
		found.NotAsked[node] = err.Error()
	}
	now := invariant.Machines(pods, nodes)
	again, _ = invariant.Compare(i.before, now)
	i.before = now
	return again, nil
}

// hit is the newest entry of an injection from which a pod suffers now; nil: none.
func (i *inspection) hit(namespace, pod string) (found *v1.LogEntry) {
	for e := range i.checker.Faults() {
		x := e.GetObject().GetChaosInjection()
		if x.GetSpec().GetPodName() == pod && x.GetMetadata().GetNamespace() == namespace && !api.IsInjectionOver(x) && e.GetRevision() > found.GetRevision() {
			found = e
		}
	}
	return found
}

// explain leaves the violations of the class that is asked for, and follows the
// cause of each to where it began. What only a machine tells is because of an
// injection that lasts, or of the last that happened to its pod.
func (i *inspection) explain(ctx context.Context, all []*invariant.Violation) ([]*invariant.Violation, error) {
	some := []*invariant.Violation{}
	var entries []*v1.LogEntry
	for _, v := range all {
		if i.class != "" && v.Class != i.class {
			continue
		}
		some = append(some, v)
		name := strings.TrimPrefix(v.Object, "pod/")
		if v.Entry == nil {
			v.Entry = i.hit(v.Namespace, name)
		}
		if v.Entry == nil {
			for e, err := range i.client.History(ctx, &v1.HistoryRequest{Kind: "Pod", Namespace: v.Namespace, Name: name, Limit: 1}) {
				if err != nil {
					return nil, err
				}
				v.Entry = e
			}
		}
		if v.Entry != nil {
			entries = append(entries, v.Entry)
		}
	}
	i.broken += len(some)
	log := why.Log{}
	for _, e := range entries {
		log[e.GetRevision()] = e
	}
	if err := log.Follow(ctx, i.client, entries); err != nil {
		return nil, err
	}
	for e := range i.checker.Faults() {
		log[e.GetRevision()] = e
	}
	var causes []*why.Step
	for _, v := range some {
		if v.Entry != nil {
			v.Cause = log.Chain(v.Entry)
			causes = append(causes, v.Cause)
		}
	}
	log.Meanwhile(causes...)
	return some, nil
}

func (i *inspection) print(found *findings) error {
	rows := [][]string{{"INVARIANT", "CLASS", "BROKEN", "RULE"}}
	for _, r := range found.Rules {
		n, still := 0, 0
		for _, v := range found.Violations {
			if v.Name == r.Name {
				n++
				if v.Class == invariant.Promise && v.Until == 0 {
					still++
				}
			}
		}
		count := strconv.Itoa(n)
		if still > 0 {
			count += fmt.Sprintf(" (%d still)", still)
		}
		rows = append(rows, []string{r.Name, string(r.Class), count, r.Text})
	}
	if err := printer.Rows(i.f.Out, rows); err != nil {
		return err
	}
	fmt.Fprintf(i.f.Out, "\nRevisions %d to %d of the log, and the containers of %d of %d nodes.\n",
		found.FromRevision, found.ToRevision, len(found.Nodes), len(found.Nodes)+len(found.NotAsked))
	for _, node := range slices.Sorted(maps.Keys(found.NotAsked)) {
		fmt.Fprintf(i.f.Err, "%s was not asked: %s\n", node, found.NotAsked[node])
	}
	for _, v := range found.Violations {
		i.tell(v)
	}
	return nil
}

// tell prints what was broken, and below it why.
func (i *inspection) tell(v *invariant.Violation) {
	fmt.Fprintf(i.f.Out, "\n%s %s%s\n", i.name(v), v.Broken, lasting(v))
	if v.Cause == nil {
		fmt.Fprintln(i.f.Out, "            the log does not tell why")
		return
	}
	fmt.Fprintf(i.f.Out, "  %s  %s (rev %d)\n", clock(v.Cause.Time), line(*v.Cause), v.Cause.Revision)
	because(i.f.Out, *v.Cause, "", map[int64]bool{})
}

// name is what a rule is broken for. Its namespace stands there where it is not the
// one that the user is in.
func (i *inspection) name(v *invariant.Violation) string {
	if v.Namespace == "" || v.Namespace == i.f.ns() {
		return v.Object
	}
	return v.Object + " in " + v.Namespace
}

// lasting says for how long a promise was broken.
func lasting(v *invariant.Violation) string {
	switch {
	case v.Class != invariant.Promise || v.Name == invariant.BudgetKept.Name:
		return ""
	case v.Until == 0:
		return ", until now"
	}
	return fmt.Sprintf(", for %s (until rev %d)", v.Ended.Sub(v.Time).Round(time.Millisecond), v.Until)
}

// follow tells what breaks, until the context ends.
func (i *inspection) follow(ctx context.Context, found *findings) error {
	fmt.Fprintln(i.f.Err, "\nWatching; Ctrl-C ends it.")
	told := slices.DeleteFunc(slices.Clone(found.Violations), func(v *invariant.Violation) bool { return v.Revision > 0 })
	for {
		before, known := found.ToRevision, len(i.checker.All())
		again, err := i.again(ctx, found)
		if err != nil {
			return err
		}
		_, fresh := invariant.Compare(told, again)
		told = again
		all, err := i.explain(ctx, append(slices.Clone(i.checker.All()[known:]), fresh...))
		if err != nil {
			return err
		}
		for _, v := range i.checker.All()[:known] {
			if v.Until > before && (i.class == "" || i.class == v.Class) {
				fmt.Fprintf(i.f.Out, "\n%s keeps its promise again, after %s in which it %s (rev %d)\n", i.name(v), v.Ended.Sub(v.Time).Round(time.Millisecond), strings.Replace(v.Broken, "has", "had", 1), v.Until)
			}
		}
		for _, v := range all {
			i.tell(v)
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
