// Package container is the contract of what runs containers on one machine.
//
// A pod is a sandbox, which holds the network namespace, and the pod's
// containers joined to it. Labels are the only memory: whoever lists by label
// finds everything that exists, also after its own restart. The runtime never
// restarts anything by itself.
//
// Implementations: docker (a real engine), fake (scriptable, with virtual
// time); containertest is the suite that both pass.
package container

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"time"
)

var (
	// ErrNotFound says that there is no such container or image.
	ErrNotFound = errors.New("no such container or image")
	// ErrUnavailable says that the engine does not answer.
	ErrUnavailable = errors.New("container engine is not available")
	// ErrConflict says that a container of that name exists already.
	ErrConflict = errors.New("container name is in use")
	// ErrNotRunning says that the container must run for this, and does not.
	ErrNotRunning = errors.New("container is not running")
	// ErrNoFile says that the container has no such file or folder.
	ErrNoFile = errors.New("no such file or directory")
	// ErrReadOnly says that the container's files cannot be changed.
	ErrReadOnly = errors.New("read-only file system")
)

// Runtime runs containers on one machine.
//
// Concurrency: all methods may be called from several goroutines; a call that
// hangs delays no other.
type Runtime interface {
	// Info describes engine and machine. ErrUnavailable where none answers.
	Info(ctx context.Context) (Info, error)

	// Images returns the local images that have a name, without User.
	Images(ctx context.Context) ([]Image, error)
	// Image returns the local image for ref, or ErrNotFound.
	Image(ctx context.Context, ref string) (Image, error)
	// Pull fetches ref. The error carries the engine's own message.
	Pull(ctx context.Context, ref string, o PullOptions) (Image, error)

	// CreateSandbox creates and starts a pod's sandbox and returns it running,
	// with its address. The sandbox image needs no registry: the runtime makes
	// it. ErrConflict: the name is taken.
	CreateSandbox(ctx context.Context, s Sandbox) (Container, error)
	// Create creates a container joined to c.Sandbox and returns its id.
	Create(ctx context.Context, c Config) (string, error)
	// Start starts a created container and returns it as it then is.
	Start(ctx context.Context, id string) (Container, error)
	// Stop sends the image's stop signal (default SIGTERM), then SIGKILL after
	// grace; grace 0 kills at once. No error where it has exited already.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Kill sends one signal ("SIGKILL"). ErrNotRunning where it has exited.
	Kill(ctx context.Context, id, signal string) error
	// Pause freezes a container's processes where they are; no error where that is
	// so already. ErrNotRunning where it has exited. Stop, Remove and a Kill with
	// SIGKILL end one that is paused all the same.
	Pause(ctx context.Context, id string) error
	// Unpause lets them go on. No error where they are not paused.
	Unpause(ctx context.Context, id string) error
	// Remove removes the container, by force when it runs. No error where it
	// is gone already.
	Remove(ctx context.Context, id string) error

	// Wait returns the container once it does not run any more, with its exit
	// code; at once where it has exited or was never started.
	Wait(ctx context.Context, id string) (Container, error)

	// List returns all containers, running or not, that carry all the labels,
	// with identity, labels, image, state, address and time of creation only:
	// Inspect tells the rest. Image may be an id where its tag has moved on.
	List(ctx context.Context, labels map[string]string) ([]Container, error)
	// Inspect returns one container, or ErrNotFound.
	Inspect(ctx context.Context, id string) (Container, error)

	// Watch calls f for each event of containers that carry the labels, from
	// the moment that ready is closed, until ctx ends or the engine goes away
	// (then an error that wraps ErrUnavailable). An event is a hint to look, not
	// the truth.
	Watch(ctx context.Context, labels map[string]string, ready chan<- struct{}, f func(Event)) error
	// Exited returns a channel that is closed as soon as the machine sees the
	// container's process end, which may be before the engine knows (Linux: a
	// pidfd): Inspect may say "running" for some 40 ms more; Wait returns when
	// the engine knows the exit code. Nil where the end cannot be seen; then
	// events have to do. c is as Start or Inspect returned it. The watch ends
	// with ctx, without closing the channel.
	Exited(ctx context.Context, c Container) <-chan struct{}

	// Logs copies the container's output.
	Logs(ctx context.Context, id string, o LogOptions, stdout, stderr io.Writer) error
	// Exec runs a command in a running container and returns its exit code: 126 or
	// 127 where it could not be started; then stderr says why.
	Exec(ctx context.Context, id string, o ExecOptions) (int, error)
	// Attach connects to a running container's own input and output, from now
	// on, and returns its exit code when it ends. The end of ctx ends only the
	// connection. o.Command is not used; o.TTY has to be as the container was
	// created, and o.Stdin needs Config.Stdin; its end leaves the program's
	// input open. ErrNotRunning: the container has ended.
	Attach(ctx context.Context, id string, o ExecOptions) (int, error)
	// CopyTo unpacks a tar archive into a folder of a container, which is named
	// from its root. ErrNoFile: there is no such folder; ErrReadOnly: nothing can
	// be written there.
	CopyTo(ctx context.Context, id, dir string, archive io.Reader) error
	// User tells the numbers of user and group whose a container's processes are,
	// and would be that are executed in it. Names are those of its own /etc/passwd
	// and /etc/group.
	User(ctx context.Context, id string) (uid, gid int, err error)
	// CopyFrom writes a file, a link or a folder of a container, running or not, as
	// a tar archive whose root has the path's last name. Or ErrNoFile.
	CopyFrom(ctx context.Context, id, path string, archive io.Writer) error
	// Stat tells what is at a path of a container, following links. Or ErrNoFile.
	Stat(ctx context.Context, id, path string) (fs.FileMode, error)
	// Unlock lets everybody write to folders below dir, a folder of the engine's
	// machine, whoever owns them. What exists for that meanwhile carries labels.
	Unlock(ctx context.Context, dir string, folders []string, labels map[string]string) error
	// Dial connects to a TCP port of a running sandbox, where possible from
	// inside its network namespace, so that what listens only on the pod's
	// localhost is reached as well. The connection can be closed for writing
	// alone (CloseWrite, as net.TCPConn). ErrNotRunning: the sandbox has ended.
	Dial(ctx context.Context, sandbox string, port int) (net.Conn, error)

	// Stats returns what a container uses now. c is as Start or Inspect returned
	// it. ErrNotRunning: it does not run.
	Stats(ctx context.Context, c Container) (Stats, error)
	// DiskUsage returns how many bytes a container has written: beside its
	// image, and to its log. An engine counts that file by file, so it is to be
	// asked for rarely.
	DiskUsage(ctx context.Context, id string) (int64, error)
	// Machine returns how the machine is, as far as this process can see it.
	Machine(ctx context.Context) (Machine, error)

	// Close frees connections; it stops no container.
	Close() error
}

// Dialer is what a runtime may be whose containers no network reaches: the way
// to their ports.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Info describes the engine and its machine.
type Info struct {
	// Runtime is the engine's name and version as Kubernetes writes it, for
	// example "docker://20.10.24".
	Runtime         string
	APIVersion      string
	OperatingSystem string // for people: "Debian GNU/Linux 12"
	OS              string // "linux"
	Architecture    string // as GOARCH: "amd64"
	KernelVersion   string
	MilliCPU        int64 // 2 cores: 2000
	MemoryBytes     int64
}

// Image is a local image.
type Image struct {
	ID   string   // "sha256:…"
	Tags []string // "recommend-service:1.0.1"
	// Digests are its names in the registries that it came from or went to:
	// "registry.example/app@sha256:…".
	Digests []string
	// User is whose processes its containers are: "1000", "app:app"; "" is root.
	User      string
	SizeBytes int64
}

// PullOptions say how to fetch an image; the zero value is good for all that
// needs no password.
type PullOptions struct {
	Login *Login // nil: none
	// Progress, if not nil, is told from the pull's own goroutine how far it is.
	Progress func(Progress)
}

// Login opens a registry.
type Login struct{ Username, Password string }

// String keeps the password out of logs and errors.
func (l Login) String() string { return l.Username + ":(hidden)" }

// GoString does too, for %#v.
func (l Login) GoString() string { return l.String() }

// Progress is how far a pull is.
type Progress struct {
	Layers, Done int // layers of the image, and those that are complete
	// Bytes of the layers whose download has begun: loaded, and in all.
	Bytes, TotalBytes int64
}

// Sandbox asks for a pod's sandbox. Containers may join its process namespace, in
// which processes that nobody waits for are reaped.
type Sandbox struct {
	Name     string
	Hostname string
	Labels   map[string]string
	Ports    []Port // published on the host where HostPort is not 0
	// CgroupParent, if not empty, is the control group in which the engine
	// makes the container's; the pod's containers need the same.
	CgroupParent string
	// HostNetwork: the machine's own network; the sandbox has no address, and
	// Hostname and Ports have no meaning.
	HostNetwork bool
	// Bare: a network of its own with nothing in it, which the caller furnishes
	// through the sandbox's process. It has no address, and Ports no meaning.
	Bare    bool
	HostIPC bool              // the machine's memory segments and message queues
	Hosts   []Host            // further lines of /etc/hosts
	DNS     *DNS              // nil: as the machine's
	Sysctls map[string]string // "net.ipv4.ip_unprivileged_port_start": "0"
}

// Host gives an address a name.
type Host struct{ IP, Name string }

// DNS is the whole of a resolv.conf.
type DNS struct {
	Nameservers []string // at least one
	Searches    []string
	Options     []string // "ndots:2"
}

// PIDMode is whose processes a container sees.
type PIDMode string

const (
	PIDPrivate PIDMode = ""        // its own
	PIDSandbox PIDMode = "sandbox" // those of all containers that say so
	PIDHost    PIDMode = "host"    // the machine's
)

// Security is what a container may do. The zero value is the engine's default
// set of capabilities and system calls, without new privileges.
type Security struct {
	User           string  // "1000", "1000:2000"; "" is the image's
	Groups         []int64 // further ones
	CapAdd         []string
	CapDrop        []string // before CapAdd; "ALL"
	Privileged     bool
	NewPrivileges  bool // a process may gain more than its parent has
	Unconfined     bool // all system calls
	ReadOnlyRootFS bool
}

// Port publishes a container's port on the host.
type Port struct {
	ContainerPort int32
	HostPort      int32
	HostIP        string // "" is all addresses
	Protocol      string // "TCP" (default), "UDP", "SCTP"
}

// Config asks for a container of a pod.
type Config struct {
	Name    string
	Image   string
	Sandbox string // id of the sandbox whose namespaces it joins
	// Command replaces the image's entrypoint, and Args its arguments, where
	// not empty, as in a Kubernetes pod (Command alone also drops the image's
	// arguments).
	Command    []string
	Args       []string
	Env        []string // "NAME=value"
	WorkingDir string
	Labels     map[string]string
	Resources  Resources
	Mounts     []Mount
	Stdin, TTY bool
	Security   Security
	PID        PIDMode
	HostIPC    bool // as the sandbox's
	// CgroupParent, if not empty, is the sandbox's.
	CgroupParent string
}

// Mount shows a path of the engine's machine in a container. Mounts that either
// side makes later stay its own.
type Mount struct {
	Source   string // absolute
	Target   string // absolute
	ReadOnly bool
	// MakeSource: the engine makes a directory where nothing is. Otherwise it
	// refuses the container.
	MakeSource bool
}

// Resources are what the engine really enforces; 0 sets nothing.
type Resources struct {
	CPUShares   int64 // relative weight, 1024 per core requested
	CPUQuota    int64 // microseconds per 100 ms period
	MemoryBytes int64 // limit, swap included
	PIDs        int64 // limit of processes and threads
	// OOMScore says whom the kernel ends first where the machine's memory is at
	// its end: the highest, from -1000 to 1000.
	OOMScore int
}

// State of a container.
type State string

const (
	StateCreated State = "created"
	StateRunning State = "running"
	StatePaused  State = "paused"
	StateExited  State = "exited"
)

// Container is one container as it is.
type Container struct {
	ID      string
	Name    string
	Labels  map[string]string // its own, and those of its image
	Image   string            // as asked for
	ImageID string
	State   State
	// PID of its first process in the host's numbering; 0 unless it runs (or
	// the engine does not tell, as in List).
	PID int
	// IP is the address of a sandbox; "" in joined containers.
	IP         string
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int
	OOMKilled  bool
	// Error is why the engine could not start it.
	Error string
}

// Event says that something happened to a container.
type Event struct {
	ID     string
	Action string // "create", "start", "die", "oom", "destroy", …
	Labels map[string]string
	Time   time.Time
}

// LogOptions choose what of a log is wanted.
type LogOptions struct {
	Follow     bool
	Tail       int // last lines; < 0 is all
	Since      time.Time
	Timestamps bool // each line begins with RFC 3339 time in nanoseconds
}

// ExecOptions describe a command to run.
type ExecOptions struct {
	Command        []string
	TTY            bool
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer
	Resize         <-chan Size // nil: none
}

// Size of a terminal, in characters.
type Size struct{ Width, Height uint16 }
