package agent

import (
	"context"
	"maps"
	"sync"
	"time"

	"orch/pkg/agent/eviction"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/agent/observer"
	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

const (
	// monitorPeriod is how often the node is looked at: the kubelet's
	// evictionMonitoringPeriod.
	monitorPeriod = 10 * time.Second
	// evictionGrace is what an evicted pod's containers get: the kubelet's
	// immediateEvictionGracePeriodSeconds.
	evictionGrace = time.Second
	// diskShare bounds what it costs to count what containers have written: after
	// a count nothing is counted for this many times as long as it took.
	diskShare = 20
	// rateWindow is the least time between two looks from which a rate of CPU is
	// made.
	rateWindow = time.Second
)

// monitor measures the node and its pods, and evicts pods where the node would
// come to its end. What is decided is decided in package eviction.
//
// Concurrency: Run once; look and rates may be called from several goroutines.
type monitor struct {
	agent *Agent

	mu   sync.Mutex // protects last
	last sample

	// Of Run alone:
	observed map[string]time.Time        // of the decision before
	evicted  map[string]bool             // uids of evicted pods that may not have ended yet
	disks    map[string]int64            // bytes written, by container id, as last counted
	written  map[string]map[string]int64 // the same of emptyDirs, by pod's uid and name
	countAt  time.Time                   // when to count again
}

// sample is one look at the node.
type sample struct {
	machine    container.Machine
	containers map[string]container.Stats // by id
}

func newMonitor(a *Agent) *monitor {
	return &monitor{agent: a, evicted: map[string]bool{}, disks: map[string]int64{}}
}

// Run looks every ten seconds until ctx ends.
func (m *monitor) Run(ctx context.Context) {
	ticker := time.NewTicker(monitorPeriod)
	defer ticker.Stop()
	for {
		m.round(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// round looks, decides, and evicts.
func (m *monitor) round(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, monitorPeriod)
	defer cancel()
	now := m.look(ctx)
	m.mu.Lock()
	m.last = now
	m.mu.Unlock()
	state := eviction.State{
		Thresholds: m.agent.options.Thresholds, Rooms: rooms(m.agent.options, now), Ending: m.ending(),
		Observed: m.observed, Transition: m.agent.options.PressureTransition, Now: time.Now(),
	}
	// What all pods have written matters only where the disk is short.
	state.Pods = m.pods(ctx, now, eviction.Plan(state).Short == api.ResourceEphemeralStorage)
	plan := eviction.Plan(state)
	m.observed = plan.Observed
	for _, e := range plan.Evictions {
		m.evicted[e.Pod.GetMetadata().GetUid()] = true
	}

	node := &v1.Node{Metadata: &v1.ObjectMeta{Name: m.agent.options.NodeName}}
	events := m.agent.node.Presses(plan.Conditions, state.Rooms)
	if len(events) > 0 {
		// Said before anybody goes: a replacement is not to come here.
		if err := m.agent.node.report(ctx); err != nil {
			m.agent.node.wake()
		}
	}
	for _, event := range events {
		m.agent.recorder.Event(ctx, node, api.EventNormal, event, "Node %s status is now: %s", m.agent.options.NodeName, event)
	}
	if plan.Short != "" {
		m.agent.recorder.Event(ctx, node, api.EventWarning, "EvictionThresholdMet", "Attempting to reclaim %s", plan.Short)
	}
	for _, e := range plan.Evictions {
		m.evict(ctx, e)
	}
}

func (m *monitor) evict(ctx context.Context, e eviction.Eviction) {
	w := m.agent.worker(e.Pod.GetMetadata().GetUid())
	if w == nil {
		return
	}
	m.agent.log.Warn("evicting a pod", "pod", w.key, "why", e.Message)
	m.agent.recorder.Event(ctx, e.Pod, api.EventWarning, eviction.Reason, "%s", e.Message)
	w.end(lifecycle.Verdict{Reason: eviction.Reason, Message: e.Message, Grace: evictionGrace, Disruption: e.Disruption})
}

// look measures the machine and the containers that run.
func (m *monitor) look(ctx context.Context) sample {
	s := sample{containers: map[string]container.Stats{}}
	var err error
	if s.machine, err = m.agent.runtime.Machine(ctx); err != nil {
		m.agent.log.Debug("the machine could not be measured", "error", err)
	}
	for _, pod := range m.agent.mirror.List() {
		for _, c := range m.running(pod) {
			if used, err := m.agent.runtime.Stats(ctx, c.Container); err == nil { // else it has just ended
				s.containers[c.ID] = used
			}
		}
	}
	return s
}

// running are the pod's containers that run, its sandbox not among them.
func (m *monitor) running(pod *v1.Pod) []lifecycle.Container {
	var running []lifecycle.Container
	for _, c := range m.agent.observer.Pod(pod.GetMetadata().GetUid()) {
		if c.Name != lifecycle.SandboxSlot && c.Running() {
			running = append(running, c)
		}
	}
	return running
}

// rooms are what the node has, and has left. An agent that offers a part of its
// machine's memory looks after that part: several agents on one laptop would
// otherwise all evict for what one of them, or the browser, has taken.
func rooms(o Options, s sample) map[eviction.Signal]container.Room {
	rooms := map[eviction.Signal]container.Room{}
	put := func(signal eviction.Signal, r container.Room) {
		if r.Capacity > 0 {
			rooms[signal] = r
		}
	}
	put(eviction.MemoryAvailable, memory(o, s))
	put(eviction.NodeFSAvailable, s.machine.Disk)
	put(eviction.ImageFSAvailable, s.machine.Disk)
	put(eviction.PIDAvailable, s.machine.PIDs)
	return rooms
}

func memory(o Options, s sample) container.Room {
	part, ok := o.Capacity[api.ResourceMemory]
	if !ok {
		return s.machine.Memory
	}
	capacity := api.ResourcesOf(map[string]string{api.ResourceMemory: part}).Memory
	left := capacity
	for _, used := range s.containers {
		left -= used.MemoryBytes
	}
	return container.Room{Capacity: capacity, Available: max(0, left)}
}

// pods are those that could be evicted; with all, what each of them has written
// is counted now.
func (m *monitor) pods(ctx context.Context, s sample, all bool) []eviction.Pod {
	var pods []eviction.Pod
	counted := all || !m.countAt.After(time.Now())
	began, seen, written := time.Now(), map[string]int64{}, map[string]map[string]int64{}
	for _, pod := range m.agent.mirror.List() {
		if !api.IsPodActive(pod) || m.evicted[pod.GetMetadata().GetUid()] {
			continue
		}
		p := eviction.Pod{Pod: pod}
		for _, c := range m.running(pod) {
			used, ok := s.containers[c.ID]
			if !ok {
				continue
			}
			// Where nobody asks, nothing is counted.
			disk := m.disks[c.ID]
			if counted && (all || eviction.HasDiskLimit(pod.GetSpec())) {
				if bytes, err := m.agent.runtime.DiskUsage(ctx, c.ID); err == nil {
					disk = bytes
				}
			}
			seen[c.ID] = disk
			p.Containers = append(p.Containers, eviction.Usage{Name: c.Name, Memory: used.MemoryBytes, Disk: disk, PIDs: used.PIDs})
		}
		if len(p.Containers) > 0 {
			p.Volumes = m.volumes(pod, all, counted, written)
			pods = append(pods, p)
		}
	}
	m.disks, m.written = seen, written
	if counted {
		m.countAt = time.Now().Add(diskShare * time.Since(began))
	}
	return pods
}

// volumes are the bytes in the pod's emptyDirs, counted now or as last counted.
func (m *monitor) volumes(pod *v1.Pod, all, counted bool, written map[string]map[string]int64) map[string]int64 {
	uid := pod.GetMetadata().GetUid()
	if !counted || !all && !eviction.HasDiskLimit(pod.GetSpec()) {
		written[uid] = m.written[uid]
		return written[uid]
	}
	bytes := map[string]int64{}
	for _, v := range pod.GetSpec().GetVolumes() {
		if !eviction.OnDisk(v) || m.agent.volumes == nil {
			continue
		}
		if used, err := m.agent.volumes.Used(uid, v.GetName()); err == nil {
			bytes[v.GetName()] = used
		}
	}
	written[uid] = bytes
	return bytes
}

// ending says whether a pod that was evicted still has something running.
func (m *monitor) ending() bool {
	any := false
	for uid := range m.evicted {
		running := false
		for _, c := range m.agent.observer.Pod(uid) {
			running = running || c.Name != lifecycle.SandboxSlot && c.Running()
		}
		any = any || running
		if !running {
			delete(m.evicted, uid)
		}
	}
	return any
}

// Stats says what the node and its pods use.
func (a *Agent) Stats(ctx context.Context, _ *v1.StatsRequest) (*v1.StatsResponse, error) {
	before, now := a.monitor.rates(ctx)
	answer := &v1.StatsResponse{Node: &v1.Usage{}}
	for _, pod := range a.mirror.List() {
		p := &v1.PodStats{Namespace: pod.GetMetadata().GetNamespace(), Name: pod.GetMetadata().GetName()}
		for _, c := range a.monitor.running(pod) {
			used, ok := now.containers[c.ID]
			if !ok {
				continue
			}
			u := &v1.Usage{MemoryBytes: used.MemoryBytes, CpuNanocores: rate(before.containers[c.ID].CPU, used.CPU, used.At.Sub(before.containers[c.ID].At))}
			p.Containers = append(p.Containers, &v1.ContainerStats{Name: c.Name, Usage: u})
			answer.Node.CpuNanocores += u.CpuNanocores
		}
		if len(p.Containers) > 0 {
			answer.Pods = append(answer.Pods, p)
		}
	}
	memory := memory(a.options, now)
	answer.Node.MemoryBytes = memory.Capacity - memory.Available
	if _, part := a.options.Capacity[api.ResourceCPU]; !part && now.machine.CPU > 0 {
		answer.Node.CpuNanocores = rate(before.machine.CPU, now.machine.CPU, now.machine.At.Sub(before.machine.At))
	}
	return answer, nil
}

// Containers says what the engine has of this node's pods, asked now, and what their
// workers hold of it.
func (a *Agent) Containers(ctx context.Context, _ *v1.ContainersRequest) (*v1.ContainersResponse, error) {
	list, err := a.runtime.List(ctx, a.owner.Labels())
	if err != nil {
		return nil, streamError(err)
	}
	answer := &v1.ContainersResponse{Containers: lifecycle.Seen(list)}
	for _, x := range answer.Containers {
		if w := a.worker(x.GetPodUid()); w != nil {
			x.Ready = w.ready(x.GetId())
		}
	}
	return answer, nil
}

// rate is how much time of processors was used in a span, in billionths.
func rate(before, now, span time.Duration) int64 {
	if span <= 0 {
		return 0
	}
	return int64(float64(max(0, now-before)) / float64(span) * 1e9)
}

// rates returns two looks that are far enough apart, the later one from now. The
// first is the monitor's last, unless that is too young or misses a container.
func (m *monitor) rates(ctx context.Context) (before, now sample) {
	m.mu.Lock()
	before = m.last
	m.mu.Unlock()
	now = m.look(ctx)
	far := !before.machine.At.IsZero() && now.machine.At.Sub(before.machine.At) >= rateWindow
	for id, used := range now.containers {
		then, ok := before.containers[id]
		far = far && ok && used.At.Sub(then.At) >= rateWindow
	}
	if far {
		return before, now
	}
	before = now
	observer.Sleep(ctx, rateWindow)
	now = m.look(ctx)
	maps.DeleteFunc(now.containers, func(id string, _ container.Stats) bool { _, ok := before.containers[id]; return !ok })
	return before, now
}
