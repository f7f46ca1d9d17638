package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orch/internal/testlog"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/identity"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" { // a process of its own, for tests that kill it
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--token=abc --data-dir=x":              "--token: it is not a token",
		"--token=a --token-file=b --data-dir=x": "--token and --token-file: want one of them",
		"--node-name=n":                         "--data-dir is required",
		"--runtime=podman --data-dir=x":         `--runtime "podman": want docker or fake`,
		"--capacity=cpu=lots --data-dir=x":      "--capacity cpu=lots: want a quantity such as 2, 500m or 4Gi",
		"--log-format=xml --data-dir=x":         `--log-format "xml": want text or json`,
		"n1":                                    `unknown argument "n1": see --help`,
		"--node-name=":                          "--node-name is required: the machine has no host name to take instead",
		"--log-level=chatterbox":                "unknown name",
		"--eviction-hard=disk<1% --data-dir=x":  "--eviction-hard: unsupported eviction signal disk",
		"--system-reserved=pid=9 --data-dir=x":  `--system-reserved pid: cannot reserve "pid" resource`,
		"--kube-reserved=cpu=all --data-dir=x":  "--kube-reserved cpu=all: want a quantity such as 200m or 500Mi",
	} {
		err := run(t.Context(), strings.Fields(args), &bytes.Buffer{}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", args, err, want)
		}
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--version"}, &out, &bytes.Buffer{}); err != nil || !strings.HasPrefix(out.String(), "nodeagent dev (go") {
		t.Errorf("%q, %v", &out, err)
	}
}

// server is an API server with an authority, on a store of its own.
type server struct {
	*apiserver.Server
	t *testing.T
	// authority issues, beside the server's own, certificates that live for an hour.
	authority *identity.Authority
	address   string
	admin     *client.Client
}

// newServer is one whose certificates live as long as lifetime.
func newServer(t *testing.T, lifetime time.Duration) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	store, dir := memstore.New(), t.TempDir()
	authority, err := identity.OpenAuthority(dir, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	lasting, err := identity.OpenAuthority(dir, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, authority: lasting, address: l.Addr().String()}
	if s.Server, err = apiserver.New(store, apiserver.Options{Authority: authority}); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l) }()
	s.admin = s.dial(identity.User{Name: "admin", Groups: []string{identity.GroupMasters}})
	t.Cleanup(func() {
		testlog.Invariants(t, s.admin, 0, 0) // all agents have stopped
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		store.Close()
	})
	return s
}

// dial connects as a user.
func (s *server) dial(u identity.User) *client.Client {
	s.t.Helper()
	pair, err := identity.NewPair(s.t.Context(), "", s.authority.For(u))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := client.Dial(s.address, "test", client.TLS(identity.DialTLS(identity.ServerName, pair, s.authority.Certificate())))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

func (s *server) token(lifetime time.Duration) string {
	s.t.Helper()
	token, secret := identity.NewToken(s.authority.Certificate(), time.Now().Add(lifetime))
	if _, err := client.For[*v1.Secret](s.admin).Create(s.t.Context(), secret); err != nil {
		s.t.Fatal(err)
	}
	return token
}

// setSubnet gives a node, as soon as it is there, the addresses of its pods.
func (s *server) setSubnet(name, subnet string) {
	s.t.Helper()
	nodes := client.For[*v1.Node](s.admin)
	for e, err := range nodes.Watch(s.t.Context(), client.WatchOptions{FieldSelector: "metadata.name=" + name}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if e.Object != nil {
			n := api.Clone(e.Object)
			n.Metadata.ResourceVersion = 0
			n.Spec = &v1.NodeSpec{PodCidr: subnet}
			if _, err := nodes.Update(s.t.Context(), n); err != nil {
				s.t.Fatal(err)
			}
			return
		}
	}
}

// labels are on all containers of the cluster.
func (s *server) labels() map[string]string {
	s.t.Helper()
	system, err := client.For[*v1.Namespace](s.admin).Get(s.t.Context(), "", api.NamespaceSystem)
	if err != nil {
		s.t.Fatal(err)
	}
	return map[string]string{lifecycle.LabelCluster: system.GetMetadata().GetUid()}
}

// process is a run of main.
type process struct {
	dir   string
	ended chan struct{} // closed when err is what it ended with
	err   error
	stop  context.CancelFunc
}

func (s *server) agent(name, dir string, more ...string) *process {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	a := &process{dir: dir, ended: make(chan struct{}), stop: cancel}
	args := append([]string{"--server", s.address, "--node-name", name, "--data-dir", dir, "--runtime", "fake", "--capacity", "cpu=2,pods=5", "--log-level", "error"}, more...)
	go func() {
		defer close(a.ended)
		a.err = run(ctx, args, io.Discard, os.Stderr)
	}()
	s.t.Cleanup(func() { cancel(); <-a.ended })
	return a
}

// wait returns what the agent ended with.
func (a *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-a.ended:
		a.stop()
		return a.err
	case <-time.After(2 * time.Minute):
		t.Fatal("the agent does not end")
		return nil
	}
}

// ready waits until a node is ready, and returns it.
func (s *server) ready(name string) *v1.Node {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	for e, err := range client.For[*v1.Node](s.admin).Watch(ctx, client.WatchOptions{FieldSelector: "metadata.name=" + name}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if e.Object != nil && api.IsNodeReady(e.Object) {
			return e.Object
		}
	}
	s.t.Fatal("the node is not ready")
	return nil
}

func TestAMachineJoinsByATokenAndStopsWhenAsked(t *testing.T) {
	s := newServer(t, time.Hour)
	dir := filepath.Join(t.TempDir(), "made", "here")
	begin := time.Now()
	a := s.agent("n1", dir, "--token", s.token(time.Hour))
	n := s.ready("n1")
	t.Logf("from start to Ready: %v", time.Since(begin))
	if got := n.GetStatus().GetCapacity(); got["cpu"] != "2" || got["pods"] != "5" || got["memory"] == "" {
		t.Errorf("capacity %v", got)
	}
	a.stop()
	if err := a.wait(t); err != nil {
		t.Error(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Errorf("%v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
	if err := s.agent("n2", dir).wait(t); err == nil || !strings.Contains(err.Error(), `is that of node "n1"`) {
		t.Errorf("under another name than the certificate's: %v", err)
	}

	// The second time it needs no token.
	again := s.agent("n1", dir, "--token-file", filepath.Join(dir, "removed"), "--listen", "0.0.0.0:0")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for e, err := range client.For[*v1.Node](s.admin).Watch(ctx, client.WatchOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Object.GetStatus().GetDaemonEndpoints().GetKubeletEndpoint().GetPort() != n.GetStatus().GetDaemonEndpoints().GetKubeletEndpoint().GetPort() && e.Object != nil {
			if at := e.Object.GetStatus().GetAddresses()[0].GetAddress(); at != "127.0.0.1" {
				t.Errorf("who listens everywhere is reached at %s, not where the way to the API server begins", at)
			}
			break
		}
	}
	again.stop()
	if err := again.wait(t); err != nil {
		t.Error(err)
	}
}

func TestWhoHasNoRightToJoinIsTold(t *testing.T) {
	s, other := newServer(t, time.Hour), newServer(t, time.Hour)
	good := s.token(time.Hour)
	joined := t.TempDir()
	a := s.agent("n1", joined, "--token", good)
	s.ready("n1")
	defer func() {
		a.stop()
		_ = a.wait(t)
	}()
	for name, tt := range map[string]struct {
		node, dir string
		args      []string
		want      string
	}{
		"no token":                         {"n2", "", nil, "this machine has not joined a cluster"},
		"an expired token":                 {"n2", "", []string{"--token", s.token(-time.Second)}, "the token is not valid"},
		"a token that was never made":      {"n2", "", []string{"--token", "aaaaaa.bbbbbbbbbbbbbbbb" + good[23:]}, "the token is not valid"},
		"a token of another cluster":       {"n2", "", []string{"--token", other.token(time.Hour)}, "its CA has another hash"},
		"the name of a node that is there": {"n1", "", []string{"--token", good}, `a Node with name "n1" and status "Ready" already exists`},
		"a name that no node can have":     {"N_2", "", []string{"--token", good}, "metadata.name"},
		"the folder of an agent that runs": {"n1", joined, nil, "a node agent runs on " + joined},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.dir == "" {
				tt.dir = t.TempDir()
			}
			err := s.agent(tt.node, tt.dir, tt.args...).wait(t)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v; want %q", err, tt.want)
			}
		})
	}
}

func TestARevokedNodeIsOutAtOnceAndNobodyElseNotices(t *testing.T) {
	s := newServer(t, time.Hour)
	token, dir := s.token(time.Hour), t.TempDir()
	a := s.agent("n1", dir, "--token", token)
	b := s.agent("n2", t.TempDir(), "--token", token)
	uid := s.ready("n1").GetMetadata().GetUid()
	s.ready("n2")

	// What n1's own watch hears, and one of n2's that must not be disturbed.
	mine, _ := s.watch("n1", dir)
	theirs, _ := s.watch("n2", b.dir)

	if _, err := client.For[*v1.Node](s.admin).Delete(t.Context(), "", "n1", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := mine.Recv(); !errors.Is(api.FromStatus(err), api.ErrUnauthorized) {
		t.Errorf("the open watch of the revoked node: %v", err)
	}
	if err := a.wait(t); err == nil || !strings.Contains(err.Error(), "was removed from the cluster") {
		t.Errorf("the agent ended with %v", err)
	}
	if err := s.agent("n1", dir).wait(t); err == nil || !strings.Contains(err.Error(), "join again with a token") {
		t.Errorf("started again, it ended with %v", err)
	}
	pod := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: "p", Namespace: "default"},
		Spec:     &v1.PodSpec{NodeName: "n2", Containers: []*v1.Container{{Name: "c", Image: "i:1"}}},
	}
	if _, err := client.For[*v1.Pod](s.admin).Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if e, err := theirs.Recv(); err != nil || e.GetObject().GetPod().GetMetadata().GetName() != "p" {
		t.Errorf("the other node's watch: %v, %v", e, err)
	}

	// With a token, it is a node again: another one of the same name.
	back := s.agent("n1", dir, "--token", token)
	if n := s.ready("n1"); n.GetMetadata().GetUid() == uid {
		t.Error("the node came back as it was")
	}
	for _, x := range []*process{back, b} {
		x.stop()
		if err := x.wait(t); err != nil {
			t.Error(err)
		}
	}
}

// watch watches the pods of a node with the certificate in dir.
func (s *server) watch(name, dir string) (v1.Resources_WatchClient, *client.Client) {
	s.t.Helper()
	pair, err := identity.LoadPair(filepath.Join(dir, pairFile))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := client.Dial(s.address, name, client.TLS(identity.DialTLS(identity.ServerName, pair, s.authority.Certificate())))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return s.watchAs(c, "spec.nodeName="+name), c
}

// watchAs watches the pods that a field selector selects, of which there are none.
func (s *server) watchAs(c *client.Client, fields string) v1.Resources_WatchClient {
	s.t.Helper()
	w, err := c.Resources().Watch(s.t.Context(), &v1.WatchRequest{Kind: "Pod", FieldSelector: fields})
	if err != nil {
		s.t.Fatal(err)
	}
	if e, err := w.Recv(); err != nil || e.GetType() != v1.WatchEvent_TYPE_SYNCED {
		s.t.Fatalf("%v, %v", e, err)
	}
	return w
}
