package agent

import (
	"errors"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"orch/pkg/agent/eviction"
	"orch/pkg/client"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

func TestCapacityIsShownInTheShortestForm(t *testing.T) {
	asked := map[string]string{"cpu": "2000m", "memory": "2048Mi", "pods": "110"}
	n, err := newNode(Options{Client: client.New(nil, "test"), Capacity: asked}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"cpu": "2", "memory": "2Gi", "pods": "110"}, n.capacity()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if asked["cpu"] != "2000m" {
		t.Error("the caller's map has changed")
	}
}

// The network may be there before the engine was asked. Whoever spoke of the node
// then would call one Ready whose engine may be down.
func TestNothingIsSaidOfANodeBeforeItsEngineWasAsked(t *testing.T) {
	n, err := newNode(Options{Client: client.New(nil, "test")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	says := func() bool {
		select {
		case <-n.news:
			return true
		default:
			return false
		}
	}
	n.NetworkIs(nil)
	n.Unknown()
	if says() {
		t.Error("the node is reported before its engine was asked")
	}
	n.EngineIs(nil)
	if !says() {
		t.Error("the engine's answer is not reported")
	}
	n.NetworkIs(errors.New("no bridge"))
	if !says() {
		t.Error("the network's end is not reported")
	}
}

func TestANodeIsNoSmallerForAnEngineThatIsDown(t *testing.T) {
	n, err := newNode(Options{Client: client.New(nil, "test"), NodeName: "n1"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n.EngineIs(errors.New("container engine is not available"))
	before := map[string]string{"cpu": "2", "memory": "1Gi", "pods": "110"}
	s := &v1.NodeStatus{Capacity: maps.Clone(before), Allocatable: maps.Clone(before)}
	n.fill(s, time.Now())
	if diff := cmp.Diff([]map[string]string{before, before}, []map[string]string{s.GetCapacity(), s.GetAllocatable()}); diff != "" {
		t.Errorf("the agent before said (-), now it is (+)\n%s", diff)
	}
	n.info = container.Info{Runtime: "fake://1", MilliCPU: 4000, MemoryBytes: 1 << 30}
	n.fill(s, time.Now())
	if got := s.GetCapacity()["cpu"]; got != "4" {
		t.Errorf("the engine has 4 processors, the node %s", got)
	}
}

func TestAllocatableIsTheCapacityWithoutWhatIsReserved(t *testing.T) {
	thresholds, err := eviction.Parse(eviction.Default)
	if err != nil {
		t.Fatal(err)
	}
	capacity := map[string]string{"cpu": "2", "memory": "1Gi", "ephemeral-storage": "100Gi", "pods": "10"}
	for name, tt := range map[string]struct {
		reserved map[string]string
		limits   []eviction.Threshold
		want     map[string]string
	}{
		"nothing is reserved": {nil, nil, capacity},
		"the thresholds are kept": {nil, thresholds, map[string]string{
			"cpu": "2", "memory": "924Mi", "ephemeral-storage": "90Gi", "pods": "10",
		}},
		"and what the machine needs": {map[string]string{"cpu": "250m", "memory": "500Mi"}, thresholds, map[string]string{
			"cpu": "1750m", "memory": "424Mi", "ephemeral-storage": "90Gi", "pods": "10",
		}},
		"never less than nothing": {map[string]string{"cpu": "3", "memory": "1000Mi", "ephemeral-storage": "1Ti"}, thresholds, map[string]string{
			"cpu": "0", "memory": "0", "ephemeral-storage": "0", "pods": "10",
		}},
	} {
		n, err := newNode(Options{Client: client.New(nil, "test"), Capacity: capacity, Reserved: tt.reserved, Thresholds: tt.limits}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, n.Allocatable()); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}
