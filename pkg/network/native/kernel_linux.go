package native

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"orch/pkg/container"
	"orch/pkg/network"
)

const (
	// vxlanPort is Linux's own default, and what flannel uses.
	vxlanPort = 8472
	// vxlanHeader is what a packet in a packet has more.
	vxlanHeader = 50
	// routeProtocol tells in `ip route` who made a route; with the metric it is
	// how a node finds its own.
	routeProtocol = 0x6f
)

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// hardware makes an address for a network card, the same whenever it is made.
func hardware(parts ...any) net.HardwareAddr {
	sum := sha256.Sum256(fmt.Appendf(nil, "%v", parts))
	return append(net.HardwareAddr{0x02}, sum[:5]...) // locally administered
}

// ensureBridge makes the bridge, which has the subnet's first address, and
// returns how large packets on it may be.
func (n names) ensureBridge(self network.Peer, mode string) (mtu int, err error) {
	want := netip.PrefixFrom(gateway(self.Subnet), self.Subnet.Bits())
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, err
	}
	link, err := netlink.LinkByName(n.bridge)
	if err != nil && !isNoLink(err) {
		return 0, err
	}
	for _, a := range addresses {
		ones, _ := a.Mask.Size()
		ip, _ := netip.AddrFromSlice(a.IP.To4())
		foreign := link == nil || a.LinkIndex != link.Attrs().Index
		switch {
		case foreign && netip.PrefixFrom(ip, ones).Overlaps(self.Subnet):
			return 0, fmt.Errorf("the node's subnet %s overlaps with %s of %s: another --cluster-cidr would not", self.Subnet, a.IPNet, a.Label)
		case foreign && ip == self.Address && !ip.IsLoopback():
			if outside, err := netlink.LinkByIndex(a.LinkIndex); err == nil {
				mtu = outside.Attrs().MTU
			}
		case !foreign && netip.PrefixFrom(ip, ones) != want:
			if err := netlink.AddrDel(link, &a); err != nil {
				return 0, err
			}
		}
	}
	if mtu == 0 {
		mtu = defaultMTU()
	}
	if mode == VXLAN {
		mtu -= vxlanHeader
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = n.bridge, mtu, hardware(n.bridge, want)
	if link == nil {
		link = &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(link); err != nil {
			return 0, fmt.Errorf("make the bridge %s: %w", n.bridge, err)
		}
	}
	err = errors.Join(
		netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(want)}),
		netlink.LinkSetUp(link),
		sysctl("net.ipv4.ip_forward", "1"),
		sysctl("net/ipv4/conf/"+n.bridge+"/route_localnet", "1"))
	return mtu, err
}

// defaultMTU is that of the way out of the machine.
func defaultMTU() int {
	routes, err := netlink.RouteGet(net.IPv4(192, 0, 2, 1))
	if err == nil && len(routes) > 0 {
		if link, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil && link.Attrs().MTU < 1<<14 {
			return link.Attrs().MTU
		}
	}
	return 1500
}

// sysctl sets what the calling thread's network namespace has under a name.
func sysctl(name, value string) error {
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	path := filepath.Join("/proc/sys", name)
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == value {
		return nil // where it cannot be written it need not be
	}
	return os.WriteFile(path, []byte(value), 0)
}

func isNoLink(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

// cable is the name of the bridge's end of a sandbox's cable.
func cable(id string) string { return "orchc" + id[:min(len(id), 10)] }

func isConnected(id string) bool {
	link, err := netlink.LinkByName(cable(id))
	return err == nil && link.Attrs().Flags&net.FlagUp != 0
}

func disconnect(id string) {
	if link, err := netlink.LinkByName(cable(id)); err == nil {
		_ = netlink.LinkDel(link) // it goes with its namespace at the latest
	}
}

// connect makes a cable from the bridge to a sandbox. That the sandbox can be
// seen as connected is the last step.
func (n names) connect(c container.Container, ip netip.Prefix, mtu int, sysctls map[string]string) error {
	namespace, err := container.Network(c.ID, c.PID)
	if err != nil {
		return err
	}
	defer namespace.Close()
	bridge, err := netlink.LinkByName(n.bridge)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = cable(c.ID), mtu, bridge.Attrs().Index
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerMTU = "eth0", uint32(mtu)
	veth.PeerNamespace, veth.PeerHardwareAddr = netlink.NsFd(namespace.Fd()), hardware(ip)
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make a cable to bridge %s: %w", n.bridge, err)
	}
	err = container.InNetwork(namespace, func() error { return furnish(ip, sysctls) })
	if err == nil {
		err = netlink.LinkSetHairpin(veth, true) // to itself by way of a port of the machine
	}
	if err == nil {
		err = netlink.LinkSetUp(veth)
	}
	if err != nil {
		return errors.Join(err, netlink.LinkDel(veth))
	}
	return nil
}

// furnish sets up the network namespace of the calling thread.
func furnish(ip netip.Prefix, sysctls map[string]string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.AddrReplace(eth0, &netlink.Addr{IPNet: ipNet(ip)}), netlink.LinkSetUp(eth0)); err != nil {
		return err
	}
	way := &netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gateway(ip.Masked()).AsSlice()}
	if err := netlink.RouteReplace(way); err != nil {
		return err
	}
	for name, value := range sysctls {
		if isNet(name) {
			if err := sysctl(name, value); err != nil {
				return fmt.Errorf("sysctl %s: %w", name, err)
			}
		}
	}
	return nil
}

// near tells how far away an address is: this machine's own, and if not, on a
// network that this machine is on.
func near(a netip.Addr) (own, neighbour bool) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return false, true // tried as one; who is not is told so
	}
	return routes[0].Type == unix.RTN_LOCAL, len(routes[0].Gw) == 0
}

// ensureRoutes makes the routes, and removes those of nodes that are gone.
func (n names) ensureRoutes(self network.Peer, routes []route, mtu int) error {
	var failed []error
	device, err := n.ensureVXLAN(self, routes, mtu)
	failed = append(failed, err)
	var want []netlink.Route
	for _, r := range routes {
		to := netlink.Route{Dst: ipNet(r.subnet), Gw: r.via.AsSlice(), Protocol: routeProtocol, Priority: int(n.id)}
		if r.vxlan {
			if device == nil {
				continue
			}
			// The gateway is only a name for the other end of the tunnel.
			to.Gw, to.LinkIndex, to.Flags = r.subnet.Masked().Addr().AsSlice(), device.Attrs().Index, int(netlink.FLAG_ONLINK)
			to.Src = gateway(self.Subnet).AsSlice()
		}
		if err := netlink.RouteReplace(&to); err != nil {
			failed = append(failed, fmt.Errorf("route to %s by way of %s: %w", r.subnet, r.via, err))
		}
		want = append(want, to)
	}
	have, err := n.routes()
	failed = append(failed, err)
	for _, r := range have {
		if !slices.ContainsFunc(want, func(w netlink.Route) bool { return w.Dst.String() == r.Dst.String() && w.Gw.Equal(r.Gw) }) {
			failed = append(failed, netlink.RouteDel(&r))
		}
	}
	return errors.Join(failed...)
}

// routes are those that the node has made.
func (n names) routes() ([]netlink.Route, error) {
	return netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{Protocol: routeProtocol, Priority: int(n.id)}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_PRIORITY)
}

// ensureVXLAN makes the device that packs packets into packets, if one is needed,
// and tells it where each of the other machines is. Nobody asks around: the
// hardware address of each end follows from that of its machine.
func (n names) ensureVXLAN(self network.Peer, routes []route, mtu int) (netlink.Link, error) {
	link, err := netlink.LinkByName(n.vxlan)
	if !slices.ContainsFunc(routes, func(r route) bool { return r.vxlan }) {
		if err == nil {
			return nil, netlink.LinkDel(link)
		}
		return nil, nil
	}
	if !self.Address.IsValid() {
		return nil, errors.New("the node has no address for its end of the tunnels")
	}
	end := func(machine netip.Addr) net.HardwareAddr { return hardware(n.vni, machine) }
	if vxlan, ok := link.(*netlink.Vxlan); ok && !vxlan.SrcAddr.Equal(self.Address.AsSlice()) {
		if err := netlink.LinkDel(link); err != nil {
			return nil, err
		}
		link = nil
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = n.vxlan, end(self.Address)
		attrs.MTU = mtu
		if outside := defaultMTU() - vxlanHeader; outside < mtu {
			attrs.MTU = outside
		}
		link = &netlink.Vxlan{LinkAttrs: attrs, VxlanId: n.vni, SrcAddr: self.Address.AsSlice(), Port: vxlanPort, Learning: false}
		if err := netlink.LinkAdd(link); err != nil {
			return nil, fmt.Errorf("make the tunnel %s (one node of a cluster per machine can have it): %w", n.vxlan, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, err
	}
	var failed []error
	ends := map[string]bool{}
	for _, r := range routes {
		if r.vxlan {
			ends[end(r.via).String()] = true
			failed = append(failed, netlink.NeighSet(&netlink.Neigh{
				LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
				IP: r.via.AsSlice(), HardwareAddr: end(r.via),
			}), netlink.NeighSet(&netlink.Neigh{
				LinkIndex: link.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
				IP: r.subnet.Masked().Addr().AsSlice(), HardwareAddr: end(r.via),
			}))
		}
	}
	for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET} {
		known, err := netlink.NeighList(link.Attrs().Index, family)
		failed = append(failed, err)
		for _, k := range known {
			if k.State == netlink.NUD_PERMANENT && !ends[k.HardwareAddr.String()] {
				failed = append(failed, netlink.NeighDel(&k))
			}
		}
	}
	return link, errors.Join(failed...)
}

// ensureFilter fills the chains and makes them heard.
func (n names) ensureFilter(rules string) error {
	if err := iptables(rules, "iptables-restore", "--wait", "5", "--noflush"); err != nil {
		return err
	}
	for _, j := range n.jumps() {
		if j.run("-C") != nil {
			if err := j.run("-I"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j jump) run(verb string) error {
	args := append([]string{"--wait", "5", "-t", j.table, verb, j.chain}, strings.Fields(j.when)...)
	return iptables("", "iptables", append(args, "-j", j.target)...)
}

// iptables is what Docker uses too, whose rules have to be passed: what one table
// of the kernel's newer filter accepts, another may still drop.
func iptables(input, command string, args ...string) error {
	cmd := exec.Command(command, args...) //nolint:noctx // it bounds itself
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", command, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Exists says that there is a node's bridge on this machine.
func Exists(cluster, node string) bool {
	_, err := netlink.LinkByName(namesOf(cluster, node).bridge)
	return err == nil
}

// Remove removes what a node's network has left on this machine: cables, bridge,
// tunnel, routes and rules. The node's agent and containers should be gone. No
// error where nothing is there.
func Remove(cluster, node string) error {
	n := namesOf(cluster, node)
	var failed []error
	links, err := netlink.LinkList()
	failed = append(failed, err)
	bridge := 0
	for _, l := range links {
		if l.Attrs().Name == n.bridge {
			bridge = l.Attrs().Index
		}
	}
	for _, l := range links {
		if a := l.Attrs(); a.Name == n.bridge || a.Name == n.vxlan || bridge != 0 && a.MasterIndex == bridge {
			if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
				failed = append(failed, err)
			}
		}
	}
	routes, err := n.routes()
	failed = append(failed, err)
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = append(failed, err)
		}
	}
	for _, j := range n.jumps() {
		for j.run("-C") == nil {
			if err := j.run("-D"); err != nil {
				failed = append(failed, err)
				break
			}
		}
	}
	for chain, table := range map[string]string{n.forward: "filter", n.input: "filter", n.ports: "nat", n.leaving: "nat"} {
		for _, verb := range []string{"-F", "-X"} {
			_ = iptables("", "iptables", "--wait", "5", "-t", table, verb, chain) // there may be none
		}
	}
	return errors.Join(failed...)
}
