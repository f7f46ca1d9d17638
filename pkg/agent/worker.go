package agent

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"orch/pkg/agent/eviction"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/agent/probe"
	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// worker keeps one pod, from the first sight of it or of a container of it to
// the moment when neither is left.
//
// Concurrency: poke and engineIsBack may be called from several goroutines;
// Run once.
type worker struct {
	agent *Agent
	uid   string
	key   api.Key

	wake   chan struct{} // of size 1: something may have changed
	ending chan struct{} // closed by step when the pod is to end
	calls  sync.WaitGroup
	// reporter writes the status.
	reporter *reporter
	probes   *probe.Set

	mu       sync.Mutex // protects what follows
	memory   *lifecycle.Memory
	cancel   map[string]context.CancelFunc // calls under way, by slot
	revision int64                         // of the last change of the pod
	told     map[string]int                // attempt whose back-off was announced, by container
	blamed   map[string]string             // what of its configuration was announced, by container
	looked   chan struct{}                 // closed and replaced after each look; stays closed after the last
	unmade   map[string]string             // what of its volumes was announced, by volume
}

func newWorker(a *Agent, uid string, key api.Key) *worker {
	w := &worker{
		agent: a, uid: uid, key: key,
		wake:     make(chan struct{}, 1),
		ending:   make(chan struct{}),
		reporter: newReporter(a, uid, key),
		memory:   lifecycle.NewMemory(),
		cancel:   map[string]context.CancelFunc{},
		told:     map[string]int{},
		blamed:   map[string]string{},
		looked:   make(chan struct{}),
	}
	w.memory.Mounted = a.volumes.Has(uid)
	for _, name := range a.volumes.Known(uid) {
		w.memory.Volumes[name] = ""
	}
	w.probes = probe.NewSet(a.asker.Ask, func() { w.poke(0) }, w.unhealthy)
	return w
}

// unhealthy tells people of a probe's bad answer.
func (w *worker) unhealthy(ctx context.Context, _ probe.Target, message string) {
	if pod := w.agent.pod(w.uid, w.key); pod != nil {
		w.event(ctx, pod, api.EventWarning, "Unhealthy", "%s", message)
	}
}

// poke makes the worker look again.
func (w *worker) poke(revision int64) {
	if revision != 0 {
		w.mu.Lock()
		w.revision = max(w.revision, revision)
		w.mu.Unlock()
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// engineIsBack forgets what failed only because the engine was away.
func (w *worker) engineIsBack() {
	w.mu.Lock()
	maps.DeleteFunc(w.memory.Failures, func(_ string, f lifecycle.Failure) bool { return f.Reason == "" })
	w.mu.Unlock()
	w.poke(0)
}

// halt gives up the calls under way, and returns when they have. The agent is halted:
// no more begin.
func (w *worker) halt() {
	w.mu.Lock()
	for _, cancel := range w.cancel {
		cancel()
	}
	w.mu.Unlock()
	w.calls.Wait()
}

// end makes the agent end the pod, unless it is ending.
func (w *worker) end(v lifecycle.Verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.memory.Verdict == nil {
		w.memory.Verdict = &v
		w.poke(0)
	}
}

// Run keeps the pod until nothing is left of it, or until ctx ends and the
// calls under way have returned.
func (w *worker) Run(ctx context.Context) error {
	defer w.reporter.Wait()
	defer w.calls.Wait()
	defer w.probes.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	defer w.hasLooked(false)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-timer.C:
		}
		wake, done := w.step(ctx)
		w.hasLooked(true)
		if done && w.agent.retire(w) {
			return nil
		}
		timer.Reset(wake)
	}
}

// hasLooked wakes who waits for a look; again says that there will be another.
func (w *worker) hasLooked(again bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.looked)
	if again {
		w.looked = make(chan struct{})
	}
}

// step looks, decides, begins what was decided, and reports. It returns when to
// look again at the latest, and whether nothing is left to look at.
func (w *worker) step(ctx context.Context) (wake time.Duration, done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.agent.halted.Load() || w.agent.observer.Unseen(w.uid) { // what runs would look as if it were gone
		return math.MaxInt64, false
	}
	v := lifecycle.View{
		Pod:         w.agent.pod(w.uid, w.key),
		Containers:  w.agent.observer.Pod(w.uid),
		Memory:      w.memory,
		HostIP:      w.agent.options.Address,
		Engine:      w.agent.node.Engine(),
		Objects:     w.agent.objects.Get,
		Digests:     w.agent.node.Digests,
		Allocatable: w.agent.node.Allocatable(),
		Refused:     func(s *v1.PodSpec) string { return eviction.Refuses(w.agent.node.Pressure(), s) },
		Health:      w.probes.Health(),
		Now:         time.Now(),
		Shift:       w.agent.clock.Shift(),
	}
	for _, c := range v.Containers {
		if i := w.agent.faults.StoppedBy(c.EndedAt); i != nil && c.Exited() {
			w.killedBy(c.ID, i)
		}
	}
	w.memory.Observe(v)
	if v.Ending() {
		w.agent.objects.Use(w.uid, nil)
	} else {
		w.agent.objects.Use(w.uid, api.References(v.Pod))
	}
	plan := lifecycle.Plan(v)
	if plan.Verdict != nil {
		w.agent.log.Info("pod has to end", "pod", w.key, "reason", plan.Verdict.Reason)
		kind := api.EventNormal
		if plan.Verdict.Reason == eviction.Reason {
			kind = api.EventWarning
		}
		w.event(ctx, v.Pod, kind, plan.Verdict.Reason, "%s", plan.Verdict.Message)
		w.memory.Verdict = plan.Verdict
		w.poke(0)
	}
	w.forgetHooks(v.Containers)
	if v.Ending() {
		select {
		case <-w.ending:
		default:
			close(w.ending)
		}
		w.giveUp(v.Now)
	}
	w.probes.Sync(ctx, lifecycle.Targets(v))
	for _, action := range append(plan.Actions, lifecycle.ReadLogs(v, plan)...) {
		w.begin(client.WithTrigger(ctx, w.revision), v.Pod, action)
	}
	if v.Pod != nil {
		w.announce(ctx, v.Pod, plan)
		w.memory.Status = lifecycle.Status(v)
		w.reporter.Report(client.WithTrigger(ctx, w.revision), v.Pod, w.memory.Status, lifecycle.Ledger(v), lifecycle.HintsOf(v))
	}
	wake = math.MaxInt64
	for _, t := range []time.Time{plan.Wake, lifecycle.StatusDue(v)} {
		if !t.IsZero() {
			wake = min(wake, max(0, t.Sub(v.Now)))
		}
	}
	return wake, plan.Done
}

// killedBy makes the end of a container the work of an injection, unless it is
// another's already. The caller holds w.mu.
func (w *worker) killedBy(id string, i *v1.ChaosInjection) {
	if _, taken := w.memory.Killers[id]; !taken {
		w.memory.Killers[id] = lifecycle.Killer{Name: "chaosinjection/" + i.GetMetadata().GetName(), Revision: i.GetMetadata().GetResourceVersion()}
	}
}

// ready tells whether a container is, as the worker saw when it looked last; nil where
// it does not know.
func (w *worker) ready(id string) *bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.memory.Status.GetContainerStatuses() {
		if strings.HasSuffix(s.GetContainerId(), "://"+id) {
			return new(s.GetReady())
		}
	}
	return nil
}

// forgetHooks ends hooks of containers that do not run any more.
func (w *worker) forgetHooks(containers []lifecycle.Container) {
	for slot := range w.memory.Busy {
		id, isHook := strings.CutPrefix(slot, lifecycle.HookSlot)
		lives := func(c lifecycle.Container) bool { return c.ID == id && c.Running() }
		if isHook && !slices.ContainsFunc(containers, lives) {
			w.cancel[slot]()
		}
	}
}

// giveUp ends calls that an ending pod does not need: pulls and postStart hooks
// at once, and starts that have still not returned when everything should have
// been killed.
func (w *worker) giveUp(now time.Time) {
	for slot, verb := range w.memory.Busy {
		starting := verb == lifecycle.Start || verb == lifecycle.Create || verb == lifecycle.CreateSandbox
		if verb == lifecycle.Pull || verb == lifecycle.PostStart || starting && !now.Before(w.memory.Deadline.Add(lifecycle.StartPatience)) {
			w.cancel[slot]()
		}
	}
}

// begin carries an action out in the background. The caller holds w.mu.
func (w *worker) begin(ctx context.Context, pod *v1.Pod, a lifecycle.Action) {
	ctx, cancel := context.WithCancel(ctx)
	w.memory.Busy[a.Slot] = a.Verb
	if a.Verb == lifecycle.Start || a.Verb == lifecycle.Create {
		w.memory.Mounted = true // the file for its message
	}
	w.cancel[a.Slot] = cancel
	switch a.Verb {
	case lifecycle.Stop, lifecycle.PreStop:
		now := time.Now()
		w.memory.StopBy[a.ID] = now.Add(a.Grace)
		if stop, ok := w.memory.Stopped[a.ID]; ok {
			now = stop.At
		}
		w.memory.Stopped[a.ID] = lifecycle.Stopped{Why: a.Why, At: now}
	case lifecycle.Mount:
		w.memory.Mounted = true
	}
	w.calls.Go(func() {
		defer cancel()
		note := w.do(ctx, pod, a)
		w.mu.Lock()
		delete(w.memory.Busy, a.Slot)
		delete(w.cancel, a.Slot)
		if a.Verb == lifecycle.Stop {
			delete(w.memory.StopBy, a.ID)
		}
		note(w.memory)
		w.mu.Unlock()
		w.poke(0)
	})
}

// announce tells people once that a container waits after a crash, or for its
// configuration or its volumes.
func (w *worker) announce(ctx context.Context, pod *v1.Pod, plan lifecycle.Result) {
	for name, why := range plan.Misconfigured {
		if w.blamed[name] != why {
			w.agent.recorder.Event(ctx, pod, api.EventWarning, "Failed", "Error: %s", why)
		}
	}
	w.blamed = plan.Misconfigured
	for name, why := range plan.Unmountable {
		if w.unmade[name] != why {
			w.agent.recorder.Event(ctx, pod, api.EventWarning, "FailedMount", failedMount, name, why)
		}
	}
	w.unmade = plan.Unmountable
	for name, attempt := range plan.Waiting {
		if last, told := w.told[name]; told && last == attempt {
			continue
		}
		w.told[name] = attempt
		w.agent.recorder.Event(ctx, pod, api.EventWarning, "BackOff",
			"Back-off restarting failed container %s in pod %s", name, lifecycle.FullName(pod))
	}
}
