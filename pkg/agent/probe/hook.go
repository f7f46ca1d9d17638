package probe

import (
	"context"
	"fmt"
	"strings"
	"time"

	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// hookAgent is the one by which servers know Kubernetes' hooks.
const hookAgent = "kube-lifecycle/orch"

// Hook does what a container's lifecycle wants done, until ctx ends. Unlike a
// probe, a request is content with any answer.
func (a *Asker) Hook(ctx context.Context, t Target, h *v1.LifecycleHandler) error {
	switch {
	case h.GetExec() != nil:
		var output buffer
		command := h.GetExec().GetCommand()
		code, err := a.runtime.Exec(ctx, t.ID, container.ExecOptions{Command: command, Stdout: &output, Stderr: &output})
		if err == nil && code != 0 {
			said := strings.TrimSuffix(": "+strings.TrimSpace(output.String()), ": ")
			err = fmt.Errorf("command %q ended with code %d%s", strings.Join(command, " "), code, said) //nolint:err113 // for the agent's log
		}
		return err
	case h.GetHttpGet() != nil:
		_, err := a.request(ctx, t, h.GetHttpGet(), hookAgent)
		return err
	}
	timer := time.NewTimer(time.Duration(h.GetSleep().GetSeconds()) * time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
