package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// deleteFlags are the flags of delete.
type deleteFlags struct {
	selection
	writeFlags
	grace          int64
	now, force     bool
	wait           bool
	timeout        time.Duration
	cascade        string
	ignoreNotFound bool
}

func newDelete(f *factory) *cobra.Command {
	var d deleteFlags
	c := &cobra.Command{
		Use:   "delete TYPE NAME... | TYPE/NAME... | TYPE -l SELECTOR | TYPE --all | -f FILE",
		Short: "Delete objects, and wait until they are gone",
		Example: "  orchctl delete pod web-1\n" +
			"  orchctl delete -f examples/webflix/\n" +
			"  orchctl delete pods -l app=recommend-service --now",
		ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			return d.run(c.Context(), f, args)
		},
	}
	d.fileFlags(c, "delete")
	d.selectorFlags(c)
	c.Flags().BoolVar(&d.all, "all", false, "all objects of the type in the namespace")
	c.Flags().Int64Var(&d.grace, "grace-period", -1, "seconds that pods get to end; negative is the pod's own")
	c.Flags().BoolVar(&d.now, "now", false, "the same as --grace-period=1")
	c.Flags().BoolVar(&d.force, "force", false, "with --grace-period=0: forget pods at once, without waiting for their containers to end")
	c.Flags().BoolVar(&d.wait, "wait", true, "return when the objects are gone")
	c.Flags().DurationVar(&d.timeout, "timeout", 0, "how long to wait; 0 is without limit")
	c.Flags().StringVar(&d.cascade, "cascade", "background", "what becomes of what the object owns: background, foreground or orphan")
	c.Flags().Lookup("cascade").NoOptDefVal = "background"
	c.Flags().BoolVar(&d.ignoreNotFound, "ignore-not-found", false, "no error for an object that does not exist")
	d.add(c, false)
	c.Flags().Lookup("output").Usage = "name, or nothing for a sentence"
	return c
}

// options checks the flags and turns them into the client's.
func (d *deleteFlags) options() (client.DeleteOptions, error) {
	var o client.DeleteOptions
	switch {
	case d.now && d.grace >= 0:
		return o, fmt.Errorf("--now and --grace-period cannot be specified together")
	case d.now:
		d.grace = 1
	case d.force && d.grace < 0:
		d.grace = 0
	case d.force && d.grace > 0:
		return o, fmt.Errorf("--force and --grace-period greater than 0 cannot be specified together")
	case d.grace == 0 && !d.force:
		// As kubectl: without --force the containers' end is waited for.
		d.grace = 1
	}
	if d.grace >= 0 {
		o.GracePeriodSeconds = &d.grace
	}
	switch d.cascade {
	case "background", "true":
		o.PropagationPolicy = "Background"
	case "foreground":
		o.PropagationPolicy = "Foreground"
	case "orphan", "false":
		o.PropagationPolicy = "Orphan"
	default:
		return o, fmt.Errorf(`invalid cascade value (%s): must be "background", "foreground", or "orphan"`, d.cascade)
	}
	o.DryRun = d.dryRun == "server"
	if err := d.check(); err != nil {
		return o, err
	}
	if d.output != "" && d.output != "name" {
		return o, fmt.Errorf("unexpected -o output mode: %v: only '-o name' is supported", d.output)
	}
	return o, nil
}

func (d *deleteFlags) run(ctx context.Context, f *factory, args []string) error {
	opts, err := d.options()
	if err != nil {
		return err
	}
	targets, wrong := d.goodTargets(f, args)
	if len(targets) == 0 {
		return f.report(wrong)
	}
	if err := d.narrowed(targets); err != nil {
		return err
	}
	if d.all && slices.ContainsFunc(targets, func(t target) bool { return t.name != "" }) {
		return fmt.Errorf("setting --all is not compatible with naming objects")
	}
	if d.force {
		fmt.Fprintln(f.Err, "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.")
	}
	ctx, c, err := f.begin(ctx, "Deleted", "deleted with orchctl")
	if err != nil {
		return err
	}
	answer, errs := d.fetch(ctx, c, targets)
	if d.ignoreNotFound {
		errs = withoutMissing(errs)
	}
	errs = slices.Concat(wrong, errs)
	var going []api.Object
	for _, a := range answer {
		for _, o := range a.objects {
			one := opts
			one.UID = o.GetMetadata().GetUid()
			if d.dryRun != "client" {
				m := o.GetMetadata()
				if _, err := client.ForKind(c, a.kind).Delete(ctx, m.GetNamespace(), m.GetName(), one); err != nil && !errors.Is(err, api.ErrNotFound) {
					errs = append(errs, err)
					continue
				}
			}
			d.say(f, o)
			going = append(going, o)
		}
	}
	if len(answer) > 0 && len(going) == 0 && len(errs) == 0 {
		fmt.Fprintln(f.Err, "No resources found")
	}
	if d.wait && d.dryRun == "none" {
		if err := d.waitGone(ctx, c, going); err != nil {
			errs = append(errs, err)
		}
	}
	return f.report(errs)
}

func (d *deleteFlags) say(f *factory, o api.Object) {
	name := printer.Name(o)
	if d.output == "name" {
		fmt.Fprintln(f.Out, name)
		return
	}
	verb := "deleted"
	if d.force && d.grace == 0 {
		verb = "force deleted"
	}
	k := name[:len(name)-len(o.GetMetadata().GetName())-1]
	fmt.Fprintf(f.Out, "%s %q %s%s\n", k, o.GetMetadata().GetName(), verb, d.suffix())
}

// waitGone returns when none of the objects (by uid) exists any more.
func (d *deleteFlags) waitGone(ctx context.Context, c *client.Client, objects []api.Object) error {
	ctx, cancel := within(ctx, d.timeout)
	defer cancel()
	for _, o := range objects {
		if err := gone(ctx, c, o); err != nil {
			return timedOut(err, printer.Name(o))
		}
	}
	return nil
}

// gone returns when this very object does not exist any more.
func gone(ctx context.Context, c *client.Client, o api.Object) error {
	m := o.GetMetadata()
	there := false
	return eachEventOf(ctx, c, api.KindOf(o), m.GetNamespace(), m.GetName(), func(e client.Event[api.Object]) (bool, error) {
		switch e.Type {
		case v1.WatchEvent_TYPE_SYNCED:
			return !there, nil
		case v1.WatchEvent_TYPE_ADDED, v1.WatchEvent_TYPE_MODIFIED:
			there = e.Object.GetMetadata().GetUid() == m.GetUid()
		case v1.WatchEvent_TYPE_DELETED:
			return e.Object.GetMetadata().GetUid() == m.GetUid(), nil
		}
		return false, nil
	})
}
