package fault

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// What comes later has to wait somewhere. A pod that sends 5,000 packets in the time
// of a delay is no pod that is to lose some.
func TestWhatComesLaterIsNotLost(t *testing.T) {
	if err := inOwnNetwork(func() error {
		_, err := output("tc", "qdisc", "add", "dev", "lo", "root", "netem")
		return err
	}); err != nil {
		t.Skipf("NO PACKETS CAN BE DELAYED HERE: %v", err)
	}
	for name, peers := range map[string][]string{"to everybody": nil, "to some": {"10.9.8.2"}} {
		t.Run(name, func(t *testing.T) {
			i := &v1.ChaosInjection{Metadata: &v1.ObjectMeta{Uid: "u1"}, Spec: &v1.ChaosInjectionSpec{
				Fault: &v1.ChaosFault{Type: api.FaultNetworkDelay, DelayMilliseconds: 60_000}, PeerAddresses: peers,
			}}
			commands, err := delays(i)
			if err != nil {
				t.Fatal(err)
			}
			var shown string
			err = inOwnNetwork(func() error {
				for _, args := range [][]string{
					{"link", "add", device, "type", "veth", "peer", "name", "other"},
					{"link", "set", "other", "up"},
					{"link", "set", device, "up"},
					{"address", "add", "10.9.8.1/24", "dev", device},
					{"neighbour", "add", "10.9.8.2", "lladdr", "02:00:00:00:00:02", "dev", device},
				} {
					if _, err := output("ip", args...); err != nil {
						return err
					}
				}
				for _, args := range commands {
					if _, err := output("tc", args...); err != nil {
						return err
					}
				}
				if err := send("10.9.8.2:9", 5000); err != nil {
					return err
				}
				shown, err = output("tc", "-s", "qdisc", "show", "dev", device)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			_, netem, _ := strings.Cut(shown, "qdisc netem")
			_, backlog, _ := strings.Cut(netem, "backlog ")
			var size string
			var waiting int // the kernel's own among them
			if _, err := fmt.Sscanf(backlog, "%s %dp", &size, &waiting); err != nil || waiting < 5000 || !strings.Contains(netem, "(dropped 0,") {
				t.Errorf("of 5000 packets %d wait (%v):\n%s", waiting, err, shown)
			}
		})
	}
}

// inOwnNetwork calls f in a network that is gone afterwards.
func inOwnNetwork(f func() error) error {
	return container.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		return f()
	})
}

// send sends n small packets from the calling thread's network.
func send(to string, n int) error {
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64<<20) })
		if err == nil {
			err = failed
		}
		return err
	}}
	conn, err := dialer.DialContext(context.Background(), "udp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	for range n {
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
	}
	return nil
}
