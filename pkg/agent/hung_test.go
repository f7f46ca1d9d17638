package agent_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/container"
	"orch/pkg/container/docker"
	v1 "orch/proto/v1"
)

// A real engine hangs now and then, in one call or in all. What the fake shows
// for each kind of call (crash_test.go) holds here on the way through Docker's
// client.
func TestDockerThatHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the relist")
	}
	t.Parallel()
	engine := marked{testdocker.Require(t)}
	image := testimage.Build(t, engine.Engine)

	t.Run("calls that get no answer are the matter of their pods", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		through := newProxy(t, engine)
		c.start("n1", through)
		// Each pod has its call.
		calls := map[string]*held{
			"sandbox": {call: "create", container: lifecycle.SandboxSlot},
			"create":  {call: "create", container: "app", carriedOut: true, fails: true},
			"start":   {call: "start", container: "app", fails: true},
			"started": {call: "start", container: "app", carriedOut: true},
			"exec":    {call: "exec", container: "app", fails: true},
			"inspect": {call: "json", container: "app"},
			"stop":    {call: "stop", container: "app", fails: true},
			"remove":  {call: "remove", container: "app"},
		}
		make := func(name string, changes ...func(*v1.Pod)) {
			c.create(pod(name, append(changes, program(image))...))
		}
		for _, name := range []string{"well", "stop", "remove"} {
			make(name)
		}
		for _, name := range []string{"well", "stop", "remove"} {
			c.until(name, "ready", running)
		}
		ready := api.GetCondition(c.untilNode("n1", api.ConditionTrue).GetStatus().GetConditions(), api.NodeReady)

		for name, h := range calls {
			through.hold(name, h)
		}
		for _, name := range []string{"stop", "remove"} {
			c.delete(name, nil)
		}
		probed := execProbe(testimage.Path, "-exit", "0")
		probed.PeriodSeconds, probed.TimeoutSeconds = 1, 60
		make("exec", withProbes(nil, nil, probed))
		for _, name := range []string{"inspect", "sandbox", "create", "start", "started"} {
			make(name)
		}
		for name, h := range calls {
			select {
			case <-h.came:
			case <-t.Context().Done():
				t.Fatalf("nobody called %s for %s", h.call, name)
			}
		}
		// All of them hang now.
		well := c.find(engine, "well", "app")
		if err := engine.Kill(t.Context(), well, "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("well", "healed", func(p *v1.Pod) bool { return restarted(1)(p) && running(p) })
		for _, name := range []string{"sandbox", "create", "start", "exec"} {
			if running(c.get(name)) {
				t.Errorf("pod %s is ready, though its call hangs", name)
			}
		}
		now := api.GetCondition(c.untilNode("n1", api.ConditionTrue).GetStatus().GetConditions(), api.NodeReady)
		if !now.GetLastTransitionTime().AsTime().Equal(ready.GetLastTransitionTime().AsTime()) {
			t.Errorf("the node was not Ready all the time: %v, then %v", ready, now)
		}

		for _, h := range calls {
			close(h.goes)
		}
		for _, name := range []string{"stop", "remove"} {
			c.until(name, "gone", gone)
		}
		want := []string{"well/POD#0 running", "well/app#0 exited", "well/app#1 running"}
		for name := range calls {
			if name != "stop" && name != "remove" {
				c.until(name, "ready", running)
				want = append(want, name+"/POD#0 running", name+"/app#0 running")
			}
		}
		slices.Sort(want)
		c.expect(engine, want...)
	})

	t.Run("events that do not come are made up for by the relist", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		through := newProxy(t, engine)
		mute := &held{call: "events", carriedOut: true}
		through.hold("", mute)
		c.start("n1", blind{through})
		c.create(pod("web", program(image)))
		before := c.until("web", "ready", running)
		if err := engine.Kill(t.Context(), id(before, "app"), "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		c.until("web", "healed", func(p *v1.Pod) bool { return restarted(1)(p) && running(p) })
		select {
		case <-mute.came:
		default:
			t.Error("nobody asked for events")
		}
		c.untilNode("n1", api.ConditionTrue)
		close(mute.goes)
	})

	t.Run("a list that does not come makes the node NotReady until it comes", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		through := newProxy(t, engine)
		c.start("n1", through)
		c.create(pod("web", program(image)))
		before := c.until("web", "ready", running)
		hung := &held{call: "list"}
		through.hold("", hung)
		c.untilNode("n1", api.ConditionFalse)
		close(hung.goes)
		c.untilNode("n1", api.ConditionTrue)
		c.create(pod("next", program(image)))
		c.until("next", "ready", running)
		if got := c.get("web"); id(got, "app") != id(before, "app") || !running(got) {
			t.Errorf("the pod that ran all the time is now %v", got.GetStatus())
		}
	})
}

// blind is an engine whose processes cannot be watched from here, as on a Mac:
// what happens is learned from events and lists alone.
type blind struct{ *proxy }

func (blind) Exited(context.Context, container.Container) <-chan struct{} { return nil }

// held is a call that hangs between the agent and the engine.
type held struct {
	call      string // "create", "start", "exec", "json", "stop", "remove"; of no container: "events", "list"
	container string // of the pod
	// carriedOut by the engine, so that the answer is what hangs; of events it is
	// what follows the answer.
	carriedOut bool
	fails      bool // the connection breaks in the end

	once sync.Once
	came chan struct{} // closed when the first call hangs
	goes chan struct{} // closed when it need hang no longer
}

// hang blocks, and says whether the call may go on.
func (h *held) hang(ctx context.Context) bool {
	h.once.Do(func() { close(h.came) })
	select {
	case <-h.goes:
		return !h.fails
	case <-ctx.Done():
		return false
	}
}

// proxy is an engine that is reached through a socket of its own, which can go
// away, and in which calls can hang.
type proxy struct {
	marked // of the agent, through the socket
	t      *testing.T
	direct marked
	path   string // of the socket

	stop func() // ends connections and listener

	mu    sync.Mutex // guards holds
	holds map[string]*held
}

func newProxy(t *testing.T, engine marked) *proxy {
	t.Helper()
	p := &proxy{t: t, direct: engine, path: filepath.Join(t.TempDir(), "engine.sock"), holds: map[string]*held{}}
	runtime, err := docker.New("unix://" + p.path)
	if err != nil {
		t.Fatal(err)
	}
	p.marked = marked{&testdocker.Engine{Runtime: runtime, Run: engine.Run}}
	p.start()
	t.Cleanup(func() { p.stop(); runtime.Close() })
	return p
}

// hold lets a call hang that concerns the pod; "": none.
func (p *proxy) hold(pod string, h *held) {
	h.came, h.goes = make(chan struct{}), make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds[pod] = h
}

// held is what the request should hang in; nil: it should not.
func (p *proxy) held(r *http.Request) *held {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.holds) == 0 {
		return nil
	}
	var call, pod, slot string
	rest, last := path.Split(r.URL.Path)
	switch {
	case last == "events":
		call = "events"
	case strings.HasSuffix(r.URL.Path, "/containers/json"):
		call = "list"
	case strings.HasSuffix(r.URL.Path, "/containers/create"):
		call = "create"
		for name, h := range p.holds { // the container has no labels yet
			if strings.Contains(r.URL.Query().Get("name"), "_"+h.container+"_"+name+"_") {
				pod, slot = name, h.container
			}
		}
	default:
		call = last
		if r.Method == http.MethodDelete {
			call, rest = "remove", r.URL.Path
		}
		c, err := p.direct.Inspect(r.Context(), path.Base(rest))
		parsed, key, _, ok := lifecycle.Parse(c)
		if err != nil || !ok {
			return nil
		}
		pod, slot = key.Name, parsed.Name
	}
	h := p.holds[pod]
	if h == nil || h.call != call || h.container != slot {
		return nil
	}
	select {
	case <-h.goes:
		return nil
	default:
		return h
	}
}

func (p *proxy) start() {
	p.t.Helper()
	l, err := net.Listen("unix", p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	type key struct{}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "docker" },
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(p.direct.Host(), "unix://"))
			},
		},
		FlushInterval: -1,
		ModifyResponse: func(r *http.Response) error {
			if h, _ := r.Request.Context().Value(key{}).(*held); h != nil && !h.hang(r.Request.Context()) {
				return context.Canceled
			}
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	var tasks sync.WaitGroup
	server := &http.Server{BaseContext: func(net.Listener) context.Context { return ctx }, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tasks.Add(1)
		defer tasks.Done()
		switch h := p.held(r); {
		case h == nil:
		case h.call == "events":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			h.hang(r.Context())
			return
		case h.carriedOut:
			r = r.WithContext(context.WithValue(r.Context(), key{}, h))
		case !h.hang(r.Context()):
			panic(http.ErrAbortHandler)
		}
		forward.ServeHTTP(w, r)
	})}
	tasks.Go(func() { _ = server.Serve(l) })
	p.stop = sync.OnceFunc(func() { cancel(); server.Close(); tasks.Wait() })
}
