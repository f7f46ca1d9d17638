package eviction

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

const mi = 1 << 20

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// pod has one container, which requests and uses so much of the resource.
func pod(name, resource string, request, use int64) Pod {
	p := Pod{Pod: &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Uid: name},
		Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "c", Resources: &v1.ResourceRequirements{Requests: map[string]string{}}}}},
	}, Containers: []Usage{{Name: "c"}}}
	if request > 0 {
		p.Spec.Containers[0].Resources.Requests[resource] = fmt.Sprintf("%dMi", request)
	}
	switch resource {
	case api.ResourceMemory:
		p.Containers[0].Memory = use * mi
	case api.ResourceEphemeralStorage:
		p.Containers[0].Disk = use * mi
	default:
		p.Containers[0].PIDs = use
	}
	return p
}

// withVolume is the pod with an emptyDir that holds so much.
func withVolume(p Pod, name, limit string, bytes int64) Pod {
	p.Pod = api.Clone(p.Pod)
	p.Spec.Volumes = []*v1.Volume{{Name: name, EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: limit}}}
	p.Volumes = map[string]int64{name: bytes}
	return p
}

func thresholds(t *testing.T, text string) []Threshold {
	t.Helper()
	all, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":      "[]",
		Default: "[{memory.available 104857600 0} {nodefs.available 0 10} {imagefs.available 0 15}]",
		" memory.available < 1Gi , nodefs.available<0%,imagefs.available<100% ": "[{memory.available 1073741824 0}]",
		"pid.available<7.5%":                        "[{pid.available 0 7.5}]",
		"memory.available":                          `"memory.available" is not SIGNAL<AMOUNT, such as memory.available<100Mi or nodefs.available<10%`,
		"nodefs.inodesFree<5%":                      "unsupported eviction signal nodefs.inodesFree: there are memory.available, nodefs.available, imagefs.available and pid.available",
		"memory.available<lots":                     `eviction threshold memory.available must be a positive quantity such as 100Mi or a percentage such as 10%, not "lots"`,
		"memory.available<-1":                       `eviction threshold memory.available must be a positive quantity such as 100Mi or a percentage such as 10%, not "-1"`,
		"nodefs.available<101%":                     `eviction percentage threshold nodefs.available must be between 0% and 100%, not "101%"`,
		"memory.available<1Mi,memory.available<2Mi": "memory.available has two thresholds",
	} {
		all, err := Parse(text)
		got := fmt.Sprint(all)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestPlan(t *testing.T) {
	const memory, disk = api.ResourceMemory, api.ResourceEphemeralStorage
	low := map[Signal]container.Room{MemoryAvailable: {Capacity: 1000 * mi, Available: 50 * mi}}
	limited := pod("a", disk, 0, 30)
	limited.Spec.Containers[0].Resources.Limits = map[string]string{disk: "20Mi"}
	two := pod("b", disk, 0, 5)
	two.Spec.Containers[0].Resources.Limits = map[string]string{disk: "20Mi"}
	two.Spec.Containers = append(two.Spec.Containers, &v1.Container{Name: "d", Resources: &v1.ResourceRequirements{Limits: map[string]string{disk: "1Mi"}}})
	two.Containers = append(two.Containers, Usage{Name: "d", Disk: 2 * mi})
	for name, tt := range map[string]struct {
		rooms  map[Signal]container.Room
		pods   []Pod
		ending bool
		want   string // "pod: message"; "" is nobody
	}{
		"nobody goes where enough is left": {
			map[Signal]container.Room{MemoryAvailable: {Capacity: 1000 * mi, Available: 100 * mi}},
			[]Pod{pod("a", memory, 0, 900)},
			false, "",
		},
		"nobody goes where nothing is known": {nil, []Pod{pod("a", memory, 0, 900)}, false, ""},
		"one over its request goes before one that uses more within its own": {
			low,
			[]Pod{pod("a", memory, 800, 700), pod("b", memory, 10, 20)},
			false,
			"b: The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 20Mi, request is 10Mi, has larger consumption of memory. ",
		},
		"of those over their request, who is over most goes first": {
			low,
			[]Pod{pod("a", memory, 0, 100), pod("b", memory, 500, 700)},
			false,
			"b: The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 700Mi, request is 500Mi, has larger consumption of memory. ",
		},
		"where nobody is over, who is nearest goes": {
			low,
			[]Pod{pod("a", memory, 500, 100), pod("b", memory, 500, 400)},
			false,
			"b: The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ",
		},
		"the next has to wait until the one before has ended": {low, []Pod{pod("a", memory, 0, 100)}, true, ""},
		"memory comes before disk": {
			map[Signal]container.Room{NodeFSAvailable: {Capacity: 1000 * mi, Available: 1}, MemoryAvailable: {Capacity: 1000 * mi, Available: 1}},
			[]Pod{pod("a", disk, 0, 900), pod("b", memory, 0, 10)},
			false,
			"b: The node was low on resource: memory. Threshold quantity: 100Mi, available: 1. Container c was using 10Mi, request is 0, has larger consumption of memory. ",
		},
		"a percentage is one of the capacity": {
			map[Signal]container.Room{NodeFSAvailable: {Capacity: 1000 * mi, Available: 99 * mi}},
			[]Pod{pod("a", disk, 0, 10), pod("b", disk, 0, 20)},
			false,
			"b: The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 99Mi. Container c was using 20Mi, request is 0, has larger consumption of ephemeral-storage. ",
		},
		"of processes, who has most goes": {
			map[Signal]container.Room{PIDAvailable: {Capacity: 1000, Available: 9}},
			[]Pod{pod("a", "pids", 0, 10), pod("b", "pids", 0, 20)},
			false,
			"b: The node was low on resource: pids. Threshold quantity: 10, available: 9. ",
		},
		"over its own limit a pod goes without any pressure": {
			nil,
			[]Pod{limited},
			false,
			"a: Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. ",
		},
		"a container over its own limit, in a pod that is not": {
			nil,
			[]Pod{two},
			false,
			"b: Container d exceeded its local ephemeral storage limit \"1Mi\". ",
		},
		"an emptyDir over its own limit": {
			nil,
			[]Pod{withVolume(pod("a", disk, 0, 1), "cache", "2Mi", 3*mi)},
			false,
			"a: Usage of EmptyDir volume \"cache\" exceeds the limit \"2Mi\". ",
		},
		"an emptyDir counts for the pod": {
			nil,
			[]Pod{withVolume(two, "cache", "", 19*mi)},
			false,
			"b: Pod ephemeral local storage usage exceeds the total limit of containers 21Mi. ",
		},
		"who is over a limit goes instead of another under pressure": {
			low,
			[]Pod{pod("b", memory, 0, 100), limited},
			false,
			"a: Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			r := Plan(State{Thresholds: thresholds(t, Default+",pid.available<1%"), Rooms: tt.rooms, Pods: tt.pods, Ending: tt.ending, Now: now})
			for _, e := range r.Evictions {
				got += e.Pod.GetMetadata().GetName() + ": " + e.Message
			}
			if got != tt.want {
				t.Errorf("%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestAConditionStaysForATransitionPeriod(t *testing.T) {
	s := State{Thresholds: thresholds(t, Default), Transition: 5 * time.Minute, Now: now, Rooms: map[Signal]container.Room{MemoryAvailable: {Capacity: 1000 * mi, Available: 1}}}
	r := Plan(s)
	if !r.Conditions[api.NodeMemoryPressure] || r.Conditions[api.NodeDiskPressure] || r.Short != api.ResourceMemory {
		t.Fatalf("%+v", r)
	}
	s.Rooms = map[Signal]container.Room{MemoryAvailable: {Capacity: 1000 * mi, Available: 900 * mi}}
	for _, tt := range []struct {
		after time.Duration
		want  bool
	}{{time.Second, true}, {299 * time.Second, true}, {300 * time.Second, false}, {time.Hour, false}} {
		s.Observed, s.Now = r.Observed, now.Add(tt.after)
		r = Plan(s)
		if r.Conditions[api.NodeMemoryPressure] != tt.want || r.Short != "" {
			t.Errorf("after %v: %+v", tt.after, r)
		}
	}
}

func TestRefuses(t *testing.T) {
	best, burstable := &v1.PodSpec{Containers: []*v1.Container{{}}}, pod("a", api.ResourceMemory, 1, 0).Spec
	tolerant := &v1.PodSpec{Containers: best.Containers, Tolerations: []*v1.Toleration{{Operator: api.TolerationExists}}}
	memory, disk := map[string]bool{api.NodeMemoryPressure: true}, map[string]bool{api.NodeMemoryPressure: true, api.NodeDiskPressure: true}
	for name, tt := range map[string]struct {
		conditions map[string]bool
		spec       *v1.PodSpec
		want       string
	}{
		"a node in good health takes all":                  {nil, best, ""},
		"one short of memory takes who says what it needs": {memory, burstable, ""},
		"but not who does not":                             {memory, best, "Pod was rejected: The node had condition: [MemoryPressure]. "},
		"unless it tolerates that":                         {memory, tolerant, ""},
		"one short of disk takes nobody, tolerant or not":  {disk, tolerant, "Pod was rejected: The node had condition: [MemoryPressure DiskPressure]. "},
	} {
		if got := Refuses(tt.conditions, tt.spec); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestWhoStaysWithinItsRequestGoesLast(t *testing.T) {
	all, err := Parse(Default)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := State{Thresholds: all, Now: now, Rooms: map[Signal]container.Room{
			MemoryAvailable: {Capacity: 1000 * mi, Available: rapid.Int64Range(0, 200).Draw(t, "memory") * mi},
			NodeFSAvailable: {Capacity: 1000 * mi, Available: rapid.Int64Range(0, 200).Draw(t, "disk") * mi},
		}}
		for i := range rapid.IntRange(0, 6).Draw(t, "pods") {
			p := pod(fmt.Sprint(i), api.ResourceMemory, rapid.Int64Range(0, 3).Draw(t, "request"), rapid.Int64Range(0, 3).Draw(t, "use"))
			p.Containers[0].Disk = rapid.Int64Range(0, 3).Draw(t, "written") * mi
			s.Pods = append(s.Pods, p)
		}
		r := Plan(s)
		pressed := s.Rooms[MemoryAvailable].Available < 100*mi || s.Rooms[NodeFSAvailable].Available < 100*mi
		if pressed != (r.Short != "") || len(r.Evictions) > 1 || !pressed && len(r.Evictions) > 0 || pressed && len(s.Pods) > 0 && len(r.Evictions) == 0 {
			t.Fatalf("pressure %t: %+v", pressed, r)
		}
		for _, e := range r.Evictions {
			for _, p := range s.Pods {
				if p.GetMetadata().GetUid() == e.Pod.GetMetadata().GetUid() && p.over(r.Short) <= 0 {
					for _, other := range s.Pods {
						if other.over(r.Short) > 0 {
							t.Fatalf("%s goes, which stays within its request; %s does not", p.GetMetadata().GetName(), other.GetMetadata().GetName())
						}
					}
				}
			}
		}
	})
}
