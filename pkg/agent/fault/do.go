package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// wreck does what an injection asks for, and says in one sentence what was done.
// What it did before an error, heal undoes.
func (k *Keeper) wreck(ctx context.Context, i *v1.ChaosInjection) (what string, err error) {
	f := i.GetSpec().GetFault()
	switch f.GetType() {
	case api.FaultKillContainer:
		signal := cmp.Or(f.GetSignal(), "SIGKILL")
		return k.each(i, "was sent "+signal, func(c lifecycle.Container) error {
			k.o.Pods.Kills(i.GetSpec().GetPodUid(), c.ID, i) // before, so that what comes of it has its cause
			err := k.o.Runtime.Kill(ctx, c.ID, signal)
			if err != nil {
				k.o.Pods.Spares(i.GetSpec().GetPodUid(), c.ID, i)
			}
			return err
		})
	case api.FaultPauseContainer:
		return k.each(i, "is paused", func(c lifecycle.Container) error { return k.o.Runtime.Pause(ctx, c.ID) })
	case api.FaultStressCPU, api.FaultStressMemory:
		return k.each(i, fmt.Sprintf("has %d%% of its %s used", f.GetPercent(), stressed[f.GetType()]), func(c lifecycle.Container) error {
			return k.beginStress(i, c)
		})
	case api.FaultNetworkLoss, api.FaultNetworkCut, api.FaultNetworkDelay:
		return k.breakNetwork(i)
	case api.FaultShiftClock:
		k.o.Clock.set(i.GetMetadata().GetUid(), time.Duration(f.GetOffsetSeconds())*time.Second)
		return fmt.Sprintf("the clock of the node's agent is shifted by %ds", f.GetOffsetSeconds()), nil
	case api.FaultCrashAgent:
		return fmt.Sprintf("the agent crashes, and is away for %s", k.down(i)), nil
	case api.FaultStopNode:
		return fmt.Sprintf("all containers of the node are killed and its agent crashes, for %s", k.down(i)), nil
	}
	return "", fmt.Errorf("this agent does not know the fault %q", f.GetType())
}

// stressed is what a fault uses up.
var stressed = map[string]string{api.FaultStressCPU: "processor time", api.FaultStressMemory: "memory"}

// heal undoes what an injection has broken. It may be called again and again, and
// where nothing is broken.
func (k *Keeper) heal(ctx context.Context, i *v1.ChaosInjection) error {
	switch i.GetSpec().GetFault().GetType() {
	case api.FaultPauseContainer:
		var failed []error
		for _, c := range k.o.Pods.Containers(i.GetSpec().GetPodUid()) {
			if c.Name != lifecycle.SandboxSlot && c.Running() && hits(i, c.Name) {
				if err := k.o.Runtime.Unpause(ctx, c.ID); !errors.Is(err, container.ErrNotFound) {
					failed = append(failed, err)
				}
			}
		}
		return errors.Join(failed...)
	case api.FaultStressCPU, api.FaultStressMemory:
		k.endStress(i)
	case api.FaultNetworkLoss, api.FaultNetworkCut, api.FaultNetworkDelay:
		return k.healNetwork(i)
	case api.FaultShiftClock:
		k.o.Clock.set(i.GetMetadata().GetUid(), 0)
	}
	return nil
}

// each does something to the running containers of an injection's pod that it names.
func (k *Keeper) each(i *v1.ChaosInjection, done string, f func(lifecycle.Container) error) (what string, err error) {
	var names []string
	var failed []error
	for _, c := range k.o.Pods.Containers(i.GetSpec().GetPodUid()) {
		if c.Name == lifecycle.SandboxSlot || !c.Running() || !hits(i, c.Name) {
			continue
		}
		if err := f(c); err != nil {
			failed = append(failed, fmt.Errorf("container %s: %w", c.Name, err))
			continue
		}
		names = append(names, c.Name)
	}
	if len(names) == 0 && len(failed) == 0 {
		if wanted := i.GetSpec().GetFault().GetContainers(); len(wanted) > 0 {
			return "", fmt.Errorf("of the containers %s of the pod none runs", strings.Join(wanted, ", "))
		}
		return "", errors.New("no container of the pod runs")
	}
	return fmt.Sprintf("container %s of pod %s %s", strings.Join(names, ", "), i.GetSpec().GetPodName(), done), errors.Join(failed...)
}

// hits says that an injection means the container of a name.
func hits(i *v1.ChaosInjection, name string) bool {
	wanted := i.GetSpec().GetFault().GetContainers()
	return len(wanted) == 0 || slices.Contains(wanted, name)
}

// down is for how long a crashed agent stays away.
func (k *Keeper) down(i *v1.ChaosInjection) time.Duration {
	if i.GetSpec().GetUntil() == nil {
		return 0
	}
	return max(0, time.Until(i.GetSpec().GetUntil().AsTime())).Round(time.Second)
}

// crash ends this process, and for StopNode all containers of the node before it, as
// when a machine loses its power and boots later.
func (k *Keeper) crash(ctx context.Context, i *v1.ChaosInjection) error {
	if i.GetSpec().GetFault().GetType() == api.FaultStopNode {
		k.o.Pods.Halt() // a machine without power starts nothing again
		if err := k.killAll(ctx); err != nil {
			k.o.Pods.GoOn()
			return err
		}
	}
	k.mu.Lock()
	k.crashed = true
	k.mu.Unlock()
	err := k.o.Crash(k.down(i))
	if err != nil {
		k.mu.Lock()
		k.crashed = false
		k.mu.Unlock()
		k.o.Pods.GoOn()
	}
	return err
}

// killAll kills all containers of this cluster and node at once.
func (k *Keeper) killAll(ctx context.Context) error {
	list, err := k.o.Runtime.List(ctx, k.o.Owner.Labels())
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range list {
		if c.State != container.StateRunning && c.State != container.StatePaused {
			continue
		}
		group.Go(func() error {
			err := k.o.Runtime.Kill(ctx, c.ID, "SIGKILL")
			if errors.Is(err, container.ErrNotRunning) || errors.Is(err, container.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// sandbox is the running one of an injection's pod.
func (k *Keeper) sandbox(i *v1.ChaosInjection) (lifecycle.Container, bool) {
	for _, c := range k.o.Pods.Containers(i.GetSpec().GetPodUid()) {
		if c.Name == lifecycle.SandboxSlot && c.Running() && c.PID != 0 {
			return c, true
		}
	}
	return lifecycle.Container{}, false
}
