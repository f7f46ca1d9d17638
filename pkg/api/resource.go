package api

import (
	"maps"

	v1 "orch/proto/v1"
)

// Resources is what pods request and nodes offer.
type Resources struct {
	MilliCPU         int64 // thousandths of a CPU
	Memory           int64 // bytes
	EphemeralStorage int64 // bytes
	Pods             int64
}

// ResourcesOf reads a list such as a node's allocatable. What is missing or no
// quantity is 0.
func ResourcesOf(list map[string]string) Resources {
	return Resources{
		MilliCPU:         quantityIn(list, ResourceCPU).MilliValue(),
		Memory:           quantityIn(list, ResourceMemory).Value(),
		EphemeralStorage: quantityIn(list, ResourceEphemeralStorage).Value(),
		Pods:             quantityIn(list, ResourcePods).Value(),
	}
}

// PodRequests is what a pod takes from its node, itself as one pod included.
func PodRequests(spec *v1.PodSpec) Resources {
	sum := atMost(spec, containerRequests)
	sum.Pods = 1
	return sum
}

// PodLimits is what a pod may use at most, as far as its containers say so.
func PodLimits(spec *v1.PodSpec) Resources {
	return atMost(spec, func(c *v1.Container) Resources { return ResourcesOf(c.GetResources().GetLimits()) })
}

// atMost sums over those containers that run at the same time: at any moment
// either the containers with all sidecars, or one init container with the
// sidecars before it; the larger counts, for each resource by itself.
func atMost(spec *v1.PodSpec, of func(*v1.Container) Resources) Resources {
	var sidecars, steps, sum Resources
	for _, c := range spec.GetInitContainers() {
		if IsSidecar(c) {
			sidecars = sidecars.Add(of(c))
			continue
		}
		steps = steps.max(sidecars.Add(of(c)))
	}
	sum = sidecars
	for _, c := range spec.GetContainers() {
		sum = sum.Add(of(c))
	}
	return sum.max(steps)
}

// containerRequests is what a container requests; where it requests nothing but
// has a limit, that.
func containerRequests(c *v1.Container) Resources {
	amounts := map[string]string{}
	maps.Copy(amounts, c.GetResources().GetLimits())
	maps.Copy(amounts, c.GetResources().GetRequests())
	return ResourcesOf(amounts)
}

// Add returns r + o.
func (r Resources) Add(o Resources) Resources {
	return Resources{r.MilliCPU + o.MilliCPU, r.Memory + o.Memory, r.EphemeralStorage + o.EphemeralStorage, r.Pods + o.Pods}
}

// max returns the larger of r and o, resource by resource.
func (r Resources) max(o Resources) Resources {
	return Resources{max(r.MilliCPU, o.MilliCPU), max(r.Memory, o.Memory), max(r.EphemeralStorage, o.EphemeralStorage), max(r.Pods, o.Pods)}
}

// Sub returns r - o.
func (r Resources) Sub(o Resources) Resources {
	return Resources{r.MilliCPU - o.MilliCPU, r.Memory - o.Memory, r.EphemeralStorage - o.EphemeralStorage, r.Pods - o.Pods}
}

// QOSClass is the pod's class of service, from CPU and memory alone: Guaranteed
// where every container has limits for both and requests just these, BestEffort
// where no container has any, Burstable otherwise.
func QOSClass(spec *v1.PodSpec) string {
	anything, guaranteed := false, true
	for _, c := range AllContainers(spec) {
		for _, name := range []string{ResourceCPU, ResourceMemory} {
			limit := quantityIn(c.GetResources().GetLimits(), name)
			request := quantityIn(c.GetResources().GetRequests(), name)
			if _, ok := c.GetResources().GetRequests()[name]; !ok {
				request = limit
			}
			if limit.Sign() > 0 || request.Sign() > 0 {
				anything = true
			}
			if limit.Sign() == 0 || limit.Cmp(request) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !anything:
		return QOSBestEffort
	case guaranteed:
		return QOSGuaranteed
	}
	return QOSBurstable
}

// quantityIn returns the quantity of this name; 0 where there is none, or what is
// none.
func quantityIn(list map[string]string, name string) Quantity {
	q, _ := ParseQuantity(list[name])
	return q
}
