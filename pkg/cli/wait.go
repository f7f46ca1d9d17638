package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/cli/jsonpath"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func newWait(f *factory) *cobra.Command {
	var (
		s       selection
		what    string
		timeout time.Duration
	)
	c := &cobra.Command{
		Use: "wait (TYPE NAME | TYPE/NAME | TYPE -l SELECTOR | -f FILE) --for=condition=…|delete|create|jsonpath=…", Short: "Wait until objects are in a state",
		Example: "  orchctl wait --for=condition=Available deployment/recommend-service\n" +
			"  orchctl wait --for=delete pod/web-1 --timeout=30s\n" +
			"  orchctl wait --for=jsonpath='{.status.phase}'=Running pod -l app=web",
		ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			met, err := parseFor(what)
			if err != nil {
				return err
			}
			targets, err := s.targets(f, args)
			if err != nil {
				return err
			}
			if err := s.narrowed(targets); err != nil {
				return err
			}
			cl, err := f.client()
			if err != nil {
				return err
			}
			if timeout < 0 {
				timeout = 7 * 24 * time.Hour // as kubectl: a week
			}
			ctx, cancel := within(c.Context(), timeout)
			defer cancel()
			return waitFor(ctx, f, cl, &s, targets, what, met, timeout == 0)
		},
	}
	s.fileFlags(c, "wait for")
	s.selectorFlags(c)
	c.Flags().BoolVar(&s.all, "all", false, "all objects of the type in the namespace")
	c.Flags().StringVar(&what, "for", "", "condition=NAME[=VALUE], delete, create, or jsonpath='{PATH}'[=VALUE]")
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait; 0 looks once, negative waits a week")
	return c
}

// state says whether an object is as wanted.
type state func(o api.Object) (bool, error)

// parseFor reads the value of --for. For delete and create it returns nil.
func parseFor(what string) (state, error) {
	kind, arg, _ := strings.Cut(what, "=")
	switch kind {
	case "delete", "create":
		return nil, nil
	case "condition":
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			value = "True"
		}
		return func(o api.Object) (bool, error) {
			m, err := manifest.ToMap(o)
			if err != nil {
				return false, err
			}
			st, _ := m["status"].(map[string]any)
			// A condition about an earlier spec says nothing about this one.
			if seen, ok := number(st["observedGeneration"]); ok && int64(seen) < o.GetMetadata().GetGeneration() {
				return false, nil
			}
			conds, _ := st["conditions"].([]any)
			for _, c := range conds {
				c, _ := c.(map[string]any)
				if strings.EqualFold(fmt.Sprint(c["type"]), name) {
					return strings.EqualFold(fmt.Sprint(c["status"]), value), nil
				}
			}
			return false, nil
		}, nil
	case "jsonpath":
		path, value, hasValue := cutPath(arg)
		t, err := jsonpath.ParseRelaxed(path)
		if err != nil {
			return nil, fmt.Errorf("--for jsonpath %s: %w", path, err)
		}
		return func(o api.Object) (bool, error) {
			m, err := manifest.ToMap(o)
			if err != nil {
				return false, err
			}
			found, err := t.Find(m)
			if err != nil || len(found) == 0 {
				return false, nil //nolint:nilerr // a field that is not there yet is what one waits for
			}
			return !hasValue || len(found) == 1 && fmt.Sprint(found[0]) == value, nil
		}, nil
	case "":
		return nil, fmt.Errorf("--for is required: condition=NAME[=VALUE], delete, create, or jsonpath='{PATH}'[=VALUE]")
	}
	return nil, fmt.Errorf("unrecognized condition: %q: use condition=NAME[=VALUE], delete, create, or jsonpath='{PATH}'[=VALUE]", what)
}

// cutPath parts {PATH}=VALUE; equals signs inside the braces belong to the path.
func cutPath(s string) (path, value string, hasValue bool) {
	end := strings.LastIndexByte(s, '}') + 1
	rest := s[end:]
	before, value, hasValue := strings.Cut(rest, "=")
	return s[:end] + before, value, hasValue
}

// waitFor waits for all objects, one after the other: what is true of one stays
// true or is looked at again by nobody, as with kubectl.
func waitFor(ctx context.Context, f *factory, c *client.Client, s *selection, targets []target, what string, met state, once bool) error {
	lookCtx := context.WithoutCancel(ctx)
	if what == "create" {
		for _, t := range targets {
			if t.name == "" {
				return fmt.Errorf("--for=create needs the names of objects")
			}
			err := untilState(ctx, c, t.kind, t.namespace, t.name, func(o api.Object) (bool, error) {
				fmt.Fprintf(f.Out, "%s condition met\n", printer.Name(o))
				return true, nil
			})
			if err != nil {
				return timedOut(err, t.String())
			}
		}
		return nil
	}
	answer, errs := s.fetch(lookCtx, c, targets)
	n := 0
	for _, a := range answer {
		for _, o := range a.objects {
			n++
			var err error
			switch {
			case met == nil && once:
				err = context.DeadlineExceeded
			case met == nil:
				err = gone(ctx, c, o)
			case once:
				var ok bool
				if ok, err = met(o); err == nil && !ok {
					err = context.DeadlineExceeded
				}
			default:
				m := o.GetMetadata()
				err = untilState(ctx, c, a.kind, m.GetNamespace(), m.GetName(), met)
			}
			if err != nil {
				errs = append(errs, timedOut(err, a.kind.Plural+"/"+o.GetMetadata().GetName()))
				continue
			}
			fmt.Fprintf(f.Out, "%s condition met\n", printer.Name(o))
		}
	}
	if met == nil {
		// Waiting for the end of what is not there has come to its end.
		return f.report(withoutMissing(errs))
	}
	if n == 0 && len(errs) == 0 {
		return fmt.Errorf("no matching resources found")
	}
	return f.report(errs)
}

func timedOut(err error, what string) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, api.ErrTimeout) {
		return fmt.Errorf("timed out waiting for the condition on %s", what)
	}
	return err
}

// untilState watches one object until it is as wanted.
func untilState(ctx context.Context, c *client.Client, k *api.Kind, namespace, name string, met state) error {
	return eachEventOf(ctx, c, k, namespace, name, func(e client.Event[api.Object]) (bool, error) {
		switch e.Type {
		case v1.WatchEvent_TYPE_ADDED, v1.WatchEvent_TYPE_MODIFIED:
			return met(e.Object)
		case v1.WatchEvent_TYPE_DELETED:
			return false, fmt.Errorf("%s was deleted while it was waited for", printer.Name(e.Object))
		}
		return false, nil
	})
}
