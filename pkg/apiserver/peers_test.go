package apiserver_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func TestANodeIsToldOfItsPeersAndOfWhatChanges(t *testing.T) {
	g := guard(t)
	nodes := client.For[*v1.Node](g.admin)
	stream := must[v1.Cluster_PeersClient](t)(g.node("n1").Cluster().Peers(t.Context(), &v1.PeersRequest{}))
	expect := func(what string, want ...*v1.Peer) {
		t.Helper()
		got := must[*v1.PeersResponse](t)(stream.Recv())
		if diff := cmp.Diff(want, got.GetPeers(), protocmp.Transform()); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", what, diff)
		}
	}
	expect("at first", &v1.Peer{Name: "n1"}, &v1.Peer{Name: "n2"})

	n := must[*v1.Node](t)(nodes.Get(t.Context(), "", "n2"))
	n.Status = &v1.NodeStatus{Conditions: []*v1.Condition{{Type: api.NodeReady, Status: api.ConditionTrue}}} // no news to its peers
	n = must[*v1.Node](t)(nodes.UpdateStatus(t.Context(), n))
	n.Status.Addresses = []*v1.NodeAddress{{Type: "Hostname", Address: "two"}, {Type: api.NodeInternalIP, Address: "10.0.0.2"}}
	n = must[*v1.Node](t)(nodes.UpdateStatus(t.Context(), n))
	expect("when one has an address", &v1.Peer{Name: "n1"}, &v1.Peer{Name: "n2", Address: "10.0.0.2"})

	n.Spec = &v1.NodeSpec{PodCidr: "10.244.1.0/24"}
	must[*v1.Node](t)(nodes.Update(t.Context(), n))
	two := &v1.Peer{Name: "n2", Address: "10.0.0.2", PodCidr: "10.244.1.0/24"}
	expect("when it has a subnet", &v1.Peer{Name: "n1"}, two)

	must[*v1.Node](t)(nodes.Create(t.Context(), &v1.Node{Metadata: &v1.ObjectMeta{Name: "n0"}}))
	expect("when one joins", &v1.Peer{Name: "n0"}, &v1.Peer{Name: "n1"}, two)
	must[*v1.Node](t)(nodes.Delete(t.Context(), "", "n2", client.DeleteOptions{}))
	expect("when one goes", &v1.Peer{Name: "n0"}, &v1.Peer{Name: "n1"})
}
