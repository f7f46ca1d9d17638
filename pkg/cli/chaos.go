package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	"orch/pkg/controller/chaos"
	v1 "orch/proto/v1"
)

func newChaos(f *factory) *cobra.Command {
	c := group("chaos", "Break things on purpose, within bounds, and heal them", newChaosRun(f), newChaosList(f), newChaosStop(f), newChaosReport(f))
	c.Example = "  orchctl chaos kill -l app=web --every 10s --for 1m --probe http://10.0.0.7:8080/\n  orchctl chaos cut -l app=web --peer app=db --for 30s\n  orchctl chaos run -f experiment.yaml\n  orchctl chaos stop NAME"
	for _, o := range []struct{ use, fault, short string }{
		{"kill", api.FaultKillContainer, "Kill containers of pods with a signal"},
		{"kill-pod", api.FaultKillPod, "Delete pods"},
		{"pause", api.FaultPauseContainer, "Pause containers of pods"},
		{"stress-cpu", api.FaultStressCPU, "Use the CPU of containers, within their limits"},
		{"stress-memory", api.FaultStressMemory, "Use the memory of containers, within their limits"},
		{"cut", api.FaultNetworkCut, "Cut pods off from others, or from everybody"},
		{"loss", api.FaultNetworkLoss, "Lose a share of the packets of pods"},
		{"delay", api.FaultNetworkDelay, "Delay the packets of pods"},
		{"crash-agent", api.FaultCrashAgent, "Crash the agents of nodes"},
		{"stop-node", api.FaultStopNode, "Stop nodes as if they lost power"},
		{"shift-clock", api.FaultShiftClock, "Put the clocks of agents ahead or back"},
		{"crash-apiserver", api.FaultCrashAPIServer, "Crash the API server"},
		{"drop-watches", api.FaultDropWatches, "Send nothing on watches"},
		{"delay-watches", api.FaultDelayWatches, "Send changes on watches later"},
	} {
		c.AddCommand(newChaosOne(f, o.use, o.fault, o.short))
	}
	return c
}

// newChaosOne is an experiment in one line.
func newChaosOne(f *factory, use, fault, short string) *cobra.Command {
	var (
		r                              runFlags
		every, lasts, each, delay, off time.Duration
	)
	x := &v1.ChaosExperiment{Spec: &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: fault}}}
	kind, _ := api.FaultKindOf(fault)
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if lasts <= 0 {
				return fmt.Errorf("--for %v: want a time, for example 30s", lasts)
			}
			for flag, d := range map[string]time.Duration{"for": lasts, "every": every, "fault-for": each} {
				if d%time.Second != 0 {
					return fmt.Errorf("--%s %v: want whole seconds", flag, d)
				}
			}
			s := x.Spec
			s.EverySeconds, s.DurationSeconds, s.FaultSeconds = wholeSeconds(every), wholeSeconds(lasts), wholeSeconds(each)
			s.Fault.DelayMilliseconds, s.Fault.OffsetSeconds = int32(delay.Milliseconds()), wholeSeconds(off) //nolint:gosec // the server bounds it
			x.Metadata = &v1.ObjectMeta{GenerateName: use + "-", Namespace: f.ns()}
			return r.run(c.Context(), f, x)
		},
	}
	s := x.Spec
	if kind.Scope == api.ScopeNode {
		s.NodeSelector = &v1.LabelSelector{}
	}
	c.Flags().DurationVar(&every, "every", 0, "make a new choice each so often; 0: once")
	c.Flags().DurationVar(&lasts, "for", time.Minute, "how long all of it lasts")
	if kind.Lasts {
		c.Flags().DurationVar(&each, "fault-for", 0, "how long each fault lasts; 0: until the next choice, or the end")
	}
	if api.NeedsDownTime(fault) {
		_ = c.MarkFlagRequired("fault-for")
	}
	if kind.Scope != api.ScopeAPIServer {
		c.Flags().Func("node-selector", "only nodes with these `labels`, or pods on them", selector(&s.NodeSelector))
		c.Flags().StringVar(&s.Mode, "mode", "", "how many are hit each time: One, All, Fixed or FixedPercent")
		c.Flags().Int32Var(&s.Value, "value", 0, "the number, or the percentage, of the mode")
	}
	if kind.Scope == api.ScopePod {
		c.Flags().FuncP("selector", "l", "the pods with these `labels`", selector(&s.Selector))
	}
	switch fault {
	case api.FaultKillContainer, api.FaultPauseContainer, api.FaultStressCPU, api.FaultStressMemory:
		c.Flags().StringSliceVarP(&s.Fault.Containers, "container", "c", nil, "only the containers with these names")
	case api.FaultNetworkCut, api.FaultNetworkLoss, api.FaultNetworkDelay:
		c.Flags().Func("peer", "the other side: pods with these `labels`; default everybody", selector(&s.PeerSelector))
	case api.FaultDropWatches, api.FaultDelayWatches:
		c.Flags().StringSliceVar(&s.Fault.Actors, "actor", nil, "only watches of these users, for example system:node:node-1; default everybody's but people's")
	case api.FaultShiftClock:
		c.Flags().DurationVar(&off, "offset", time.Minute, "how far the clock is ahead; negative: behind")
	case api.FaultKillPod:
		s.Fault.GracePeriodSeconds = new(int64)
		c.Flags().Int64Var(s.Fault.GracePeriodSeconds, "grace-period", 0, "seconds that pods get to end")
	}
	switch fault {
	case api.FaultKillContainer:
		c.Flags().StringVar(&s.Fault.Signal, "signal", "", "the signal; default SIGKILL")
	case api.FaultStressCPU, api.FaultStressMemory, api.FaultNetworkLoss:
		c.Flags().Int32Var(&s.Fault.Percent, "percent", 50, "how much of it, 1 to 100")
	case api.FaultNetworkDelay, api.FaultDelayWatches:
		c.Flags().DurationVar(&delay, "delay", 100*time.Millisecond, "how much later")
	}
	c.Flags().Func("probe", "an HTTP `address` to ask all the time: the report counts what failed", func(url string) error {
		s.Probe = &v1.ChaosProbe{Url: url}
		return nil
	})
	c.Flags().Int64Var(&s.Seed, "seed", 0, "what decides all choices; 0: the server draws one")
	r.add(c)
	return c
}

func wholeSeconds(d time.Duration) int32 { return int32(d.Round(time.Second).Seconds()) } //nolint:gosec // the server bounds it

// selector sets one from a line, as a flag does.
func selector(to **v1.LabelSelector) func(string) error {
	return func(text string) error {
		s, err := api.ParseSelector(text)
		if err != nil {
			return err
		}
		l, ok := s.AsLabelSelector()
		if !ok {
			return fmt.Errorf("%q: an experiment selects with =, in, notin and the presence of a label", text)
		}
		*to = l
		return nil
	}
}

func newChaosRun(f *factory) *cobra.Command {
	var (
		r runFlags
		s selection
	)
	c := &cobra.Command{
		Use: "run -f FILE", Short: "Run an experiment, and show what it does", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			docs, errs := s.documents(f, manifest.Strict)
			if len(errs) > 0 {
				return f.report(errs)
			}
			if len(docs) != 1 {
				return fmt.Errorf("want one ChaosExperiment in -f, found %d documents", len(docs))
			}
			x, ok := docs[0].Object.(*v1.ChaosExperiment)
			if !ok {
				return fmt.Errorf("%s: want a ChaosExperiment", docs[0].Source)
			}
			return r.run(c.Context(), f, x)
		},
	}
	s.fileFlags(c, "run")
	r.add(c)
	return c
}

// runFlags are those of every way to begin an experiment.
type runFlags struct {
	dryRun, output string
	detach         bool
}

func (r *runFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&r.dryRun, "dry-run", "none", "none; client or server: only say who would be hit, with server after the server has checked it")
	c.Flags().BoolVar(&r.detach, "detach", false, "return when it has begun; it goes on")
	c.Flags().StringVarP(&r.output, "output", "o", "", "name: print nothing but its name")
}

func (r *runFlags) run(ctx context.Context, f *factory, x *v1.ChaosExperiment) error {
	if r.output != "" && r.output != "name" {
		return fmt.Errorf("--output %q: want name", r.output)
	}
	c, err := f.client()
	if err != nil {
		return err
	}
	experiments := client.For[*v1.ChaosExperiment](c)
	x.Spec.Attended = !r.detach
	ctx = client.WithCause(ctx, "ChaosRun", "run with orchctl")
	switch r.dryRun {
	case "none":
	case "client":
		return forecast(ctx, f, c, x)
	case "server":
		if x, err = experiments.Create(ctx, x, client.DryRun); err != nil {
			return err
		}
		return forecast(ctx, f, c, x)
	default:
		return fmt.Errorf("--dry-run %q: want none, client or server", r.dryRun)
	}
	if x, err = experiments.Create(ctx, x); err != nil {
		return err
	}
	if r.output == "name" {
		fmt.Fprintln(f.Out, printer.Name(x))
	} else {
		fmt.Fprintf(f.Out, "%s created (seed %d)\n", printer.Name(x), x.GetSpec().GetSeed())
	}
	if r.detach {
		return nil
	}
	return attend(ctx, f, c, x, r.output == "name")
}

// attend shows what an experiment does until it is over. When ctx ends, so does the
// experiment; attend then waits until it is healed.
func attend(ctx context.Context, f *factory, c *client.Client, x *v1.ChaosExperiment, quiet bool) error {
	m := x.GetMetadata()
	attending, leave := context.WithCancel(ctx)
	defer leave()
	go func() { // the server may crash, and be back: that may be what is wanted
		for attending.Err() == nil {
			stream, err := c.Cluster().AttendChaos(attending, &v1.AttendChaosRequest{Namespace: m.GetNamespace(), Name: m.GetName()}, grpc.WaitForReady(true))
			for err == nil {
				_, err = stream.Recv()
			}
			if !errors.Is(api.FromStatus(err), api.ErrUnavailable) {
				return
			}
		}
	}()
	going, end := context.WithCancel(context.WithoutCancel(ctx)) // also after Ctrl-C: what is broken has still to heal
	defer end()
	seen := map[string]string{}
	show := func(o api.Object) {
		i, _ := o.(*v1.ChaosInjection)
		id, phase := i.GetMetadata().GetUid(), i.GetStatus().GetPhase()
		if quiet || phase == seen[id] || phase == api.ChaosPending || phase == "" {
			return
		}
		if seen[id] == "" && phase == api.ChaosHealed {
			sayInjection(f, i, api.ChaosInjected)
		}
		seen[id] = phase
		if kind, _ := api.FaultKindOf(i.GetSpec().GetFault().GetType()); kind.Lasts || phase != api.ChaosHealed {
			sayInjection(f, i, phase) // what is over at once heals at once: its pod may not be well yet
		}
	}
	// From its creation on, as it may at once crash the server.
	from := m.GetResourceVersion()
	watch := func(kind, field string, over func(client.Event[api.Object]) (bool, error)) error {
		w := client.WatchOptions{Namespace: m.GetNamespace(), FieldSelector: field + "=" + m.GetName(), From: &from, Wait: true}
		return eachEvent(going, client.ForKind(c, api.KindByName(kind)), w, over)
	}
	shown := make(chan error, 1)
	go func() {
		shown <- watch("ChaosInjection", "spec.experiment", func(e client.Event[api.Object]) (bool, error) { show(e.Object); return false, nil })
	}()
	over := x
	err := watch("ChaosExperiment", "metadata.name", func(e client.Event[api.Object]) (bool, error) {
		if now, ok := e.Object.(*v1.ChaosExperiment); ok {
			over = now
		}
		if over.GetStatus().GetEndTime() == nil && e.Type == v1.WatchEvent_TYPE_DELETED {
			return false, fmt.Errorf("%s was deleted", printer.Name(x))
		}
		return over.GetStatus().GetEndTime() != nil, nil
	})
	end()
	<-shown //nolint:errcheck // it ends as it was asked to
	if err != nil {
		return err
	}
	all, err := client.For[*v1.ChaosInjection](c).List(context.WithoutCancel(ctx), client.ListOptions{Namespace: m.GetNamespace(), FieldSelector: "spec.experiment=" + m.GetName()})
	if err != nil {
		return err
	}
	for _, i := range all.Items { // the two watches are not equally fast
		show(i)
	}
	if s := over.GetStatus(); !quiet {
		fmt.Fprintf(f.Out, "%s %s: %s\n", printer.Name(x), s.GetPhase(), s.GetMessage())
	}
	if s := over.GetStatus(); s.GetPhase() == api.ChaosFailed || !chaos.Steady(s) {
		return &exitError{code: 1}
	}
	return nil
}

func sayInjection(f *factory, i *v1.ChaosInjection, phase string) {
	at, s := i.GetStatus().GetInjectedAt(), i.GetStatus()
	text := fmt.Sprintf("round %d: %s of %s", i.GetSpec().GetRound(), i.GetSpec().GetFault().GetType(), api.ChaosTarget(i))
	if n := i.GetSpec().GetNodeName(); n != "" && i.GetSpec().GetPodName() != "" {
		text += " on " + n
	}
	switch phase {
	case api.ChaosHealed:
		at, text = s.GetHealedAt(), text+", healed"
	case api.ChaosFailed:
		at, text = timestamppb.Now(), text+", failed: "+s.GetMessage()
	}
	fmt.Fprintf(f.Out, "%s  %s\n", clock(at.AsTime()), text)
}

// forecastRounds is how many rounds a dry run shows.
const forecastRounds = 3

// forecast says who would be hit, were things to stay as they are.
func forecast(ctx context.Context, f *factory, c *client.Client, x *v1.ChaosExperiment) error {
	api.Default(x)
	pods, err := client.For[*v1.Pod](c).List(ctx, client.ListOptions{Namespace: x.GetMetadata().GetNamespace()})
	if err != nil {
		return err
	}
	nodes, err := client.For[*v1.Node](c).List(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	s := x.GetSpec()
	ns, err := client.For[*v1.Namespace](c).Get(ctx, "", x.GetMetadata().GetNamespace())
	if err != nil && !errors.Is(err, api.ErrForbidden) { // who may not read it learns it from the server
		return err
	}
	if name := x.GetMetadata().GetNamespace(); name == api.NamespaceSystem || api.IsChaosProtected(ns) {
		return fmt.Errorf("namespace %s is protected: nothing in it may be broken", name)
	}
	all := chaos.Candidates(s, pods.Items, nodes.Items)
	fmt.Fprintf(f.Out, "%d may be hit (dry run)\n", len(all))
	if s.GetSeed() == 0 {
		fmt.Fprintln(f.Out, "without --seed, the server draws one: which are hit is not known")
		return nil
	}
	rounds := int32(1)
	if every := s.GetEverySeconds(); every > 0 {
		rounds = (s.GetDurationSeconds() + every - 1) / every
	}
	shown, others := min(forecastRounds, rounds), ""
	if s.GetFault().GetType() == api.FaultKillPod && len(all) > 0 {
		shown, others = 1, "; whom the others hit depends on the pods that take the place of those"
	}
	for round := range shown {
		for _, k := range chaos.Choose(s, round+1, len(all)) {
			fmt.Fprintf(f.Out, "round %d: %s of %s\n", round+1, s.GetFault().GetType(), api.ChaosTarget(chaos.Injection(x, all[k], round, 0, time.Time{})))
		}
	}
	if rounds > shown {
		fmt.Fprintf(f.Out, "… %d rounds in all%s\n", rounds, others)
	}
	return nil
}

func newChaosList(f *factory) *cobra.Command {
	g := getFlags{}
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List experiments", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.run(c.Context(), f, []string{"chaosexperiments"}) },
	}
	c.Flags().BoolVarP(&g.allNamespaces, "all-namespaces", "A", false, "experiments of all namespaces")
	c.Flags().StringVarP(&g.output, "output", "o", "", "output format: "+printer.Formats)
	return c
}

// experimentName is the name of an experiment that may be given with its type, as
// -o name prints it.
func experimentName(f *factory, arg string) (string, error) {
	_, name, typed := strings.Cut(arg, "/")
	if !typed {
		return arg, nil
	}
	t, err := (&selection{}).parse(f, []string{arg})
	if err == nil && t[0].kind.Name != "ChaosExperiment" {
		err = fmt.Errorf("%s is no chaos experiment", arg)
	}
	return name, err
}

func newChaosStop(f *factory) *cobra.Command {
	return &cobra.Command{
		Use: "stop NAME...", Short: "Stop experiments, and heal what they broke", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cl, err := f.begin(c.Context(), "ChaosStop", "stopped with orchctl")
			if err != nil {
				return err
			}
			for _, arg := range args {
				name, err := experimentName(f, arg)
				if err != nil {
					return err
				}
				x, err := client.For[*v1.ChaosExperiment](cl).Modify(ctx, f.ns(), name, func(x *v1.ChaosExperiment) error {
					x.Spec.Stop = true
					return nil
				})
				if err != nil {
					return err
				}
				fmt.Fprintf(f.Out, "%s stopped\n", printer.Name(x))
			}
			return nil
		},
	}
}
