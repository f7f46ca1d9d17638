package agent_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	v1 "orch/proto/v1"
)

// TestWhateverHappensNothingIsLeftBehindOrDoubled ends the agent at random
// moments, in the middle of calls, beside crashes, removals, an engine and an
// API server that come and go, and looks at what is there when it has become
// quiet.
func TestWhateverHappensNothingIsLeftBehindOrDoubled(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() {
		seeds = 5
	}
	kills := 0
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { kills += chaos(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
	if kills < 5*int(seeds) {
		t.Errorf("the agent was killed only %d times", kills)
	}
}

func chaos(t *testing.T, random *rand.Rand) (kills int) {
	engine := fake.New(fake.Options{ExitLag: 40 * time.Millisecond})
	t.Cleanup(engine.Shutdown)
	c := newCluster(t)
	c.patience = 24 * time.Hour
	slow := &slowRuntime{Runtime: engine, random: rand.New(rand.NewPCG(random.Uint64(), 2))}
	c.setConfigMap("c", map[string]string{"key": "value"})
	agent := c.start("n1", slow)
	away := false // the API server
	names := []string{"a", "b", "c", "d"}

	some := func() (id string) { // any container's
		list, _ := engine.List(t.Context(), map[string]string{lifecycle.LabelCluster: c.id})
		if len(list) == 0 {
			return ""
		}
		return list[random.IntN(len(list))].ID
	}
	for range 60 {
		name := names[random.IntN(len(names))]
		switch op := random.IntN(12); {
		case op < 3 && !away:
			if c.get(name) == nil {
				c.create(pod(name, withSidecar("img:2"), withVolume(configMapVolume("config", "c")), withVolume(&v1.Volume{Name: "scratch"})))
			}
		case op < 5 && !away:
			c.delete(name, proto.Int64(random.Int64N(3)))
		case op == 5:
			_ = engine.Kill(t.Context(), some(), "SIGKILL")
		case op == 6:
			_ = engine.Remove(t.Context(), some())
		case op == 7:
			engine.StopEngine(random.IntN(2) == 0)
			time.Sleep(time.Duration(random.Int64N(int64(3 * time.Second)))) // virtual
			engine.StartEngine()
		case op < 10:
			agent.kill()
			kills++
			agent = c.start("n1", slow)
		case op == 10 && !away:
			c.stop()
			away = true
		case op == 11 && away:
			c.startServer()
			time.Sleep(3 * time.Second) // virtual: this test's own client connects again
			away = false
		}
		time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second)))) // virtual
	}
	if away {
		c.startServer()
	}
	// Longer than the longest back-off.
	time.Sleep(10 * time.Minute) // virtual

	var want []string
	for _, name := range names {
		if p := c.get(name); p != nil {
			if !api.IsPodReady(p) {
				t.Errorf("pod %s is not ready: %v", name, p.GetStatus())
			}
			want = append(want, name+"/POD", name+"/app", name+"/side")
		}
	}
	c.compareRunning(engine, want)
	for _, name := range names {
		c.delete(name, nil)
	}
	time.Sleep(2 * time.Minute) // virtual
	c.expect(engine)
	if left := c.left(); len(left) > 0 {
		t.Errorf("volumes are left: %v", left)
	}
	for _, name := range names {
		if p := c.get(name); p != nil {
			t.Errorf("pod %s is still there: %v", name, p)
		}
	}
	agent.kill()
	slow.pending.Wait()
	return kills
}

// compareRunning compares what runs, whatever its attempt.
func (c *cluster) compareRunning(r container.Runtime, want []string) {
	c.t.Helper()
	var got []string
	for _, line := range c.containers(r) {
		name, rest, _ := strings.Cut(line, "#")
		if strings.HasSuffix(rest, " running") {
			got = append(got, name)
		}
	}
	slices.Sort(want)
	if !slices.Equal(want, got) {
		c.t.Errorf("running: %v\nwant:    %v\nall: %v", got, want, c.containers(r))
	}
}

// slowRuntime takes its time to make things, and goes on making them when
// nobody waits any more, as a real engine does.
type slowRuntime struct {
	container.Runtime
	pending sync.WaitGroup

	mu     sync.Mutex // guards random
	random *rand.Rand
}

func (s *slowRuntime) Create(ctx context.Context, c container.Config) (string, error) {
	return slowly(ctx, s, func(ctx context.Context) (string, error) { return s.Runtime.Create(ctx, c) })
}

func (s *slowRuntime) CreateSandbox(ctx context.Context, c container.Sandbox) (container.Container, error) {
	return slowly(ctx, s, func(ctx context.Context) (container.Container, error) { return s.Runtime.CreateSandbox(ctx, c) })
}

func (s *slowRuntime) Start(ctx context.Context, id string) (container.Container, error) {
	return slowly(ctx, s, func(ctx context.Context) (container.Container, error) { return s.Runtime.Start(ctx, id) })
}

func slowly[T any](ctx context.Context, s *slowRuntime, f func(context.Context) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	s.mu.Lock()
	delay := time.Duration(s.random.IntN(500)) * time.Millisecond
	s.mu.Unlock()
	answers := make(chan answer, 1)
	s.pending.Go(func() {
		time.Sleep(delay) // virtual
		value, err := f(context.WithoutCancel(ctx))
		answers <- answer{value, err}
	})
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
