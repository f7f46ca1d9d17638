package native

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"

	"orch/pkg/container"
	"orch/pkg/network"
)

// Ways to the pods of other machines.
const (
	// HostGW is a route to the other machine where that is on a network that this
	// one is on too, and VXLAN where not.
	HostGW = "host-gw"
	// VXLAN packs each packet into one from machine to machine.
	VXLAN = "vxlan"
)

// route is the way to the pods of one node.
type route struct {
	subnet netip.Prefix
	via    netip.Addr // the node's machine
	vxlan  bool
}

// planRoutes says which routes this node needs. near tells whether an address is
// this machine's own, whose bridges need no routes, and whether it is on a
// network that this machine is on.
func planRoutes(self, mode string, peers []network.Peer, near func(netip.Addr) (own, neighbour bool)) []route {
	var routes []route
	for _, p := range peers {
		if p.Name == self || !p.Address.IsValid() || !p.Subnet.IsValid() {
			continue
		}
		if own, neighbour := near(p.Address); !own {
			routes = append(routes, route{p.Subnet, p.Address, mode == VXLAN || !neighbour})
		}
	}
	return routes
}

// names are what a node's things are called in the kernel, so that several nodes
// and clusters on one machine never touch each other's.
type names struct {
	id     uint32 // in routes, as their metric
	bridge string
	vxlan  string
	// vni is the same on all nodes of a cluster.
	vni int
	// chains of the packet filter
	forward, input, ports, leaving string
}

func hash(parts ...string) uint32 {
	h := fnv.New32a()
	fmt.Fprintf(h, "%q", parts)
	return h.Sum32()
}

func namesOf(cluster, node string) names {
	id := hash(cluster, node)
	// A metric below 2^20 might be somebody else's.
	n := names{id: id | 1<<31, bridge: fmt.Sprintf("orch-%08x", id), vxlan: fmt.Sprintf("orchv-%08x", id)}
	n.vni = int(hash(cluster) & 0xffffff)
	chain := func(kind string) string { return fmt.Sprintf("ORCH-%s-%08x", kind, id) }
	n.forward, n.input, n.ports, n.leaving = chain("FORWARD"), chain("INPUT"), chain("PORTS"), chain("LEAVING")
	return n
}

// Mark is part of every name that a node's things have in the kernel.
func Mark(cluster, node string) string { return fmt.Sprintf("%08x", hash(cluster, node)) }

// jump leads from one of the kernel's chains to one of the node's.
type jump struct {
	table, chain, when, target string
}

func (n names) jumps() []jump {
	const local = "-m addrtype --dst-type LOCAL"
	return []jump{
		{"filter", "FORWARD", "", n.forward},
		{"filter", "INPUT", "-i " + n.bridge, n.input},
		{"nat", "PREROUTING", local, n.ports},
		{"nat", "OUTPUT", local, n.ports},
		{"nat", "POSTROUTING", "", n.leaving},
	}
}

// published is a port of the machine that leads to a pod.
type published struct {
	container.Port
	ip netip.Addr
}

// rules fill the node's chains, in the words of iptables-restore.
//
//   - What comes from pods or goes to them is forwarded, whatever Docker thinks.
//   - What leaves the pods' network gets the machine's address, as does what comes
//     back to the bridge that it came from by way of a port of the machine, and
//     what the machine says to such a port from its localhost. (A pod cannot say
//     anything to that localhost, although the kernel is told to route it.)
//   - A port of the machine leads to its pod.
func rules(n names, subnet netip.Prefix, peers []network.Peer, ports []published) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("*filter\n:%s - [0:0]\n:%s - [0:0]", n.forward, n.input)
	line("-A %s -i %s -j ACCEPT", n.forward, n.bridge)
	line("-A %s -o %s -j ACCEPT", n.forward, n.bridge)
	line("-A %s -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP", n.input)
	line("COMMIT\n*nat\n:%s - [0:0]\n:%s - [0:0]", n.leaving, n.ports)
	line("-A %s -s %s -o %s -m conntrack --ctstate DNAT -j MASQUERADE", n.leaving, subnet, n.bridge)
	line("-A %s -s 127.0.0.0/8 -o %s -j MASQUERADE", n.leaving, n.bridge)
	for _, p := range peers {
		if p.Subnet.IsValid() {
			line("-A %s -s %s -d %s -j RETURN", n.leaving, subnet, p.Subnet)
		}
	}
	line("-A %s -s %s ! -o %s -j MASQUERADE", n.leaving, subnet, n.bridge)
	for _, p := range ports {
		protocol := cmp.Or(strings.ToLower(p.Protocol), "tcp")
		to := ""
		if ip, err := netip.ParseAddr(p.HostIP); err == nil && !ip.IsUnspecified() {
			to = "-d " + ip.String() + " "
		}
		line("-A %s %s-p %s --dport %d -j DNAT --to-destination %s:%d", n.ports, to, protocol, p.HostPort, p.ip, p.ContainerPort)
	}
	line("COMMIT")
	return b.String()
}
