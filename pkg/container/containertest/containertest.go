// Package containertest is the suite that every container.Runtime passes.
//
// Its invariant: it knows only the contract. What one engine alone can show
// (shared networks, memory limits, pidfds) is tested beside that engine.
package containertest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"orch/internal/testimage"
	"orch/pkg/container"
)

// Subject is the engine to be tested.
type Subject struct {
	// Connect returns a new runtime on the same engine each time. The suite
	// closes it.
	Connect func(t *testing.T) container.Runtime
	// Image is a local image whose entrypoint is testimage.Program at
	// testimage.Path, with IMAGE=testimage in its environment.
	Image string
	// MissingImage is an image that cannot be pulled.
	MissingImage string
	// PrivateImage can be pulled with Login only.
	PrivateImage string
	Login        container.Login
	// Labels are on everything that the suite makes, so that it can be found
	// and removed.
	Labels map[string]string
	// Name makes a container's name unique on the engine.
	Name func(string) string
}

// limit of any one step; far more than any takes.
const limit = 2 * time.Minute

// Run runs the suite.
func Run(t *testing.T, s Subject) {
	tests := []struct {
		name string
		f    func(*testing.T, *pod)
	}{
		{"a sandbox is returned running, with its address", testSandbox},
		{"a sandbox on the machine's network has no address of its own", testHostNetwork},
		{"a name can be taken once, and again after its container is removed", testNames},
		{"a container is created, runs and exits", testLifecycle},
		{"the exit code is the program's", testExitCode},
		{"a container that handles SIGTERM ends by itself", testStop},
		{"a container that ignores SIGTERM is killed after the grace period", testStopIgnored},
		{"a container is stopped at once without a grace period", testStopAtOnce},
		{"a signal reaches the container only while it runs", testKill},
		{"a paused container does nothing until it goes on, and can be ended", testPause},
		{"removing is by force and repeatable", testRemove},
		{"a list holds what carries all labels, and nothing else", testList},
		{"another runtime finds what an earlier one left", testAdoption},
		{"a container that does not exist is not found", testNotFound},
		{"an image that does not exist is named in the error", testMissingImage},
		{"a private image is pulled with its login, and tells how far that is", testPrivateImage},
		{"command and args replace the image's as in Kubernetes", testCommand},
		{"a path of the machine is mounted, and cannot be written where it is read-only", testMounts},
		{"a mount of what is not there is refused, unless it is to be made", testMissingMounts},
		{"a watch reports a container's life in order", testWatch},
		{"a watch does not report what was before it", testWatchFromReady},
		{"the end of a process is seen, and then its exit code", testExited},
		{"a log holds both streams", testLogs},
		{"a log can be cut by lines and by time", testLogsCut},
		{"a log is followed to the container's end", testLogsFollowed},
		{"a command's output, input and exit code come through", testExec},
		{"a command ends with its context", testExecEnds},
		{"who attaches talks to the container's own program, and may leave", testAttach},
		{"files are copied in and out of a container without its help", testCopy},
		{"folders of the machine are opened to everybody, and nothing stays of that", testUnlock},
		{"a connection to a sandbox needs it running, and somebody who listens", testDial},
		{"what a container uses is told while it runs", testStats},
		{"a call ends with its context", testContext},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			runtime := s.Connect(t)
			t.Cleanup(func() { runtime.Close() })
			ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
			t.Cleanup(cancel)
			test.f(t, &pod{T: t, Runtime: runtime, subject: s, ctx: ctx})
		})
	}
}

// pod is one test's pod.
type pod struct {
	*testing.T
	container.Runtime

	subject Subject
	ctx     context.Context
	sandbox string // id, once there is one
}

func (p *pod) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *pod) is(err, kind error) {
	p.Helper()
	if !errors.Is(err, kind) {
		p.Errorf("got error %v, want one that is %q", err, kind)
	}
}

func (p *pod) equal(what string, got, want any) {
	p.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		p.Errorf("%s differs (-want +got):\n%s", what, diff)
	}
}

// labels are the suite's and those of one test's container.
func (p *pod) labels(extra ...string) map[string]string {
	labels := map[string]string{"orch.test/case": strings.ReplaceAll(p.Name(), "/", ".")}
	maps.Copy(labels, p.subject.Labels)
	for i := 0; i < len(extra); i += 2 {
		labels[extra[i]] = extra[i+1]
	}
	return labels
}

// removeLater removes a container when the test ends.
func (p *pod) removeLater(id string) {
	p.Cleanup(func() {
		if err := p.Remove(context.WithoutCancel(p.ctx), id); err != nil {
			p.Errorf("remove: %v", err)
		}
	})
}

func (p *pod) createSandbox(name string) container.Container {
	p.Helper()
	c, err := p.CreateSandbox(p.ctx, container.Sandbox{
		Name: p.subject.Name(name), Hostname: "pod-0", Labels: p.labels("orch.test/name", "sandbox"),
	})
	p.ok(err)
	p.removeLater(c.ID)
	return c
}

// config is a container of the test's pod, whose sandbox it makes if need be.
func (p *pod) config(name string, args ...string) container.Config {
	p.Helper()
	if p.sandbox == "" {
		p.sandbox = p.createSandbox("sandbox").ID
	}
	return container.Config{
		Name: p.subject.Name(name), Image: p.subject.Image, Sandbox: p.sandbox, Args: args, Labels: p.labels("orch.test/name", name),
	}
}

func (p *pod) create(c container.Config) string {
	p.Helper()
	id, err := p.Create(p.ctx, c)
	p.ok(err)
	p.removeLater(id)
	return id
}

// run starts a container and returns it when it has printed "ready".
func (p *pod) run(name string, args ...string) container.Container {
	p.Helper()
	id := p.create(p.config(name, args...))
	c, err := p.Start(p.ctx, id)
	p.ok(err)
	if !slices.Contains(args, "-exit") {
		p.awaitLine(id, "ready")
	}
	return c
}

// awaitLine reads the container's log until the line comes.
func (p *pod) awaitLine(id, line string) {
	p.Helper()
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(p.Logs(ctx, id, container.LogOptions{Follow: true, Tail: -1}, w, w))
	}()
	lines := bufio.NewScanner(r)
	found := false
	for !found && lines.Scan() {
		found = lines.Text() == line
	}
	cancel()
	r.Close()
	<-done
	if !found {
		p.Fatalf("log ends without %q: %v", line, lines.Err())
	}
}

func (p *pod) output(id string, o container.LogOptions) (stdout, stderr string) {
	p.Helper()
	var out, errout bytes.Buffer
	p.ok(p.Logs(p.ctx, id, o, &out, &errout))
	return out.String(), errout.String()
}

func testSandbox(t *testing.T, p *pod) {
	s := p.createSandbox("sandbox")
	if s.State != container.StateRunning || s.IP == "" || s.ID == "" || s.StartedAt.Before(s.CreatedAt) || s.CreatedAt.IsZero() {
		t.Errorf("sandbox is %+v", s)
	}
	p.equal("name", s.Name, p.subject.Name("sandbox"))
	// Its image may have labels too, and a container shows those beside its own.
	for name, value := range p.labels("orch.test/name", "sandbox") {
		p.equal("label "+name, s.Labels[name], value)
	}
	p.ok(p.Stop(p.ctx, s.ID, limit))
	s, err := p.Inspect(p.ctx, s.ID)
	p.ok(err)
	p.equal("state", s.State, container.StateExited)
	p.equal("exit code: 0 says that it handled SIGTERM", s.ExitCode, 0)
}

func testHostNetwork(_ *testing.T, p *pod) {
	s, err := p.CreateSandbox(p.ctx, container.Sandbox{Name: p.subject.Name("host"), Labels: p.labels(), HostNetwork: true})
	p.ok(err)
	p.removeLater(s.ID)
	p.equal("address", s.IP, "")
	p.equal("state", s.State, container.StateRunning)
}

func testNames(_ *testing.T, p *pod) {
	id := p.create(p.config("taken"))
	_, err := p.Create(p.ctx, p.config("taken"))
	p.is(err, container.ErrConflict)
	_, err = p.CreateSandbox(p.ctx, container.Sandbox{Name: p.subject.Name("taken"), Labels: p.labels()})
	p.is(err, container.ErrConflict)
	p.ok(p.Remove(p.ctx, id))
	p.create(p.config("taken"))
}

func testLifecycle(t *testing.T, p *pod) {
	config := p.config("life")
	id := p.create(config)
	c, err := p.Inspect(p.ctx, id)
	p.ok(err)
	p.equal("state after create", c.State, container.StateCreated)
	p.equal("name", c.Name, config.Name)
	p.equal("image", c.Image, p.subject.Image)
	p.equal("labels", c.Labels, config.Labels)
	p.equal("address", c.IP, "")
	if c.PID != 0 || !c.StartedAt.IsZero() || !c.FinishedAt.IsZero() {
		t.Errorf("a created container is %+v", c)
	}
	image, err := p.Image(p.ctx, p.subject.Image)
	p.ok(err)
	p.equal("image id", c.ImageID, image.ID)

	c, err = p.Start(p.ctx, id)
	p.ok(err)
	p.equal("state after start", c.State, container.StateRunning)
	if c.PID == 0 || c.StartedAt.Before(c.CreatedAt) {
		t.Errorf("a running container is %+v", c)
	}
	p.awaitLine(id, "ready")
	p.ok(p.Stop(p.ctx, id, limit))
	c, err = p.Inspect(p.ctx, id)
	p.ok(err)
	p.equal("state after stop", c.State, container.StateExited)
	if c.PID != 0 || c.ExitCode != 0 || c.FinishedAt.Before(c.StartedAt) {
		t.Errorf("a stopped container is %+v", c)
	}
}

func testExitCode(_ *testing.T, p *pod) {
	id := p.create(p.config("code", "-exit", "3"))
	_, err := p.Start(p.ctx, id)
	p.ok(err)
	c, err := p.Wait(p.ctx, id)
	p.ok(err)
	p.equal("state", c.State, container.StateExited)
	p.equal("exit code", c.ExitCode, 3)
	p.equal("killed for memory", c.OOMKilled, false)
	again, err := p.Wait(p.ctx, id)
	p.ok(err)
	p.equal("second wait", again, c)
}

func testStop(_ *testing.T, p *pod) {
	c := p.run("polite")
	p.ok(p.Stop(p.ctx, c.ID, limit))
	out, _ := p.output(c.ID, container.LogOptions{Tail: 1})
	p.equal("last line", out, "terminated\n")
	p.ok(p.Stop(p.ctx, c.ID, limit))
}

func testStats(_ *testing.T, p *pod) {
	c := p.run("busy")
	before, err := p.Stats(p.ctx, c)
	p.ok(err)
	after, err := p.Stats(p.ctx, c)
	p.ok(err)
	if before.MemoryBytes <= 0 || before.PIDs <= 0 || after.At.Before(before.At) || after.CPU < before.CPU {
		p.Errorf("first %+v, then %+v", before, after)
	}
	disk, err := p.DiskUsage(p.ctx, c.ID)
	p.ok(err)
	if disk < 0 {
		p.Errorf("%d bytes written", disk)
	}
	machine, err := p.Machine(p.ctx)
	p.ok(err)
	for _, r := range []container.Room{machine.Memory, machine.Disk, machine.PIDs} {
		if r.Available < 0 || r.Available > r.Capacity {
			p.Errorf("machine %+v", machine)
		}
	}
	p.ok(p.Stop(p.ctx, c.ID, 0))
	_, err = p.Stats(p.ctx, c)
	p.is(err, container.ErrNotRunning)
	_, err = p.DiskUsage(p.ctx, "0123456789abcdef")
	p.is(err, container.ErrNotFound)
}

func testStopIgnored(_ *testing.T, p *pod) {
	c := p.run("stubborn", "-ignore-term")
	p.ok(p.Kill(p.ctx, c.ID, "SIGTERM"))
	p.awaitLine(c.ID, "ignored SIGTERM") // which a busy machine need not get done in the grace period
	p.ok(p.Stop(p.ctx, c.ID, time.Second))
	c, err := p.Inspect(p.ctx, c.ID)
	p.ok(err)
	p.equal("exit code", c.ExitCode, 137)
}

func testStopAtOnce(_ *testing.T, p *pod) {
	c := p.run("killed")
	p.ok(p.Stop(p.ctx, c.ID, 0))
	c, err := p.Inspect(p.ctx, c.ID)
	p.ok(err)
	p.equal("state", c.State, container.StateExited)
	p.equal("exit code", c.ExitCode, 137)
	out, _ := p.output(c.ID, container.LogOptions{Tail: 1})
	p.equal("last line", out, "ready\n")
	p.ok(p.Stop(p.ctx, c.ID, 0))
}

func testKill(_ *testing.T, p *pod) {
	c := p.run("signalled")
	p.ok(p.Kill(p.ctx, c.ID, "SIGTERM"))
	c, err := p.Wait(p.ctx, c.ID)
	p.ok(err)
	p.equal("exit code", c.ExitCode, 0)
	p.is(p.Kill(p.ctx, c.ID, "SIGTERM"), container.ErrNotRunning)
	p.is(p.Kill(p.ctx, c.ID, "SIGKILL"), container.ErrNotRunning)
}

func testPause(t *testing.T, p *pod) {
	state := func(id string) container.State {
		c, err := p.Inspect(p.ctx, id)
		p.ok(err)
		return c.State
	}
	c := p.run("paused")
	p.ok(p.Unpause(p.ctx, c.ID))
	p.ok(p.Pause(p.ctx, c.ID))
	p.ok(p.Pause(p.ctx, c.ID))
	p.equal("state", state(c.ID), container.StatePaused)
	list, err := p.List(p.ctx, p.labels("orch.test/name", "paused"))
	p.ok(err)
	if len(list) != 1 || list[0].State != container.StatePaused {
		t.Errorf("list is %+v", list)
	}
	if _, err := p.Exec(p.ctx, c.ID, container.ExecOptions{Command: []string{testimage.Path, "-exit", "0"}}); err == nil {
		t.Error("a command runs in a paused container")
	}
	p.ok(p.Unpause(p.ctx, c.ID))
	p.equal("state", state(c.ID), container.StateRunning)

	p.ok(p.Pause(p.ctx, c.ID))
	p.ok(p.Kill(p.ctx, c.ID, "SIGKILL"))
	c, err = p.Wait(p.ctx, c.ID)
	p.ok(err)
	p.equal("exit code after a kill", c.ExitCode, 137)
	p.is(p.Pause(p.ctx, c.ID), container.ErrNotRunning)
	p.ok(p.Unpause(p.ctx, c.ID))

	for name, end := range map[string]func(id string) error{
		"stopped": func(id string) error { return p.Stop(p.ctx, id, time.Second) },
		"ended":   func(id string) error { return p.Stop(p.ctx, id, 0) },
		"removed": func(id string) error { return p.Remove(p.ctx, id) },
	} {
		c := p.run(name)
		p.ok(p.Pause(p.ctx, c.ID))
		p.ok(end(c.ID))
		if c, err := p.Inspect(p.ctx, c.ID); err == nil {
			p.equal("state of "+name, c.State, container.StateExited)
		} else {
			p.is(err, container.ErrNotFound)
		}
	}
	p.is(p.Pause(p.ctx, "no-such-container"), container.ErrNotFound)
	p.is(p.Unpause(p.ctx, "no-such-container"), container.ErrNotFound)
}

func testRemove(_ *testing.T, p *pod) {
	c := p.run("gone")
	p.ok(p.Remove(p.ctx, c.ID))
	_, err := p.Inspect(p.ctx, c.ID)
	p.is(err, container.ErrNotFound)
	p.ok(p.Remove(p.ctx, c.ID))
}

func testList(t *testing.T, p *pod) {
	running := p.run("running")
	exited := p.run("exited", "-exit", "1")
	_, err := p.Wait(p.ctx, exited.ID)
	p.ok(err)
	created := p.create(p.config("created"))

	states := func(labels map[string]string) map[string]container.State {
		list, err := p.List(p.ctx, labels)
		p.ok(err)
		found := map[string]container.State{}
		for _, c := range list {
			found[c.ID] = c.State
			if c.Name == "" || c.CreatedAt.IsZero() || c.Labels["orch.test/case"] == "" {
				t.Errorf("list holds %+v", c)
			}
		}
		return found
	}
	p.equal("all of this test", states(p.labels()), map[string]container.State{
		p.sandbox: container.StateRunning, running.ID: container.StateRunning,
		exited.ID: container.StateExited, created: container.StateCreated,
	})
	p.equal("one of this test", states(p.labels("orch.test/name", "exited")),
		map[string]container.State{exited.ID: container.StateExited})
	p.equal("a value that none has", states(p.labels("orch.test/name", "other")), map[string]container.State{})
	p.equal("a label that none has", states(p.labels("other", "")), map[string]container.State{})
}

func testAdoption(t *testing.T, p *pod) {
	c := p.run("orphan")
	p.ok(p.Close())
	second := p.subject.Connect(t)
	defer second.Close()
	list, err := second.List(p.ctx, p.labels("orch.test/name", "orphan"))
	p.ok(err)
	if len(list) != 1 || list[0].ID != c.ID {
		t.Fatalf("second runtime finds %+v", list)
	}
	found, err := second.Inspect(p.ctx, c.ID)
	p.ok(err)
	p.equal("container", found, c)
	p.ok(second.Stop(p.ctx, c.ID, limit))
}

func testNotFound(_ *testing.T, p *pod) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	_, err := p.Inspect(p.ctx, id)
	p.is(err, container.ErrNotFound)
	_, err = p.Start(p.ctx, id)
	p.is(err, container.ErrNotFound)
	_, err = p.Wait(p.ctx, id)
	p.is(err, container.ErrNotFound)
	_, err = p.Exec(p.ctx, id, container.ExecOptions{Command: []string{"true"}})
	p.is(err, container.ErrNotFound)
	p.is(p.Stop(p.ctx, id, time.Second), container.ErrNotFound)
	p.is(p.Kill(p.ctx, id, "SIGKILL"), container.ErrNotFound)
	p.is(p.Logs(p.ctx, id, container.LogOptions{}, io.Discard, io.Discard), container.ErrNotFound)
	p.ok(p.Remove(p.ctx, id))
}

func testMissingImage(t *testing.T, p *pod) {
	ref := p.subject.MissingImage
	_, err := p.Image(p.ctx, ref)
	p.is(err, container.ErrNotFound)
	config := p.config("imageless")
	config.Image = ref
	_, err = p.Create(p.ctx, config)
	p.is(err, container.ErrNotFound)
	if err == nil || !strings.Contains(err.Error(), ref) {
		t.Errorf("error of Create does not name the image: %v", err)
	}
	_, err = p.Pull(p.ctx, ref, container.PullOptions{})
	if err == nil || errors.Is(err, container.ErrUnavailable) || !strings.HasPrefix(err.Error(), "pull "+ref+": ") {
		t.Errorf("error of Pull: %v", err)
	}
}

func testPrivateImage(t *testing.T, p *pod) {
	ref, login := p.subject.PrivateImage, p.subject.Login
	for _, wrong := range []*container.Login{nil, {Username: login.Username, Password: "not-it"}} {
		_, err := p.Pull(p.ctx, ref, container.PullOptions{Login: wrong})
		if err == nil || errors.Is(err, container.ErrUnavailable) || errors.Is(err, container.ErrNotFound) ||
			!strings.HasPrefix(err.Error(), "pull "+ref+": ") || strings.Contains(err.Error(), "not-it") {
			t.Errorf("error of Pull with login %v: %v", wrong, err)
		}
	}
	var last container.Progress
	pulled, err := p.Pull(p.ctx, ref, container.PullOptions{Login: &login, Progress: func(now container.Progress) { last = now }})
	p.ok(err)
	if last.Layers == 0 || last.Done != last.Layers || last.Bytes != last.TotalBytes {
		t.Errorf("in the end, the progress is %+v", last)
	}
	local, err := p.Image(p.ctx, ref)
	p.ok(err)
	p.equal("local image", local, pulled)
	images, err := p.Images(p.ctx)
	p.ok(err)
	for what, ref := range map[string]string{"pulled": ref, "built": p.subject.Image} {
		i := slices.IndexFunc(images, func(i container.Image) bool { return slices.Contains(i.Tags, ref) })
		if i < 0 || images[i].SizeBytes == 0 || len(images[i].Digests) > 0 != (what == "pulled") {
			t.Errorf("the %s image %s is not as expected among %+v", what, ref, images)
		}
	}
}

func testCommand(_ *testing.T, p *pod) {
	config := p.config("args", "-lines", "1", "-exit", "0")
	p.equal("args alone", p.printed(config), "line 1\n")

	config = p.config("command")
	config.Command = []string{testimage.Path, "-lines", "2"}
	config.Args = []string{"-exit", "0"}
	p.equal("command and args", p.printed(config), "line 1\nline 2\n")

	config = p.config("env", "-env", "-exit", "0")
	config.Env = []string{"GREETING=hello world"}
	lines := strings.Split(p.printed(config), "\n")
	for _, want := range []string{"GREETING=hello world", "IMAGE=testimage"} {
		if !slices.Contains(lines, want) {
			p.Errorf("environment %q lacks %q", lines, want)
		}
	}
}

func testMounts(t *testing.T, p *pod) {
	source := t.TempDir()
	p.ok(os.Chmod(source, 0o777))
	p.ok(os.WriteFile(filepath.Join(source, "greeting"), []byte("hello\n"), 0o644))
	config := p.config("reader", "-print", "/mnt/data/greeting", "-write", "/mnt/data/new", "-exit", "0")
	config.Mounts = []container.Mount{{Source: source, Target: "/mnt/data", ReadOnly: true}}
	p.equal("read-only", p.printed(config), "read-only file system\nhello\n")

	config = p.config("writer", "-print", "/greeting", "-write", "/mnt/data/new", "-exit", "0")
	config.Mounts = []container.Mount{
		{Source: source, Target: "/mnt/data"},
		{Source: filepath.Join(source, "greeting"), Target: "/greeting"},
	}
	p.equal("a file", p.printed(config), "<nil>\nhello\n")
	_, err := os.Stat(filepath.Join(source, "new"))
	p.ok(err)
}

func testMissingMounts(t *testing.T, p *pod) {
	missing := filepath.Join(t.TempDir(), "missing")
	config := p.config("refused", "-exit", "0")
	config.Mounts = []container.Mount{{Source: missing, Target: "/data"}}
	if _, err := p.Create(p.ctx, config); err == nil || !strings.Contains(err.Error(), "bind source path does not exist: "+missing) {
		p.Errorf("error %v", err)
	}
	config = p.config("made", "-write", "/data/new", "-exit", "0")
	config.Mounts = []container.Mount{{Source: missing, Target: "/data", MakeSource: true}}
	p.equal("made", p.printed(config), "<nil>\n")
	_, err := os.Stat(filepath.Join(missing, "new"))
	p.ok(err)
}

// printed runs a container to its end and returns what it printed.
func (p *pod) printed(c container.Config) string {
	p.Helper()
	id := p.create(c)
	_, err := p.Start(p.ctx, id)
	p.ok(err)
	_, err = p.Wait(p.ctx, id)
	p.ok(err)
	out, _ := p.output(id, container.LogOptions{Tail: -1})
	return out
}

// watch begins a watch of the labels and returns when it stands.
func (p *pod) watch(labels map[string]string) (events <-chan container.Event, stop func() error) {
	p.Helper()
	ctx, cancel := context.WithCancel(p.ctx)
	seen := make(chan container.Event, 100)
	ready := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		result <- p.Watch(ctx, labels, ready, func(e container.Event) { seen <- e })
	}()
	select {
	case <-ready:
	case err := <-result:
		cancel()
		p.Fatal(err)
	}
	return seen, func() error { cancel(); return <-result }
}

func (p *pod) next(events <-chan container.Event) container.Event {
	p.Helper()
	select {
	case e := <-events:
		return e
	case <-p.ctx.Done():
		p.Fatal("no event comes")
		return container.Event{}
	}
}

func testWatch(t *testing.T, p *pod) {
	p.config("") // so that the sandbox's own events are over
	events, stop := p.watch(p.labels("orch.test/name", "seen"))
	p.create(p.config("unseen"))
	c := p.run("seen")
	p.ok(p.Kill(p.ctx, c.ID, "SIGKILL"))
	p.ok(p.Remove(p.ctx, c.ID))
	for _, action := range []string{"create", "start", "die", "destroy"} {
		e := p.next(events)
		if e.Action != action || e.ID != c.ID || e.Time.Before(c.CreatedAt.Add(-limit)) {
			t.Fatalf("got %+v, want %s of %s", e, action, c.ID)
		}
		p.equal("labels", e.Labels, p.labels("orch.test/name", "seen"))
	}
	p.is(stop(), context.Canceled)
	if len(events) > 0 {
		t.Errorf("there is also %+v", <-events)
	}
}

func testWatchFromReady(t *testing.T, p *pod) {
	before := p.create(p.config("before"))
	events, stop := p.watch(p.labels())
	after := p.create(p.config("after"))
	if e := p.next(events); e.ID != after || e.Action != "create" {
		t.Errorf("first event is %+v, want create of %s (created before: %s)", e, after, before)
	}
	p.is(stop(), context.Canceled)
}

func testExited(t *testing.T, p *pod) {
	c := p.run("short-lived")
	exited := p.Exited(p.ctx, c)
	if exited == nil {
		t.Skip("this engine's processes cannot be seen from here")
	}
	select {
	case <-exited:
		t.Fatal("a running process counts as ended")
	default:
	}
	p.ok(p.Kill(p.ctx, c.ID, "SIGTERM"))
	select {
	case <-exited:
	case <-p.ctx.Done():
		t.Fatal("the end of the process is not seen")
	}
	c, err := p.Wait(p.ctx, c.ID)
	p.ok(err)
	p.equal("state", c.State, container.StateExited)
	p.equal("exit code", c.ExitCode, 0)
	select {
	case <-p.Exited(p.ctx, c):
	case <-p.ctx.Done():
		t.Fatal("an exited container does not count as ended")
	}
}

func testLogs(_ *testing.T, p *pod) {
	c := p.run("talker", "-lines", "3", "-stderr", "trouble", "-exit", "0")
	_, err := p.Wait(p.ctx, c.ID)
	p.ok(err)
	out, errout := p.output(c.ID, container.LogOptions{Tail: -1})
	p.equal("standard output", out, "line 1\nline 2\nline 3\n")
	p.equal("standard error", errout, "trouble\n")
}

func testLogsCut(t *testing.T, p *pod) {
	c := p.run("numbers", "-lines", "5")
	out, _ := p.output(c.ID, container.LogOptions{Tail: 2})
	p.equal("the last two lines", out, "line 5\nready\n")
	out, _ = p.output(c.ID, container.LogOptions{Tail: 0})
	p.equal("no line", out, "")

	stamped, _ := p.output(c.ID, container.LogOptions{Tail: -1, Timestamps: true})
	var last time.Time
	for line := range strings.Lines(stamped) {
		stamp, text, _ := strings.Cut(line, " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil || !strings.HasPrefix(text, "line ") && text != "ready\n" || at.Before(last) {
			t.Errorf("line with time: %q", line)
		}
		last = at
	}
	out, _ = p.output(c.ID, container.LogOptions{Tail: -1, Since: last})
	if !strings.HasSuffix(out, "ready\n") {
		t.Errorf("since the last line's time: %q", out)
	}
	out, _ = p.output(c.ID, container.LogOptions{Tail: -1, Since: last.Add(time.Nanosecond)})
	p.equal("since after the last line", out, "")
}

func testLogsFollowed(_ *testing.T, p *pod) {
	c := p.run("storyteller")
	r, w := io.Pipe()
	followed := make(chan error, 1)
	go func() {
		err := p.Logs(p.ctx, c.ID, container.LogOptions{Follow: true, Tail: 1}, w, w)
		w.Close()
		followed <- err
	}()
	lines := bufio.NewReader(r)
	line, err := lines.ReadString('\n')
	p.ok(err)
	p.equal("what was there", line, "ready\n")
	p.ok(p.Kill(p.ctx, c.ID, "SIGTERM"))
	rest, err := io.ReadAll(lines)
	p.ok(err)
	p.equal("what came", string(rest), "terminated\n")
	p.ok(<-followed)
}

func testExec(t *testing.T, p *pod) {
	c := p.run("host")
	exec := func(stdin io.Reader, command ...string) (code int, stdout, stderr string) {
		t.Helper()
		var out, errout bytes.Buffer
		code, err := p.Exec(p.ctx, c.ID, container.ExecOptions{Command: command, Stdin: stdin, Stdout: &out, Stderr: &errout})
		p.ok(err)
		return code, out.String(), errout.String()
	}
	code, out, errout := exec(nil, testimage.Path, "-lines", "2", "-stderr", "trouble", "-exit", "7")
	p.equal("exit code", code, 7)
	p.equal("standard output", out, "line 1\nline 2\n")
	p.equal("standard error", errout, "trouble\n")

	text := strings.Repeat("a line to be copied\n", 10_000)
	code, out, _ = exec(strings.NewReader(text), testimage.Path, "-cat", "-exit", "0")
	p.equal("exit code", code, 0)
	if out != text {
		t.Errorf("%d bytes in, %d bytes out", len(text), len(out))
	}

	code, out, errout = exec(nil, "no-such-command")
	if (code != 126 && code != 127) || out != "" || !strings.Contains(errout, "executable file not found in $PATH") {
		t.Errorf("a command that does not exist: code %d, stdout %q, stderr %q", code, out, errout)
	}

	p.ok(p.Stop(p.ctx, c.ID, 0))
	_, err := p.Exec(p.ctx, c.ID, container.ExecOptions{Command: []string{testimage.Path}})
	p.is(err, container.ErrNotRunning)
}

func testExecEnds(_ *testing.T, p *pod) {
	c := p.run("host")
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	r, w := io.Pipe()
	result := make(chan error, 1)
	go func() {
		_, err := p.Exec(ctx, c.ID, container.ExecOptions{Command: []string{testimage.Path}, Stdout: w})
		result <- err
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	p.ok(err)
	p.equal("output", line, "ready\n")
	cancel()
	p.is(<-result, context.Canceled)
}

func testContext(_ *testing.T, p *pod) {
	c := p.run("waited-for")
	ctx, cancel := context.WithCancel(p.ctx)
	result := make(chan error, 2)
	go func() { _, err := p.Wait(ctx, c.ID); result <- err }()
	go func() {
		result <- p.Logs(ctx, c.ID, container.LogOptions{Follow: true, Tail: -1}, io.Discard, io.Discard)
	}()
	cancel()
	p.is(<-result, context.Canceled)
	p.is(<-result, context.Canceled)
	_, err := p.Inspect(ctx, c.ID)
	p.is(err, context.Canceled)
	c, err = p.Inspect(p.ctx, c.ID)
	p.ok(err)
	p.equal("state", c.State, container.StateRunning)
}

func testDial(_ *testing.T, p *pod) {
	sandbox := p.createSandbox("sandbox")
	if conn, err := p.Dial(p.ctx, sandbox.ID, 1); err == nil || !strings.Contains(err.Error(), "connection refused") {
		p.Errorf("got %v, error %v; want connection refused", conn, err)
	}
	p.ok(p.Stop(p.ctx, sandbox.ID, 0))
	_, err := p.Dial(p.ctx, sandbox.ID, 1)
	p.is(err, container.ErrNotRunning)
	_, err = p.Dial(p.ctx, "does-not-exist", 1)
	p.is(err, container.ErrNotFound)
}

func testAttach(_ *testing.T, p *pod) {
	config := p.config("app", "-cat")
	config.Stdin = true
	id := p.create(config)
	_, err := p.Attach(p.ctx, id, container.ExecOptions{})
	p.is(err, container.ErrNotRunning)
	_, err = p.Start(p.ctx, id)
	p.ok(err)

	// attach returns what ends it, what to write to, and what to read from.
	type end struct {
		code int
		err  error
	}
	attach := func(ctx context.Context) (<-chan end, *io.PipeWriter, *bufio.Reader) {
		stdin, in := io.Pipe()
		out, stdout := io.Pipe()
		p.Cleanup(func() { in.Close(); out.Close() })
		ended := make(chan end, 1)
		go func() {
			code, err := p.Attach(ctx, id, container.ExecOptions{Stdin: stdin, Stdout: stdout})
			ended <- end{code, err}
		}()
		return ended, in, bufio.NewReader(out)
	}
	say := func(in *io.PipeWriter, out *bufio.Reader, line string) {
		_, err := io.WriteString(in, line)
		p.ok(err)
		got, err := out.ReadString('\n')
		p.ok(err)
		p.equal("answer", got, line)
	}
	ctx, detach := context.WithCancel(p.ctx)
	ended, in, out := attach(ctx)
	say(in, out, "first\n")
	detach()
	p.is((<-ended).err, context.Canceled)

	ended, in, out = attach(p.ctx)
	say(in, out, "second\n")
	p.ok(p.Kill(p.ctx, id, "SIGKILL"))
	e := <-ended
	p.ok(e.err)
	p.equal("exit code", e.code, 137)
}
