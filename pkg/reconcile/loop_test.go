package reconcile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"orch/pkg/api"
	"orch/pkg/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var podKind = api.KindByName("Pod")

// mirror is one that reaches revisions when the test says so.
type mirror struct {
	kind   *api.Kind
	synced chan struct{}

	mu      sync.Mutex
	reached int64
	moved   chan struct{}
}

func newMirror() *mirror {
	m := &mirror{kind: podKind, synced: make(chan struct{}), moved: make(chan struct{})}
	close(m.synced)
	return m
}

func (m *mirror) Kind() *api.Kind         { return m.kind }
func (m *mirror) Synced() <-chan struct{} { return m.synced }

func (m *mirror) reach(revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reached = revision
	close(m.moved)
	m.moved = make(chan struct{})
}

func (m *mirror) WaitFor(ctx context.Context, revision int64) error {
	for {
		m.mu.Lock()
		reached, moved := m.reached, m.moved
		m.mu.Unlock()
		if reached >= revision {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// start runs a loop in the bubble of the test until its end.
func start(t *testing.T, f Func, o Options) *Loop {
	t.Helper()
	l := New("test", f, o)
	run(t, l)
	return l
}

func run(t *testing.T, l *Loop) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	synctest.Wait()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// calls notes when a function was called, since the beginning of the test.
type calls struct {
	began time.Time
	mu    sync.Mutex
	at    []time.Duration
}

func newCalls() *calls { return &calls{began: time.Now()} }

func (c *calls) note() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = append(c.at, time.Since(c.began))
	return len(c.at)
}

func (c *calls) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.at)
}

func (c *calls) want(t *testing.T, at ...time.Duration) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := cmp.Diff(at, c.at); d != "" {
		t.Errorf("times of the calls (-want +got):\n%s", d)
	}
}

func TestLoopBacksOff(t *testing.T) {
	const ms = time.Millisecond
	for name, tt := range map[string]struct {
		err  error
		want []time.Duration
	}{
		"an error doubles the pause each time, up to the longest": {
			err:  errors.New("no"),
			want: []time.Duration{0, 10 * ms, 30 * ms, 70 * ms, 150 * ms, 310 * ms, 630 * ms, 1270 * ms, 2550 * ms, 4550 * ms, 6550 * ms, 8550 * ms},
		},
		"while the server is away the pause stays short": {
			err:  fmt.Errorf("get: %w", api.ErrUnavailable),
			want: []time.Duration{0, 10 * ms, 30 * ms, 70 * ms, 150 * ms, 310 * ms, 630 * ms, 1270 * ms, 2270 * ms, 3270 * ms, 4270 * ms},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCalls()
				l := start(t, func(context.Context, api.Key) (Result, error) {
					if c.note() < len(tt.want) {
						return Result{}, tt.err
					}
					return Result{}, nil
				}, Options{MinBackoff: 10 * ms, MaxBackoff: 2 * time.Second})
				l.Enqueue(api.Key{Name: "a"}, 1)
				time.Sleep(time.Hour) // virtual
				c.want(t, tt.want...)
			})
		})
	}
}

func TestLoopForgetsFailuresAfterSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalls()
		l := start(t, func(context.Context, api.Key) (Result, error) {
			if n := c.note(); n == 2 || n == 4 {
				return Result{}, nil
			}
			return Result{}, errors.New("no")
		}, Options{MinBackoff: time.Second})
		l.Enqueue(api.Key{Name: "a"}, 1)
		time.Sleep(time.Minute)
		l.Enqueue(api.Key{Name: "a"}, 2)
		time.Sleep(time.Minute)
		c.want(t, 0, time.Second, time.Minute, time.Minute+time.Second)
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.keys) != 0 {
			t.Errorf("an idle loop remembers %d keys, want none", len(l.keys))
		}
	})
}

func TestLoopLooksAgainAfterTheTimeAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalls()
		l := start(t, func(context.Context, api.Key) (Result, error) {
			if c.note() < 3 {
				return Result{After: time.Minute}, nil
			}
			return Result{}, nil
		}, Options{})
		l.Enqueue(api.Key{Name: "a"}, 0)
		time.Sleep(30 * time.Second)
		l.Enqueue(api.Key{Name: "a"}, 0) // the first time asked for no longer counts
		time.Sleep(time.Hour)
		c.want(t, 0, 30*time.Second, 90*time.Second)
	})
}

func TestLoopRunsAKeyOnceForManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalls()
		var triggers []int64
		release := make(chan struct{})
		l := New("test", func(ctx context.Context, _ api.Key) (Result, error) {
			triggers = append(triggers, client.TriggerOf(ctx))
			c.note()
			<-release
			return Result{}, nil
		}, Options{})
		for r := range int64(10) {
			l.Enqueue(api.Key{Name: "a"}, r)
		}
		run(t, l) // the one run has begun
		for r := range int64(10) {
			l.Enqueue(api.Key{Name: "a"}, 20-r)
		}
		synctest.Wait()
		if n := c.count(); n != 1 {
			t.Fatalf("%d workers have the key, want 1", n)
		}
		close(release)
		synctest.Wait()
		if d := cmp.Diff([]int64{9, 20}, triggers); d != "" {
			t.Errorf("triggers: each run has the newest at its beginning (-want +got):\n%s", d)
		}
	})
}

func TestLoopKeepsToItsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalls()
		release := make(chan struct{})
		l := start(t, func(context.Context, api.Key) (Result, error) {
			c.note()
			<-release
			return Result{}, nil
		}, Options{Workers: 2})
		for i := range 5 {
			l.Enqueue(api.Key{Name: fmt.Sprint(i)}, 0)
		}
		synctest.Wait()
		if n := c.count(); n != 2 {
			t.Errorf("%d keys at once, want 2", n)
		}
		close(release)
		synctest.Wait()
		if n := c.count(); n != 5 {
			t.Errorf("%d keys in all, want 5", n)
		}
	})
}

func TestLoopHoldsAKeyBackUntilTheMirrorShowsItsWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror()
		c := newCalls()
		l := start(t, func(ctx context.Context, key api.Key) (Result, error) {
			if key.Name == "writer" && c.note() == 1 {
				write(ctx, 7)
			}
			return Result{}, nil
		}, Options{Workers: 1, Mirrors: []Mirror{m}})
		l.Enqueue(api.Key{Name: "writer"}, 0)
		synctest.Wait()
		l.Enqueue(api.Key{Name: "writer"}, 0)
		l.Enqueue(api.Key{Name: "other"}, 0) // not held up by the wait
		synctest.Wait()
		if n := c.count(); n != 1 {
			t.Fatalf("the key ran %d times before the mirror showed its write, want 1", n)
		}
		m.reach(6)
		synctest.Wait()
		if n := c.count(); n != 1 {
			t.Fatalf("the key ran %d times at revision 6, want 1", n)
		}
		m.reach(7)
		synctest.Wait()
		if n := c.count(); n != 2 {
			t.Errorf("the key ran %d times at revision 7, want 2", n)
		}
	})
}

func TestLoopWaitsForAMirrorOnlySoLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCalls()
		l := start(t, func(ctx context.Context, _ api.Key) (Result, error) {
			if c.note() == 1 {
				write(ctx, 7)
			}
			return Result{}, nil
		}, Options{Mirrors: []Mirror{newMirror()}})
		l.Enqueue(api.Key{Name: "a"}, 0)
		synctest.Wait()
		l.Enqueue(api.Key{Name: "a"}, 0)
		time.Sleep(time.Hour)
		c.want(t, 0, maxWait)
	})
}

func TestLoopWaitsForItsMirrorsToSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror()
		m.synced = make(chan struct{})
		c := newCalls()
		l := start(t, func(context.Context, api.Key) (Result, error) {
			c.note()
			return Result{}, nil
		}, Options{Mirrors: []Mirror{m}})
		l.Enqueue(api.Key{Name: "a"}, 0)
		time.Sleep(time.Minute)
		c.want(t)
		close(m.synced)
		synctest.Wait()
		c.want(t, time.Minute)
	})
}

// write notes a write as the client does.
func write(ctx context.Context, revision int64) {
	client.WritesOf(ctx).Note(podKind, revision)
}

func TestWhatIsHeldIsAskedForAgainAndIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror()
		m.reach(9)
		c := newCalls()
		var log bytes.Buffer
		var triggers []int64
		l := start(t, func(ctx context.Context, _ api.Key) (Result, error) {
			triggers = append(triggers, client.TriggerOf(ctx))
			switch c.note() {
			case 3: // a step: one write passes, the next is held
				write(ctx, 7)
				fallthrough
			case 1, 2, 4:
				return Result{After: time.Hour}, fmt.Errorf("create: %w", api.ErrHeld)
			}
			return Result{}, nil
		}, Options{Mirrors: []Mirror{m}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		l.Enqueue(api.Key{Name: "a"}, 5)
		time.Sleep(time.Minute)
		const s = time.Second
		c.want(t, 0, s, 2*s, 2*s, 3*s)
		if d := cmp.Diff([]int64{5, 5, 5, 5, 5}, triggers); d != "" {
			t.Errorf("what made it necessary stays so (-want +got):\n%s", d)
		}
		if log.Len() > 0 {
			t.Errorf("the log: %s", log.String())
		}
	})
}

func TestAWriteThatChangesNothingIsNoStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror()
		m.reach(9)
		c := newCalls()
		l := start(t, func(ctx context.Context, _ api.Key) (Result, error) {
			if c.note() < 5 {
				write(ctx, 7) // the revision at which it was written long ago
				return Result{}, fmt.Errorf("delete: %w", api.ErrHeld)
			}
			return Result{}, nil
		}, Options{Mirrors: []Mirror{m}})
		l.Enqueue(api.Key{Name: "a"}, 5)
		time.Sleep(time.Minute)
		const s = time.Second
		c.want(t, 0, 0, s, 2*s, 3*s)
	})
}

func TestADemandIsTheTriggerWhateverElseIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, failing := api.Key{Name: "a"}, true
		var triggers []int64
		var l *Loop
		l = New("test", func(ctx context.Context, _ api.Key) (Result, error) {
			if triggers = append(triggers, client.TriggerOf(ctx)); failing {
				failing = false
				return Result{}, errors.New("no")
			}
			if len(triggers) == 2 {
				client.WritesOf(ctx).Note(podKind, 20) // what it demands itself
				client.WritesOf(ctx).Note(podKind, 21)
				l.Demand(key, 20)
				l.Demand(key, 21)
				l.Enqueue(key, 22)
			}
			return Result{}, nil
		}, Options{})
		l.Enqueue(key, 10)
		l.Demand(key, 11)
		l.Enqueue(key, 12)
		run(t, l)
		l.Enqueue(key, 13)
		time.Sleep(time.Minute)
		l.Enqueue(key, 30)
		synctest.Wait()
		if d := cmp.Diff([]int64{11, 11, 22, 30}, triggers); d != "" {
			t.Errorf("triggers (-want +got):\n%s", d)
		}
	})
}
