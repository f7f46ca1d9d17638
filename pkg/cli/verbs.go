package cli

import (
	"github.com/spf13/cobra"

	v1 "orch/proto/v1"
)

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(commands...)
	return c
}

// The verbs, in the groups and the order in which help shows them.

func basicCommands(f *factory) []*cobra.Command {
	return []*cobra.Command{newApply(f), newCreate(f), newGet(f), newDelete(f), newEdit(f), newDiff(f), newExplain(f)}
}

func deployCommands(f *factory) []*cobra.Command {
	return []*cobra.Command{
		newRollout(f), newScale(f), newSet(f),
		newLabel(f, "label", "label", func(m *v1.ObjectMeta) *map[string]string { return &m.Labels }),
		newLabel(f, "annotate", "annotation", func(m *v1.ObjectMeta) *map[string]string { return &m.Annotations }),
		newCordon(f, "cordon", true), newCordon(f, "uncordon", false), newDrain(f), newTaint(f),
	}
}

func debugCommands(f *factory) []*cobra.Command {
	return []*cobra.Command{newDescribe(f), newWhy(f), newHistory(f), newReplay(f), newInvariants(f), newChaos(f), newTop(f), newLogs(f), newExec(f), newAttach(f), newPortForward(f), newCp(f), newEvents(f), newWait(f), newControllers(f), newAuth(f), newLab(f)}
}

func settingsCommands(f *factory) []*cobra.Command {
	return []*cobra.Command{newConfig(f), newAPIResources(f), newVersion(f)}
}
