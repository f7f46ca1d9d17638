package fault

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/container"
)

// abilities are what this process can break beyond what the engine does for it.
type abilities struct{ filter, netem, stress bool }

// kernelCan tries in a network of its own that is gone afterwards.
func kernelCan() (can abilities) {
	if os.Geteuid() != 0 {
		return can
	}
	_, err := os.Stat("/sys/fs/cgroup")
	can.stress = err == nil
	_ = container.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		_, err := iptables("-A", "INPUT", "-m", "statistic", "--mode", "random", "--probability", "0.01", "-m", "comment", "--comment", "orch-chaos", "-j", "DROP")
		can.filter = err == nil
		_, err = output("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
		can.netem = err == nil
		return nil
	})
	return can
}

// inNetwork calls f in the network of a sandbox.
func inNetwork(c lifecycle.Container, f func() error) error {
	namespace, err := container.Network(c.ID, c.PID)
	if err != nil {
		return err
	}
	defer namespace.Close()
	return container.InNetwork(namespace, f)
}

// output runs a command, and returns what it prints.
func output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...) //nolint:noctx // these bound themselves
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// stressor is a process of ours in a container's control groups.
type stressor struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	exited chan struct{}
}

// startStressor starts this program as `stress ARGS` under the limits of a container.
// It does nothing before it is there.
func startStressor(c lifecycle.Container, args ...string) (*stressor, error) {
	groups, err := container.Cgroups(c.ID, c.PID)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", append([]string{StressCommand}, args...)...) //nolint:noctx // it ends with its input
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &stressor{cmd: cmd, stdin: stdin, exited: make(chan struct{})}
	go func() { defer close(s.exited); _ = cmd.Wait() }()
	moved := false
	for _, controller := range []string{"", "cpu", "cpuacct", "memory"} {
		dir, ok := groups[controller]
		if _, err := os.Stat(dir); !ok || err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
			s.end()
			return nil, fmt.Errorf("cannot get under the container's limits: %w", err)
		}
		moved = true
	}
	if !moved {
		s.end()
		return nil, fmt.Errorf("the control groups of container %s are not seen here", c.ID)
	}
	if _, err := stdin.Write([]byte("go\n")); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

func (s *stressor) end() {
	_ = s.stdin.Close()
	_ = s.cmd.Process.Kill()
	<-s.exited
}
