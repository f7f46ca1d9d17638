package docker_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/container"
	"orch/pkg/container/docker"
)

// TestEngine is about what only a real engine can show. The contract is tested
// in TestRuntime.
func TestEngine(t *testing.T) {
	engine := testdocker.Require(t)
	p := pods{engine, testimage.Build(t, engine)}
	raw, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.NegotiateAPIVersion(t.Context())

	t.Run("info is that of the machine", func(t *testing.T) {
		info, err := engine.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(info.Runtime, "docker://") || info.APIVersion == "" || info.OS != "linux" ||
			info.MilliCPU < 1000 || info.MemoryBytes < 1<<28 || strings.Contains(info.Architecture, "_") {
			t.Errorf("%+v", info)
		}
	})

	t.Run("a connection reaches what listens on the pod's localhost only", func(t *testing.T) {
		if runtime.GOOS != "linux" || os.Getuid() != 0 {
			t.Skip("needs root on Linux: elsewhere connections go to the pod's address")
		}
		sandbox := p.sandbox(t, "dialled")
		server := p.start(t, p.config("listener", sandbox.ID, "-listen", "127.0.0.1:8080", "-reply", "from inside"))
		p.awaitReady(t, server.ID)
		for range 3 { // each from a thread of its own, which the next must not share
			conn, err := engine.Dial(t.Context(), sandbox.ID, 8080)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Error(err)
			}
			if text, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(text), "from inside") {
				t.Errorf("%q, %v", text, err)
			}
		}
	})

	t.Run("a container's user has the numbers that its own files give", func(t *testing.T) {
		sandbox := p.sandbox(t, "users")
		for user, want := range map[string]string{
			"web": "33 34", "33": "33 34", "web:staff": "33 50", "web:7": "33 7", "9": "9 0", "nobody": "",
		} {
			config := p.config("user-"+strings.ReplaceAll(user, ":", "-"), sandbox.ID)
			config.Security.User = user
			id, err := engine.Create(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			var archive bytes.Buffer
			w := tar.NewWriter(&archive)
			for name, text := range map[string]string{
				"etc/passwd": "root:x:0:0::/:/sh\nweb:x:33:34:Web:/:/sh\n", "etc/group": "root:x:0:\nstaff:x:50:web\n",
			} {
				err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: 0o644})
				if _, writeErr := io.WriteString(w, text); err != nil || writeErr != nil {
					t.Fatal(err, writeErr)
				}
			}
			if err := errors.Join(w.Close(), engine.CopyTo(t.Context(), id, "/", &archive)); err != nil {
				t.Fatal(err)
			}
			got := ""
			if uid, gid, err := engine.User(t.Context(), id); err == nil {
				got = fmt.Sprint(uid, gid)
			}
			if got != want {
				t.Errorf("user %q is %q, want %q", user, got, want)
			}
		}
	})

	t.Run("two containers of a pod share localhost and the hostname", func(t *testing.T) {
		sandbox := p.sandbox(t, "shared")
		server := p.start(t, p.config("server", sandbox.ID, "-listen", "127.0.0.1:8080", "-reply", "it is shared"))
		p.awaitReady(t, server.ID)
		visitor := p.config("visitor", sandbox.ID, "-hostname", "-get", "http://localhost:8080/", "-exit", "0")
		if got, want := p.finished(t, visitor), "shared\nit is shared\n"; got != want {
			t.Errorf("visitor prints %q, want %q", got, want)
		}
	})

	t.Run("a host port leads to the pod, and one that is taken fails the sandbox", func(t *testing.T) {
		port := freePort(t)
		config := container.Sandbox{
			Name: engine.Name("port"), Labels: engine.Labels(nil),
			Ports: []container.Port{{ContainerPort: 8080, HostPort: port, HostIP: "127.0.0.1"}},
		}
		sandbox, err := engine.CreateSandbox(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		server := p.start(t, p.config("port-server", sandbox.ID, "-listen", ":8080", "-reply", "from the pod"))
		p.awaitReady(t, server.ID)
		address := net.JoinHostPort("127.0.0.1", itoa(port))
		if got := get(t, "http://"+address); got != "from the pod" {
			t.Errorf("answer %q", got)
		}

		config.Name, config.Labels = engine.Name("port-2"), engine.Labels(map[string]string{"orch.test/port": "taken"})
		_, err = engine.CreateSandbox(t.Context(), config)
		if err == nil || !strings.Contains(err.Error(), "port is already allocated") {
			t.Errorf("error for a port that is taken: %v", err)
		}
		if left := p.list(t, config.Labels); len(left) > 0 {
			t.Errorf("there is still %+v", left)
		}
	})

	t.Run("resources are really set", func(t *testing.T) {
		config := p.config("limited", p.sandbox(t, "limits").ID)
		config.Resources = container.Resources{CPUShares: 512, CPUQuota: 25_000, MemoryBytes: 32 << 20}
		limited := p.start(t, config)
		inspected, err := raw.ContainerInspect(t.Context(), limited.ID)
		if err != nil {
			t.Fatal(err)
		}
		host := inspected.HostConfig
		got := []int64{host.CPUShares, host.CPUPeriod, host.CPUQuota, host.Memory, host.MemorySwap}
		if diff := cmp.Diff([]int64{512, 100_000, 25_000, 32 << 20, 32 << 20}, got); diff != "" {
			t.Error(diff)
		}
		if host.LogConfig.Config["max-size"] != "10m" || host.RestartPolicy.Name != "no" ||
			!slices.Contains(host.SecurityOpt, "no-new-privileges") {
			t.Errorf("host config %+v", host)
		}
	})

	t.Run("the kernel is told how many processes there may be, and whom to end first", func(t *testing.T) {
		config := p.config("counted", p.sandbox(t, "counted-sandbox").ID)
		config.Resources.PIDs, config.Resources.OOMScore = 64, 999
		c := p.start(t, config)
		inspected, err := raw.ContainerInspect(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if host := inspected.HostConfig; *host.PidsLimit != 64 || host.OomScoreAdj != 999 {
			t.Errorf("pids %d, score %d", *host.PidsLimit, host.OomScoreAdj)
		}
	})

	t.Run("what a container uses is what the engine counts", func(t *testing.T) {
		c := p.start(t, p.config("user", p.sandbox(t, "user-sandbox").ID, "-alloc", "32", "-fill", "3", "-spin"))
		var read container.Stats
		for read.CPU < 50*time.Millisecond || read.MemoryBytes < 32<<20 { // until it has got so far
			var err error
			if read, err = engine.Stats(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		unseen := c
		unseen.PID = 0 // as where the engine is on another machine
		told, err := engine.Stats(t.Context(), unseen)
		if err != nil {
			t.Fatal(err)
		}
		if told.CPU < read.CPU || told.MemoryBytes < 32<<20 || told.MemoryBytes > 256<<20 || read.MemoryBytes > 256<<20 || told.PIDs < 1 || read.PIDs < 1 {
			t.Errorf("read %+v, told %+v", read, told)
		}
		disk, err := engine.DiskUsage(t.Context(), c.ID)
		if err != nil || disk < 3<<20 || disk > 4<<20 {
			t.Errorf("%d bytes written, %v", disk, err)
		}
		machine, err := engine.Machine(t.Context())
		if err != nil || machine.Memory.Capacity == 0 || machine.Disk.Capacity == 0 || machine.PIDs.Capacity == 0 || machine.CPU == 0 {
			t.Errorf("machine %+v, %v", machine, err)
		}
	})

	t.Run("a container over its memory limit is killed for it", func(t *testing.T) {
		config := p.config("greedy", p.sandbox(t, "oom").ID, "-alloc", "256")
		config.Resources.MemoryBytes = 24 << 20
		greedy := p.start(t, config)
		ended, err := engine.Wait(t.Context(), greedy.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !ended.OOMKilled || ended.ExitCode != 137 {
			t.Errorf("ended as %+v", ended)
		}
	})

	t.Run("a command that does not exist fails the start with the engine's words", func(t *testing.T) {
		config := p.config("wrong", p.sandbox(t, "wrong-sandbox").ID)
		config.Command = []string{"/no/such/program"}
		id, err := engine.Create(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		_, err = engine.Start(t.Context(), id)
		if err == nil || !strings.Contains(err.Error(), "no such file or directory") || errors.Is(err, container.ErrNotFound) {
			t.Errorf("error %v", err)
		}
		wrong, err := engine.Inspect(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if wrong.State == container.StateRunning || wrong.Error == "" || wrong.ExitCode != 127 {
			t.Errorf("container is %+v", wrong)
		}
	})

	t.Run("a terminal is one, in a container and for a command", func(t *testing.T) {
		config := p.config("terminal", p.sandbox(t, "tty").ID, "-tty", "-stderr", "all in one")
		config.TTY, config.Stdin = true, true
		terminal := p.start(t, config)
		p.awaitReady(t, terminal.ID)
		var out, errout bytes.Buffer
		if err := engine.Logs(t.Context(), terminal.ID, container.LogOptions{Tail: -1}, &out, &errout); err != nil {
			t.Fatal(err)
		}
		if got, want := out.String(), "all in one\r\ntrue\r\nready\r\n"; got != want || errout.Len() > 0 {
			t.Errorf("log %q and %q, want %q", got, errout.String(), want)
		}
		out.Reset()
		sizes := make(chan container.Size, 1)
		sizes <- container.Size{Width: 80, Height: 25}
		code, err := engine.Exec(t.Context(), terminal.ID, container.ExecOptions{
			Command: []string{testimage.Path, "-tty", "-exit", "4"}, TTY: true, Resize: sizes,
			Stdin: strings.NewReader(""), Stdout: &out,
		})
		if err != nil || code != 4 || out.String() != "true\r\n" {
			t.Errorf("command: code %d, error %v, output %q", code, err, out.String())
		}
	})

	t.Run("a command that nobody listens to any more is killed", func(t *testing.T) {
		host := p.start(t, p.config("host", p.sandbox(t, "exec").ID))
		if engine.Exited(t.Context(), host) == nil {
			t.Skip("this engine's processes cannot be seen from here")
		}
		ctx, cancel := context.WithCancel(t.Context())
		// The engine answers before it subscribes: since, so that nothing is missed.
		since := strconv.FormatInt(time.Now().Add(-time.Minute).Unix(), 10)
		ended, failed := raw.Events(t.Context(), events.ListOptions{Since: since, Filters: filters.NewArgs(
			filters.Arg("container", host.ID), filters.Arg("event", "exec_die"))})
		r, w := io.Pipe()
		result := make(chan error, 1)
		go func() {
			_, err := engine.Exec(ctx, host.ID, container.ExecOptions{
				Command: []string{testimage.Path, "-ignore-term"}, Stdout: w,
			})
			result <- err
		}()
		if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		select {
		case e := <-ended:
			if e.Actor.Attributes["exitCode"] != "137" {
				t.Errorf("ended as %+v", e)
			}
		case err := <-failed:
			t.Fatal(err)
		}
	})

	t.Run("a process that is not the container's is not watched", func(t *testing.T) {
		other := container.Container{ID: p.sandbox(t, "pid").ID, State: container.StateRunning, PID: os.Getpid()}
		if engine.Exited(t.Context(), other) != nil {
			t.Error("this test's own process counts as the container's")
		}
	})

	t.Run("the sandbox image is made when it is missing, by several at a time", func(t *testing.T) {
		info, err := engine.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ref := "orch-test-sandbox:" + engine.Run
		t.Cleanup(func() { // with those that lost their tag to a later import
			ctx := context.WithoutCancel(t.Context())
			made, err := raw.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "orch.sandbox="+ref))})
			for _, i := range made {
				err = errors.Join(err, engine.RemoveImage(ctx, i.ID))
			}
			if err != nil || len(made) == 0 {
				t.Errorf("%d images were made, error %v", len(made), err)
			}
		})
		var group sync.WaitGroup
		for _, name := range []string{"first", "second"} {
			group.Go(func() {
				runtime, err := docker.New("")
				if err != nil {
					t.Error(err)
					return
				}
				defer runtime.Close()
				if err := runtime.UseSandboxImage(ref, info.Architecture); err != nil {
					t.Error(err)
					return
				}
				sandbox, err := runtime.CreateSandbox(t.Context(), container.Sandbox{Name: engine.Name(name), Labels: engine.Labels(nil)})
				if err != nil {
					t.Error(err)
					return
				}
				if err := runtime.Remove(t.Context(), sandbox.ID); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	})

	t.Run("an imported image keeps its configuration to the letter", func(t *testing.T) {
		ref := "orch-test-import:" + engine.Run
		config := docker.ImageConfig{
			Entrypoint: []string{"/bin/app", "--name=a b"},
			Cmd:        []string{"serve"},
			Env:        []string{`QUOTED=say "hi" for $HOME \o/`, "EMPTY="},
			Labels:     map[string]string{"org.example/label": "two words"},
			User:       "1000:1000",
			WorkingDir: "/data",
			Expose:     []string{"8080/tcp"},
		}
		files := []docker.ImageFile{
			{Path: "/bin/app", Mode: 0o755, Content: []byte("app")},
			{Path: "bin/other", Mode: 0o644, Content: []byte("other")},
		}
		engine.RemoveImageLater(ref)
		imported, err := engine.ImportImage(t.Context(), ref, files, config)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(imported.Tags, ref) || imported.ID == "" {
			t.Errorf("image %+v", imported)
		}
		made, err := raw.ImageInspect(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		env := slices.DeleteFunc(made.Config.Env, func(s string) bool { return strings.HasPrefix(s, "PATH=") })
		got := docker.ImageConfig{
			Entrypoint: made.Config.Entrypoint, Cmd: made.Config.Cmd, Env: env, Labels: made.Config.Labels,
			User: made.Config.User, WorkingDir: made.Config.WorkingDir,
		}
		for port := range made.Config.ExposedPorts {
			got.Expose = append(got.Expose, port)
		}
		if diff := cmp.Diff(config, got); diff != "" {
			t.Error(diff)
		}
		config.Env = []string{"LINES=1\n2"}
		if _, err := engine.ImportImage(t.Context(), ref, files, config); err == nil {
			t.Error("a line break got into an instruction")
		}
	})

	t.Run("what waits for an engine that goes away says so", func(t *testing.T) {
		proxy := newProxy(t, engine.Host())
		away, err := docker.New("unix://" + proxy.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer away.Close()
		c := p.start(t, p.config("left-alone", p.sandbox(t, "away").ID))
		p.awaitReady(t, c.ID)

		ready := make(chan struct{})
		results := make(chan error, 3)
		go func() { results <- away.Watch(t.Context(), nil, ready, func(container.Event) {}) }()
		go func() { _, err := away.Wait(t.Context(), c.ID); results <- err }()
		lines, w := io.Pipe()
		go func() {
			results <- away.Logs(t.Context(), c.ID, container.LogOptions{Follow: true, Tail: -1}, w, w)
		}()
		<-ready
		if _, err := bufio.NewReader(lines).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		proxy.stop()
		for range cap(results) {
			if err := <-results; !errors.Is(err, container.ErrUnavailable) {
				t.Errorf("error %v", err)
			}
		}
		if _, err := away.Inspect(t.Context(), c.ID); !errors.Is(err, container.ErrUnavailable) {
			t.Errorf("error %v", err)
		}
	})
}

// pods makes what the tests above need; testdocker removes it.
type pods struct {
	*testdocker.Engine
	image string
}

func (p pods) sandbox(t *testing.T, name string) container.Container {
	t.Helper()
	sandbox, err := p.CreateSandbox(t.Context(), container.Sandbox{Name: p.Name(name), Hostname: name, Labels: p.Labels(nil)})
	if err != nil {
		t.Fatal(err)
	}
	return sandbox
}

func (p pods) config(name, sandbox string, args ...string) container.Config {
	return container.Config{Name: p.Name(name), Image: p.image, Sandbox: sandbox, Args: args, Labels: p.Labels(nil)}
}

func (p pods) start(t *testing.T, config container.Config) container.Container {
	t.Helper()
	id, err := p.Create(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Start(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// finished runs a container to its end and returns what it printed.
func (p pods) finished(t *testing.T, config container.Config) string {
	t.Helper()
	c := p.start(t, config)
	if _, err := p.Wait(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := p.Logs(t.Context(), c.ID, container.LogOptions{Tail: -1}, &out, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// awaitReady returns when the test image's program has done what it was told
// and waits for a signal.
func (p pods) awaitReady(t *testing.T, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	_ = p.Logs(ctx, id, container.LogOptions{Follow: true, Tail: -1}, writerFunc(func(b []byte) {
		out.Write(b)
		if strings.Contains(out.String(), "ready") {
			cancel()
		}
	}), io.Discard)
	if !strings.Contains(out.String(), "ready") {
		t.Fatalf("not ready; log: %s", out.String())
	}
}

func (p pods) list(t *testing.T, labels map[string]string) []container.Container {
	t.Helper()
	list, err := p.List(t.Context(), labels)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func get(t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// freePort is a port that was free a moment ago.
func freePort(t *testing.T) int32 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return int32(listener.Addr().(*net.TCPAddr).Port)
}

// proxy stands between a runtime and the engine, and can go away.
type proxy struct {
	socket string
	stop   func()
}

func newProxy(t *testing.T, host string) *proxy {
	t.Helper()
	target, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		t.Skip("the engine is not on a local socket")
	}
	socket := filepath.Join(t.TempDir(), "engine.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", target)
			if err != nil {
				near.Close()
				continue
			}
			context.AfterFunc(ctx, func() { near.Close(); far.Close() })
			group.Go(func() { _, _ = io.Copy(near, far); near.Close() })
			group.Go(func() { _, _ = io.Copy(far, near); far.Close() })
		}
	})
	stop := sync.OnceFunc(func() {
		listener.Close()
		cancel()
		group.Wait()
	})
	t.Cleanup(stop)
	return &proxy{socket, stop}
}
