package native

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"orch/pkg/container"
	"orch/pkg/network"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestAnAddressIsNeverGivenTwiceAndAllComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		subnet := netip.PrefixFrom(addr("10.1.2.0"), rapid.IntRange(24, 29).Draw(t, "bits"))
		var used []netip.Addr
		given := map[netip.Addr]bool{}
		for range rapid.IntRange(0, 3).Draw(t, "used") {
			a := addr(fmt.Sprint("10.1.2.", rapid.IntRange(2, 6).Draw(t, "address")))
			used, given[a] = append(used, a), true
		}
		p := newPool(subnet, used)
		room := 1<<(32-subnet.Bits()) - 3 // without the subnet's name, the gateway and the address for broadcasts
		var back []netip.Addr             // as they came back
		for range rapid.IntRange(1, 4*room).Draw(t, "steps") {
			if len(given) > 0 && rapid.Bool().Draw(t, "release") {
				all := slices.SortedFunc(maps.Keys(given), netip.Addr.Compare)
				a := rapid.SampledFrom(all).Draw(t, "which")
				delete(given, a)
				p.put(a)
				back = append(back, a)
				continue
			}
			a, ok := p.take()
			if ok != (len(given) < room) {
				t.Fatalf("take: %v with %d of %d given", ok, len(given), room)
			}
			if !ok {
				continue
			}
			if given[a] || !subnet.Contains(a) || a == gateway(subnet) || a == subnet.Addr() || !subnet.Contains(a.Next()) {
				t.Fatalf("%s of %s was given", a, subnet)
			}
			if n := len(back); n > 0 && back[n-1] == a && len(given) < room-1 {
				t.Fatalf("%s was given, which had just come back", a)
			}
			given[a] = true
		}
	})
}

func TestPlanRoutes(t *testing.T) {
	peers := []network.Peer{
		{Name: "self", Address: addr("10.0.0.1"), Subnet: prefix("10.244.0.0/24")},
		{Name: "near", Address: addr("10.0.0.2"), Subnet: prefix("10.244.1.0/24")},
		{Name: "far", Address: addr("10.9.0.3"), Subnet: prefix("10.244.2.0/24")},
		{Name: "here", Address: addr("10.0.0.1"), Subnet: prefix("10.244.3.0/24")},
		{Name: "new", Subnet: prefix("10.244.4.0/24")},
		{Name: "without", Address: addr("10.0.0.5")},
	}
	look := func(a netip.Addr) (own, neighbour bool) {
		return a == addr("10.0.0.1"), prefix("10.0.0.0/24").Contains(a)
	}
	for _, tt := range []struct {
		name, mode string
		want       []route
	}{
		{"neighbours by a route, others through a tunnel, those on this machine not at all", HostGW, []route{
			{prefix("10.244.1.0/24"), addr("10.0.0.2"), false},
			{prefix("10.244.2.0/24"), addr("10.9.0.3"), true},
		}},
		{"all through tunnels", VXLAN, []route{
			{prefix("10.244.1.0/24"), addr("10.0.0.2"), true},
			{prefix("10.244.2.0/24"), addr("10.9.0.3"), true},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := planRoutes("self", tt.mode, peers, look)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(route{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRules(t *testing.T) {
	n := namesOf("cluster", "node")
	got := rules(n, prefix("10.244.0.0/24"), []network.Peer{{Name: "node", Subnet: prefix("10.244.0.0/24")}, {Name: "other", Subnet: prefix("10.244.1.0/24")}, {Name: "new"}}, []published{
		{container.Port{HostPort: 80, ContainerPort: 8080}, addr("10.244.0.2")},
		{container.Port{HostPort: 53, ContainerPort: 5353, Protocol: "UDP", HostIP: "10.0.0.1"}, addr("10.244.0.3")},
		{container.Port{HostPort: 81, ContainerPort: 81, HostIP: "0.0.0.0"}, addr("10.244.0.3")},
	})
	want := `*filter
:FORWARD - [0:0]
:INPUT - [0:0]
-A FORWARD -i BRIDGE -j ACCEPT
-A FORWARD -o BRIDGE -j ACCEPT
-A INPUT -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP
COMMIT
*nat
:LEAVING - [0:0]
:PORTS - [0:0]
-A LEAVING -s 10.244.0.0/24 -o BRIDGE -m conntrack --ctstate DNAT -j MASQUERADE
-A LEAVING -s 127.0.0.0/8 -o BRIDGE -j MASQUERADE
-A LEAVING -s 10.244.0.0/24 -d 10.244.0.0/24 -j RETURN
-A LEAVING -s 10.244.0.0/24 -d 10.244.1.0/24 -j RETURN
-A LEAVING -s 10.244.0.0/24 ! -o BRIDGE -j MASQUERADE
-A PORTS -p tcp --dport 80 -j DNAT --to-destination 10.244.0.2:8080
-A PORTS -d 10.0.0.1 -p udp --dport 53 -j DNAT --to-destination 10.244.0.3:5353
-A PORTS -p tcp --dport 81 -j DNAT --to-destination 10.244.0.3:81
COMMIT
`
	short := strings.NewReplacer(n.bridge, "BRIDGE", n.forward, "FORWARD", n.input, "INPUT", n.ports, "PORTS", n.leaving, "LEAVING")
	if diff := cmp.Diff(want, short.Replace(got)); diff != "" {
		t.Error(diff)
	}
}

func TestNamesAreTheNodesOwnAndFitTheKernel(t *testing.T) {
	a, b := namesOf("cluster", "node"), namesOf("cluster", "node-2")
	for _, pair := range [][2]string{{a.bridge, b.bridge}, {a.vxlan, b.vxlan}, {a.forward, b.forward}, {a.input, b.input}, {a.ports, b.ports}, {a.leaving, b.leaving}} {
		if pair[0] == pair[1] {
			t.Errorf("two nodes have the name %s", pair[0])
		}
	}
	if a.vni != b.vni || namesOf("other", "node").vni == a.vni {
		t.Error("the tunnels' number is not the cluster's")
	}
	for _, link := range []string{a.bridge, a.vxlan} {
		if len(link) > 15 {
			t.Errorf("%s is too long for a network device", link)
		}
	}
	for _, chain := range []string{a.forward, a.input, a.ports, a.leaving} {
		if len(chain) > 28 {
			t.Errorf("%s is too long for a chain", chain)
		}
	}
}
