package deployment

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// model is a cluster in which the ReplicaSets obey when the test lets them, and
// pods become ready or unready as it likes. It carries plans out and checks
// after each that the promises hold.
type model struct {
	t    *rapid.T
	d    *v1.Deployment
	sets []*v1.ReplicaSet
	pods map[string][]bool // by uid of the set: whether each pod is available
	// obeyed is the generation that each set obeyed last.
	obeyed map[string]int64
	now    time.Time
	made   int
}

// obey makes a set have as many pods as it is to have. New ones are not
// available; of too many, those that are not available go first.
func (m *model) obey(s *v1.ReplicaSet) {
	uid := s.GetMetadata().GetUid()
	pods := m.pods[uid]
	for len(pods) < int(size(s)) {
		pods = append(pods, false)
	}
	slices.SortFunc(pods, func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	})
	m.pods[uid] = pods[:size(s)]
	m.obeyed[uid] = s.Metadata.Generation
	m.countAvailable(s)
}

// countAvailable makes the status true about available pods.
func (m *model) countAvailable(s *v1.ReplicaSet) {
	s.Status.AvailableReplicas = 0
	for _, available := range m.pods[s.GetMetadata().GetUid()] {
		if available {
			s.Status.AvailableReplicas++
		}
	}
	s.Status.ReadyReplicas = s.Status.AvailableReplicas
}

// report makes the status true about the number of pods, which it may be late
// to be.
func (m *model) report(s *v1.ReplicaSet) {
	s.Status.Replicas = int32(len(m.pods[s.GetMetadata().GetUid()]))
	s.Status.ObservedGeneration = m.obeyed[s.GetMetadata().GetUid()]
}

// running is how many pods there will be when all sets obey at once, before any
// pod that is too many is gone.
func (m *model) running() int32 {
	return total(m.sets, func(s *v1.ReplicaSet) int32 { return max(size(s), int32(len(m.pods[s.GetMetadata().GetUid()]))) })
}

// plan makes a plan, carries it out, and checks the promises. It says whether
// there was anything to do.
func (m *model) plan() bool {
	before, wasAvailable := m.running(), total(m.sets, available)
	plan := MakePlan(State{Deployment: m.d, Sets: m.sets, Pods: m.podObjects(), Now: m.now})
	for _, w := range plan.Writes {
		m.write(w)
	}
	changed := !proto.Equal(m.d.GetStatus(), plan.Status)
	m.d.Status = plan.Status

	p := newPlanner(State{Deployment: m.d, Sets: m.sets, Now: m.now})
	if after, most := m.running(), p.mostPods(); after > max(before, most) {
		m.t.Fatalf("%d pods after %q, %d before, at most %d are allowed", after, show(plan), before, most)
	}
	if p.d.GetSpec().GetStrategy().GetType() != api.StrategyRecreate {
		if after, least := total(m.sets, available), p.leastAvailable(); after < min(wasAvailable, least) {
			m.t.Fatalf("%d available after %q, %d before, at least %d are promised", after, show(plan), wasAvailable, least)
		}
	}
	return changed || len(plan.Writes) > 0
}

func (m *model) write(w Write) {
	i := slices.IndexFunc(m.sets, func(s *v1.ReplicaSet) bool { return s.GetMetadata().GetUid() == w.Set.GetMetadata().GetUid() })
	switch w.Verb {
	case Create:
		if m.d.GetSpec().GetStrategy().GetType() == api.StrategyRecreate && m.podsInAll() > 0 {
			m.t.Fatalf("Recreate makes new pods while %d old ones run", m.podsInAll())
		}
		m.made++
		w.Set.Metadata.Uid = fmt.Sprint(m.made)
		w.Set.Metadata.CreationTimestamp = timestamppb.New(m.now)
		w.Set.Metadata.Generation = 1
		w.Set.Status = &v1.ReplicaSetStatus{}
		m.sets = append(m.sets, w.Set)
	case Update:
		w.Set.Metadata.Generation++
		m.sets[i] = w.Set
	case Delete:
		if len(m.pods[w.Set.GetMetadata().GetUid()]) > 0 {
			m.t.Fatalf("a set with pods is deleted")
		}
		m.sets = slices.Delete(m.sets, i, i+1)
	}
}

func (m *model) podsInAll() int {
	n := 0
	for _, pods := range m.pods {
		n += len(pods)
	}
	return n
}

func (m *model) podObjects() []*v1.Pod {
	var all []*v1.Pod
	for uid, pods := range m.pods {
		for range pods {
			all = append(all, podOf(uid, api.PodRunning))
		}
	}
	return all
}

// settle lets everything come to rest: sets obey and pods become ready. It must
// end, with the new set alone at full size.
func (m *model) settle() {
	for step := 0; ; step++ {
		if step > 200 {
			m.t.Fatalf("no end after %d steps; sets: %v", step, m.sets)
		}
		busy := m.plan()
		for _, s := range m.sets {
			m.obey(s)
			for i := range m.pods[s.GetMetadata().GetUid()] {
				m.pods[s.GetMetadata().GetUid()][i] = true
			}
			m.countAvailable(s)
			m.report(s)
		}
		m.now = m.now.Add(time.Second)
		if !busy && !m.plan() {
			break // as it was before the sets obeyed, and after
		}
	}
	p := newPlanner(State{Deployment: m.d, Sets: m.sets, Now: m.now})
	if p.fresh == nil || size(p.fresh) != p.wanted() || total(p.old, size) != 0 {
		m.t.Fatalf("at rest the new set is not alone at %d: %v", p.wanted(), m.sets)
	}
	if !p.complete(m.d.GetStatus()) {
		m.t.Fatalf("at rest the status is not complete: %v", m.d.GetStatus())
	}
	if reason := api.GetCondition(m.d.GetStatus().GetConditions(), api.DeploymentProgressing).GetReason(); reason != reasonAvailable {
		m.t.Fatalf("at rest the reason of Progressing is %s", reason)
	}
	if old := len(p.old); old > int(m.d.GetSpec().GetRevisionHistoryLimit()) {
		m.t.Fatalf("at rest there are %d old sets", old)
	}
}

// Whatever happens to pods, however the user scales, changes templates and
// limits, or pauses, and however late the sets obey: no plan breaks a promise,
// and in the end all is rolled out.
func TestRolloutKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]string{"0", "1", "2", "5", "10%", "25%", "34%", "50%", "100%"})
		d := deploy(rapid.Int32Range(0, 12).Draw(t, "replicas"))
		limits(limit.Draw(t, "surge"), limit.Draw(t, "unavailable"))(d)
		if rapid.IntRange(0, 4).Draw(t, "strategy") == 0 {
			recreate(d)
		}
		history := rapid.Int32Range(0, 3).Draw(t, "history")
		d.Spec.RevisionHistoryLimit = &history
		m := &model{t: t, d: d, pods: map[string][]bool{}, obeyed: map[string]int64{}, now: now}
		someSet := func() *v1.ReplicaSet {
			if len(m.sets) == 0 {
				t.Skip("no sets yet")
			}
			return m.sets[rapid.IntRange(0, len(m.sets)-1).Draw(t, "set")]
		}
		change := func() { m.d.Metadata.Generation++ }
		t.Repeat(map[string]func(*rapid.T){
			"plan":   func(*rapid.T) { m.plan() },
			"obey":   func(*rapid.T) { m.obey(someSet()) },
			"report": func(*rapid.T) { m.report(someSet()) },
			"pod changes": func(t *rapid.T) {
				s := someSet()
				pods := m.pods[s.GetMetadata().GetUid()]
				if len(pods) == 0 {
					t.Skip("no pods")
				}
				i := rapid.IntRange(0, len(pods)-1).Draw(t, "pod")
				pods[i] = !pods[i]
				m.countAvailable(s)
			},
			"scale": func(t *rapid.T) {
				n := rapid.Int32Range(0, 12).Draw(t, "to")
				m.d.Spec.Replicas = &n
				change()
			},
			"template": func(t *rapid.T) {
				image(fmt.Sprintf("web:%d", rapid.IntRange(1, 4).Draw(t, "image")))(m.d)
				change()
			},
			"pause": func(*rapid.T) { m.d.Spec.Paused = !m.d.Spec.Paused; change() },
			"time":  func(*rapid.T) { m.now = m.now.Add(time.Minute) },
			"settle": func(t *rapid.T) {
				m.d.Spec.Paused = false
				m.settle()
			},
		})
		m.d.Spec.Paused = false
		m.settle()
	})
}
