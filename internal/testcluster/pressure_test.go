package testcluster_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"orch/internal/testcluster"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container/fake"
	v1 "orch/proto/v1"
)

// condition is the status of a node's condition, and whether it has the taint.
func condition(t *testing.T, c *testcluster.Cluster, node, typ, taint string) (status string, tainted bool) {
	t.Helper()
	n, err := client.For[*v1.Node](c.Client()).Get(t.Context(), "", node)
	if err != nil {
		t.Fatal(err)
	}
	tainted = slices.ContainsFunc(n.GetSpec().GetTaints(), func(t *v1.Taint) bool { return t.GetKey() == taint })
	return api.GetCondition(n.GetStatus().GetConditions(), typ).GetStatus(), tainted
}

func evicted(c *testcluster.Cluster) (pods []*v1.Pod) {
	for _, p := range c.Pods("app=web") {
		if p.GetStatus().GetReason() == "Evicted" {
			pods = append(pods, p)
		}
	}
	return pods
}

func TestANodeThatRunsOutOfMemoryEvictsAndRecovers(t *testing.T) {
	story(t, 2, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		if status, tainted := condition(t, c, "node-1", api.NodeMemoryPressure, api.TaintMemoryPressure); status != "False" || tainted {
			t.Fatalf("pressure %q, tainted %t", status, tainted)
		}
		there := len(c.Node(0).Containers())
		c.Runtime(0).SetOthers(fake.Usage{MemoryBytes: 8<<30 - 100<<20}) // less than 100Mi with the first pod
		c.Eventually("the node says so, and is tainted", func() bool {
			status, tainted := condition(t, c, "node-1", api.NodeMemoryPressure, api.TaintMemoryPressure)
			return status == "True" && tainted
		})
		c.Eventually("its pods are evicted, one after another, and replaced on the other node", func() bool {
			return len(evicted(c)) == there && len(c.Ready("app=web")) == 3 && len(c.Node(1).Containers()) == 3
		})
		for _, p := range evicted(c) {
			st := p.GetStatus()
			if st.GetPhase() != api.PodFailed || !strings.HasPrefix(st.GetMessage(), "The node was low on resource: memory. Threshold quantity: 100Mi, available: ") ||
				api.GetCondition(st.GetConditions(), api.DisruptionTarget).GetReason() != "TerminationByKubelet" {
				t.Errorf("evicted pod %v", st)
			}
		}
		if n := len(c.Node(0).Containers()); n > 0 {
			t.Errorf("%d containers still run on the node", n)
		}
		c.Runtime(0).SetOthers(fake.Usage{})
		began := time.Now()
		c.Eventually("the node recovers", func() bool {
			status, tainted := condition(t, c, "node-1", api.NodeMemoryPressure, api.TaintMemoryPressure)
			return status == "False" && !tainted
		})
		if took := time.Since(began); took < 4*time.Minute {
			t.Errorf("it recovered after %v: the transition period is five minutes", took)
		}
		gone := c.Ready("app=web")[0].GetMetadata().GetName()
		if _, err := client.For[*v1.Pod](c.Client()).Delete(t.Context(), "default", gone, client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.Eventually("and gets pods again", func() bool { return len(c.Ready("app=web")) == 3 && len(c.Node(0).Containers()) > 0 })
	})
}

const filler = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: filler:1
        resources: {limits: {ephemeral-storage: 1Gi}}
`

func TestAPodThatFillsItsDiskLimitIsEvictedAndReplaced(t *testing.T) {
	story(t, 1, func(t *testing.T, c *testcluster.Cluster) {
		c.Apply(filler)
		c.Eventually("it runs", func() bool { return len(c.Ready("app=web")) == 1 })
		c.Runtime(0).SetUsage("filler:1", fake.Usage{DiskBytes: 2 << 30})
		c.Eventually("it is evicted", func() bool { return len(evicted(c)) == 1 })
		c.Runtime(0).SetUsage("filler:1", fake.Usage{DiskBytes: 1 << 20})
		if m := evicted(c)[0].GetStatus().GetMessage(); m != "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. " {
			t.Errorf("message %q", m)
		}
		c.Eventually("another one runs", func() bool { return len(c.Ready("app=web")) == 1 })
		if status, _ := condition(t, c, "node-1", api.NodeDiskPressure, ""); status != "False" {
			t.Errorf("disk pressure is %q: it was the pod's own limit", status)
		}
	})
}

func TestWhoHasWrittenMostGoesWhereTheDiskIsShort(t *testing.T) {
	story(t, 1, func(t *testing.T, c *testcluster.Cluster) {
		const pod = "{apiVersion: v1, kind: Pod, metadata: {name: NAME, labels: {app: web}}, spec: {containers: [{name: c, image: 'NAME:1'}]}}"
		c.Runtime(0).SetUsage("big:1", fake.Usage{DiskBytes: 20 << 30})
		for _, name := range []string{"small", "big", "tiny"} {
			c.Apply(strings.ReplaceAll(pod, "NAME", name))
		}
		c.Eventually("all run", func() bool { return len(c.Ready("app=web")) == 3 })
		c.Runtime(0).SetOthers(fake.Usage{DiskBytes: 75 << 30})
		c.Eventually("one is evicted", func() bool { return len(evicted(c)) == 1 })
		c.Always("what it wrote was what the others needed", 10*time.Minute, func() bool { return len(evicted(c)) == 1 })
		e := evicted(c)[0]
		if name, m := e.GetMetadata().GetName(), e.GetStatus().GetMessage(); name != "big" ||
			m != "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 5Gi. Container c was using 20Gi, request is 0, has larger consumption of ephemeral-storage. " {
			t.Errorf("%s: %s", name, m)
		}
	})
}

func TestAPodThatIsGivenToANodeUnderPressureIsRefused(t *testing.T) {
	story(t, 1, func(t *testing.T, c *testcluster.Cluster) {
		c.Runtime(0).SetOthers(fake.Usage{DiskBytes: 99 << 30})
		c.Eventually("the node is short of disk", func() bool {
			status, _ := condition(t, c, "node-1", api.NodeDiskPressure, "")
			return status == "True"
		})
		c.Apply("{apiVersion: v1, kind: Pod, metadata: {name: late, labels: {app: web}}, spec: {nodeName: node-1, containers: [{name: c, image: x:1}]}}")
		c.Eventually("the pod has failed", func() bool { return len(evicted(c)) == 1 })
		if m := evicted(c)[0].GetStatus().GetMessage(); m != "Pod was rejected: The node had condition: [DiskPressure]. " {
			t.Errorf("message %q", m)
		}
	})
}

func TestStatsComeThroughTheAPIServer(t *testing.T) {
	story(t, 1, func(t *testing.T, c *testcluster.Cluster) {
		c.Runtime(0).SetUsage("web:1", fake.Usage{MilliCPU: 250, MemoryBytes: 64 << 20})
		deployed(t, c)
		s, err := c.Client().Streams().Stats(t.Context(), &v1.StatsRequest{Node: "node-1"})
		if err != nil {
			t.Fatal(err)
		}
		if len(s.GetPods()) != 3 {
			t.Fatalf("%v", s)
		}
		for _, p := range s.GetPods() {
			u := p.GetContainers()[0].GetUsage()
			if cpu := u.GetCpuNanocores(); cpu < 249e6 || cpu > 251e6 || u.GetMemoryBytes() != 64<<20 {
				t.Errorf("usage %v", u)
			}
		}
		if n := s.GetNode(); n.GetMemoryBytes() != 3*64<<20 || n.GetCpuNanocores() < 740e6 {
			t.Errorf("node %v", n)
		}
	})
}
