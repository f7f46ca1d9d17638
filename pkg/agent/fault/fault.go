// Package fault breaks things on one node on purpose, and heals them: the
// ChaosInjections that name the node.
//
// Its one invariant: what is broken is in the journal, a folder of the node, before
// it is broken, and leaves it after it is healed. So whatever ends an agent, the
// next one finds what there is to heal. Nothing is touched that is not a pod of
// this cluster on this node.
//
// Faults are healed when their time is over, when the injection says so or is gone,
// when its pod has ended, when the agent ends, and when the API server has not
// answered for ten seconds. Time here is the machine's own: a clock that is shifted
// on purpose shifts none of it.
//
// Read next: plan.go (what is decided), do.go (kill, pause, crash), network.go and
// stress.go (what needs Linux and root), journal.go, clock.go.
package fault

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/informer"
	v1 "orch/proto/v1"
)

// Options describe a keeper.
type Options struct {
	Node   string
	Owner  lifecycle.Owner
	Client *client.Client
	// Runtime runs the pods' containers.
	Runtime container.Runtime
	// Dir is the folder of the journal; made when it is needed. Empty: nothing is
	// broken.
	Dir   string
	Pods  Pods
	Clock *Clock
	// Crash replaces this process at once by one that begins after the time given.
	// Nil: it cannot. Where it returns without an error, the process is as good as
	// dead: nothing is healed.
	Crash func(down time.Duration) error
	// Silent is for how long the API server has not answered.
	Silent func() time.Duration
	Logger *slog.Logger
}

// Pods is what the keeper needs of the agent.
type Pods interface {
	// Pod finds a pod of the node; nil where it is not known. Known is the revision
	// up to which that holds.
	Pod(uid string, key api.Key) *v1.Pod
	Known() int64
	// Containers are those of a pod, its sandboxes among them.
	Containers(uid string) []lifecycle.Container
	// Kills makes the end of a container of a pod the work of an injection, which is
	// about to kill it; Spares takes that back.
	Kills(uid, id string, by *v1.ChaosInjection)
	Spares(uid, id string, by *v1.ChaosInjection)
	// Halt makes the agent begin nothing more with any pod, and ends what it has
	// begun; GoOn ends that.
	Halt()
	GoOn()
}

// Keeper breaks and heals.
//
// Concurrency: Run once; Offered may be called from several goroutines.
type Keeper struct {
	o          Options
	journal    journal
	injections client.Resource[*v1.ChaosInjection]
	mirror     *informer.Informer[*v1.ChaosInjection]
	wake       chan struct{} // of size 1
	tasks      sync.WaitGroup
	stops      []*v1.ChaosInjection // the StopNodes that ended the agents before

	mu      sync.Mutex // protects what follows
	offered []string
	records map[string]Record
	busy    map[string]Verb
	retry   map[string]time.Time
	stress  map[string][]*stressor // by uid of the injection
	crashed bool
}

// retryAfter is how soon is tried again what failed: healing above all.
const retryAfter = time.Second

// New returns a keeper that does nothing until Run. It reads the journal.
func New(o Options) *Keeper {
	injections := client.For[*v1.ChaosInjection](o.Client)
	k := &Keeper{
		o: o, journal: journal(o.Dir), injections: injections,
		mirror: informer.New(injections, informer.Options{FieldSelector: "spec.nodeName=" + o.Node, Logger: o.Logger}),
		wake:   make(chan struct{}, 1),
		busy:   map[string]Verb{}, retry: map[string]time.Time{}, stress: map[string][]*stressor{},
	}
	records, err := k.journal.Read()
	if err != nil {
		o.Logger.Error("what may be broken on this node is not known", "error", err)
	}
	for _, r := range records {
		if r.Injection.GetSpec().GetFault().GetType() == api.FaultStopNode && r.Injection.GetStatus().GetInjectedAt() != nil {
			k.stops = append(k.stops, r.Injection)
		}
	}
	k.records = records
	k.mirror.OnChange(func(informer.Change[*v1.ChaosInjection]) { k.Poke() })
	return k
}

// Offered are the faults that can be done here, for [api.AnnotationChaosFaults];
// netem says whether packets can be delayed. engine is the scheme of its containers'
// ids. It looks once, at what the kernel has, which takes some milliseconds.
func (k *Keeper) Offered(engine string) (faults string, netem bool) {
	if k.o.Dir == "" {
		return "", false
	}
	offered := []string{api.FaultKillContainer, api.FaultPauseContainer, api.FaultShiftClock}
	if k.o.Crash != nil {
		offered = append(offered, api.FaultCrashAgent, api.FaultStopNode)
	}
	if engine != "fake" {
		can := kernelCan()
		netem = can.netem
		if can.stress {
			offered = append(offered, api.FaultStressCPU, api.FaultStressMemory)
		}
		if can.filter {
			offered = append(offered, api.FaultNetworkLoss, api.FaultNetworkCut)
		}
		if can.netem {
			offered = append(offered, api.FaultNetworkDelay)
		}
	}
	slices.Sort(offered)
	k.mu.Lock()
	k.offered = offered
	k.mu.Unlock()
	k.Poke()
	return strings.Join(offered, ","), netem
}

// StoppedBy is the StopNode that ended a container of the node at a time; nil: none.
func (k *Keeper) StoppedBy(ended time.Time) *v1.ChaosInjection {
	for _, i := range k.stops {
		if !ended.Before(i.GetStatus().GetInjectedAt().AsTime()) && ended.Before(i.GetSpec().GetUntil().AsTime()) {
			return i
		}
	}
	return nil
}

// Lasting is the revision of the newest injection of these types that a pod suffers
// from now; 0: of none.
func (k *Keeper) Lasting(uid string, types []string) (revision int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.records {
		i := r.Injection
		if i.GetSpec().GetPodUid() == uid && slices.Contains(types, i.GetSpec().GetFault().GetType()) && !api.IsInjectionOver(i) && k.busy[i.GetMetadata().GetUid()] != Heal {
			revision = max(revision, i.GetMetadata().GetResourceVersion())
		}
	}
	return revision
}

// Poke makes Run look again.
func (k *Keeper) Poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run breaks and heals until ctx ends and all is healed.
func (k *Keeper) Run(ctx context.Context) error {
	if k.o.Dir == "" {
		return nil
	}
	watching, end := context.WithCancel(context.WithoutCancel(ctx))
	watched := make(chan error, 1)
	go func() { watched <- k.mirror.Run(watching) }()
	defer func() { end(); <-watched }() //nolint:errcheck // it ends as it was asked to
	timer := time.NewTimer(0)
	defer timer.Stop()
	synced := k.mirror.Synced()
	for ctx.Err() == nil {
		timer.Reset(k.step(ctx, false))
		select {
		case <-ctx.Done():
		case <-k.wake:
		case <-timer.C:
		case <-synced:
			synced = nil
		}
	}
	k.healAll(ctx)
	return nil
}

// Patience of an agent that ends with what it has broken.
const (
	endPatience  = 10 * time.Second
	tellPatience = 2 * time.Second
)

// healAll heals what there is and tells that, as far as that is possible.
func (k *Keeper) healAll(ctx context.Context) {
	k.tasks.Wait()
	k.mu.Lock()
	crashed := k.crashed
	k.mu.Unlock()
	if crashed {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	for ctx.Err() == nil {
		k.step(ctx, true)
		k.tasks.Wait()
		if k.healed() {
			break
		}
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
		}
	}
	ctx, cancel = context.WithTimeout(ctx, tellPatience)
	defer cancel()
	for _, i := range k.mirror.List() {
		_ = k.tell(ctx, i) // or the next agent does
	}
}

func (k *Keeper) healed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.records {
		if !api.IsInjectionOver(r.Injection) {
			return false
		}
	}
	return true
}

// step looks, decides, and begins what was decided. It returns when to look again
// at the latest.
func (k *Keeper) step(ctx context.Context, ending bool) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.crashed {
		return math.MaxInt64
	}
	v := View{
		Records: k.records, Busy: k.busy, Retry: k.retry, Offered: k.offered,
		Pod: k.o.Pods.Pod, Known: k.o.Pods.Known(), Silent: k.o.Silent(), Ending: ending, Now: time.Now(),
	}
	select {
	case <-k.mirror.Synced():
		v.Injections, v.Synced = k.mirror.List(), true
	default:
	}
	actions, wake := Plan(v)
	for _, a := range actions {
		uid := a.Injection.GetMetadata().GetUid()
		k.busy[uid] = a.Verb
		k.tasks.Go(func() {
			err := k.do(ctx, a)
			k.mu.Lock()
			delete(k.busy, uid)
			delete(k.retry, uid)
			if err != nil {
				k.retry[uid] = time.Now().Add(retryAfter)
			}
			k.mu.Unlock()
			if err != nil && ctx.Err() == nil && !errors.Is(err, api.ErrUnavailable) && !errors.Is(err, api.ErrConflict) {
				k.o.Logger.Warn("a fault is not as it should be", "do", a.Verb, "injection", api.KeyOf(a.Injection), "error", err)
			}
			k.Poke()
		})
	}
	if wake.IsZero() {
		return math.MaxInt64
	}
	return max(0, wake.Sub(v.Now))
}

// do carries one action out. What fails is decided anew a second later.
func (k *Keeper) do(ctx context.Context, a Action) error {
	i := a.Injection
	switch a.Verb {
	case Inject:
		return k.inject(ctx, i)
	case Crash:
		return k.crash(ctx, i)
	case Heal:
		if err := k.heal(ctx, i); err != nil {
			return err
		}
		k.o.Logger.Info("healed", "fault", i.GetSpec().GetFault().GetType(), "injection", api.KeyOf(i), "target", api.ChaosTarget(i), "why", a.Why)
		return k.enter(i, api.ChaosHealed, a.Why)
	case Refuse:
		return k.enter(i, api.ChaosFailed, a.Why)
	case Tell:
		return k.tell(ctx, i)
	case Forget:
		uid := i.GetMetadata().GetUid()
		err := k.journal.Remove(uid)
		if err == nil {
			k.mu.Lock()
			delete(k.records, uid)
			k.mu.Unlock()
		}
		return err
	}
	return nil
}

// inject breaks something that the journal does not have yet.
func (k *Keeper) inject(ctx context.Context, i *v1.ChaosInjection) error {
	kind, _ := api.FaultKindOf(i.GetSpec().GetFault().GetType())
	if err := k.enter(i, api.ChaosPending, ""); err != nil {
		return err
	}
	what, err := k.wreck(ctx, i)
	k.o.Logger.Info("broken on purpose", "fault", i.GetSpec().GetFault().GetType(), "injection", api.KeyOf(i), "target", api.ChaosTarget(i), "what", what, "error", err)
	switch {
	case err != nil:
		return errors.Join(k.heal(ctx, i), k.enter(i, api.ChaosFailed, err.Error()))
	case kind.Lasts:
		return k.enter(i, api.ChaosInjected, what)
	}
	return k.enter(i, api.ChaosHealed, what)
}

// enter writes to the journal how an injection stands.
func (k *Keeper) enter(i *v1.ChaosInjection, phase, message string) error {
	uid := i.GetMetadata().GetUid()
	k.mu.Lock()
	before := cmp.Or(k.records[uid].Injection.GetStatus(), i.GetStatus())
	k.mu.Unlock()
	now := timestamppb.New(time.Now().Truncate(time.Microsecond))
	s := &v1.ChaosInjectionStatus{Phase: phase, Message: message, InjectedAt: before.GetInjectedAt()}
	kind, _ := api.FaultKindOf(i.GetSpec().GetFault().GetType())
	if s.InjectedAt == nil && (phase == api.ChaosInjected || phase == api.ChaosHealed) {
		s.InjectedAt = now
	}
	if phase == api.ChaosHealed {
		s.HealedAt = now
		if kind.Lasts && before.GetMessage() != "" {
			s.Message = strings.TrimSuffix(before.GetMessage()+"; healed: "+message, "; healed: ")
		}
	}
	r := proto.CloneOf(i)
	r.Status = s
	if err := k.journal.Write(r); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.records[uid] = Record{Injection: r, Inherited: k.records[uid].Inherited}
	return nil
}

// tell writes to the API server what the journal says.
func (k *Keeper) tell(ctx context.Context, i *v1.ChaosInjection) error {
	k.mu.Lock()
	status := k.records[i.GetMetadata().GetUid()].Injection.GetStatus()
	k.mu.Unlock()
	if status == nil {
		return nil
	}
	ctx = client.WithTrigger(ctx, i.GetMetadata().GetResourceVersion())
	ctx = client.WithCause(ctx, status.GetPhase(), "%s", cmp.Or(status.GetMessage(), "it is over"))
	told := proto.CloneOf(i)
	told.Status = status
	_, err := k.injections.UpdateStatus(ctx, told)
	if errors.Is(err, api.ErrNotFound) {
		return nil // the mirror is about to say so
	}
	return err // a conflict: the mirror is about to have what is newer
}
