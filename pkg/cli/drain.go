package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// evictAgain is when an eviction that a budget forbids is tried again; kubectl's.
const evictAgain = 5 * time.Second

// drain are the flags of the verb.
type drain struct {
	selection
	writeFlags
	force, daemonSets, emptyDirs, noEviction bool
	grace                                    int64
	timeout                                  time.Duration
	pods                                     string

	f *factory
	voice
}

func newDrain(f *factory) *cobra.Command {
	d := &drain{f: f}
	c := &cobra.Command{
		Use: "drain NODE...", Short: "Drain a node for maintenance: cordon it and evict its pods",
		Long: "Cordon a node and evict its pods, and return when they are gone. A PodDisruptionBudget that forbids an eviction is asked again " +
			"every 5 s. Nothing is evicted before every pod may be: pods without a controller need --force, those with an emptyDir --delete-emptydir-data.",
		Example: "  orchctl drain node-1\n  orchctl drain node-1 --force --delete-emptydir-data --timeout=5m\n  orchctl uncordon node-1   # when it is back",
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && d.labels == "":
				return fmt.Errorf("name the node, or use -l SELECTOR")
			case len(args) > 0 && d.labels != "":
				return fmt.Errorf("cannot specify both a node name and a --selector option")
			}
			return d.run(c.Context(), args)
		},
	}
	c.Flags().BoolVar(&d.force, "force", false, "also delete pods that have no controller: nothing makes them anew")
	c.Flags().BoolVar(&d.daemonSets, "ignore-daemonsets", false, "leave pods of DaemonSets where they are")
	c.Flags().BoolVar(&d.emptyDirs, "delete-emptydir-data", false, "also delete pods with an emptyDir, whose data is lost")
	c.Flags().BoolVar(&d.noEviction, "disable-eviction", false, "delete pods without asking their PodDisruptionBudgets")
	c.Flags().Int64Var(&d.grace, "grace-period", -1, "seconds that pods get to end; negative is the pod's own")
	c.Flags().DurationVar(&d.timeout, "timeout", 0, "how long to try before giving up; 0 is without limit")
	c.Flags().StringVar(&d.pods, "pod-selector", "", "only the node's pods with these labels")
	c.Flags().StringVarP(&d.labels, "selector", "l", "", "the nodes with these labels")
	d.add(c, false)
	return c
}

func (d *drain) run(ctx context.Context, args []string) error {
	if _, err := api.ParseSelector(d.pods); err != nil {
		return fmt.Errorf("--pod-selector=<pod_selector> must be a valid label selector")
	}
	if err := d.check(); err != nil {
		return err
	}
	targets, err := d.parse(d.f, append([]string{"nodes"}, args...))
	if err != nil {
		return err
	}
	ctx, cancel := d.f.request(ctx, "Drained", "drained with orchctl")
	defer cancel()
	// All are cordoned first, so that no pod moves from one to the next.
	var nodes []api.Object
	err = d.each(ctx, d.f, targets, func(c *client.Client, o api.Object) error {
		nodes = append(nodes, o)
		return d.cordon(ctx, c, d.f, o, true)
	})
	if err != nil {
		return err
	}
	c, err := d.f.client()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range nodes {
		if err := d.empty(ctx, c, n.GetMetadata().GetName()); err != nil {
			errs = append(errs, fmt.Errorf("unable to drain node %q due to error: %w", n.GetMetadata().GetName(), err))
		} else if err := d.done(d.f.Out, n, "drained"); err != nil {
			return err
		}
	}
	return d.f.report(errs)
}

// empty evicts the pods of a node, unless one of them may not be.
func (d *drain) empty(ctx context.Context, c *client.Client, node string) error {
	l, err := client.For[*v1.Pod](c).List(ctx, client.ListOptions{FieldSelector: "spec.nodeName=" + node, LabelSelector: d.pods})
	if err != nil {
		return err
	}
	going, forbidden, warnings := d.choose(l.Items)
	if len(forbidden) > 0 {
		return errors.New(inWords("cannot delete ", forbidden))
	}
	if len(warnings) > 0 {
		fmt.Fprintln(d.f.Err, "Warning: "+inWords("", warnings))
	}
	ctx, cancel := within(ctx, d.timeout)
	defer cancel()
	errs := make([]error, len(going))
	var wg sync.WaitGroup
	for i, p := range going {
		wg.Go(func() { errs[i] = d.end(ctx, c, p) })
	}
	wg.Wait()
	return together(errs)
}

// together is one error for several, as kubectl writes them.
func together(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) < 2 {
		return errors.Join(errs...)
	}
	var text []string
	for _, err := range errs {
		text = append(text, err.Error())
	}
	return errors.New("[" + strings.Join(text, ", ") + "]")
}

// choose parts a node's pods into those that are to go, and those that may not, by
// the reason. Warnings name what is lost. The words are kubectl's.
func (d *drain) choose(pods []*v1.Pod) (going []*v1.Pod, forbidden, warnings map[string][]string) {
	forbidden, warnings = map[string][]string{}, map[string][]string{}
	for _, p := range pods {
		m, owner := p.GetMetadata(), api.ControllerOf(p)
		name := m.GetNamespace() + "/" + m.GetName()
		note := func(in map[string][]string, why string) { in[why] = append(in[why], name) }
		hasEmptyDir := slices.ContainsFunc(p.GetSpec().GetVolumes(), func(v *v1.Volume) bool { return v.GetEmptyDir() != nil })
		switch {
		case api.IsPodTerminal(p):
			going = append(going, p)
			continue
		case owner.GetKind() == "DaemonSet" && !d.daemonSets:
			note(forbidden, "DaemonSet-managed Pods (use --ignore-daemonsets to ignore)")
			continue
		case owner.GetKind() == "DaemonSet":
			note(warnings, "ignoring DaemonSet-managed Pods")
			continue
		case hasEmptyDir && !d.emptyDirs:
			note(forbidden, "Pods with local storage (use --delete-emptydir-data to override)")
			continue
		case owner == nil && !d.force:
			note(forbidden, "cannot delete Pods that declare no controller (use --force to override)")
			continue
		}
		if owner == nil {
			note(warnings, "deleting Pods that declare no controller")
		} else if hasEmptyDir {
			note(warnings, "deleting Pods with local storage")
		}
		going = append(going, p)
	}
	return going, forbidden, warnings
}

func inWords(prefix string, names map[string][]string) string {
	var parts []string
	for _, why := range slices.Sorted(maps.Keys(names)) {
		parts = append(parts, prefix+why+": "+strings.Join(names[why], ", "))
	}
	return strings.Join(parts, "; ")
}

// end evicts one pod, again and again where its budget forbids it, and returns when
// it is gone.
func (d *drain) end(ctx context.Context, c *client.Client, p *v1.Pod) error {
	m := p.GetMetadata()
	verb, said := "evicting", "evicted"
	if d.noEviction {
		verb, said = "deleting", "deleted"
	}
	o := client.DeleteOptions{UID: m.GetUid(), Evict: !d.noEviction, DryRun: d.dryRun == "server"}
	if d.grace >= 0 {
		o.GracePeriodSeconds = &d.grace
	}
	for {
		d.say(d.f.Out, "%s pod %s/%s%s\n", verb, m.GetNamespace(), m.GetName(), d.suffix())
		if d.dryRun == "client" {
			return nil
		}
		_, err := client.For[*v1.Pod](c).Delete(ctx, m.GetNamespace(), m.GetName(), o)
		if errors.Is(err, api.ErrNotFound) || errors.Is(err, api.ErrConflict) {
			return nil // it is gone, or another has its name
		}
		if err == nil {
			break
		}
		if !errors.Is(err, api.ErrTooManyRequests) {
			return fmt.Errorf("error when %s pods/%q -n %q: %w", verb, m.GetName(), m.GetNamespace(), err)
		}
		d.say(d.f.Err, "error when %s pods/%q -n %q (will retry after 5s): %v\n", verb, m.GetName(), m.GetNamespace(), withCauses(err))
		select {
		case <-ctx.Done():
			return fmt.Errorf("error when %s pods/%q -n %q: global timeout reached: %v: %s", verb, m.GetName(), m.GetNamespace(), d.timeout, withCauses(err).Error())
		case <-time.After(evictAgain):
		}
	}
	if d.dryRun == "server" {
		return nil
	}
	if err := gone(ctx, c, p); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("global timeout reached: %v", d.timeout)
		}
		return fmt.Errorf("error when waiting for pod %q in namespace %q to terminate: %w", m.GetName(), m.GetNamespace(), err)
	}
	d.say(d.f.Out, "pod/%s %s\n", m.GetName(), said)
	return nil
}

// withCauses adds to an error what the server says beside it: which budget, and
// what it needs.
func withCauses(err error) error {
	var se *api.StatusError
	if errors.As(err, &se) {
		for _, c := range se.Causes {
			err = fmt.Errorf("%w %s", err, c.GetMessage())
		}
	}
	return err
}
