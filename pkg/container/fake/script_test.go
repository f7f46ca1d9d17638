package fake_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
)

// inBubble runs f with an engine in a bubble of virtual time.
func inBubble(t *testing.T, o fake.Options, f func(t *testing.T, e *fake.Engine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		engine := fake.New(o)
		defer engine.Shutdown()
		f(t, engine)
	})
}

// run starts a container in a pod of its own.
func run(t *testing.T, e *fake.Engine, image string) container.Container {
	t.Helper()
	e.AddImage(image)
	sandbox, err := e.CreateSandbox(t.Context(), container.Sandbox{Name: "sandbox of " + image, Hostname: "pod-0"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := e.Create(t.Context(), container.Config{Name: image, Image: image, Sandbox: sandbox.ID, Env: []string{"A=b"}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := e.Start(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wait(t *testing.T, e *fake.Engine, id string) container.Container {
	t.Helper()
	c, err := e.Wait(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestASlowPullTakesItsTimeAndEndsWithItsContext(t *testing.T) {
	inBubble(t, fake.Options{Pull: faketest.SlowRegistry(time.Minute)}, func(t *testing.T, e *fake.Engine) {
		begin := time.Now()
		if _, err := e.Pull(t.Context(), "slow:1", container.PullOptions{}); err != nil || time.Since(begin) != time.Minute {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		if _, err := e.Image(t.Context(), "slow:1"); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.Pull(ctx, "slow:2", container.PullOptions{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if _, err := e.Image(t.Context(), "slow:2"); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})
}

func TestProgramsEndAsTheyAreTold(t *testing.T) {
	for _, test := range []struct {
		name    string
		program fake.Program
		stop    bool
		code    int
		oom     bool
		after   time.Duration
	}{
		{name: "a crash after an hour", program: faketest.ExitAfter(time.Hour, 3), code: 3, after: time.Hour},
		{name: "an end at once", program: faketest.ExitAfter(0, 0)},
		{name: "want of memory", program: faketest.OOMAfter(time.Minute), code: 137, oom: true, after: time.Minute},
		{name: "a service that is stopped", program: fake.Forever, stop: true},
		{name: "a crash that is stopped before", program: faketest.ExitAfter(time.Hour, 3), stop: true},
		{name: "a service that ignores signals", program: faketest.IgnoreSignals, stop: true, code: 137, after: 30 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, fake.Options{Program: test.program}, func(t *testing.T, e *fake.Engine) {
				c := run(t, e, "image:1")
				if test.stop {
					if err := e.Stop(t.Context(), c.ID, 30*time.Second); err != nil {
						t.Fatal(err)
					}
				}
				c = wait(t, e, c.ID)
				if c.ExitCode != test.code || c.OOMKilled != test.oom || c.FinishedAt.Sub(c.StartedAt) != test.after {
					t.Errorf("ended after %s as %+v", c.FinishedAt.Sub(c.StartedAt), c)
				}
			})
		})
	}
}

func TestTheEndOfAProcessIsSeenBeforeTheEngineKnows(t *testing.T) {
	const lag = 40 * time.Millisecond
	inBubble(t, fake.Options{ExitLag: lag, Program: faketest.ExitAfter(time.Second, 1)}, func(t *testing.T, e *fake.Engine) {
		c := run(t, e, "image:1")
		<-e.Exited(t.Context(), c)
		if early, err := e.Inspect(t.Context(), c.ID); err != nil || early.State != container.StateRunning {
			t.Errorf("engine knows already: %+v, %v", early, err)
		}
		if late := wait(t, e, c.ID); late.ExitCode != 1 || late.FinishedAt.Sub(c.StartedAt) != time.Second+lag {
			t.Errorf("ended as %+v", late)
		}
	})
}

func TestAHungCallEndsWithItsContextAndHoldsUpNoOther(t *testing.T) {
	inBubble(t, fake.Options{}, func(t *testing.T, e *fake.Engine) {
		c := run(t, e, "image:1")
		e.SetHook(faketest.Hang("Stop", "Remove"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.Stop(ctx, c.ID, time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if c, err := e.Inspect(t.Context(), c.ID); err != nil || c.State != container.StateRunning {
			t.Errorf("%+v, %v", c, err)
		}
		e.SetHook(nil)
		if err := e.Stop(t.Context(), c.ID, time.Second); err != nil {
			t.Error(err)
		}
	})
}

func TestAStartThatFailsIsRemembered(t *testing.T) {
	inBubble(t, fake.Options{}, func(t *testing.T, e *fake.Engine) {
		e.SetHook(func(_ context.Context, op, _ string) error {
			if op == "Start" {
				return errors.New("exec: no such file or directory")
			}
			return nil
		})
		e.AddImage("image:1")
		sandbox, err := e.CreateSandbox(t.Context(), container.Sandbox{Name: "sandbox"})
		if err != nil {
			t.Fatal(err)
		}
		id, err := e.Create(t.Context(), container.Config{Name: "c", Image: "image:1", Sandbox: sandbox.ID})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Start(t.Context(), id); err == nil {
			t.Error("started")
		}
		c, err := e.Inspect(t.Context(), id)
		if err != nil || c.State != container.StateCreated || c.ExitCode != 127 || !strings.Contains(c.Error, "no such file") {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

func TestAContainerCannotStartWithoutItsSandbox(t *testing.T) {
	inBubble(t, fake.Options{}, func(t *testing.T, e *fake.Engine) {
		e.AddImage("image:1")
		sandbox, err := e.CreateSandbox(t.Context(), container.Sandbox{Name: "sandbox"})
		if err != nil {
			t.Fatal(err)
		}
		id, err := e.Create(t.Context(), container.Config{Name: "c", Image: "image:1", Sandbox: sandbox.ID})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Stop(t.Context(), sandbox.ID, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Start(t.Context(), id); err == nil || !strings.Contains(err.Error(), "cannot join network of a non running container") {
			t.Errorf("error %v", err)
		}
	})
}

func TestAnEngineThatStops(t *testing.T) {
	for _, test := range []struct {
		name  string
		kill  bool
		state container.State
	}{
		{"takes its containers along", true, container.StateExited},
		{"or leaves them running", false, container.StateRunning},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, fake.Options{}, func(t *testing.T, e *fake.Engine) {
				c := run(t, e, "image:1")
				ready := make(chan struct{})
				results := make(chan error, 4)
				go func() { results <- e.Watch(t.Context(), nil, ready, func(container.Event) {}) }()
				go func() { _, err := e.Wait(t.Context(), c.ID); results <- err }()
				go func() {
					results <- e.Logs(t.Context(), c.ID, container.LogOptions{Follow: true, Tail: -1}, io.Discard, io.Discard)
				}()
				e.SetHook(faketest.Hang("Remove"))
				go func() { results <- e.Remove(t.Context(), c.ID) }()
				<-ready
				synctest.Wait()
				e.SetHook(nil)

				e.StopEngine(test.kill)
				unavailable := 0
				for range cap(results) {
					if errors.Is(<-results, container.ErrUnavailable) {
						unavailable++
					}
				}
				// Wait and Logs may see the containers' end first.
				if unavailable < 2 || !test.kill && unavailable != 4 {
					t.Errorf("%d calls under way say that the engine is gone", unavailable)
				}
				if _, err := e.Info(t.Context()); !errors.Is(err, container.ErrUnavailable) {
					t.Errorf("error %v", err)
				}
				e.StartEngine()
				if c, err := e.Inspect(t.Context(), c.ID); err != nil || c.State != test.state {
					t.Errorf("%+v, %v", c, err)
				}
			})
		})
	}
}

func TestALogIsBounded(t *testing.T) {
	const lines = 50_000
	talkative := func(_ context.Context, p *fake.Process) int {
		for i := range lines {
			fmt.Fprintf(p.Stdout, "this is line number %d\n", i)
		}
		fmt.Fprint(p.Stdout, "the end")
		return 0
	}
	inBubble(t, fake.Options{Program: talkative}, func(t *testing.T, e *fake.Engine) {
		c := run(t, e, "image:1")
		wait(t, e, c.ID)
		var out bytes.Buffer
		if err := e.Logs(t.Context(), c.ID, container.LogOptions{Tail: -1}, &out, nil); err != nil {
			t.Fatal(err)
		}
		if out.Len() > 1<<20 || !strings.HasSuffix(out.String(), fmt.Sprintf("number %d\nthe end", lines-1)) {
			t.Errorf("%d bytes, ending with %q", out.Len(), out.String()[max(0, out.Len()-50):])
		}
	})
}

func TestCommandsThatEveryContainerHas(t *testing.T) {
	inBubble(t, fake.Options{}, func(t *testing.T, e *fake.Engine) {
		c := run(t, e, "image:1")
		for _, test := range []struct {
			command []string
			code    int
			out     string
		}{
			{[]string{"true"}, 0, ""},
			{[]string{"/bin/false"}, 1, ""},
			{[]string{"echo", "hello", "world"}, 0, "hello world\n"},
			{[]string{"hostname"}, 0, "pod-0\n"},
			{[]string{"env"}, 0, "HOSTNAME=pod-0\nA=b\n"},
			{[]string{"kill", "-9", "1"}, 0, ""},
			{[]string{"kill", "2"}, 1, ""},
		} {
			var out bytes.Buffer
			code, err := e.Exec(t.Context(), c.ID, container.ExecOptions{Command: test.command, Stdout: &out})
			if err != nil || code != test.code || out.String() != test.out {
				t.Errorf("%v: code %d, output %q, error %v", test.command, code, out.String(), err)
			}
		}
		if c, err := e.Inspect(t.Context(), c.ID); err != nil || c.State != container.StateRunning {
			t.Errorf("after SIGKILL from inside: %+v, %v", c, err)
		}
		if _, err := e.Exec(t.Context(), c.ID, container.ExecOptions{Command: []string{"kill", "1"}}); err != nil {
			t.Error(err)
		}
		if c := wait(t, e, c.ID); c.ExitCode != 0 {
			t.Errorf("after SIGTERM from inside: %+v", c)
		}
	})
}

func TestAddressesAreOfTheEnginesSubnetAndNotGivenTwice(t *testing.T) {
	subnet := netip.MustParsePrefix("10.7.0.0/16")
	inBubble(t, fake.Options{Subnet: subnet}, func(t *testing.T, e *fake.Engine) {
		seen := map[netip.Addr]bool{}
		for i := range 300 {
			sandbox, err := e.CreateSandbox(t.Context(), container.Sandbox{Name: fmt.Sprint("sandbox-", i)})
			if err != nil {
				t.Fatal(err)
			}
			address, err := netip.ParseAddr(sandbox.IP)
			if err != nil || seen[address] || !subnet.Contains(address) {
				t.Fatalf("address %q, error %v", sandbox.IP, err)
			}
			seen[address] = true
		}
	})
}

func TestAContainerAnswersAsItWasToldUntilItEnds(t *testing.T) {
	inBubble(t, fake.Options{}, func(t *testing.T, e *fake.Engine) {
		c := run(t, e, "web:1")
		ask := func(path string) int {
			t.Helper()
			list, err := e.List(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, sandbox := range list {
				if sandbox.IP == "" {
					continue
				}
				web := http.Client{Transport: &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}}
				response, err := web.Get("http://" + sandbox.IP + ":8080" + path)
				if err != nil {
					t.Fatal(err)
				}
				_ = response.Body.Close()
				return response.StatusCode
			}
			t.Fatal("nobody has an address")
			return 0
		}
		tell := func(args ...string) int {
			t.Helper()
			code, err := e.Exec(t.Context(), c.ID, container.ExecOptions{Command: append([]string{"answer"}, args...)})
			if err != nil {
				t.Fatal(err)
			}
			return code
		}
		if code := tell("/ready", "503"); code != 0 || ask("/ready") != 503 || ask("/alive") != 200 {
			t.Errorf("told to answer 503: exit code %d, /ready %d, /alive %d", code, ask("/ready"), ask("/alive"))
		}
		if code := tell("/ready"); code != 1 {
			t.Errorf("without a status: exit code %d, want 1", code)
		}
		if code := tell("ready", "200"); code != 1 { // which nobody will ever ask for
			t.Errorf("no path: exit code %d, want 1", code)
		}
		if code := tell("/ready", "999"); code != 1 {
			t.Errorf("status 999: exit code %d, want 1", code)
		}
		if err := e.Kill(t.Context(), c.ID, "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		wait(t, e, c.ID)
		if _, err := e.Start(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		if got := ask("/ready"); got != 200 {
			t.Errorf("the next life answers %d, want 200", got)
		}
	})
}
