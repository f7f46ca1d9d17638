package testcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"orch/pkg/agent"
	"orch/pkg/agent/eviction"
	"orch/pkg/agent/volume"
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

	// turn has room for one who looks at what follows or changes it: a lock for
	// which one may wait while virtual time goes on.
	turn chan struct{}
	on   bool   // an agent is to run, and if it crashed, then again
	stop func() // nil while no agent runs
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }

func nodeAddress(i int) string { return fmt.Sprintf("192.168.%d.%d", i/250, i%250+1) }

// streamsAddress is where the agent of the node with the index i serves.
func streamsAddress(i int) string {
	return net.JoinHostPort(nodeAddress(i), strconv.Itoa(streamsPort))
}

func (c *Cluster) newNode(i int) *Node {
	n := &Node{Name: nodeName(i), c: c, address: nodeAddress(i), turn: make(chan struct{}, 1)}
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

// JournalOfFaults is the folder of what is broken on the node on purpose.
func (n *Node) JournalOfFaults() string { return filepath.Join(n.dataDir, "faults") }

// Start starts the node's agent, as after a crash: what it knows is what the
// engine and the API server tell it. Where one runs, that is enough.
func (n *Node) Start() {
	n.c.t.Helper()
	defer n.take()()
	n.on = true
	n.start()
}

// take waits for the turn, and returns what gives it back.
func (n *Node) take() func() {
	n.turn <- struct{}{}
	return func() { <-n.turn }
}

func (n *Node) start() {
	if n.stop != nil {
		return
	}
	thresholds, err := eviction.Parse(eviction.Default)
	if err != nil {
		n.c.t.Error(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	link := n.c.dial("nodeagent/"+n.Name, n.Name)
	a, err := agent.New(agent.Options{
		NodeName: n.Name, ClusterID: n.c.id, Client: link, Runtime: n.Engine,
		DataDir: n.dataDir, FaultDir: n.JournalOfFaults(),
		Crash: func(down time.Duration) error {
			cancel()
			go n.crash(down)
			return nil
		},
		Address: n.address, StreamsPort: streamsPort, Version: "test",
		Thresholds: thresholds, PressureTransition: 5 * time.Minute, Logger: n.c.logger,
	})
	if err != nil {
		n.c.t.Error(err)
		return
	}
	l := bufconn.Listen(1 << 20)
	streams := grpc.NewServer()
	v1.RegisterStreamsServer(streams, a)
	n.listenAt(l)

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

// Stop ends the node's agent, as a crash does: containers go on. But what it has
// broken on purpose, it heals.
func (n *Node) Stop() {
	defer n.take()()
	n.on = false
	n.end()
}

func (n *Node) end() {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
}

// crash is the end of an agent that asked for it, and the next one's beginning.
func (n *Node) crash(down time.Duration) {
	locked := func(f func()) { defer n.take()(); f() }
	locked(n.end)
	<-time.After(down)
	locked(func() {
		if n.on {
			n.start()
		}
	})
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
