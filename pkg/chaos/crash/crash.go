// Package crash lets a daemon die as by kill -9 and come back after a while, without
// anybody who starts it again: the process replaces its own program by the same
// one, with the same arguments. Files, sockets and locks are closed by the kernel in
// between, nothing is cleaned up, and everything in memory is lost. The new program
// sleeps first, before it opens anything. Its process id is the old one, so whoever
// watches over the process (systemd, `orchctl up`) sees nothing; a real kill is what
// shows whether that one starts it again.
//
// The one invariant: nothing of the old program runs once Now has begun to replace
// it, not even a deferred function.
//
// Read next: daemon.Main, which begins with Wait.
package crash

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// variable tells the new program until when it is down, in nanoseconds of the Unix
// epoch.
const variable = "ORCH_DOWN_UNTIL"

// Now crashes the process, which comes back after down. It returns only where the
// kernel refuses, and then nothing has happened.
func Now(down time.Duration) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("crash: %w", err)
	}
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, variable+"=") {
			env = append(env, v)
		}
	}
	env = append(env, variable+"="+strconv.FormatInt(time.Now().Add(down).UnixNano(), 10))
	return fmt.Errorf("crash: start %s again: %w", program, syscall.Exec(program, os.Args, env))
}

// Wait returns when the time is over that the process is meant to be down after a
// [Now], or when ctx ends; at once in a process that was started in any other way.
func Wait(ctx context.Context) {
	until, err := strconv.ParseInt(os.Getenv(variable), 10, 64)
	// Programs that this one starts are not down.
	if os.Unsetenv(variable) != nil || err != nil {
		return
	}
	select {
	case <-time.After(time.Until(time.Unix(0, until))):
	case <-ctx.Done():
	}
}
