package lifecycle

import (
	"cmp"
	"fmt"
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Explain says in one word and one sentence what was observed that makes the
// status (and with it the ledger) differ from what the pod says: the cause of
// the write. It is a fact where nothing that was written before made it
// necessary: a container ended by itself, or was killed from outside. unready are the
// answers for which containers are not ready, by name.
func Explain(before *v1.Pod, after *v1.PodStatus, ledger string, unready map[string]string) (reason, message string, fact bool) {
	old := map[string]*v1.ContainerStatus{}
	for _, c := range api.AllStatuses(before.GetStatus()) {
		old[c.GetName()] = c
	}
	known := api.TerminationsOf(&v1.Pod{Metadata: &v1.ObjectMeta{Annotations: map[string]string{api.AnnotationTerminations: ledger}}})
	for _, c := range api.AllStatuses(after) {
		limit := api.FindContainer(before.GetSpec(), c.GetName()).GetResources().GetLimits()[api.ResourceMemory]
		if reason, message, fact = explainContainer(old[c.GetName()], c, known, limit); reason != "" {
			if answer := unready[c.GetName()]; reason == "ContainerUnready" && answer != "" {
				message += ": " + answer
			}
			return reason, message, fact
		}
	}
	was := before.GetStatus()
	switch {
	case was.GetPhase() != after.GetPhase() && after.GetReason() != "":
		return after.GetReason(), after.GetMessage(), true
	case was.GetPhase() != after.GetPhase():
		return "PhaseChanged", fmt.Sprintf("the pod's phase is %s", after.GetPhase()), false
	case was.GetPodIp() != after.GetPodIp() && after.GetPodIp() != "":
		return "SandboxReady", "the pod's sandbox has the address " + after.GetPodIp(), false
	case was.GetPodIp() != after.GetPodIp():
		return "SandboxChanged", "the pod's sandbox has ended", true
	case was.GetObservedGeneration() != after.GetObservedGeneration():
		return "GenerationObserved", fmt.Sprintf("the agent saw generation %d of the pod", after.GetObservedGeneration()), false
	case before.GetMetadata().GetAnnotations()[api.AnnotationTerminations] != ledger:
		return "TerminationRecorded", "the agent read the last lines of what ended", false
	}
	return "StatusObserved", "the agent observed the pod's containers", false
}

func explainContainer(was, is *v1.ContainerStatus, known api.Terminations, limit string) (reason, message string, fact bool) {
	name := is.GetName()
	end := cmp.Or(is.GetState().GetTerminated(), is.GetLastState().GetTerminated())
	ended := ""
	if end != nil && end.GetContainerId() != was.GetState().GetTerminated().GetContainerId() &&
		end.GetContainerId() != was.GetLastState().GetTerminated().GetContainerId() {
		entry := known.Find(name, end.GetContainerId())
		ended = fmt.Sprintf("container %s %s", name, describeExit(end, entry, limit))
		fact = entry == nil || entry.Reason != api.ReasonStopped
	}
	waiting := is.GetState().GetWaiting()
	switch {
	case is.GetState().GetRunning() != nil && is.GetContainerId() != was.GetContainerId():
		message = fmt.Sprintf("container %s started", name)
		if ended != "" {
			message = ended + " and was started again"
		} else if is.GetRestartCount() > 0 {
			message = fmt.Sprintf("container %s started again (restart %d)", name, is.GetRestartCount())
		}
		return "ContainerStarted", message, fact
	case ended != "":
		if _, next, ok := strings.Cut(waiting.GetMessage(), "; "); ok {
			ended += "; " + next
		}
		return "ContainerExited", ended, fact
	case waiting != nil && waiting.GetReason() != was.GetState().GetWaiting().GetReason():
		message = fmt.Sprintf("container %s is waiting: %s", name, waiting.GetReason())
		if m := waiting.GetMessage(); m != "" {
			message += ": " + m
		}
		return waiting.GetReason(), message, false
	case is.GetReady() && !was.GetReady():
		return "ContainerReady", fmt.Sprintf("container %s is ready", name), false // it follows from its start, or from when it was not
	case was.GetReady() && !is.GetReady():
		return "ContainerUnready", fmt.Sprintf("container %s is no longer ready", name), true
	}
	return "", "", false
}

// describeExit says how a process ended, and by whose hand as far as the ledger
// knows. Codes over 128 are the shell's and Docker's way to name a signal.
func describeExit(t *v1.ContainerStateTerminated, known *api.Termination, limit string) string {
	code := fmt.Sprintf("exited with code %d", t.GetExitCode())
	reason := t.GetReason()
	if known != nil {
		reason = known.Reason
	}
	switch reason {
	case ReasonOOMKilled:
		if limit != "" {
			return "ran out of memory at " + limit + " and was killed"
		}
		return "was killed for want of memory"
	case ReasonCannotRun:
		return "could not be started: " + t.GetMessage()
	case ReasonStatusUnknown:
		return "is gone, its exit code unknown"
	case api.ReasonKilled:
		return fmt.Sprintf("was killed from outside by signal %d", known.Signal)
	case api.ReasonLivenessFailed:
		return "failed its liveness probe and was stopped"
	case api.ReasonStartupFailed:
		return "failed its startup probe and was stopped"
	case api.ReasonPostStartFailed:
		return "failed its postStart hook and was stopped: " + known.Message
	case api.ReasonStopped:
		return fmt.Sprintf("was stopped (%s) and %s", known.Message, code)
	}
	if n := t.GetExitCode() - signalBase; n > 0 && n <= 64 {
		code += fmt.Sprintf(" (killed by signal %d)", n)
	}
	return code
}
