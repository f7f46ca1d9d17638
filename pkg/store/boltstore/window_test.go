package boltstore

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"orch/pkg/store"
)

func TestTopicsOfAreThoseTheEntryIsIn(t *testing.T) {
	part := rapid.SampledFrom([]string{"", "Pod", "a", "b", "/", "@"})
	name := rapid.Custom(func(t *rapid.T) string {
		return part.Draw(t, "1") + part.Draw(t, "2") + part.Draw(t, "3")
	})
	rapid.Check(t, func(t *rapid.T) {
		e := &store.Entry{Key: name.Draw(t, "key"), Topics: rapid.SliceOfN(name, 0, 3).Draw(t, "topics")}
		names := slices.Collect(topicsOf(e))
		for _, n := range append(names, name.Draw(t, "other")) {
			if e.In(n) != slices.Contains(names, n) {
				t.Fatalf("In(%q) = %v, topics are %q", n, e.In(n), names)
			}
		}
	})
}

// The window stays within its bounds, and the topics that are watched hold all
// entries that it has of them since the first watcher's position.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWindow(8, 4000, 0)
		rev := int64(0)
		var joined []*watcher
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				rev++
				w.add(&store.Entry{
					Revision: rev,
					Key:      rapid.SampledFrom([]string{"Pod/a/x", "Pod/b/x", "Node/n"}).Draw(t, "key"),
					Value:    make([]byte, rapid.IntRange(0, 2000).Draw(t, "size")),
					Topics:   rapid.SliceOfN(rapid.SampledFrom([]string{"Pod", "t"}), 0, 2).Draw(t, "topics"),
				})
			},
			"join": func(t *rapid.T) {
				who := &watcher{
					s:    &Store{},
					name: rapid.SampledFrom([]string{"", "Pod", "Pod/a", "Node/n", "t"}).Draw(t, "topic"),
					pos:  rapid.Int64Range(w.floor, rev+1).Draw(t, "pos"),
				}
				who.topic = w.join(who, rev)
				joined = append(joined, who)
			},
			"leave": func(t *rapid.T) {
				if len(joined) == 0 {
					t.Skip("nobody watches")
				}
				w.leave(joined[0], joined[0].topic)
				joined = joined[1:]
			},
			"compact": func(t *rapid.T) { w.compact(rapid.Int64Range(0, rev).Draw(t, "to")) },
			"": func(t *rapid.T) {
				bytes := 0
				for i, e := range w.entries {
					if e.Revision != w.floor+1+int64(i) {
						t.Fatalf("revision %d at %d, floor %d", e.Revision, i, w.floor)
					}
					bytes += footprint(e)
				}
				if len(w.entries) > 8 || bytes > 4000 || bytes != w.bytes {
					t.Fatalf("%d entries, %d bytes, counted %d", len(w.entries), bytes, w.bytes)
				}
				watched := 0
				for name, topic := range w.topics {
					var want []*store.Entry
					for _, e := range after(w.entries, topic.evicted) {
						if e.In(name) {
							want = append(want, e)
						}
					}
					if !slices.Equal(after(topic.entries, topic.evicted), want) || topic.evicted > rev {
						t.Fatalf("topic %q after %d has %d entries, want %d", name, topic.evicted, len(topic.entries), len(want))
					}
					watched += len(topic.watchers)
				}
				if watched != len(joined) || w.watchers != len(joined) {
					t.Fatalf("%d watchers in topics, %d counted, want %d", watched, w.watchers, len(joined))
				}
			},
		})
	})
}

func TestCommitWakesOnlyWatchersOfWhatItTouches(t *testing.T) {
	s := openAt(t, tempPath(t), Options{noSync: true})
	for i := range 100 {
		defer s.Watch(fmt.Sprintf("Pod@node-%d", i), 0).Close()
	}
	for i := range 50 {
		mustCommit(t, s, store.Change{Key: fmt.Sprintf("Pod/default/%d", i), Topics: []string{"Pod@elsewhere"}})
	}
	if st := s.Stats(); st.Watchers != 100 || st.Wakeups != 0 {
		t.Errorf("%d wakeups of %d watchers by what does not match", st.Wakeups, st.Watchers)
	}
	mustCommit(t, s, store.Change{Key: "Pod/default/x", Topics: []string{"Pod@node-7", "Pod@node-8"}})
	if st := s.Stats(); st.Wakeups != 2 {
		t.Errorf("%d wakeups, want 2", st.Wakeups)
	}
}
