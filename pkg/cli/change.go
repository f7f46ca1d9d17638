package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// errUnchanged ends a change that would change nothing.
var errUnchanged = errors.New("unchanged")

// changeEach applies one change to every object that the targets name, each
// under optimistic concurrency: read, change, write, and again where somebody
// was quicker. change may return errUnchanged, which prints "not " and the verb.
// Reason and message are the cause of the writes.
func (w *writeFlags) changeEach(ctx context.Context, f *factory, s *selection, targets []target, reason, message, verb string, change func(api.Object) error) error {
	if err := w.check(); err != nil {
		return err
	}
	ctx, cancel := f.request(ctx, reason, "%s", message)
	defer cancel()
	return s.each(ctx, f, targets, func(c *client.Client, o api.Object) error {
		said := verb
		o, err := w.changeOne(ctx, c, o, change)
		if errors.Is(err, errUnchanged) {
			said, err = "not "+verb, nil
		}
		if err != nil {
			return err
		}
		return w.done(f.Out, o, said)
	})
}

func (w *writeFlags) changeOne(ctx context.Context, c *client.Client, o api.Object, change func(api.Object) error) (api.Object, error) {
	r := client.ForKind(c, api.KindOf(o))
	if w.dryRun != "none" {
		changed := api.Clone(o)
		if err := change(changed); err != nil || w.dryRun == "client" {
			return changed, err
		}
		return r.Update(ctx, changed, w.options()...)
	}
	m := o.GetMetadata()
	last := o
	changed, err := r.Modify(ctx, m.GetNamespace(), m.GetName(), func(o api.Object) error {
		last = o
		return change(o)
	})
	if err != nil {
		return last, err
	}
	return changed, nil
}

func newScale(f *factory) *cobra.Command {
	var (
		s                 selection
		w                 writeFlags
		replicas, current int32
	)
	c := &cobra.Command{
		Use: "scale --replicas=N (TYPE NAME | TYPE/NAME | -f FILE)", Short: "Set how many pods a deployment or replica set wants",
		Example: "  orchctl scale deployment/recommend-service --replicas=6", ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("replicas") || replicas < 0 {
				return fmt.Errorf("the --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0")
			}
			targets, err := s.targets(f, args)
			if err != nil {
				return err
			}
			return w.changeEach(c.Context(), f, &s, targets, "Scaled", fmt.Sprintf("scaled to %d with orchctl", replicas), "scaled", func(o api.Object) error {
				var field **int32
				switch o := o.(type) {
				case *v1.Deployment:
					field = &o.Spec.Replicas
				case *v1.ReplicaSet:
					field = &o.Spec.Replicas
				default:
					return fmt.Errorf("cannot scale %s: only deployments and replicasets have replicas", printer.Name(o))
				}
				if current >= 0 && **field != current {
					return fmt.Errorf("expected replicas to be %d, was %d", current, **field)
				}
				*field = proto.Int32(replicas)
				return nil
			})
		},
	}
	s.fileFlags(c, "scale")
	s.selectorFlags(c)
	w.add(c, false)
	c.Flags().Int32Var(&replicas, "replicas", 0, "how many pods")
	c.Flags().Int32Var(&current, "current-replicas", -1, "only where this is the present number")
	return c
}

func newSet(f *factory) *cobra.Command {
	var (
		s selection
		w writeFlags
	)
	image := &cobra.Command{
		Use: "image (TYPE NAME | TYPE/NAME | -f FILE) CONTAINER=IMAGE...", Short: "Set the image of containers",
		Long:              "Set the image of containers, by name, or of all with *. For a deployment this begins a rollout.",
		Example:           "  orchctl set image deployment/recommend-service app=recommend-service:1.2.0",
		ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			images := map[string]string{}
			var rest []string
			for _, a := range args {
				name, img, ok := strings.Cut(a, "=")
				switch {
				case !ok:
					rest = append(rest, a)
				case name == "" || img == "":
					return fmt.Errorf("%q is not CONTAINER=IMAGE", a)
				default:
					images[name] = img
				}
			}
			if len(images) == 0 {
				return fmt.Errorf("at least one image update is required, as CONTAINER=IMAGE")
			}
			targets, err := s.targets(f, rest)
			if err != nil {
				return err
			}
			return w.changeEach(c.Context(), f, &s, targets, "ImageSet", "image set with orchctl: "+printer.FormatMap(images), "image updated", func(o api.Object) error {
				return setImages(o, images)
			})
		},
	}
	s.fileFlags(image, "change")
	s.selectorFlags(image)
	w.add(image, false)
	return group("set", "Set one field of objects", image)
}

// podSpec is where an object keeps its containers, or nil.
func podSpec(o api.Object) *v1.PodSpec {
	switch o := o.(type) {
	case *v1.Pod:
		return o.GetSpec()
	case *v1.ReplicaSet:
		return o.GetSpec().GetTemplate().GetSpec()
	case *v1.Deployment:
		return o.GetSpec().GetTemplate().GetSpec()
	}
	return nil
}

func setImages(o api.Object, images map[string]string) error {
	containers := api.AllContainers(podSpec(o))
	changed := false
	for name, image := range images {
		found := false
		for _, ct := range containers {
			if name == "*" || ct.GetName() == name {
				found = true
				changed = changed || ct.GetImage() != image
				ct.Image = image
			}
		}
		if !found {
			return fmt.Errorf("unable to find container named %q in %s", name, printer.Name(o))
		}
	}
	if !changed {
		return errUnchanged
	}
	return nil
}

// newLabel makes label and annotate, which differ in the map they change.
func newLabel(f *factory, verb, noun string, field func(*v1.ObjectMeta) *map[string]string) *cobra.Command {
	var (
		s         selection
		w         writeFlags
		overwrite bool
		list      bool
	)
	c := &cobra.Command{
		Use: verb + " (TYPE NAME | TYPE/NAME | -f FILE) KEY=VALUE... KEY-...", Short: "Set or remove " + noun + "s of objects",
		Example:           fmt.Sprintf("  orchctl %s pod web-1 team=recommend\n  orchctl %s pod web-1 team-      # removes it", verb, verb),
		ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			set, remove, rest, err := splitChanges(args, noun)
			if err != nil {
				return err
			}
			if len(set)+len(remove) == 0 && !list {
				return fmt.Errorf("at least one %s update is required, as KEY=VALUE or KEY-", noun)
			}
			targets, err := s.targets(f, rest)
			if err != nil {
				return err
			}
			if err := s.narrowed(targets); err != nil {
				return err
			}
			if list {
				return listMaps(c.Context(), f, &s, targets, field)
			}
			reason, message := capital(noun)+"Set", fmt.Sprintf("%ss changed with orchctl: %s", noun, strings.Join(args[len(rest):], " "))
			said := verb + past(verb)
			if len(set) == 0 && verb == "label" {
				said = "unlabeled"
			}
			return w.changeEach(c.Context(), f, &s, targets, reason, message, said, func(o api.Object) error {
				m := field(o.GetMetadata())
				if *m == nil {
					*m = map[string]string{}
				}
				changed := false
				for k, v := range set {
					old, ok := (*m)[k]
					if ok && old != v && !overwrite {
						return fmt.Errorf("'%s' already has a value (%s), and --overwrite is false", k, old)
					}
					changed = changed || !ok || old != v
					(*m)[k] = v
				}
				for _, k := range remove {
					_, ok := (*m)[k]
					changed = changed || ok
					delete(*m, k)
				}
				if !changed {
					return errUnchanged
				}
				return nil
			})
		},
	}
	s.fileFlags(c, "change")
	s.selectorFlags(c)
	w.add(c, false)
	c.Flags().BoolVar(&s.all, "all", false, "all objects of the type in the namespace")
	c.Flags().BoolVar(&overwrite, "overwrite", false, "replace values that are there")
	c.Flags().BoolVar(&list, "list", false, "show the "+noun+"s")
	return c
}

func capital(word string) string { return strings.ToUpper(word[:1]) + word[1:] }

// past is the ending that makes label into labeled and annotate into annotated.
func past(verb string) string {
	if strings.HasSuffix(verb, "e") {
		return "d"
	}
	return "ed"
}

// splitChanges parts arguments into KEY=VALUE, KEY- and what comes before.
func splitChanges(args []string, noun string) (set map[string]string, remove, rest []string, err error) {
	set = map[string]string{}
	for _, a := range args {
		k, v, eq := strings.Cut(a, "=")
		switch {
		case eq && k != "":
			if _, twice := set[k]; twice {
				return nil, nil, nil, fmt.Errorf("can not set the %s %q twice", noun, k)
			}
			set[k] = v
		case strings.HasSuffix(a, "-") && len(a) > 1:
			remove = append(remove, strings.TrimSuffix(a, "-"))
		case len(set)+len(remove) > 0:
			return nil, nil, nil, fmt.Errorf("%q comes after %s changes: all resources must be specified before them", a, noun)
		default:
			rest = append(rest, a)
		}
	}
	for _, k := range remove {
		if _, both := set[k]; both {
			return nil, nil, nil, fmt.Errorf("can not both modify and remove the %s %q in the same command", noun, k)
		}
	}
	return set, remove, rest, nil
}

func listMaps(ctx context.Context, f *factory, s *selection, targets []target, field func(*v1.ObjectMeta) *map[string]string) error {
	return s.each(ctx, f, targets, func(_ *client.Client, o api.Object) error {
		if len(targets) > 1 || targets[0].name == "" {
			fmt.Fprintf(f.Out, "Listing for %s:\n", printer.Name(o))
		}
		m := *field(o.GetMetadata())
		for _, k := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(f.Out, "%s=%s\n", k, m[k])
		}
		return nil
	})
}

// cordon keeps new pods from a node, or lets them come again.
func (w *writeFlags) cordon(ctx context.Context, c *client.Client, f *factory, o api.Object, unschedulable bool) error {
	said := map[bool]string{true: "cordoned", false: "uncordoned"}[unschedulable]
	changed, err := w.changeOne(ctx, c, o, func(o api.Object) error {
		n := o.(*v1.Node)
		if n.GetSpec().GetUnschedulable() == unschedulable {
			return errUnchanged
		}
		n.Spec = cmp.Or(n.Spec, &v1.NodeSpec{})
		n.Spec.Unschedulable = unschedulable
		return nil
	})
	if errors.Is(err, errUnchanged) {
		said, err = "already "+said, nil
	}
	if err != nil {
		return err
	}
	return w.done(f.Out, changed, said)
}

// newCordon makes cordon and uncordon.
func newCordon(f *factory, verb string, unschedulable bool) *cobra.Command {
	var (
		s selection
		w writeFlags
	)
	short := map[bool]string{true: "Keep new pods from a node", false: "Let new pods come to a node again"}[unschedulable]
	c := &cobra.Command{
		Use: verb + " NODE...", Short: short,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 && s.labels == "" {
				return fmt.Errorf("name the node, or use -l SELECTOR")
			}
			if err := w.check(); err != nil {
				return err
			}
			targets, err := s.parse(f, append([]string{"nodes"}, args...))
			if err != nil {
				return err
			}
			ctx, cancel := f.request(c.Context(), capital(verb)+"ed", "%sed with orchctl", verb)
			defer cancel()
			return s.each(ctx, f, targets, func(c *client.Client, o api.Object) error {
				return w.cordon(ctx, c, f, o, unschedulable)
			})
		},
	}
	c.Flags().StringVarP(&s.labels, "selector", "l", "", "the nodes with these labels")
	w.add(c, false)
	return c
}
