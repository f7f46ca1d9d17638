package why

import (
	"context"
	"slices"

	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// askAtOnce is how many entries one request asks for; the server's bound is
// 1,000.
const askAtOnce = 500

// Gather fetches an object's entries, oldest first, without the heartbeats of
// nodes, and all entries that they lead to: it asks for what made them necessary,
// and again for what made that necessary, as often as the longest chain has
// links; and with each for what it replaced. Beside them it has the faults that
// experiments have injected.
func Gather(ctx context.Context, c *client.Client, key Key) (history []*v1.LogEntry, log Log, err error) {
	log = Log{}
	for e, err := range c.History(ctx, &v1.HistoryRequest{Kind: key.Kind, Namespace: key.Namespace, Name: key.Name, ExceptReasons: []string{"Heartbeat"}}) {
		if err != nil {
			return nil, nil, err
		}
		log[e.GetRevision()] = e
		history = append(history, e)
	}
	if err := log.Follow(ctx, c, history); err != nil || len(history) == 0 {
		return history, log, err
	}
	return history, log, log.gatherFaults(ctx, c, key.Namespace, history[len(history)-1].GetRevision())
}

// Follow fetches the entries that others lead to, with what each of those
// replaced.
func (l Log) Follow(ctx context.Context, c *client.Client, entries []*v1.LogEntry) error {
	followed := map[int64]bool{}
	for follow := entries; len(follow) > 0; {
		var causes, missing []int64
		for _, e := range follow {
			cause, replaced := e.GetCause().GetTrigger(), e.GetPrevious()
			if cause > 0 && !followed[cause] {
				followed[cause] = true
				causes = append(causes, cause)
				missing = append(missing, cause)
			}
			if replaced > 0 && !quiet[e.GetCause().GetReason()] { // what those changed nobody asks
				missing = append(missing, replaced)
			}
		}
		missing = slices.DeleteFunc(missing, func(rev int64) bool { return l[rev] != nil })
		slices.Sort(missing)
		if err := l.fetch(ctx, c, slices.Compact(missing)); err != nil {
			return err
		}
		follow = nil
		for _, rev := range causes {
			if e := l[rev]; e != nil {
				follow = append(follow, e)
			}
		}
	}
	return nil
}

// fetch gets single entries.
func (l Log) fetch(ctx context.Context, c *client.Client, revisions []int64) error {
	for part := range slices.Chunk(revisions, askAtOnce) {
		for e, err := range c.History(ctx, &v1.HistoryRequest{Revisions: part}) {
			if err != nil {
				return err
			}
			l[e.GetRevision()] = e
		}
	}
	return nil
}
