package testcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"orch/pkg/agent"
	"orch/pkg/agent/eviction"
	"orch/pkg/agent/volume"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	v1 "orch/proto/v1"
)

// streamsPort is where agents serve logs and exec: the kubelet's port.
const streamsPort = 10250

// Node is a machine: an engine, and the agent on it.
//
// Concurrency: its methods are for the goroutine of the test.
type Node struct {
	Name string
	// Engine lives on when the agent is stopped.
	Engine *fake.Engine
	// Link connects the node with the API server.
	Link *Link

	c       *Cluster
	address string
	dataDir string
	stop    func() // nil while no agent runs
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }

func nodeAddress(i int) string { return fmt.Sprintf("192.168.%d.%d", i/250, i%250+1) }

// streamsAddress is where the agent of the node with the index i serves.
func streamsAddress(i int) string {
	return net.JoinHostPort(nodeAddress(i), strconv.Itoa(streamsPort))
}

func (c *Cluster) newNode(i int) *Node {
	n := &Node{Name: nodeName(i), c: c, address: nodeAddress(i)}
	n.Link = c.links[n.Name]
	var o fake.Options
	if c.options.Engine != nil {
		o = c.options.Engine(n.Name)
	}
	n.Engine = fake.New(o)
	n.dataDir = c.t.TempDir()
	c.t.Cleanup(func() {
		if err := volume.RemoveTree(n.dataDir, nil); err != nil {
			c.t.Error(err)
		}
	})
	c.t.Cleanup(n.Engine.Shutdown)
	c.t.Cleanup(n.Stop)
	return n
}

// Start starts the node's agent, as after a crash: what it knows is what the
// engine and the API server tell it. Where one runs, that is enough.
func (n *Node) Start() {
	n.c.t.Helper()
	if n.stop != nil {
		return
	}
	system, err := client.For[*v1.Namespace](n.c.client).Get(n.c.t.Context(), "", api.NamespaceSystem)
	if err != nil {
		n.c.t.Fatal(err)
	}
	thresholds, err := eviction.Parse(eviction.Default)
	if err != nil {
		n.c.t.Fatal(err)
	}
	link := n.c.dial("nodeagent/"+n.Name, n.Name)
	a, err := agent.New(agent.Options{
		NodeName: n.Name, ClusterID: system.GetMetadata().GetUid(), Client: link, Runtime: n.Engine,
		DataDir: n.dataDir,
		Address: n.address, StreamsPort: streamsPort, Version: "test",
		Thresholds: thresholds, PressureTransition: 5 * time.Minute, Logger: n.c.logger,
	})
	if err != nil {
		n.c.t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	streams := grpc.NewServer()
	v1.RegisterStreamsServer(streams, a)
	n.listenAt(l)

	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error {
		defer context.AfterFunc(ctx, streams.Stop)()
		return streams.Serve(l)
	})
	n.stop = func() {
		cancel()
		if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			n.c.t.Errorf("agent of %s: %v", n.Name, err)
		}
		n.listenAt(nil)
		_ = link.Close()
	}
}

func (n *Node) listenAt(l *bufconn.Listener) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.c.agents[net.JoinHostPort(n.address, strconv.Itoa(streamsPort))] = l
}

// Stop ends the node's agent, as a crash does: containers go on.
func (n *Node) Stop() {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
}

// Restart is Stop and Start.
func (n *Node) Restart() {
	n.c.t.Helper()
	n.Stop()
	n.Start()
}

// Containers are the containers of pods that run on the node, sandboxes not
// among them, by the name of the image.
func (n *Node) Containers() []container.Container {
	n.c.t.Helper()
	all, err := n.Engine.List(n.c.t.Context(), map[string]string{"orch.dev/kind": "container"})
	if err != nil {
		n.c.t.Fatal(err)
	}
	var running []container.Container
	for _, c := range all {
		if c.State == container.StateRunning {
			running = append(running, c)
		}
	}
	return running
}
