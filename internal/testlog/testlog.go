// Package testlog holds what was written in a cluster, and what its machines run,
// to what must be true.
//
// Its invariant: it reads through the API, as `orchctl why` and `orchctl
// invariants` do, and changes nothing.
package testlog

import (
	"context"
	"testing"
	"time"

	"orch/pkg/client"
	"orch/pkg/invariant"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// EveryWriteHasACause fails for what was written and leads back neither to
// somebody, nor to a clock, to what a node saw, or to the beginning. Only writes
// that have no cause themselves are named: what came of them is not their fault.
// The log must not have been compacted.
func EveryWriteHasACause(t testing.TB, c *client.Client) {
	t.Helper()
	known := map[int64]bool{}
	for e, err := range c.History(t.Context(), &v1.HistoryRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		rev, trigger := e.GetRevision(), e.GetCause().GetTrigger()
		known[rev] = true
		if trigger > 0 && !known[trigger] || trigger <= 0 && why.OriginOf(e) == why.Unknown {
			t.Errorf("revision %d of %s %s, by %s (%s: %s), has no cause: it names revision %d",
				rev, e.GetKind(), e.GetName(), e.GetCause().GetActor(), e.GetCause().GetReason(), e.GetCause().GetMessage(), trigger)
		}
	}
}

// Invariants holds what was written after a revision, and the machines of so many
// nodes, to the invariants, as `orchctl invariants` does: none of safety may be
// broken, and each promise that a fault broke must be kept again. The agents of
// other nodes must be away. It works at the end of a test, and in its Cleanup.
func Invariants(t testing.TB, c *client.Client, after int64, nodes int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	checker := invariant.New()
	if _, _, err := checker.Read(ctx, c, &v1.HistoryRequest{AfterRevision: after}); err != nil {
		t.Fatal(err)
	}
	look := func() []*invariant.Violation {
		pods, machines, failed, err := invariant.Look(ctx, c)
		if err != nil || len(machines) != nodes {
			t.Fatalf("%d agents were asked what runs, want %d: %v, %v", len(machines), nodes, failed, err)
		}
		return invariant.Machines(pods, machines)
	}
	found := look()
	if len(found) > 0 { // it may be a change that was seen half-way
		<-time.After(time.Second)
		found, _ = invariant.Compare(found, look())
	}
	for _, v := range append(found, checker.All()...) {
		if v.Class == invariant.Safety || v.Until == 0 {
			t.Error(v)
		}
	}
}
