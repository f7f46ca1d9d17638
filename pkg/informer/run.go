package informer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// Pauses between tries to watch again: short, because nothing heals while
// nobody looks.
const (
	minPause = 20 * time.Millisecond
	maxPause = time.Second
)

// Run fills the mirror and follows the server until ctx ends; then it returns
// nil. When a watch breaks it goes on from the revision that the mirror has
// reached; where the log no longer holds that, it takes a new snapshot and
// hands out the difference.
func (i *Informer[T]) Run(ctx context.Context) error {
	var from *int64 // nil: begin with a snapshot
	pause := minPause
	for {
		before := i.Revision()
		usable, err := i.follow(ctx, from)
		if ctx.Err() != nil {
			return nil
		}
		level := slog.LevelWarn
		switch {
		case errors.Is(err, api.ErrExpired):
			// Too old; or of a future that a server restored from a copy does
			// not know.
			from, level = nil, slog.LevelInfo
		case usable:
			revision := i.Revision()
			from = &revision
		}
		if i.Revision() != before {
			pause = minPause
		}
		i.log.Log(ctx, level, "watch ended; beginning again", "error", err, "revision", i.Revision())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		pause = min(2*pause, maxPause)
	}
}

// follow watches until the watch breaks. It reports whether a watch may go on
// from the mirror's revision, which it may not from half a snapshot.
func (i *Informer[T]) follow(ctx context.Context, from *int64) (usable bool, err error) {
	var snapshot map[api.Key]T // nil once it is in
	if from == nil {
		snapshot = map[api.Key]T{}
	}
	for e, err := range i.resource.Watch(ctx, client.WatchOptions{
		Namespace: i.options.Namespace, LabelSelector: i.options.LabelSelector, FieldSelector: i.options.FieldSelector,
		From: from, Wait: true,
	}) {
		switch {
		case err != nil:
			return snapshot == nil, err
		case e.Type == v1.WatchEvent_TYPE_SYNCED:
			if snapshot != nil {
				i.replace(snapshot, e.Revision)
				snapshot = nil
			}
			i.reach(e.Revision)
			i.markSynced()
		case e.Type == v1.WatchEvent_TYPE_BOOKMARK:
			if snapshot == nil {
				i.reach(max(e.Revision, i.Revision()))
			}
		case snapshot != nil:
			snapshot[api.KeyOf(e.Object)] = e.Object
		default:
			i.apply(api.KeyOf(e.Object), e.Object, e.Type != v1.WatchEvent_TYPE_DELETED, e.Revision)
			i.reach(max(e.Revision, i.Revision()))
		}
	}
	return snapshot == nil, nil
}

// replace makes the mirror hold exactly the snapshot, and hands out what
// differs. An object that was made anew under an old name is another one: what
// was there goes first.
func (i *Informer[T]) replace(snapshot map[api.Key]T, revision int64) {
	for _, old := range i.List() {
		if now, ok := snapshot[api.KeyOf(old)]; !ok || now.GetMetadata().GetUid() != old.GetMetadata().GetUid() {
			i.apply(api.KeyOf(old), old, false, revision)
		}
	}
	byRevision := slices.SortedFunc(maps.Values(snapshot), func(a, b T) int {
		return cmp.Compare(a.GetMetadata().GetResourceVersion(), b.GetMetadata().GetResourceVersion())
	})
	for _, o := range byRevision {
		key := api.KeyOf(o)
		if old, ok := i.Get(key); !ok || !proto.Equal(old, o) {
			i.apply(key, o, true, o.GetMetadata().GetResourceVersion())
		}
	}
}

// apply makes one change and hands it out.
func (i *Informer[T]) apply(key api.Key, o T, present bool, revision int64) {
	old, was := i.put(key, o, present)
	if !was && !present {
		return
	}
	change := Change[T]{Old: old, Revision: revision}
	if present {
		change.New = o
	}
	for _, f := range i.onChange {
		f(change)
	}
}

func (i *Informer[T]) markSynced() {
	select {
	case <-i.synced:
	default:
		close(i.synced)
	}
}
