package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a daemon that outlives orchctl. Its pid file holds the pid and the
// time at which that process started, so that a pid that the kernel has given
// to somebody else since is never taken for ours.
type process struct {
	name    string // "apiserver", "node-1"
	pidFile string
	logFile string
}

// start runs the program in a session of its own, with its output in the log
// file. Whoever is killed in the middle of it leaves either nothing or a process
// with its pid file.
func (p process) start(program string, args ...string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	log, err := os.OpenFile(p.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, run := held(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = filepath.Dir(p.logFile)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	if err == nil {
		// Reap it should it end while orchctl still runs; a zombie looks alive.
		defer func() { go func() { _ = cmd.Wait() }() }()
		id := fmt.Sprintf("%d %s\n", cmd.Process.Pid, startTime(cmd.Process.Pid))
		err = os.WriteFile(p.pidFile, []byte(id), 0o600)
	}
	if err = errors.Join(err, run(err == nil)); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	return nil
}

// held is a command that, once started, waits for run and only then becomes the
// program. It ends without having been that where run is called with false, or
// where this process ends first. The pid is the same all along.
func held(program string, args ...string) (cmd *exec.Cmd, run func(bool) error) {
	cmd = exec.Command("sh", append([]string{"-c", `read -r _ && exec "$@" </dev/null`, "sh", program}, args...)...) //nolint:gosec // orchctl's own daemons
	word, err := cmd.StdinPipe()
	return cmd, func(really bool) error {
		if err != nil {
			return err
		}
		if really {
			_, err = io.WriteString(word, "go\n")
		}
		return errors.Join(err, word.Close())
	}
}

// pid returns the pid of the running process, or 0.
func (p process) pid() int {
	data, err := os.ReadFile(p.pidFile)
	if err != nil {
		return 0
	}
	first, started, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	pid, err := strconv.Atoi(first)
	if err != nil || pid <= 0 || started == "" || startTime(pid) != started {
		return 0
	}
	return pid
}

// stop ends the process: SIGTERM, and SIGKILL after the grace. It returns when
// the process is gone.
func (p process) stop(grace time.Duration) error {
	pid := p.pid()
	if pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGTERM)
		if !p.gone(grace) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			if !p.gone(30 * time.Second) { // a disk that is busy holds up the end
				return fmt.Errorf("%s (pid %d) does not end, not even by SIGKILL", p.name, pid)
			}
		}
	}
	if err := os.Remove(p.pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// gone waits until the process has ended, at most as long as patience. The
// process is nobody's child that could be waited for, so it is looked at.
func (p process) gone(patience time.Duration) bool {
	limit := time.After(patience)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for p.pid() != 0 {
		select {
		case <-look.C:
		case <-limit:
			return false
		}
	}
	return true
}

// tail is the last lines of the log, for error messages.
func (p process) tail(lines int) string {
	data, err := os.ReadFile(p.logFile)
	if err != nil {
		return ""
	}
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return string(bytes.Join(all, []byte("\n")))
}

// startTime is a text that no two processes with one pid share; "" for a
// process that is not there or is a zombie.
func startTime(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil {
		// The second field is the name in parentheses and may hold spaces; after
		// it come the state and, 19 fields on, the start in clock ticks
		// since boot (proc(5)).
		rest := string(data[bytes.LastIndexByte(data, ')')+1:])
		if f := strings.Fields(rest); len(f) > 19 && f[0] != "Z" {
			return f[19]
		}
		return ""
	}
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		return ""
	}
	// No /proc (macOS): ps knows.
	out, err := exec.Command("ps", "-o", "stat=,lstart=", "-p", strconv.Itoa(pid)).Output()
	f := strings.Fields(string(out))
	if err != nil || len(f) < 2 || strings.HasPrefix(f[0], "Z") {
		return ""
	}
	return strings.Join(f[1:], "_")
}
