// Package testlog holds what was written in a cluster to what must be true of
// each write.
//
// Its invariant: it reads the log through the API, as `orchctl why` does, and
// changes nothing.
package testlog

import (
	"testing"

	"orch/pkg/client"
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
