package lab

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// story is a log that is asked for what happened.
type story struct {
	log   []*v1.LogEntry // oldest first
	at    why.Log
	marks []Mark
}

// before is what an entry replaced; nil where it created, or where the log does
// not tell.
func (s *story) before(e *v1.LogEntry) *v1.LogEntry { return s.at[e.GetPrevious()] }

// find returns the first entry after another one (nil: of all) that is as asked
// for. It returns nil where there is none.
func (s *story) find(after *v1.LogEntry, is func(e *v1.LogEntry) bool) *v1.LogEntry {
	from, _ := slices.BinarySearchFunc(s.log, after.GetRevision()+1, func(e *v1.LogEntry, rev int64) int { return cmp.Compare(e.GetRevision(), rev) })
	if i := slices.IndexFunc(s.log[from:], is); i >= 0 {
		return s.log[from+i]
	}
	return nil
}

// each calls f for the entries of a kind, with the object as it was before and as
// it is: nil where it was not there, or is gone.
func each[T api.Object](s *story, after *v1.LogEntry, f func(e *v1.LogEntry, was, is T) (found bool)) *v1.LogEntry {
	return s.find(after, func(e *v1.LogEntry) bool {
		was, known := api.Unwrap(s.before(e).GetObject()).(T)
		is, there := api.Unwrap(e.GetObject()).(T)
		if e.GetDeleted() {
			var gone T
			is = gone
		}
		return (known || there) && f(e, was, is)
	})
}

// chain finds one entry after the other: each f gets the one before it and
// returns what follows. A later beginning is tried where an earlier one leads
// nowhere, so that somebody who tried twice is not judged by the first try.
func chain(begin func(after *v1.LogEntry) *v1.LogEntry, then func(begun *v1.LogEntry) *v1.LogEntry) *v1.LogEntry {
	for e := begin(nil); e != nil; e = begin(e) {
		if end := then(e); end != nil {
			return end
		}
	}
	return nil
}

// byPerson says that somebody wrote it by hand, or by a program in their name.
func byPerson(e *v1.LogEntry) bool {
	return e.GetCause().GetTrigger() == 0 && why.OriginOf(e) == why.User
}

// followsFrom says that the causes of e lead to what was written of an object.
func (s *story) followsFrom(e *v1.LogEntry, kind, name string) bool {
	for {
		trigger := e.GetCause().GetTrigger()
		if trigger >= e.GetRevision() { // nobody can be moved by what is yet to come
			return false
		}
		if e = s.at[trigger]; e == nil {
			return false
		}
		if e.GetKind() == kind && e.GetName() == name {
			return true
		}
	}
}

func owner(o api.Object) string { return api.ControllerOf(o).GetUid() }

func uid(o api.Object) string { return o.GetMetadata().GetUid() }

func isEnding(o api.Object) bool { return o.GetMetadata().GetDeletionTimestamp() != nil }

// restarts counts those of all containers of a pod.
func restarts(p *v1.Pod) (n int32) {
	for _, c := range p.GetStatus().GetContainerStatuses() {
		n += c.GetRestartCount()
	}
	return n
}

// settled says that a Deployment has all that it wants, of its newest template.
func settled(d *v1.Deployment) bool {
	st, want := d.GetStatus(), d.GetSpec().GetReplicas()
	return d != nil && st.GetObservedGeneration() >= d.GetMetadata().GetGeneration() && want > 0 &&
		st.GetUpdatedReplicas() == want && st.GetReplicas() == want && st.GetAvailableReplicas() == want
}

// promised is how many replicas of a Deployment its strategy lets nobody take
// away.
func promised(d *v1.Deployment) int32 {
	want := d.GetSpec().GetReplicas()
	unavailable, err := api.ScaledValue(d.GetSpec().GetStrategy().GetRollingUpdate().GetMaxUnavailable(), want, false)
	if err != nil {
		return want
	}
	return want - unavailable
}

// newTemplate says that somebody gave a Deployment other pods than it had.
func newTemplate(e *v1.LogEntry, was, is *v1.Deployment) bool {
	return byPerson(e) && was != nil && is != nil && !proto.Equal(was.GetSpec().GetTemplate(), is.GetSpec().GetTemplate())
}

// replacement finds a pod that is as asked for, among those that a ReplicaSet made
// after something happened to one of its pods: in its place, as it still wanted as
// many as before.
func (s *story) replacement(after *v1.LogEntry, of *v1.Pod, is func(p *v1.Pod) bool) *v1.LogEntry {
	made, other := map[string]bool{}, false
	return s.find(after, func(e *v1.LogEntry) bool {
		switch o := api.Unwrap(e.GetObject()).(type) {
		case *v1.ReplicaSet:
			was, known := api.Unwrap(s.before(e).GetObject()).(*v1.ReplicaSet)
			other = other || known && uid(o) == owner(of) && was.GetSpec().GetReplicas() != o.GetSpec().GetReplicas()
		case *v1.Pod:
			if e.GetPrevious() == 0 && !other && !byPerson(e) && owner(o) == owner(of) {
				made[uid(o)] = true
			}
			return made[uid(o)] && is(o)
		}
		return false
	})
}
