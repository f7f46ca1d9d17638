package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/agent/volume"
	"orch/pkg/container"
	"orch/pkg/container/docker"
	"orch/pkg/identity"
	"orch/pkg/network/native"
)

// volumesDir is the folder of the data folder with the pods' volumes, as
// CLUSTER/NODE/pods/UID. An agent makes CLUSTER/NODE when it starts: so it is known
// whose containers are this folder's, also after many clusters.
const volumesDir = "volumes"

// faultsDir is that with what is broken on purpose.
const faultsDir = "faults"

// hold keeps other processes from the data folder until release is called, or this
// process ends, however it does.
func hold(dir string) (release func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("a node agent runs on %s: stop it first", dir), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// resetter removes what an agent has made on its machine. Containers go first and
// the certificate last, so that a reset that was interrupted can be done again.
type resetter struct {
	dir    string
	dryRun bool
	out    io.Writer
	owners []lifecycle.Owner // of the containers that go
}

// reset is the command: it takes this machine out of its cluster.
func reset(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	r := resetter{out: stdout}
	f := pflag.NewFlagSet("nodeagent reset", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&r.dir, "data-dir", "", "the data folder of the agent, which must not run (required)")
	f.BoolVar(&r.dryRun, "dry-run", false, "only say what would be removed")
	var o options
	f.StringVar(&o.runtime, "runtime", "docker", "docker or fake, as the agent's")
	f.StringVar(&o.engine, "docker-host", "", "address of the Docker engine; empty: DOCKER_HOST, or Docker's own default")
	switch err := f.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return nil
	case err != nil:
		return err
	case f.NArg() > 0:
		return fmt.Errorf("unknown argument %q: see --help", f.Arg(0))
	case r.dir == "":
		return errors.New("--data-dir is required: the data folder of the agent")
	}
	release, err := hold(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(stdout, "There is no %s: nothing to remove.\n", r.dir)
		return nil
	} else if err != nil {
		return err
	}
	defer release()
	return r.run(ctx, o)
}

func (r *resetter) run(ctx context.Context, o options) error {
	pair := filepath.Join(r.dir, pairFile)
	found, err := filepath.Glob(filepath.Join(r.dir, volumesDir, "*", "*"))
	if err != nil {
		return err
	}
	for _, path := range found {
		r.owners = append(r.owners, lifecycle.Owner{Cluster: filepath.Base(filepath.Dir(path)), Node: filepath.Base(path)})
	}
	if !exists(pair) && !exists(filepath.Join(r.dir, volumesDir)) {
		fmt.Fprintf(r.out, "No node agent has used %s: nothing to remove.\n", r.dir)
		return nil
	}
	engine, end, err := openRuntime(o)
	if err != nil {
		return err
	}
	defer end()
	if err := r.containers(ctx, engine); err != nil {
		return fmt.Errorf("%w: nothing else was removed; reset again when the engine answers", err)
	}
	for _, o := range r.owners {
		if native.Exists(o.Cluster, o.Node) {
			if err := r.remove("bridge, routes and rules of node "+o.Node, func() error { return native.Remove(o.Cluster, o.Node) }); err != nil {
				return err
			}
		}
	}
	if d, ok := engine.(*docker.Runtime); ok {
		if err := r.sandboxImages(ctx, d); err != nil {
			return err
		}
	}
	unlock := func(dir string, folders []string) error { return engine.Unlock(ctx, dir, folders, nil) }
	for _, name := range []string{volumesDir, faultsDir, identity.AuthorityFile, pairFile + ".new", pairFile} {
		path := filepath.Join(r.dir, name)
		if !exists(path) {
			continue
		}
		if err := r.remove(path, func() error { return volume.RemoveTree(path, unlock) }); err != nil {
			return err
		}
	}
	if left, err := os.ReadDir(r.dir); err == nil && len(left) == 0 {
		if err := r.remove(r.dir, func() error { return os.Remove(r.dir) }); err != nil {
			return err
		}
	}
	for _, node := range slices.Compact(r.nodes()) {
		fmt.Fprintf(r.out, "Its cluster still knows the node: 'orchctl delete node %s' takes it out, and its pods are made anew elsewhere.\n", node)
	}
	return nil
}

// nodes are the names under which this machine was a node, sorted.
func (r *resetter) nodes() (names []string) {
	for _, o := range r.owners {
		names = append(names, o.Node)
	}
	slices.Sort(names)
	return names
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// remove does it, unless it is a dry run, and says so.
func (r *resetter) remove(what string, do func() error) error {
	if r.dryRun {
		fmt.Fprintf(r.out, "%s removed (dry run)\n", what)
		return nil
	}
	if err := do(); err != nil {
		return fmt.Errorf("remove %s: %w", what, err)
	}
	fmt.Fprintf(r.out, "%s removed\n", what)
	return nil
}

// containers removes those of the owners, until there are none: a call of an agent
// that was killed may still have made one.
func (r *resetter) containers(ctx context.Context, engine container.Runtime) error {
	for _, o := range r.owners {
		for {
			list, err := engine.List(ctx, o.Labels())
			if err != nil {
				return fmt.Errorf("list containers: %w", err)
			}
			for _, c := range list {
				parsed, pod, _, _ := lifecycle.Parse(c)
				what := fmt.Sprintf("container %s (%s of pod %s)", c.ID[:min(12, len(c.ID))], parsed.Name, pod)
				if err := r.remove(what, func() error { return engine.Remove(ctx, c.ID) }); err != nil {
					return err
				}
			}
			if len(list) == 0 || r.dryRun {
				break
			}
		}
	}
	return nil
}

// sandboxImages removes the images of sandboxes, unless another agent's containers
// use them.
func (r *resetter) sandboxImages(ctx context.Context, engine *docker.Runtime) error {
	images, err := engine.Images(ctx)
	if err != nil {
		return err
	}
	sandboxes, err := engine.List(ctx, map[string]string{lifecycle.LabelKind: lifecycle.KindSandbox})
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, c := range sandboxes { // in a dry run those of this node are still there
		mine := slices.Contains(r.owners, lifecycle.Owner{Cluster: c.Labels[lifecycle.LabelCluster], Node: c.Labels[lifecycle.LabelNode]})
		used[c.Image] = used[c.Image] || !mine
	}
	for _, i := range images {
		for _, ref := range i.Tags {
			if !strings.HasPrefix(ref, docker.SandboxRepository+":") {
				continue
			}
			if used[ref] || used[i.ID] {
				fmt.Fprintf(r.out, "image %s stays: other nodes use it\n", ref)
				continue
			}
			if err := r.remove("image "+ref, func() error { return engine.RemoveImage(ctx, ref) }); err != nil {
				return err
			}
		}
	}
	return nil
}
