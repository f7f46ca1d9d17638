package docker_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"orch/pkg/container"
	"orch/pkg/container/docker"
)

func itoa(n int32) string { return strconv.Itoa(int(n)) }

// calls are one of each kind of call.
var calls = map[string]func(context.Context, container.Runtime) error{
	"Info":  func(ctx context.Context, r container.Runtime) error { _, err := r.Info(ctx); return err },
	"Image": func(ctx context.Context, r container.Runtime) error { _, err := r.Image(ctx, "a:1"); return err },
	"Pull": func(ctx context.Context, r container.Runtime) error {
		_, err := r.Pull(ctx, "a:1", container.PullOptions{})
		return err
	},
	"Create": func(ctx context.Context, r container.Runtime) error {
		_, err := r.Create(ctx, container.Config{})
		return err
	},
	"Sandbox": func(ctx context.Context, r container.Runtime) error {
		_, err := r.CreateSandbox(ctx, container.Sandbox{})
		return err
	},
	"Start":   func(ctx context.Context, r container.Runtime) error { _, err := r.Start(ctx, "a"); return err },
	"Stop":    func(ctx context.Context, r container.Runtime) error { return r.Stop(ctx, "a", time.Second) },
	"Kill":    func(ctx context.Context, r container.Runtime) error { return r.Kill(ctx, "a", "SIGKILL") },
	"Remove":  func(ctx context.Context, r container.Runtime) error { return r.Remove(ctx, "a") },
	"Wait":    func(ctx context.Context, r container.Runtime) error { _, err := r.Wait(ctx, "a"); return err },
	"List":    func(ctx context.Context, r container.Runtime) error { _, err := r.List(ctx, nil); return err },
	"Inspect": func(ctx context.Context, r container.Runtime) error { _, err := r.Inspect(ctx, "a"); return err },
	"Watch": func(ctx context.Context, r container.Runtime) error {
		return r.Watch(ctx, nil, nil, func(container.Event) {})
	},
	"Logs": func(ctx context.Context, r container.Runtime) error {
		return r.Logs(ctx, "a", container.LogOptions{}, io.Discard, io.Discard)
	},
	"Exec": func(ctx context.Context, r container.Runtime) error {
		_, err := r.Exec(ctx, "a", container.ExecOptions{Command: []string{"true"}})
		return err
	},
}

func TestEveryCallSaysThatNoEngineAnswers(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "nobody.sock"))
	runtime, err := docker.New("")
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.Close()
	for name, call := range calls {
		if err := call(t.Context(), runtime); !errors.Is(err, container.ErrUnavailable) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestACallToAStuckEngineEndsWithItsContextAndHoldsUpNoOther(t *testing.T) {
	asked := make(chan struct{}, 10*len(calls))
	release := make(chan struct{})
	runtime := fakeEngine(t, func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-release
	})
	defer close(release)
	stuck, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { _, err := runtime.Info(stuck); result <- err }()
	<-asked // and so holds whatever a call holds

	ended, cancelEnded := context.WithCancel(t.Context())
	cancelEnded()
	for name, call := range calls {
		if err := call(ended, runtime); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("the stuck call: error %v", err)
	}
}

func TestPullReturnsTheErrorFromWithinTheStream(t *testing.T) {
	for _, test := range []struct {
		name, stream, want string
		kind               error
	}{
		{
			name:   "a registry that cannot be reached",
			stream: `{"status":"Pulling"}{"errorDetail":{"message":"Get \"https://registry.example/v2/\": dial tcp: no route to host"},"error":"short"}`,
			want:   `pull a:1: Get "https://registry.example/v2/": dial tcp: no route to host`,
		},
		{
			name:   "an image that does not exist",
			stream: `{"error":"manifest for a:1 not found: manifest unknown"}`,
			want:   "pull a:1: no such container or image: manifest for a:1 not found: manifest unknown",
			kind:   container.ErrNotFound,
		},
		{
			name:   "an engine that stops half-way",
			stream: `{"status":"Pulling"}{"sta`,
			want:   "pull a:1: container engine is not available: unexpected EOF",
			kind:   container.ErrUnavailable,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			runtime := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("API-Version", "1.41")
				if strings.HasSuffix(r.URL.Path, "/images/create") {
					io.WriteString(w, test.stream)
				}
			})
			_, err := runtime.Pull(t.Context(), "a:1", container.PullOptions{})
			if err == nil || err.Error() != test.want || (test.kind != nil && !errors.Is(err, test.kind)) {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestVersionIsNegotiatedDownToTheEngines(t *testing.T) {
	paths := make(chan string, 10)
	runtime := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("API-Version", "1.41")
		paths <- r.URL.Path
		io.WriteString(w, "[]")
	})
	if _, err := runtime.List(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if ping, list := <-paths, <-paths; ping != "/_ping" || list != "/v1.41/containers/json" {
		t.Errorf("paths %s, %s", ping, list)
	}
}

// fakeEngine is a runtime on an engine that answers as handler does.
func fakeEngine(t *testing.T, handler http.HandlerFunc) *docker.Runtime {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "engine.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	runtime, err := docker.New("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		runtime.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return runtime
}

func TestExecWaitsForTheEngineToKnowTheExitCode(t *testing.T) {
	known := make(chan struct{})
	runtime := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("API-Version", "1.41")
		switch path := strings.TrimPrefix(r.URL.Path, "/v1.41"); path {
		case "/containers/a/exec":
			io.WriteString(w, `{"Id":"e"}`)
		case "/exec/e/start": // a command that ends at once, without output
			// What is not read would make the close a reset.
			_, _ = io.Copy(io.Discard, r.Body)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
			conn.Close()
		case "/exec/e/json":
			select {
			case <-known:
				io.WriteString(w, `{"Running":false,"ExitCode":5}`)
			default:
				io.WriteString(w, `{"Running":true,"ExitCode":null}`)
			}
		case "/events":
			w.(http.Flusher).Flush()
			close(known)
			io.WriteString(w, `{"Type":"container","Action":"exec_die"}`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	})
	code, err := runtime.Exec(t.Context(), "a", container.ExecOptions{Command: []string{"true"}})
	if code != 5 || err != nil {
		t.Errorf("code %d, error %v", code, err)
	}
}

func TestWatchAsksForAllEventsSinceTheEnginesOwnTime(t *testing.T) {
	query := make(chan url.Values, 1)
	runtime := fakeEngine(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("API-Version", "1.41")
		switch strings.TrimPrefix(r.URL.Path, "/v1.41") {
		case "/info":
			io.WriteString(w, `{"SystemTime":"2001-09-09T01:46:40.123456789Z"}`)
		case "/events":
			query <- r.URL.Query()
			io.WriteString(w, `{"Type":"container","Action":"die","timeNano":1000000001000000000,
				"Actor":{"ID":"a","Attributes":{"image":"i","name":"n","exitCode":"1","orch/node":"n1"}}}`)
		}
	})
	ready := make(chan struct{})
	var seen []container.Event
	err := runtime.Watch(t.Context(), map[string]string{"orch/node": "n1"}, ready, func(e container.Event) { seen = append(seen, e) })
	if !errors.Is(err, container.ErrUnavailable) {
		t.Errorf("error %v after the engine closed the stream", err)
	}
	<-ready
	want := []container.Event{{
		ID: "a", Action: "die", Labels: map[string]string{"orch/node": "n1"}, Time: time.Unix(1_000_000_001, 0).UTC(),
	}}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
	if got := (<-query).Get("since"); got != "1000000000.123456789" {
		t.Errorf("since %s", got)
	}
}
