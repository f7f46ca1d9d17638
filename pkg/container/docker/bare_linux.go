package docker

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"time"

	"orch/pkg/container"
)

// isNobody finds in /proc/PID/status that the process has become nobody, which
// is the last thing that it does after it has left the machine's network.
var isNobody = regexp.MustCompile(fmt.Sprintf(`(?m)^Uid:\t%d\t%d\t%d\t`, nobody, nobody, nobody))

// awaitBare waits until a sandbox's process has a network of its own. That is a
// few system calls after the engine has started it, and the kernel tells nobody.
func (r *Runtime) awaitBare(ctx context.Context, c container.Container) error {
	process, err := r.openProcess(c.ID, c.PID)
	if err != nil {
		return fmt.Errorf("the sandbox's process has no network of its own: %w", err)
	}
	defer process.Close()
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID))
		switch {
		case err != nil:
			return fmt.Errorf("the sandbox's process could not leave the machine's network: %w", err)
		case isNobody.Match(status):
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
