package observer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	"orch/pkg/container/faketest"
)

var owner = lifecycle.Owner{Cluster: "c1", Node: "n1"}

// labels of a container of the owner's pod u1.
func labels(changes ...string) map[string]string {
	l := owner.PodLabels("u1")
	l[lifecycle.LabelKind], l[lifecycle.LabelAttempt], l[lifecycle.LabelContainer] = lifecycle.KindContainer, "0", "app"
	for i := 0; i < len(changes); i += 2 {
		l[changes[i]] = changes[i+1]
	}
	return l
}

func newObserver(t *testing.T, r container.Runtime) *Observer {
	t.Helper()
	return New(t.Context(), r, owner, slog.New(slog.DiscardHandler), func(string) {}, func(error) {})
}

func TestPutTakesStatesForwardOnly(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	is := func(s container.State, started time.Time) container.Container {
		return container.Container{ID: "a", Labels: labels(), State: s, StartedAt: started}
	}
	tests := []struct {
		name string
		seen []container.Container
		want container.State
	}{
		{"a look from before the start comes late", []container.Container{is(container.StateRunning, began), is(container.StateCreated, time.Time{})}, container.StateRunning},
		{"a look from before the end comes late", []container.Container{is(container.StateExited, began), is(container.StateRunning, began)}, container.StateExited},
		{"a container that somebody started again runs", []container.Container{is(container.StateExited, began), is(container.StateRunning, began.Add(1))}, container.StateRunning},
		{"a paused container goes on", []container.Container{is(container.StatePaused, began), is(container.StateRunning, began)}, container.StateRunning},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := newObserver(t, fake.New(fake.Options{}))
			for _, c := range test.seen {
				o.Put(c)
			}
			if got := o.Pod("u1"); len(got) != 1 || got[0].State != test.want {
				t.Errorf("got %+v, want %s", got, test.want)
			}
		})
	}
}

// Engines learn on two ways that a process has ended and that memory was the
// cause, and may tell the first before they know the second.
func TestWantOfMemoryMayBeToldAfterTheEnd(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	is := func(s container.State, started time.Time, code int) container.Container {
		return container.Container{ID: "a", Labels: labels(), State: s, StartedAt: started, ExitCode: code}
	}
	tests := []struct {
		name string
		then container.Container
		want bool
	}{
		{"its end was told, without the cause", is(container.StateExited, began, 137), true},
		{"a child was killed, and it ended by itself", is(container.StateExited, began, 1), false},
		{"a child was killed, and it goes on", is(container.StateRunning, began, 0), false},
		{"it was started again", is(container.StateExited, began.Add(1), 137), false},
	}
	for _, test := range tests {
		for _, early := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, early %v", test.name, early), func(t *testing.T) {
				o := newObserver(t, fake.New(fake.Options{}))
				o.Put(is(container.StateRunning, began, 0))
				if !early {
					o.Put(is(container.StateExited, began, test.then.ExitCode))
				}
				o.outOfMemory("a")
				o.Put(test.then)
				if got := o.Pod("u1"); len(got) != 1 || got[0].OOMKilled != test.want {
					t.Errorf("got %+v, want %v", got, test.want)
				}
			})
		}
	}
}

func TestACreateEventThatComesLateChangesNothing(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, known := range []container.Container{
		{ID: "a", Labels: labels(), State: container.StateRunning, StartedAt: began, IP: "10.0.0.1"},
		{ID: "a", Labels: labels(), State: container.StateExited, StartedAt: began, ExitCode: 3},
		{ID: "a", Labels: labels(), State: container.StateCreated, ExitCode: 127, Error: "no such program"},
	} {
		o := newObserver(t, fake.New(fake.Options{}))
		o.Put(known)
		before := o.Pod("u1")
		o.handle(container.Event{Action: "create", ID: "a", Labels: labels(), Time: began})
		if diff := cmp.Diff(before, o.Pod("u1")); diff != "" || len(before) != 1 {
			t.Errorf("%s, then (-before +after):\n%s", known.State, diff)
		}
	}
}

func TestPutKnowsNoStrangers(t *testing.T) {
	o := newObserver(t, fake.New(fake.Options{}))
	for name, l := range map[string]map[string]string{
		"another cluster's": labels(lifecycle.LabelCluster, "c2"),
		"another node's":    labels(lifecycle.LabelNode, "n2"),
		"no agent's":        labels(lifecycle.LabelAttempt, "many"),
		"nobody's":          nil,
	} {
		o.Put(container.Container{ID: name, Labels: l, State: container.StateRunning})
	}
	if pods := o.Pods(); len(pods) != 0 {
		t.Errorf("shows %v", pods)
	}
}

func TestListFindsWhatEventsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := fake.New(fake.Options{Local: func(string) bool { return true }})
		defer engine.Shutdown()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o := New(ctx, deaf{engine}, owner, slog.New(slog.DiscardHandler), func(string) {}, func(error) {})
		ended := make(chan error, 1)
		go func() { ended <- o.Run() }()
		<-o.Listed()
		sandbox, err := engine.CreateSandbox(ctx, container.Sandbox{Name: "s", Labels: labels(lifecycle.LabelKind, lifecycle.KindSandbox)})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(relistEvery) // virtual
		synctest.Wait()
		if got := o.Pod("u1"); len(got) != 1 || !got[0].Running() || got[0].IP == "" {
			t.Errorf("after it was made: %+v", got)
		}
		if err := engine.Remove(ctx, sandbox.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(relistEvery) // virtual
		synctest.Wait()
		if got := o.Pod("u1"); len(got) != 0 {
			t.Errorf("after it was removed: %+v", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// deaf is an engine without events and pidfds.
type deaf struct{ container.Runtime }

func (d deaf) Watch(ctx context.Context, l map[string]string, ready chan<- struct{}, _ func(container.Event)) error {
	return d.Runtime.Watch(ctx, l, ready, func(container.Event) {})
}

func (deaf) Exited(context.Context, container.Container) <-chan struct{} { return nil }

func TestAContainerThatCannotBeShownIsNotTakenForGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := fake.New(fake.Options{})
		defer e.Shutdown()
		if _, err := e.CreateSandbox(t.Context(), container.Sandbox{Name: "s", Labels: labels(lifecycle.LabelKind, lifecycle.KindSandbox)}); err != nil {
			t.Fatal(err)
		}
		e.SetHook(func(_ context.Context, op, _ string) error {
			if op == "Inspect" {
				return errors.New("no space left on device")
			}
			return nil
		})
		life, end := context.WithCancel(t.Context())
		changed := 0
		o := New(life, e, owner, slog.New(slog.DiscardHandler), func(string) { changed++ }, func(error) {})
		done := make(chan error, 1)
		go func() { done <- o.Run() }()
		<-o.Listed()
		synctest.Wait()
		if !o.Unseen("u1") || o.Unseen("u2") {
			t.Error("the pod's sandbox is listed, and was never shown")
		}
		e.SetHook(nil)
		time.Sleep(relistEvery)
		synctest.Wait()
		if o.Unseen("u1") || len(o.Pod("u1")) != 1 || changed == 0 {
			t.Errorf("after the next list: %v, told %d times", o.Pod("u1"), changed)
		}
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestEngineThatHangsCountsAsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := fake.New(fake.Options{})
		defer engine.Shutdown()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		health := make(chan error, 100)
		o := New(ctx, engine, owner, slog.New(slog.DiscardHandler), func(string) {}, func(err error) { health <- err })
		ended := make(chan error, 1)
		go func() { ended <- o.Run() }()
		if err := <-health; err != nil {
			t.Fatal(err)
		}
		engine.SetHook(faketest.Hang("List", "Watch"))
		for err := range health {
			if err != nil {
				break
			}
		}
		engine.SetHook(nil)
		for err := range health {
			if err == nil {
				break
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
