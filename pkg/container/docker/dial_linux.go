package docker

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"orch/pkg/container"
)

// dialInside connects to localhost in the container's network namespace. A
// socket belongs to the namespace of the thread that makes it, and works from
// everywhere after that. Entered is false where the namespace could not be
// entered; then nothing was tried.
func (r *Runtime) dialInside(ctx context.Context, c container.Container, port int) (conn net.Conn, entered bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, failed := os.Open("/proc/thread-self/ns/net")
		if err = failed; err != nil {
			return
		}
		defer home.Close()
		if err = r.enterNetwork(c); err != nil {
			runtime.UnlockOSThread()
			return
		}
		entered = true
		// A thread that cannot go back stays locked: it ends with this
		// goroutine, and nobody else finds himself in the pod's network.
		defer func() {
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		// Addresses, not a name: for a name Go might make the socket in another
		// goroutine.
		for _, host := range []string{"127.0.0.1", "::1"} {
			tried, failed := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
			if failed == nil {
				conn, err = tried, nil
				return
			}
			if err == nil { // what the first says is what people expect to read
				err = failed
			}
		}
	}()
	<-done
	return conn, entered, err
}

// enterNetwork puts the calling thread into the container's network namespace.
func (r *Runtime) enterNetwork(c container.Container) error {
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.PID))
	if err != nil {
		return err
	}
	defer namespace.Close()
	// After the opening: a number that is used again between the two is noticed.
	process, err := r.openProcess(c.ID, c.PID)
	if err != nil {
		return err
	}
	defer process.Close()
	return os.NewSyscallError("setns", unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET))
}
