package native_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/internal/testregistry"
	"orch/pkg/container"
	"orch/pkg/container/containertest"
	"orch/pkg/container/docker"
	"orch/pkg/network"
	"orch/pkg/network/native"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requireRoot skips what needs root, or fails with CI=true.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root")
	}
	t.Skip("NEEDS ROOT, so that the native network is not tested")
}

// node is a node with a native network on the machine's engine.
type node struct {
	*network.Runtime
	t       *testing.T
	network *native.Network
	name    string
	stop    func()
}

// peers are the nodes of all tests here, on one machine.
var peers = []network.Peer{
	{Name: "a", Address: netip.MustParseAddr("127.0.0.1"), Subnet: testdocker.Subnet()},
	{Name: "b", Address: netip.MustParseAddr("127.0.0.1"), Subnet: netip.PrefixFrom(testdocker.Subnet().Addr(), 29)},
}

// labels are a node's.
func labels(e *testdocker.Engine, name string) map[string]string {
	return e.Labels(map[string]string{"orch.test/node": name})
}

// start starts a node of the test's cluster and waits until it is ready.
func start(t *testing.T, e *testdocker.Engine, name string) *node {
	t.Helper()
	n, err := native.New(native.Options{
		Cluster: e.Run, Node: name, Mode: native.HostGW, Engine: e, Labels: labels(e, name), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done, ready := make(chan struct{}), make(chan error, 10)
	go func() {
		defer close(done)
		_ = n.Run(ctx, func(err error) { ready <- err })
	}()
	stop := func() { cancel(); <-done }
	t.Cleanup(func() {
		stop()
		if err := native.Remove(e.Run, name); err != nil {
			t.Error(err)
		}
	})
	n.SetPeers(peers)
	select {
	case err := <-ready:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the network does not become ready")
	}
	return &node{network.Wrap(e, n), t, n, name, stop}
}

func (n *node) sandbox(e *testdocker.Engine, name string, more ...func(*container.Sandbox)) container.Container {
	n.t.Helper()
	s := container.Sandbox{Name: e.Name(name), Hostname: name, Labels: labels(e, n.name)}
	for _, f := range more {
		f(&s)
	}
	c, err := n.CreateSandbox(n.t.Context(), s)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

func (n *node) run(e *testdocker.Engine, image, sandbox, name string, args ...string) container.Container {
	n.t.Helper()
	id, err := n.Create(n.t.Context(), container.Config{Name: e.Name(name), Image: image, Sandbox: sandbox, Args: args, Labels: labels(e, n.name)})
	if err != nil {
		n.t.Fatal(err)
	}
	c, err := n.Start(n.t.Context(), id)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

func (n *node) exec(id string, args ...string) string {
	n.t.Helper()
	var out bytes.Buffer
	code, err := n.Exec(n.t.Context(), id, container.ExecOptions{Command: append([]string{testimage.Path}, args...), Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		n.t.Errorf("%v: code %d, %v: %s", args, code, err, &out)
	}
	return out.String()
}

// get asks a pod's web server from this machine.
func get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// listen starts a web server in a sandbox and waits for it.
func (n *node) listen(e *testdocker.Engine, image string, sandbox container.Container, reply string) container.Container {
	n.t.Helper()
	c := n.run(e, image, sandbox.ID, reply+"-web", "-listen", ":8080", "-reply", reply)
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Minute)
	defer cancel()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(n.Logs(ctx, c.ID, container.LogOptions{Follow: true, Tail: -1}, w, w))
	}()
	buffer := make([]byte, 1)
	_, err := r.Read(buffer)
	cancel()
	r.Close()
	if <-done; err != nil {
		n.t.Fatal(err)
	}
	return c
}

func TestPodsOfTwoNodesReachEachOther(t *testing.T) {
	requireRoot(t)
	e := testdocker.Require(t)
	image := testimage.Build(t, e)
	a, b := start(t, e, "a"), start(t, e, "b")
	free, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	at := fmt.Sprintf(":%d/", port)
	sandbox := a.sandbox(e, "one", func(s *container.Sandbox) {
		s.Ports = []container.Port{{ContainerPort: 8080, HostPort: int32(port)}}
		s.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1"}
		s.Hosts = []container.Host{{IP: "10.1.2.3", Name: "alias"}}
		s.DNS = &container.DNS{Nameservers: []string{"10.1.2.4"}, Searches: []string{"example"}}
	})
	other := b.sandbox(e, "two")
	gatewayA, gatewayB := peers[0].Subnet.Addr().Next().String(), peers[1].Subnet.Addr().Next().String()
	one, two := a.listen(e, image, sandbox, "one"), b.listen(e, image, other, "two")
	for what, got := range map[string]string{
		"two from one":                 a.exec(one.ID, "-get", "http://"+other.IP+":8080/", "-exit", "0"),
		"one from two":                 b.exec(two.ID, "-get", "http://"+sandbox.IP+":8080/", "-exit", "0"),
		"one from the machine":         get(t, "http://"+sandbox.IP+":8080/"),
		"one by the machine's port":    get(t, "http://127.0.0.1"+at),
		"one by its node's first":      get(t, "http://"+gatewayA+at),
		"one by that port from two":    b.exec(two.ID, "-get", "http://"+gatewayB+at, "-exit", "0"),
		"one by that port from itself": a.exec(one.ID, "-get", "http://"+gatewayA+at, "-exit", "0"),
	} {
		want, _, _ := strings.Cut(what, " ")
		if strings.TrimSpace(got) != want {
			t.Errorf("%s: %q", what, got)
		}
	}
	for file, want := range map[string]string{
		"/etc/hosts": "\n" + sandbox.IP + "\tone\n10.1.2.3\talias\n", "/etc/hostname": "one", "/etc/resolv.conf": "search example\nnameserver 10.1.2.4\n",
		"/proc/sys/net/ipv4/ip_unprivileged_port_start": "81", "/proc/sys/kernel/shm_rmid_forced": "1",
	} {
		if got := a.exec(one.ID, "-print", file, "-exit", "0"); !strings.Contains(got, want) {
			t.Errorf("%s is %q", file, got)
		}
	}
	t.Run("a port of the machine is one pod's", func(t *testing.T) {
		_, err := b.CreateSandbox(t.Context(), container.Sandbox{Name: e.Name("late"), Ports: []container.Port{{ContainerPort: 1, HostPort: int32(port)}}})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint("hostPort ", port)) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a sandbox that has lost its cable runs no more", func(t *testing.T) {
		if out, err := exec.Command("nsenter", "-t", pid(t, e, two.ID), "-n", "ip", "link", "del", "eth0").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if c, err := b.Inspect(t.Context(), other.ID); err != nil || c.State != container.StateExited {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

func pid(t *testing.T, e *testdocker.Engine, id string) string {
	t.Helper()
	out, err := exec.Command("docker", "inspect", "-f", "{{.State.Pid}}", id).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestAddressesOutliveTheAgentAndComeBack(t *testing.T) {
	requireRoot(t)
	e := testdocker.Require(t)
	b := start(t, e, "b")
	first := map[string]string{}
	for _, name := range []string{"1", "2", "3", "4", "5"} { // all that a /29 has
		c := b.sandbox(e, name)
		first[c.IP] = c.ID
	}
	if len(first) != 5 {
		t.Fatalf("five sandboxes have the addresses %v", slices.Sorted(maps.Keys(first)))
	}
	full := func(n *node) {
		t.Helper()
		if _, err := n.CreateSandbox(t.Context(), container.Sandbox{Name: e.Name("6"), Labels: labels(e, "b")}); err == nil || !strings.Contains(err.Error(), "has no address left") {
			t.Errorf("error %v", err)
		}
	}
	full(b)
	b.stop()
	// What an agent that is killed leaves: a sandbox without a cable.
	unconnected, err := e.CreateSandbox(t.Context(), container.Sandbox{Name: e.Name("half"), Bare: true, Labels: map[string]string{"orch.test/node": "b", network.LabelIP: peers[1].Subnet.Addr().Next().Next().String()}})
	if err != nil {
		t.Fatal(err)
	}
	b = start(t, e, "b")
	full(b)
	if c, err := b.Inspect(t.Context(), unconnected.ID); err != nil || c.State != container.StateExited {
		t.Errorf("a sandbox that was not connected: %+v, %v", c, err)
	}
	if err := b.Remove(t.Context(), unconnected.ID); err != nil {
		t.Error(err)
	}
	full(b) // its address is another's
	for ip, id := range first {
		if c, err := b.Inspect(t.Context(), id); err != nil || c.State != container.StateRunning || c.IP != ip {
			t.Errorf("%+v, %v", c, err)
		}
		if err := b.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
		if again := b.sandbox(e, "again-"+ip); again.IP != ip {
			t.Errorf("%s was free, and %s was given", ip, again.IP)
		}
	}
}

func TestNothingIsLeftOfANodeThatIsRemovedAndOthersAreNotTouched(t *testing.T) {
	requireRoot(t)
	e := testdocker.Require(t)
	image := testimage.Build(t, e)
	a, b := start(t, e, "a"), start(t, e, "b")
	one := b.sandbox(e, "one")
	b.listen(e, image, one, "still-here")
	look := func(node string) string {
		out, err := exec.Command("sh", "-c", "ip link; ip route; iptables-save 2>/dev/null").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(slices.DeleteFunc(strings.Split(string(out), "\n"), func(line string) bool {
			return !strings.Contains(line, native.Mark(e.Run, node))
		}), "\n")
	}
	if look("a") == "" {
		t.Error("nothing of node a is found, though it runs")
	}
	a.stop()
	if err := native.Remove(e.Run, "a"); err != nil {
		t.Error(err)
	}
	if left := look("a"); left != "" {
		t.Errorf("left:\n%s", left)
	}
	if got := get(t, "http://"+one.IP+":8080/"); got != "still-here" {
		t.Errorf("the other node's pod says %q", got)
	}
}

// The suite of the contract of engines, whose sandboxes have this network.
func TestRuntime(t *testing.T) {
	requireRoot(t)
	e := testdocker.Require(t)
	registry, login := testregistry.Start(t), container.Login{Username: "me", Password: "secret"}
	private, _ := registry.Push(e, "private", "1")
	registry.Require(login)
	a := start(t, e, "a")
	containertest.Run(t, containertest.Subject{
		Connect: func(t *testing.T) container.Runtime {
			runtime, err := docker.New("")
			if err != nil {
				t.Fatal(err)
			}
			return network.Wrap(runtime, a.network)
		},
		Image:        testimage.Build(t, e),
		MissingImage: "localhost:1/does-not-exist:1", // refused at once, with and without a network
		PrivateImage: private,
		Login:        login,
		Labels:       labels(e, "a"),
		Name:         e.Name,
	})
}
