package local

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"orch/internal/testdocker"
	"orch/internal/testlog"
	"orch/pkg/api"
	"orch/pkg/cli/config"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// binaries builds the daemons once for all tests.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if binaries = os.Getenv("ORCH_TEST_BINARIES"); binaries != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "orch-local-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		build := exec.Command("go", "build", "-o", dir, "orch/cmd/apiserver", "orch/cmd/nodeagent")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		binaries = dir
		return m.Run()
	}())
}

func options(runtime string, nodes int) Options {
	return Options{Nodes: nodes, Runtime: runtime, Bin: binaries, LogLevel: "info", Patience: 2 * time.Minute}
}

// cluster is one that is taken down with the test, and held to the invariants
// before, where its API server runs.
func cluster(t *testing.T, home, name string) *Cluster {
	t.Helper()
	c, err := New(home, name, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.Down(context.Background()); err != nil {
			t.Errorf("down: %v", err)
		}
	})
	t.Cleanup(func() {
		if c.process("apiserver").pid() != 0 {
			c.invariants(t)
		}
	})
	return c
}

// invariants holds what was written, and what runs on the nodes whose agents do.
func (c *Cluster) invariants(t *testing.T) {
	t.Helper()
	testlog.Invariants(t, dial(t, c.home, c.Name), 0, len(c.runningPIDs(t))-1)
}

func (c *Cluster) mustUp(t *testing.T, o Options) {
	t.Helper()
	if err := c.Up(context.Background(), o); err != nil {
		t.Fatalf("up: %v", err)
	}
}

// pids of all processes of the cluster that run.
func (c *Cluster) runningPIDs(t *testing.T) map[string]int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Dir(), "*.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pids := map[string]int{}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".pid")
		if pid := c.process(name).pid(); pid != 0 {
			pids[name] = pid
		}
	}
	return pids
}

// dial connects to the cluster that the config names.
func dial(t *testing.T, home, name string) *client.Client {
	t.Helper()
	cl, err := config.Dial(config.Path(home), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

func TestUpTwiceIsHarmlessAndMoreNodesAreAdded(t *testing.T) {
	home := t.TempDir()
	c := cluster(t, home, "one")
	c.mustUp(t, options(Fake, 2))
	first := c.runningPIDs(t)
	c.mustUp(t, options(Fake, 2))
	if again := c.runningPIDs(t); fmt.Sprint(again) != fmt.Sprint(first) || len(again) != 3 {
		t.Errorf("the second up changed processes: %v, then %v", first, again)
	}
	c.mustUp(t, options(Fake, 3))
	if n := len(c.runningPIDs(t)); n != 4 {
		t.Errorf("%d processes with three nodes, want 4", n)
	}
	other, err := New(home, "one", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got := other.Runtime(); got != Fake {
		t.Errorf("the cluster's runtime is %s", got)
	}
	if err := other.Up(context.Background(), options(Docker, 2)); err == nil || !strings.Contains(err.Error(), "take it down first") {
		t.Errorf("up with another runtime: %v", err)
	}
}

func TestUpMayBeginWithControllersPaused(t *testing.T) {
	home := t.TempDir()
	c := cluster(t, home, "held")
	o := options(Fake, 2)
	paused := func() string {
		t.Helper()
		r, err := dial(t, home, "held").Controllers().ListControllers(t.Context(), &v1.ListControllersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, one := range r.GetControllers() {
			if one.GetPaused() {
				names = append(names, one.GetName())
			}
		}
		return strings.Join(names, ",")
	}
	o.Paused = []string{"node", "pods"}
	if err := c.Up(t.Context(), o); err == nil || !strings.Contains(err.Error(), `--paused: controllers "pods" not found: there are deployment, replicaset, `) {
		t.Errorf("a name that no controller has: %v", err)
	}
	if pids := c.runningPIDs(t); len(pids) > 0 {
		t.Errorf("after that, these run: %v", pids)
	}
	o.Paused = []string{"all"}
	c.mustUp(t, o) // nodes become ready all the same
	all := paused()
	if all != "deployment,replicaset,scheduler,node,disruption,garbage,namespace,event,nodeipam" {
		t.Errorf("paused are: %s", all)
	}
	c.mustUp(t, options(Fake, 3))
	if got := paused(); got != all {
		t.Errorf("after an up that says nothing of it, paused are: %s", got)
	}
}

func TestWhatDiedIsStartedAgainByUpWithItsObjects(t *testing.T) {
	home := t.TempDir()
	c := cluster(t, home, "crash")
	c.mustUp(t, options(Fake, 1))
	cm := &v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: "kept", Namespace: api.NamespaceDefault}}
	if _, err := client.For[*v1.ConfigMap](dial(t, home, "crash")).Create(context.Background(), cm); err != nil {
		t.Fatal(err)
	}
	for name, pid := range c.runningPIDs(t) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("kill %s: %v", name, err)
		}
		if !c.process(name).gone(2 * time.Minute) {
			t.Fatalf("%s survived SIGKILL", name)
		}
	}
	died := time.Now()
	c.mustUp(t, options(Fake, 1))
	cl := dial(t, home, "crash")
	if _, err := client.For[*v1.ConfigMap](cl).Get(context.Background(), api.NamespaceDefault, "kept"); err != nil {
		t.Errorf("after the crash: %v", err)
	}
	// What the store remembers of a node is no sign of its agent.
	n, err := client.For[*v1.Node](cl).Get(context.Background(), "", nodeName(0))
	if err != nil {
		t.Fatal(err)
	}
	if beat := heartbeat(n); !beat.After(died) {
		t.Errorf("up did not wait for the new agent: the node was last heard of %v before", died.Sub(beat))
	}
}

func TestAServerWhoseAddressWasTakenIsFoundByItsAgents(t *testing.T) {
	home := t.TempDir()
	c := cluster(t, home, "moved")
	c.mustUp(t, options(Fake, 1))
	before, err := c.load()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.process("apiserver").stop(2 * time.Minute); err != nil {
		t.Fatal(err)
	}
	squatter, err := net.Listen("tcp", before.Server)
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	came := time.Now()
	c.mustUp(t, options(Fake, 1))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for e, err := range client.For[*v1.Node](dial(t, home, "moved")).Watch(ctx, client.WatchOptions{}) {
		if err != nil {
			t.Fatalf("the agent was not heard of after the server moved from %s: %v", before.Server, err)
		}
		if heartbeat(e.Object).After(came) {
			break
		}
	}
}

func TestDownTakesEverythingAwayAlsoAfterACrash(t *testing.T) {
	home := t.TempDir()
	c := cluster(t, home, "gone")
	c.mustUp(t, options(Fake, 2))
	pids := c.runningPIDs(t)
	// One is gone already when down comes.
	if err := syscall.Kill(pids["apiserver"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if was, err := c.Down(context.Background()); err != nil || !was {
		t.Fatalf("down: %v %v", was, err)
	}
	for name, pid := range pids {
		if startTime(pid) != "" {
			t.Errorf("%s (%d) still runs", name, pid)
		}
	}
	if _, err := os.Stat(c.Dir()); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", c.Dir(), err)
	}
	if was, err := c.Down(context.Background()); err != nil || was {
		t.Errorf("the second down: %v %v", was, err)
	}
	if left, err := os.ReadDir(filepath.Dir(c.Dir())); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestTwoCannotWorkOnOneCluster(t *testing.T) {
	c := cluster(t, t.TempDir(), "shared")
	unlock, err := c.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.lock(); err == nil || !strings.Contains(err.Error(), "another orchctl") {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	if unlock, err = c.lock(); err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestWhoIsKilledWhileStartingADaemonLeavesNone(t *testing.T) {
	for name, really := range map[string]bool{"started": true, "killed": false} {
		file := filepath.Join(t.TempDir(), "ran")
		cmd, run := held("sh", "-c", `echo "$1" > "$0"`, file, "a b")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := run(really); err != nil { // the pipe closes as it does when its owner dies
			t.Fatal(err)
		}
		if err := cmd.Wait(); (err == nil) != really {
			t.Errorf("%s: it ended with %v", name, err)
		}
		if text, err := os.ReadFile(file); (string(text) == "a b\n") != really || (err == nil) != really {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	p := process{name: "node-1", pidFile: filepath.Join(t.TempDir(), "pid"), logFile: filepath.Join(t.TempDir(), "log")}
	if err := p.start("/no/such/program"); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestTwoClustersSideBySide(t *testing.T) {
	home := t.TempDir()
	a, b := cluster(t, home, "a"), cluster(t, home, "b")
	a.mustUp(t, options(Fake, 1))
	b.mustUp(t, options(Fake, 1))
	if _, err := a.Down(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := len(b.runningPIDs(t)); n != 2 {
		t.Errorf("%d processes of b run after a is down, want 2", n)
	}
	if _, err := client.For[*v1.Node](dial(t, home, "b")).Get(context.Background(), "", "node-1"); err != nil {
		t.Errorf("b after a is down: %v", err)
	}
	names, err := Names(home)
	if err != nil || fmt.Sprint(names) != "[b]" {
		t.Errorf("clusters are %v, %v", names, err)
	}
}

func TestAPIDThatSomebodyElseHasNowIsLeftAlone(t *testing.T) {
	stranger := exec.Command("sleep", "60")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	p := process{name: "node-1", pidFile: filepath.Join(t.TempDir(), "node-1.pid")}
	if err := os.WriteFile(p.pidFile, fmt.Appendf(nil, "%d 12345\n", stranger.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.stop(time.Second); err != nil {
		t.Fatal(err)
	}
	if startTime(stranger.Process.Pid) == "" {
		t.Error("a process that is not ours was ended")
	}
}

func TestAServerThatCannotStartIsSaidWithItsLog(t *testing.T) {
	home := t.TempDir()
	c := cluster(t, home, "broken")
	if err := os.MkdirAll(filepath.Join(c.Dir(), "apiserver"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir(), "apiserver", "store.db"), bytes.Repeat([]byte("not a store "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	err := c.Up(context.Background(), options(Fake, 1))
	if err == nil || !strings.Contains(err.Error(), "store.db") {
		t.Errorf("up on a broken store: %v", err)
	}
}

func TestAnUpThatIsRefusedLeavesNoCluster(t *testing.T) {
	home := t.TempDir()
	c := cluster(t, home, "one")
	o := options(Fake, 1)
	o.Paused = []string{"replicasets"}
	if err := c.Up(context.Background(), o); err == nil || !strings.Contains(err.Error(), "--paused") {
		t.Errorf("up: %v", err)
	}
	if names, err := Names(home); err != nil || len(names) > 0 {
		t.Errorf("there are now clusters: %v, %v", names, err)
	}
}

func TestNamesThatNoFolderShouldHaveAreRefused(t *testing.T) {
	for _, name := range []string{"", "..", "a/b", "A", "-a", strings.Repeat("a", 43)} {
		if _, err := New(t.TempDir(), name, io.Discard); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestContainersAreRemovedThoughTheirClusterHasDied(t *testing.T) {
	if testing.Short() {
		t.Skip("starts containers")
	}
	engine := testdocker.Require(t)
	home := t.TempDir()
	c := cluster(t, home, "docker")
	c.mustUp(t, options(Docker, 1))
	st, err := c.load()
	if err != nil {
		t.Fatal(err)
	}
	engine.AlsoRemove(map[string]string{LabelCluster: st.UID})
	pod := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: "p", Namespace: api.NamespaceDefault},
		// There is no such image, but there is a sandbox.
		Spec: &v1.PodSpec{Containers: []*v1.Container{{Name: "app", Image: "localhost:1/does-not-exist:0"}}},
	}
	cl := dial(t, home, "docker")
	if _, err := client.For[*v1.Pod](cl).Create(context.Background(), pod); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var last *v1.Pod
	for e, err := range client.For[*v1.Pod](cl).Watch(ctx, client.WatchOptions{Namespace: api.NamespaceDefault}) {
		if err != nil {
			t.Fatalf("the pod has no sandbox: %v; it is\n%v", err, last.GetStatus())
		}
		if last = e.Object; last.GetStatus().GetPodIp() != "" {
			break
		}
	}
	c.invariants(t)
	for _, pid := range c.runningPIDs(t) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Down(context.Background()); err != nil {
		t.Fatal(err)
	}
	left, err := engine.List(context.Background(), map[string]string{LabelCluster: st.UID})
	if err != nil || len(left) > 0 {
		t.Errorf("containers left: %v, %v", left, err)
	}
}
