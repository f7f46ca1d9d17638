package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"orch/pkg/api"
	"orch/pkg/container"
	"orch/pkg/network"
)

// labelPorts is the label of a sandbox with its ports of the machine, as JSON.
const labelPorts = "orch.dev/host-ports"

// refreshEvery is how often the kernel and the engine are compared with what
// should be, whoever changed something meanwhile.
const refreshEvery = 30 * time.Second

// retryAfter is how soon it is tried again where that failed.
const retryAfter = time.Second

// place is what a sandbox has.
type place struct {
	ip    netip.Addr
	id    string // of the sandbox; "" as long as it is not connected
	ports []container.Port
	held  []io.Closer // see hold
}

// Network is network.Provider.
//
// Concurrency: all methods may be called from several goroutines; Run once.
type Network struct {
	o     Options
	names names
	news  chan struct{} // of size 1: peers have changed

	filling sync.Mutex // held by who fills the packet filter

	mu     sync.Mutex // protects what follows
	peers  []network.Peer
	mtu    int
	pool   *pool             // nil until the node's subnet and all its sandboxes are known
	ready  error             // nil: sandboxes can be made
	places map[string]*place // by the name of the sandbox
}

var _ network.Provider = (*Network)(nil)

// New returns a network that gives out no address before Run. This process has
// to be root, in the network namespace of the engine.
func New(o Options) (*Network, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the native network makes bridges and routes, and needs root")
	}
	if o.Mode != HostGW && o.Mode != VXLAN {
		return nil, fmt.Errorf("way to other machines %q: want %s or %s", o.Mode, HostGW, VXLAN)
	}
	return &Network{
		o: o, names: namesOf(o.Cluster, o.Node), news: make(chan struct{}, 1),
		places: map[string]*place{}, ready: errors.New("the API server has not told the node's subnet yet"),
	}, nil
}

// SetPeers tells which nodes there are, this one among them.
func (n *Network) SetPeers(peers []network.Peer) {
	n.mu.Lock()
	n.peers = peers
	n.mu.Unlock()
	n.wake()
}

// wake makes Run look at once.
func (n *Network) wake() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// Run keeps the kernel as it should be until ctx ends; what it made stays. tell
// is called with nil when sandboxes can be made, and with why not, whenever that
// changes.
func (n *Network) Run(ctx context.Context, tell func(error)) error {
	timer := time.NewTimer(refreshEvery)
	defer timer.Stop()
	told := errors.New("")
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.news:
		case <-timer.C:
		}
		err := n.refresh(ctx)
		if ctx.Err() != nil {
			return nil
		}
		timer.Reset(refreshEvery)
		if err != nil {
			timer.Reset(retryAfter)
		}
		n.mu.Lock()
		n.ready = err
		n.mu.Unlock()
		if fmt.Sprint(err) != fmt.Sprint(told) {
			if told = err; err == nil {
				n.o.Logger.Info("the pods' network is ready")
			} else {
				n.o.Logger.Warn("the pods' network is not ready", "error", err)
			}
			tell(err)
		}
	}
}

// refresh makes bridge, routes and packet filter, and finds out which addresses
// are in use.
func (n *Network) refresh(ctx context.Context) error {
	n.mu.Lock()
	peers := n.peers
	n.mu.Unlock()
	i := slices.IndexFunc(peers, func(p network.Peer) bool { return p.Name == n.o.Node })
	switch {
	case i < 0:
		return errors.New("the API server has not told the node's subnet yet")
	case !peers[i].Subnet.IsValid():
		return errors.New("the node has no subnet for its pods: does the API server have a --cluster-cidr with one left?")
	}
	mtu, err := n.names.ensureBridge(peers[i], n.o.Mode)
	if err != nil {
		return err
	}
	if err := n.count(ctx, peers[i].Subnet); err != nil {
		return err
	}
	n.mu.Lock()
	n.mtu = mtu
	n.mu.Unlock()
	if err := n.names.ensureRoutes(peers[i], planRoutes(n.o.Node, n.o.Mode, peers, near), mtu); err != nil {
		// What cannot be reached is no reason not to run pods.
		n.o.Logger.Warn("not all pods of other machines can be reached", "error", err)
	}
	return n.filter()
}

// count learns from the engine which sandboxes there are: those of an earlier
// agent, and those that somebody else has removed.
func (n *Network) count(ctx context.Context, subnet netip.Prefix) error {
	n.mu.Lock()
	before := maps.Clone(n.places)
	maps.DeleteFunc(before, func(_ string, p *place) bool { return p.id == "" }) // the engine may be about to make it
	n.mu.Unlock()
	list, err := n.o.Engine.List(ctx, n.o.Labels)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b container.Container) int { return a.CreatedAt.Compare(b.CreatedAt) })
	n.adopt(subnet, list, before)
	for name, p := range before {
		n.release(name, p)
	}
	return nil
}

// adopt takes in the sandboxes that there are, and takes them out of before.
func (n *Network) adopt(subnet netip.Prefix, list []container.Container, before map[string]*place) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pool == nil || n.pool.subnet != subnet {
		var used []netip.Addr
		for _, p := range n.places {
			used = append(used, p.ip)
		}
		for _, c := range list { // the newest comes last
			if ip, err := netip.ParseAddr(c.Labels[network.LabelIP]); err == nil {
				used = append(used, ip)
			}
		}
		n.pool = newPool(subnet, used)
	}
	for _, c := range list {
		ip, err := netip.ParseAddr(c.Labels[network.LabelIP])
		if err != nil {
			continue
		}
		delete(before, c.Name)
		if n.places[c.Name] != nil {
			continue
		}
		p := &place{ip: ip, id: c.ID}
		n.places[c.Name] = p
		n.pool.use(ip)
		if text := c.Labels[labelPorts]; text != "" && isConnected(c.ID) {
			if err := json.Unmarshal([]byte(text), &p.ports); err != nil {
				n.o.Logger.Warn("ports of the machine are not known", "sandbox", c.Name, "error", err)
			}
			p.held, _ = hold(p.ports) // they lead to the pod all the same
		}
	}
}

// Reserve takes an address.
func (n *Network) Reserve(s *container.Sandbox) error {
	ports, err := checkPorts(s.Ports)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ready != nil {
		return fmt.Errorf("the pods' network is not ready: %w", n.ready)
	}
	if n.places[s.Name] != nil {
		return fmt.Errorf("%w: sandbox %s has an address already", container.ErrConflict, s.Name)
	}
	held, err := hold(s.Ports)
	if err != nil {
		return err
	}
	ip, ok := n.pool.take()
	if !ok {
		closeAll(held)
		return fmt.Errorf("the node's subnet %s has no address left", n.pool.subnet)
	}
	n.places[s.Name] = &place{ip: ip, ports: s.Ports, held: held}

	api.Put(&s.Labels, network.LabelIP, ip.String())
	if ports != "" {
		s.Labels[labelPorts] = ports
	}
	s.Ports = nil
	if s.Hostname != "" {
		s.Hosts = slices.Concat([]container.Host{{IP: ip.String(), Name: s.Hostname}}, s.Hosts)
	}
	if s.DNS == nil {
		s.DNS = machineDNS()
	}
	// The engine believes that the sandbox is on the machine's network, whose
	// settings it would not change.
	s.Sysctls = maps.Clone(s.Sysctls)
	maps.DeleteFunc(s.Sysctls, func(name, _ string) bool { return isNet(name) })
	return nil
}

func isNet(sysctl string) bool { return strings.HasPrefix(sysctl, "net.") }

// Connect gives a sandbox its end of a cable to the bridge.
func (n *Network) Connect(c container.Container, asked container.Sandbox) error {
	n.mu.Lock()
	p, subnet, mtu := n.places[c.Name], n.pool.subnet, n.mtu
	n.mu.Unlock()
	if p == nil {
		return fmt.Errorf("sandbox %s has no address", c.Name)
	}
	if err := n.names.connect(c, netip.PrefixFrom(p.ip, subnet.Bits()), mtu, asked.Sysctls); err != nil {
		return fmt.Errorf("connect sandbox %s: %w", c.Name, err)
	}
	n.mu.Lock()
	p.id = c.ID
	n.mu.Unlock()
	if len(p.ports) > 0 {
		return n.filter()
	}
	return nil
}

// State looks whether the cable is there. It is plugged in last.
func (n *Network) State(c container.Container) network.State {
	n.mu.Lock()
	p, pool := n.places[c.Name], n.pool
	n.mu.Unlock()
	ip, err := netip.ParseAddr(c.Labels[network.LabelIP])
	switch {
	case p != nil && p.id == "":
		return network.Coming
	case err != nil || pool != nil && !pool.subnet.Contains(ip) || !isConnected(c.ID):
		return network.Lost
	}
	return network.Connected
}

// Release takes cable, address and ports back.
func (n *Network) Release(name, id string) {
	gone := map[string]*place{}
	n.mu.Lock()
	for at, p := range n.places {
		if at == name && p.id == "" || p.id == id && id != "" {
			gone[at] = p
		}
	}
	n.mu.Unlock()
	if id != "" {
		disconnect(id)
	}
	for at, p := range gone {
		n.release(at, p)
	}
}

// release frees what a place has. The cable goes first: containers of the pod may
// outlive its sandbox for a moment.
func (n *Network) release(name string, p *place) {
	if p.id != "" {
		disconnect(p.id)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.places[name] != p {
		return
	}
	closeAll(p.held)
	delete(n.places, name)
	shared := false // with what an agent that was killed had asked for, and the engine made later
	for _, other := range n.places {
		shared = shared || other.ip == p.ip
	}
	if !shared {
		n.pool.put(p.ip)
	}
	if len(p.ports) > 0 {
		n.wake() // the packet filter has rules of them
	}
}

// filter fills the node's chains of the packet filter.
func (n *Network) filter() error {
	n.filling.Lock()
	defer n.filling.Unlock()
	n.mu.Lock()
	var ports []published
	for _, name := range slices.Sorted(maps.Keys(n.places)) {
		if p := n.places[name]; p.id != "" {
			for _, port := range p.ports {
				ports = append(ports, published{port, p.ip})
			}
		}
	}
	text := rules(n.names, n.pool.subnet, n.peers, ports)
	n.mu.Unlock()
	return n.names.ensureFilter(text)
}

// checkPorts refuses what IPv4 cannot do, and returns the ports as JSON.
func checkPorts(ports []container.Port) (string, error) {
	if len(ports) == 0 {
		return "", nil
	}
	for _, p := range ports {
		if ip, err := netip.ParseAddr(p.HostIP); p.HostIP != "" && (err != nil || !ip.Is4()) {
			return "", fmt.Errorf("hostIP %s: the native network has IPv4 addresses only", p.HostIP)
		}
	}
	text, err := json.Marshal(ports)
	return string(text), err
}

// hold takes ports of the machine, so that nobody else gets them: no packet comes
// to who holds them, because the packet filter leads them elsewhere.
func hold(ports []container.Port) (held []io.Closer, err error) {
	for _, p := range ports {
		var c io.Closer
		address := net.JoinHostPort(p.HostIP, fmt.Sprint(p.HostPort))
		switch strings.ToLower(p.Protocol) {
		case "", "tcp":
			c, err = net.Listen("tcp4", address)
		case "udp":
			c, err = net.ListenPacket("udp4", address)
		default: // SCTP: Go has no sockets of it
			continue
		}
		if err != nil {
			closeAll(held)
			return nil, fmt.Errorf("hostPort %d: %w", p.HostPort, err)
		}
		held = append(held, c)
	}
	return held, nil
}

func closeAll(list []io.Closer) {
	for _, c := range list {
		_ = c.Close() // nothing was written
	}
}

// machineDNS is what pods ask where the machine asks a server of its own, which
// they cannot reach; nil where they may ask what the machine does.
func machineDNS() *container.DNS {
	d, unreachable := readDNS("/etc/resolv.conf")
	if unreachable && len(d.Nameservers) == 0 {
		d, _ = readDNS("/run/systemd/resolve/resolv.conf")
	}
	if !unreachable || len(d.Nameservers) == 0 {
		return nil
	}
	return &d
}

// readDNS reads a resolv.conf, without the servers that only the machine can
// reach, and tells whether there are such. Who has no file asks nobody.
func readDNS(file string) (d container.DNS, unreachable bool) {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if ip, err := netip.ParseAddr(fields[1]); err == nil && ip.IsLoopback() {
				unreachable = true
			} else {
				d.Nameservers = append(d.Nameservers, fields[1])
			}
		case "search":
			d.Searches = fields[1:]
		case "options":
			d.Options = fields[1:]
		}
	}
	return d, unreachable
}
