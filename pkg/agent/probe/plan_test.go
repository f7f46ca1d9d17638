package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func probeOf(success, failure int32) *v1.Probe {
	return &v1.Probe{PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: success, FailureThreshold: failure}
}

func TestPlan(t *testing.T) {
	all := &v1.Container{StartupProbe: probeOf(1, 3), LivenessProbe: probeOf(1, 3), ReadinessProbe: probeOf(1, 3)}
	started := Health{Started: true}
	tests := []struct {
		name   string
		spec   *v1.Container
		health Health
		ending bool
		want   []Kind
	}{
		{"before the startup probe has succeeded it runs alone", all, Fresh(all), false, []Kind{Startup}},
		{"then the two others run", all, started, false, []Kind{Liveness, Readiness}},
		{"who ends is asked for readiness only", all, started, true, []Kind{Readiness}},
		{"who ends before it has started is asked nothing", all, Health{}, true, nil},
		{"who is to be ended is asked for readiness only", all, Health{Started: true, Failed: Liveness}, false, []Kind{Readiness}},
		{"a failed startup probe asks nothing more", all, Health{Failed: Startup}, false, nil},
		{"without probes nothing is asked", &v1.Container{}, Fresh(&v1.Container{}), false, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := plan(test.spec, test.health, test.ending); !cmp.Equal(got, test.want) && len(got)+len(test.want) > 0 {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// An answer is believed exactly when the last ones, as many as the threshold
// says, are all like it.
func TestAnswersAreBelievedWhenEnoughInARowAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := probeOf(rapid.Int32Range(1, 4).Draw(t, "success"), rapid.Int32Range(1, 4).Draw(t, "failure"))
		var counted tally
		var answers []bool
		for range rapid.IntRange(1, 20).Draw(t, "answers") {
			good := rapid.Bool().Draw(t, "good")
			answers = append(answers, good)
			need := int(p.GetFailureThreshold())
			if good {
				need = int(p.GetSuccessThreshold())
			}
			want := len(answers) >= need
			for _, a := range answers[max(0, len(answers)-need):] {
				want = want && a == good
			}
			if got := counted.add(p, good); got != want {
				t.Fatalf("after %v with %v: believed %t, want %t", answers, p, got, want)
			}
		}
	})
}

func TestFirst(t *testing.T) {
	const s = time.Second
	delayed := &v1.Probe{InitialDelaySeconds: 5, PeriodSeconds: 10}
	tests := []struct {
		name    string
		running time.Duration
		resumed bool
		want    time.Duration
	}{
		{"the delay is counted from the start", 2 * s, false, 3 * s},
		{"after it, it is asked at once", 7 * s, false, 0},
		{"who was asked before is asked in the same rhythm", 27 * s, true, 8 * s},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := first(delayed, test.running, test.resumed); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// The rhythm and the thresholds, in virtual time.
func TestSetAsksInTheProbesRhythmAndForgetsWithTheLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var asked []time.Duration
		answers := []Answer{{Good: true}, {}, {Err: errors.New("no answer at all")}, {}, {}, {}}
		ask := func(context.Context, Target, *v1.Probe) Answer {
			if now := time.Since(began); len(asked) == 0 || asked[len(asked)-1] != now {
				asked = append(asked, now)
			}
			return answers[min(len(asked), len(answers))-1]
		}
		set := NewSet(ask, func() {}, func(context.Context, Target, string) {})
		spec := &v1.Container{LivenessProbe: probeOf(1, 3)}
		spec.LivenessProbe.InitialDelaySeconds = 5
		target := Target{ID: "a", Spec: spec, Begun: began, Was: Fresh(spec)}
		set.Sync(ctx, []Target{target})
		time.Sleep(time.Hour)
		synctest.Wait()
		const s = time.Second
		// What could not be asked counts for nothing, and who failed is not asked again.
		if diff := cmp.Diff([]time.Duration{5 * s, 15 * s, 25 * s, 35 * s, 45 * s}, asked); diff != "" {
			t.Errorf("asked at (-want +got):\n%s", diff)
		}
		if got := set.Health()["a"]; got.Failed != Liveness {
			t.Errorf("health %+v, want liveness failed", got)
		}
		target.ID = "b"
		set.Sync(ctx, []Target{target})
		if got := set.Health(); len(got) != 1 || got["b"].Failed != "" {
			t.Errorf("the next life begins with %+v", got)
		}
		cancel()
		set.Wait()
	})
}

// asker asks real servers on loopback, and no containers.
func asker() *Asker { return NewAsker(nil) }

func portOf(t *testing.T, address string) *v1.IntOrString {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return api.ParseIntOrString(port)
}

func TestHTTPGet(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/bad", http.StatusFound)
		case "/elsewhere":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/bad":
			w.WriteHeader(http.StatusTeapot)
		case "/headers":
			if r.Host != "example.com" || r.Header.Get("X-A") != "1" || r.URL.RawQuery != "q=1" || r.UserAgent() != "kube-probe/orch" {
				w.WriteHeader(http.StatusBadRequest)
			}
		case "/slow":
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	tests := []struct {
		path string
		want string
	}{
		{"/", ""},
		{"/headers?q=1", ""},
		{"/bad", "HTTP probe failed with statuscode: 418"},
		{"/redirect", "HTTP probe failed with statuscode: 418"},
		{"/elsewhere", ""},
		{"/slow", "context deadline exceeded"},
	}
	for _, test := range tests {
		t.Run(test.path, func(t *testing.T) {
			p := probeOf(1, 1)
			p.HttpGet = &v1.HTTPGetAction{
				Path: test.path, Port: portOf(t, server.Listener.Addr().String()), Scheme: "HTTPS",
				HttpHeaders: []*v1.HTTPHeader{{Name: "Host", Value: "example.com"}, {Name: "x-a", Value: "1"}},
			}
			got := asker().Ask(t.Context(), Target{IP: "127.0.0.1"}, p)
			if got.Err != nil || got.Good != (test.want == "") || !strings.Contains(got.Message, test.want) {
				t.Errorf("got %+v, want %q", got, test.want)
			}
		})
	}
}

func TestTCPAndGRPC(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(t, listener.Addr().String())
	server, state := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(server, state)
	state.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	target := Target{IP: "127.0.0.1", Spec: &v1.Container{Ports: []*v1.ContainerPort{{Name: "web", ContainerPort: port.GetInt()}}}}
	ask := func(change func(*v1.Probe)) string {
		p := probeOf(1, 1)
		change(p)
		a := asker().Ask(t.Context(), target, p)
		return fmt.Sprintf("%t %s", a.Good, a.Message)
	}
	tcp := func(p *v1.Probe) { p.TcpSocket = &v1.TCPSocketAction{Port: api.ParseIntOrString("web")} }
	grpcOf := func(service string) func(p *v1.Probe) {
		return func(p *v1.Probe) { p.Grpc = &v1.GRPCAction{Port: port.GetInt(), Service: &service} }
	}
	if got := ask(tcp); got != "true " {
		t.Error(got)
	}
	elsewhere := Target{IP: "192.0.2.1", Spec: target.Spec} // an address that nobody has
	for name, probe := range map[string]*v1.Probe{
		"tcpSocket": {TcpSocket: &v1.TCPSocketAction{Port: port, Host: "127.0.0.1"}},
		"httpGet":   {HttpGet: &v1.HTTPGetAction{Port: port, Host: "127.0.0.1", Path: "/", Scheme: "HTTP"}},
	} {
		probe.TimeoutSeconds = 1
		// What speaks gRPC is no good HTTP server, but it is there to say so.
		if a := asker().Ask(t.Context(), elsewhere, probe); a.Err != nil || strings.Contains(a.Message, "192.0.2.1") || strings.Contains(a.Message, "deadline") {
			t.Errorf("%s asks another host than it is told: %+v", name, a)
		}
	}
	if got := ask(grpcOf("")); got != "true " {
		t.Error(got)
	}
	if got := ask(grpcOf("sick")); got != `false service unhealthy (responded with "NOT_SERVING")` {
		t.Error(got)
	}
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if got := ask(tcp); !strings.Contains(got, "connection refused") {
		t.Error(got)
	}
	if got := ask(grpcOf("")); !strings.Contains(got, "error: health rpc probe failed: ") {
		t.Error(got)
	}
}
