package eviction

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// Reason is why an evicted pod has failed.
const Reason = "Evicted"

// State is all that a decision rests on.
type State struct {
	Thresholds []Threshold
	// Rooms are how much there is and is left; what is not in it is not known,
	// and nothing follows from it.
	Rooms map[Signal]container.Room
	// Pods are those of the node that have something running, and do not end.
	Pods []Pod
	// Ending says that a pod which was evicted before has not ended yet. What it
	// will set free is not known before that.
	Ending bool

	// Observed holds when each condition was last found to be so: Result.Observed
	// of the decision before.
	Observed map[string]time.Time
	// Transition is how long a condition stays after that: a node that comes
	// and goes would draw pods in and evict them in turn.
	Transition time.Duration
	Now        time.Time
}

// Pod is a pod with what it uses.
type Pod struct {
	*v1.Pod
	Containers []Usage
	Volumes    map[string]int64 // bytes in each emptyDir on the disk, where measured
}

// Usage is what one container uses. Disk is 0 where it was not measured.
type Usage struct {
	Name               string
	Memory, Disk, PIDs int64
}

// Result is a decision.
type Result struct {
	// Conditions of the node that hold, by type.
	Conditions map[string]bool
	Observed   map[string]time.Time
	// Short is the resource that the node has too little of; "" where none.
	Short     string
	Evictions []Eviction
}

// Eviction is one pod that has to go.
type Eviction struct {
	Pod     *v1.Pod
	Message string
	// Disruption says that it is the node's fault, not the pod's.
	Disruption bool
}

// Plan decides. At most one pod at a time pays for what the node lacks; those
// over a limit of their own go all, and before that.
func Plan(s State) Result {
	r := Result{Conditions: map[string]bool{}, Observed: map[string]time.Time{}}
	maps.Copy(r.Observed, s.Observed)
	var met []Threshold
	for _, t := range s.Thresholds {
		room, known := s.Rooms[t.Signal]
		if known && room.Available < t.Of(room.Capacity) {
			met = append(met, t)
			r.Observed[signals[t.Signal].condition] = s.Now
		}
	}
	for condition, at := range r.Observed {
		if at.Equal(s.Now) || s.Now.Sub(at) < s.Transition {
			r.Conditions[condition] = true
		} else {
			delete(r.Observed, condition)
		}
	}
	for _, p := range s.Pods {
		if message := overLimit(p); message != "" {
			r.Evictions = append(r.Evictions, Eviction{Pod: p.Pod, Message: message})
		}
	}
	if len(met) == 0 || len(r.Evictions) > 0 {
		return r
	}
	// Memory first: who has none left cannot do anything about the rest.
	slices.SortStableFunc(met, func(a, b Threshold) int {
		return compareBool(a.Signal == MemoryAvailable, b.Signal == MemoryAvailable)
	})
	t := met[0]
	r.Short = signals[t.Signal].resource
	if s.Ending || len(s.Pods) == 0 {
		return r
	}
	pods := slices.Clone(s.Pods)
	slices.SortFunc(pods, func(a, b Pod) int { return rank(r.Short, a, b) })
	r.Evictions = []Eviction{{Pod: pods[0].Pod, Message: message(t, s.Rooms[t.Signal], pods[0]), Disruption: true}}
	return r
}

// rank orders pods by who is to go first: one that uses more of the resource than
// it requested; then who uses most above its request. Nobody requests processes:
// there the number counts.
func rank(resource string, a, b Pod) int {
	overA, overB := a.over(resource), b.over(resource)
	return cmp.Or(
		compareBool(overA > 0, overB > 0),
		cmp.Compare(overB, overA),
		cmp.Compare(a.GetMetadata().GetUid(), b.GetMetadata().GetUid()), // so that it can be repeated
	)
}

// compareBool puts true before false.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// over is how much more of the resource the pod uses than it requested.
func (p Pod) over(resource string) int64 {
	sum := -amount(resource, api.PodRequests(p.GetSpec()))
	for _, u := range p.Containers {
		sum += u.of(resource)
	}
	if resource == api.ResourceEphemeralStorage {
		for _, bytes := range p.Volumes {
			sum += bytes
		}
	}
	return sum
}

func (u Usage) of(resource string) int64 {
	switch resource {
	case api.ResourceMemory:
		return u.Memory
	case api.ResourceEphemeralStorage:
		return u.Disk
	}
	return u.PIDs
}

func amount(resource string, r api.Resources) int64 {
	switch resource {
	case api.ResourceMemory:
		return r.Memory
	case api.ResourceEphemeralStorage:
		return r.EphemeralStorage
	}
	return 0
}

// HasDiskLimit says whether what the pod's containers write is limited.
func HasDiskLimit(s *v1.PodSpec) bool {
	return api.PodLimits(s).EphemeralStorage > 0 || slices.ContainsFunc(s.GetVolumes(), func(v *v1.Volume) bool {
		return OnDisk(v) && sizeLimit(v) > 0
	})
}

// OnDisk says whether a volume is an emptyDir on the node's disk.
func OnDisk(v *v1.Volume) bool {
	return v.GetEmptyDir() != nil && v.GetEmptyDir().GetMedium() != api.MediumMemory
}

func sizeLimit(v *v1.Volume) int64 {
	return api.ResourcesOf(map[string]string{api.ResourceEphemeralStorage: v.GetEmptyDir().GetSizeLimit()}).EphemeralStorage
}

func diskLimit(c *v1.Container) int64 {
	return api.ResourcesOf(c.GetResources().GetLimits()).EphemeralStorage
}

// overLimit says which limit of its own the pod is over; "" where none.
func overLimit(p Pod) string {
	var used int64
	single := ""
	for _, v := range p.GetSpec().GetVolumes() {
		if limit := sizeLimit(v); OnDisk(v) && limit > 0 && p.Volumes[v.GetName()] > limit {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.GetName(), api.NewBinaryQuantity(limit))
		}
		used += p.Volumes[v.GetName()]
	}
	for _, u := range p.Containers {
		used += u.Disk
	}
	limit := api.PodLimits(p.GetSpec()).EphemeralStorage
	for _, c := range api.AllContainers(p.GetSpec()) {
		own := diskLimit(c)
		for _, u := range p.Containers {
			if single == "" && u.Name == c.GetName() && own > 0 && u.Disk > own {
				single = fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", u.Name, api.NewBinaryQuantity(own))
			}
		}
	}
	if limit > 0 && used > limit {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", api.NewBinaryQuantity(limit))
	}
	return single
}

// message says why the pod has to go, and which of its containers used more than
// they requested.
func message(t Threshold, room container.Room, p Pod) string {
	resource := signals[t.Signal].resource
	m := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ",
		resource, api.NewBinaryQuantity(t.Of(room.Capacity)), api.NewBinaryQuantity(room.Available))
	if resource == "pids" {
		return m
	}
	for _, u := range p.Containers {
		for _, c := range api.AllContainers(p.GetSpec()) {
			request := amount(resource, api.ResourcesOf(c.GetResources().GetRequests()))
			if c.GetName() == u.Name && u.of(resource) > request {
				m += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %s. ",
					u.Name, api.NewBinaryQuantity(u.of(resource)), api.NewBinaryQuantity(request), resource)
			}
		}
	}
	return m
}

// Refuses says why a node with these conditions does not begin with a pod that was
// given to it all the same; "" where it does. The sentence is the kubelet's.
func Refuses(conditions map[string]bool, s *v1.PodSpec) string {
	var names []string
	for _, c := range []string{api.NodeMemoryPressure, api.NodeDiskPressure, api.NodePIDPressure} {
		if conditions[c] {
			names = append(names, c)
		}
	}
	memory := &v1.Taint{Key: api.TaintMemoryPressure, Effect: api.EffectNoSchedule}
	switch {
	case len(names) == 0,
		len(names) == 1 && names[0] == api.NodeMemoryPressure &&
			(api.QOSClass(s) != api.QOSBestEffort || api.Tolerates(s.GetTolerations(), memory)):
		return ""
	}
	return fmt.Sprintf("Pod was rejected: The node had condition: %v. ", names)
}
