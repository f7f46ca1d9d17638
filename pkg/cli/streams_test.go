package cli

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/identity"
	v1 "orch/proto/v1"
)

// fakeAgent is the agent of node-1.
type fakeAgent struct {
	v1.UnimplementedStreamsServer
}

// Logs is a container that says what is wanted of it; that of "pending" has no log.
func (fakeAgent) Logs(r *v1.LogsRequest, s v1.Streams_LogsServer) error {
	if r.GetPod() == "pending" {
		return api.ToStatus(api.Errorf(api.ErrBadRequest, "container %q in pod %q is waiting to start: ContainerCreating", r.GetContainer(), r.GetPod()))
	}
	text := fmt.Sprintf("%s/%s follow=%v limit=%d tail=%d\nsecond\n", r.GetPod(), r.GetContainer(), r.GetFollow(), r.GetLimitBytes(), r.GetTailLines())
	return s.Send(&v1.LogsChunk{Data: []byte(text)})
}

// CopyTo keeps what comes in the file that the path names; "to" is its root.
func (fakeAgent) CopyTo(s v1.Streams_CopyToServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	name := &v1.CopyOutput{Output: &v1.CopyOutput_Name{Name: "to"}}
	if strings.HasSuffix(first.GetRequest().GetPath(), "users") {
		name.Uid, name.Gid = 7, 8
	}
	if err := s.Send(name); err != nil {
		return err
	}
	var archive []byte
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return os.WriteFile(first.GetRequest().GetPath(), archive, 0o600)
		} else if err != nil {
			return err
		}
		archive = append(archive, m.GetData()...)
	}
}

// CopyFrom sends such a file.
func (fakeAgent) CopyFrom(s v1.Streams_CopyFromServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	name := first.GetRequest().GetPath()
	archive, err := os.ReadFile(name)
	if err != nil {
		return api.ToStatus(api.Errorf(api.ErrBadRequest, "%s: no such file or directory in container %q", name, first.GetRequest().GetContainer()))
	}
	return s.Send(&v1.CopyOutput{Output: &v1.CopyOutput_Data{Data: archive}})
}

// PortForward is a pod that answers what it has read when there is no more. On
// port 81 nobody listens.
func (fakeAgent) PortForward(s v1.Streams_PortForwardServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	if first.GetRequest().GetPort() == 81 {
		return api.ToStatus(errors.New("connection refused"))
	}
	if err := s.Send(&v1.PortForwardOutput{}); err != nil {
		return err
	}
	var text []byte
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			if err := s.Send(&v1.PortForwardOutput{Data: text}); err != nil {
				return err
			}
			return s.Send(&v1.PortForwardOutput{CloseWrite: true})
		} else if err != nil {
			return err
		}
		text = append(text, m.GetData()...)
	}
}

// Attach is a container that says who attached, and what, and ends with 3.
func (fakeAgent) Attach(s v1.Streams_AttachServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	r := first.GetRequest()
	text := fmt.Sprintf("%s/%s stdin %v tty %v\n", r.GetPod(), r.GetContainer(), r.GetStdin(), r.GetTty())
	if err := s.Send(&v1.ExecOutput{Output: &v1.ExecOutput_Stdout{Stdout: []byte(text)}}); err != nil {
		return err
	}
	for ended := !r.GetStdin(); !ended; {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if err := s.Send(&v1.ExecOutput{Output: &v1.ExecOutput_Stdout{Stdout: m.GetStdin()}}); err != nil {
			return err
		}
		ended = m.GetCloseStdin()
	}
	return s.Send(&v1.ExecOutput{Output: &v1.ExecOutput_ExitCode{ExitCode: 3}})
}

// Stats are of the pod "ready" alone.
func (fakeAgent) Stats(context.Context, *v1.StatsRequest) (*v1.StatsResponse, error) {
	return &v1.StatsResponse{
		Node: &v1.Usage{CpuNanocores: 500e6, MemoryBytes: 1 << 30},
		Pods: []*v1.PodStats{{Namespace: "default", Name: "ready", Containers: []*v1.ContainerStats{
			{Name: "a", Usage: &v1.Usage{CpuNanocores: 250_000_001, MemoryBytes: 100 << 20}},
			{Name: "b", Usage: &v1.Usage{CpuNanocores: 1e6, MemoryBytes: 200 << 20}},
		}}},
	}, nil
}

func TestTop(t *testing.T) {
	s := withAgent(t, fakeAgent{})
	if n, err := client.For[*v1.Node](s.client).Get(t.Context(), "", "node-1"); err != nil {
		t.Fatal(err)
	} else {
		n.Status.Allocatable = map[string]string{"cpu": "2", "memory": "4Gi"}
		n.Status.Capacity = map[string]string{"cpu": "4", "memory": "4Gi"}
		if _, err := client.For[*v1.Node](s.client).UpdateStatus(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	for args, want := range map[string]string{
		"top pods":                   "NAME    CPU(cores)   MEMORY(bytes)   \nready   252m         300Mi           \n",
		"top pod ready --no-headers": "ready   252m   300Mi   \n",
		"top po -A":                  "NAMESPACE   NAME    CPU(cores)   MEMORY(bytes)   \ndefault     ready   252m         300Mi           \n",
		"top pods --containers":      "POD     NAME   CPU(cores)   MEMORY(bytes)   \nready   a      251m         100Mi           \nready   b      1m           200Mi           \n",
		"top pods --containers --sort-by memory --no-headers": "ready   b     1m     200Mi   \nready   a     251m   100Mi   \n",
		"top nodes":                     "NAME     CPU(cores)   CPU(%)   MEMORY(bytes)   MEMORY(%)   \nnode-1   500m         25%      1024Mi          25%         \n",
		"top no node-1 --show-capacity": "NAME     CPU(cores)   CPU(%)   MEMORY(bytes)   MEMORY(%)   \nnode-1   500m         12%      1024Mi          25%         \n",
		"top pods --sum --no-headers":   "ready   252m       300Mi      \n        ________   ________   \n        252m       300Mi      \n",
	} {
		if got := s.ok(strings.Split(args, " ")...); got != want {
			t.Errorf("orchctl %s:\n%q, want\n%q", args, got, want)
		}
	}
	s.fails(1, "--sort-by accepts only cpu or memory", "top", "pods", "--sort-by", "disk")
	s.fails(1, "only one of NAME or selector can be provided", "top", "pod", "ready", "-l", "a=b")
	s.fails(1, `pods "none" not found`, "top", "pod", "none")
}

// withAgent is a session with a fake agent on node-1, where session.pods are.
func withAgent(t *testing.T, a v1.StreamsServer) *session {
	t.Helper()
	s := begin(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := identity.NewPair(t.Context(), "", s.authority.For(identity.Node("node-1", ""), identity.NodeServerName("node-1")))
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServeNodeTLS(pair, s.authority.Certificate()))))
	v1.RegisterStreamsServer(g, a)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	_, err = client.For[*v1.Node](s.client).Create(t.Context(), &v1.Node{
		Metadata: &v1.ObjectMeta{Name: "node-1"},
		Status: &v1.NodeStatus{
			Addresses:       []*v1.NodeAddress{{Type: "InternalIP", Address: "127.0.0.1"}},
			DaemonEndpoints: &v1.NodeDaemonEndpoints{KubeletEndpoint: &v1.DaemonEndpoint{Port: int32(l.Addr().(*net.TCPAddr).Port)}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.pods()
	return s
}

func TestPortForward(t *testing.T) {
	s := withAgent(t, fakeAgent{})
	ctx, interrupt := context.WithCancel(t.Context())
	out, outW := io.Pipe()
	errs, errsW := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- Main(ctx, IO{In: strings.NewReader(""), Out: outW, Err: errsW},
			append([]string{"port-forward", "ready", ":80", ":81", "--address", "127.0.0.1"}, s.flags...), "test")
		outW.Close()
	}()
	printed := bufio.NewReader(out)
	line := func(r *bufio.Reader) string {
		text, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(text, "\n")
	}
	local := map[string]string{}
	for _, remote := range []string{"80", "81"} {
		address, to, ok := strings.Cut(strings.TrimPrefix(line(printed), "Forwarding from "), " -> ")
		if !ok || to != remote {
			t.Fatalf("forwarding from %q to %q", address, to)
		}
		local[remote] = address
	}
	connect := func(remote string) *net.TCPConn {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", local[remote])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if got, want := line(printed), "Handling connection for "+local[remote][strings.LastIndex(local[remote], ":")+1:]; got != want {
			t.Errorf("printed %q, want %q", got, want)
		}
		return conn.(*net.TCPConn)
	}
	// Two connections at once, the second answered before the first.
	first, second := connect("80"), connect("80")
	for text, conn := range map[string]*net.TCPConn{"one": first, "two": second} {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		conn *net.TCPConn
		want string
	}{{second, "two"}, {first, "one"}} {
		if err := c.conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(c.conn); err != nil || string(text) != c.want {
			t.Errorf("%q, %v; want %s", text, err, c.want)
		}
	}
	refused := connect("81")
	if got := line(bufio.NewReader(errs)); !strings.HasPrefix(got, "error: an error occurred forwarding ") || !strings.HasSuffix(got, "connection refused") {
		t.Errorf("said %q", got)
	}
	_, _ = io.ReadAll(refused) // it is closed
	interrupt()
	if code := <-ended; code != 0 {
		t.Errorf("an interrupted command ended with %d", code)
	}

	s.fails(1, "unable to forward port because pod is not running. Current status=Pending", "port-forward", "pending", "80")
	s.fails(1, "TYPE/NAME and list of ports are required for port-forward", "port-forward", "ready")
	s.fails(1, `"http" is neither a port's number nor the name of a port of pod ready`, "port-forward", "ready", "8080:http")
}

func TestLogs(t *testing.T) {
	s := withAgent(t, fakeAgent{})
	s.ok("apply", "-f", s.file(strings.Replace(web, "replicas: 3", "replicas: 0", 1)))
	p := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: "two", Namespace: "default", Annotations: map[string]string{api.AnnotationDefaultContainer: "side"}},
		Spec:     &v1.PodSpec{NodeName: "node-1", Containers: []*v1.Container{{Name: "app", Image: "web:1"}, {Name: "side", Image: "web:1"}}},
	}
	if _, err := client.For[*v1.Pod](s.client).Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ args, want string }{
		{"logs ready", "ready/app follow=false limit=0 tail=0\nsecond\n"},
		{"logs -f ready --tail=3 --limit-bytes=7 --prefix", "[pod/ready/app] ready/app follow=true limit=7 tail=3\n[pod/ready/app] second\n"},
		{"logs two", "two/side follow=false limit=0 tail=0\nsecond\n"},
		{"logs two --all-containers --prefix", "[pod/two/app] two/app follow=false limit=0 tail=0\n[pod/two/app] second\n[pod/two/side] two/side follow=false limit=0 tail=0\n[pod/two/side] second\n"},
		{"logs deployment/web", "ready/app follow=false limit=0 tail=0\nsecond\n"},
		{"logs -l is=ready", "ready/app follow=false limit=0 tail=10\nsecond\n"},
		{"logs -f deployment/web --all-pods --ignore-errors --tail=1 -c app", ""},
	} {
		out := s.ok(strings.Fields(test.args)...)
		if test.want != "" && out != test.want {
			t.Errorf("%s:\n%s\nwant\n%s", test.args, out, test.want)
		}
		if test.want == "" && (!strings.Contains(out, "[pod/ready/app] second\n") || !strings.Contains(out, "[pod/killed/app] second\n") ||
			!strings.Contains(out, `[pod/pending/app] error: container "app" in pod "pending" is waiting to start`)) {
			t.Errorf("%s:\n%s", test.args, out)
		}
	}
	s.fails(1, `container "app" in pod "pending" is waiting to start: ContainerCreating`, "logs", "pending")
	s.fails(1, "--limit-bytes must be greater than 0", "logs", "ready", "--limit-bytes=-1")
	s.fails(1, "you are attempting to follow 4 log streams, but maximum allowed concurrency is 2, use --max-log-requests", "logs", "-f", "-l", "app=web", "--max-log-requests=2")
	s.ok("apply", "-f", s.file(strings.ReplaceAll(strings.Replace(web, "replicas: 3", "replicas: 0", 1), "web", "none")))
	s.fails(1, "timed out waiting for the condition: deploy/none has no pods", "logs", "deploy/none", "--pod-running-timeout=10ms")
	s.fails(1, "cannot exec into a container in a completed pod; current phase is Failed", slices.Concat([]string{"exec", "killed"}, s.flags, []string{"--", "true"})...)
}

func TestCp(t *testing.T) {
	s := withAgent(t, fakeAgent{})
	here := t.TempDir()
	archive := filepath.Join(t.TempDir(), "archive")
	for name, mode := range map[string]os.FileMode{"a": 0o640, "sub/b": 0o755} {
		at := filepath.Join(here, "from", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o750), os.WriteFile(at, []byte(name), 0o600), os.Chmod(at, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../a", filepath.Join(here, "from", "sub", "link")); err != nil {
		t.Fatal(err)
	}
	from, to := filepath.Join(here, "from"), filepath.Join(here, "to")
	s.ok("cp", from, "ready:"+archive)
	s.ok("cp", "default/ready:"+archive, to)
	if diff := cmp.Diff(tree(t, from), tree(t, to)); diff != "" {
		t.Errorf("there and back (-want +got):\n%s", diff)
	}
	s.ok("cp", filepath.Join(from, "sub", "b"), "ready:"+archive, "-c", "app", "--no-preserve")
	s.ok("cp", "ready:"+archive, filepath.Join(to, "file"))
	if info, err := os.Stat(filepath.Join(to, "file")); err != nil || info.Mode() != 0o755 || info.Size() != 5 {
		t.Errorf("%v, %v", info, err)
	}

	// A container's user who is not root cannot give files away.
	for _, test := range []struct {
		to       string
		flags    []string
		uid, gid int
	}{
		{"root", nil, os.Getuid(), os.Getgid()},
		{"root", []string{"--no-preserve"}, 0, 0},
		{"users", nil, 7, 8},
		{"users", []string{"--no-preserve"}, 7, 8},
	} {
		at := filepath.Join(t.TempDir(), test.to)
		s.ok(append([]string{"cp", filepath.Join(from, "a"), "ready:" + at}, test.flags...)...)
		file, err := os.Open(at)
		if err != nil {
			t.Fatal(err)
		}
		h, err := tar.NewReader(file).Next()
		file.Close()
		if err != nil || h.Uid != test.uid || h.Gid != test.gid {
			t.Errorf("%v: %v, %v", test, h, err)
		}
	}

	for _, test := range []struct{ says, args string }{
		{"source and destination are required", "cp x"},
		{"one of src or dest must be a local file specification", "cp ready:x ready:y"},
		{"one of src or dest must be a remote file specification", "cp x y"},
		{"filespec must match the canonical format: [[namespace/]pod:]file/path", "cp :x y"},
		{"filepath can not be empty", "cp ready: y"},
		{"/nowhere doesn't exist in local filesystem", "cp /nowhere ready:y"},
		{`/nowhere: no such file or directory in container "app"`, "cp ready:/nowhere y"},
		{`pods "nobody" not found`, "cp nobody:/x y"},
		{"container x is not valid for pod ready", "cp ready:/x y -c x"},
	} {
		s.fails(1, test.says, strings.Fields(test.args)...)
	}
}

func TestAttach(t *testing.T) {
	s := withAgent(t, fakeAgent{})
	out, errs, code := s.run("attach", "ready", "-t")
	if want := "ready/app stdin false tty false\n"; out != want || code != 3 || !strings.Contains(errs, "Unable to use a TTY - container app did not allocate one") {
		t.Errorf("%q, %q, exit code %d; want %q and 3", out, errs, code, want)
	}
	s.stdin = strings.Repeat("what is said\n", 1<<16)
	out, _, code = s.run("attach", "ready", "-i")
	if want := "ready/app stdin true tty false\n" + s.stdin; out != want || code != 3 {
		t.Errorf("%d bytes came back, exit code %d; want %d and 3", len(out), code, len(want))
	}
	s.fails(1, "cannot attach a container in a completed pod; current phase is Failed", "attach", "killed")
	s.fails(1, "accepts 1 arg(s)", "attach")
}

func TestLinesOfLogs(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	tests := []struct {
		name    string
		w       lineWriter
		written []string
		want    string // before the end
		rest    string // at the end
	}{
		{"of one log come as they are written", lineWriter{alone: true}, []string{"a\nb", "c"}, "a\nbc", ""},
		{"of several logs come whole", lineWriter{}, []string{"a\nb", "c"}, "a\n", "bc"},
		{"begin with their prefix", lineWriter{prefix: "> "}, []string{"a\nb", "c\nd\n"}, "> a\n> bc\n> d\n", ""},
		{"of one log have a prefix each too", lineWriter{prefix: "> ", alone: true}, []string{"a", "b\n", "c"}, "> ab\n> c", ""},
		{"that never end are not kept for ever", lineWriter{prefix: "> "}, []string{"a\n", long, "y", "z\nb\n"}, "> a\n> " + long + "yz\n> b\n", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got strings.Builder
			test.w.out = &lines{w: &got}
			for _, text := range test.written {
				if n, err := test.w.Write([]byte(text)); n != len(text) || err != nil {
					t.Fatalf("wrote %d of %d bytes: %v", n, len(text), err)
				}
				if len(test.w.rest) > maxLine {
					t.Errorf("%d bytes are kept back", len(test.w.rest))
				}
			}
			if got.String() != test.want {
				t.Errorf("printed %.40q, want %.40q", got.String(), test.want)
			}
			test.w.flush()
			if got.String() != test.want+test.rest {
				t.Errorf("printed %.40q in the end, want %.40q", got.String(), test.want+test.rest)
			}
		})
	}
}
