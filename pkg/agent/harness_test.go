package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"orch/pkg/agent"
	"orch/pkg/agent/fault"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/agent/volume"
	"orch/pkg/api"
	"orch/pkg/api/podsecurity"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) {
	// An agent starts its own program again to stress a container.
	if len(os.Args) > 1 && os.Args[1] == fault.StressCommand {
		if err := fault.Stress(os.Args[2:], os.Stdin); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// cluster is an API server in memory with agents. In a synctest bubble its time
// is virtual.
type cluster struct {
	t     *testing.T
	store *memstore.Store
	log   *bytes.Buffer

	mu       sync.Mutex // guards listener, which dialers read
	listener *bufconn.Listener
	stop     func() // the API server

	patience time.Duration // virtual in a bubble

	client *client.Client
	pods   client.Resource[*v1.Pod]
	id     string

	dataDir  string // of the agents
	faultDir string
	crash    func(time.Duration) error
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, store: memstore.New(), log: &bytes.Buffer{}, patience: 3 * time.Minute, dataDir: t.TempDir(), faultDir: t.TempDir()}
	c.startServer()
	var err error
	c.client, err = client.Dial("passthrough:///test", "test", grpc.WithContextDialer(c.dial))
	if err != nil {
		t.Fatal(err)
	}
	c.pods = client.For[*v1.Pod](c.client)
	spaces := client.For[*v1.Namespace](c.client)
	ns, err := spaces.Get(t.Context(), "", api.NamespaceSystem)
	if err != nil {
		t.Fatal(err)
	}
	// What an agent does is tested here, not what its namespace lets through.
	if _, err := spaces.Modify(t.Context(), "", api.NamespaceDefault, func(n *v1.Namespace) error {
		n.Metadata.Labels[podsecurity.LabelEnforce] = podsecurity.Privileged
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c.id = ns.GetMetadata().GetUid()
	t.Cleanup(func() {
		_ = c.client.Close()
		c.stop()
		if err := errors.Join(c.store.Close(), volume.RemoveTree(c.dataDir, nil)); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of the agents:\n%s", c.log)
		}
	})
	return c
}

func (c *cluster) dial(ctx context.Context, _ string) (net.Conn, error) {
	c.mu.Lock()
	l := c.listener
	c.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	return l.DialContext(ctx)
}

// startServer begins to serve the store.
func (c *cluster) startServer() {
	c.t.Helper()
	server, err := apiserver.New(c.store, apiserver.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	c.mu.Lock()
	c.listener = l
	c.mu.Unlock()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.ServeInner(context.Background(), l)
	}()
	c.stop = sync.OnceFunc(func() {
		c.mu.Lock()
		c.listener = nil
		c.mu.Unlock()
		server.Stop()
		<-served
	})
}

// node is an agent on an engine.
type node struct {
	*agent.Agent
	kill func() // ends the agent; containers go on
}

// start runs an agent of the node.
func (c *cluster) start(name string, r container.Runtime) *node {
	c.t.Helper()
	level := slog.HandlerOptions{Level: slog.LevelDebug}
	a, err := agent.New(agent.Options{
		NodeName: name, ClusterID: c.id, Client: c.client.As("nodeagent/" + name), Runtime: r,
		DataDir: c.dataDir, FaultDir: filepath.Join(c.faultDir, name), Crash: c.crash,
		Address: "127.0.0.1", StreamsPort: 1, Version: "test",
		Logger: slog.New(slog.NewTextHandler(&lockedWriter{w: c.log, mu: &c.mu}, &level)),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	n := &node{Agent: a}
	n.kill = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("agent %s: %v", name, err)
		}
	})
	c.t.Cleanup(n.kill)
	return n
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// bubble runs a test in virtual time, on a fake engine.
func bubble(t *testing.T, o fake.Options, f func(t *testing.T, c *cluster, engine *fake.Engine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		engine := fake.New(o)
		t.Cleanup(engine.Shutdown)
		c := newCluster(t)
		c.patience = 24 * time.Hour
		f(t, c, engine)
	})
}

// pod returns a pod of one container on node n1.
func pod(name string, changes ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: &v1.PodSpec{
			NodeName: "n1", TerminationGracePeriodSeconds: proto.Int64(30),
			Containers: []*v1.Container{{Name: "app", Image: "img:1"}},
		},
	}
	for _, change := range changes {
		change(p)
	}
	return p
}

func onNode(name string) func(*v1.Pod)   { return func(p *v1.Pod) { p.Spec.NodeName = name } }
func withImage(ref string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Containers[0].Image = ref } }

func withPolicy(name string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.RestartPolicy = name } }

func withSidecar(image string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, &v1.Container{Name: "side", Image: image})
	}
}

func (c *cluster) create(p *v1.Pod) *v1.Pod {
	c.t.Helper()
	made, err := c.pods.Create(c.t.Context(), p)
	if err != nil {
		c.t.Fatal(err)
	}
	return made
}

func (c *cluster) get(name string) *v1.Pod {
	c.t.Helper()
	p, err := c.pods.Get(c.t.Context(), "default", name)
	if err != nil && !errors.Is(err, api.ErrNotFound) {
		c.t.Fatal(err)
	}
	return p
}

func (c *cluster) delete(name string, grace *int64) {
	c.t.Helper()
	if _, err := c.pods.Delete(c.t.Context(), "default", name, client.DeleteOptions{GracePeriodSeconds: grace}); err != nil && !errors.Is(err, api.ErrNotFound) {
		c.t.Fatal(err)
	}
}

// until waits until the pod is as wanted and returns it. It watches: real time
// is needed for real engines, virtual time goes on by itself.
func (c *cluster) until(name, what string, ok func(*v1.Pod) bool) *v1.Pod {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), c.patience)
	defer cancel()
	var last *v1.Pod
	for e, err := range c.pods.Watch(ctx, client.WatchOptions{Namespace: "default", FieldSelector: "metadata.name=" + name, Wait: true}) {
		switch {
		case err != nil:
			c.t.Fatalf("waiting until pod %s is %s: %v; it is\n%v", name, what, err, last.GetStatus())
		case e.Type == v1.WatchEvent_TYPE_DELETED:
			last = nil
		case e.Object != nil:
			last = e.Object
		}
		if e.Type != v1.WatchEvent_TYPE_BOOKMARK && ok(last) {
			return last
		}
	}
	return nil
}

func running(p *v1.Pod) bool { return api.IsPodReady(p) }
func gone(p *v1.Pod) bool    { return p == nil }

// status is the state of one container of the pod.
func status(p *v1.Pod, name string) *v1.ContainerStatus {
	for _, s := range p.GetStatus().GetContainerStatuses() {
		if s.GetName() == name {
			return s
		}
	}
	return nil
}

func restarted(times int32) func(*v1.Pod) bool {
	return func(p *v1.Pod) bool {
		s := status(p, "app")
		return s.GetState().GetRunning() != nil && s.GetRestartCount() == times
	}
}

func waitingFor(reason string) func(*v1.Pod) bool {
	return func(p *v1.Pod) bool { return status(p, "app").GetState().GetWaiting().GetReason() == reason }
}

// containers lists what the engine has of the cluster, as "pod/container#attempt
// state", sorted.
func (c *cluster) containers(r container.Runtime) []string {
	c.t.Helper()
	list, err := r.List(c.t.Context(), map[string]string{lifecycle.LabelCluster: c.id})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, x := range list {
		parsed, key, _, ok := lifecycle.Parse(x)
		if !ok {
			c.t.Errorf("container %s has labels that say nothing: %v", x.Name, x.Labels)
		}
		out = append(out, fmt.Sprintf("%s/%s#%d %s", key.Name, parsed.Name, parsed.Attempt, x.State))
	}
	slices.Sort(out)
	return out
}

// id is the id of the container's newest attempt in the pod's status.
func id(p *v1.Pod, name string) string {
	_, id, _ := strings.Cut(status(p, name).GetContainerId(), "://")
	return id
}

// expect compares the cluster's containers with what they should be.
func (c *cluster) expect(r container.Runtime, want ...string) {
	c.t.Helper()
	got := c.containers(r)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		c.t.Errorf("containers (-want +got):\n%s", diff)
	}
}

// find returns the id of the newest container of this name.
func (c *cluster) find(r container.Runtime, pod, name string) (id string) {
	c.t.Helper()
	list, err := r.List(c.t.Context(), map[string]string{lifecycle.LabelCluster: c.id, lifecycle.LabelPodName: pod})
	if err != nil {
		c.t.Fatal(err)
	}
	newest := -1
	for _, x := range list {
		if parsed, _, _, _ := lifecycle.Parse(x); parsed.Name == name && parsed.Attempt > newest {
			newest, id = parsed.Attempt, x.ID
		}
	}
	return id
}

// untilNode waits until the node's condition Ready has this status.
func (c *cluster) untilNode(name, ready string) *v1.Node {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), c.patience)
	defer cancel()
	for e, err := range client.For[*v1.Node](c.client).Watch(ctx, client.WatchOptions{FieldSelector: "metadata.name=" + name, Wait: true}) {
		if err != nil {
			c.t.Fatalf("waiting until node %s has Ready=%s: %v", name, ready, err)
		}
		if e.Object != nil && e.Type != v1.WatchEvent_TYPE_DELETED && api.GetCondition(e.Object.GetStatus().GetConditions(), api.NodeReady).GetStatus() == ready {
			return e.Object
		}
	}
	return nil
}
