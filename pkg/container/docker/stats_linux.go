package docker

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"orch/pkg/container"
)

// cgroupStats reads what the kernel counts of a container, from version 1 or 2
// of control groups. It fails where the process is not on this machine, or its
// groups are not seen under the names that the process has for them.
func (r *Runtime) cgroupStats(id string, pid int) (container.Stats, error) {
	s := container.Stats{At: time.Now()}
	if pid <= 0 || !strings.HasPrefix(r.Host(), "unix://") {
		return s, fmt.Errorf("process %d is not known to be on this machine", pid)
	}
	dirs, err := container.Cgroups(id, pid)
	if err != nil {
		return s, err
	}
	if dirs["memory"] != "" {
		return readStats(s, statsFiles{
			cpu: dirs["cpuacct"] + "/cpuacct.usage", unit: time.Nanosecond,
			memory: dirs["memory"] + "/memory.usage_in_bytes", memoryStat: dirs["memory"] + "/memory.stat", inactive: "total_inactive_file",
			pids: dirs["pids"] + "/pids.current",
		})
	}
	if dirs[""] == "" {
		return s, fmt.Errorf("process %d is not of container %s", pid, id)
	}
	return readStats(s, statsFiles{
		cpu: dirs[""] + "/cpu.stat", cpuKey: "usage_usec", unit: time.Microsecond,
		memory: dirs[""] + "/memory.current", memoryStat: dirs[""] + "/memory.stat", inactive: "inactive_file",
		pids: dirs[""] + "/pids.current",
	})
}

// lacksResourceCapability says whether the process behind the engine's socket is
// known to be without CAP_SYS_RESOURCE, as in some virtual machines: without it
// nobody may lower a process's score for the kernel's killer.
func lacksResourceCapability(ctx context.Context, host string) bool {
	path, local := strings.CutPrefix(host, "unix://")
	if !local {
		return false
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	err = raw.Control(func(fd uintptr) {
		peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || peer == nil {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", peer.Pid))
	if err != nil {
		return false // not of this machine
	}
	_, rest, found := strings.Cut(string(status), "\nCapEff:")
	word, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	capabilities, err := strconv.ParseUint(word, 16, 64)
	return found && err == nil && capabilities&(1<<unix.CAP_SYS_RESOURCE) == 0
}

// statsFiles are where a version of control groups has its figures.
type statsFiles struct {
	cpu, cpuKey          string // the key is empty where the file holds one number
	unit                 time.Duration
	memory               string
	memoryStat, inactive string
	pids                 string
}

func readStats(s container.Stats, f statsFiles) (container.Stats, error) {
	cpu, err := readNumber(f.cpu, f.cpuKey)
	if err != nil {
		return s, err
	}
	memory, err := readNumber(f.memory, "")
	if err != nil {
		return s, err
	}
	inactive, err := readNumber(f.memoryStat, f.inactive)
	if err != nil {
		return s, err
	}
	s.CPU, s.MemoryBytes = time.Duration(cpu)*f.unit, max(0, memory-inactive)
	s.PIDs, err = readNumber(f.pids, "")
	return s, err
}

// readNumber reads the number behind the key at the beginning of a line, or the
// file's only one.
func readNumber(file, key string) (int64, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	if key == "" {
		return strconv.ParseInt(string(bytes.TrimSpace(content)), 10, 64)
	}
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.TrimSuffix(fields[0], ":") == key {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no line %s", file, key)
}

// lookAround fills in what this machine tells of itself. What it does not tell
// stays unknown.
func lookAround(m *container.Machine, dir string) {
	total, err := readNumber("/proc/meminfo", "MemTotal")
	available, err2 := readNumber("/proc/meminfo", "MemAvailable")
	if err == nil && err2 == nil {
		m.Memory = container.Room{Capacity: total << 10, Available: available << 10}
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		m.Disk = container.Room{Capacity: int64(fs.Blocks) * fs.Bsize, Available: int64(fs.Bavail) * fs.Bsize}
	}
	most, err := readNumber("/proc/sys/kernel/pid_max", "")
	if running, err2 := tasks(); err == nil && err2 == nil {
		m.PIDs = container.Room{Capacity: most, Available: most - running}
	}
	m.CPU = busy()
}

// tasks counts the machine's processes and threads: the fourth word of loadavg
// is "running/all".
func tasks() (int64, error) {
	content, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	words := strings.Fields(string(content))
	if len(words) < 4 {
		return 0, fmt.Errorf("/proc/loadavg: %q", content)
	}
	_, all, _ := strings.Cut(words[3], "/")
	return strconv.ParseInt(all, 10, 64)
}

// tick is the unit of /proc/stat: a hundredth of a second on every machine that
// Linux's user space still knows.
const tick = 10 * time.Millisecond

// busy is how long processors were neither idle nor waiting for a disk. The
// first line of /proc/stat is "cpu user nice system idle iowait irq softirq
// steal …".
func busy() (sum time.Duration) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(content), "\n")
	for i, word := range strings.Fields(line) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err == nil && i <= 8 && i != 4 && i != 5 {
			sum += time.Duration(n) * tick
		}
	}
	return sum
}
