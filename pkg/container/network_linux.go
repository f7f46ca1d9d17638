package container

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Network opens the network of a container of this machine, by a process of it; close
// it. It fails with [ErrNotFound] where the process is gone, or is another one's by
// now, and where the network is the machine's own.
func Network(id string, pid int) (*os.File, error) {
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	} else if err != nil {
		return nil, err
	}
	there, failed := namespace.Stat()
	here, err := os.Stat("/proc/thread-self/ns/net")
	// After the opening: a number that is used again between the two is noticed.
	_, gone := Cgroups(id, pid)
	switch err = errors.Join(failed, err); {
	case gone != nil:
		err = fmt.Errorf("%w: %w", ErrNotFound, gone)
	case os.SameFile(here, there):
		err = errors.New("the container is in the machine's own network")
	}
	if err != nil {
		namespace.Close()
		return nil, err
	}
	return namespace, nil
}

// InNetwork calls f in a network.
func InNetwork(namespace *os.File, f func() error) error {
	return OnThread(func() error {
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

// OnThread calls f on a thread that is never used again, so that f may change what
// belongs to a thread, and its children inherit. It is not the process's first: that
// one's network is the process's for all who look it up in /proc, and Go does not end
// it.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		done <- OnThread(f) // on another one, as this one waits
		runtime.UnlockOSThread()
	}()
	return <-done
}
