package deployment

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// size is how many pods a set is to have.
func size(set *v1.ReplicaSet) int32 { return set.GetSpec().GetReplicas() }

// available is how many available pods a set will have left when it has its
// size. Its status may still count pods that a planned scale-down takes; since
// it deletes the unavailable ones first, the rest are the available ones.
func available(set *v1.ReplicaSet) int32 {
	return min(set.GetStatus().GetAvailableReplicas(), size(set))
}

func total(sets []*v1.ReplicaSet, of func(*v1.ReplicaSet) int32) int32 {
	var sum int32
	for _, set := range sets {
		sum += of(set)
	}
	return sum
}

// active are the sets that are to have pods.
func active(sets []*v1.ReplicaSet) []*v1.ReplicaSet {
	var found []*v1.ReplicaSet
	for _, set := range sets {
		if size(set) > 0 {
			found = append(found, set)
		}
	}
	return found
}

// scale plans a size for a set and notes the size of the deployment for which
// it was chosen. It says whether the size changed.
func (p *planner) scale(set *v1.ReplicaSet, n int32, why string) bool {
	was := size(set)
	noted := p.annotateSizes(set)
	if was == n {
		if noted {
			p.write(Update, set, "SizesNoted", "", "the deployment has %d replicas", p.wanted())
		}
		return false
	}
	set.Spec.Replicas = &n
	reason := "ScaledUp"
	if n < was {
		reason = "ScaledDown"
	}
	p.write(Update, set, reason, scaledEvent(set, p.sizes[set], n), "from %d to %d: %s", was, n, why)
	return true
}

func scaledEvent(set *v1.ReplicaSet, from, to int32) string {
	way := "up"
	if to < from {
		way = "down"
	}
	return fmt.Sprintf("Scaled %s replica set %s from %d to %d", way, set.GetMetadata().GetName(), from, to)
}

// annotateSizes notes the deployment's size with a set: that a later one
// differs is how a scaled deployment is told from a rollout in progress, and
// what the shares of several sets are computed from.
func (p *planner) annotateSizes(set *v1.ReplicaSet) bool {
	changed := false
	for key, n := range map[string]int32{api.AnnotationDesiredReplicas: p.wanted(), api.AnnotationMaxReplicas: p.mostPods()} {
		if v := strconv.Itoa(int(n)); set.GetMetadata().GetAnnotations()[key] != v {
			api.Put(&set.Metadata.Annotations, key, v)
			changed = true
		}
	}
	return changed
}

// noted returns the number in an annotation.
func noted(set *v1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(set.GetMetadata().GetAnnotations()[key], 10, 32)
	return int32(n), err == nil
}

// wasScaled says whether the deployment's size changed since its sets' sizes
// were chosen.
func (p *planner) wasScaled() bool {
	for _, set := range active(p.sets()) {
		if n, ok := noted(set, api.AnnotationDesiredReplicas); ok && n != p.wanted() {
			return true
		}
	}
	return false
}

// scaleAll brings the sets to the deployment's size without moving a rollout
// on: one set gets it all, several get their shares. Nothing grows while pods
// of an earlier, smaller plan are still to go: there would be too many.
func (p *planner) scaleAll() {
	if only := p.activeOrLatest(); only != nil {
		if p.wanted() > size(only) && p.podsLeftBeside(only) {
			return
		}
		p.scale(only, p.wanted(), fmt.Sprintf("the deployment wants %d", p.wanted()))
		return
	}
	if p.saturated() {
		for _, set := range active(p.old) {
			p.scale(set, 0, "the new ReplicaSet has all replicas")
		}
		return
	}
	if p.d.GetSpec().GetStrategy().GetType() != api.StrategyRecreate {
		p.scaleShares()
		return
	}
	for _, set := range active(p.sets()) {
		p.scale(set, size(set), "") // Recreate itself does the rest
	}
}

// activeOrLatest is the one set to scale: the only one with pods, or the newest
// where none has; nil where several have, or there is none.
func (p *planner) activeOrLatest() *v1.ReplicaSet {
	switch a := active(p.sets()); {
	case len(a) == 1:
		return a[0]
	case len(a) > 1:
		return nil
	case p.fresh != nil:
		return p.fresh
	case len(p.old) > 0:
		return p.old[len(p.old)-1]
	}
	return nil
}

// podsLeftBeside says whether a set other than this one may still have more pods
// than it is to have, or, with the strategy Recreate, any. A set that has not yet
// observed its size may be making pods for an earlier, larger one. Kubernetes
// does not wait for that and has too many pods for a moment.
func (p *planner) podsLeftBeside(this *v1.ReplicaSet) bool {
	for _, set := range p.sets() {
		st := set.GetStatus()
		if set != this && (st.GetReplicas() > size(set) || st.GetObservedGeneration() < set.GetMetadata().GetGeneration()) {
			return true
		}
	}
	return p.d.GetSpec().GetStrategy().GetType() == api.StrategyRecreate && p.podsOfOthers(this)
}

// saturated says whether the new set has all the replicas, was told so, and all
// are available.
func (p *planner) saturated() bool {
	if p.fresh == nil {
		return false
	}
	n, ok := noted(p.fresh, api.AnnotationDesiredReplicas)
	return ok && n == p.wanted() && size(p.fresh) == p.wanted() && available(p.fresh) == p.wanted()
}

// scaleShares adds or removes pods in proportion to the sizes of the sets, so
// that a deployment scaled in the middle of a rollout takes the same risk as
// before. What rounding leaves over goes to the largest set.
func (p *planner) scaleShares() {
	sets := active(p.sets())
	var allowed int32
	if p.wanted() > 0 {
		allowed = p.mostPods()
	}
	missing := allowed - total(sets, size)
	if missing > 0 && p.podsLeftBeside(nil) {
		return
	}
	// Largest first; of equal ones the newer grows and the older shrinks first.
	slices.SortStableFunc(sets, func(a, b *v1.ReplicaSet) int {
		byAge := olderFirst(a, b)
		if missing > 0 {
			byAge = -byAge
		}
		return cmp.Or(cmp.Compare(size(b), size(a)), byAge)
	})
	sizes := make([]int32, len(sets))
	left := missing
	for i, set := range sets {
		sizes[i] = size(set)
		share := p.share(set)
		if missing > 0 {
			share = max(0, min(share, left))
		} else {
			share = min(0, max(share, left))
		}
		sizes[i] += share
		left -= share
	}
	if len(sets) > 0 {
		sizes[0] = max(0, sizes[0]+left)
	}
	if missing < 0 {
		p.keepAvailable(sets, sizes)
	}
	for i, set := range sets {
		p.scale(set, sizes[i], fmt.Sprintf("its share of the %d that the deployment, scaled to %d, may have", allowed, p.wanted()))
	}
}

// share is what a set would gain or lose if all kept their proportions.
func (p *planner) share(set *v1.ReplicaSet) int32 {
	if p.wanted() == 0 {
		return -size(set)
	}
	before, ok := noted(set, api.AnnotationMaxReplicas)
	if !ok || before <= 0 {
		before = max(1, p.d.GetStatus().GetReplicas())
	}
	return int32(math.Round(float64(size(set))*float64(p.mostPods())/float64(before))) - size(set)
}

// keepAvailable moves replicas between the shares of a scale-down where they
// would take an available pod below the promised minimum and leave an
// unavailable one alive. Kubernetes does not do this, and breaks its promise
// for a moment there.
func (p *planner) keepAvailable(sets []*v1.ReplicaSet, sizes []int32) {
	// goal is what can be promised: no more than there are now.
	goal := min(p.leastAvailable(), total(sets, available))
	for {
		var after int32
		short, spare := -1, -1
		for i, set := range sets {
			after += min(available(set), sizes[i])
			if sizes[i] < available(set) {
				short = i
			}
			if sizes[i] > available(set) {
				spare = i
			}
		}
		if after >= goal || short < 0 || spare < 0 {
			return
		}
		sizes[short]++
		sizes[spare]--
	}
}
