package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
	v1 "orch/proto/v1"
)

// streams serves the agent's streams in memory and returns a client of them.
func (n *node) streams(t *testing.T) v1.StreamsClient {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	v1.RegisterStreamsServer(server, n)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	conn, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-served
	})
	return v1.NewStreamsClient(conn)
}

// logs reads a log to its end.
func logs(ctx context.Context, c v1.StreamsClient, r *v1.LogsRequest) (string, error) {
	r.Namespace = "default"
	stream, err := c.Logs(ctx, r)
	var out strings.Builder
	for err == nil {
		var chunk *v1.LogsChunk
		if chunk, err = stream.Recv(); err == nil {
			out.Write(chunk.GetData())
		}
	}
	if errors.Is(err, io.EOF) {
		return out.String(), nil
	}
	return out.String(), api.FromStatus(err)
}

func TestLogs(t *testing.T) {
	// Prints its attempt's lines and ends when it is told to.
	program := func(ctx context.Context, p *fake.Process) int {
		_, _ = io.WriteString(p.Stdout, "one\ntwo\n")
		_, _ = io.WriteString(p.Stderr, "three\n")
		return fake.Forever(ctx, p)
	}
	bubble(t, fake.Options{Program: program}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		n := c.start("n1", engine)
		streams := n.streams(t)
		c.create(pod("web", withSidecar("img:2")))
		c.create(pod("bad", withImage("does-not-exist:1")))
		p := c.until("web", "ready", running)
		c.until("bad", "waiting", waitingFor("ImagePullBackOff"))

		tests := []struct {
			name    string
			request *v1.LogsRequest
			want    string
			err     string
		}{
			{"all", &v1.LogsRequest{Pod: "web", Container: "app"}, "one\ntwo\nthree\nimg:1 started on web\n", ""},
			{"no more than so many bytes", &v1.LogsRequest{Pod: "web", Container: "app", LimitBytes: proto.Int64(5)}, "one\nt", ""},
			{"the last lines", &v1.LogsRequest{Pod: "web", Container: "app", TailLines: proto.Int64(1)}, "img:1 started on web\n", ""},
			{"of no pod", &v1.LogsRequest{Pod: "nobody"}, "", `pods "nobody" not found`},
			{"of no container", &v1.LogsRequest{Pod: "web", Container: "x"}, "", "container x is not valid for pod web, choose one of: [app side]"},
			{"of one of two", &v1.LogsRequest{Pod: "web"}, "", "a container name must be specified for pod web, choose one of: [app side]"},
			{"of a life before the first", &v1.LogsRequest{Pod: "web", Container: "app", Previous: true}, "", `previous terminated container "app" in pod "web" not found`},
			{"of what never began", &v1.LogsRequest{Pod: "bad"}, "", `container "app" in pod "bad" is waiting to start: trying and failing to pull image`},
		}
		for _, test := range tests {
			got, err := logs(t.Context(), streams, test.request)
			message := ""
			if err != nil {
				message = err.Error()
			}
			if got != test.want || message != test.err {
				t.Errorf("%s: %q, error %q; want %q, %q", test.name, got, message, test.want, test.err)
			}
		}

		c.create(pod("done", withPolicy(api.RestartPolicyNever)))
		d := c.until("done", "ready", running)
		if err := engine.Kill(t.Context(), id(d, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("done", "failed", func(p *v1.Pod) bool { return p.GetStatus().GetPhase() == api.PodFailed })
		if err := engine.Remove(t.Context(), id(d, "app")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := logs(t.Context(), streams, &v1.LogsRequest{Pod: "done"}); err == nil || err.Error() != `container "app" in pod "done" is terminated` {
			t.Errorf("logs of what has ended and is removed: %v", err)
		}

		followed := make(chan string)
		go func() {
			text, _ := logs(t.Context(), streams, &v1.LogsRequest{Pod: "web", Container: "app", Follow: true})
			followed <- text
		}()
		synctest.Wait()
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("web", "restarted", restarted(1))
		synctest.Wait()
		if got, err := logs(t.Context(), streams, &v1.LogsRequest{Pod: "web", Container: "app", Previous: true}); err != nil || !strings.HasPrefix(got, "one") {
			t.Errorf("previous: %q, %v", got, err)
		}
		c.delete("web", nil)
		if got, want := <-followed, strings.Repeat("one\ntwo\nthree\nimg:1 started on web\n", 2); got != want {
			t.Errorf("followed over a restart to the pod's end: %q", got)
		}
	})
}

func TestAFollowedLogEndsWithTheLastLife(t *testing.T) {
	for name, test := range map[string]struct {
		policy string
		codes  []int // of the lives
		want   string
	}{
		"a pod that is never restarted":            {api.RestartPolicyNever, []int{1}, "life 1\n"},
		"a pod that is restarted until it is done": {api.RestartPolicyOnFailure, []int{1, 2, 0}, "life 1\nlife 2\nlife 3\n"},
	} {
		t.Run(name, func(t *testing.T) {
			life := 0
			program := func(ctx context.Context, p *fake.Process) int {
				life++
				code := test.codes[life-1]
				fmt.Fprintf(p.Stdout, "life %d\n", life)
				return faketest.ExitAfter(time.Minute, code)(ctx, p)
			}
			bubble(t, fake.Options{Program: program, ExitLag: 40 * time.Millisecond}, func(t *testing.T, c *cluster, engine *fake.Engine) {
				streams := c.start("n1", engine).streams(t)
				c.create(pod("web", withPolicy(test.policy)))
				c.until("web", "ready", running)
				if got, err := logs(t.Context(), streams, &v1.LogsRequest{Pod: "web", Follow: true}); got != test.want || err != nil {
					t.Errorf("%q, %v; want %q", got, err, test.want)
				}
			})
		})
	}
}

func TestAFollowerThatGoesAwayIsNotWaitedFor(t *testing.T) {
	bubble(t, fake.Options{Program: faketest.ExitAfter(time.Second, 1)}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		streams := c.start("n1", engine).streams(t)
		c.create(pod("web"))
		c.until("web", "in back-off", waitingFor("CrashLoopBackOff"))
		ctx, leave := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := logs(ctx, streams, &v1.LogsRequest{Pod: "web", Follow: true})
			ended <- err
		}()
		synctest.Wait() // it waits for the next life
		leave()
		if err := <-ended; err == nil {
			t.Error("no error")
		}
	})
}

func TestExec(t *testing.T) {
	command := func(ctx context.Context, p *fake.Process, command []string) (int, bool) {
		switch command[0] {
		case "cat":
			_, _ = io.Copy(p.Stdout, p.Stdin)
			_, _ = io.WriteString(p.Stderr, "done\n")
			return 7, true
		case "hang":
			<-ctx.Done()
			return 1, true
		}
		return 0, false
	}
	bubble(t, fake.Options{Command: command}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		hung := make(chan error, 1)
		streams := c.start("n1", &watchedExec{Runtime: engine, ended: hung}).streams(t)
		c.create(pod("web"))
		c.until("web", "ready", running)
		begin := func(ctx context.Context, r *v1.ExecRequest) v1.Streams_ExecClient {
			r.Namespace = "default"
			stream, err := streams.Exec(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&v1.ExecInput{Input: &v1.ExecInput_Request{Request: r}}); err != nil {
				t.Fatal(err)
			}
			return stream
		}

		stream := begin(t.Context(), &v1.ExecRequest{Pod: "web", Command: []string{"cat"}, Stdin: true})
		long := strings.Repeat("x", 100_000)
		for _, in := range []*v1.ExecInput{
			{Input: &v1.ExecInput_Stdin{Stdin: []byte(long)}},
			{Input: &v1.ExecInput_Resize{Resize: &v1.TerminalSize{Width: 80, Height: 25}}},
			{Input: &v1.ExecInput_CloseStdin{CloseStdin: true}},
		} {
			if err := stream.Send(in); err != nil {
				t.Fatal(err)
			}
		}
		stdout, stderr, code, err := drain(stream)
		if stdout != long || stderr != "done\n" || code != 7 || err != nil {
			t.Errorf("%d bytes, %q, code %d, %v", len(stdout), stderr, code, err)
		}

		for want, r := range map[string]*v1.ExecRequest{
			`pods "nobody" not found`:                                    {Pod: "nobody", Command: []string{"true"}},
			"container x is not valid for pod web, choose one of: [app]": {Pod: "web", Container: "x", Command: []string{"true"}},
			"you must specify at least one command for the container":    {Pod: "web"},
		} {
			if _, _, _, err := drain(begin(t.Context(), r)); err == nil || err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
		}

		ctx, cancel := context.WithCancel(t.Context())
		begin(ctx, &v1.ExecRequest{Pod: "web", Command: []string{"hang"}})
		synctest.Wait()
		cancel()
		if err := <-hung; !errors.Is(err, context.Canceled) {
			t.Errorf("the command of a client that went away ended with %v", err)
		}
		time.Sleep(time.Second) // virtual
	})
}

// drain reads a command's output to its end.
func drain(stream v1.Streams_ExecClient) (stdout, stderr string, code int32, err error) {
	code = -1
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return stdout, stderr, code, nil
		case err != nil:
			return stdout, stderr, code, api.FromStatus(err)
		}
		stdout += string(m.GetStdout())
		stderr += string(m.GetStderr())
		if _, ok := m.GetOutput().(*v1.ExecOutput_ExitCode); ok {
			code = m.GetExitCode()
		}
	}
}

// watchedExec tells how commands that fail ended.
type watchedExec struct {
	container.Runtime
	ended chan error
}

func (w *watchedExec) Exec(ctx context.Context, id string, o container.ExecOptions) (int, error) {
	code, err := w.Runtime.Exec(ctx, id, o)
	if err != nil {
		w.ended <- err
	}
	return code, err
}

func TestAttach(t *testing.T) {
	echo := func(ctx context.Context, p *fake.Process) int {
		if p.Stdin == nil {
			return fake.Forever(ctx, p)
		}
		_, _ = io.Copy(p.Stdout, p.Stdin)
		return 3
	}
	bubble(t, fake.Options{Program: echo}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		streams := c.start("n1", engine).streams(t)
		c.create(pod("web", withSidecar("img:2"), func(p *v1.Pod) { p.Spec.Containers[0].Stdin = true }))
		p := c.until("web", "ready", running)
		begin := func(ctx context.Context, r *v1.ExecRequest) v1.Streams_AttachClient {
			r.Namespace, r.Pod = "default", "web"
			stream, err := streams.Attach(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&v1.ExecInput{Input: &v1.ExecInput_Request{Request: r}}); err != nil {
				t.Fatal(err)
			}
			return stream
		}
		for want, r := range map[string]*v1.ExecRequest{
			"container x is not valid for pod web, choose one of: [app side]": {Container: "x"},
			"container app has no terminal (tty) in its spec":                 {Container: "app", Tty: true},
			"container side has no standard input (stdin) in its spec":        {Container: "side", Stdin: true},
		} {
			if _, _, _, err := drain(begin(t.Context(), r)); err == nil || err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
		}

		ctx, leave := context.WithCancel(t.Context())
		stream := begin(ctx, &v1.ExecRequest{Container: "app", Stdin: true})
		if err := stream.Send(&v1.ExecInput{Input: &v1.ExecInput_Stdin{Stdin: []byte("hello\n")}}); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); err != nil || string(m.GetStdout()) != "hello\n" {
			t.Errorf("%v, %v", m, err)
		}
		leave()
		synctest.Wait()
		if got := c.get("web"); id(got, "app") != id(p, "app") || !running(got) {
			t.Errorf("after the end of the stream: %v", got.GetStatus())
		}

		stream = begin(t.Context(), &v1.ExecRequest{Container: "app"})
		synctest.Wait()
		if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		if _, _, code, err := drain(stream); code != 137 || err != nil {
			t.Errorf("the container's end: code %d, %v", code, err)
		}
	})
}

// copyTo copies a small file into the first container of the pod web.
func copyTo(t *testing.T, streams v1.StreamsClient, path string) (name string, err error) {
	t.Helper()
	stream, err := streams.CopyTo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&v1.CopyInput{Input: &v1.CopyInput_Request{Request: &v1.CopyRequest{Namespace: "default", Pod: "web", Container: "app", Path: path, Name: "mine"}}})
	first, err := stream.Recv()
	if err != nil {
		return "", api.FromStatus(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: first.GetName(), Size: 4, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, "text")
	_ = w.Close()
	_ = stream.Send(&v1.CopyInput{Input: &v1.CopyInput_Data{Data: archive.Bytes()}})
	_ = stream.CloseSend()
	if _, err = stream.Recv(); errors.Is(err, io.EOF) {
		return first.GetName(), nil
	}
	return first.GetName(), api.FromStatus(err)
}

func TestCopy(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		streams := c.start("n1", engine).streams(t)
		c.create(pod("web"))
		p := c.until("web", "ready", running)
		to := func(path string) (name string, err error) { return copyTo(t, streams, path) }
		from := func(path string) (string, error) {
			stream, err := streams.CopyFrom(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(&v1.CopyInput{Input: &v1.CopyInput_Request{Request: &v1.CopyRequest{Namespace: "default", Pod: "web", Path: path}}})
			var b bytes.Buffer
			for {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					return "", api.FromStatus(err)
				}
				b.Write(m.GetData())
			}
			r := tar.NewReader(&b)
			h, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r)
			return h.Name + " " + string(text), err
		}
		for _, test := range []struct{ path, name, err string }{
			{"/tmp", "mine", ""},
			{"/tmp/other", "other", ""},
			{"/no/folder/f", "f", `/no/folder: no such directory in container "app"`},
			{"", "", "filepath can not be empty"},
		} {
			name, err := to(test.path)
			if name != test.name || (err != nil) != (test.err != "") || err != nil && err.Error() != test.err {
				t.Errorf("to %q: %q, %v; want %q, %q", test.path, name, err, test.name, test.err)
			}
		}
		for _, test := range []struct{ path, want, err string }{
			{"/tmp/mine", "mine text", ""},
			{"tmp/other", "other text", ""},
			{"/nothing", "", `/nothing: no such file or directory in container "app"`},
		} {
			got, err := from(test.path)
			if got != test.want || (err != nil) != (test.err != "") || err != nil && err.Error() != test.err {
				t.Errorf("from %q: %q, %v; want %q, %q", test.path, got, err, test.want, test.err)
			}
		}

		// A client that goes away ends the copy.
		ctx, leave := context.WithCancel(t.Context())
		stream, err := streams.CopyTo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&v1.CopyInput{Input: &v1.CopyInput_Request{Request: &v1.CopyRequest{Namespace: "default", Pod: "web", Path: "/tmp/half"}}})
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		leave()
		synctest.Wait()
		if _, err := engine.Stat(t.Context(), id(p, "app"), "/tmp/half"); !errors.Is(err, container.ErrNoFile) {
			t.Errorf("half a copy: %v", err)
		}
	})
}
