package testcluster_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"orch/internal/testcluster"
	"orch/internal/testlog"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// Whatever happens in a cluster, everything that was written leads back to
// somebody, to a clock, to what a node saw, or to the beginning.
func TestEveryWriteHasACause(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, len(happenings)-1), 3, 12).Draw(rt, "happenings")
		pick := rapid.SliceOfN(rapid.IntRange(0, 1000), len(steps), len(steps)).Draw(rt, "picks")
		synctest.Test(t, func(t *testing.T) {
			c := testcluster.Start(t, testcluster.Options{Nodes: 3, Patience: 15 * time.Minute})
			c.Apply(web)
			down := map[int]bool{}
			for i, s := range steps {
				happenings[s](t, c, pick[i], down)
				time.Sleep(time.Duration(pick[i]%90) * time.Second)
			}
			for i := range 3 {
				if down[i] {
					c.Node(i).Start()
				}
			}
			time.Sleep(2 * time.Minute)
			testlog.EveryWriteHasACause(t, c.Client())
		})
	})
}

// happenings are what befalls the cluster of TestEveryWriteHasACause. They do
// not mind what is gone already. down are the nodes that are.
var happenings = []func(t *testing.T, c *testcluster.Cluster, pick int, down map[int]bool){
	func(t *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) {
		c.Apply(strings.ReplaceAll(web, "name: web", fmt.Sprintf("name: web%d", pick%3)))
	},
	func(t *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) {
		change(t, c, func(d *v1.Deployment) { d.Spec.Replicas = new(int32(pick % 7)) })
	},
	func(t *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) {
		change(t, c, func(d *v1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("web:%d", pick) })
	},
	func(t *testing.T, c *testcluster.Cluster, pick int, down map[int]bool) { // a container is killed
		if here := c.Node(pick % 3).Containers(); len(here) > 0 && !down[pick%3] {
			_ = c.Runtime(pick%3).Kill(t.Context(), here[pick%len(here)].ID, "SIGKILL")
		}
	},
	func(t *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) { // a pod is deleted
		if all := c.Pods(""); len(all) > 0 {
			m := all[pick%len(all)].GetMetadata()
			_, _ = client.For[*v1.Pod](c.Client()).Delete(t.Context(), m.GetNamespace(), m.GetName(), client.DeleteOptions{})
		}
	},
	func(t *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) { // a deployment is deleted, in all ways
		policy := []string{"Background", "Foreground", "Orphan"}[pick%3]
		_, _ = client.For[*v1.Deployment](c.Client()).Delete(t.Context(), "default", fmt.Sprintf("web%d", pick%3), client.DeleteOptions{PropagationPolicy: policy})
	},
	func(t *testing.T, c *testcluster.Cluster, pick int, down map[int]bool) { // a node is lost, or comes back
		if n := pick % 3; down[n] {
			c.Node(n).Start()
			delete(down, n)
		} else if len(down) == 0 {
			c.Node(n).Stop()
			down[n] = true
		}
	},
	func(t *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) { // a node is cordoned, or no longer
		_, _ = client.For[*v1.Node](c.Client()).Modify(t.Context(), "", fmt.Sprintf("node-%d", 1+pick%3), func(n *v1.Node) error {
			n.Spec.Unschedulable = !n.GetSpec().GetUnschedulable()
			return nil
		})
	},
	func(t *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) { // a node is tainted, or no longer
		_, _ = client.For[*v1.Node](c.Client()).Modify(t.Context(), "", fmt.Sprintf("node-%d", 1+pick%3), func(n *v1.Node) error {
			if len(n.GetSpec().GetTaints()) > 0 {
				n.Spec.Taints = nil
			} else {
				n.Spec.Taints = []*v1.Taint{{Key: "dedicated", Effect: api.EffectNoExecute}}
			}
			return nil
		})
	},
	func(_ *testing.T, c *testcluster.Cluster, _ int, _ map[int]bool) { c.RestartAPIServer() },
	func(t *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) { // a namespace comes, and goes with all in it
		name := fmt.Sprintf("space%d", pick%2)
		spaces := client.For[*v1.Namespace](c.Client())
		if _, err := spaces.Create(t.Context(), &v1.Namespace{Metadata: &v1.ObjectMeta{Name: name}}); err != nil {
			_, _ = spaces.Delete(t.Context(), "", name, client.DeleteOptions{})
			return
		}
		c.Apply(strings.Replace(web, "name: web\n", "name: web\n  namespace: "+name+"\n", 1))
	},
	func(_ *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) { // a pod that fits nowhere, and one that is limited
		c.Apply(fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: lone%d}\nspec:\n  containers:\n  - {name: a, image: 'a:1', resources: {requests: {memory: %dMi}}}\n", pick, 1+pick*pick))
	},
	func(_ *testing.T, c *testcluster.Cluster, pick int, _ map[int]bool) {
		c.Apply(fmt.Sprintf("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: b}\nspec: {minAvailable: %d, selector: {matchLabels: {app: web}}}\n", pick%4))
	},
	func(_ *testing.T, _ *testcluster.Cluster, _ int, _ map[int]bool) { time.Sleep(10 * time.Minute) },
}

// change changes one of the deployments that there are.
func change(t *testing.T, c *testcluster.Cluster, f func(*v1.Deployment)) {
	t.Helper()
	_, _ = client.For[*v1.Deployment](c.Client()).Modify(t.Context(), "default", "web", func(d *v1.Deployment) error { f(d); return nil })
}

func TestAPodNamesWhoMadeItNecessary(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		synctest.Wait() // else the ReplicaSet's last status may be what its controller hears of last
		gone := c.Ready("app=web")[0].GetMetadata()
		if _, err := client.For[*v1.Pod](c.Client()).Delete(t.Context(), gone.GetNamespace(), gone.GetName(), client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.Eventually("another pod has taken its place", func() bool {
			return len(c.Ready("app=web")) == 3 && len(c.Pods("")) == 3
		})
		var newest *v1.Pod
		for _, p := range c.Pods("") {
			if p.GetMetadata().GetResourceVersion() > newest.GetMetadata().GetResourceVersion() {
				newest = p
			}
		}
		key := why.Key{Kind: "Pod", Namespace: "default", Name: newest.GetMetadata().GetName()}
		history, log, err := why.Gather(t.Context(), c.Client(), key)
		if err != nil {
			t.Fatal(err)
		}
		x := why.Explain(key, history, log, why.Options{})
		var told []string
		for s := &x.Steps[len(x.Steps)-1]; s != nil; s = s.Because {
			told = append(told, s.Object+" "+s.Text)
		}
		all := strings.Join(told, " ← ")
		for _, want := range []string{"pod/" + key.Name + " exists because ReplicaSet", "wanted 3, had 2", "pod/" + gone.GetName() + " was asked to end by user test"} {
			if !strings.Contains(all, want) {
				t.Errorf("%s\nlacks %q", all, want)
			}
		}
	})
}
