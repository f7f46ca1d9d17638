// Package agent keeps the pods of one node: it turns their specs into
// containers, keeps those alive, and reports how they stand.
//
// Its one invariant: the agent can be killed at any moment and started again,
// and no container is touched, doubled or forgotten by that. What has to
// survive is in the containers' labels; the decisions are in package lifecycle,
// which is pure.
//
// One worker per pod sleeps until its pod or its containers change or a time has
// come, asks lifecycle.Plan what to do, and starts that in the background; so a
// call that hangs holds up one container of one pod. Facts flow in through the
// observer (events, pidfds, a relist) and the mirror of the API's pods.
//
// Read next: worker.go (the loop), do.go (the actions), package observer (what
// the engine shows), report.go (status), objects.go (ConfigMaps and
// Secrets), package volume (the pods' files), package fault (what is broken on purpose), node.go (the node itself), lease.go (that it lives),
// pressure.go (what it has left), stream.go (logs
// and exec).
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"orch/pkg/agent/eviction"
	"orch/pkg/agent/fault"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/agent/observer"
	"orch/pkg/agent/probe"
	"orch/pkg/agent/volume"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/informer"
	v1 "orch/proto/v1"
)

// Options describe an agent.
type Options struct {
	// NodeName is the name of the Node object.
	NodeName string
	// ClusterID is the uid of the namespace kube-system: what keeps clusters on
	// one engine apart.
	ClusterID string
	Client    *client.Client
	Runtime   container.Runtime
	// DataDir is the folder for the pods' volumes; what is in it may belong to
	// other agents too. The engine has to see it under the same path.
	DataDir string
	// Capacity overrides what the engine says of the machine, by resource, as
	// quantities: cpu, memory, pods (default 110, as the kubelet's).
	Capacity map[string]string
	// Reserved is what of the capacity pods cannot have, by resource. Thresholds
	// say when the node evicts pods, and PressureTransition for how long it then
	// says so at least; nil: never.
	Reserved           map[string]string
	Thresholds         []eviction.Threshold
	PressureTransition time.Duration
	// PodMaxPIDs limits the processes and threads of a container; 0: no limit.
	PodMaxPIDs int64
	// Address is where others reach this node, and StreamsPort the port on it
	// at which the Streams service is served.
	Address     string
	StreamsPort int
	// Labels are added to the node's.
	Labels map[string]string
	// FaultDir is the folder in which the agent keeps what is broken on purpose; it is
	// this node's alone. Empty: nothing can be.
	FaultDir string
	// Crash replaces this process by one that begins after the time given, for
	// experiments: see fault.Options. Nil: it cannot.
	Crash func(down time.Duration) error
	// Version of this program, for the node's info.
	Version string
	// Logger defaults to none.
	Logger *slog.Logger
	// Registerer takes the metrics; nil: none.
	Registerer prometheus.Registerer
}

// The engine is bound by the processor: about four starts at once use it up,
// and more only make each of them later. Healing has slots of its own, so that
// it does not queue behind the start of many pods.
const (
	startSlots = 4
	healSlots  = 2
	// slotHeld is how long a start may hold its slot: slots are there to pace
	// the engine, not to let one that hangs stop all others.
	slotHeld = 10 * time.Second
)

// Agent keeps the pods of one node.
//
// Concurrency: Run once; the methods of v1.StreamsServer may be called from
// several goroutines while it runs.
type Agent struct {
	v1.UnimplementedStreamsServer

	options  Options
	owner    lifecycle.Owner
	log      *slog.Logger
	runtime  container.Runtime
	mirror   *informer.Informer[*v1.Pod]
	pods     client.Resource[*v1.Pod]
	recorder *client.Recorder
	node     *node
	images   *puller
	objects  *objects
	volumes  *volume.Host
	asker    *probe.Asker
	metrics  *metrics
	monitor  *monitor
	faults   *fault.Keeper
	clock    *fault.Clock

	starts, heals chan struct{} // a value in it is a slot in use
	remote        atomic.Bool   // the engine does not see this machine's files
	halted        atomic.Bool   // workers begin nothing

	mu       sync.Mutex // protects what follows
	observer *observer.Observer
	reached  time.Time          // when the API server answered last
	workers  map[string]*worker // by pod uid; nil until both mirrors are full, and after the end
	spawn    func(*worker)
}

// New returns an agent that does nothing until Run.
func New(o Options) (*Agent, error) {
	switch {
	case o.NodeName == "":
		return nil, errors.New("agent: the node has no name")
	case o.ClusterID == "":
		return nil, errors.New("agent: the cluster's id is not known")
	case o.Client == nil || o.Runtime == nil:
		return nil, errors.New("agent: client and runtime are needed")
	case !filepath.IsAbs(o.DataDir):
		return nil, fmt.Errorf("agent: the data folder %q is no absolute path", o.DataDir)
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	log := o.Logger.With("node", o.NodeName)
	pods := client.For[*v1.Pod](o.Client)
	a := &Agent{
		options: o,
		owner:   lifecycle.Owner{Cluster: o.ClusterID, Node: o.NodeName},
		log:     log,
		runtime: o.Runtime,
		pods:    pods,
		mirror: informer.New(pods, informer.Options{
			FieldSelector: "spec.nodeName=" + o.NodeName, Logger: log,
		}),
		recorder: client.NewRecorder(o.Client, "nodeagent", o.NodeName),
		images:   newPuller(o.Runtime),
		volumes:  volume.New(filepath.Join(o.DataDir, o.ClusterID, o.NodeName)),
		asker:    probe.NewAsker(o.Runtime),
		metrics:  newMetrics(o.Registerer),
		starts:   make(chan struct{}, startSlots),
		heals:    make(chan struct{}, healSlots),
		clock:    &fault.Clock{},
	}
	a.recorder.SetClock(a.clock.Now)
	a.faults = fault.New(fault.Options{
		Node: o.NodeName, Owner: a.owner, Client: o.Client, Runtime: o.Runtime, Pods: faultPods{a}, Clock: a.clock,
		Dir: o.FaultDir, Crash: o.Crash, Silent: a.silent, Logger: log,
	})
	a.monitor = newMonitor(a)
	a.objects = newObjects(o.Client, log, func(uid string, revision int64) { a.poke(uid, api.Key{}, revision) })
	var err error
	if a.node, err = newNode(o, log); err != nil {
		return nil, err
	}
	a.node.offered, a.node.clock = a.faults.Offered, a.clock
	a.mirror.OnChange(func(c informer.Change[*v1.Pod]) {
		for _, pod := range []*v1.Pod{c.Old, c.New} {
			if pod != nil {
				a.poke(pod.GetMetadata().GetUid(), api.KeyOf(pod), c.Revision)
			}
		}
	})
	return a, nil
}

// Run keeps the node's pods until ctx ends and everything that it began has
// ended. The containers go on running.
func (a *Agent) Run(ctx context.Context) error {
	// The observer outlives the workers, because they tell it what they did.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	seen := observer.New(life, a.runtime, a.owner, a.log,
		func(uid string) { a.poke(uid, api.Key{}, 0) }, a.engineIs)
	a.mu.Lock()
	a.observer = seen
	a.mu.Unlock()
	a.heard()
	observing := make(chan error, 1)
	go func() { observing <- seen.Run() }()

	workers, ctx := errgroup.WithContext(ctx)
	workers.Go(func() error { return a.mirror.Run(ctx) })
	workers.Go(func() error { return a.recorder.Run(ctx) })
	workers.Go(func() error { return a.node.Run(ctx, a.runtime) })
	workers.Go(func() error { a.keepLease(ctx); return nil })
	workers.Go(func() error {
		select { // what is to be healed has to be seen
		case <-seen.Listed():
			return a.faults.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	workers.Go(func() error {
		for _, full := range []<-chan struct{}{seen.Listed(), a.node.described, a.mirror.Synced()} {
			select {
			case <-full:
			case <-ctx.Done():
				return nil
			}
		}
		a.objects.Begin(ctx, workers)
		a.begin(func(w *worker) { workers.Go(func() error { return w.Run(ctx) }) })
		workers.Go(func() error { a.monitor.Run(ctx); return nil })
		<-ctx.Done()
		// The observer still sees things. None may begin a worker when those that
		// there were have been waited for.
		a.mu.Lock()
		defer a.mu.Unlock()
		a.workers = nil
		return nil
	})
	err := workers.Wait()
	end()
	return errors.Join(err, <-observing)
}

// begin starts a worker for each pod that there is, in the API or in the
// engine. Before both are known, a pod that is missing in one would look as if
// it were gone.
func (a *Agent) begin(spawn func(*worker)) {
	a.mu.Lock()
	a.workers, a.spawn = map[string]*worker{}, spawn
	a.mu.Unlock()
	for _, pod := range a.mirror.List() {
		a.poke(pod.GetMetadata().GetUid(), api.KeyOf(pod), pod.GetMetadata().GetResourceVersion())
	}
	for uid, key := range a.observer.Pods() {
		a.poke(uid, key, 0)
	}
	// Of the others nothing is left but their volumes. The name of such a pod is
	// not known, nor needed.
	for _, uid := range a.volumes.Pods() {
		a.poke(uid, api.Key{Name: uid}, 0)
	}
}

// poke wakes the pod's worker, and makes one where there is none. Without a
// key, the observer is asked for it.
func (a *Agent) poke(uid string, key api.Key, revision int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.workers == nil {
		return
	}
	w := a.workers[uid]
	if w == nil {
		if key == (api.Key{}) {
			if key = a.observer.Key(uid); key == (api.Key{}) {
				return // its last container is gone, and it has no worker: nothing is left
			}
		}
		w = newWorker(a, uid, key)
		a.workers[uid] = w
		a.metrics.pods.Set(float64(len(a.workers)))
		a.spawn(w)
	}
	w.poke(revision)
}

// worker returns the pod's, or nil.
func (a *Agent) worker(uid string) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[uid]
}

// retire ends the worker unless there is news for it.
func (a *Agent) retire(w *worker) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(w.wake) > 0 {
		return false
	}
	delete(a.workers, w.uid)
	a.objects.Use(w.uid, nil)
	a.metrics.pods.Set(float64(len(a.workers)))
	return true
}

// looked is closed when the pod's worker has looked the next time; nil where there
// is no worker any more.
func (a *Agent) looked(uid string) <-chan struct{} {
	a.mu.Lock()
	w := a.workers[uid]
	a.mu.Unlock()
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looked
}

// engineIs is told whether the engine answers.
func (a *Agent) engineIs(err error) {
	if !a.node.EngineIs(err) || err != nil {
		return
	}
	for _, w := range a.all() {
		w.engineIsBack()
	}
}

// all are the workers that there are now.
func (a *Agent) all() []*worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.workers))
}

// NetworkIs tells whether pods can have their network: nil, or why not. Nobody
// need say that they can.
func (a *Agent) NetworkIs(err error) { a.node.NetworkIs(err) }

// Pod returns the pod of this uid from the mirror, or nil.
func (a *Agent) pod(uid string, key api.Key) *v1.Pod {
	if pod, ok := a.mirror.Get(key); ok && pod.GetMetadata().GetUid() == uid {
		return pod
	}
	return nil
}

// faultPods shows the keeper of faults the node's pods.
type faultPods struct{ *Agent }

func (a faultPods) Pod(uid string, key api.Key) *v1.Pod { return a.pod(uid, key) }

func (a faultPods) Known() int64 { return a.mirror.Revision() }

func (a faultPods) Containers(uid string) []lifecycle.Container { return a.observer.Pod(uid) }

func (a faultPods) Kills(uid, id string, by *v1.ChaosInjection) {
	if w := a.worker(uid); w != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.killedBy(id, by)
	}
}

func (a faultPods) Spares(uid, id string, by *v1.ChaosInjection) {
	if w := a.worker(uid); w != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		maps.DeleteFunc(w.memory.Killers, func(of string, k lifecycle.Killer) bool {
			return of == id && k.Revision == by.GetMetadata().GetResourceVersion()
		})
	}
}

func (a faultPods) Halt() {
	a.halted.Store(true)
	for _, w := range a.all() {
		w.halt()
	}
}

func (a faultPods) GoOn() {
	a.halted.Store(false)
	for _, w := range a.all() {
		w.poke(0)
	}
}

// errEnding says that a pod is to end before what it waited for was begun.
var errEnding = errors.New("the pod is to end")

// slot waits for leave to load the engine with a start, or until the pod is to
// end.
func (a *Agent) slot(ctx context.Context, healing bool, ending <-chan struct{}) (release func(), err error) {
	heals := a.heals
	if !healing {
		heals = nil
	}
	var slots chan struct{}
	select {
	case a.starts <- struct{}{}:
		slots = a.starts
	case heals <- struct{}{}:
		slots = heals
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-ending:
		return nil, errEnding
	}
	once := sync.OnceFunc(func() { <-slots })
	timer := time.AfterFunc(slotHeld, once)
	return func() { timer.Stop(); once() }, nil
}
