// Package eviction decides which pods have to go so that a node does not come to
// its end. It is pure: measurements and the time are arguments.
//
// Its one invariant: a pod is chosen only where it is over a limit of its own, or
// where a threshold of the node is met; and then one that uses more than it
// requested comes before one that does not.
//
// Names, order and sentences are the kubelet's. Read plan.go next, then
// pressure.go of package agent, which measures and carries the decisions out.
package eviction

import (
	"fmt"
	"strconv"
	"strings"

	"orch/pkg/api"
)

// Signal is something that can become scarce, as the kubelet calls it.
type Signal string

// The signals. The engine's images, what containers write and their logs are on
// one file system, so that the two for disks tell the same.
const (
	MemoryAvailable  Signal = "memory.available"
	NodeFSAvailable  Signal = "nodefs.available"
	ImageFSAvailable Signal = "imagefs.available"
	PIDAvailable     Signal = "pid.available"
)

// Condition is what a node has that is short of what the signal measures.
func Condition(s Signal) string { return signals[s].condition }

// Default is the kubelet's --eviction-hard, without what counts inodes.
const Default = "memory.available<100Mi,nodefs.available<10%,imagefs.available<15%"

// meaning says what a signal makes of a node, and which resource it is short of.
type meaning struct{ condition, resource string }

var signals = map[Signal]meaning{
	MemoryAvailable:  {api.NodeMemoryPressure, api.ResourceMemory},
	NodeFSAvailable:  {api.NodeDiskPressure, api.ResourceEphemeralStorage},
	ImageFSAvailable: {api.NodeDiskPressure, api.ResourceEphemeralStorage},
	PIDAvailable:     {api.NodePIDPressure, "pids"},
}

// Threshold is met where less than this is left.
type Threshold struct {
	Signal Signal
	// Amount counts where Percent, of the capacity, is 0.
	Amount  int64
	Percent float64
}

// Of returns the threshold in units of the signal.
func (t Threshold) Of(capacity int64) int64 {
	if t.Percent > 0 {
		return int64(float64(capacity) * t.Percent / 100)
	}
	return t.Amount
}

// Parse reads thresholds such as "memory.available<100Mi,nodefs.available<10%".
// As in the kubelet, 0% and 100% take a threshold away, and "" has none.
func Parse(text string) ([]Threshold, error) {
	var all []Threshold
	seen := map[Signal]bool{}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "<")
		t := Threshold{Signal: Signal(strings.TrimSpace(name))}
		value = strings.TrimSpace(value)
		switch _, known := signals[t.Signal]; {
		case !ok:
			return nil, fmt.Errorf("%q is not SIGNAL<AMOUNT, such as memory.available<100Mi or nodefs.available<10%%", part)
		case !known:
			return nil, fmt.Errorf("unsupported eviction signal %s: there are %s, %s, %s and %s", t.Signal, MemoryAvailable, NodeFSAvailable, ImageFSAvailable, PIDAvailable)
		case seen[t.Signal]:
			return nil, fmt.Errorf("%s has two thresholds", t.Signal)
		}
		seen[t.Signal] = true
		if percent, ok := strings.CutSuffix(value, "%"); ok {
			p, err := strconv.ParseFloat(percent, 64)
			switch {
			case err != nil || p < 0 || p > 100:
				return nil, fmt.Errorf("eviction percentage threshold %s must be between 0%% and 100%%, not %q", t.Signal, value)
			case p == 0 || p == 100:
				continue
			}
			t.Percent = p
		} else {
			q, err := api.ParseQuantity(value)
			if err != nil || q.Sign() <= 0 {
				return nil, fmt.Errorf("eviction threshold %s must be a positive quantity such as 100Mi or a percentage such as 10%%, not %q", t.Signal, value)
			}
			t.Amount = q.Value()
		}
		all = append(all, t)
	}
	return all, nil
}
