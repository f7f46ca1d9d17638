package why

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// Echo is for how long after its healing a fault still counts for what somebody
// saw: who was away tells late.
const Echo = 10 * time.Second

// gatherFaults adds the newest entries of the chaos injections that there are, and
// of those that there were at the end of an object's story. Who may not read them
// hears nothing of them.
func (l Log) gatherFaults(ctx context.Context, c *client.Client, namespace string, end int64) error {
	var revisions []int64
	for _, o := range []client.ListOptions{{}, {At: end}, {Namespace: namespace}, {Namespace: namespace, At: end}} {
		list, err := client.For[*v1.ChaosInjection](c).List(ctx, o)
		if err != nil && !errors.Is(err, api.ErrForbidden) && !errors.Is(err, api.ErrExpired) {
			return err
		}
		for _, i := range list.Items {
			m := i.GetMetadata()
			revisions = append(revisions, m.GetResourceVersion())
			if i.GetStatus().GetHealedAt() != nil {
				continue
			}
			for e, err := range c.History(ctx, &v1.HistoryRequest{Kind: "ChaosInjection", Namespace: m.GetNamespace(), Name: m.GetName(), AfterRevision: end}) {
				if err != nil {
					return err
				}
				l[e.GetRevision()] = e // what became of it later
			}
		}
	}
	revisions = slices.DeleteFunc(revisions, func(rev int64) bool { return l[rev] != nil })
	slices.Sort(revisions)
	return l.fetch(ctx, c, slices.Compact(revisions))
}

// hit is one injection that was carried out.
type hit struct {
	*v1.ChaosInjection
	step     Step
	from, to time.Time
}

// hits are those that the log tells of, oldest first.
func (l Log) hits() (all []hit) {
	newest := map[Key]*v1.LogEntry{}
	for _, e := range l {
		if e.GetKind() == "ChaosInjection" && e.GetObject() != nil && e.GetRevision() > newest[KeyOf(e)].GetRevision() {
			newest[KeyOf(e)] = e
		}
	}
	for key, e := range newest {
		i, _ := api.Unwrap(e.GetObject()).(*v1.ChaosInjection)
		s, st := i.GetSpec(), i.GetStatus()
		if st.GetInjectedAt() == nil {
			continue
		}
		h := hit{ChaosInjection: i, from: st.GetInjectedAt().AsTime(), to: s.GetUntil().AsTime()}
		text := fmt.Sprintf("round %d of chaosexperiment/%s: %s of %s", s.GetRound(), s.GetExperiment(), s.GetFault().GetType(), api.ChaosTarget(i))
		if st.GetHealedAt() != nil {
			h.to = st.GetHealedAt().AsTime()
		}
		if lasted := h.to.Sub(h.from).Round(time.Second); lasted > 0 {
			text += ", for " + lasted.String()
		}
		h.step = Step{Revision: e.GetRevision(), Time: h.from, Object: key.String(), Text: text}
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b hit) int { return cmp.Compare(a.step.Revision, b.step.Revision) })
	return all
}

// faults adds to a story what was done on purpose to its object, where no chain says
// so, and to the links of its chains what lasted meanwhile elsewhere: as steps, which
// it does not call causes, as it infers them from when and where.
func (l Log) faults(x *Explanation, history []*v1.LogEntry, since time.Time) {
	told := map[string]bool{}
	for n := range x.Steps {
		for s := &x.Steps[n]; s != nil; s = s.Because {
			told[s.Object] = true
		}
	}
	elsewhere := slices.DeleteFunc(l.hits(), func(h hit) bool {
		own := slices.ContainsFunc(history, func(e *v1.LogEntry) bool { return h.of(e) && !e.GetTime().AsTime().After(h.to) })
		if own && !told[h.step.Object] && !h.from.Before(since) {
			s := h.step
			s.Object, s.Text = x.Object, "is hit by "+s.Object+": "+s.Text
			if born := history[0].GetTime().AsTime(); s.Time.Before(born) {
				s.Time = born
			}
			at, _ := slices.BinarySearchFunc(x.Steps, s.Time, func(s Step, t time.Time) int { return t.Compare(s.Time) })
			x.Steps = slices.Insert(x.Steps, at, s)
		}
		return own
	})
	for n := range x.Steps {
		l.meanwhile(&x.Steps[n], elsewhere)
	}
}

// Meanwhile adds to the links of chains the faults that the log tells of, which
// lasted meanwhile and which the chain does not name.
func (l Log) Meanwhile(chains ...*Step) {
	all := l.hits()
	for _, s := range chains {
		l.meanwhile(s, all)
	}
}

func (l Log) meanwhile(s *Step, all []hit) {
	var chain []*Step
	said := map[string]bool{}
	for ; s != nil; s = s.Because {
		said[s.Object] = true
		chain = append(chain, s)
	}
	for _, s := range slices.Backward(chain) { // nearest to where it began
		for _, h := range all {
			if e := l[s.Revision]; e != nil && !said[h.step.Object] && h.explains(e, s) {
				said[h.step.Object] = true
				s.Meanwhile = append(s.Meanwhile, h.step)
			}
		}
	}
}

// of says that an entry is of what the fault hit: the pod, the node, a pod on it.
func (h hit) of(e *v1.LogEntry) bool {
	s := h.GetSpec()
	switch o := api.Unwrap(e.GetObject()).(type) {
	case *v1.Pod:
		if uid := s.GetPodUid(); uid != "" {
			return uid == o.GetMetadata().GetUid()
		}
		return s.GetNodeName() != "" && s.GetNodeName() == o.GetSpec().GetNodeName() && !e.GetDeleted()
	case *v1.Node:
		return s.GetPodUid() == "" && s.GetNodeName() == o.GetMetadata().GetName()
	}
	return false
}

// explains says that an entry may be as it is, or as late, for a fault.
func (h hit) explains(e *v1.LogEntry, s *Step) bool {
	from, to := s.Time, s.Time
	if s.Because != nil {
		from = s.Because.Time
	}
	if s.Origin == Node || s.Origin == Clock {
		from = from.Add(-Echo)
	} else if s.Origin != "" {
		return false // people and beginnings wait for nobody
	}
	if strings.HasPrefix(e.GetKind(), "Chaos") || h.from.After(to) || h.to.Before(from) {
		return false
	}
	f, actor := h.GetSpec().GetFault(), e.GetCause().GetActor()
	switch kind, _ := api.FaultKindOf(f.GetType()); {
	case kind.Scope != api.ScopeAPIServer:
		return h.of(e) || kind.Scope == api.ScopeNode && actor == nodePrefix+h.GetSpec().GetNodeName()
	case f.GetType() == api.FaultCrashAPIServer:
		return true
	case s.Origin == Node: // who sees something by itself needs no watch
		return false
	}
	return Deaf(f, actor)
}

// Deaf says that a fault of watches hits those of who writes as actor. People's are
// spared unless they are named.
func Deaf(f *v1.ChaosFault, actor string) bool {
	switch {
	case isComponent(actor) && actor != "default-scheduler":
		actor = apiServer // all controllers share its watches
	case len(f.GetActors()) == 0 && strings.HasPrefix(Who(actor), "user "):
		return false
	}
	return len(f.GetActors()) == 0 || slices.Contains(f.GetActors(), actor)
}
