package testcluster_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"orch/internal/testcluster"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
	"orch/pkg/controller"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		_ = flag.Set("rapid.checks", "10")
	}
	goleak.VerifyTestMain(m)
}

// story runs f with a cluster in virtual time.
func story(t *testing.T, nodes int, f func(t *testing.T, c *testcluster.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := testcluster.Start(t, testcluster.Options{Nodes: nodes, Patience: 15 * time.Minute})
		f(t, c)
		c.CheckInvariants()
	})
}

const web = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector:
    matchLabels:
      app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - name: web
        image: web:1
`

func deployed(t *testing.T, c *testcluster.Cluster) {
	t.Helper()
	c.Apply(web)
	c.Eventually("three pods are ready", func() bool { return len(c.Ready("app=web")) == 3 })
}

// oneOf is a container that runs on the node.
func oneOf(t *testing.T, n *testcluster.Node) container.Container {
	t.Helper()
	running := n.Containers()
	if len(running) == 0 {
		t.Fatalf("no container runs on %s", n.Name)
	}
	return running[0]
}

func TestADeploymentBecomesContainers(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		c.Eventually("the deployment says so", func() bool {
			d, err := client.For[*v1.Deployment](c.Client()).Get(t.Context(), "default", "web")
			if err != nil {
				t.Fatal(err)
			}
			return d.GetStatus().GetAvailableReplicas() == 3
		})
		for i := range 3 {
			if n := len(c.Node(i).Containers()); n != 1 {
				t.Errorf("%d containers run on %s", n, c.Node(i).Name)
			}
		}
	})
}

// ids are the containers of all nodes.
func ids(c *testcluster.Cluster, nodes int) map[string]bool {
	all := map[string]bool{}
	for i := range nodes {
		for _, x := range c.Node(i).Containers() {
			all[x.ID] = true
		}
	}
	return all
}

func TestAKilledContainerComesBack(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		killed := oneOf(t, c.Node(1))
		if err := c.Runtime(1).Kill(t.Context(), killed.ID, "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.Eventually("another container runs on the node, in the same pod", func() bool {
			now := c.Node(1).Containers()
			return len(now) == 1 && now[0].ID != killed.ID
		})
		c.Eventually("the pod says that it was restarted, and is ready", func() bool {
			ready := c.Ready("app=web")
			restarts := int32(0)
			for _, p := range ready {
				restarts += p.GetStatus().GetContainerStatuses()[0].GetRestartCount()
			}
			return len(ready) == 3 && restarts == 1
		})
	})
}

func TestADeletedPodIsReplaced(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		gone := c.Ready("app=web")[0].GetMetadata()
		_, err := client.For[*v1.Pod](c.Client()).Delete(t.Context(), gone.GetNamespace(), gone.GetName(), client.DeleteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Eventually("three pods are ready and the old one is gone, with its container", func() bool {
			for _, p := range c.Pods("") {
				if p.GetMetadata().GetUid() == gone.GetUid() {
					return false
				}
			}
			return len(c.Ready("app=web")) == 3 && len(ids(c, 2)) == 3
		})
	})
}

func TestARestartOfTheAPIServerTouchesNoContainer(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		before := ids(c, 3)
		c.StopAPIServer()
		killed := oneOf(t, c.Node(0))
		if err := c.Runtime(0).Kill(t.Context(), killed.ID, "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		for range 60 { // the agents heal without an API server
			time.Sleep(time.Second)
			if len(c.Node(0).Containers()) == 1 {
				break
			}
		}
		healed := ids(c, 3)
		if len(healed) != 3 || healed[killed.ID] {
			t.Errorf("without an API server, %d containers run", len(healed))
		}
		c.StartAPIServer()
		c.Eventually("what happened meanwhile is known", func() bool {
			restarts := int32(0)
			for _, p := range c.Ready("app=web") {
				restarts += p.GetStatus().GetContainerStatuses()[0].GetRestartCount()
			}
			return restarts == 1
		})
		scale(t, c, 4)
		c.Eventually("the cluster works as before", func() bool { return len(c.Ready("app=web")) == 4 })
		untouched := 0
		for id := range ids(c, 3) {
			if before[id] {
				untouched++
			}
		}
		if untouched != 2 {
			t.Errorf("%d of the containers that ran before run still, want 2", untouched)
		}
	})
}

func TestARestartOfAnAgentTouchesNoContainer(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		before := ids(c, 2)
		c.Node(0).Stop()
		dead := oneOf(t, c.Node(0))
		if err := c.Runtime(0).Kill(t.Context(), dead.ID, "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.Node(0).Start()
		c.Eventually("what ended meanwhile runs again", func() bool { return len(ids(c, 2)) == 3 && len(c.Ready("app=web")) == 3 })
		after := ids(c, 2)
		for id := range before {
			if id != dead.ID && !after[id] {
				t.Errorf("container %s was touched", id)
			}
		}
	})
}

func TestASidecarStandsByAJobWhateverDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var moved atomic.Bool // what the init container waits for
		engine := func(string) fake.Options {
			return fake.Options{Programs: map[string]fake.Program{
				"migrate:1": func(ctx context.Context, p *fake.Process) int {
					if moved.Load() {
						return 0
					}
					return faketest.ExitAfter(time.Second, 1)(ctx, p)
				},
				"job:1": faketest.ExitAfter(10*time.Minute, 0),
			}}
		}
		c := testcluster.Start(t, testcluster.Options{Patience: 15 * time.Minute, Engine: engine})
		c.Apply(`
apiVersion: v1
kind: Pod
metadata:
  name: job
spec:
  restartPolicy: OnFailure
  initContainers:
  - {name: proxy, image: proxy:1, restartPolicy: Always}
  - {name: migrate, image: migrate:1}
  containers:
  - {name: job, image: job:1}
`)
		runs := func(image string) (found *container.Container) {
			for _, x := range c.Node(0).Containers() {
				if x.Image == image {
					found = &x
				}
			}
			return found
		}
		status := func() *v1.PodStatus { return c.Pods("")[0].GetStatus() }
		c.Eventually("the init container has failed twice beside its sidecar", func() bool {
			s := status().GetInitContainerStatuses()
			return len(s) == 2 && s[1].GetRestartCount() >= 2 && runs("proxy:1") != nil
		})
		if runs("job:1") != nil || status().GetPhase() != api.PodPending {
			t.Errorf("it is %s before it is prepared", status().GetPhase())
		}
		moved.Store(true)
		c.Eventually("the job runs", func() bool { return runs("job:1") != nil && api.IsPodReady(c.Pods("")[0]) })
		job, proxy := runs("job:1").ID, runs("proxy:1").ID

		c.Node(0).Stop()
		if err := c.Runtime(0).Kill(t.Context(), proxy, "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.Node(0).Start()
		c.Eventually("another sidecar stands by", func() bool {
			s := status().GetInitContainerStatuses()[0]
			return runs("proxy:1") != nil && s.GetRestartCount() == 1 && s.GetReady()
		})
		if now := runs("job:1"); now == nil || now.ID != job {
			t.Errorf("the job was touched: %v", now)
		}
		c.Eventually("the job is done, and the sidecar did not keep its pod", func() bool {
			return status().GetPhase() == api.PodSucceeded && len(c.Node(0).Containers()) == 0
		})
		if s := status(); s.GetContainerStatuses()[0].GetRestartCount() != 0 || s.GetInitContainerStatuses()[1].GetState().GetTerminated().GetExitCode() != 0 {
			t.Errorf("in the end: %v", s)
		}
	})
}

func scale(t *testing.T, c *testcluster.Cluster, replicas int32) {
	t.Helper()
	_, err := client.For[*v1.Deployment](c.Client()).Modify(t.Context(), "default", "web", func(d *v1.Deployment) error {
		d.Spec.Replicas = &replicas
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestScalingUpAndDown(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		for _, n := range []int32{6, 2, 0} {
			scale(t, c, n)
			c.Eventually("as many pods and containers as were asked for are there", func() bool {
				return len(c.Ready("app=web")) == int(n) && len(c.Pods("app=web")) == int(n) && len(ids(c, 3)) == int(n)
			})
		}
	})
}

func TestARollingUpdateKeepsThePromise(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		scale(t, c, 6)
		c.Eventually("six pods are ready", func() bool { return len(c.Ready("app=web")) == 6 })
		_, err := client.For[*v1.Deployment](c.Client()).Modify(t.Context(), "default", "web", func(d *v1.Deployment) error {
			d.Spec.Template.Spec.Containers[0].Image = "web:2"
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// maxUnavailable is 25 % of 6, rounded down; maxSurge 25 %, rounded up.
		c.Eventually("all pods run the new image", func() bool {
			ready, updated := c.Ready("app=web"), 0
			if len(ready) < 5 {
				t.Fatalf("%d pods are ready", len(ready))
			}
			active := 0
			for _, p := range c.Pods("app=web") {
				if p.GetMetadata().GetDeletionTimestamp() == nil {
					active++
				}
			}
			if active > 8 {
				t.Fatalf("there are %d pods", active)
			}
			for _, p := range ready {
				if p.GetSpec().GetContainers()[0].GetImage() == "web:2" {
					updated++
				}
			}
			return updated == 6
		})
	})
}

func TestARolloutWaitsForReadinessProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var well atomic.Bool // whether the new version says that it is
		engine := func(string) fake.Options {
			return fake.Options{Command: func(_ context.Context, p *fake.Process, _ []string) (int, bool) {
				if p.Config.Image == "web:2" && !well.Load() {
					return 1, true
				}
				return 0, true
			}}
		}
		c := testcluster.Start(t, testcluster.Options{Nodes: 2, Patience: 15 * time.Minute, Engine: engine})
		probed := web + "        readinessProbe: {exec: {command: [well]}, periodSeconds: 1}\n"
		c.Apply(probed)
		c.Eventually("three pods are ready", func() bool { return len(c.Ready("app=web")) == 3 })
		c.Apply(strings.Replace(probed, "image: web:1", "image: web:2", 1))
		count := func(image string, pods []*v1.Pod) (n int) {
			for _, p := range pods {
				if p.GetSpec().GetContainers()[0].GetImage() == image {
					n++
				}
			}
			return n
		}
		// maxUnavailable is 25 % of 3, rounded down; maxSurge 25 %, rounded up.
		c.Eventually("there is a pod of the new version", func() bool { return count("web:2", c.Pods("app=web")) == 1 })
		c.Always("the old version serves while the new one is not ready", 5*time.Minute, func() bool {
			return count("web:1", c.Ready("app=web")) == 3 && count("web:2", c.Pods("app=web")) == 1 && len(c.Ready("app=web")) == 3
		})
		well.Store(true)
		c.Eventually("the new version has taken over", func() bool {
			return count("web:2", c.Ready("app=web")) == 3 && len(c.Pods("app=web")) == 3
		})
	})
}

func TestANodeThatIsLostAndComesBack(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		before := ids(c, 3)
		c.Node(2).Stop() // the machine goes on, but nobody hears of it
		nodes := client.For[*v1.Node](c.Client())
		c.Eventually("the node is known to be lost", func() bool {
			n, err := nodes.Get(t.Context(), "", "node-3")
			if err != nil {
				t.Fatal(err)
			}
			return !api.IsNodeReady(n)
		})
		c.Eventually("its pod no longer counts as ready", func() bool { return len(c.Ready("app=web")) < 3 })
		c.Node(2).Start()
		c.Eventually("all is as it was", func() bool { return len(c.Ready("app=web")) == 3 })
		if after := ids(c, 3); !maps.Equal(before, after) {
			t.Errorf("containers were touched: %v, then %v", before, after)
		}
	})
}

func TestLogsAndExecReachTheContainer(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		p := c.Ready("app=web")[0].GetMetadata()
		exec, err := c.Client().Streams().Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = exec.Send(&v1.ExecInput{Input: &v1.ExecInput_Request{Request: &v1.ExecRequest{Pod: p.GetName(), Command: []string{"echo", "hello"}}}})
		if err != nil {
			t.Fatal(err)
		}
		var out string
		for {
			m, err := exec.Recv()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				break
			}
			out += string(m.GetStdout())
		}
		if strings.TrimSpace(out) != "hello" {
			t.Errorf("exec printed %q", out)
		}
		logs, err := c.Client().Streams().Logs(t.Context(), &v1.LogsRequest{Pod: p.GetName()})
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = logs.Recv()
		}
		if !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

func TestDeletingADeploymentLeavesNothing(t *testing.T) {
	for _, policy := range []string{api.PropagationBackground, api.PropagationForeground} {
		t.Run(policy, func(t *testing.T) {
			story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
				deployed(t, c)
				_, err := client.For[*v1.Deployment](c.Client()).Delete(t.Context(), "default", "web", client.DeleteOptions{PropagationPolicy: policy})
				if err != nil {
					t.Fatal(err)
				}
				c.Eventually("deployment, ReplicaSets, pods and containers are gone", func() bool {
					return count[*v1.Deployment](t, c) == 0 && count[*v1.ReplicaSet](t, c) == 0 && len(c.Pods("")) == 0 && len(ids(c, 2)) == 0
				})
			})
		})
	}
}

func TestOrphansOutliveTheirOwner(t *testing.T) {
	story(t, 1, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		before := ids(c, 1)
		_, err := client.For[*v1.Deployment](c.Client()).Delete(t.Context(), "default", "web", client.DeleteOptions{PropagationPolicy: api.PropagationOrphan})
		if err != nil {
			t.Fatal(err)
		}
		c.Eventually("the deployment is gone", func() bool { return count[*v1.Deployment](t, c) == 0 })
		time.Sleep(time.Minute)
		if count[*v1.ReplicaSet](t, c) != 1 || !maps.Equal(before, ids(c, 1)) {
			t.Errorf("%d ReplicaSets, containers %v, before %v", count[*v1.ReplicaSet](t, c), ids(c, 1), before)
		}
		// Applied again, the deployment takes its orphan back.
		c.Apply(web)
		time.Sleep(time.Minute)
		if count[*v1.ReplicaSet](t, c) != 1 || !maps.Equal(before, ids(c, 1)) {
			t.Errorf("after adoption: %d ReplicaSets, containers %v, before %v", count[*v1.ReplicaSet](t, c), ids(c, 1), before)
		}
	})
}

func TestADeletedNamespaceEmptiesItself(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		c.Apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: team\n---\n" + strings.Replace(web, "name: web\n", "name: web\n  namespace: team\n", 1))
		c.Eventually("three pods are ready", func() bool { return len(c.Ready("app=web")) == 3 })
		spaces := client.For[*v1.Namespace](c.Client())
		if _, err := spaces.Delete(t.Context(), "", "team", client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.Eventually("the namespace is gone with all that was in it", func() bool {
			_, err := spaces.Get(t.Context(), "", "team")
			return errors.Is(err, api.ErrNotFound) && count[*v1.ReplicaSet](t, c) == 0 && len(c.Pods("")) == 0 && len(ids(c, 2)) == 0
		})
	})
}

// count is how many objects of a kind there are.
func count[T api.Object](t *testing.T, c *testcluster.Cluster) int {
	t.Helper()
	l, err := client.For[T](c.Client()).List(t.Context(), client.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return len(l.Items)
}

// Whatever is killed, stopped and restarted, in whatever order: once the chaos
// ends, the cluster is what was asked for, and nothing is left over.
func TestChaosEndsWell(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 8), 1, 12).Draw(r, "steps")
		pauses := rapid.SliceOfN(rapid.IntRange(0, 30), len(steps), len(steps)).Draw(r, "pauses")
		node := rapid.SliceOfN(rapid.IntRange(0, 2), len(steps), len(steps)).Draw(r, "nodes")
		ok := t.Run("", func(t *testing.T) {
			story(t, 3, func(t *testing.T, c *testcluster.Cluster) { chaos(t, c, steps, pauses, node) })
		})
		if !ok {
			r.Fatal("see above")
		}
	})
}

func chaos(t *testing.T, c *testcluster.Cluster, steps, pauses, nodes []int) {
	t.Helper()
	deployed(t, c)
	replicas := int32(3)
	for i, step := range steps {
		n := c.Node(nodes[i])
		switch step {
		case 0:
			for _, x := range n.Containers() {
				if err := n.Engine.Kill(t.Context(), x.ID, "SIGKILL"); err != nil {
					t.Log(err)
				}
			}
		case 1:
			n.Restart()
		case 2:
			c.RestartAPIServer()
		case 3:
			replicas = int32(1 + pauses[i]%6)
			scale(t, c, replicas)
		case 4:
			if pods := c.Pods("app=web"); len(pods) > 0 {
				p := pods[pauses[i]%len(pods)].GetMetadata()
				_, err := client.For[*v1.Pod](c.Client()).Delete(t.Context(), p.GetNamespace(), p.GetName(), client.DeleteOptions{})
				if err != nil && !errors.Is(err, api.ErrNotFound) {
					t.Fatal(err)
				}
			}
		case 5:
			n.Engine.StopEngine(pauses[i]%2 == 0)
			time.Sleep(time.Duration(pauses[i]) * time.Second)
			n.Engine.StartEngine()
		case 6:
			_, err := client.For[*v1.Deployment](c.Client()).Modify(t.Context(), "default", "web", func(d *v1.Deployment) error {
				d.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("web:", i)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		case 7: // for up to ten minutes: long enough for its pods to be given up
			n.Stop()
			time.Sleep(time.Duration(pauses[i]) * 20 * time.Second)
			n.Start()
		case 8:
			c.StopAPIServer()
			time.Sleep(time.Duration(pauses[i]) * 10 * time.Second)
			c.StartAPIServer()
		}
		time.Sleep(time.Duration(pauses[i]) * 100 * time.Millisecond)
	}
	c.Eventually("the cluster is what was asked for, and no more", func() bool {
		return len(c.Ready("app=web")) == int(replicas) && len(c.Pods("")) == int(replicas) && len(ids(c, 3)) == int(replicas)
	})
}

func changeNode(t *testing.T, c *testcluster.Cluster, name string, f func(*v1.Node)) {
	t.Helper()
	_, err := client.For[*v1.Node](c.Client()).Modify(t.Context(), "", name, func(n *v1.Node) error { f(n); return nil })
	if err != nil {
		t.Fatal(err)
	}
}

// on are the pods that are bound to a node, by uid.
func on(c *testcluster.Cluster, node string) map[string]bool {
	all := map[string]bool{}
	for _, p := range c.Pods("app=web") {
		if p.GetSpec().GetNodeName() == node {
			all[p.GetMetadata().GetUid()] = true
		}
	}
	return all
}

func TestPodsOfALostNodeAreReplacedAndEndWhenItReturns(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		c.Node(2).Stop() // the machine goes on, but nobody hears of it
		begin := time.Now()
		c.Eventually("three pods are ready again, on the nodes that are left", func() bool { return len(c.Ready("app=web")) == 3 && len(c.Pods("app=web")) == 4 })
		// The grace of a heartbeat, the time that pods tolerate, and what a start takes.
		if took := time.Since(begin); took > 40*time.Second+api.DefaultUnreachableSeconds*time.Second+15*time.Second {
			t.Errorf("it took %v", took)
		}
		if lost := on(c, "node-3"); len(lost) != 1 {
			t.Errorf("of the lost pods %d are left; they must be, as long as they may run", len(lost))
		}
		time.Sleep(time.Hour)
		if len(c.Node(2).Containers()) != 1 || len(c.Pods("app=web")) != 4 {
			t.Errorf("%d containers on the lost node, %d pods", len(c.Node(2).Containers()), len(c.Pods("app=web")))
		}
		c.Node(2).Start()
		c.Eventually("what was replaced ends", func() bool {
			return len(c.Node(2).Containers()) == 0 && len(c.Pods("app=web")) == 3 && len(c.Ready("app=web")) == 3
		})
	})
}

// gossip is what members say of nodes, as a test wants it.
type gossip struct {
	mu   sync.Mutex
	dead map[string]bool
	tell []func(node string)
}

func (g *gossip) Dead(node string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead[node]
}

func (g *gossip) OnChange(f func(node string)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tell = append(g.tell, f)
}

func (g *gossip) say(node string, dead bool) {
	g.mu.Lock()
	g.dead[node] = dead
	tell := g.tell
	g.mu.Unlock()
	for _, f := range tell {
		f(node)
	}
}

// gossipStory is story with three nodes and somebody who says which are dead.
func gossipStory(t *testing.T, f func(t *testing.T, c *testcluster.Cluster, g *gossip)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &gossip{dead: map[string]bool{}}
		c := testcluster.Start(t, testcluster.Options{Nodes: 3, Patience: 15 * time.Minute, Controllers: controller.Options{Witness: g}})
		deployed(t, c)
		f(t, c, g)
	})
}

func TestTwoWitnessesOfADeathAreEnough(t *testing.T) {
	gossipStory(t, func(t *testing.T, c *testcluster.Cluster, g *gossip) {
		time.Sleep(time.Minute)
		c.Node(2).Stop()
		died := time.Now()
		time.Sleep(2 * time.Second)
		g.say("node-3", true)
		c.Eventually("three pods are ready again", func() bool { return len(c.Ready("app=web")) == 3 && len(c.Pods("app=web")) == 4 })
		// The lease is late after 2.5 s, and pods tolerate one more.
		if took := time.Since(died); took < 2500*time.Millisecond || took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		g.say("node-3", false)
		c.Node(2).Start()
		c.Eventually("what was replaced ends", func() bool {
			return len(c.Node(2).Containers()) == 0 && len(c.Pods("app=web")) == 3 && len(c.Ready("app=web")) == 3
		})
	})
}

func TestOneWitnessIsNotEnough(t *testing.T) {
	gossipStory(t, func(t *testing.T, c *testcluster.Cluster, g *gossip) {
		before := ids(c, 3)
		for i := range 3 { // liars, or a network that carries nothing but the API
			g.say(nodeName(i), true)
		}
		time.Sleep(time.Hour)
		for i := range 3 {
			g.say(nodeName(i), false)
		}
		c.Node(2).Stop() // cut off from the API only, and back
		time.Sleep(30 * time.Second)
		if len(c.Ready("app=web")) != 3 {
			t.Error("a late lease alone made pods unready")
		}
		c.Node(2).Start()
		time.Sleep(time.Minute)
		if after := ids(c, 3); !maps.Equal(before, after) || len(c.Pods("app=web")) != 3 {
			t.Errorf("containers were touched: %v, then %v", before, after)
		}
	})
}

func TestAnAPIServerThatIsCutOffEvictsNothing(t *testing.T) {
	gossipStory(t, func(t *testing.T, c *testcluster.Cluster, g *gossip) {
		before := ids(c, 3)
		for i := range 3 { // its leases end together, and then its probes fail one by one
			c.Node(i).Stop()
		}
		time.Sleep(3 * time.Second)
		for i := range 3 {
			g.say(nodeName(i), true)
			time.Sleep(2 * time.Second)
		}
		time.Sleep(time.Minute)
		for i := range 3 { // they come back, one by one
			c.Node(i).Start()
			g.say(nodeName(i), false)
			time.Sleep(5 * time.Second)
		}
		c.Eventually("all are ready", func() bool { return len(c.Ready("app=web")) == 3 })
		if after := ids(c, 3); !maps.Equal(before, after) || len(c.Pods("app=web")) != 3 {
			t.Errorf("containers were touched: %v, then %v", before, after)
		}
	})
}

func TestAPodThatMustNotRunTwiceEndsWhenItsNodeIsCutOff(t *testing.T) {
	story(t, 1, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		c.Apply("apiVersion: v1\nkind: Pod\nmetadata: {name: only, labels: {app: only}, annotations: {orch.dev/stop-when-cut-off-after: 30s}}\n" +
			"spec: {terminationGracePeriodSeconds: 1, containers: [{name: only, image: 'only:1'}]}")
		c.Eventually("it is ready", func() bool { return len(c.Ready("app=only")) == 1 })
		time.Sleep(time.Hour)
		for _, tt := range []struct {
			away time.Duration
			runs int
		}{{20 * time.Second, 4}, {25 * time.Second, 4}, {40 * time.Second, 3}} {
			c.StopAPIServer()
			time.Sleep(tt.away)
			if n := len(c.Node(0).Containers()); n != tt.runs {
				t.Errorf("after %v %d containers run, want %d", tt.away, n, tt.runs)
			}
			c.StartAPIServer()
			time.Sleep(20 * time.Second)
		}
		only := c.Pods("app=only")
		if len(only) != 1 || only[0].GetStatus().GetPhase() != api.PodFailed || only[0].GetStatus().GetReason() != "NodeCutOff" {
			t.Errorf("%v", only)
		}
		if web := c.Ready("app=web"); len(web) != 3 || web[0].GetStatus().GetContainerStatuses()[0].GetRestartCount() != 0 {
			t.Errorf("others were touched: %v", web)
		}
	})
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }

func TestANodeThatReturnsInTimeKeepsItsPods(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		before := ids(c, 3)
		for range 5 {
			c.Node(2).Stop()
			time.Sleep(35 * time.Second)
			c.Node(2).Start()
			time.Sleep(15 * time.Second)
		}
		c.Eventually("all are ready", func() bool { return len(c.Ready("app=web")) == 3 })
		if after := ids(c, 3); !maps.Equal(before, after) {
			t.Errorf("containers were touched: %v, then %v", before, after)
		}
	})
}

func TestNothingIsEvictedWhenAllNodesAreLostTogether(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		before := ids(c, 3)
		for i := range 3 {
			c.Node(i).Stop()
			time.Sleep(3 * time.Second)
		}
		time.Sleep(time.Hour)
		if n := len(c.Pods("app=web")); n != 3 {
			t.Errorf("there are %d pods", n)
		}
		c.RestartAPIServer()
		time.Sleep(time.Hour)
		for i := range 3 {
			c.Node(i).Start()
			time.Sleep(3 * time.Second)
		}
		c.Eventually("all are ready", func() bool { return len(c.Ready("app=web")) == 3 })
		if after := ids(c, 3); !maps.Equal(before, after) {
			t.Errorf("containers were touched: %v, then %v", before, after)
		}
	})
}

func TestANoExecuteTaintEmptiesANode(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		changeNode(t, c, "node-2", func(n *v1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, &v1.Taint{Key: "repair", Effect: api.EffectNoExecute})
		})
		c.Eventually("its pods run elsewhere", func() bool {
			return len(c.Node(1).Containers()) == 0 && len(c.Node(0).Containers()) == 3 && len(c.Ready("app=web")) == 3 && len(c.Pods("app=web")) == 3
		})
	})
}

func TestABudgetHoldsUpEvictions(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		c.Apply("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec: {minAvailable: 2, selector: {matchLabels: {app: web}}}")
		budgets := client.For[*v1.PodDisruptionBudget](c.Client())
		c.Eventually("the budget is counted", func() bool {
			b, err := budgets.Get(t.Context(), "default", "web")
			return err == nil && b.GetStatus().GetDisruptionsAllowed() == 1
		})
		evict := func(p *v1.Pod) error {
			_, err := client.For[*v1.Pod](c.Client()).Delete(t.Context(), "default", p.GetMetadata().GetName(), client.DeleteOptions{Evict: true})
			return err
		}
		// All at once: the budget lets one of them go.
		before := c.Ready("app=web")
		answers := make(chan error, len(before))
		for _, p := range before {
			go func() { answers <- evict(p) }()
		}
		refused := 0
		for range before {
			err := <-answers
			var se *api.StatusError
			if errors.Is(err, api.ErrTooManyRequests) && errors.As(err, &se) {
				refused++
				if !strings.HasPrefix(se.Error(), "Cannot evict pod as it would violate the pod's disruption budget.") || len(se.Causes) != 1 {
					t.Errorf("%v %v", se, se.Causes)
				}
			} else if err != nil {
				t.Error(err)
			}
		}
		if refused != 2 {
			t.Errorf("%d evictions were refused", refused)
		}
		// One after another, as drain does it, all go, and two are always ready.
		for _, p := range before {
			c.Eventually("its eviction is allowed", func() bool {
				if n := len(c.Ready("app=web")); n < 2 {
					t.Fatalf("%d pods are ready", n)
				}
				err := evict(p)
				return err == nil || errors.Is(err, api.ErrNotFound)
			})
		}
		c.Eventually("three others are ready", func() bool {
			for _, p := range c.Pods("app=web") {
				for _, old := range before {
					if p.GetMetadata().GetUid() == old.GetMetadata().GetUid() {
						return false
					}
				}
			}
			return len(c.Ready("app=web")) == 3
		})
	})
}
