package scheduler_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller/controllertest"
	"orch/pkg/scheduler"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is an API server with a scheduler, and no agents.
type cluster struct {
	*controllertest.Cluster
	t     *testing.T
	pods  client.Resource[*v1.Pod]
	nodes client.Resource[*v1.Node]
}

func start(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Cluster: controllertest.Start(t), t: t}
	c.pods, c.nodes = client.For[*v1.Pod](c.Client), client.For[*v1.Node](c.Client)
	return c
}

func (c *cluster) schedule() (stop func()) {
	return c.Go(scheduler.New(c.Client, scheduler.Options{}).Run)
}

// node makes a node that is ready, with 2 CPUs and 8Gi.
func (c *cluster) node(name string, change ...func(*v1.Node)) *v1.Node {
	c.t.Helper()
	n := &v1.Node{
		Metadata: &v1.ObjectMeta{Name: name},
		Status: &v1.NodeStatus{
			Allocatable: map[string]string{"cpu": "2", "memory": "8Gi", "pods": "110"},
			Conditions:  []*v1.Condition{{Type: api.NodeReady, Status: api.ConditionTrue}},
		},
	}
	for _, f := range change {
		f(n)
	}
	n, err := c.nodes.Create(c.t.Context(), n)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

func (c *cluster) pod(name, cpu string) *v1.Pod {
	c.t.Helper()
	p, err := c.pods.Create(c.t.Context(), &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: &v1.PodSpec{Containers: []*v1.Container{{
			Name: "main", Image: "app:1",
			Resources: &v1.ResourceRequirements{Requests: map[string]string{"cpu": cpu}},
		}}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

func (c *cluster) get(name string) *v1.Pod {
	c.t.Helper()
	p, err := c.pods.Get(c.t.Context(), "default", name)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

func (c *cluster) waitForNode(pod, node string) {
	c.t.Helper()
	c.Eventually(pod+" is on "+node, func() bool { return c.get(pod).GetSpec().GetNodeName() == node })
}

// waitForReport waits until the pod says that no node takes it, in these words.
func (c *cluster) waitForReport(pod, message string) {
	c.t.Helper()
	c.Eventually(pod+" says "+message, func() bool {
		cond := api.GetCondition(c.get(pod).GetStatus().GetConditions(), api.PodScheduled)
		return cond.GetStatus() == api.ConditionFalse && cond.GetReason() == api.ReasonUnschedulable && cond.GetMessage() == message
	})
}

// waitForEvent waits for an event about a pod and returns its message.
func (c *cluster) waitForEvent(pod, reason string) (message string) {
	c.t.Helper()
	c.Eventually(reason+" of "+pod, func() bool {
		l, err := client.For[*v1.Event](c.Client).List(c.t.Context(), client.ListOptions{
			Namespace: "default", FieldSelector: "involvedObject.name=" + pod + ",reason=" + reason,
		})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range l.Items {
			message = e.GetMessage()
		}
		return len(l.Items) > 0
	})
	return message
}

func TestAPodIsBoundToTheBestNode(t *testing.T) {
	c := start(t)
	c.node("node-1", func(n *v1.Node) { n.Status.Allocatable["cpu"] = "1" })
	c.node("node-2")
	made := c.pod("web-1", "1200m")
	c.schedule()
	c.waitForNode("web-1", "node-2")

	got := api.GetCondition(c.get("web-1").GetStatus().GetConditions(), api.PodScheduled)
	if got.GetStatus() != api.ConditionTrue {
		t.Errorf("condition %v", got)
	}
	if got, want := c.waitForEvent("web-1", "Scheduled"), "Successfully assigned default/web-1 to node-2"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	var last *v1.LogEntry
	for e, err := range c.Client.History(t.Context(), &v1.HistoryRequest{Kind: "Pod", Namespace: "default", Name: "web-1"}) {
		if err != nil {
			t.Fatal(err)
		}
		last = e
	}
	want := &v1.Cause{
		Actor: "default-scheduler", Reason: "Scheduled", Trigger: made.GetMetadata().GetResourceVersion(),
		Message: "placed on node-2 (score 85: least allocated 69, balanced 71, spread 100); node-1 lacks 200m cpu",
	}
	if diff := cmp.Diff(want, last.GetCause(), protocmp.Transform()); diff != "" {
		t.Errorf("cause (-want +got):\n%s", diff)
	}
}

func TestAPodThatFitsNowhereSaysSoAndIsPlacedWhenItCanBe(t *testing.T) {
	c := start(t)
	c.schedule()
	c.pod("web-1", "1500m")
	c.waitForReport("web-1", "no nodes available to schedule pods")

	cordoned := c.node("node-1", func(n *v1.Node) { n.Spec = &v1.NodeSpec{Unschedulable: true} })
	c.node("node-2", func(n *v1.Node) { n.Status.Allocatable["cpu"] = "1" })
	const why = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable."
	c.waitForReport("web-1", why)
	c.Eventually("an event says so too", func() bool { return c.waitForEvent("web-1", "FailedScheduling") != "" })

	c.pod("small", "1") // is not held up
	c.waitForNode("small", "node-2")

	if _, err := c.nodes.Modify(t.Context(), "", cordoned.GetMetadata().GetName(), func(n *v1.Node) error {
		n.Spec.Unschedulable = false
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c.waitForNode("web-1", "node-1")
}

func TestADeletedPodMakesRoom(t *testing.T) {
	c := start(t)
	c.schedule()
	c.node("node-1")
	first := c.pod("first", "2")
	c.waitForNode("first", "node-1")
	c.pod("second", "2")
	c.waitForReport("second", "0/1 nodes are available: 1 Insufficient cpu.")
	var now int64
	if _, err := c.pods.Delete(t.Context(), "default", first.GetMetadata().GetName(), client.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	c.waitForNode("second", "node-1")
}

func TestManyPodsAtOnceFitAndSpread(t *testing.T) {
	c := start(t)
	for i := range 3 {
		c.node(fmt.Sprint("node-", i))
	}
	stop := c.schedule()
	const many = 60 // 60 × 100m is all that three nodes have
	for i := range many {
		c.pod(fmt.Sprint("pod-", i), "100m")
		if i == many/2 { // a scheduler can be replaced at any time
			stop()
			c.schedule()
		}
	}
	perNode := map[string]int{}
	c.Eventually("all pods have a node", func() bool {
		l, err := c.pods.List(t.Context(), client.ListOptions{Namespace: "default"})
		if err != nil {
			t.Fatal(err)
		}
		clear(perNode)
		for _, p := range l.Items {
			perNode[p.GetSpec().GetNodeName()]++
		}
		return perNode[""] == 0
	})
	if diff := cmp.Diff(map[string]int{"node-0": 20, "node-1": 20, "node-2": 20}, perNode); diff != "" {
		t.Errorf("pods per node (-want +got):\n%s", diff)
	}
	c.pod("one-more", "100m")
	c.waitForReport("one-more", "0/3 nodes are available: 3 Insufficient cpu.")
}

func TestTheSchedulerGoesOnAfterTheServerWasAway(t *testing.T) {
	c := start(t)
	c.schedule()
	c.node("node-1")
	c.pod("before", "1")
	c.waitForNode("before", "node-1")
	c.StopServer()
	c.StartServer()
	c.Eventually("a pod can be made again", func() bool {
		_, err := c.pods.Create(t.Context(), &v1.Pod{
			Metadata: &v1.ObjectMeta{Name: "after", Namespace: "default"},
			Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "main", Image: "app:1"}}},
		})
		if err != nil && !errors.Is(err, api.ErrUnavailable) {
			t.Fatal(err)
		}
		return err == nil
	})
	c.waitForNode("after", "node-1")
}
