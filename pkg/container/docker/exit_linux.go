package docker

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"orch/pkg/container"
)

// Exited returns a channel that is closed when the kernel reports the end of
// the container's process through a pidfd.
//
// That is some 40 ms before the engine knows (its shim has to reap the process,
// then containerd and the engine pass it on), and until then Inspect says
// "running". Who needs the exit code calls Wait, which returns as soon as the
// engine has it. Who only wants a replacement may go ahead.
//
// It works for an engine on a local unix socket whose processes are in this
// machine's PID namespace; elsewhere (a remote engine, Docker Desktop's virtual
// machine, an agent that is itself in a container) the channel is nil.
func (r *Runtime) Exited(ctx context.Context, c container.Container) <-chan struct{} {
	exited := make(chan struct{})
	if c.State == container.StateExited {
		close(exited)
		return exited
	}
	process, err := r.openProcess(c.ID, c.PID)
	if err != nil {
		return nil
	}
	// Go's own poller waits for all of them with one epoll: a goroutine
	// that waits here holds no thread.
	stop := context.AfterFunc(ctx, func() { process.Close() })
	go func() {
		defer stop()
		defer process.Close()
		if waitReadable(process) == nil {
			close(exited)
		}
	}()
	return exited
}

// openProcess returns a pidfd of the process if it is container id's. The check
// comes after the opening: a pidfd stays with its process, so that a number
// that is used again between the two is noticed.
func (r *Runtime) openProcess(id string, pid int) (*os.File, error) {
	if pid <= 0 || !strings.HasPrefix(r.Host(), "unix://") {
		return nil, fmt.Errorf("process %d is not known to be on this machine", pid)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	// A file that does not block is what makes Go poll it.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	process := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid))
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err == nil && !strings.Contains(string(cgroups), id) {
		err = fmt.Errorf("process %d is not of container %s", pid, id)
	}
	if err != nil {
		process.Close()
		return nil, err
	}
	return process, nil
}

// waitReadable blocks until the process has ended (nil) or the file is closed.
func waitReadable(process *os.File) error {
	conn, err := process.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		return n > 0 && err == nil
	})
}

// killProcess sends SIGKILL to a process of container id, if it can be seen.
func (r *Runtime) killProcess(id string, pid int) {
	process, err := r.openProcess(id, pid)
	if err != nil {
		return
	}
	defer process.Close()
	_ = unix.PidfdSendSignal(int(process.Fd()), unix.SIGKILL, nil, 0)
}
