package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// A node is ready and has 2 CPUs, 4Gi and room for 10 pods, unless changed.
func newNode(name string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		Metadata: &v1.ObjectMeta{Name: name, Labels: map[string]string{api.LabelHostname: name}},
		Spec:     &v1.NodeSpec{},
		Status: &v1.NodeStatus{
			Allocatable: map[string]string{"cpu": "2", "memory": "4Gi", "ephemeral-storage": "10Gi", "pods": "10"},
			Conditions:  []*v1.Condition{{Type: api.NodeReady, Status: api.ConditionTrue}},
		},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func cordoned(n *v1.Node) { n.Spec.Unschedulable = true }
func notReady(n *v1.Node) { n.Status.Conditions[0].Status = api.ConditionUnknown }

func pressed(typ string) func(*v1.Node) {
	return func(n *v1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, &v1.Condition{Type: typ, Status: api.ConditionTrue})
	}
}

func taintedBy(key, value, effect string) func(*v1.Node) {
	return func(n *v1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, &v1.Taint{Key: key, Value: value, Effect: effect})
	}
}

// tolerates a taint with this value; an empty one stands for all.
func tolerates(key, value string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		t := &v1.Toleration{Key: key, Value: value, Operator: api.TolerationEqual}
		if value == "" {
			t.Operator = api.TolerationExists
		}
		p.Spec.Tolerations = append(p.Spec.Tolerations, t)
	}
}

func offers(name, amount string) func(*v1.Node) {
	return func(n *v1.Node) { n.Status.Allocatable[name] = amount }
}

func labelled(k, v string) func(*v1.Node) {
	return func(n *v1.Node) { n.Metadata.Labels[k] = v }
}

// A pod has its name as uid, requests nothing and has no owner, unless changed.
func newPod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default", Uid: name, ResourceVersion: 1},
		Spec: &v1.PodSpec{
			SchedulerName: Name,
			Containers:    []*v1.Container{{Name: "main", Resources: &v1.ResourceRequirements{Requests: map[string]string{}}}},
		},
		Status: &v1.PodStatus{Phase: api.PodPending},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func on(node string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.NodeName = node } }

func requests(name, amount string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Containers[0].Resources.Requests[name] = amount }
}

func ownedBy(uid string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Metadata.OwnerReferences = []*v1.OwnerReference{{Kind: "ReplicaSet", Name: uid, Uid: uid, Controller: proto.Bool(true)}}
	}
}

func selects(k, v string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{k: v} }
}

func hasPort(protocol, ip string, port int32) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, &v1.ContainerPort{Protocol: protocol, HostIp: ip, HostPort: port, ContainerPort: 80})
	}
}

func finished(p *v1.Pod) { p.Status.Phase = api.PodSucceeded }

func createdAt(seconds int64) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Metadata.CreationTimestamp = &timestamppb.Timestamp{Seconds: seconds} }
}

func clusterOf(nodes []*v1.Node, pods ...*v1.Pod) *Cluster {
	c := NewCluster()
	for _, p := range pods { // before the nodes: the mirrors promise no order
		c.SetPod(p)
	}
	for _, n := range nodes {
		c.SetNode(n)
	}
	return c
}

func TestAssign(t *testing.T) {
	full := offers("cpu", "100m")
	for _, tt := range []struct {
		name  string
		nodes []*v1.Node
		there []*v1.Pod
		pod   *v1.Pod
		want  string // node
	}{
		{
			"equal nodes are taken by name",
			[]*v1.Node{newNode("b"), newNode("a")},
			nil,
			newPod("p"),
			"a",
		},
		{
			"who tolerates the taint may come",
			[]*v1.Node{newNode("a", taintedBy("dedicated", "films", api.EffectNoSchedule)), newNode("b", cordoned)},
			nil,
			newPod("p", tolerates("dedicated", "films")),
			"a",
		},
		{
			"who tolerates everything may come to any node",
			[]*v1.Node{newNode("a", cordoned, notReady, pressed(api.NodePIDPressure))},
			nil,
			newPod("p", tolerates("", "")),
			"a",
		},
		{
			"a taint that prefers others is a reason to go elsewhere, but none to wait",
			[]*v1.Node{newNode("a", taintedBy("old", "", api.EffectPreferNoSchedule)), newNode("b", cordoned)},
			nil,
			newPod("p"),
			"a",
		},
		{
			"a node that others are preferred to comes last",
			[]*v1.Node{newNode("a", taintedBy("old", "", api.EffectPreferNoSchedule)), newNode("b")},
			[]*v1.Pod{newPod("x", on("b"), requests("cpu", "1"))},
			newPod("p"),
			"b",
		},
		{
			"the emptier node is better",
			[]*v1.Node{newNode("a"), newNode("b")},
			[]*v1.Pod{newPod("x", on("a"), requests("cpu", "1"))},
			newPod("p"),
			"b",
		},
		{
			"pods that request nothing count too",
			[]*v1.Node{newNode("a"), newNode("b")},
			[]*v1.Pod{newPod("x", on("a"))},
			newPod("p"),
			"b",
		},
		{
			"pods that have ended do not",
			[]*v1.Node{newNode("a", offers("pods", "1")), newNode("b", cordoned)},
			[]*v1.Pod{newPod("x", on("a"), finished)},
			newPod("p"),
			"a",
		},
		{
			"pods of one owner keep apart, even where the other node is fuller",
			[]*v1.Node{newNode("a"), newNode("b")},
			[]*v1.Pod{newPod("x", on("a"), ownedBy("rs")), newPod("y", on("b"), requests("cpu", "1"))},
			newPod("p", ownedBy("rs")),
			"b",
		},
		{
			"pods of several owners do not",
			[]*v1.Node{newNode("a"), newNode("b")},
			[]*v1.Pod{newPod("x", on("a"), ownedBy("other")), newPod("y", on("b"), requests("cpu", "1"))},
			newPod("p", ownedBy("rs")),
			"a",
		},
		{
			"a node where CPU and memory stay in balance is better",
			[]*v1.Node{newNode("a"), newNode("b")},
			[]*v1.Pod{
				newPod("x", on("a"), requests("cpu", "1"), requests("memory", "512Mi")),
				newPod("y", on("b"), requests("cpu", "500m"), requests("memory", "1536Mi")),
			},
			newPod("p", requests("cpu", "500m"), requests("memory", "128Mi")),
			"b",
		},
		{
			"a cordoned node gets nothing",
			[]*v1.Node{newNode("a", cordoned), newNode("b", full)},
			nil,
			newPod("p"),
			"b",
		},
		{
			"a node that is not ready gets nothing",
			[]*v1.Node{newNode("a", notReady), newNode("b", full)},
			nil,
			newPod("p"),
			"b",
		},
		{
			"a pod goes where its selector says",
			[]*v1.Node{newNode("a"), newNode("b", labelled("disk", "ssd"))},
			nil,
			newPod("p", selects("disk", "ssd")),
			"b",
		},
		{
			"a taken port is avoided",
			[]*v1.Node{newNode("a"), newNode("b", full)},
			[]*v1.Pod{newPod("x", on("a"), hasPort("TCP", "0.0.0.0", 80))},
			newPod("p", hasPort("TCP", "10.0.0.1", 80)),
			"b",
		},
		{
			"another protocol's port is not taken",
			[]*v1.Node{newNode("a"), newNode("b", full)},
			[]*v1.Pod{newPod("x", on("a"), hasPort("UDP", "", 80))},
			newPod("p", hasPort("TCP", "", 80)),
			"a",
		},
		{
			"another address's port is not taken",
			[]*v1.Node{newNode("a"), newNode("b", full)},
			[]*v1.Pod{newPod("x", on("a"), hasPort("TCP", "10.0.0.2", 80))},
			newPod("p", hasPort("TCP", "10.0.0.1", 80)),
			"a",
		},
		{
			"a pod that fits exactly fits",
			[]*v1.Node{newNode("a")},
			[]*v1.Pod{newPod("x", on("a"), requests("cpu", "1500m"), requests("memory", "1Gi"))},
			newPod("p", requests("cpu", "500m"), requests("memory", "3Gi"), requests("ephemeral-storage", "10Gi")),
			"a",
		},
		{
			"a pod that requests no CPU fits a node that has none left",
			[]*v1.Node{newNode("a")},
			[]*v1.Pod{newPod("x", on("a"), requests("cpu", "3"))},
			newPod("p"),
			"a",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Assign(clusterOf(tt.nodes, tt.there...), tt.pod)
			if d.Node != tt.want {
				t.Errorf("goes to %q (%s), want %q", d.Node, d.Message, tt.want)
			}
		})
	}
}

func TestAssignSaysWhy(t *testing.T) {
	for _, tt := range []struct {
		name  string
		nodes []*v1.Node
		there []*v1.Pod
		pod   *v1.Pod
		want  string
	}{
		{
			"no nodes",
			nil, nil, newPod("p"),
			"no nodes available to schedule pods",
		},
		{
			"reasons are counted over all nodes",
			[]*v1.Node{newNode("a"), newNode("b", cordoned), newNode("c")},
			nil,
			newPod("p", requests("cpu", "3")),
			"0/3 nodes are available: 2 Insufficient cpu, 1 node(s) were unschedulable.",
		},
		{
			"each node gives its first reason",
			[]*v1.Node{newNode("a", cordoned, notReady), newNode("b", notReady), newNode("c"), newNode("d", labelled("disk", "ssd"))},
			[]*v1.Pod{newPod("x", on("d"), hasPort("TCP", "", 80))},
			newPod("p", selects("disk", "ssd"), hasPort("TCP", "", 80), requests("cpu", "3")),
			"0/4 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, 1 node(s) were unschedulable.",
		},
		{
			"a node is not ready until its agent has said so",
			[]*v1.Node{newNode("a", func(n *v1.Node) { n.Status.Conditions = nil })},
			nil,
			newPod("p"),
			"0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.",
		},
		{
			"pressure keeps pods away before anybody has written the taint",
			[]*v1.Node{newNode("a", pressed(api.NodeMemoryPressure)), newNode("b", pressed(api.NodeDiskPressure))},
			nil,
			newPod("p"),
			"0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }, 1 node(s) had untolerated taint {node.kubernetes.io/memory-pressure: }.",
		},
		{
			"a taint is told with its value",
			[]*v1.Node{newNode("a", taintedBy("dedicated", "films", api.EffectNoExecute))},
			nil,
			newPod("p", tolerates("dedicated", "books")),
			"0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: films}.",
		},
		{
			"all resources that lack are named",
			[]*v1.Node{newNode("a", offers("pods", "0"), offers("memory", "1Gi"), offers("ephemeral-storage", "0")), newNode("b")},
			nil,
			newPod("p", requests("cpu", "3"), requests("memory", "2Gi"), requests("ephemeral-storage", "1")),
			"0/2 nodes are available: 2 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient memory, 1 Too many pods.",
		},
		{
			"a placement tells of the winner and of the others",
			[]*v1.Node{
				newNode("a", offers("cpu", "1800m")), newNode("b"), newNode("c"), newNode("d", cordoned),
				newNode("e", offers("memory", "1Mi")),
			},
			[]*v1.Pod{newPod("x", on("c"), ownedBy("rs"), requests("memory", "1Gi"))},
			newPod("p", ownedBy("rs"), requests("cpu", "2"), requests("memory", "2Gi")),
			"placed on b (score 75: least allocated 25, balanced 75, spread 100); a lacks 200m cpu, c scored 50, d is cordoned, e lacks 2047Mi memory",
		},
		{
			"a placement among many tells of a few",
			[]*v1.Node{newNode("a"), newNode("b"), newNode("c", notReady), newNode("d"), newNode("e"), newNode("f"), newNode("g"), newNode("h")},
			nil,
			newPod("p"),
			"placed on a (score 99: least allocated 95, balanced 100, spread 100); b scored 99, c has the taint node.kubernetes.io/unreachable:NoSchedule, d scored 99, e scored 99, f scored 99, and 2 more",
		},
		{
			"a placement without a choice is short",
			[]*v1.Node{newNode("a")},
			nil,
			newPod("p"),
			"placed on a (score 99: least allocated 95, balanced 100, spread 100)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Assign(clusterOf(tt.nodes, tt.there...), tt.pod).Message; got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestARefusalTellsOfEachNode(t *testing.T) {
	d := Assign(clusterOf([]*v1.Node{newNode("a", offers("cpu", "1800m")), newNode("b", cordoned)}), newPod("p", requests("cpu", "2")))
	if want := "a lacks 200m cpu, b is cordoned"; d.Node != "" || d.Refusals != want {
		t.Errorf("%+v, want refusals %q", d, want)
	}
}

func TestEveryFilterExplainsWhatItRefuses(t *testing.T) {
	n := newNode("a", cordoned, notReady, offers("pods", "1"))
	c := clusterOf([]*v1.Node{n}, newPod("x", on("a"), hasPort("TCP", "", 80)))
	d := demandOf(newPod("p", selects("disk", "ssd"), hasPort("TCP", "", 80),
		requests("cpu", "2500m"), requests("memory", "5Gi"), requests("ephemeral-storage", "11Gi")))
	want := []string{
		"is cordoned", "has the taint node.kubernetes.io/unreachable:NoSchedule", "has no label disk=ssd", "has port 80/TCP taken", "has its 1 pods",
		"lacks 500m cpu", "lacks 1Gi memory", "lacks 1Gi ephemeral-storage",
	}
	for i, f := range filters {
		if f.passes(&d, c.nodes["a"]) {
			t.Errorf("%q passes", want[i])
			continue
		}
		if got := f.because(&d, c.nodes["a"]); got != want[i] {
			t.Errorf("a %s, want: a %s", got, want[i])
		}
	}
}

func TestOnlyRelevantChangesOfANodeCount(t *testing.T) {
	c := clusterOf([]*v1.Node{newNode("a")})
	heartbeat := newNode("a")
	heartbeat.Status.Conditions[0].LastHeartbeatTime = &timestamppb.Timestamp{Seconds: 1}
	for _, tt := range []struct {
		name string
		node *v1.Node
		want bool
	}{
		{"a heartbeat", heartbeat, false},
		{"a new node", newNode("b"), true},
		{"a label", newNode("a", labelled("disk", "ssd")), true},
		{"more memory", newNode("a", labelled("disk", "ssd"), offers("memory", "8Gi")), true},
		{"the same memory, written differently", newNode("a", labelled("disk", "ssd"), offers("memory", "8192Mi")), false},
		{"cordoned", newNode("a", labelled("disk", "ssd"), offers("memory", "8Gi"), cordoned), true},
		{"not ready", newNode("a", labelled("disk", "ssd"), offers("memory", "8Gi"), cordoned, notReady), true},
	} {
		if got := c.SetNode(tt.node); got != tt.want {
			t.Errorf("%s: relevant %v, want %v", tt.name, got, tt.want)
		}
	}
}

// checkSums fails where the sums of a cluster are not those of its pods.
func checkSums(t *rapid.T, c *Cluster) {
	fresh := NewCluster()
	for _, p := range c.pods {
		fresh.add(p.demand, p.node.name, p.assumed)
	}
	for name, n := range c.nodes {
		want := fresh.node(name)
		if n.requested != want.requested || n.scored != want.scored || !maps.Equal(n.podsPerOwner, want.podsPerOwner) || len(n.ports) != len(want.ports) {
			t.Fatalf("node %s counts %+v, its pods are %+v", name, n, want)
		}
	}
}

func TestAClusterNeverPromisesMoreThanItHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := NewCluster()
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		number := 0
		var known []string
		t.Repeat(map[string]func(*rapid.T){
			"a node changes": func(t *rapid.T) {
				n := newNode(name.Draw(t, "node"))
				if rapid.Bool().Draw(t, "cordoned") {
					cordoned(n)
				}
				c.SetNode(n)
			},
			"a node goes": func(t *rapid.T) { c.RemoveNode(name.Draw(t, "node")) },
			"a pod comes": func(t *rapid.T) {
				number++
				uid := fmt.Sprint("pod-", number)
				p := newPod(uid,
					requests("cpu", fmt.Sprintf("%dm", 50*rapid.IntRange(0, 20).Draw(t, "cpu"))),
					requests("memory", fmt.Sprintf("%dMi", 100*rapid.IntRange(0, 20).Draw(t, "memory"))),
					ownedBy(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "owner")))
				if rapid.Bool().Draw(t, "wants a port") {
					hasPort("TCP", "", 80)(p)
				}
				d := demandOf(p)
				first, second := assign(c, &d), assign(c, &d)
				if first != second {
					t.Fatalf("the same question, two answers: %+v and %+v", first, second)
				}
				if first.Node == "" {
					return
				}
				c.assume(d, first.Node)
				known = append(known, uid)
				n := c.nodes[first.Node]
				left := n.allocatable.Sub(n.requested)
				if left.Pods < 0 || d.requests.MilliCPU > 0 && left.MilliCPU < 0 || d.requests.Memory > 0 && left.Memory < 0 {
					t.Fatalf("%s (%+v) does not fit %+v", uid, d, n)
				}
				if n.cordoned || !n.exists {
					t.Fatalf("%s went to %+v", uid, n)
				}
				if ports := slices.Clone(n.ports); len(ports) > 1 {
					t.Fatalf("%d pods have port 80 of %s", len(ports), n.name)
				}
			},
			"the mirror shows a pod": func(t *rapid.T) {
				if len(known) == 0 {
					t.Skip()
				}
				uid := rapid.SampledFrom(known).Draw(t, "pod")
				if p := c.pods[uid]; p != nil {
					before := p.node.requested
					c.SetPod(newPod(uid, on(p.node.name)))
					if p.assumed || p.node.requested != before {
						t.Fatalf("%s was counted anew", uid)
					}
				}
			},
			"a pod goes": func(t *rapid.T) {
				if len(known) == 0 {
					t.Skip()
				}
				c.RemovePod(rapid.SampledFrom(known).Draw(t, "pod"))
			},
			"a bind fails": func(t *rapid.T) {
				if len(known) == 0 {
					t.Skip()
				}
				c.forget(rapid.SampledFrom(known).Draw(t, "pod"))
			},
			"": func(t *rapid.T) { checkSums(t, c) },
		})
	})
}

func TestPodsOfOneOwnerSpreadEvenlyOverEqualNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := NewCluster()
		for i := range rapid.IntRange(1, 8).Draw(t, "nodes") {
			c.SetNode(newNode(fmt.Sprint("node-", i), offers("cpu", "100"), offers("memory", "400Gi"), offers("pods", "110")))
		}
		// What every node has already may be as lopsided as it likes.
		base := []func(*v1.Pod){requests("cpu", fmt.Sprint(rapid.IntRange(0, 60).Draw(t, "base cpu"))), requests("memory", fmt.Sprintf("%dGi", rapid.IntRange(0, 300).Draw(t, "base memory")))}
		for _, n := range c.order {
			c.SetPod(newPod("base-"+n.name, append(base, on(n.name))...))
		}
		change := []func(*v1.Pod){
			ownedBy("rs"),
			requests("cpu", fmt.Sprintf("%dm", rapid.IntRange(0, 400).Draw(t, "cpu"))),
			requests("memory", fmt.Sprintf("%dMi", rapid.IntRange(0, 1000).Draw(t, "memory"))),
		}
		for i := range rapid.IntRange(1, 100).Draw(t, "pods") {
			d := demandOf(newPod(fmt.Sprint("pod-", i), change...))
			got := assign(c, &d)
			if got.Node == "" {
				t.Fatalf("pod %d: %s", i, got.Message)
			}
			c.assume(d, got.Node)
			most, fewest := 0, i+1
			for _, n := range c.order {
				most, fewest = max(most, n.podsPerOwner["rs"]), min(fewest, n.podsPerOwner["rs"])
			}
			if most-fewest > 1 {
				t.Fatalf("after pod %d: from %d to %d pods on a node", i, fewest, most)
			}
		}
	})
}

func BenchmarkAssign(b *testing.B) {
	for _, nodes := range []int{3, 100} {
		b.Run(fmt.Sprint(nodes, " nodes"), func(b *testing.B) {
			c := NewCluster()
			for i := range nodes {
				c.SetNode(newNode(fmt.Sprint("node-", i)))
			}
			d := demandOf(newPod("p", requests("cpu", "100m"), ownedBy("rs")))
			b.ReportAllocs()
			for b.Loop() {
				if got := assign(c, &d); !strings.HasPrefix(got.Node, "node-") {
					b.Fatal(got.Message)
				}
			}
		})
	}
}
