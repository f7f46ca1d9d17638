//go:build linux

// Package lab builds machines on one Linux kernel and breaks them: each has
// processes, a network and a folder of its own, and runs a real Docker engine
// and Orch's real programs. A switch joins them, whose links can be cut, in one
// direction or both, or lose packets.
//
// A machine is a first process in new namespaces, which is an idle copy of this
// program. Killing it is pulling the plug: the kernel kills what else runs there,
// containers included.
//
// The one invariant: when the lab's process ends, by SIGKILL too, its machines
// end with it, and nothing of the machine that it runs on was changed but a
// folder and some control groups, which the next lab sweeps.
//
// It needs root, and the programs ip, nft, nsenter, setpriv and dockerd. Read
// next: machine.go, network.go, cluster.go, then the stories in story_test.go.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
)

// Options describe a lab. The zero value is the API server's machine alone.
type Options struct {
	// Machines is how many machines there are beside the API server's. They are
	// called m1, m2 and so on.
	Machines int
	// Fake leaves the engines away: agents simulate their containers.
	Fake bool
	// Bin is the folder with apiserver, nodeagent and orchctl; "": they are built.
	Bin string
	// Images brings images into an engine that has just been made.
	Images func(context.Context, *Machine) error
	// APIServer and Agent are further flags of the programs.
	APIServer, Agent []string
	// Log is told what is done; nil: nobody is.
	Log io.Writer
}

// Lab is some machines, joined by a switch.
//
// Concurrency: its methods are for one goroutine, those of different machines
// for one each.
type Lab struct {
	// Dir is the lab's folder, which holds a folder for each machine, and the
	// programs' logs.
	Dir string
	// API is the machine of the API server; it has no engine.
	API *Machine
	// Machines are the others, m1 first.
	Machines []*Machine

	options Options
	bin     string
	switch_ *Machine
	lock    *os.File
	token   string

	mu     sync.Mutex // guards faults
	faults []fault
}

// prefix begins the names of all folders and control groups of labs.
const prefix = "orch-lab-"

// Missing says why there can be no lab here; nil where there can.
func Missing() error {
	if os.Geteuid() != 0 {
		return errors.New("it needs root, to make namespaces")
	}
	for _, program := range []string{"dockerd", "ip", "nft", "nsenter", "setpriv"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("it needs the program %s: %w", program, err)
		}
	}
	return nil
}

// Require skips a test where there can be no lab, and fails it with CI=true.
func Require(t testing.TB) {
	t.Helper()
	err := Missing()
	if err == nil {
		return
	}
	message := fmt.Sprintf("NO LAB OF MACHINES, so that none of its stories runs: %v", err)
	if os.Getenv("CI") == "true" {
		t.Fatal(message)
	}
	loud.Do(func() { fmt.Fprintln(os.Stderr, "=== "+message) })
	t.Skip(message)
}

// loud prints the reason once for all tests of a package.
var loud sync.Once

// New builds the machines and starts their engines. Nothing of Orch runs yet:
// see [Lab.Up].
func New(ctx context.Context, o Options) (*Lab, error) {
	if err := Missing(); err != nil {
		return nil, fmt.Errorf("build a lab: %w", err)
	}
	if !inited {
		return nil, errors.New("build a lab: the program has to call lab.Init first of all")
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if err := sweep(); err != nil {
		return nil, fmt.Errorf("remove what an earlier lab has left: %w", err)
	}
	dir, lock, err := newDir()
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir, lock: lock, options: o}
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(err, l.Down())
	}
	return l, nil
}

// build is what New does once there is a folder.
func (l *Lab) build(ctx context.Context) (err error) {
	if l.bin, err = l.programs(ctx); err != nil {
		return err
	}
	l.switch_ = l.machine("switch", 1)
	if err := l.switch_.power(ctx); err != nil {
		return err
	}
	if err := l.switch_.ip(ctx, "link add switch type bridge", "addr add "+l.switch_.Address+"/24 dev switch", "link set switch up"); err != nil {
		return err
	}
	l.API = l.machine("api", 2)
	for i := range l.options.Machines {
		l.Machines = append(l.Machines, l.machine(fmt.Sprintf("m%d", i+1), 11+i))
	}
	var g errgroup.Group
	for _, m := range l.all() {
		g.Go(func() error {
			if err := m.Boot(ctx); err != nil || m.Simulated() {
				return err
			}
			if l.options.Images != nil {
				return l.options.Images(ctx, m)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	l.say("%d machines in %s", len(l.all()), l.Dir)
	return nil
}

// all are all machines but the switch.
func (l *Lab) all() []*Machine { return append([]*Machine{l.API}, l.Machines...) }

// Machine is the one with this name, or nil.
func (l *Lab) Machine(name string) *Machine {
	for _, m := range l.all() {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// Down ends all machines and removes what was theirs.
func (l *Lab) Down() error {
	var errs []error
	for _, m := range append(l.all(), l.switch_) {
		if m != nil { // else it was not built
			errs = append(errs, m.Kill())
		}
	}
	errs = append(errs, remove(l.Dir))
	l.lock.Close()
	return errors.Join(errs...)
}

// programs is the folder with Orch's programs.
func (l *Lab) programs(ctx context.Context) (string, error) {
	if l.options.Bin != "" {
		return filepath.Abs(l.options.Bin)
	}
	dir := filepath.Join(l.Dir, "bin")
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "orch/cmd/apiserver", "orch/cmd/nodeagent", "orch/cmd/orchctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build Orch: %w\n%s", err, out)
	}
	return dir, nil
}

func (l *Lab) say(format string, args ...any) { fmt.Fprintf(l.options.Log, format+"\n", args...) }

// newDir makes the folder of a lab, and a lock that says that the lab lives. The
// lock is held before it has its name, so that no other lab finds it free.
func newDir() (string, *os.File, error) {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(dir, "lock")
	lock, err := os.Create(path + ".new")
	if err != nil {
		return "", nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return "", nil, err
	}
	return dir, lock, os.Rename(path+".new", path)
}

// sweep removes what labs have left whose process was killed. Their locks went
// with them.
func sweep() error {
	locks, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*", "lock"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range locks {
		lock, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // its lab has just ended
		} else if err != nil {
			return err
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			errs = append(errs, remove(filepath.Dir(path)))
		}
		lock.Close()
	}
	return errors.Join(errs...)
}

// remove removes a lab's folder and control groups. Its machines have ended.
func remove(dir string) error {
	return errors.Join(removeGroups(filepath.Base(dir)+"-*"), os.RemoveAll(dir))
}

// removeGroups removes the control groups whose names match, at the top of each
// hierarchy, with those below. The kernel takes a moment to see that the
// last process of a group is gone.
func removeGroups(name string) error {
	var groups []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} { // version 2, and version 1
		found, err := filepath.Glob(pattern + name)
		if err != nil {
			return err
		}
		groups = append(groups, found...)
	}
	var errs []error
	for _, group := range groups {
		errs = append(errs, eventually(func() error { return removeTree(group) }))
	}
	return errors.Join(errs...)
}

// removeTree removes a control group: the folders, deepest first, as the files
// in them cannot be removed.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return err
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// output is what a command that failed has printed, for its error.
func output(name string, out []byte, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
}
