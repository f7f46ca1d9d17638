package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func newTaint(f *factory) *cobra.Command {
	var (
		s         selection
		w         writeFlags
		overwrite bool
	)
	c := &cobra.Command{
		Use: "taint node NAME... KEY[=VALUE]:EFFECT... KEY[:EFFECT]-...", Short: "Set or remove taints of nodes",
		Long: "Set or remove taints of nodes. A taint keeps pods away that do not tolerate it; its effect is NoSchedule, PreferNoSchedule or NoExecute.",
		Example: "  orchctl taint nodes node-1 dedicated=films:NoSchedule\n  orchctl taint nodes node-1 dedicated:NoSchedule-   # removes it\n" +
			"  orchctl taint nodes --all dedicated-               # whatever its effect",
		ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			isTaint := func(a string) bool { return strings.ContainsAny(a, "=:") || strings.HasSuffix(a, "-") }
			first := slices.IndexFunc(args, isTaint)
			switch {
			case first == 0 || len(args) == 0:
				return fmt.Errorf("one or more resources must be specified as <resource> <name>")
			case first < 0:
				return fmt.Errorf("at least one taint update is required")
			case s.all && s.labels != "":
				return fmt.Errorf("setting 'all' parameter with a non empty selector is prohibited")
			case first == 1 && !strings.Contains(args[0], "/") && !s.all && s.labels == "":
				return fmt.Errorf("at least one resource name must be specified since 'all' parameter is not set")
			}
			for _, a := range args[first:] {
				if !isTaint(a) {
					return fmt.Errorf("all resources must be specified before taint changes: %s", a)
				}
			}
			add, remove, err := parseTaints(args[first:])
			if err != nil {
				return err
			}
			targets, err := s.parse(f, args[:first])
			if err != nil {
				return err
			}
			for _, t := range targets {
				if t.kind != api.KindOf(&v1.Node{}) {
					return fmt.Errorf("invalid resource type %s, only node types are supported", args[0])
				}
			}
			if err := w.check(); err != nil {
				return err
			}
			ctx, cancel := f.request(c.Context(), "Tainted", "taints changed with orchctl: %s", strings.Join(args[first:], " "))
			defer cancel()
			return s.each(ctx, f, targets, func(c *client.Client, o api.Object) error {
				var said string
				o, err := w.changeOne(ctx, c, o, func(o api.Object) (err error) {
					said, err = changeTaints(o.(*v1.Node), add, remove, overwrite)
					return err
				})
				if err != nil {
					return err
				}
				return w.done(f.Out, o, said)
			})
		},
	}
	c.Flags().StringVarP(&s.labels, "selector", "l", "", "the nodes with these labels")
	c.Flags().BoolVar(&s.all, "all", false, "all nodes")
	c.Flags().BoolVar(&overwrite, "overwrite", false, "replace taints that are there")
	w.add(c, false)
	return c
}

// parseTaints reads KEY=VALUE:EFFECT and, with a - behind it, what to remove,
// where the effect may be missing.
func parseTaints(args []string) (add, remove []*v1.Taint, err error) {
	for _, a := range args {
		text, isRemoval := strings.CutSuffix(a, "-")
		keyAndValue, effect, hasEffect := strings.Cut(text, ":")
		key, value, _ := strings.Cut(keyAndValue, "=")
		t := &v1.Taint{Key: key, Value: value, Effect: effect}
		effects := []string{api.EffectNoSchedule, api.EffectPreferNoSchedule, api.EffectNoExecute}
		switch {
		case hasEffect && !slices.Contains(effects, effect):
			return nil, nil, fmt.Errorf("invalid taint effect: %s, unsupported taint effect: it is one of %s", effect, strings.Join(effects, ", "))
		case key == "" || !hasEffect && (!isRemoval || strings.Contains(text, "=")):
			return nil, nil, fmt.Errorf("invalid taint spec: %s: it is KEY=VALUE:EFFECT or KEY:EFFECT, and to remove one KEY:EFFECT- or KEY-", a)
		case isRemoval:
			remove = append(remove, t)
		case slices.ContainsFunc(add, func(o *v1.Taint) bool { return api.SameTaint(t, o) }):
			return nil, nil, fmt.Errorf("duplicated taints with the same key and effect: %s", api.FormatTaint(t))
		default:
			add = append(add, t)
		}
	}
	var both []string
	for _, t := range add {
		for _, r := range remove {
			if removes(r, t) {
				both = append(both, r.GetKey()+"="+r.GetEffect())
			}
		}
	}
	if len(both) > 0 {
		return nil, nil, fmt.Errorf("can not both modify and remove the following taint(s) in the same command: %s", strings.Join(both, ", "))
	}
	return add, remove, nil
}

// removes says whether r, which may have no effect, means t.
func removes(r, t *v1.Taint) bool {
	return r.GetKey() == t.GetKey() && (r.GetEffect() == "" || r.GetEffect() == t.GetEffect())
}

// changeTaints changes a node's taints and returns kubectl's word for it.
func changeTaints(n *v1.Node, add, remove []*v1.Taint, overwrite bool) (said string, err error) {
	n.Spec = cmp.Or(n.Spec, &v1.NodeSpec{})
	var taken []string
	taints := slices.Clone(add)
	for _, t := range n.Spec.Taints {
		if slices.ContainsFunc(add, func(o *v1.Taint) bool { return api.SameTaint(t, o) }) {
			taken = append(taken, t.GetKey())
		} else {
			taints = append(taints, t)
		}
	}
	if len(taken) > 0 && !overwrite {
		return "", fmt.Errorf("node %s already has %s taint(s) with same effect(s) and --overwrite is false", n.GetMetadata().GetName(), strings.Join(taken, ","))
	}
	for _, r := range remove {
		before := len(taints)
		taints = slices.DeleteFunc(taints, func(t *v1.Taint) bool { return removes(r, t) })
		if len(taints) == before {
			return "", fmt.Errorf("taint %q not found", api.FormatTaint(&v1.Taint{Key: r.GetKey(), Effect: r.GetEffect()}))
		}
	}
	n.Spec.Taints = taints
	switch {
	case overwrite || len(add) > 0 && len(remove) > 0:
		return "modified", nil
	case len(add) > 0:
		return "tainted", nil
	}
	return "untainted", nil
}
