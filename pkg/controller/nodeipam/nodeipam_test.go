package nodeipam

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller/controllertest"
	"orch/pkg/informer"
	v1 "orch/proto/v1"
)

func node(name string, subnets ...string) *v1.Node {
	return &v1.Node{Metadata: &v1.ObjectMeta{Name: name}, Spec: &v1.NodeSpec{PodCidrs: subnets}}
}

func TestPlan(t *testing.T) {
	cluster := netip.MustParsePrefix("10.244.0.0/22")
	for _, tt := range []struct {
		name  string
		nodes []*v1.Node
		want  map[string]string
	}{
		{"the first node gets the first subnet", []*v1.Node{node("a")}, map[string]string{"a": "10.244.0.0/24"}},
		{"a gap is filled", []*v1.Node{node("a", "10.244.1.0/24"), node("b"), node("c")}, map[string]string{"b": "10.244.0.0/24", "c": "10.244.2.0/24"}},
		{"a subnet that somebody made larger is left alone", []*v1.Node{node("a", "10.244.0.0/23"), node("b")}, map[string]string{"b": "10.244.2.0/24"}},
		{"the one too many gets none", []*v1.Node{node("a", "10.244.0.0/22"), node("b")}, map[string]string{"b": "invalid Prefix"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := map[string]string{}
			for name, subnet := range Plan(cluster, tt.nodes) {
				got[name] = subnet.String()
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestNoTwoNodesShareAnAddress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := map[string]*v1.Node{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "node")
			if _, ok := nodes[name]; ok {
				delete(nodes, name)
			} else {
				nodes[name] = node(name)
			}
			list := []*v1.Node{}
			for _, n := range nodes {
				list = append(list, n)
			}
			for name, subnet := range Plan(netip.MustParsePrefix("10.0.0.0/22"), list) {
				if !subnet.IsValid() {
					if len(nodes) <= 4 {
						t.Fatalf("%d nodes, and none left for %s", len(nodes), name)
					}
					continue
				}
				nodes[name].Spec.PodCidrs = []string{subnet.String()}
			}
			owner := map[string]string{}
			for name, n := range nodes {
				for _, subnet := range n.Spec.PodCidrs {
					if owner[subnet] != "" {
						t.Fatalf("%s and %s both have %s", owner[subnet], name, subnet)
					}
					owner[subnet] = name
				}
			}
		}
	})
}

func TestNodesThatComeAtOnceGetSubnetsOfTheirOwn(t *testing.T) {
	c := controllertest.Start(t)
	mirror := informer.New(client.For[*v1.Node](c.Client), informer.Options{})
	r := New(c.Client, mirror, netip.MustParsePrefix("10.244.0.0/16"), nil)
	c.Go(mirror.Run)
	c.Go(r.Run)
	nodes := client.For[*v1.Node](c.Client)
	for i := range 20 {
		if _, err := nodes.Create(t.Context(), node(fmt.Sprint("n", i))); err != nil {
			t.Fatal(err)
		}
	}
	owner := map[string]string{}
	c.Eventually("each node has a subnet", func() bool {
		clear(owner)
		for _, n := range mirror.List() {
			if s := n.GetSpec().GetPodCidr(); s != "" {
				owner[s] = api.KeyOf(n).Name
			}
		}
		return len(owner) == 20
	})
}
