//go:build linux

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"orch/pkg/container/docker"
)

// Machine is a machine of a lab. It can be killed and booted again; what is on
// its disk and its address stay.
type Machine struct {
	Name string
	// Address is its address on the switch.
	Address string
	// Dir is its disk.
	Dir string
	// LiveRestore lets containers outlive the engine, as dockerd's flag of this
	// name does. It counts from the next [Machine.StartEngine] on.
	LiveRestore bool

	lab    *Lab
	mac    string
	bridge string // address and prefix of its containers; "": it has no engine

	first *exec.Cmd      // the first process; nil: the machine is off
	plug  io.WriteCloser // where it is given orders; it ends when this is closed
	says  *bufio.Reader  // what it answers
}

// machine describes a machine by the last number of its address.
func (l *Lab) machine(name string, n int) *Machine {
	m := &Machine{Name: name, Address: fmt.Sprintf("10.77.0.%d", n), Dir: filepath.Join(l.Dir, name), lab: l, mac: fmt.Sprintf("02:00:0a:4d:00:%02x", n), LiveRestore: true}
	if n > 10 && !l.options.Fake {
		m.bridge = fmt.Sprintf("10.88.%d.1/24", n-10)
	}
	return m
}

// Boot starts the machine, joins it to the switch, and starts its engine.
func (m *Machine) Boot(ctx context.Context) error {
	if err := m.power(ctx); err != nil {
		return err
	}
	if err := m.lab.switch_.ip(ctx,
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %d", m.Name, m.mac, m.pid()),
		fmt.Sprintf("link set %s master switch up", m.Name),
	); err != nil {
		return err
	}
	if err := m.ip(ctx,
		"link set lo up", "addr add "+m.Address+"/24 dev eth0", "link set eth0 up",
		// It leads nowhere. But where there is no route, a service's address is
		// refused before it can be translated.
		"route add default via "+m.lab.switch_.Address,
	); err != nil {
		return err
	}
	if m.Simulated() {
		return nil
	}
	return m.StartEngine(ctx)
}

// power starts the first process.
func (m *Machine) power(ctx context.Context) error {
	if m.first != nil {
		return fmt.Errorf("%s runs already", m.Name)
	}
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	first := exec.CommandContext(context.WithoutCancel(ctx), program)
	first.Args = []string{initName, m.Name}
	first.Stderr = os.Stderr
	first.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // an interrupt at the keyboard is the lab's affair
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	plug, err := first.StdinPipe()
	if err != nil {
		return err
	}
	says, err := first.StdoutPipe()
	if err != nil {
		return err
	}
	if err := first.Start(); err != nil {
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	m.plug, m.says = plug, bufio.NewReader(says)
	if err := m.answer(); err != nil {
		_ = first.Process.Kill()
		return errors.Join(fmt.Errorf("start %s: %w", m.Name, err), first.Wait())
	}
	m.first = first
	return nil
}

// Kill pulls the plug: nothing that runs on the machine can do anything more.
func (m *Machine) Kill() error {
	if m.first == nil {
		return nil
	}
	err := m.first.Process.Kill()
	_ = m.first.Wait() // it was killed, and so were all others before it could be waited for
	m.plug.Close()
	m.first = nil
	if err != nil {
		return fmt.Errorf("kill %s: %w", m.Name, err)
	}
	if m != m.lab.switch_ {
		// The kernel clears a network away after its last process, some time. An
		// error says that it has done so.
		_ = m.lab.switch_.ip(context.Background(), "link delete "+m.Name)
	}
	return removeGroups(m.group())
}

// Running says whether the machine is on.
func (m *Machine) Running() bool { return m.first != nil }

func (m *Machine) pid() int { return m.first.Process.Pid }

// group is the name of the control group of the machine's containers.
func (m *Machine) group() string { return filepath.Base(m.lab.Dir) + "-" + m.Name }

// Command is a command on the machine. It ends when ctx does.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	// Who enters a namespace of processes starts a child in it. That one is to
	// end with its parent, which is all that a caller has in hand.
	enter := []string{"--target", strconv.Itoa(m.pid()), "--net", "--mount", "--pid", "--uts", "--ipc", "--wd=.", "--", "setpriv", "--pdeathsig", "KILL", "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = m.env()
	return cmd
}

// Run runs a command on the machine and returns what it prints.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := m.Command(ctx, name, args...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(out), output(m.Name+": "+strings.Join(append([]string{name}, args...), " "), exit.Stderr, err)
	}
	return string(out), err
}

// Start starts a program that goes on running until it is killed or the machine
// is. What it says is added to NAME.log in the machine's folder.
func (m *Machine) Start(name string, args ...string) error {
	path := filepath.Join(m.lab.bin, name)
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath(name); err != nil {
			return err
		}
	}
	err := json.NewEncoder(m.plug).Encode(order{Path: path, Log: m.Log(name), Args: append([]string{name}, args...), Env: m.env()})
	if err == nil {
		err = m.answer()
	}
	if err != nil {
		return fmt.Errorf("%s: start %s: %w", m.Name, name, err)
	}
	return nil
}

// answer is what the first process says next.
func (m *Machine) answer() error {
	line, err := m.says.ReadString('\n')
	if line != ready {
		return errors.Join(errors.New(strings.TrimSpace(line)), err)
	}
	return nil
}

// env is the environment of programs on the machine: Orch's are in the PATH, and
// orchctl knows the cluster.
func (m *Machine) env() []string {
	own := []string{"PATH=" + m.lab.bin + ":" + os.Getenv("PATH"), "ORCH_HOME=" + m.lab.home(), "DOCKER_HOST="}
	return (&exec.Cmd{Env: append(os.Environ(), own...)}).Environ() // each once
}

// Log is the file with what a program has said.
func (m *Machine) Log(program string) string { return filepath.Join(m.Dir, program+".log") }

// Signal sends a signal to all processes of the machine with this name, and
// waits for their end where that is what the signal brings.
func (m *Machine) Signal(name string, signal syscall.Signal) error {
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.pid()))
	if err != nil {
		return err
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	found := 0
	for _, file := range names {
		dir := filepath.Dir(file)
		comm, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue
		}
		if space, err := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || space != own {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return err
		}
		if err := signalAndWait(pid, signal); err != nil {
			return fmt.Errorf("%s: signal %s: %w", m.Name, name, err)
		}
		found++
	}
	if found == 0 {
		return fmt.Errorf("%s: %w %s", m.Name, errNoProcess, name)
	}
	return nil
}

var errNoProcess = errors.New("no process is called")

func signalAndWait(pid int, signal syscall.Signal) error {
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { _ = unix.Close(process) }()
	if err := unix.PidfdSendSignal(process, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	if signal == syscall.SIGSTOP || signal == syscall.SIGCONT {
		return nil
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, int(time.Minute/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("process %d goes on after %v", pid, signal)
		default:
			return nil
		}
	}
}

// StartEngine starts the machine's Docker engine and waits until it answers.
func (m *Machine) StartEngine(ctx context.Context) error {
	run := m.run()
	// One that was killed has left these; the next would wait for the processes
	// of those numbers.
	for _, file := range []string{"docker.pid", "docker/containerd/containerd.pid"} {
		if err := os.Remove(filepath.Join(run, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	config := filepath.Join(m.Dir, "docker.json") // not that of the machine that the lab runs on
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		return err
	}
	if err := m.Start("dockerd", "--config-file", config, "--data-root", filepath.Join(m.Dir, "docker"), "--bip", m.bridge,
		"--cgroup-parent", "/"+m.group(), "--exec-opt", "native.cgroupdriver=cgroupfs", fmt.Sprintf("--live-restore=%v", m.LiveRestore)); err != nil {
		return err
	}
	engine, err := m.Engine()
	if err != nil {
		return err
	}
	defer engine.Close()
	err = eventually(func() error { _, err := engine.Info(ctx); return err })
	if err != nil {
		return fmt.Errorf("%s: the engine does not answer: %w; its log ends with: %s", m.Name, err, tail(m.Log("dockerd")))
	}
	return nil
}

// KillEngine kills dockerd and containerd with SIGKILL.
func (m *Machine) KillEngine() error {
	if err := m.Signal("dockerd", syscall.SIGKILL); err != nil {
		return err
	}
	if err := m.Signal("containerd", syscall.SIGKILL); !errors.Is(err, errNoProcess) { // it may die with its parent
		return err
	}
	return nil
}

// Engine connects to the machine's engine. The caller closes it; it is good
// until the machine is killed.
func (m *Machine) Engine() (*docker.Runtime, error) {
	return docker.New("unix://" + filepath.Join(m.run(), "docker.sock"))
}

// run is the machine's /run as this process can see it.
func (m *Machine) run() string { return fmt.Sprintf("/proc/%d/root/run", m.pid()) }

// patience is how long something may take that takes a second or two.
const patience = time.Minute

// eventually tries until it works, or patience ends.
func eventually(try func() error) error {
	deadline := time.After(patience)
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-deadline:
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tail is the end of a file.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-1500):])
}

// Simulated says that the machine has no engine.
func (m *Machine) Simulated() bool { return m.bridge == "" }
