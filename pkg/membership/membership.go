// Package membership is how nodes and API server find out among themselves who
// of them lives: they gossip, by hashicorp/memberlist, which no other package
// imports.
//
// The one invariant: what a member says is a hint. Any of them can be wrong, and
// whoever has the key can lie; so nothing follows from a hint alone, and without
// hints everything still works, more slowly. docs/membership.md has the rules.
//
// memberlist's idea is SWIM (Das, Gupta and Motivala, 2002) with Lifeguard
// (Dadgar, Phillips and Currey, 2017): each member asks another one, now and
// then, whether it lives; who does not answer is asked for by others, and then
// suspected aloud, so that it can protest; who does not protest is dead.
//
// Read next: profile.go (how fast), join.go (how a node becomes a member), then
// pkg/controller/node, which acts on the hints.
package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/memberlist"
)

// State is how a node stands with the other members.
type State string

// States. One that is suspected is Alive until it is Dead.
const (
	Unknown State = ""      // nobody has told
	Alive   State = "alive" // it answers, or protests
	Left    State = "left"  // it said that its agent stops; its containers may go on
	Dead    State = "dead"  // it neither answers nor protests
)

// Server is the node's name by which the API server goes. No node can have it.
const Server = ""

const (
	// rejoinEvery is how often a member that does not see the API server among the
	// living tries to join again.
	rejoinEvery = 2 * time.Second
	// leaveTime is how long each of the two words of farewell may take: a few
	// rounds of gossip, of which a busy machine makes a second or two. Who is not
	// heard counts as dead, not as left.
	leaveTime = 2 * time.Second
)

// Options describe a member.
type Options struct {
	// Node is the node's name, or Server.
	Node string
	// Listen is host:port, for UDP and TCP. The host is an address of this machine;
	// empty is all of them. Port 0 is any.
	Listen string
	// Advertise is where others reach this machine; empty is the host of Listen,
	// or, where that is all, the machine's private address.
	Advertise string
	// Key is what the members share: 32 bytes.
	Key []byte
	// Profile is a name of [Profiles].
	Profile string
	// Logger takes a line for each change, and memberlist's own at level Debug.
	Logger *slog.Logger

	transport memberlist.Transport // in place of a network, for tests
}

// Members is this process as a member, and what it knows of the others.
//
// Concurrency: all methods may be called from several goroutines; Run once.
type Members struct {
	list    *memberlist.Memberlist
	log     *slog.Logger
	leaving atomic.Bool

	mu     sync.Mutex // protects what follows
	nodes  map[string]*node
	listen []func(node string)
}

// node is what is known of a node. Each start of its agent is a member of its
// own, so that a new one need not wait until the old one is buried.
type node struct {
	state State
	lives map[string]bool // the members that are not dead; true: it is leaving
}

// New returns a member that nobody knows yet, and that listens.
func New(o Options) (*Members, error) {
	config, err := configure(o)
	if err != nil {
		return nil, err
	}
	m := &Members{log: o.Logger, nodes: map[string]*node{}}
	config.Name = o.Node + "/" + uuid.NewString()[:8]
	config.Events, config.Delegate = listener{m}, listener{m}
	if m.list, err = memberlist.Create(config); err != nil {
		return nil, fmt.Errorf("gossip on %s: %w", o.Listen, err)
	}
	return m, nil
}

// configure turns options into memberlist's.
func configure(o Options) (*memberlist.Config, error) {
	config, err := profile(o.Profile)
	if err != nil {
		return nil, err
	}
	if len(o.Key) != KeySize {
		return nil, fmt.Errorf("the key of the gossip has %d bytes, want %d", len(o.Key), KeySize)
	}
	config.SecretKey = o.Key
	config.EnableCompression = false // messages are tiny
	config.Logger = slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug)
	config.Transport = o.transport
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("gossip address: %w", err)
	}
	if config.BindPort, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("gossip address %s: want a number for the port", o.Listen)
	}
	config.AdvertisePort = config.BindPort
	if config.BindAddr, err = ipOf(host); err != nil {
		return nil, fmt.Errorf("gossip address: %w", err)
	}
	if o.Advertise != "" {
		if config.AdvertiseAddr, err = ipOf(o.Advertise); err != nil {
			return nil, fmt.Errorf("advertised address of the gossip: %w", err)
		}
	}
	return config, nil
}

// ipOf is the address of a host; of "" or another name of all addresses, 0.0.0.0,
// for which memberlist looks for one to advertise.
func ipOf(host string) (string, error) {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "0.0.0.0", nil
	}
	a, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return "", err
	}
	return a.String(), nil
}

// Port is where the member listens.
func (m *Members) Port() int { return int(m.list.LocalNode().Port) }

// Run stays a member until ctx ends, and then says farewell. Seeds, which may be
// nil, returns the addresses of members to join wherever the API server is not
// seen to live; its error ends Run.
func (m *Members) Run(ctx context.Context, seeds func(context.Context) ([]string, error)) error {
	defer m.leave()
	for ctx.Err() == nil {
		if seeds != nil && m.State(Server) != Alive {
			found, err := seeds(ctx)
			if err != nil {
				return err
			}
			if _, err := m.list.Join(found); err != nil {
				m.log.Debug("gossip cannot be joined", "seeds", found, "error", err)
			}
		}
		select {
		case <-time.After(rejoinEvery):
		case <-ctx.Done():
		}
	}
	return nil
}

// leave tells the others that this member goes by its own will, and how it goes.
// memberlist's own word is not heard apart from death.
func (m *Members) leave() {
	m.leaving.Store(true)
	err := errors.Join(m.list.UpdateNode(leaveTime), m.list.Leave(leaveTime), m.list.Shutdown())
	if err != nil {
		m.log.Debug("gossip was left without a word", "error", err)
	}
}

// State is how a node stands.
func (m *Members) State(name string) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.nodes[name]; n != nil {
		return n.state
	}
	return Unknown
}

// Dead says whether a node is thought to be dead.
func (m *Members) Dead(node string) bool { return m.State(node) == Dead }

// OnChange makes f hear of each node whose state changes from now on. It must not
// block.
func (m *Members) OnChange(f func(node string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listen = append(m.listen, f)
}

// learn takes in how a member stands.
func (m *Members) learn(member string, alive, leaving bool) {
	name, _, _ := strings.Cut(member, "/")
	m.mu.Lock()
	n := m.nodes[name]
	if n == nil {
		n = &node{lives: map[string]bool{}}
		m.nodes[name] = n
	}
	before, state := n.state, Alive
	if alive {
		n.lives[member] = leaving
	} else {
		leaving = n.lives[member]
		delete(n.lives, member)
		switch {
		case len(n.lives) > 0: // the agent was started anew
		case leaving:
			state = Left
		default:
			state = Dead
		}
	}
	n.state = state
	listen := m.listen
	m.mu.Unlock()
	if state == before {
		return
	}
	m.log.Info("member", "node", cmp.Or(name, "(API server)"), "is", string(state))
	for _, f := range listen {
		f(name)
	}
}

// listener is what memberlist tells and asks.
type listener struct{ m *Members }

// leaves is the word of farewell.
var leaves = []byte("leaves")

func (l listener) NotifyJoin(n *memberlist.Node) {
	l.m.learn(n.Name, true, string(n.Meta) == string(leaves))
}
func (l listener) NotifyUpdate(n *memberlist.Node) { l.NotifyJoin(n) }
func (l listener) NotifyLeave(n *memberlist.Node)  { l.m.learn(n.Name, false, false) }

func (l listener) NodeMeta(int) []byte {
	if l.m.leaving.Load() {
		return leaves
	}
	return nil
}
func (listener) NotifyMsg([]byte)                {}
func (listener) GetBroadcasts(int, int) [][]byte { return nil }
func (listener) LocalState(bool) []byte          { return nil }
func (listener) MergeRemoteState([]byte, bool)   {}
