package agent

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

const (
	// renewEvery is how often the agent says that it lives: often, because a node
	// counts as late soon where others think it dead. It costs the API server a
	// message in memory.
	renewEvery = time.Second
	// renewTimeout is how long it waits for an answer. A call that is under way
	// still counts when it arrives.
	renewTimeout = 2 * time.Second
	// reasonCutOff is why a pod ended that was not to run on.
	reasonCutOff = "NodeCutOff"
)

// keepLease says to the API server that the agent lives, until ctx ends. As long as
// it gets no answer, it ends the pods that must not run on then.
func (a *Agent) keepLease(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for reached := time.Now(); ctx.Err() == nil; {
		if a.renewLease(ctx) {
			reached = time.Now()
		} else {
			a.endCutOff(time.Since(reached))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// heard notes that the API server has answered, whatever.
func (a *Agent) heard() {
	a.mu.Lock()
	a.reached = time.Now()
	a.mu.Unlock()
}

// silent is for how long it has not.
func (a *Agent) silent() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.reached)
}

func (a *Agent) renewLease(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	answer, err := a.options.Client.Cluster().RenewLease(ctx, &v1.RenewLeaseRequest{})
	if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded && code != codes.Canceled {
		a.heard()
	}
	if err != nil {
		return false // others log why
	}
	if answer.GetUnknown() {
		a.node.Unknown()
	}
	return true
}

// endCutOff ends the pods that must not run when the API server did not answer for
// so long.
func (a *Agent) endCutOff(silent time.Duration) {
	for _, pod := range a.mirror.List() {
		m := pod.GetMetadata()
		limit := api.StopWhenCutOff(m)
		if w := a.worker(m.GetUid()); w != nil && limit > 0 && silent >= limit {
			w.end(lifecycle.Verdict{
				Reason: reasonCutOff, Message: fmt.Sprintf("The node did not reach the API server for %v, the limit that the pod sets with %s", limit, api.AnnotationStopWhenCutOff),
				Disruption: true,
			})
		}
	}
}
