package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
	"orch/pkg/cli/local"
)

func newUp(f *factory) *cobra.Command {
	var (
		name, cpu, memory, pods string
		o                       local.Options
	)
	c := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster on this machine, or what is missing of it",
		Long: "Start a cluster on this machine: one API server and some node agents that share\n" +
			"the Docker engine. All state, contexts and logs are under $ORCH_HOME (default\n" +
			"~/.orch). Doing it twice is harmless.",
		Example: "  orchctl up\n  orchctl up --name lesson --nodes 5 --node-cpu 500m\n  orchctl up --runtime=fake    # simulated containers, no Docker needed\n  orchctl up --paused=replicaset,scheduler",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("'up' takes no %q: a value of --paused, if it was meant for one, comes after an equals sign: --paused=NAME,NAME", args[0])
			}
			if !c.Flags().Changed("nodes") {
				o.Nodes = 0 // as many as there are
			} else if o.Nodes < 1 || o.Nodes > 100 {
				return fmt.Errorf("--nodes must be between 1 and 100, not %d", o.Nodes)
			}
			if !c.Flags().Changed("network") {
				o.Network = "" // the one that there is
			}
			o.Capacity = map[string]string{}
			for flag, v := range map[string]string{"cpu": cpu, "memory": memory, "pods": pods} {
				if v == "" {
					continue
				}
				if q, err := api.ParseQuantity(v); err != nil || q.Sign() <= 0 {
					return fmt.Errorf("--node-%s %q is not a quantity such as 500m, 2 or 4Gi", flag, v)
				}
				o.Capacity[flag] = v
			}
			home, _, err := f.home()
			if err != nil {
				return err
			}
			if o.Bin == "" {
				if o.Bin, err = binDir(); err != nil {
					return err
				}
			}
			cl, err := local.New(home, name, f.Err)
			if err != nil {
				return err
			}
			if !c.Flags().Changed("runtime") {
				o.Runtime = cl.Runtime()
			}
			if o.Runtime == local.Docker {
				rt, _, err := local.OpenRuntime(c.Context(), local.Docker)
				if err != nil {
					return fmt.Errorf("no Docker engine answers (%w): start one ('sudo systemctl start docker', or 'sudo dockerd &'), check with 'docker info' that you may use it, or try Orch with simulated containers: orchctl up --runtime=fake", err)
				}
				rt.Close()
			}
			what := "cluster"
			if _, err := os.Stat(cl.Dir()); err == nil {
				what = "what does not run of cluster"
			}
			fmt.Fprintf(f.Err, "Starting %s %q ...\n", what, name)
			if err := cl.Up(c.Context(), o); err != nil {
				return err
			}
			fmt.Fprintf(f.Err, "Ready. Its logs are in %s.\nTry:  orchctl get nodes\n", filepath.Join(cl.Dir(), "logs"))
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "orch", "name of the cluster and of its context")
	c.Flags().IntVar(&o.Nodes, "nodes", local.DefaultNodes, "how many node agents to run; a cluster that exists keeps those that it has")
	c.Flags().StringVar(&o.Runtime, "runtime", local.Docker, "docker, or fake for simulated containers; a cluster that exists keeps its own")
	c.Flags().StringVar(&o.Network, "network", local.Docker, "docker for the engine's own network of pods, or native for the one that reaches across machines (Linux, root)")
	c.Flags().StringVar(&cpu, "node-cpu", "", "cpu of each node (default: the machine's, divided by the number of nodes)")
	c.Flags().StringVar(&memory, "node-memory", "", "memory of each node (default: the machine's, divided by the number of nodes)")
	c.Flags().StringVar(&pods, "node-pods", "", "how many pods a node takes (default 110)")
	c.Flags().StringVar(&o.Bin, "bin-dir", "", "folder with apiserver and nodeagent (default: where orchctl is)")
	c.Flags().StringVar(&o.LogLevel, "log-level", "info", "log level of the daemons: debug, info, warn or error")
	c.Flags().StringSliceVar(&o.Paused, "paused", nil, "begin with these controllers paused; with no value, all of them")
	c.Flags().Lookup("paused").NoOptDefVal = "all"
	c.Flags().DurationVar(&o.Patience, "wait", 2*time.Minute, "how long to wait until the cluster is ready")
	return c
}

func newDown(f *factory) *cobra.Command {
	var (
		name string
		all  bool
	)
	c := &cobra.Command{
		Use:   "down",
		Short: "Stop a cluster on this machine and remove everything of it",
		Long: "Stop a cluster that 'orchctl up' started: its processes, its containers and its\n" +
			"state. It also cleans up after a cluster whose processes are gone. Doing it twice\n" +
			"is harmless.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			home, _, err := f.home()
			if err != nil {
				return err
			}
			names := []string{name}
			if all {
				if names, err = local.Names(home); err != nil {
					return err
				}
			}
			for _, n := range names {
				cl, err := local.New(home, n, f.Err)
				if err != nil {
					return err
				}
				was, err := cl.Down(c.Context())
				if err != nil {
					return err
				}
				if was {
					fmt.Fprintf(f.Err, "Cluster %q is gone.\n", n)
				} else {
					fmt.Fprintf(f.Err, "There is no cluster %q.\n", n)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "orch", "name of the cluster")
	c.Flags().BoolVar(&all, "all", false, "all clusters of $ORCH_HOME")
	return c
}

// binDir is where apiserver and nodeagent lie: beside orchctl.
func binDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	dir := filepath.Dir(self)
	for _, p := range []string{"apiserver", "nodeagent"} {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			return "", fmt.Errorf("%s is not beside orchctl in %s: build it with 'make build', or name its folder with --bin-dir", p, dir)
		}
	}
	return dir, nil
}
