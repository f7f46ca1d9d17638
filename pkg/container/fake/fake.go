// Package fake runs simulated containers in memory.
//
// It serves tests, which script it, and `nodeagent --runtime=fake` on machines
// without a container engine. Its invariant: it behaves as the docker package
// does, errors and order of events included; containertest holds both to that.
//
// Time comes from the time package only, so that inside a testing/synctest
// bubble it is virtual: a pull of a minute costs nothing.
//
// Read program.go for what runs in a container, and script.go for how a test
// makes an engine slow, stuck or gone.
package fake

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"orch/pkg/api"
	"orch/pkg/container"
)

// Options describe an engine; the zero value is a good one.
type Options struct {
	// Program runs in containers of images that Programs does not name.
	// Nil is Forever.
	Program  Program
	Programs map[string]Program // by image reference
	// Command runs what Exec asks for, before the commands that every
	// container has (see exec.go). Its second result tells whether it knows
	// the command.
	Command func(ctx context.Context, p *Process, command []string) (code int, known bool)

	// HTTP answers requests to ports of containers; nil: with 200. The
	// request's Host is the address and port.
	HTTP http.HandlerFunc

	// Local tells which images need no pull. Nil: only what was pulled.
	Local func(ref string) bool
	// User tells whose processes an image's containers are. Nil: root's.
	User func(ref string) string
	// Pull is called for each pull; it may take its time and may fail. Nil
	// is Registry.
	Pull func(ctx context.Context, ref string, o container.PullOptions) error

	// Dial answers Dial. Nil: all is refused, because simulated programs listen
	// on nothing.
	Dial func(ctx context.Context, sandbox string, port int) (net.Conn, error)

	// ExitLag is how long the engine goes on to call a container running
	// after its process has ended, as a real one does (some 40 ms).
	ExitLag time.Duration

	// Subnet gives sandboxes their addresses. Zero: 10.x.0.0/16 with a random
	// x, because the fakes of several agents should not give the same ones.
	Subnet netip.Prefix

	MilliCPU    int64 // 0: 4000
	MemoryBytes int64 // 0: 8 GiB
	DiskBytes   int64 // 0: 100 GiB
}

// Engine is a simulated engine, and a container.Runtime on it. As with a real
// one, Close ends nothing: call Shutdown for that.
//
// Concurrency: all methods may be called from several goroutines.
type Engine struct {
	options Options
	running sync.WaitGroup // goroutines of processes

	mu         sync.Mutex // guards all below, and what containers hold
	containers map[string]*fakeContainer
	pulled     map[string]bool // local images by reference: whether they came from a registry
	watchers   map[*watcher]bool
	hook       Hook
	down       chan struct{} // closed while the engine is stopped
	isDown     bool
	address    netip.Addr       // the last one given
	pid        int              // the last one given
	others     Usage            // what the machine's other programs use
	usages     map[string]Usage // of containers to come, by image
}

var _ container.Runtime = (*Engine)(nil)

// fakeContainer is one container. Engine.mu guards the fields that change.
type fakeContainer struct {
	container.Container
	config   container.Config
	hostname string
	sandbox  bool
	// hostNetwork sandboxes have no address.
	hostNetwork bool
	log         *log
	files       files
	process     *process       // of the last start; nil before the first
	answers     map[string]int // to HTTP, by path; of this start

	usage     Usage
	usedUntil time.Time     // until when used counts
	used      time.Duration // of processors
}

// firstPID is above the largest number that Linux gives to a process, so that
// nobody takes a simulated process for a real one.
const firstPID = 1<<22 + 1

// imageSize is every image's, in bytes.
const imageSize = 4 << 20

// New returns an engine that runs.
func New(o Options) *Engine {
	if o.Program == nil {
		o.Program = Forever
	}
	if o.Pull == nil {
		o.Pull = Registry
	}
	if o.Local == nil {
		o.Local = func(string) bool { return false }
	}
	if o.User == nil {
		o.User = func(string) string { return "" }
	}
	if !o.Subnet.IsValid() {
		var x [1]byte
		_, _ = rand.Read(x[:]) // never fails
		o.Subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, x[0], 0, 0}), 16)
	}
	o.MilliCPU = cmp.Or(o.MilliCPU, 4000)
	o.MemoryBytes = cmp.Or(o.MemoryBytes, 8<<30)
	o.DiskBytes = cmp.Or(o.DiskBytes, 100<<30)
	o.Programs = maps.Clone(o.Programs)
	return &Engine{
		options:    o,
		containers: map[string]*fakeContainer{},
		pulled:     map[string]bool{},
		usages:     map[string]Usage{},
		watchers:   map[*watcher]bool{},
		down:       make(chan struct{}),
		address:    o.Subnet.Addr().Next(), // the gateway's
		pid:        firstPID,
	}
}

// Close does nothing: containers outlive connections.
func (e *Engine) Close() error { return nil }

// Info describes the simulated machine.
func (e *Engine) Info(ctx context.Context) (container.Info, error) {
	if err := e.enter(ctx, "Info", ""); err != nil {
		return container.Info{}, err
	}
	return container.Info{
		Runtime:         "fake://1.0.0",
		APIVersion:      "1.0",
		OperatingSystem: "simulated machine",
		OS:              "linux",
		Architecture:    "amd64",
		KernelVersion:   "0.0.0-fake",
		MilliCPU:        e.options.MilliCPU,
		MemoryBytes:     e.options.MemoryBytes,
	}, nil
}

// Images returns the local images, but for those that only Options.Local knows.
func (e *Engine) Images(ctx context.Context) ([]container.Image, error) {
	if err := e.enter(ctx, "Images", ""); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var images []container.Image
	for _, ref := range slices.Sorted(maps.Keys(e.pulled)) {
		one := e.image(ref)
		one.User = ""
		images = append(images, one)
	}
	return images, nil
}

// Image returns a local image, or container.ErrNotFound.
func (e *Engine) Image(ctx context.Context, ref string) (container.Image, error) {
	if err := e.enter(ctx, "Image", ref); err != nil {
		return container.Image{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.isLocal(ref) {
		return container.Image{}, noImage("image "+ref, ref)
	}
	return e.image(ref), nil
}

// Pull makes ref a local image.
func (e *Engine) Pull(ctx context.Context, ref string, o container.PullOptions) (container.Image, error) {
	if err := e.enter(ctx, "Pull", ref); err != nil {
		return container.Image{}, err
	}
	err := e.whileUp(ctx, func(ctx context.Context) error { return e.options.Pull(ctx, ref, o) })
	if err != nil {
		return container.Image{}, fmt.Errorf("pull %s: %w", ref, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pulled[ref] = true
	return e.image(ref), nil
}

func (e *Engine) isLocal(ref string) bool {
	_, ok := e.pulled[ref]
	return ok || e.options.Local(ref)
}

func (e *Engine) image(ref string) container.Image {
	hash := sha256.Sum256([]byte(ref))
	image := container.Image{ID: "sha256:" + hex.EncodeToString(hash[:]), Tags: []string{ref}, User: e.options.User(ref), SizeBytes: imageSize}
	if e.pulled[ref] {
		repository, _, _ := strings.Cut(ref, "@")
		if tag := strings.LastIndexByte(repository, ':'); tag > strings.LastIndexByte(repository, '/') {
			repository = repository[:tag]
		}
		image.Digests = []string{repository + "@" + image.ID}
	}
	return image
}

// CreateSandbox creates and starts a pod's sandbox.
func (e *Engine) CreateSandbox(ctx context.Context, s container.Sandbox) (container.Container, error) {
	if err := e.enter(ctx, "CreateSandbox", s.Name); err != nil {
		return container.Container{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.add(container.Config{Name: s.Name, Image: "orch-sandbox:fake", Labels: s.Labels})
	if err != nil {
		return container.Container{}, fmt.Errorf("create sandbox %s: %w", s.Name, err)
	}
	c.sandbox, c.hostNetwork, c.hostname = true, s.HostNetwork, s.Hostname
	c.hostname = cmp.Or(c.hostname, c.ID[:12])
	e.start(c)
	return c.snapshot(), nil
}

// Create creates a container joined to c.Sandbox and returns its id.
func (e *Engine) Create(ctx context.Context, c container.Config) (string, error) {
	op := "create container " + c.Name
	if err := e.enter(ctx, "Create", c.Name); err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.isLocal(c.Image) {
		return "", noImage(op, c.Image)
	}
	sandbox, ok := e.containers[c.Sandbox]
	if !ok {
		return "", noContainer(op, c.Sandbox)
	}
	if err := mountable(c.Mounts); err != nil {
		return "", fmt.Errorf("%s: %w", op, err)
	}
	made, err := e.add(c)
	if err != nil {
		return "", fmt.Errorf("%s: %w", op, err)
	}
	made.hostname = sandbox.hostname
	return made.ID, nil
}

// add enters a new container under a new id. The caller holds e.mu.
func (e *Engine) add(c container.Config) (*fakeContainer, error) {
	for _, other := range e.containers {
		if other.Name == c.Name {
			return nil, fmt.Errorf("%w: the name %q is in use by container %q", container.ErrConflict, c.Name, other.ID)
		}
	}
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails
	c.Labels = maps.Clone(c.Labels)
	c.Env, c.Mounts = slices.Clone(c.Env), slices.Clone(c.Mounts)
	made := &fakeContainer{
		Container: container.Container{
			ID:        hex.EncodeToString(id[:]),
			Name:      c.Name,
			Labels:    c.Labels,
			Image:     c.Image,
			ImageID:   e.image(c.Image).ID,
			State:     container.StateCreated,
			CreatedAt: time.Now().UTC(),
		},
		config: c,
		log:    newLog(),
	}
	e.containers[made.ID] = made
	e.emit(made, "create")
	return made, nil
}

// Start starts a created container and returns it as it then is.
func (e *Engine) Start(ctx context.Context, id string) (container.Container, error) {
	op := "start container " + id
	err := e.enter(ctx, "Start", id)
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.containers[id]
	switch {
	case err != nil && ok && !e.isDown && ctx.Err() == nil && !c.lives():
		// A script makes the start fail: a real engine remembers why.
		c.Error, c.ExitCode = err.Error(), 127
		return container.Container{}, err
	case err != nil:
		return container.Container{}, err
	case !ok:
		return container.Container{}, noContainer(op, id)
	case c.lives():
		return c.snapshot(), nil
	}
	if sandbox, ok := e.containers[c.config.Sandbox]; !c.sandbox && (!ok || !sandbox.lives()) {
		c.Error = "cannot join network of a non running container: " + c.config.Sandbox
		return container.Container{}, fmt.Errorf("%s: %s", op, c.Error)
	}
	e.start(c)
	return c.snapshot(), nil
}

// Stop asks the container to end, and makes it after grace.
func (e *Engine) Stop(ctx context.Context, id string, grace time.Duration) error {
	if err := e.enter(ctx, "Stop", id); err != nil {
		return err
	}
	p, err := e.processOf("stop container "+id, id)
	if err != nil || p == nil {
		return err
	}
	if grace > 0 {
		p.signal("SIGTERM")
		select {
		case <-p.ended:
			return nil
		case <-time.After(grace):
		case <-ctx.Done():
			return fmt.Errorf("stop container %s: %w", id, ctx.Err())
		}
	}
	p.kill()
	return e.await(ctx, p.ended)
}

// Kill sends one signal; after SIGKILL it returns when the container has ended.
func (e *Engine) Kill(ctx context.Context, id, signal string) error {
	op := "kill container " + id
	p, err := e.enterRunning(ctx, "Kill", op, id)
	if err != nil {
		return err
	}
	if signal = signalName(signal); signal != "SIGKILL" {
		p.signal(signal)
		return nil
	}
	p.kill()
	return e.await(ctx, p.ended)
}

// Pause makes the container one whose processes do nothing: its ports do not
// answer, and it takes no commands and no processor. The program itself is not
// held up, which nobody could see.
func (e *Engine) Pause(ctx context.Context, id string) error {
	return e.setPaused(ctx, "Pause", id, true)
}

// Unpause ends that.
func (e *Engine) Unpause(ctx context.Context, id string) error {
	return e.setPaused(ctx, "Unpause", id, false)
}

func (e *Engine) setPaused(ctx context.Context, op, id string, pause bool) error {
	if err := e.enter(ctx, op, id); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.containers[id]
	op = strings.ToLower(op) + " container " + id
	switch {
	case !ok:
		return noContainer(op, id)
	case pause && !c.lives():
		return fmt.Errorf("%s: %w", op, container.ErrNotRunning)
	case pause && c.State == container.StateRunning:
		e.account(c)
		c.State = container.StatePaused
		e.emit(c, "pause")
	case !pause && c.State == container.StatePaused:
		c.State, c.usedUntil = container.StateRunning, time.Now().UTC()
		e.emit(c, "unpause")
	}
	return nil
}

// lives says that the container's process has not ended. The caller holds
// Engine.mu.
func (c *fakeContainer) lives() bool {
	return c.State == container.StateRunning || c.State == container.StatePaused
}

// processOf returns the running process of a container, or nil.
func (e *Engine) processOf(op, id string) (*process, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.containers[id]
	if !ok {
		return nil, noContainer(op, id)
	}
	if !c.lives() {
		return nil, nil
	}
	return c.process, nil
}

// enterRunning is enter for what needs the process of a container.
func (e *Engine) enterRunning(ctx context.Context, call, op, id string) (*process, error) {
	if err := e.enter(ctx, call, id); err != nil {
		return nil, err
	}
	p, err := e.processOf(op, id)
	if err == nil && p == nil {
		err = fmt.Errorf("%s: %w", op, container.ErrNotRunning)
	}
	return p, err
}

// Remove removes the container, by force when it runs.
func (e *Engine) Remove(ctx context.Context, id string) error {
	if err := e.enter(ctx, "Remove", id); err != nil {
		return err
	}
	p, err := e.processOf("remove container "+id, id)
	if err != nil {
		return nil // gone already
	}
	if p != nil {
		p.kill()
		if err := e.await(ctx, p.ended); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c, ok := e.containers[id]; ok {
		delete(e.containers, id)
		e.emit(c, "destroy")
	}
	return nil
}

// Wait returns the container once it does not run any more.
func (e *Engine) Wait(ctx context.Context, id string) (container.Container, error) {
	op := "wait for container " + id
	if err := e.enter(ctx, "Wait", id); err != nil {
		return container.Container{}, err
	}
	p, err := e.processOf(op, id)
	if err == nil && p != nil {
		err = e.await(ctx, p.ended)
	}
	if err != nil {
		return container.Container{}, err
	}
	return e.find(op, id)
}

// Inspect returns one container, or container.ErrNotFound.
func (e *Engine) Inspect(ctx context.Context, id string) (container.Container, error) {
	if err := e.enter(ctx, "Inspect", id); err != nil {
		return container.Container{}, err
	}
	return e.find("inspect container "+id, id)
}

func (e *Engine) find(op, id string) (container.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c, ok := e.containers[id]; ok {
		return c.snapshot(), nil
	}
	return container.Container{}, noContainer(op, id)
}

// List returns all containers that carry all the labels, newest first.
func (e *Engine) List(ctx context.Context, labels map[string]string) ([]container.Container, error) {
	if err := e.enter(ctx, "List", ""); err != nil {
		return nil, err
	}
	return e.Peek(labels), nil
}

// Peek is List for who stands outside: it answers also while the engine does
// not, and no hook is called.
func (e *Engine) Peek(labels map[string]string) []container.Container {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []container.Container
	for _, c := range e.containers {
		if api.HasAll(c.Labels, labels) {
			// No more than a real engine tells about many at once.
			s := c.snapshot()
			list = append(list, container.Container{
				ID: s.ID, Name: s.Name, Labels: s.Labels, Image: s.Image, ImageID: s.ImageID,
				State: s.State, IP: s.IP, CreatedAt: s.CreatedAt,
			})
		}
	}
	slices.SortFunc(list, func(a, b container.Container) int {
		if order := b.CreatedAt.Compare(a.CreatedAt); order != 0 {
			return order
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// snapshot copies what a caller may see. The caller holds Engine.mu.
func (c *fakeContainer) snapshot() container.Container {
	s := c.Container
	s.Labels = maps.Clone(c.Labels)
	return s
}

func noContainer(op, id string) error {
	return fmt.Errorf("%s: %w: No such container: %s", op, container.ErrNotFound, id)
}

func noImage(op, ref string) error {
	return fmt.Errorf("%s: %w: No such image: %s", op, container.ErrNotFound, ref)
}
