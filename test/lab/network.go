//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"

	"orch/pkg/container"
)

// fault is what happens to the packets that go from one machine to another.
type fault struct {
	from, to *Machine
	percent  int // that are lost
}

// Cut cuts one side off from the other, in both directions. Nobody is told:
// packets vanish.
func (l *Lab) Cut(one, other []*Machine) error {
	l.mark(100, one, other)
	l.mark(100, other, one)
	return l.inflict()
}

// CutOneWay cuts the way from one side to the other; the way back stays.
func (l *Lab) CutOneWay(from, to []*Machine) error {
	l.mark(100, from, to)
	return l.inflict()
}

// Lose loses so many percent of the packets to and from these machines, by
// chance.
func (l *Lab) Lose(percent int, machines ...*Machine) error {
	l.mark(percent, machines, l.Others(machines...))
	l.mark(percent, l.Others(machines...), machines)
	l.mark(percent, machines, machines)
	return l.inflict()
}

// Heal mends all links.
func (l *Lab) Heal() error {
	l.mu.Lock()
	l.faults = nil
	l.mu.Unlock()
	return l.inflict()
}

// Others are all machines but these, the API server's included.
func (l *Lab) Others(but ...*Machine) []*Machine {
	return slices.DeleteFunc(l.all(), func(m *Machine) bool { return slices.Contains(but, m) })
}

func (l *Lab) mark(percent int, from, to []*Machine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range from {
		for _, t := range to {
			l.faults = append(l.faults, fault{f, t, percent})
		}
	}
}

// inflict makes the switch treat packets as the faults say. It happens in the
// switch, not at the machines, so that no firewall of theirs can be in the way, and
// whatever they send is hit: questions for addresses, and pods' packets too.
func (l *Lab) inflict() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	cmd := l.switch_.Command(context.Background(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules(l.faults))
	out, err := cmd.CombinedOutput()
	return output("nft", out, err)
}

// rules is what nft is given: all at once, in place of what there was.
func rules(faults []fault) string {
	var s strings.Builder
	s.WriteString("table bridge faults\ndelete table bridge faults\ntable bridge faults {\n\tchain forward {\n\t\ttype filter hook forward priority 0\n")
	for _, f := range faults {
		fmt.Fprintf(&s, "\t\tiifname %q oifname %q ", f.from.Name, f.to.Name)
		if f.percent < 100 {
			fmt.Fprintf(&s, "numgen random mod 100 < %d ", f.percent)
		}
		s.WriteString("drop\n")
	}
	s.WriteString("\t}\n}\n")
	return s.String()
}

// ip gives commands to the program of this name. It enters the machine's network
// only, so that processes have the numbers that they have outside.
func (m *Machine) ip(ctx context.Context, commands ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", m.pid()), "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	return output(m.Name+": ip", out, err)
}

// Dial opens a connection from the machine, for a client that lives outside.
func (m *Machine) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = m.inside(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// inside calls f in the machine's network. A socket stays where it was made.
func (m *Machine) inside(f func() error) error {
	if !m.Running() {
		return fmt.Errorf("%s is off", m.Name)
	}
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.pid()))
	if err != nil {
		return err
	}
	defer space.Close()
	return container.InNetwork(space, f)
}
