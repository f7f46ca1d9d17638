package deployment

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// State is what a plan is made from.
type State struct {
	Deployment *v1.Deployment
	// Sets are the ReplicaSets that the deployment controls.
	Sets []*v1.ReplicaSet
	// Pods are those that the sets control, ended ones and those that are being
	// deleted too.
	Pods []*v1.Pod
	Now  time.Time
}

// Verb is what a [Write] does.
type Verb string

// The verbs.
const (
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
)

// Write is one change of a ReplicaSet.
type Write struct {
	Verb Verb
	// Set is how it must be; for Delete, how it is.
	Set *v1.ReplicaSet
	// Reason and Message are the cause.
	Reason, Message string
	// Event is for people; empty: none.
	Event string
}

// Plan is what is to be done.
type Plan struct {
	// Writes are to be made in this order; the first that fails ends the plan.
	Writes []Write
	// Revision is what the deployment's annotation must say; empty: as it is.
	Revision string
	// Status is what the status must be.
	Status *v1.DeploymentStatus
	// After is when the progress deadline has to be checked; 0: never.
	After time.Duration
}

// MakePlan says what comes next. A rollout takes many plans: each makes one
// step, and the next is made when the step has shown its effect.
func MakePlan(s State) Plan {
	p := newPlanner(s)
	switch {
	case p.d.GetMetadata().GetDeletionTimestamp() != nil:
		p.countStatus()
	case p.d.GetSpec().GetPaused():
		p.notePause()
		p.syncNewSet(false)
		p.scaleAll()
		p.cleanUp()
		p.countStatus()
	case p.wasScaled():
		p.notePause()
		p.syncNewSet(false)
		p.scaleAll()
		p.countStatus()
	case p.d.GetSpec().GetStrategy().GetType() == api.StrategyRecreate:
		p.notePause()
		p.recreate()
		p.rolloutStatus()
	default:
		p.notePause()
		p.roll()
		p.rolloutStatus()
	}
	return p.plan()
}

// planner holds a plan in the making. The sets in it are copies that show what
// has been planned so far.
type planner struct {
	d      *v1.Deployment
	pods   []*v1.Pod
	now    time.Time
	fresh  *v1.ReplicaSet   // with the deployment's template; nil: none yet
	old    []*v1.ReplicaSet // the others, oldest first
	status *v1.DeploymentStatus
	sizes  map[*v1.ReplicaSet]int32 // before this plan

	writes   []Write
	revision string
	after    time.Duration
}

func newPlanner(s State) *planner {
	p := &planner{d: s.Deployment, pods: s.Pods, now: s.Now, status: api.CloneOrNew(s.Deployment.GetStatus()), sizes: map[*v1.ReplicaSet]int32{}}
	for _, set := range s.Sets {
		set = api.Clone(set)
		p.old = append(p.old, set)
		p.sizes[set] = size(set)
	}
	slices.SortFunc(p.old, olderFirst)
	for i, set := range p.old {
		// Of several with the template the oldest is taken, so that the choice
		// stays the same.
		if sameTemplate(set.GetSpec().GetTemplate(), p.d.GetSpec().GetTemplate()) {
			p.fresh = set
			p.old = slices.Delete(p.old, i, i+1)
			break
		}
	}
	return p
}

func (p *planner) plan() Plan {
	return Plan{Writes: p.writes, Revision: p.revision, Status: p.status, After: p.after}
}

// sets are all of them, nil ones left out.
func (p *planner) sets() []*v1.ReplicaSet {
	if p.fresh == nil {
		return p.old
	}
	return append(slices.Clone(p.old), p.fresh)
}

// write plans a change of a set; several of one set become one write.
func (p *planner) write(v Verb, set *v1.ReplicaSet, reason, event, format string, args ...any) {
	w := Write{Verb: v, Set: set, Reason: reason, Message: fmt.Sprintf(format, args...), Event: event}
	for i := range p.writes {
		if p.writes[i].Set == set {
			w.Verb = p.writes[i].Verb
			w.Event = cmp.Or(w.Event, p.writes[i].Event)
			p.writes[i] = w
			return
		}
	}
	p.writes = append(p.writes, w)
}

// wanted is how many pods the deployment is to have.
func (p *planner) wanted() int32 { return p.d.GetSpec().GetReplicas() }

// allowance says how far a rollout may go: surge pods above the wanted number,
// unavailable below it.
func (p *planner) allowance() (surge, unavailable int32) { return api.RolloutAllowance(p.d) }

// mostPods is how many pods there may be at any moment.
func (p *planner) mostPods() int32 {
	surge, _ := p.allowance()
	return p.wanted() + surge
}

// leastAvailable is how many pods must be available at any moment.
func (p *planner) leastAvailable() int32 {
	_, unavailable := p.allowance()
	return p.wanted() - unavailable
}

// syncNewSet finds the set with the deployment's template, or makes it where
// that is asked, and sees that it bears the newest revision.
func (p *planner) syncNewSet(create bool) {
	revision := highestRevision(p.old) + 1
	if p.fresh == nil {
		if create {
			p.createSet(revision)
		}
		return
	}
	set := p.fresh
	was := revisionOf(set)
	changed := copyAnnotations(p.d, set)
	if was < revision {
		if was > 0 {
			addHistory(set, was)
		}
		api.Put(&set.Metadata.Annotations, api.AnnotationRevision, strconv.FormatInt(revision, 10))
		changed = true
	}
	if set.Spec.MinReadySeconds != p.d.GetSpec().GetMinReadySeconds() {
		set.Spec.MinReadySeconds = p.d.GetSpec().GetMinReadySeconds()
		changed = true
	}
	if changed {
		p.write(Update, set, "RevisionSynced", "", "deployment %s is at revision %d", p.d.GetMetadata().GetName(), revisionOf(set))
	}
	p.revision = set.GetMetadata().GetAnnotations()[api.AnnotationRevision]
	if p.hasDeadline() && p.condition(api.DeploymentProgressing) == nil {
		p.setCondition(api.DeploymentProgressing, api.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", set.GetMetadata().GetName()))
	}
}

// createSet plans a new set, as large as the allowance lets it be at once.
func (p *planner) createSet(revision int64) {
	spec, m := p.d.GetSpec(), p.d.GetMetadata()
	template := proto.CloneOf(spec.GetTemplate())
	template.Metadata = cmp.Or(template.Metadata, &v1.ObjectMeta{})
	hash := api.TemplateHash(template, p.status.GetCollisionCount())
	api.Put(&template.Metadata.Labels, api.LabelPodTemplateHash, hash)
	selector := proto.CloneOf(spec.GetSelector())
	api.Put(&selector.MatchLabels, api.LabelPodTemplateHash, hash)

	set := &v1.ReplicaSet{
		Metadata: &v1.ObjectMeta{
			Name:            m.GetName() + "-" + hash,
			Namespace:       m.GetNamespace(),
			Labels:          maps.Clone(template.Metadata.Labels),
			OwnerReferences: []*v1.OwnerReference{api.NewControllerRef(p.d)},
		},
		Spec: &v1.ReplicaSetSpec{
			Replicas:        proto.Int32(0),
			MinReadySeconds: spec.GetMinReadySeconds(),
			Selector:        selector,
			Template:        template,
		},
	}
	p.fresh = set
	n := p.newSetSize()
	set.Spec.Replicas = &n
	copyAnnotations(p.d, set)
	api.Put(&set.Metadata.Annotations, api.AnnotationRevision, strconv.FormatInt(revision, 10))
	p.annotateSizes(set)

	event := ""
	if n > 0 {
		event = scaledEvent(set, 0, n)
	}
	p.write(Create, set, "NewReplicaSetCreated", event, "no ReplicaSet has the template of revision %d; %d of %d replicas to begin with", revision, n, p.wanted())
	p.revision = strconv.FormatInt(revision, 10)
	if p.hasDeadline() {
		p.setCondition(api.DeploymentProgressing, api.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", set.GetMetadata().GetName()))
	}
}

// cleanUp deletes the oldest of the old sets beyond the history limit, once the
// deployment is complete; those with pods stay.
func (p *planner) cleanUp() {
	limit := p.d.GetSpec().RevisionHistoryLimit
	if limit == nil || !p.complete(p.d.GetStatus()) {
		return
	}
	var alive []*v1.ReplicaSet
	for _, set := range p.old {
		if set.GetMetadata().GetDeletionTimestamp() == nil {
			alive = append(alive, set)
		}
	}
	slices.SortStableFunc(alive, func(a, b *v1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	for _, set := range alive[:max(0, len(alive)-int(*limit))] {
		if set.GetStatus().GetReplicas() != 0 || set.GetSpec().GetReplicas() != 0 ||
			set.GetMetadata().GetGeneration() > set.GetStatus().GetObservedGeneration() {
			continue
		}
		p.write(Delete, set, "RevisionHistoryLimit", "", "%d old ReplicaSets, at most %d are kept", len(alive), *limit)
	}
}

// sameTemplate compares templates without the label that the deployment itself
// adds.
func sameTemplate(a, b *v1.PodTemplateSpec) bool {
	return proto.Equal(a.GetSpec(), b.GetSpec()) && proto.Equal(withoutHash(a.GetMetadata()), withoutHash(b.GetMetadata()))
}

func withoutHash(m *v1.ObjectMeta) *v1.ObjectMeta {
	m = api.CloneOrNew(m)
	delete(m.Labels, api.LabelPodTemplateHash)
	return m
}

// olderFirst is by creation, which is known in whole seconds, then by revision,
// then by name.
func olderFirst(a, b *v1.ReplicaSet) int {
	am, bm := a.GetMetadata(), b.GetMetadata()
	return cmp.Or(
		am.GetCreationTimestamp().AsTime().Compare(bm.GetCreationTimestamp().AsTime()),
		cmp.Compare(revisionOf(a), revisionOf(b)),
		strings.Compare(am.GetName(), bm.GetName()),
	)
}

// revisionOf is 0 for a set that has none.
func revisionOf(set *v1.ReplicaSet) int64 {
	r, err := strconv.ParseInt(set.GetMetadata().GetAnnotations()[api.AnnotationRevision], 10, 64)
	if err != nil {
		return 0
	}
	return r
}

func highestRevision(sets []*v1.ReplicaSet) int64 {
	var highest int64
	for _, set := range sets {
		highest = max(highest, revisionOf(set))
	}
	return highest
}

// maxHistory bounds the annotation with a set's earlier revisions: Kubernetes'
// 2000 characters.
const maxHistory = 2000

// addHistory notes the revision under which a set that comes back was known.
func addHistory(set *v1.ReplicaSet, revision int64) {
	var earlier []string
	if h := set.GetMetadata().GetAnnotations()[api.AnnotationRevisionHistory]; h != "" {
		earlier = strings.Split(h, ",")
	}
	earlier = append(earlier, strconv.FormatInt(revision, 10))
	for len(strings.Join(earlier, ",")) > maxHistory {
		earlier = earlier[1:]
	}
	api.Put(&set.Metadata.Annotations, api.AnnotationRevisionHistory, strings.Join(earlier, ","))
}

// notCopied are the annotations that mean something for the one object only.
var notCopied = []string{
	api.AnnotationLastApplied, api.AnnotationRevision, api.AnnotationRevisionHistory,
	api.AnnotationDesiredReplicas, api.AnnotationMaxReplicas,
}

// copyAnnotations gives a set the deployment's annotations, so that a change
// cause stays with its revision. It says whether that changed anything.
func copyAnnotations(d *v1.Deployment, set *v1.ReplicaSet) bool {
	changed := false
	for k, v := range d.GetMetadata().GetAnnotations() {
		if !slices.Contains(notCopied, k) && set.GetMetadata().GetAnnotations()[k] != v {
			api.Put(&set.Metadata.Annotations, k, v)
			changed = true
		}
	}
	return changed
}

// hasDeadline says whether progress is watched at all; the largest int32 means
// that it is not.
func (p *planner) hasDeadline() bool {
	s := p.d.GetSpec().ProgressDeadlineSeconds
	return s != nil && *s != math.MaxInt32
}
