package deployment

import (
	"fmt"
	"slices"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// roll makes one step of a rolling update: up with the new set where there is
// room, else down with the old ones where availability allows it.
func (p *planner) roll() {
	p.syncNewSet(true)
	if p.scaleNew() || p.scaleDownOld() {
		return
	}
	p.cleanUp()
}

// scaleNew brings the new set towards the wanted size.
func (p *planner) scaleNew() bool {
	n := p.newSetSize()
	return p.scale(p.fresh, n, fmt.Sprintf("%d are wanted; there were %d pods in all, of at most %d", p.wanted(), total(p.sets(), size), p.mostPods()))
}

// newSetSize is how large the new set may be now. It does not grow while pods
// of others are still to go, so that there are never too many.
func (p *planner) newSetSize() int32 {
	n := size(p.fresh)
	switch {
	case n >= p.wanted():
		return p.wanted()
	case p.podsLeftBeside(p.fresh):
		return n
	}
	return n + max(0, min(p.mostPods()-total(p.sets(), size), p.wanted()-n))
}

// scaleDownOld takes from the old sets what availability allows.
//
// The pods of the new set that are not yet available count as if they were
// there to stay: while they start, no more old ones go than maxUnavailable
// allows. Unavailable old pods go first, since nobody misses them, and a
// rollout that follows a broken one would otherwise wait for them.
func (p *planner) scaleDownOld() bool {
	least := p.leastAvailable()
	starting := size(p.fresh) - available(p.fresh)
	most := total(p.sets(), size) - least - starting
	if total(p.old, size) == 0 || most <= 0 {
		return false
	}
	down := int32(0)
	for _, set := range p.old {
		if n := min(size(set)-available(set), most-down); n > 0 {
			p.scale(set, size(set)-n, fmt.Sprintf("%d of its %d are not available", size(set)-available(set), size(set)))
			down += n
		}
	}
	extra := total(p.sets(), available) - least
	for _, set := range p.old {
		if n := min(size(set), extra); n > 0 {
			p.scale(set, size(set)-n, fmt.Sprintf("%d are available, %d must be", total(p.sets(), available), least))
			extra -= n
			down += n
		}
	}
	return down > 0
}

// recreate makes one step of the strategy Recreate: all old pods go, and when
// none is left the new ones come.
func (p *planner) recreate() {
	p.syncNewSet(false)
	down := false
	for _, set := range active(p.old) {
		down = p.scale(set, 0, "the strategy is Recreate") || down
	}
	if down || p.podsLeftBeside(p.fresh) {
		return
	}
	if p.fresh == nil {
		p.syncNewSet(true)
		return
	}
	if !p.scale(p.fresh, p.wanted(), fmt.Sprintf("%d wanted, no old pod left", p.wanted())) {
		p.cleanUp()
	}
}

// podsOfOthers says whether a pod of another set than this may still run: one
// that is being deleted does, one that has ended does not.
func (p *planner) podsOfOthers(this *v1.ReplicaSet) bool {
	return slices.ContainsFunc(p.pods, func(pod *v1.Pod) bool {
		ref := api.ControllerOf(pod)
		return !api.IsPodTerminal(pod) && ref != nil && ref.GetUid() != this.GetMetadata().GetUid()
	})
}
