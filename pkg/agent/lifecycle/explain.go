package lifecycle

import (
	"cmp"
	"fmt"
	"maps"
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Hints are what an agent knows beside a pod's status of why it is so.
type Hints struct {
	// Unready are the answers for which containers are not ready, by their names.
	Unready map[string]string
	// Killers are who had containers killed, by their ids.
	Killers map[string]Killer
}

// HintsOf are those of the present moment.
func HintsOf(v View) Hints {
	h := Hints{Unready: map[string]string{}, Killers: maps.Clone(v.Memory.Killers)}
	for name, c := range v.Memory.Last {
		h.Unready[name] = v.Health[c.ID].Unready
	}
	return h
}

// Explanation is why a status is written.
type Explanation struct {
	Reason, Message string
	// Fact says that nothing that was written before made it necessary: a container
	// ended by itself, or was killed from outside.
	Fact bool
	// Trigger is the revision that is known to have brought it about; 0: none.
	Trigger int64
	// Suspects are the types of faults that can have brought it about, as long as the
	// pod suffers from one.
	Suspects []string
}

// What hinders a container may be why it does not answer, or ends; only want of
// memory is why it is ended for that.
var (
	hindering = []string{
		api.FaultPauseContainer, api.FaultStressCPU, api.FaultStressMemory, api.FaultNetworkCut, api.FaultNetworkLoss, api.FaultNetworkDelay,
	}
	starving = []string{api.FaultStressMemory}
)

// Explain says in one word and one sentence what was observed that makes the
// status (and with it the ledger) differ from what the pod says: the cause of
// the write.
func Explain(before *v1.Pod, after *v1.PodStatus, ledger string, hints Hints) Explanation {
	old := map[string]*v1.ContainerStatus{}
	for _, c := range api.AllStatuses(before.GetStatus()) {
		old[c.GetName()] = c
	}
	known := api.TerminationsOf(&v1.Pod{Metadata: &v1.ObjectMeta{Annotations: map[string]string{api.AnnotationTerminations: ledger}}})
	for _, c := range api.AllStatuses(after) {
		limit := api.FindContainer(before.GetSpec(), c.GetName()).GetResources().GetLimits()[api.ResourceMemory]
		if x := explainContainer(old[c.GetName()], c, known, limit, hints); x.Reason != "" {
			return x
		}
	}
	was := before.GetStatus()
	switch {
	case was.GetPhase() != after.GetPhase() && after.GetReason() != "":
		return Explanation{Reason: after.GetReason(), Message: after.GetMessage(), Fact: true, Suspects: starving}
	case was.GetPhase() != after.GetPhase():
		return Explanation{Reason: "PhaseChanged", Message: fmt.Sprintf("the pod's phase is %s", after.GetPhase())}
	case was.GetPodIp() != after.GetPodIp() && after.GetPodIp() != "":
		return Explanation{Reason: "SandboxReady", Message: "the pod's sandbox has the address " + after.GetPodIp()}
	case was.GetPodIp() != after.GetPodIp():
		return Explanation{Reason: "SandboxChanged", Message: "the pod's sandbox has ended", Fact: true}
	case was.GetObservedGeneration() != after.GetObservedGeneration():
		return Explanation{Reason: "GenerationObserved", Message: fmt.Sprintf("the agent saw generation %d of the pod", after.GetObservedGeneration())}
	case before.GetMetadata().GetAnnotations()[api.AnnotationTerminations] != ledger:
		return Explanation{Reason: "TerminationRecorded", Message: "the agent read the last lines of what ended"}
	}
	return Explanation{Reason: "StatusObserved", Message: "the agent observed the pod's containers"}
}

func explainContainer(was, is *v1.ContainerStatus, known api.Terminations, limit string, hints Hints) (x Explanation) {
	name := is.GetName()
	end := cmp.Or(is.GetState().GetTerminated(), is.GetLastState().GetTerminated())
	ended := ""
	told := func(t *v1.ContainerStateTerminated) bool { // with its exit code, if it is known
		return t.GetContainerId() == end.GetContainerId() && (t.GetReason() != ReasonStatusUnknown || end.GetReason() == ReasonStatusUnknown)
	}
	if end != nil && !told(was.GetState().GetTerminated()) && !told(was.GetLastState().GetTerminated()) {
		entry := known.Find(name, end.GetContainerId())
		ended = fmt.Sprintf("container %s %s", name, describeExit(end, entry, limit))
		_, id, _ := strings.Cut(end.GetContainerId(), "://")
		x = Explanation{Fact: entry == nil || entry.Reason != api.ReasonStopped, Trigger: hints.Killers[id].Revision}
		switch {
		case end.GetReason() == ReasonOOMKilled:
			x.Suspects = starving
		case entry == nil || entry.Reason != api.ReasonKilled: // who is killed from outside was not hindered
			x.Suspects = hindering
		}
	}
	waiting := is.GetState().GetWaiting()
	switch {
	case is.GetState().GetRunning() != nil && is.GetContainerId() != was.GetContainerId():
		x.Reason, x.Message = "ContainerStarted", fmt.Sprintf("container %s started", name)
		if ended != "" {
			x.Message = ended + " and was started again"
		} else if is.GetRestartCount() > 0 {
			x.Message = fmt.Sprintf("container %s started again (restart %d)", name, is.GetRestartCount())
		}
	case ended != "":
		if _, next, ok := strings.Cut(waiting.GetMessage(), "; "); ok {
			ended += "; " + next
		}
		x.Reason, x.Message = "ContainerExited", ended
	case waiting != nil && waiting.GetReason() != was.GetState().GetWaiting().GetReason():
		x.Reason, x.Message = waiting.GetReason(), fmt.Sprintf("container %s is waiting: %s", name, waiting.GetReason())
		if m := waiting.GetMessage(); m != "" {
			x.Message += ": " + m
		}
	case is.GetReady() && !was.GetReady(): // it follows from its start, or from when it was not
		x.Reason, x.Message = "ContainerReady", fmt.Sprintf("container %s is ready", name)
	case was.GetReady() && !is.GetReady():
		x = Explanation{Reason: "ContainerUnready", Message: fmt.Sprintf("container %s is no longer ready", name), Fact: true, Suspects: hindering}
		if answer := hints.Unready[name]; answer != "" {
			x.Message += ": " + answer
		}
	}
	return x
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
