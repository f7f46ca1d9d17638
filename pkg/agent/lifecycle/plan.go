package lifecycle

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"orch/pkg/agent/probe"
	"orch/pkg/agent/volume"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Verb is one kind of thing that an agent does.
type Verb string

// The verbs, in the order of a pod's life.
const (
	Mount         Verb = "mount volumes" // make Volumes, or bring them up to date
	CreateSandbox Verb = "create sandbox"
	Pull          Verb = "pull"   // fetch the image of Container
	Create        Verb = "create" // create Container while its sandbox is being started
	Start         Verb = "start"  // create and start Container; ID: it is created already
	PostStart     Verb = "postStart hook"
	PreStop       Verb = "preStop hook" // within Grace, before Stop
	Stop          Verb = "stop"         // ask to end within Grace, then kill
	Kill          Verb = "kill"         // end at once
	Remove        Verb = "remove"       // forget what has ended
	Verify        Verb = "verify"       // ask the engine itself whether anything is left
	Unmount       Verb = "unmount volumes"
	Delete        Verb = "delete" // tell the API server that nothing is left
)

// Prefixes of slots; HookSlot comes before the id of a container with a hook
// under way.
const (
	pullSlot = "pull/"
	killSlot = "kill/"
	HookSlot = "hook/"
)

// volumeSlot is the slot of all that is done to a pod's volumes.
const volumeSlot = "volumes"

// Action is one thing to do. Actions of one plan do not depend on each other.
type Action struct {
	Verb Verb
	// Slot is busy while the action is under way.
	Slot string
	// Container is its name in the pod's spec, or SandboxSlot.
	Container string
	ID        string
	Attempt   int
	// Sandbox is what a started container joins.
	Sandbox *Container
	Env     []string // of a started container, as NAME=value
	Mounts  []VolumeMount
	Volumes []volume.Volume // for Mount
	BackOff time.Duration
	Grace   time.Duration
	// Why is the sentence for people where the agent decided to stop something;
	// Told says that they were told.
	Why  string
	Told bool
	// EndedAt is when the attempt before ended, where this one heals it.
	EndedAt time.Time
	// Pulled says that the image was fetched for this attempt.
	Pulled bool
	// Secrets hold the logins for a pull; those of MissingSecrets are not there.
	Secrets        []*v1.Secret
	MissingSecrets []string
}

// Result is a decision.
type Result struct {
	Actions []Action
	// Wake is when to decide again even though nothing happened; zero is never.
	Wake time.Time
	// Waiting holds the containers in crash back-off, by name, with the attempt
	// that crashed.
	Waiting map[string]int
	// Misconfigured holds, by name, why containers cannot be started as their
	// spec has them.
	Misconfigured map[string]string
	// Unmountable holds, by name, why volumes cannot be made as the spec has them.
	Unmountable map[string]string
	// Verdict, if not nil, is to be remembered: the pod has to end.
	Verdict *Verdict
	// Done says that nothing is left, neither here nor in the API.
	Done bool
}

// Plan decides what has to be done now. It never asks for something that is
// busy.
func Plan(v View) Result {
	p := planner{View: v}
	switch {
	case p.Ending():
		p.end()
	case p.overdue():
		p.Verdict = &Verdict{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
	case p.refused() != "":
		p.Verdict = &Verdict{Reason: evicted, Message: p.refused()}
	default:
		p.live()
	}
	return p.Result
}

// refused says why the node does not begin with the pod; "" where it does, or
// has begun.
func (p *planner) refused() string {
	if p.Refused == nil || len(p.Memory.Last) > 0 || p.Memory.Status != nil {
		return ""
	}
	return p.Refused(p.Pod.GetSpec())
}

// evicted is the reason of pods that the node could not keep.
const evicted = "Evicted"

type planner struct {
	View
	Result
}

func (p *planner) wake(t time.Time) {
	if t.After(p.Now) && (p.Wake.IsZero() || t.Before(p.Wake)) {
		p.Wake = t
	}
}

func (p *planner) do(a Action) {
	if p.free(a.Slot) {
		p.Actions = append(p.Actions, a)
	}
}

func (p *planner) free(slot string) bool { return p.Memory.Busy[slot] == "" }

// Ending says that the pod is to have no process any more.
func (v View) Ending() bool {
	return v.Pod == nil || v.Pod.GetMetadata().GetDeletionTimestamp() != nil ||
		v.Memory.Verdict != nil || api.IsPodTerminal(v.Pod) || v.finished()
}

// finished says that the pod's work is done or has failed for good: no container
// will be started again, and sidecars have nothing to stand by.
func (v View) finished() bool {
	for _, c := range v.Pod.GetSpec().GetInitContainers() {
		if d := decide(v, c); d.what == stay && !d.succeeded() {
			return true
		}
	}
	for _, c := range v.Pod.GetSpec().GetContainers() {
		if decide(v, c).what != stay {
			return false
		}
	}
	return true
}

// overdue says that the pod has outlived its activeDeadlineSeconds.
func (p *planner) overdue() bool {
	if p.Pod.GetSpec().ActiveDeadlineSeconds == nil {
		return false
	}
	end := p.Memory.Begun.Add(time.Duration(p.Pod.GetSpec().GetActiveDeadlineSeconds()) * time.Second)
	if p.Now.Before(end) {
		p.wake(end)
		return false
	}
	return true
}

// StartPatience is how long after the deadline of an ending pod a start that
// hangs is waited for.
const StartPatience = 10 * time.Second

// end stops what runs, sidecars last, and then removes: everything where the pod
// is to be gone, else all but what logs may be wanted of.
func (p *planner) end() {
	running := false
	for _, c := range p.Containers {
		if c.Running() && c.Name != SandboxSlot {
			running = true
			why := "Stopping container " + c.Name
			if p.preStop(c, p.Memory.Deadline, why) && p.isTurn(c) {
				p.stop(c, p.Memory.Deadline, why)
			}
		}
	}
	// What is being made has to be seen before it can be unmade.
	if running || p.busy(CreateSandbox, Create, Start) {
		p.wake(p.Memory.Deadline)
		p.wake(p.Memory.Deadline.Add(StartPatience))
		return
	}
	if p.Pod != nil && p.Pod.GetMetadata().GetDeletionTimestamp() == nil {
		p.tidy()
		return
	}
	for _, c := range p.Containers {
		// A status without exit code would be a lie: wait until the engine
		// knows, as long as it may still tell.
		if c.Ended && !c.ExitKnown() && c.Name != SandboxSlot && p.Now.Before(c.EndedAt.Add(statusPatience)) {
			p.wake(c.EndedAt.Add(statusPatience))
			continue
		}
		p.remove(c)
	}
	switch {
	case len(p.Containers) > 0 || p.busy(Stop, Kill, Remove, Verify, Delete):
	case !p.Memory.Empty:
		p.retry(Action{Verb: Verify, Slot: string(Verify)})
	case p.Memory.Mounted:
		p.retry(Action{Verb: Unmount, Slot: volumeSlot})
	case p.Pod == nil:
		p.Done = true
	case !p.Memory.Deleted:
		p.retry(Action{Verb: Delete, Slot: string(Delete)})
	}
}

// isTurn says that a container of an ending pod may be asked to end: sidecars
// outlive the containers and the sidecars after them, as long as there is time.
func (p *planner) isTurn(c Container) bool {
	lasting := api.LastingContainers(p.Pod.GetSpec())
	i := slices.IndexFunc(lasting, func(s *v1.Container) bool { return s.GetName() == c.Name })
	if i < 0 || !api.IsSidecar(lasting[i]) || !p.Now.Before(p.Memory.Deadline) {
		return true
	}
	for _, later := range lasting[i+1:] {
		lives := func(o Container) bool { return o.Name == later.GetName() && o.Running() }
		if p.Memory.Busy[later.GetName()] == Start || slices.ContainsFunc(p.Containers, lives) {
			return false
		}
	}
	return true
}

// busy says that one of these is under way.
func (p *planner) busy(verbs ...Verb) bool {
	for _, verb := range p.Memory.Busy {
		if slices.Contains(verbs, verb) {
			return true
		}
	}
	return false
}

// live keeps the pod's containers as its spec wants them.
func (p *planner) live() {
	policy := p.Pod.GetSpec().GetRestartPolicy()
	sandbox := p.newestSandbox()
	alive := sandbox != nil && sandbox.Running()

	all := api.AllContainers(p.Pod.GetSpec())
	decisions := make([]decision, len(all))
	ran, away := false, false
	for i, c := range all {
		d := p.decide(c)
		decisions[i] = d
		ran = ran || d.current != nil && !d.created()
		away = away || d.current != nil && d.current.Running() && (!alive || d.current.Sandbox != sandbox.Attempt)
	}
	ready := p.mountVolumes()
	// As in Kubernetes, a pod that is never to be restarted does not survive its
	// sandbox.
	doomed := !alive && ran && policy == api.RestartPolicyNever
	switch {
	case doomed && slices.ContainsFunc(decisions, func(d decision) bool { return d.what == begin }):
		p.Verdict = &Verdict{Reason: "SandboxChanged", Message: "The pod's sandbox ended, and its restartPolicy is Never"}
		return
	case !alive && !doomed && ready:
		p.createSandbox()
	}
	// A new sandbox begins with the first init container, and that one not before
	// all that runs beside the old sandbox has ended.
	steps := len(p.Pod.GetSpec().GetInitContainers())
	reached := p.reached()
	if steps > 0 && away {
		reached = -1
	}
	for i, c := range all {
		d := decisions[i]
		isTurn := i <= reached || reached == steps
		switch {
		case i < steps && i < reached && !api.IsSidecar(c): // it has done its part, even if nobody can tell any more
		case d.what == stay:
		case d.what == keep && (!alive || d.current.Sandbox != sandbox.Attempt):
			p.stop(*d.current, p.Now.Add(p.gracePeriod()), "Pod sandbox changed, it will be killed and re-created.")
		case d.what == replace:
			p.stop(*d.current, p.Now.Add(p.gracePeriod()), fmt.Sprintf("Container %s definition changed, will be restarted", c.GetName()))
		case d.what == keep && !p.begun(c, *d.current):
			p.do(Action{Verb: PostStart, Slot: HookSlot + d.current.ID, Container: c.GetName(), ID: d.current.ID, Sandbox: sandbox})
		case d.what == unwell && p.hookFailed(*d.current):
			p.stop(*d.current, p.Now.Add(p.gracePeriod()), "FailedPostStartHook")
		case d.what == unwell:
			kind := p.Health[d.current.ID].Failed
			why := fmt.Sprintf("Container %s failed %s probe", c.GetName(), strings.ToLower(string(kind)))
			if policy != api.RestartPolicyNever || api.IsSidecar(c) {
				why += ", will be restarted"
			}
			p.stop(*d.current, p.Now.Add(p.probeGrace(probe.Of(c, kind))), why)
		case d.what == begin && d.created() && alive && d.current.Sandbox != sandbox.Attempt:
			p.remove(*d.current)
		case d.what == begin && isTurn && ready:
			p.begin(c, d, sandbox, alive)
		}
	}
	p.tidy()
}

// reached is the init container whose turn it is, counted from 0; their number
// where all have done their part in the present sandbox, a sidecar by having
// started and any other by having succeeded. Who was started last tells, as in
// Kubernetes: what came before may have been removed since, and is not run twice.
func (v View) reached() int {
	steps := v.Pod.GetSpec().GetInitContainers()
	made := func(c *v1.Container) bool {
		last, ok := v.Memory.Last[c.GetName()]
		return ok && last.Sandbox == v.Memory.Last[SandboxSlot].Attempt
	}
	if slices.ContainsFunc(v.Pod.GetSpec().GetContainers(), made) {
		return len(steps)
	}
	for i, c := range slices.Backward(steps) {
		if !made(c) {
			continue
		}
		last := v.Memory.Last[c.GetName()]
		if api.IsSidecar(c) {
			h, _ := v.health(c, last)
			if last.Running() && h.Started && v.begun(c, last) {
				return i + 1
			}
		} else if last.Exited() && last.ExitKnown() && last.ExitCode == 0 {
			return i + 1
		}
		return i
	}
	return 0
}

// isStep says that c is an init container that has to end before the next one
// begins.
func (v View) isStep(c *v1.Container) bool {
	return !api.IsSidecar(c) && slices.Contains(v.Pod.GetSpec().GetInitContainers(), c)
}

// restartPolicy is what the pod's policy means for one container: a sidecar is
// always restarted, and what has to end is content with success.
func (v View) restartPolicy(c *v1.Container) string {
	policy := v.Pod.GetSpec().GetRestartPolicy()
	switch {
	case api.IsSidecar(c):
		return api.RestartPolicyAlways
	case policy == api.RestartPolicyAlways && v.isStep(c):
		return api.RestartPolicyOnFailure
	}
	return policy
}

// what is what a container needs.
type what int

const (
	stay    what = iota // it has ended for good
	keep                // it runs as it should
	unknown             // it ended; the engine is about to say how
	begin               // it has to be started
	replace             // it runs, but not as the spec has it now
	unwell              // it runs, and a probe wants it ended
)

type decision struct {
	what    what
	current *Container // the newest attempt; nil: there was none
	// for begin:
	attempt int
	backOff time.Duration // what the new attempt carries
	at      time.Time     // not before
	wait    time.Duration // the whole wait that ends at at
}

// created says that there is a container that was never started.
func (d decision) created() bool {
	return d.current != nil && !d.current.Lost && !d.current.Running() && !d.current.Exited()
}

// succeeded says that the newest attempt ended with code 0.
func (d decision) succeeded() bool {
	return d.current != nil && d.current.ExitKnown() && d.current.ExitCode == 0
}

// decide looks at one container of the spec.
func (p *planner) decide(c *v1.Container) decision { return decide(p.View, c) }

func decide(v View, c *v1.Container) decision {
	last, ok := v.Memory.Last[c.GetName()]
	if !ok {
		return decision{what: begin}
	}
	d := decision{what: keep, current: &last, attempt: last.Attempt + 1}
	step := v.isStep(c)
	elsewhere := last.Sandbox != v.Memory.Last[SandboxSlot].Attempt || !v.sandboxAlive()
	changed := last.SpecHash != "" && last.SpecHash != SpecHash(c)
	switch policy := v.restartPolicy(c); {
	case last.Running() && step: // whatever its spec has become meanwhile
	case last.Running() && changed:
		d.what = replace
	case last.Running() && (v.Health[last.ID].Failed != "" || v.hookFailed(last)):
		d.what = unwell
	case last.Running():
	case !last.Exited(): // created, by an agent that did not live to start it
		d.what, d.attempt, d.backOff = begin, last.Attempt, last.BackOff
		if changed {
			d.attempt++
		}
	case policy != api.RestartPolicyAlways && !last.ExitKnown() && !last.Lost:
		d.what = unknown
	case step && elsewhere && d.succeeded():
		d.what = begin // each sandbox is prepared anew
	case policy == api.RestartPolicyNever,
		policy == api.RestartPolicyOnFailure && last.ExitKnown() && last.ExitCode == 0:
		d.what = stay
	case changed:
		d.what = begin
	case elsewhere:
		d.what, d.backOff = begin, last.BackOff // its end was not its fault
	default: // a crash
		d.what = begin
		d.wait, d.backOff = crashBackOff(last.BackOff, v.worked(last))
		d.at = last.EndedAt.Add(d.wait)
	}
	return d
}

// WillRestart says that another life of a container follows c, which has ended or is about to.
// The pod is nil where it is gone.
func WillRestart(pod *v1.Pod, spec *v1.Container, c Container) bool {
	if pod == nil || pod.GetMetadata().GetDeletionTimestamp() != nil || api.IsPodTerminal(pod) {
		return false
	}
	switch (View{Pod: pod}).restartPolicy(spec) {
	case api.RestartPolicyNever:
		return false
	case api.RestartPolicyOnFailure:
		return !c.ExitKnown() || c.ExitCode != 0
	}
	return true
}

// begin starts a container as soon as sandbox, image and back-off allow.
func (p *planner) begin(c *v1.Container, d decision, sandbox *Container, alive bool) {
	name := c.GetName()
	if checkImageName(c.GetImage()) != nil {
		return
	}
	if d.at.After(p.Now) {
		p.wake(d.at)
		api.Put(&p.Waiting, name, d.current.Attempt)
		return
	}
	if f, ok := p.Memory.Failures[name]; ok && f.Retry.After(p.Now) {
		p.wake(f.Retry)
		return
	}
	if p.needsPull(c, d) {
		a := Action{Verb: Pull, Slot: pullSlot + name, Container: name, Attempt: d.attempt}
		var known bool
		if a.Secrets, a.MissingSecrets, known = p.pullSecrets(); known {
			p.do(a)
		}
		return
	}
	a := Action{
		Verb: Start, Slot: name, Container: name, Attempt: d.attempt, BackOff: d.backOff,
		Sandbox: sandbox,
	}
	if attempt, ok := p.Memory.Pulled[name]; ok {
		a.Pulled = attempt == d.attempt
	}
	if !alive {
		// The engine makes a pod's first containers while it starts the sandbox,
		// which takes longer: an eighth of the whole time is saved.
		if sandbox != nil && p.Memory.Busy[SandboxSlot] == CreateSandbox && !sandbox.Exited() && d.current == nil {
			var err error
			if a.Env, a.Mounts, err = p.configuration(c); err == nil {
				a.Verb = Create
				p.do(a)
			}
		}
		return
	}
	if d.created() && d.attempt == d.current.Attempt {
		a.ID = d.current.ID
	} else if !p.configure(c, &a) {
		return // what it refers to will wake the pod
	}
	if d.current != nil && d.wait == 0 {
		a.EndedAt = d.current.EndedAt
	}
	p.do(a)
}

// configure completes the start of a new container by what its spec refers to.
func (p *planner) configure(c *v1.Container, a *Action) (ok bool) {
	var err error
	if a.Env, a.Mounts, err = p.configuration(c); err != nil && !errors.Is(err, errUnknown) {
		api.Put(&p.Misconfigured, c.GetName(), err.Error())
	}
	return err == nil
}

// needsPull says that the image has to be fetched first. With IfNotPresent
// that is only known after the engine refused to make the container: asking
// before each start would cost every restart a call.
func (p *planner) needsPull(c *v1.Container, d decision) bool {
	switch c.GetImagePullPolicy() {
	case api.PullAlways:
		attempt, pulled := p.Memory.Pulled[c.GetName()]
		return !pulled || attempt != d.attempt
	case api.PullNever:
		return false
	}
	return p.Memory.Missing[c.GetName()]
}

func (p *planner) createSandbox() {
	attempt := -1
	if last, ok := p.Memory.Last[SandboxSlot]; ok {
		attempt = last.Attempt
	}
	for _, c := range p.Containers {
		attempt = max(attempt, c.Sandbox)
	}
	a := Action{Verb: CreateSandbox, Slot: SandboxSlot, Container: SandboxSlot, Attempt: attempt + 1}
	if last, ok := p.Memory.Last[SandboxSlot]; ok && last.Exited() {
		var wait time.Duration
		wait, a.BackOff = crashBackOff(last.BackOff, last.ran())
		if at := last.EndedAt.Add(wait); at.After(p.Now) {
			p.wake(at)
			return
		}
	}
	p.retry(a)
}

// minGrace is what a container is always given that had to wait for its turn or
// its hook: the kubelet's figure.
const minGrace = 2 * time.Second

// delayed says that something may come before the container is asked to end.
func (p *planner) delayed(c Container) bool {
	spec := api.FindContainer(p.Pod.GetSpec(), c.Name)
	return api.IsSidecar(spec) || spec.GetLifecycle().GetPreStop() != nil
}

// preStop runs the hook of a container that is to end by the given time. done
// says that nothing has to be waited for: there is no hook, it is over, or its
// time is.
func (p *planner) preStop(c Container, by time.Time, why string) (done bool) {
	hook := api.FindContainer(p.Pod.GetSpec(), c.Name).GetLifecycle().GetPreStop()
	if end, ok := p.Memory.StopBy[c.ID]; ok && end.Before(by) {
		by = end
	}
	if hook == nil || p.Memory.PreStop[c.ID] || !p.free(c.ID) || !by.After(p.Now) {
		return true
	}
	p.wake(by)
	_, told := p.Memory.Stopped[c.ID]
	p.do(Action{
		Verb: PreStop, Slot: HookSlot + c.ID, Container: c.Name, ID: c.ID, Sandbox: p.newestSandbox(),
		Grace: by.Sub(p.Now), Why: why, Told: told,
	})
	return false
}

// stop ends a container by the given time; a stop under way that would take
// longer is overtaken by a kill.
func (p *planner) stop(c Container, by time.Time, why string) {
	if !p.preStop(c, by, why) {
		return
	}
	if end, ok := p.Memory.StopBy[c.ID]; ok && p.free(c.ID) && end.Before(by) {
		by = end // its hook has used some of the time
	}
	if p.free(c.ID) {
		grace := max(0, by.Sub(p.Now))
		if p.delayed(c) {
			grace = max(grace, minGrace)
		}
		_, told := p.Memory.Stopped[c.ID]
		p.retry(Action{Verb: Stop, Slot: c.ID, Container: c.Name, ID: c.ID, Grace: grace, Why: why, Told: told})
		return
	}
	if p.Memory.Deadline.IsZero() {
		return
	}
	// The engine is given a second to kill by itself.
	late := p.Memory.Deadline
	if p.delayed(c) {
		late = late.Add(minGrace)
	}
	if !p.Memory.StopBy[c.ID].After(late) {
		late = late.Add(time.Second)
	}
	if late.After(p.Now) {
		p.wake(late)
		return
	}
	p.retry(Action{Verb: Kill, Slot: killSlot + c.ID, Container: c.Name, ID: c.ID, Why: why})
}

func (p *planner) remove(c Container) {
	if p.free(c.ID) {
		p.retry(Action{Verb: Remove, Slot: c.ID, Container: c.Name, ID: c.ID, Attempt: c.Attempt})
	}
}

// retry does a, or waits where it failed lately.
func (p *planner) retry(a Action) {
	if f := p.Memory.Failures[a.Slot]; f.Retry.After(p.Now) {
		p.wake(f.Retry)
		return
	}
	p.do(a)
}

// keptAttempts is how many attempts of a container stay: the present one, and
// the one before it for `logs --previous`.
const keptAttempts = 2

// tidy removes what nobody needs any more: sandboxes that have ended or were
// replaced, attempts older than those kept, containers of no name in the spec.
// It comes last and leaves names alone that are being started, because healing
// must not wait for cleaning.
func (p *planner) tidy() {
	needed := map[string]bool{}
	if !p.Ending() {
		needed[SandboxSlot] = true
	}
	for _, c := range api.AllContainers(p.Pod.GetSpec()) {
		needed[c.GetName()] = true
	}
	byName := map[string][]Container{}
	for _, c := range p.Containers {
		byName[c.Name] = append(byName[c.Name], c)
	}
	for name, cs := range byName {
		if !p.free(name) {
			continue
		}
		slices.SortFunc(cs, func(a, b Container) int { return cmp.Compare(b.Attempt, a.Attempt) })
		for i, c := range cs {
			newest := i == 0 && needed[name]
			switch {
			case name == SandboxSlot && (!newest || !c.Running()):
				p.remove(c)
			case name == SandboxSlot || newest:
			case c.Running():
				p.stop(c, p.Now.Add(p.gracePeriod()), fmt.Sprintf("Container %s is not the newest of its name", name))
			case !needed[name] || i >= keptAttempts || !c.Exited():
				p.remove(c)
			}
			if needed[name] && i < keptAttempts && c.Exited() && c.Name != SandboxSlot && p.isEvicted() && p.isEntered(c) {
				p.remove(c) // what it wrote is what the node needs back
			}
		}
	}
	slices.SortFunc(p.Actions, func(a, b Action) int { return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Verb, b.Verb)) })
}

// isEntered says that the ledger has all that it wants of a container's end.
func (p *planner) isEntered(c Container) bool {
	e := p.Memory.Terminations.Find(c.Name, p.Engine+"://"+c.ID)
	return e != nil && (e.Log != "" || p.Memory.LogRead[c.ID])
}

// isEvicted says that the API server knows that the pod was evicted.
func (p *planner) isEvicted() bool {
	return api.IsPodTerminal(p.Pod) && p.Pod.GetStatus().GetReason() == evicted
}

func (p *planner) gracePeriod() time.Duration {
	return time.Duration(p.Pod.GetSpec().GetTerminationGracePeriodSeconds()) * time.Second
}

// probeGrace is the grace period of a container that a probe ends.
func (p *planner) probeGrace(probe *v1.Probe) time.Duration {
	if probe.TerminationGracePeriodSeconds != nil {
		return time.Duration(probe.GetTerminationGracePeriodSeconds()) * time.Second
	}
	return p.gracePeriod()
}

func (v View) newestSandbox() *Container {
	var newest *Container
	for i, c := range v.Containers {
		if c.Name == SandboxSlot && (newest == nil || newest.Attempt < c.Attempt) {
			newest = &v.Containers[i]
		}
	}
	return newest
}

func (v View) sandboxAlive() bool {
	s := v.newestSandbox()
	return s != nil && s.Running()
}
