package lifecycle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"orch/pkg/agent/probe"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// The ledger is what the pod's annotation tells of how containers ended
// ([api.Terminations]). An entry is made as soon as the exit code is known; the
// last lines of the log are read later, when what heals the container is under
// way, and never in its way.

// What is kept of a container's log.
const (
	TailLines = 5
	tailBytes = 512
)

// ReadLog is the verb that reads the last lines of what ended.
const ReadLog Verb = "read log"

const logSlot = "log/"

// signalBase is what shells and engines add to a signal's number to make it an
// exit code.
const signalBase = 128

// The signals that end what does not handle them, and that people send.
var outsideSignals = map[int32]string{9: "SIGKILL", 15: "SIGTERM"}

// observeEnds enters the containers that have ended since the last look.
func (m *Memory) observeEnds(v View) {
	if v.Pod == nil {
		return
	}
	if m.Terminations == nil {
		m.Terminations = api.TerminationsOf(v.Pod)
	}
	w := writer{View: v, old: api.AllStatuses(v.Pod.GetStatus())}
	here := map[string]bool{}
	for _, c := range slices.Concat(v.Containers, slices.Collect(maps.Values(m.Last))) {
		here[c.ID] = true
		known := m.Terminations.Find(c.Name, w.id(c.ID))
		if c.Name == SandboxSlot || c.ID == "" || !c.settled(v.Now) || known != nil && !w.tellsMore(c, known) {
			continue
		}
		e := w.termination(c)
		if known != nil {
			e.Log = known.Log
		}
		m.Terminations.Add(c.Name, e)
	}
	gone := func(id string) bool { return !here[id] }
	maps.DeleteFunc(m.Stopped, func(id string, _ Stopped) bool { return gone(id) })
	maps.DeleteFunc(m.Unhealthy, func(id string, _ probe.Health) bool { return gone(id) })
	maps.DeleteFunc(m.StopBy, func(id string, _ time.Time) bool { return gone(id) })
	maps.DeleteFunc(m.Messages, func(id, _ string) bool { return gone(id) })
	maps.DeleteFunc(m.Killers, func(id string, _ Killer) bool { return gone(id) })
	maps.DeleteFunc(m.PostStart, func(id string, _ error) bool { return gone(id) })
	for _, known := range []map[string]bool{m.LogRead, m.PreStop} {
		maps.DeleteFunc(known, func(id string, _ bool) bool { return gone(id) })
	}
}

// settled says that it has ended and that no more will become known of it.
func (c *Container) settled(now time.Time) bool {
	return c.Exited() && (c.ExitKnown() || c.Lost || !now.Before(c.EndedAt.Add(statusPatience)))
}

// tellsMore says that more has become known of a container since it was entered.
func (w writer) tellsMore(c Container, known *api.Termination) bool {
	return known.Reason == ReasonStatusUnknown && c.ExitKnown() || known.Reason == api.ReasonKilled && w.starved(c)
}

// starved says that want of memory ended a container. An engine remembers of any of its
// processes that it was killed for that; so what ended later, or was ended by somebody,
// did not end for it. (The kubelet of dockershim's time believed the engine; since then
// the kernel kills all processes of a container at once, with 137.)
func (w writer) starved(c Container) bool {
	_, stopped := w.Memory.Stopped[c.ID]
	return c.OOMKilled && c.ExitCode == signalBase+9 && !stopped && w.Memory.Killers[c.ID].Name == ""
}

// termination is the ledger's entry of a container that has ended. Its reason
// says more than the status', whose words are Kubernetes'.
func (w writer) termination(c Container) api.Termination {
	t := w.terminated(c)
	e := api.Termination{
		ContainerID: t.GetContainerId(), RestartCount: int32(c.Attempt),
		FinishedAt: t.GetFinishedAt().AsTime(), ExitCode: t.GetExitCode(),
		Reason: t.GetReason(), Message: t.GetMessage(),
	}
	if t.GetStartedAt() != nil {
		e.StartedAt = t.GetStartedAt().AsTime()
	}
	if n := e.ExitCode - signalBase; n > 0 && n <= 64 && c.ExitKnown() {
		e.Signal = n
	}
	stop, stopped := w.Memory.Stopped[c.ID]
	switch {
	case e.Reason == ReasonStatusUnknown, e.Reason == ReasonCannotRun, e.Reason == ReasonOOMKilled:
	case w.Memory.Unhealthy[c.ID].Failed == probe.Startup:
		e.Reason = api.ReasonStartupFailed
	case w.Memory.Unhealthy[c.ID].Failed != "":
		e.Reason = api.ReasonLivenessFailed
	case w.hookFailed(c):
		e.Reason, e.Message = api.ReasonPostStartFailed, w.Memory.PostStart[c.ID].Error()
	case stopped && w.Memory.Verdict != nil:
		e.Reason, e.Message = w.Memory.Verdict.Reason, w.Memory.Verdict.Message
	case stopped:
		e.Reason, e.Message = api.ReasonStopped, stop.Why
	case outsideSignals[e.Signal] != "":
		e.Reason = api.ReasonKilled
		e.Message = fmt.Sprintf("%s from outside: sent neither by the agent nor for want of memory", outsideSignals[e.Signal])
		if by := w.Memory.Killers[c.ID].Name; by != "" {
			e.Message = fmt.Sprintf("%s by %s", outsideSignals[e.Signal], by)
		} else if w.sandboxEnded(c.Sandbox) {
			e.Message += "; the pod's sandbox ended too, as when the engine is stopped"
		}
	}
	e.Message = clean(e.Message)
	return e
}

func (v View) sandboxEnded(attempt int) bool {
	return slices.ContainsFunc(v.Containers, func(c Container) bool {
		return c.Name == SandboxSlot && c.Attempt == attempt && c.Exited()
	})
}

// ReadLogs are the logs to read beside the plan's actions: of what has ended, and
// is neither being started again nor removed. Nobody reads what becomes of a pod
// that is being deleted.
func ReadLogs(v View, plan Result) []Action {
	if v.Pod == nil || v.Pod.GetMetadata().GetDeletionTimestamp() != nil {
		return nil
	}
	p := planner{View: v}
	for _, c := range v.Containers {
		e := v.Memory.Terminations.Find(c.Name, v.Engine+"://"+c.ID)
		planned := slices.ContainsFunc(plan.Actions, func(a Action) bool { return a.Slot == c.Name || a.Slot == c.ID })
		if e != nil && e.Log == "" && !v.Memory.LogRead[c.ID] && !planned && p.free(c.Name) && p.free(c.ID) {
			p.do(Action{Verb: ReadLog, Slot: logSlot + c.ID, Container: c.Name, ID: c.ID, Attempt: c.Attempt})
		}
	}
	return p.Actions
}

// The kubelet's figures: how much of a log stands for a message, and how much the
// messages of a pod's containers may have together.
const (
	MessageLines    = 80
	messageLogBytes = 2048
	messagesBytes   = 12 << 10
)

// TookMessage enters what a container said at its end: what it wrote to its
// file, or, where it failed without a word and its policy says so, the end of
// its log.
func (m *Memory) TookMessage(spec *v1.PodSpec, a Action, message string, log []byte) {
	c := api.FindContainer(spec, a.Container)
	last := m.Last[a.Container]
	if b := m.Before[a.Container]; b.ID == a.ID {
		last = b
	}
	failed := last.ID != a.ID || last.ExitCode != 0
	if message == "" && failed && c.GetTerminationMessagePolicy() == api.TerminationMessageFallback {
		message = string(log[max(0, len(log)-messageLogBytes):])
	}
	message = message[:min(len(message), messagesBytes/len(api.AllContainers(spec)))]
	if message = strings.ToValidUTF8(message, ""); message != "" {
		m.Messages[a.ID] = message
	}
}

// TookLog enters the end of a log, as far as it is text.
func (m *Memory) TookLog(engine, name, id string, log []byte) {
	m.LogRead[id] = true
	if e := m.Terminations.Find(name, engine+"://"+id); e != nil {
		e.Log = clean(string(log))
	}
}

// clean keeps the last lines of a text, as valid UTF-8 that does nothing to a
// terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	s = strings.Join(lines[max(0, len(lines)-TailLines):], "\n")
	if len(s) > tailBytes {
		s = strings.ToValidUTF8(s[len(s)-tailBytes:], "") // a rune may have been cut
	}
	return s
}

// Ledger is the value of the pod's annotation; "" says nothing.
func Ledger(v View) string { return v.Memory.Terminations.String() }
