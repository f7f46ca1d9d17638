package invariant

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "orch/proto/v1"
)

// Machines compares what engines have with the pods of the API: what the log can
// never tell. The containers of each node are by its name; a node that was not
// asked is not there. Pods and machines are read one after the other, so what is
// found once may only be on its way: see [Compare].
func Machines(pods []*v1.Pod, nodes map[string][]*v1.NodeContainer) (found []*Violation) {
	byUID := map[string]*v1.Pod{}
	for _, p := range pods {
		byUID[p.GetMetadata().GetUid()] = p
	}
	running := map[string]*v1.NodeContainer{} // by the uid of their pod and their name
	for node, all := range nodes {
		for _, x := range all {
			p := byUID[x.GetPodUid()]
			if x.GetRunning() {
				running[x.GetPodUid()+"/"+x.GetContainer()] = x
			}
			switch {
			case p == nil:
				found = append(found, seen(OwnedBy, x, "has left %s on %s", what(x), node))
			case p.GetSpec().GetNodeName() != node:
				found = append(found, seen(OneNode, x, "is bound to %q, and has %s on %s", p.GetSpec().GetNodeName(), what(x), node))
			}
		}
	}
	for _, p := range pods {
		m := p.GetMetadata()
		node, containers := p.GetSpec().GetNodeName(), p.GetSpec().GetContainers()
		if _, asked := nodes[node]; !asked || !well(p) {
			continue
		}
		v := &Violation{Rule: ReallyUp, Object: "pod/" + m.GetName(), Namespace: m.GetNamespace()}
		run, frozen, unready := 0, 0, 0
		for _, c := range containers {
			switch x := running[m.GetUid()+"/"+c.GetName()]; {
			case x.GetPaused():
				frozen++
			case x != nil:
				run++
				if x.Ready != nil && !x.GetReady() {
					unready++
				}
			}
		}
		if run < len(containers) {
			v.Broken = fmt.Sprintf("is ready, and %d of its %d containers run on %s", run, len(containers), node)
			if frozen > 0 {
				v.Broken += fmt.Sprintf(" (%d frozen)", frozen)
			}
			found = append(found, v)
		} else if unready > 0 {
			v.Broken = fmt.Sprintf("is ready, and the agent of %s knows that %d of its %d containers are not", node, unready, len(containers))
			found = append(found, v)
		}
	}
	found = append(found, Doubles(nodes)...)
	slices.SortFunc(found, func(a, b *Violation) int {
		return slices.Compare([]string{a.Object, a.Broken}, []string{b.Object, b.Broken})
	})
	return found
}

// Doubles are the containers that run twice, on one machine or on two, and the
// pods of one name that do. It takes no look at the API, so that it must hold at
// every moment.
func Doubles(nodes map[string][]*v1.NodeContainer) (found []*Violation) {
	type place struct {
		node string
		*v1.NodeContainer
	}
	parts, names := map[string]place{}, map[string]place{}
	for _, node := range slices.Sorted(maps.Keys(nodes)) { // so that two looks tell the same
		for _, x := range slices.SortedFunc(slices.Values(nodes[node]), func(a, b *v1.NodeContainer) int { return strings.Compare(a.GetId(), b.GetId()) }) {
			if !x.GetRunning() {
				continue
			}
			part := x.GetPodUid() + "/" + x.GetContainer()
			if other, ok := parts[part]; ok {
				found = append(found, seen(OneNode, x, "has %s on %s and %s on %s at a time", what(other.NodeContainer), other.node, what(x), node))
			}
			parts[part] = place{node, x}
			name := x.GetNamespace() + "/" + x.GetPod()
			if other, ok := names[name]; ok && other.GetPodUid() != x.GetPodUid() && x.GetContainer() != "" {
				found = append(found, seen(OneName, x, "is two pods: %s on %s, and %s on %s", what(other.NodeContainer), other.node, what(x), node))
			}
			if x.GetContainer() != "" {
				names[name] = place{node, x}
			}
		}
	}
	return found
}

// Compare tells what was found in two looks, one after the other, and so is no
// change that was seen half-way, from what is new in the second.
func Compare(first, second []*Violation) (again, fresh []*Violation) {
	for _, v := range second {
		if slices.ContainsFunc(first, func(o *Violation) bool { return o.Name+o.Object+o.Broken == v.Name+v.Object+v.Broken }) {
			again = append(again, v)
		} else {
			fresh = append(fresh, v)
		}
	}
	return again, fresh
}

func seen(r Rule, x *v1.NodeContainer, format string, args ...any) *Violation {
	return &Violation{Rule: r, Object: "pod/" + x.GetPod(), Namespace: x.GetNamespace(), Broken: fmt.Sprintf(format, args...)}
}

// what names a container of an engine.
func what(x *v1.NodeContainer) string {
	name := x.GetContainer()
	if name == "" {
		name = "its sandbox"
	} else {
		name = "container " + name
	}
	return fmt.Sprintf("%s (%.12s, attempt %d)", name, x.GetId(), x.GetAttempt())
}
