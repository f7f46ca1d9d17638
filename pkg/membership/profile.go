package membership

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// Profiles are how fast members find out that one is dead, and so how long a
// member may be deaf before it is thought to be.
var Profiles = []string{"lan", "local", "wan"}

// profile returns memberlist's settings. Its own defaults take 5 s and more to
// call somebody dead, where the aim is that a dead machine's pods run elsewhere
// after 5 s. To be wrong costs little here: a hint counts only where the lease is
// late too.
//
// A probe that fails takes an interval. Then comes the suspicion: SuspicionMult
// intervals where another member confirms it, and SuspicionMaxTimeoutMult times
// that where none does. A protest takes a few rounds of gossip.
func profile(name string) (*memberlist.Config, error) {
	c := memberlist.DefaultLANConfig()
	c.GossipInterval = 100 * time.Millisecond
	c.PushPullInterval = 15 * time.Second
	c.SuspicionMult = 3
	c.SuspicionMaxTimeoutMult = 2
	c.AwarenessMaxMultiplier = 4
	switch name {
	case "lan":
		c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 200*time.Millisecond
		c.TCPTimeout = 2 * time.Second
	case "local": // nothing is lost on the way, but all share a processor
		c.ProbeInterval, c.ProbeTimeout = 400*time.Millisecond, 200*time.Millisecond
		c.TCPTimeout = time.Second
		c.IndirectChecks, c.RetransmitMult = 1, 2
	case "wan":
		c.ProbeInterval, c.ProbeTimeout = 2*time.Second, time.Second
		c.TCPTimeout = 10 * time.Second
		c.SuspicionMult = 4
		c.GossipInterval, c.GossipNodes = 300*time.Millisecond, 4
	default:
		return nil, fmt.Errorf("membership profile %q: want one of %s", name, strings.Join(Profiles, ", "))
	}
	return c, nil
}
