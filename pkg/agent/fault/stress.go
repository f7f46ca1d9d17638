package fault

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"time"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// StressCommand is the first argument with which a program that runs a keeper has to
// call [Stress], because it is started again as that.
const StressCommand = "stress"

// beginStress starts a process that uses up a share of what a container may have,
// under the container's limits.
func (k *Keeper) beginStress(i *v1.ChaosInjection, c lifecycle.Container) error {
	s := i.GetSpec()
	spec := api.FindContainer(k.o.Pods.Pod(s.GetPodUid(), podKey(i)).GetSpec(), c.Name)
	limits := api.ResourcesOf(spec.GetResources().GetLimits())
	var args []string
	if s.GetFault().GetType() == api.FaultStressCPU {
		milli := cmp.Or(limits.MilliCPU, int64(runtime.NumCPU())*1000)
		args = []string{"cpu", strconv.FormatInt(max(1, milli*int64(s.GetFault().GetPercent())/100), 10)}
	} else {
		memory := limits.Memory
		if memory == 0 {
			machine, err := k.o.Runtime.Machine(context.Background())
			if err != nil || machine.Memory.Capacity == 0 {
				return fmt.Errorf("it has no limit, and the machine's memory is not known: %w", err)
			}
			memory = machine.Memory.Capacity
		}
		args = []string{"memory", strconv.FormatInt(memory/100*int64(s.GetFault().GetPercent()), 10)}
	}
	running, err := startStressor(c, args...)
	if err != nil {
		return err
	}
	uid := i.GetMetadata().GetUid()
	k.mu.Lock()
	k.stress[uid] = append(k.stress[uid], running)
	k.mu.Unlock()
	// The engine cannot clear up after a container while a process is in its groups.
	ctx, cancel := context.WithCancel(context.Background())
	ended := k.o.Runtime.Exited(ctx, c.Container)
	go func() {
		defer cancel()
		select {
		case <-ended:
			running.end()
		case <-running.exited:
		}
	}()
	return nil
}

// endStress ends what an injection has started.
func (k *Keeper) endStress(i *v1.ChaosInjection) {
	uid := i.GetMetadata().GetUid()
	k.mu.Lock()
	list := k.stress[uid]
	delete(k.stress, uid)
	k.mu.Unlock()
	for _, s := range list {
		s.end()
	}
}

// page is how much memory is got by one touch, at least.
const page = 4096

// Stress is the process: "cpu MILLICORES" or "memory BYTES". It begins with the first
// line of its input and ends with the input, which is when the agent lets go of it or
// ends.
func Stress(args []string, input io.Reader) error {
	if len(args) != 2 {
		return fmt.Errorf("stress %v: want cpu MILLICORES or memory BYTES", args)
	}
	amount, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	lines := bufio.NewReader(input)
	if _, err := lines.ReadString('\n'); err != nil {
		return err
	}
	switch args[0] {
	case "cpu":
		threads := (amount + 999) / 1000
		runtime.GOMAXPROCS(int(threads) + 1) // and one that sees the end
		for range threads {
			go burn(float64(amount) / float64(1000*threads))
		}
	case "memory":
		memory := make([]byte, amount)
		for i := 0; i < len(memory); i += page {
			memory[i] = 1
		}
		defer runtime.KeepAlive(memory)
	}
	_, _ = io.Copy(io.Discard, lines)
	return nil
}

// burn uses a share of one processor for ever.
func burn(share float64) {
	const period = 20 * time.Millisecond
	for {
		began := time.Now()
		for time.Since(began) < time.Duration(share*float64(period)) {
		}
		<-time.After(period - time.Since(began))
	}
}
