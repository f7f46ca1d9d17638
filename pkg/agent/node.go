package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/agent/eviction"
	"orch/pkg/agent/fault"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

const (
	// statusEvery is how often the node's status is compared with what the API
	// server has, and heartbeat how often it is written though nothing changed: the
	// kubelet's nodeStatusUpdateFrequency and nodeStatusReportFrequency. That the
	// node lives, its lease says.
	statusEvery = 10 * time.Second
	heartbeat   = 5 * time.Minute
	// defaultPods is the kubelet's maxPods.
	defaultPods = "110"
	// imagesEvery is how often the engine is asked for its images where the agent
	// pulled none.
	imagesEvery = 5 * time.Minute
	// The kubelet's nodeStatusMaxImages, and how many names each has.
	maxImages, maxImageNames = 50, 5
)

// node keeps the Node object of this machine: it registers it, says whether
// containers can run, and sends a heartbeat.
//
// Concurrency: all methods may be called from several goroutines; Run once.
type node struct {
	options Options
	nodes   client.Resource[*v1.Node]
	log     *slog.Logger
	news    chan struct{} // of size 1: the engine came or went
	// described is closed when the engine has first said what it is.
	described chan struct{}
	// offered says which faults can be done here, and whether packets can be delayed.
	offered func(engine string) (faults string, netem bool)
	clock   *fault.Clock

	mu       sync.Mutex // protects what follows
	reported time.Time  // when the status was written last
	known    bool       // whether the engine was ever asked
	engine   error      // nil: it answers
	network  error      // nil: pods can have it
	info     container.Info
	faults   string
	netem    bool
	images   []container.Image // largest first; the slice is not changed, but replaced
	listed   time.Time         // when the engine was asked for them; zero: they changed since
	disk     int64             // of the machine, in bytes; 0: not known
	// pressed are the conditions that hold, of those in measured.
	pressed, measured map[string]bool
}

func newNode(o Options, log *slog.Logger) (*node, error) {
	o.Capacity = maps.Clone(o.Capacity)
	for what, list := range map[string]map[string]string{"capacity": o.Capacity, "reserve": o.Reserved} {
		for resource, quantity := range list {
			q, err := api.ParseQuantity(quantity)
			if err != nil || q.Sign() < 0 {
				return nil, fmt.Errorf("%s %s=%s is not a quantity such as 2, 500m or 4Gi", what, resource, quantity)
			}
			if what == "capacity" {
				list[resource] = q.String() // 1000m is shown as 1
			}
		}
	}
	return &node{
		options: o, nodes: client.For[*v1.Node](o.Client), log: log,
		news: make(chan struct{}, 1), described: make(chan struct{}),
	}, nil
}

// EngineIs takes in whether the engine answers, and returns whether that is
// news.
func (n *node) EngineIs(err error) bool {
	n.mu.Lock()
	news := !n.known || (err == nil) != (n.engine == nil)
	n.known, n.engine = true, err
	n.mu.Unlock()
	if !news {
		return false
	}
	if err != nil {
		n.log.Error("the container engine does not answer; containers that run are left alone", "error", err)
	} else {
		n.log.Info("the container engine answers")
	}
	n.wake()
	return true
}

// NetworkIs takes in whether pods can have their network.
func (n *node) NetworkIs(err error) {
	n.mu.Lock()
	n.network = err
	known := n.known // else nobody knows whether the node is ready, network or not
	n.mu.Unlock()
	if known {
		n.wake()
	}
}

// Unknown takes in that the cluster knows nothing of the node.
func (n *node) Unknown() {
	n.mu.Lock()
	known := n.known // else it was not asked to say anything yet
	n.mu.Unlock()
	if known {
		n.wake()
	}
}

// wake makes Run report at once.
func (n *node) wake() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// Engine is the scheme of container ids, "docker" or "fake"; known once the
// engine is described.
func (n *node) Engine() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	scheme, _, _ := strings.Cut(n.info.Runtime, "://")
	return scheme
}

// Run reports the node until ctx ends: at once where something changed, else
// seldom, and sooner where the API server did not answer.
func (n *node) Run(ctx context.Context, r container.Runtime) error {
	select { // a node that is registered before the engine was asked would begin as NotReady
	case <-n.news:
	case <-ctx.Done():
		return nil
	}
	pause := minReportPause
	for asked := false; ctx.Err() == nil; {
		if !asked && n.isUp() {
			asked = n.describe(ctx, r)
		}
		if n.isUp() {
			n.list(ctx, r)
		}
		wait := statusEvery
		if err := n.report(ctx); err != nil {
			if !errors.Is(err, api.ErrUnavailable) && !errors.Is(err, api.ErrConflict) && ctx.Err() == nil {
				n.log.Warn("node could not be reported", "error", err)
			}
			wait, pause = pause, min(2*pause, maxReportPause)
		} else {
			pause = minReportPause
			if !asked && n.isUp() {
				wait = maxReportPause
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-n.news:
			asked = false // another engine may be there now
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// describe asks the engine what it is.
func (n *node) describe(ctx context.Context, r container.Runtime) bool {
	info, err := r.Info(ctx)
	if err != nil {
		n.log.Warn("the container engine does not describe itself", "error", err)
		return false
	}
	machine, err := r.Machine(ctx)
	if err != nil {
		n.log.Warn("the machine does not describe itself", "error", err)
	}
	scheme, _, _ := strings.Cut(info.Runtime, "://")
	faults, netem := n.offered(scheme)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.info, n.disk = info, machine.Disk.Capacity
	n.faults, n.netem = faults, netem
	n.measured = measured(rooms(n.options, sample{machine: machine}))
	select {
	case <-n.described:
	default:
		close(n.described)
	}
	return true
}

// list asks the engine for its images, unless it was asked lately.
func (n *node) list(ctx context.Context, r container.Runtime) {
	n.mu.Lock()
	due := n.listed.IsZero() || time.Since(n.listed) >= imagesEvery
	if due {
		n.listed = time.Now() // before the answer, so that a pull meanwhile counts
	}
	n.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusEvery/2) // the status waits for this
	defer cancel()
	images, err := r.Images(ctx)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			n.log.Warn("the container engine does not list its images", "error", err)
		}
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.images = bySize(images)
}

// Pulled takes in an image that the engine has now.
func (n *node) Pulled(image container.Image) {
	n.mu.Lock()
	defer n.mu.Unlock()
	others := slices.DeleteFunc(slices.Clone(n.images), func(i container.Image) bool { return i.ID == image.ID })
	n.images = bySize(append(others, image))
	n.listed = time.Time{} // another image may have lost its tag
}

// Digests are the names by digest of the image with this id.
func (n *node) Digests(id string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, i := range n.images {
		if i.ID == id {
			return i.Digests
		}
	}
	return nil
}

func bySize(images []container.Image) []container.Image {
	slices.SortFunc(images, func(a, b container.Image) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.ID, b.ID))
	})
	return images
}

func (n *node) isUp() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known && n.engine == nil
}

// report writes the node's status, and registers the node where there is none.
func (n *node) report(ctx context.Context) error {
	name := n.options.NodeName
	current, err := n.nodes.Get(ctx, "", name)
	if errors.Is(err, api.ErrNotFound) {
		ctx := client.WithCause(ctx, "RegisterNode", "the agent of node %s registers it", name)
		current, err = n.nodes.Create(ctx, &v1.Node{
			Metadata: &v1.ObjectMeta{Name: name, Labels: n.labels(), Annotations: n.annotations()}, Spec: &v1.NodeSpec{}, Status: &v1.NodeStatus{},
		})
		if err == nil {
			n.log.Info("node registered")
		}
	}
	if err != nil {
		return err
	}
	if m := current.GetMetadata(); !api.HasAll(m.GetLabels(), n.labels()) || !api.HasAll(m.GetAnnotations(), n.annotations()) {
		current = api.Clone(current)
		current.Metadata.Labels = with(current.Metadata.Labels, n.labels())
		current.Metadata.Annotations = with(current.Metadata.Annotations, n.annotations())
		ctx := client.WithCause(ctx, "LabelNode", "the labels and annotations of node %s are not those of its agent", name)
		if current, err = n.nodes.Update(ctx, current); err != nil {
			return err
		}
	}
	changed := api.Clone(current)
	changed.Status = cmp.Or(changed.Status, &v1.NodeStatus{})
	now := time.Now()
	reason, message := n.fill(changed.Status, n.clock.Now())
	n.mu.Lock()
	due := now.Sub(n.reported) >= heartbeat
	n.mu.Unlock()
	if !due && sameButBeats(changed.GetStatus(), current.GetStatus()) {
		return nil
	}
	if _, err = n.nodes.UpdateStatus(client.WithCause(ctx, reason, "%s", message), changed); err != nil {
		return err
	}
	n.mu.Lock()
	n.reported = now
	n.mu.Unlock()
	return nil
}

// sameButBeats says whether two statuses differ in nothing but the times of their
// heartbeats.
func sameButBeats(a, b *v1.NodeStatus) bool {
	a = proto.CloneOf(a)
	for _, c := range a.GetConditions() {
		c.LastHeartbeatTime = api.GetCondition(b.GetConditions(), c.GetType()).GetLastHeartbeatTime()
	}
	return proto.Equal(a, b)
}

// fill brings the status up to date and returns the cause of writing it.
func (n *node) fill(s *v1.NodeStatus, now time.Time) (reason, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := n.options
	if n.info.Runtime != "" || len(s.GetCapacity()) == 0 {
		// An engine that is down when the agent starts tells nothing: what the agent
		// before has said still holds, and the pods that are here still fit.
		s.Capacity = n.capacity()
		s.Allocatable = n.allocatable()
	}
	s.Addresses = []*v1.NodeAddress{{Type: "InternalIP", Address: o.Address}, {Type: "Hostname", Address: o.NodeName}}
	s.DaemonEndpoints = &v1.NodeDaemonEndpoints{KubeletEndpoint: &v1.DaemonEndpoint{Port: int32(o.StreamsPort)}}
	s.Images = nil
	for _, i := range n.images[:min(len(n.images), maxImages)] {
		names := slices.Concat(i.Digests, i.Tags)
		s.Images = append(s.Images, &v1.ContainerImage{Names: names[:min(len(names), maxImageNames)], SizeBytes: i.SizeBytes})
	}
	s.NodeInfo = &v1.NodeSystemInfo{
		MachineId: idOf("/etc/machine-id"), BootId: idOf("/proc/sys/kernel/random/boot_id"),
		SystemUuid:    idOf("/sys/class/dmi/id/product_uuid"),
		KernelVersion: n.info.KernelVersion, OsImage: n.info.OperatingSystem,
		ContainerRuntimeVersion: n.info.Runtime, KubeletVersion: o.Version,
		OperatingSystem: cmp.Or(n.info.OS, runtime.GOOS), Architecture: cmp.Or(n.info.Architecture, runtime.GOARCH),
	}
	for _, p := range pressures {
		if !n.measured[p.condition] {
			continue
		}
		c := &v1.Condition{
			Type: p.condition, Status: api.ConditionFalse, Reason: "Kubelet" + p.no, Message: p.noText, LastHeartbeatTime: timestamppb.New(now),
		}
		if n.pressed[p.condition] {
			c.Status, c.Reason, c.Message = api.ConditionTrue, "Kubelet"+p.yes, p.yesText
		}
		before := api.GetCondition(s.Conditions, c.Type).GetStatus()
		api.SetCondition(&s.Conditions, c, now)
		if before != c.Status && (before != "" || c.Status == api.ConditionTrue) {
			reason, message = c.Reason, c.Message
		}
	}
	ready := &v1.Condition{
		Type: api.NodeReady, Status: api.ConditionTrue,
		Reason: "KubeletReady", Message: "kubelet is posting ready status", LastHeartbeatTime: timestamppb.New(now),
	}
	switch {
	case n.engine != nil:
		ready.Status, ready.Reason = api.ConditionFalse, "ContainerRuntimeNotReady"
		ready.Message = "container runtime is down: " + n.engine.Error()
	case n.network != nil:
		ready.Status, ready.Reason = api.ConditionFalse, "KubeletNotReady"
		ready.Message = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:" + n.network.Error()
	}
	before := api.GetCondition(s.Conditions, api.NodeReady).GetStatus()
	api.SetCondition(&s.Conditions, ready, now)
	switch {
	case before != ready.Status:
		return ready.Reason, ready.Message
	case reason != "":
		return reason, message
	}
	return "Heartbeat", "the agent of the node is alive"
}

// pressures are the kubelet's words about conditions.
var pressures = []struct{ condition, yes, yesText, no, noText string }{
	{
		api.NodeMemoryPressure, "HasInsufficientMemory", "kubelet has insufficient memory available",
		"HasSufficientMemory", "kubelet has sufficient memory available",
	},
	{
		api.NodeDiskPressure, "HasDiskPressure", "kubelet has disk pressure",
		"HasNoDiskPressure", "kubelet has no disk pressure",
	},
	{
		api.NodePIDPressure, "HasInsufficientPID", "kubelet has insufficient PID available",
		"HasSufficientPID", "kubelet has sufficient PID available",
	},
}

// Presses takes in which conditions hold, of those that something is known of,
// and returns the events that tell what has changed.
func (n *node) Presses(conditions map[string]bool, rooms map[eviction.Signal]container.Room) (events []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range pressures {
		switch was, is := n.pressed[p.condition], conditions[p.condition]; {
		case is && !was:
			events = append(events, "Node"+p.yes)
		case was && !is:
			events = append(events, "Node"+p.no)
		}
	}
	n.pressed, n.measured = conditions, measured(rooms)
	return events
}

// measured are the conditions that something is known of.
func measured(rooms map[eviction.Signal]container.Room) map[string]bool {
	conditions := map[string]bool{}
	for signal := range rooms {
		conditions[eviction.Condition(signal)] = true
	}
	return conditions
}

// Pressure are the conditions that hold. Nobody writes to it.
func (n *node) Pressure() map[string]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pressed
}

// Memory is the node's, in bytes; 0: not known.
func (n *node) Memory() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return api.ResourcesOf(n.capacity()).Memory
}

// capacity is the machine's as the engine tells it, with the options' on top.
func (n *node) capacity() map[string]string {
	c := map[string]string{api.ResourcePods: defaultPods}
	if n.info.MilliCPU > 0 {
		c[api.ResourceCPU] = api.NewMilliQuantity(n.info.MilliCPU).String()
		c[api.ResourceMemory] = fmt.Sprintf("%dKi", n.info.MemoryBytes/1024)
	}
	if n.disk > 0 {
		c[api.ResourceEphemeralStorage] = fmt.Sprintf("%dKi", n.disk/1024)
	}
	maps.Copy(c, n.options.Capacity)
	return c
}

// allocatable is the capacity without what is reserved and without what would
// make the node evict, as in the kubelet: who uses no more than he requested is
// then not evicted.
func (n *node) allocatable() map[string]string {
	a := n.capacity()
	take := func(resource string, amount api.Quantity) {
		if all, err := api.ParseQuantity(a[resource]); err == nil && amount.Sign() > 0 {
			if all = all.Sub(amount); all.Sign() < 0 {
				all = api.Quantity{}
			}
			a[resource] = all.String()
		}
	}
	for resource, amount := range n.options.Reserved {
		take(resource, api.MustParseQuantity(amount))
	}
	capacity := api.ResourcesOf(n.capacity())
	for _, t := range n.options.Thresholds {
		switch t.Signal {
		case eviction.MemoryAvailable:
			take(api.ResourceMemory, api.NewBinaryQuantity(t.Of(capacity.Memory)))
		case eviction.NodeFSAvailable:
			take(api.ResourceEphemeralStorage, api.NewBinaryQuantity(t.Of(capacity.EphemeralStorage)))
		}
	}
	return a
}

// Allocatable is what the node offers to pods.
func (n *node) Allocatable() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.allocatable()
}

// labels tell what containers see, which on a Mac is Linux in a machine of its
// own.
func (n *node) labels() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := map[string]string{
		api.LabelHostname: n.options.NodeName,
		api.LabelOS:       cmp.Or(n.info.OS, runtime.GOOS),
		api.LabelArch:     cmp.Or(n.info.Architecture, runtime.GOARCH),
	}
	if n.faults != "" { // else nobody has looked
		l[api.LabelChaosNetem] = strconv.FormatBool(n.netem)
	}
	maps.Copy(l, n.options.Labels)
	return l
}

// annotations tell what can be broken on purpose.
func (n *node) annotations() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.faults == "" {
		return nil
	}
	return map[string]string{api.AnnotationChaosFaults: n.faults}
}

// with returns all with more on top; all may be nil.
func with(all, more map[string]string) map[string]string {
	if all == nil {
		return more
	}
	maps.Copy(all, more)
	return all
}

// idOf reads an id that the machine keeps in a file; "" where it does not.
func idOf(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
