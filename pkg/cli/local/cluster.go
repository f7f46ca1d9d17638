// Package local runs whole clusters on this machine: one API server and some
// node agents as processes of their own, all state in one folder a cluster.
//
// The one invariant: everything that Up makes, Down finds again, also when the
// processes have died meanwhile: processes by pid files, containers by the
// cluster's label. Read next: pkg/cli/up.go, the commands.
package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"orch/pkg/agent/volume"
	"orch/pkg/api"
	"orch/pkg/cli/config"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/docker"
	"orch/pkg/container/fake"
	"orch/pkg/identity"
	"orch/pkg/network/native"
	v1 "orch/proto/v1"
)

// LabelCluster is the label by which the containers of a cluster are found. Its
// value is the uid of the namespace kube-system.
const LabelCluster = "orch.dev/cluster"

// Runtimes that a local cluster can have.
const (
	Docker = "docker"
	Fake   = "fake"
)

// Native is the network that Orch makes itself, instead of Docker's.
const Native = "native"

// DefaultNodes is how many nodes a new cluster gets.
const DefaultNodes = 3

// Cluster is one cluster on this machine.
type Cluster struct {
	Name string
	home string
	// Progress gets a line for each step.
	Progress io.Writer
}

// state is what a cluster remembers of itself, in cluster.json.
type state struct {
	UID     string `json:"uid,omitempty"`
	Server  string `json:"server"`
	Runtime string `json:"runtime"`
	Nodes   int    `json:"nodes"`
	// Subnet of all pods, where they have the native network; else empty.
	Subnet string `json:"subnet,omitempty"`
	// Capacity that was asked for.
	Capacity map[string]string `json:"capacity,omitempty"`
}

// Options say what Up makes.
type Options struct {
	// Nodes that the cluster shall have; 0 is as many as it has, or DefaultNodes.
	Nodes   int
	Runtime string
	// Network of the pods: Docker, or Native; "" is what it has, or Docker.
	Network string
	// Capacity of each node ("cpu", "memory", "pods"); what is not named is an
	// equal share of the machine.
	Capacity map[string]string
	// Bin is the folder with apiserver and nodeagent.
	Bin string
	// LogLevel of the daemons.
	LogLevel string
	// Paused are the controllers that are to be paused; "all" is all of them.
	Paused []string
	// Patience is how long to wait for the cluster to be ready.
	Patience time.Duration
}

var validName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$`)

// New returns the cluster of that name, which may not exist yet.
func New(home, name string, progress io.Writer) (*Cluster, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("cluster name %q: use at most 42 lower-case letters, digits and '-', beginning and ending with a letter or digit", name)
	}
	return &Cluster{Name: name, home: home, Progress: progress}, nil
}

// Names lists the clusters of a home.
func Names(home string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(home, "clusters"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Dir is the folder with all state of the cluster.
func (c *Cluster) Dir() string { return filepath.Join(c.home, "clusters", c.Name) }

func (c *Cluster) process(name string) process {
	return process{
		name:    name,
		pidFile: filepath.Join(c.Dir(), name+".pid"),
		logFile: filepath.Join(c.Dir(), "logs", name+".log"),
	}
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }

// OpenRuntime connects to a runtime by its name and checks that it answers.
func OpenRuntime(ctx context.Context, name string) (container.Runtime, container.Info, error) {
	var rt container.Runtime
	switch name {
	case Docker:
		d, err := docker.New("")
		if err != nil {
			return nil, container.Info{}, err
		}
		rt = d
	case Fake:
		rt = fake.New(fake.Options{})
	default:
		return nil, container.Info{}, fmt.Errorf("unknown runtime %q: use docker or fake", name)
	}
	// A machine's engine that has just started may take half a minute to answer.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	info, err := rt.Info(ctx)
	if err != nil {
		rt.Close()
		return nil, info, err
	}
	return rt, info, nil
}

// Runtime is that of the cluster if it exists, and otherwise Docker.
func (c *Cluster) Runtime() string {
	st, _ := c.load() // Up tells what is wrong with it
	return cmp.Or(st.Runtime, Docker)
}

// Up starts what does not run yet of the cluster and waits until all nodes are
// Ready. Doing it twice is harmless; with more nodes than before it adds some.
func (c *Cluster) Up(ctx context.Context, o Options) error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	st, err := c.load()
	if err != nil {
		return err
	}
	if st.Runtime != "" && st.Runtime != o.Runtime {
		return fmt.Errorf("cluster %q exists with --runtime=%s: take it down first ('orchctl down --name %s'), or choose another --name", c.Name, st.Runtime, c.Name)
	}
	paused, later := o.Paused, []string(nil)
	if slices.Contains(paused, "all") {
		paused = api.ControllerNames()
	}
	if err := api.CheckControllers(paused...); err != nil {
		return fmt.Errorf("--paused: %w", err)
	}
	st.Runtime = o.Runtime
	if err := c.chooseNetwork(&st, o); err != nil {
		return err
	}
	switch {
	case o.Nodes == 0 && st.Nodes == 0:
		st.Nodes = DefaultNodes
	case o.Nodes != 0 && o.Nodes < st.Nodes:
		return fmt.Errorf("cluster %q has %d nodes, and up takes none away: 'orchctl down --name %s' and up again makes it smaller", c.Name, st.Nodes, c.Name)
	case o.Nodes != 0:
		st.Nodes = o.Nodes
	}
	if len(st.Capacity) == 0 && st.UID == "" {
		st.Capacity = o.Capacity
	} else if len(o.Capacity) > 0 && !maps.Equal(o.Capacity, st.Capacity) {
		return fmt.Errorf("the nodes of cluster %q have another capacity: take it down first ('orchctl down --name %s')", c.Name, c.Name)
	}

	if _, err := os.Stat(c.authority()); st.UID != "" && err != nil {
		return fmt.Errorf("cluster %q was made by an older orchctl and has no certificates: take it down ('orchctl down --name %s') and up again", c.Name, c.Name)
	}

	rt, info, err := OpenRuntime(ctx, o.Runtime)
	if err != nil {
		return err
	}
	defer rt.Close()

	if err := c.startServer(ctx, &st, o); err != nil {
		return err
	}
	cl, system, err := c.waitForServer(ctx, st.Server, o.Patience)
	if err != nil {
		return err
	}
	defer cl.Close()
	st.UID = system.GetMetadata().GetUid()
	if err := c.save(st); err != nil {
		return err
	}
	c.say("API server on %s", st.Server)

	// The nodes become ready without controllers, but that they need subnets.
	if st.Subnet != "" && slices.Contains(paused, "nodeipam") {
		later = []string{"nodeipam"}
		paused = slices.DeleteFunc(slices.Clone(paused), func(name string) bool { return name == later[0] })
	}
	if err := c.pause(ctx, cl, paused); err != nil {
		return err
	}
	machine, err := rt.Machine(ctx)
	if err != nil {
		return err
	}
	if err := c.startAgents(ctx, cl, st, share(info, machine, st.Nodes, st.Capacity), o); err != nil {
		return err
	}
	c.say("nodes ready on %s: %d", info.Runtime, st.Nodes)
	if err := c.pause(ctx, cl, later); err != nil {
		return err
	}
	return c.useContext(st.Server)
}

func (c *Cluster) pause(ctx context.Context, cl *client.Client, names []string) error {
	for _, name := range names {
		if _, err := cl.Controllers().Pause(ctx, &v1.PauseRequest{Controller: name, Paused: true}); err != nil {
			return fmt.Errorf("--paused: %w", api.FromStatus(err))
		}
	}
	if len(names) > 0 {
		c.say("controllers paused: %s", strings.Join(names, ", "))
	}
	return nil
}

// startAgents starts the agents that do not run, and waits until all nodes are
// ready. They join with a token that is good for this up only.
func (c *Cluster) startAgents(ctx context.Context, cl *client.Client, st state, capacity string, o Options) error {
	started := map[string]time.Time{} // the agents of this up, by node
	tokenFile := filepath.Join(c.Dir(), "token")
	for i := range st.Nodes {
		p := c.process(nodeName(i))
		if p.pid() != 0 {
			continue
		}
		if len(started) == 0 {
			forget, err := c.makeToken(ctx, cl, tokenFile, o.Patience)
			if err != nil {
				return err
			}
			defer forget()
		}
		started[p.name] = time.Now()
		args := []string{
			"--data-dir", filepath.Join(c.Dir(), nodeName(i)), "--join", st.Server, "--token-file", tokenFile,
			"--node-name", nodeName(i), "--runtime", o.Runtime,
			"--listen", "127.0.0.1:0", "--capacity", capacity,
			"--eviction-hard", evictionHard, "--log-level", o.LogLevel,
		}
		if st.Subnet != "" {
			args = append(args, "--network", Native)
		}
		if err := p.start(filepath.Join(o.Bin, "nodeagent"), args...); err != nil {
			return err
		}
	}
	return c.waitForNodes(ctx, cl, st.Nodes, started, o.Patience)
}

// makeToken makes a token and puts it into a file, until forget is called.
func (c *Cluster) makeToken(ctx context.Context, cl *client.Client, file string, patience time.Duration) (forget func(), err error) {
	authority, err := identity.LoadAuthority(c.authority())
	if err != nil {
		return nil, err
	}
	token, secret := identity.NewToken(authority, time.Now().Add(patience+time.Minute))
	secrets := client.For[*v1.Secret](cl)
	if _, err := secrets.Create(client.WithCause(ctx, "CreateToken", "the agents of orchctl up join with it"), secret); err != nil {
		return nil, err
	}
	return func() {
		ctx := client.WithCause(context.WithoutCancel(ctx), "DeleteToken", "orchctl up is done")
		_, _ = secrets.Delete(ctx, secret.GetMetadata().GetNamespace(), secret.GetMetadata().GetName(), client.DeleteOptions{}) // it expires soon
		_ = os.Remove(file)
	}, os.WriteFile(file, []byte(token+"\n"), 0o600)
}

// share is the capacity of one of n nodes on this machine, as nodeagent takes
// it: n agents that each promised the whole machine would promise it n times.
func share(info container.Info, machine container.Machine, n int, given map[string]string) string {
	capacity := map[string]string{
		"cpu":    fmt.Sprintf("%dm", info.MilliCPU/int64(n)),
		"memory": fmt.Sprintf("%dKi", info.MemoryBytes/int64(n)/1024),
		"pods":   "110", // the kubelet's default for --max-pods
	}
	for k, v := range given {
		capacity[k] = v
	}
	if machine.Disk.Capacity > 0 {
		capacity["ephemeral-storage"] = fmt.Sprintf("%dKi", machine.Disk.Capacity/int64(n)/1024)
	}
	var list []string
	for _, k := range slices.Sorted(maps.Keys(capacity)) {
		list = append(list, k+"="+capacity[k])
	}
	return strings.Join(list, ",")
}

// evictionHard is what has to be left on a machine that somebody works at, whose
// disk may well be nine tenths full: the kubelet's percentages would let no pod
// come. (kind, for the same reason, has none at all.)
const evictionHard = "memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi"

func (c *Cluster) startServer(ctx context.Context, st *state, o Options) error {
	p := c.process("apiserver")
	if p.pid() != 0 {
		return nil
	}
	if _, err := free(ctx, st.Server); st.Server == "" || err != nil {
		addr, err := free(ctx, "127.0.0.1:0")
		if err != nil {
			return err
		}
		// Agents that run know the old address alone: they are started anew.
		if err := c.stopAgents(); err != nil {
			return err
		}
		st.Server = addr
	}
	// The address is on disk before anything listens there, so that a
	// second 'up' after a crash of this one finds the server.
	if err := c.save(*st); err != nil {
		return err
	}
	return p.start(filepath.Join(o.Bin, "apiserver"),
		"--data-dir", filepath.Join(c.Dir(), "apiserver"), "--listen", st.Server, "--log-level", o.LogLevel, "--cluster-cidr", st.Subnet,
		"--gossip-address", "127.0.0.1:0", "--membership-profile", "local")
}

// free is an address at which one can listen.
func free(ctx context.Context, addr string) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// authority and admin are files that the API server makes: the certificate of
// the cluster's authority, and the certificate and key of its first user.
func (c *Cluster) authority() string {
	return filepath.Join(c.Dir(), "apiserver", identity.AuthorityFile)
}
func (c *Cluster) admin() string { return filepath.Join(c.Dir(), "apiserver", "admin.pem") }

// target is the API server and its first user.
func (c *Cluster) target(server string) config.Target {
	return config.Target{
		Cluster: config.Cluster{Server: server, CertificateAuthority: c.authority()},
		User:    config.User{ClientCertificate: c.admin(), ClientKey: c.admin()},
	}
}

// waitForServer waits until the API server answers, and returns a client of it
// and the namespace whose uid is the cluster's.
func (c *Cluster) waitForServer(parent context.Context, server string, patience time.Duration) (cl *client.Client, ns *v1.Namespace, err error) {
	p := c.process("apiserver")
	ctx, cancel := context.WithTimeout(parent, patience)
	defer cancel()
	for {
		if cl == nil { // the files are made by its first start
			if _, statErr := os.Stat(c.admin()); statErr == nil {
				if cl, err = c.target(server).Dial(); err != nil {
					return nil, nil, err
				}
				defer func() {
					if err != nil {
						cl.Close()
					}
				}()
			}
		}
		if cl != nil {
			if ns, err = client.For[*v1.Namespace](cl).Get(ctx, "", api.NamespaceSystem); err == nil {
				return cl, ns, nil
			}
		}
		if p.pid() == 0 {
			return cl, nil, fmt.Errorf("the API server ended at once; its log (%s) ends with: %s", p.logFile, p.tail(3))
		}
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return cl, nil, c.interrupted()
			}
			return cl, nil, fmt.Errorf("the API server did not answer within %v; see %s", patience, p.logFile)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// interrupted is what the user who ends Up half-way has to know.
func (c *Cluster) interrupted() error {
	return fmt.Errorf("interrupted: what was started of cluster %q runs on; 'orchctl up --name %s' finishes it, 'orchctl down --name %s' removes it", c.Name, c.Name, c.Name)
}

// waitForNodes waits until n nodes are Ready. Of an agent that was just started
// it wants to hear: the store may remember its node as it was under another.
func (c *Cluster) waitForNodes(parent context.Context, cl *client.Client, n int, started map[string]time.Time, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(parent, patience)
	defer cancel()
	ready := map[string]bool{}
	for e, err := range client.For[*v1.Node](cl).Watch(ctx, client.WatchOptions{}) {
		if err != nil {
			break
		}
		if node := e.Object; node != nil {
			name := node.GetMetadata().GetName()
			ready[name] = e.Type != v1.WatchEvent_TYPE_DELETED && api.IsNodeReady(node) && !heartbeat(node).Before(started[name])
		}
		missing := 0
		for i := range n {
			if !ready[nodeName(i)] {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
	}
	if parent.Err() != nil {
		return c.interrupted()
	}
	for i := range n {
		if p := c.process(nodeName(i)); !ready[nodeName(i)] {
			return fmt.Errorf("%s is not ready after %v; its log (%s) ends with: %s", p.name, patience, p.logFile, p.tail(3))
		}
	}
	return nil
}

// heartbeat is when the node's agent was last heard of.
func heartbeat(n *v1.Node) time.Time {
	return api.GetCondition(n.GetStatus().GetConditions(), api.NodeReady).GetLastHeartbeatTime().AsTime()
}

// Down stops the cluster's processes, removes its containers, its state and its
// context. It returns false where there was nothing to do.
func (c *Cluster) Down(ctx context.Context) (bool, error) {
	if _, err := os.Stat(c.Dir()); errors.Is(err, fs.ErrNotExist) {
		return c.forgetContext()
	}
	unlock, err := c.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	st, err := c.load()
	if err != nil {
		return false, err
	}
	// Agents first: one that still ran would start again what is removed here.
	if err := c.stopAgents(); err != nil {
		return false, err
	}
	if err := c.process("apiserver").stop(10 * time.Second); err != nil {
		return false, err
	}
	c.say("API server and node agents stopped")
	if st.Runtime == Docker && st.UID != "" {
		n, err := removeContainers(ctx, st.UID)
		if err != nil {
			return false, fmt.Errorf("%w: start the engine and run 'orchctl down --name %s' again", err, c.Name)
		}
		c.say("%d containers removed", n)
	}
	if st.Subnet != "" && st.UID != "" {
		for i := range st.Nodes {
			if err := native.Remove(st.UID, nodeName(i)); err != nil {
				return false, fmt.Errorf("remove the network of %s: %w", nodeName(i), err)
			}
		}
		c.say("bridges and routes removed")
	}
	if _, err := c.forgetContext(); err != nil {
		return false, err
	}
	err = volume.RemoveTree(c.Dir(), func(dir string, folders []string) error {
		rt, _, err := OpenRuntime(ctx, Docker)
		if err != nil {
			return err
		}
		defer rt.Close()
		return rt.Unlock(ctx, dir, folders, map[string]string{LabelCluster: st.UID})
	})
	if err == nil {
		err = os.Remove(c.lockFile())
	}
	return true, err
}

// stopAgents ends all agents at once; their containers go on.
func (c *Cluster) stopAgents() error {
	pidFiles, err := filepath.Glob(filepath.Join(c.Dir(), "*.pid"))
	if err != nil {
		return err
	}
	var g errgroup.Group
	for _, f := range pidFiles {
		if name := strings.TrimSuffix(filepath.Base(f), ".pid"); name != "apiserver" {
			g.Go(func() error { return c.process(name).stop(10 * time.Second) })
		}
	}
	return g.Wait()
}

// removeContainers removes everything that carries the cluster's label.
func removeContainers(ctx context.Context, uid string) (int, error) {
	rt, _, err := OpenRuntime(ctx, Docker)
	if err != nil {
		return 0, fmt.Errorf("remove containers: %w", err)
	}
	defer rt.Close()
	all, err := rt.List(ctx, map[string]string{LabelCluster: uid})
	if err != nil {
		return 0, fmt.Errorf("list containers: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4) // more only adds latency: the engine is bound by the processor
	for _, ct := range all {
		g.Go(func() error { return rt.Remove(ctx, ct.ID) })
	}
	return len(all), g.Wait()
}

func (c *Cluster) useContext(server string) error {
	path := config.Path(c.home)
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	t := c.target(server)
	cfg.Set(c.Name, t.Cluster, t.User)
	cfg.CurrentContext = c.Name
	if err := cfg.Save(path); err != nil {
		return err
	}
	c.say("context %q is now the current one", c.Name)
	return nil
}

func (c *Cluster) forgetContext() (bool, error) {
	path := config.Path(c.home)
	cfg, err := config.Load(path)
	if err != nil {
		return false, err
	}
	if !cfg.Remove(c.Name) {
		return false, nil
	}
	return true, cfg.Save(path)
}

func (c *Cluster) load() (state, error) {
	var st state
	data, err := os.ReadFile(filepath.Join(c.Dir(), "cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(data, &st); err != nil {
		return st, fmt.Errorf("%s: %w", filepath.Join(c.Dir(), "cluster.json"), err)
	}
	return st, nil
}

func (c *Cluster) save(st state) error {
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	// The first time, the cluster begins to exist here, and not for an up that is refused.
	if err := os.MkdirAll(filepath.Join(c.Dir(), "logs"), 0o700); err != nil {
		return err
	}
	path := filepath.Join(c.Dir(), "cluster.json")
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// lock keeps two commands from working on one cluster at once.
func (c *Cluster) lock() (func(), error) {
	if err := os.MkdirAll(filepath.Dir(c.Dir()), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(c.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	// A Down may have removed the file since it was opened here; the next who
	// comes would lock another one.
	locked, statErr := f.Stat()
	if there, thereErr := os.Stat(c.lockFile()); err != nil || statErr != nil || thereErr != nil || !os.SameFile(locked, there) {
		f.Close()
		return nil, fmt.Errorf("another orchctl is working on cluster %q: wait for it to end", c.Name)
	}
	return func() { f.Close() }, nil
}

// lockFile stands beside the folder, so that removing the folder leaves the lock
// whole.
func (c *Cluster) lockFile() string { return c.Dir() + ".lock" }

func (c *Cluster) say(format string, args ...any) {
	fmt.Fprintf(c.Progress, "  ✓ "+format+"\n", args...)
}
