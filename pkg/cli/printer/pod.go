package printer

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// podCells are the columns READY, STATUS and RESTARTS of a pod, as kubectl
// chooses them: while init containers run, the status is theirs; afterwards it
// is the phase, or what is more telling (CrashLoopBackOff, OOMKilled,
// Terminating). Sidecars count with the containers.
func podCells(p *v1.Pod, now time.Time) (ready, status, restarts string) {
	status = p.GetStatus().GetPhase()
	if r := p.GetStatus().GetReason(); r != "" {
		status = r
	}
	// A container of a pod that has ended waits for nothing; what it waited for
	// says less than why the pod ended.
	ended := api.IsPodTerminal(p) && p.GetStatus().GetReason() != ""
	isReady, total := 0, len(api.LastingContainers(p.GetSpec()))
	var steps, lasting, sidecars restartCount
	initializing := false
	for i, s := range p.GetStatus().GetInitContainerStatuses() {
		sidecar := api.IsSidecar(api.FindContainer(p.GetSpec(), s.GetName()))
		steps.add(s)
		if sidecar {
			sidecars.add(s)
		}
		t, w := s.GetState().GetTerminated(), s.GetState().GetWaiting()
		if t != nil && t.GetExitCode() == 0 {
			continue
		}
		if sidecar && s.GetStarted() {
			if s.GetReady() {
				isReady++
			}
			continue
		}
		initializing = true
		switch {
		case t == nil && ended:
		case t != nil:
			status = "Init:" + exitWord(t)
		case w.GetReason() != "" && w.GetReason() != "PodInitializing":
			status = "Init:" + w.GetReason()
		default:
			status = fmt.Sprintf("Init:%d/%d", i, len(p.GetSpec().GetInitContainers()))
		}
		break
	}
	count := steps
	if !initializing || api.GetCondition(p.GetStatus().GetConditions(), api.PodInitialized).GetStatus() == api.ConditionTrue {
		lasting = sidecars
		running := false
		for _, s := range slices.Backward(p.GetStatus().GetContainerStatuses()) {
			lasting.add(s)
			t, w := s.GetState().GetTerminated(), s.GetState().GetWaiting()
			switch {
			case ended && (w != nil || t != nil && t.GetContainerId() == ""): // it never ran
			case w.GetReason() != "":
				status = w.GetReason()
			case t != nil:
				status = exitWord(t)
			case s.GetReady() && s.GetState().GetRunning() != nil:
				running = true
				isReady++
			}
		}
		if status == "Completed" && running {
			status = "NotReady"
			if api.IsPodReady(p) {
				status = "Running"
			}
		}
		count = lasting
	}
	if p.GetMetadata().GetDeletionTimestamp() != nil && !api.IsPodTerminal(p) {
		status = "Terminating"
	}
	return fmt.Sprintf("%d/%d", isReady, total), cmp.Or(status, "Pending"), count.text(now)
}

// exitWord says how a container ended.
func exitWord(t *v1.ContainerStateTerminated) string {
	switch {
	case t.GetReason() != "":
		return t.GetReason()
	case t.GetSignal() != 0:
		return fmt.Sprintf("Signal:%d", t.GetSignal())
	}
	return fmt.Sprintf("ExitCode:%d", t.GetExitCode())
}

// restartCount sums restarts up, and knows when the last one was.
type restartCount struct {
	n    int
	last *v1Time
}

func (r *restartCount) add(s *v1.ContainerStatus) {
	r.n += int(s.GetRestartCount())
	if t := s.GetLastState().GetTerminated().GetFinishedAt(); t != nil && (r.last == nil || t.AsTime().After(r.last.AsTime())) {
		r.last = t
	}
}

func (r *restartCount) text(now time.Time) string {
	if r.n == 0 || r.last == nil {
		return strconv.Itoa(r.n)
	}
	return fmt.Sprintf("%d (%s ago)", r.n, Age(r.last, now))
}
