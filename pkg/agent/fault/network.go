package fault

import (
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// mark is the comment of an injection's rules, by which they are found again.
func mark(i *v1.ChaosInjection) string { return "orch-chaos:" + i.GetMetadata().GetUid() }

// A rule stands in a chain of the packet filter of the pod's own network.
type rule struct {
	chain string
	args  []string
}

// rules drop what an injection wants dropped, in both directions: all packets, or
// each with a probability. Without peers that is everything but what the pod says to
// itself, the probes of its node too.
func rules(i *v1.ChaosInjection) (list []rule, err error) {
	var chance []string
	if f := i.GetSpec().GetFault(); f.GetType() == api.FaultNetworkLoss {
		chance = []string{"-m", "statistic", "--mode", "random", "--probability", strconv.FormatFloat(float64(f.GetPercent())/100, 'f', 2, 64)}
	}
	add := func(chain string, match ...string) {
		args := append(match, chance...)
		list = append(list, rule{chain, append(args, "-m", "comment", "--comment", mark(i), "-j", "DROP")})
	}
	peers, err := peers(i)
	for _, p := range peers {
		add("INPUT", "-s", p)
		add("OUTPUT", "-d", p)
	}
	if len(peers) == 0 {
		add("INPUT", "!", "-i", "lo")
		add("OUTPUT", "!", "-o", "lo")
	}
	return list, err
}

// peers are the addresses of the other side, which nobody but the API server has
// looked at.
func peers(i *v1.ChaosInjection) (list []string, err error) {
	for _, text := range i.GetSpec().GetPeerAddresses() {
		a, failed := netip.ParseAddr(text)
		if failed != nil || !a.Is4() {
			return nil, fmt.Errorf("address %q of the other side: want one of IPv4", text)
		}
		list = append(list, a.String())
	}
	return list, nil
}

// device is the pod's end of its cable, as Docker and the native network name it.
const device = "eth0"

// delays are the commands of tc that delay what the pod sends. handle is how they
// are found again.
func delays(i *v1.ChaosInjection) (commands [][]string, err error) {
	root := handle(i)
	// What comes later waits there: of its own accord netem drops what is over 1,000.
	netem := []string{"netem", "limit", "10000", "delay", fmt.Sprintf("%dms", i.GetSpec().GetFault().GetDelayMilliseconds())}
	tc := func(what string, args ...string) {
		commands = append(commands, append([]string{what, "add", "dev", device}, args...))
	}
	peers, err := peers(i)
	if len(peers) == 0 {
		tc("qdisc", append([]string{"root", "handle", root}, netem...)...)
		return commands, err
	}
	// A fourth band, to which only the filters lead.
	tc("qdisc", "root", "handle", root, "prio", "bands", "4")
	tc("qdisc", append([]string{"parent", root + "4"}, netem...)...)
	for _, p := range peers {
		tc("filter", "parent", root, "protocol", "ip", "u32", "match", "ip", "dst", p+"/32", "flowid", root+"4")
	}
	return commands, err
}

// handle names a queue of the kernel: a number of 16 bits and a colon.
func handle(i *v1.ChaosInjection) string {
	sum := crc32.ChecksumIEEE([]byte(i.GetMetadata().GetUid()))
	return fmt.Sprintf("%x:", sum&0x7fff|0x1000)
}

// marked are the numbers of an injection's rules in what `iptables -S CHAIN` prints,
// from the last to the first, so that none changes while they are deleted.
func marked(printed, mark string) (numbers []int) {
	n := 0
	for line := range strings.Lines(printed) {
		if !strings.HasPrefix(line, "-A ") {
			continue
		}
		n++
		if fields := strings.Fields(strings.ReplaceAll(line, `"`, "")); slices.Contains(fields, mark) {
			numbers = append([]int{n}, numbers...)
		}
	}
	return numbers
}

// breakNetwork puts rules into the pod's own network.
func (k *Keeper) breakNetwork(i *v1.ChaosInjection) (what string, err error) {
	s := i.GetSpec()
	if pod := k.o.Pods.Pod(s.GetPodUid(), podKey(i)); pod.GetSpec().GetHostNetwork() {
		return "", errors.New("the pod is on the machine's own network, which others need")
	}
	c, ok := k.sandbox(i)
	if !ok {
		return "", errors.New("the pod's sandbox does not run")
	}
	f := s.GetFault()
	if f.GetType() == api.FaultNetworkDelay {
		commands, err := delays(i)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("what pod %s sends to %s comes %d ms later", s.GetPodName(), others(i), f.GetDelayMilliseconds()), inNetwork(c, func() error {
			for _, args := range commands {
				if _, err := output("tc", args...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	list, err := rules(i)
	if err != nil {
		return "", err
	}
	what = fmt.Sprintf("pod %s is cut off from %s", s.GetPodName(), others(i))
	if f.GetType() == api.FaultNetworkLoss {
		what = fmt.Sprintf("of the packets between pod %s and %s, %d%% are lost on each way", s.GetPodName(), others(i), f.GetPercent())
	}
	return what, inNetwork(c, func() error {
		for _, r := range list {
			if _, err := iptables(append([]string{"-I", r.chain}, r.args...)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// others says who the other side is.
func others(i *v1.ChaosInjection) string {
	if peers := i.GetSpec().GetPeerAddresses(); len(peers) > 0 {
		return strings.Join(peers, ", ")
	}
	return "everybody"
}

// healNetwork takes an injection's rules away. A network that is gone needs no
// healing.
func (k *Keeper) healNetwork(i *v1.ChaosInjection) error {
	c, ok := k.sandbox(i)
	if !ok {
		return nil
	}
	err := inNetwork(c, func() error {
		if i.GetSpec().GetFault().GetType() == api.FaultNetworkDelay {
			printed, err := output("tc", "qdisc", "show", "dev", device, "root")
			if err != nil || !slices.Contains(strings.Fields(printed), handle(i)) {
				return err
			}
			_, err = output("tc", "qdisc", "del", "dev", device, "root")
			return err
		}
		for _, chain := range []string{"INPUT", "OUTPUT"} {
			printed, err := iptables("-S", chain)
			if err != nil {
				return err
			}
			for _, n := range marked(printed, mark(i)) {
				if _, err := iptables("-D", chain, strconv.Itoa(n)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if errors.Is(err, container.ErrNotFound) {
		return nil
	}
	return err
}

func iptables(args ...string) (string, error) {
	return output("iptables", append([]string{"--wait", "5"}, args...)...)
}
