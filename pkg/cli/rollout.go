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
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// annotationRestartedAt in a pod template makes `rollout restart` a change of
// the template, and so a rollout.
const annotationRestartedAt = "kubectl.kubernetes.io/restartedAt"

func newRollout(f *factory) *cobra.Command {
	c := group("rollout", "Follow and steer the rollout of a deployment",
		newRolloutStatus(f), newRolloutHistory(f), newRolloutUndo(f),
		newRolloutChange(f, "restart", "restarted", "Replace all pods by new ones, step by step", func(d *v1.Deployment) error {
			if d.GetSpec().GetPaused() {
				return fmt.Errorf("can't restart paused deployment (run rollout resume first)")
			}
			m := d.GetSpec().GetTemplate().GetMetadata()
			if m == nil {
				m = &v1.ObjectMeta{}
				d.Spec.Template.Metadata = m
			}
			if m.Annotations == nil {
				m.Annotations = map[string]string{}
			}
			m.Annotations[annotationRestartedAt] = time.Now().Format(time.RFC3339)
			return nil
		}),
		newRolloutChange(f, "pause", "paused", "Let changes of the template wait", func(d *v1.Deployment) error {
			if d.GetSpec().GetPaused() {
				return fmt.Errorf("deployments.apps %q is already paused", d.GetMetadata().GetName())
			}
			d.Spec.Paused = true
			return nil
		}),
		newRolloutChange(f, "resume", "resumed", "Roll out what has waited", func(d *v1.Deployment) error {
			if !d.GetSpec().GetPaused() {
				return fmt.Errorf("deployments.apps %q is not paused", d.GetMetadata().GetName())
			}
			d.Spec.Paused = false
			return nil
		}))
	c.Example = "  orchctl rollout status deployment/recommend-service\n  orchctl rollout undo deployment/recommend-service --to-revision=1"
	return c
}

// rolloutVerb makes a command of rollout, which takes only deployments.
func rolloutVerb(f *factory, s *selection, verb, short, forFiles string, run func(ctx context.Context, targets []target) error) *cobra.Command {
	c := &cobra.Command{
		Use: verb + " (deployment NAME | deployment/NAME)", Short: short, ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			targets, err := s.targets(f, args)
			if err != nil {
				return err
			}
			for _, t := range targets {
				if t.kind.Name != "Deployment" {
					return fmt.Errorf("no rollout for %s: only deployments have rollouts", t)
				}
			}
			return run(c.Context(), targets)
		},
	}
	s.fileFlags(c, forFiles)
	return c
}

func newRolloutChange(f *factory, verb, past, short string, change func(*v1.Deployment) error) *cobra.Command {
	var (
		s selection
		w writeFlags
	)
	c := rolloutVerb(f, &s, verb, short, verb, func(ctx context.Context, targets []target) error {
		return w.changeEach(ctx, f, &s, targets, "Rollout"+capital(verb), "rollout "+past+" with orchctl", past, func(o api.Object) error {
			return change(o.(*v1.Deployment))
		})
	})
	s.selectorFlags(c)
	w.add(c, false)
	return c
}

func newRolloutStatus(f *factory) *cobra.Command {
	var (
		s        selection
		watch    bool
		timeout  time.Duration
		revision int64
	)
	c := rolloutVerb(f, &s, "status", "Follow a rollout until it is done", "follow", func(ctx context.Context, targets []target) error {
		ctx, cancel := within(ctx, timeout)
		defer cancel()
		return s.each(ctx, f, targets, func(c *client.Client, o api.Object) error {
			return followRollout(ctx, f, c, o.(*v1.Deployment), watch, revision)
		})
	})
	c.Flags().StringVarP(&s.labels, "selector", "l", "", "the deployments with these labels")
	c.Flags().BoolVarP(&watch, "watch", "w", true, "wait until the rollout is done")
	c.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait; 0 is without limit")
	c.Flags().Int64Var(&revision, "revision", 0, "this revision must be the one that rolls out; 0 is the newest")
	return c
}

// followRollout prints each new sentence about a rollout until it is done.
func followRollout(ctx context.Context, f *factory, c *client.Client, d *v1.Deployment, watch bool, revision int64) error {
	m := d.GetMetadata()
	last, done := "", false
	err := eachEventOf(ctx, c, api.KindOf(d), m.GetNamespace(), m.GetName(), func(e client.Event[api.Object]) (bool, error) {
		d, ok := e.Object.(*v1.Deployment)
		if !ok || d == nil {
			return false, nil
		}
		if e.Type == v1.WatchEvent_TYPE_DELETED {
			return true, fmt.Errorf("object has been deleted")
		}
		text, finished, err := rolloutStatus(d, revision)
		if err != nil {
			return true, err
		}
		if text != last {
			fmt.Fprintln(f.Out, text)
			last = text
		}
		done = finished
		return finished || !watch, nil
	})
	if errors.Is(err, context.DeadlineExceeded) && !done {
		return fmt.Errorf("timed out waiting for the condition")
	}
	return err
}

// rolloutStatus is kubectl's sentence about a deployment, and whether its
// rollout is done.
func rolloutStatus(d *v1.Deployment, revision int64) (string, bool, error) {
	m, spec, st := d.GetMetadata(), d.GetSpec(), d.GetStatus()
	name := m.GetName()
	if revision > 0 {
		if have, err := strconv.ParseInt(m.GetAnnotations()[api.AnnotationRevision], 10, 64); err != nil || have != revision {
			return "", false, fmt.Errorf("desired revision (%d) is different from the running revision (%d)", revision, have)
		}
	}
	if m.GetGeneration() > st.GetObservedGeneration() {
		return "Waiting for deployment spec update to be observed...", false, nil
	}
	if c := api.GetCondition(st.GetConditions(), api.DeploymentProgressing); c.GetReason() == "ProgressDeadlineExceeded" {
		return "", false, fmt.Errorf("deployment %q exceeded its progress deadline", name)
	}
	switch {
	case st.GetUpdatedReplicas() < spec.GetReplicas():
		return fmt.Sprintf("Waiting for deployment %q rollout to finish: %d out of %d new replicas have been updated...", name, st.GetUpdatedReplicas(), spec.GetReplicas()), false, nil
	case st.GetReplicas() > st.GetUpdatedReplicas():
		return fmt.Sprintf("Waiting for deployment %q rollout to finish: %d old replicas are pending termination...", name, st.GetReplicas()-st.GetUpdatedReplicas()), false, nil
	case st.GetAvailableReplicas() < st.GetUpdatedReplicas():
		return fmt.Sprintf("Waiting for deployment %q rollout to finish: %d of %d updated replicas are available...", name, st.GetAvailableReplicas(), st.GetUpdatedReplicas()), false, nil
	}
	return fmt.Sprintf("deployment %q successfully rolled out", name), true, nil
}

// revisions returns the replica sets of a deployment by revision.
func revisions(ctx context.Context, c *client.Client, d *v1.Deployment) (map[int64]*v1.ReplicaSet, []int64, error) {
	sel, err := api.SelectorOf(d.GetSpec().GetSelector())
	if err != nil {
		return nil, nil, err
	}
	list, err := client.For[*v1.ReplicaSet](c).List(ctx, client.ListOptions{Namespace: d.GetMetadata().GetNamespace(), LabelSelector: sel.String()})
	if err != nil {
		return nil, nil, err
	}
	sets := map[int64]*v1.ReplicaSet{}
	for _, rs := range list.Items {
		if api.ControllerOf(rs).GetUid() != d.GetMetadata().GetUid() {
			continue
		}
		if n, err := strconv.ParseInt(rs.GetMetadata().GetAnnotations()[api.AnnotationRevision], 10, 64); err == nil {
			sets[n] = rs
		}
	}
	return sets, slices.Sorted(maps.Keys(sets)), nil
}

func newRolloutHistory(f *factory) *cobra.Command {
	var (
		s        selection
		revision int64
	)
	c := rolloutVerb(f, &s, "history", "Show the revisions of a deployment", "show", func(ctx context.Context, targets []target) error {
		ctx, cancel := f.request(ctx, "Get", "")
		defer cancel()
		return s.each(ctx, f, targets, func(c *client.Client, o api.Object) error {
			return showHistory(ctx, f, c, o.(*v1.Deployment), revision)
		})
	})
	c.Flags().StringVarP(&s.labels, "selector", "l", "", "the deployments with these labels")
	c.Flags().Int64Var(&revision, "revision", 0, "show the pod template of this revision")
	return c
}

func showHistory(ctx context.Context, f *factory, c *client.Client, d *v1.Deployment, revision int64) error {
	sets, order, err := revisions(ctx, c, d)
	if err != nil {
		return err
	}
	if revision > 0 {
		rs := sets[revision]
		if rs == nil {
			return fmt.Errorf("unable to find the specified revision %d: there are %s", revision, joinNumbers(order))
		}
		fmt.Fprintf(f.Out, "%s with revision #%d\n", printer.Name(d), revision)
		return describeTemplate(f.Out, rs.GetSpec().GetTemplate())
	}
	fmt.Fprintln(f.Out, printer.Name(d))
	rows := [][]string{{"REVISION", "CHANGE-CAUSE"}}
	for _, n := range order {
		cause := cmp.Or(sets[n].GetMetadata().GetAnnotations()[api.AnnotationChangeCause], "<none>")
		rows = append(rows, []string{strconv.FormatInt(n, 10), cause})
	}
	return printer.Rows(f.Out, rows)
}

func joinNumbers(n []int64) string {
	parts := make([]string, len(n))
	for i, v := range n {
		parts[i] = strconv.FormatInt(v, 10)
	}
	return strings.Join(parts, ", ")
}

func newRolloutUndo(f *factory) *cobra.Command {
	var (
		s  selection
		w  writeFlags
		to int64
	)
	c := rolloutVerb(f, &s, "undo", "Roll back to an earlier revision", "roll back", func(ctx context.Context, targets []target) error {
		ctx, cl, err := f.begin(ctx, "Get", "")
		if err != nil {
			return err
		}
		return w.changeEach(ctx, f, &s, targets, "RolledBack", "rolled back with orchctl", "rolled back", func(o api.Object) error {
			d := o.(*v1.Deployment)
			if d.GetSpec().GetPaused() {
				return fmt.Errorf("you cannot rollback a paused deployment; resume it first with 'orchctl rollout resume'")
			}
			sets, order, err := revisions(ctx, cl, d)
			if err != nil {
				return err
			}
			n := to
			if n == 0 {
				if len(order) < 2 {
					return fmt.Errorf("no rollout history found for %s: there is nothing before the present revision", printer.Name(d))
				}
				n = order[len(order)-2]
			}
			rs := sets[n]
			if rs == nil {
				return fmt.Errorf("unable to find specified revision %d in history: there are %s", n, joinNumbers(order))
			}
			t := proto.CloneOf(rs.GetSpec().GetTemplate())
			delete(t.GetMetadata().GetLabels(), api.LabelPodTemplateHash)
			if api.TemplateHash(t, 0) == api.TemplateHash(d.GetSpec().GetTemplate(), 0) {
				fmt.Fprintf(f.Err, "%s skipped rollback (current template already matches revision %d)\n", printer.Name(d), n)
				return errUnchanged
			}
			d.Spec.Template = t
			return nil
		})
	})
	c.Flags().StringVarP(&s.labels, "selector", "l", "", "the deployments with these labels")
	w.add(c, false)
	c.Flags().Int64Var(&to, "to-revision", 0, "the revision to go back to; 0 is the one before")
	return c
}
