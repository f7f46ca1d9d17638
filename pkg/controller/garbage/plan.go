package garbage

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Owner is what is known of one owner reference of an object.
type Owner int

// The states of an owner.
const (
	// Absent: the server was asked and knows no such object with this uid.
	Absent Owner = iota
	// Present: it exists and holds what it owns.
	Present
	// Leaving: it is being deleted in the foreground and waits for what it
	// owns to go.
	Leaving
	// Unresolvable: the reference cannot be followed (a kind that is not known,
	// or an owner with a namespace for an object that has none). Such an object
	// is never collected.
	Unresolvable
)

// State is what a plan is made from.
type State struct {
	Object api.Object
	// Owners are the states of its owner references, in their order.
	Owners []Owner
	// Dependents are the objects that name it as an owner by its uid.
	Dependents []api.Object
}

// Plan is what is to be done with the object. At most one of Update and Delete
// is set.
type Plan struct {
	// Update is how the object must be; nil: as it is.
	Update api.Object
	// Delete says that the object is to be deleted, with this policy.
	Delete bool
	Policy string
	// Orphans are how dependents must be that lose the object as their owner.
	Orphans []api.Object
	// Wake are dependents to look at, because the object waits for them to go
	// and nobody has asked them to yet.
	Wake []api.Object
	// Reason and Message are the cause of the writes.
	Reason, Message string
}

// MakePlan says what becomes of an object that owns or is owned.
func MakePlan(s State) Plan {
	finalizers := s.Object.GetMetadata().GetFinalizers()
	deleting := s.Object.GetMetadata().GetDeletionTimestamp() != nil
	switch {
	case deleting && slices.Contains(finalizers, api.FinalizerOrphan):
		return orphan(s)
	case deleting && slices.Contains(finalizers, api.FinalizerForeground):
		return foreground(s)
	case deleting || len(s.Owners) == 0:
		return Plan{}
	}
	return collect(s)
}

// orphan makes the dependents forget their owner, and lets it go when all have.
func orphan(s State) Plan {
	p := Plan{Reason: "Orphaned", Message: nameOf(s.Object) + " is deleted, and what it owns is to stay"}
	uid := s.Object.GetMetadata().GetUid()
	for _, d := range s.Dependents {
		p.Orphans = append(p.Orphans, withoutOwners(d, func(r *v1.OwnerReference) bool { return r.GetUid() == uid }))
	}
	if len(p.Orphans) == 0 {
		p.Update = withoutFinalizer(s.Object, api.FinalizerOrphan)
	}
	return p
}

// foreground waits for the dependents that block, and then lets the owner go.
func foreground(s State) Plan {
	blocking := 0
	var wake []api.Object
	uid := s.Object.GetMetadata().GetUid()
	for _, d := range s.Dependents {
		if d.GetMetadata().GetDeletionTimestamp() == nil {
			wake = append(wake, d)
		}
		for _, r := range d.GetMetadata().GetOwnerReferences() {
			if r.GetUid() == uid && r.GetBlockOwnerDeletion() {
				blocking++
				break
			}
		}
	}
	if blocking > 0 {
		return Plan{Wake: wake}
	}
	return Plan{
		Update: withoutFinalizer(s.Object, api.FinalizerForeground),
		Reason: "DependentsGone", Message: "nothing that blocks its deletion is left",
	}
}

// collect judges an object by its owners.
func collect(s State) Plan {
	count := map[Owner]int{}
	for _, o := range s.Owners {
		count[o]++
	}
	m := s.Object.GetMetadata()
	switch {
	case count[Unresolvable] > 0:
		return Plan{}
	case count[Present] == len(s.Owners):
		return Plan{}
	case count[Present] > 0:
		refs := m.GetOwnerReferences()
		drop := map[string]bool{}
		for i, o := range s.Owners {
			drop[refs[i].GetUid()] = o != Present
		}
		return Plan{
			Update: withoutOwners(s.Object, func(r *v1.OwnerReference) bool { return drop[r.GetUid()] }),
			Reason: "OwnerGone", Message: fmt.Sprintf("%d of its %d owners are gone or going", len(s.Owners)-count[Present], len(s.Owners)),
		}
	case count[Leaving] > 0 && len(s.Dependents) > 0:
		// Its own dependents are to go first. Where one of them is waiting in
		// turn, the owners may own each other in a circle; that is cut by no
		// longer blocking.
		for _, d := range s.Dependents {
			if dm := d.GetMetadata(); dm.GetDeletionTimestamp() != nil && slices.Contains(dm.GetFinalizers(), api.FinalizerForeground) {
				if cut := withoutBlocking(s.Object); cut != nil {
					return Plan{Update: cut, Reason: "CircleCut", Message: "it waits for " + nameOf(d) + ", which may wait for it"}
				}
			}
		}
		return Plan{Delete: true, Policy: api.PropagationForeground, Reason: "OwnerDeleted", Message: "its owner waits for it to go"}
	case count[Leaving] > 0:
		return Plan{Delete: true, Policy: api.PropagationBackground, Reason: "OwnerDeleted", Message: "its owner waits for it to go"}
	}
	policy := api.PropagationBackground
	switch {
	case slices.Contains(m.GetFinalizers(), api.FinalizerOrphan):
		policy = api.PropagationOrphan
	case slices.Contains(m.GetFinalizers(), api.FinalizerForeground):
		policy = api.PropagationForeground
	}
	return Plan{Delete: true, Policy: policy, Reason: "OwnerDeleted", Message: gone(m.GetOwnerReferences())}
}

func gone(owners []*v1.OwnerReference) string {
	var names []string
	for _, o := range owners {
		names = append(names, o.GetKind()+" "+o.GetName())
	}
	if len(names) == 1 {
		return "its owner " + names[0] + " is gone"
	}
	return "its owners " + strings.Join(names, ", ") + " are gone"
}

func nameOf(o api.Object) string {
	return api.KindOf(o).Name + " " + o.GetMetadata().GetName()
}

func withoutOwners(o api.Object, drop func(*v1.OwnerReference) bool) api.Object {
	o = api.Clone(o)
	m := o.GetMetadata()
	m.OwnerReferences = slices.DeleteFunc(m.OwnerReferences, drop)
	return o
}

func withoutFinalizer(o api.Object, finalizer string) api.Object {
	o = api.Clone(o)
	m := o.GetMetadata()
	m.Finalizers = slices.DeleteFunc(m.Finalizers, func(f string) bool { return f == finalizer })
	return o
}

// withoutBlocking is nil where no reference blocks.
func withoutBlocking(o api.Object) api.Object {
	o = api.Clone(o)
	blocks := false
	for _, r := range o.GetMetadata().GetOwnerReferences() {
		if r.GetBlockOwnerDeletion() {
			r.BlockOwnerDeletion = proto.Bool(false)
			blocks = true
		}
	}
	if !blocks {
		return nil
	}
	return o
}
