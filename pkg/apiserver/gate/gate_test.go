package gate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"orch/pkg/api"
	"orch/pkg/apiserver/gate"
	v1 "orch/proto/v1"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func only(names ...string) func(string) bool {
	return func(name string) bool {
		for _, n := range names {
			if n == name {
				return true
			}
		}
		return false
	}
}

// write is a write of the replicaset controller for a key, in a run of its loop.
func write(key string, run int64) *v1.HeldWrite {
	return &v1.HeldWrite{Key: key, Verb: "create", Cause: &v1.Cause{Run: &v1.Run{Loop: "l", Key: key, Number: run}}}
}

// try brings a write to the gate and says whether it was made.
func try(g *gate.Gate, w *v1.HeldWrite, now time.Time) bool {
	v := g.Enter("replicaset-controller")
	revision := int64(0)
	if !v.Paused || v.Pass(w, now) {
		revision = 7
	}
	v.Leave(w, revision, now)
	return revision != 0
}

// held are the keys of what is held of the replicaset controller.
func held(g *gate.Gate, now time.Time) string {
	text := ""
	for _, c := range g.List(now) {
		for _, w := range c.GetHeld() {
			text += fmt.Sprintf("%s:%d ", w.GetKey(), w.GetCause().GetRun().GetNumber())
		}
	}
	return text
}

func TestNobodyIsPausedAtFirst(t *testing.T) {
	g := gate.New()
	if g.Enter("admin") != nil {
		t.Error("a user came to the gate of the controllers")
	}
	if !try(g, write("a", 1), noon) || g.Banner() != "" {
		t.Error("a write was held")
	}
}

func TestWhatIsHeldIsThePlanOfTheLastRun(t *testing.T) {
	g := gate.New()
	g.Set(only("replicaset"), 1)
	for _, w := range []*v1.HeldWrite{write("a", 1), write("a", 1), write("b", 2)} {
		if try(g, w, noon) {
			t.Error("a write of a paused controller was made")
		}
	}
	if got := held(g, noon); got != "a:1 a:1 b:2 " {
		t.Errorf("held: %s", got)
	}
	if got, want := g.Banner(), "controller replicaset is paused: see orchctl controllers plan"; got != want {
		t.Errorf("banner: %s", got)
	}
	later := noon.Add(2 * time.Second)
	try(g, write("a", 3), later)
	if got := held(g, later); got != "a:3 b:2 " {
		t.Errorf("after the next run of a: %s", got)
	}
	if got := held(g, later.Add(time.Second)); got != "a:3 " {
		t.Errorf("when nobody has asked again for b: %s", got)
	}
	g.Set(only("node", "scheduler"), 2)
	if got := held(g, later); got != "" {
		t.Errorf("after the pause: %s", got)
	}
	if !try(g, write("a", 4), later) {
		t.Error("a write was held after the pause")
	}
	if got, want := g.Banner(), "controllers scheduler, node are paused: see orchctl controllers plan"; got != want {
		t.Errorf("banner: %s", got)
	}
	g.Set(only(api.ControllerNames()...), 3)
	if got, want := g.Banner(), "all controllers are paused: see orchctl controllers plan"; got != want {
		t.Errorf("banner: %s", got)
	}
	g.Set(only(), 2)
	if g.Banner() == "" {
		t.Error("old news resumed a controller")
	}
}

func grant(t *testing.T, g *gate.Gate, key string) *gate.Grant {
	t.Helper()
	leave, err := g.Grant("replicaset", key, "alice")
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

func TestAGrantIsForOneWriteOfWhatIsHeldLongest(t *testing.T) {
	g := gate.New()
	g.Set(only("replicaset"), 1)
	try(g, write("a", 1), noon)
	try(g, write("b", 2), noon)
	leave := grant(t, g, "")
	if try(g, write("b", 3), noon) {
		t.Error("what was not held longest was let through")
	}
	if !try(g, write("a", 4), noon) {
		t.Error("what was held longest was not let through")
	}
	if try(g, write("a", 4), noon) {
		t.Error("two writes were let through")
	}
	done, over := g.Take(leave, false)
	if !done || !over || leave.Written.GetKey() != "a" || leave.Written.GetCause().GetSteppedBy() != "alice" || leave.Revision != 7 {
		t.Errorf("done %v, over %v: %v", done, over, leave.Written)
	}
	if g.Followed(leave) {
		t.Error("what the same run still wants is not what comes next")
	}
	try(g, write("a", 5), noon)
	if !g.Followed(leave) || held(g, noon) != "b:3 a:5 " {
		t.Errorf("next: %s", held(g, noon))
	}

	named := grant(t, g, "a")
	if _, err := g.Grant("replicaset", "", "bob"); err == nil {
		t.Error("two step at once")
	}
	if try(g, write("b", 6), noon) || !try(g, write("a", 7), noon) {
		t.Error("the grant was for a")
	}
	if done, _ := g.Take(named, true); !done {
		t.Error("it was made use of")
	}
}

func TestAWriteThatFailsDoesNotUseTheGrantUp(t *testing.T) {
	g := gate.New()
	g.Set(only("replicaset"), 1)
	leave := grant(t, g, "")
	v, w := g.Enter("replicaset-controller"), write("a", 1)
	if !v.Pass(w, noon) {
		t.Fatal("it was held")
	}
	if _, over := g.Take(leave, true); over {
		t.Error("it is over while somebody tries")
	}
	v.Leave(w, 0, noon) // a conflict
	if !try(g, write("a", 2), noon) {
		t.Error("the next try was held")
	}
	if done, over := g.Take(leave, false); !done || !over {
		t.Error("it is not over")
	}
	again := grant(t, g, "")
	if done, over := g.Take(again, true); done || !over {
		t.Error("nobody came, and it is not over")
	}
	if try(g, write("a", 3), noon) {
		t.Error("a grant that was taken back was used")
	}
}

func TestErrorsNameTheControllersThatThereAre(t *testing.T) {
	g := gate.New()
	const want = `controllers "pods" not found: there are deployment, replicaset, scheduler, node, disruption, garbage, namespace, event, nodeipam`
	if _, err := g.Grant("pods", "", "bob"); err == nil || err.Error() != want {
		t.Error(err)
	}
	if _, err := g.Grant("replicaset", "", "bob"); err == nil || !strings.HasPrefix(err.Error(), "controller replicaset is not paused: ") {
		t.Error(err)
	}
}

// Whatever happens, what passes while a controller is paused are no more writes
// than were granted.
func TestNothingPassesUngranted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, now := gate.New(), noon
		var leave *gate.Grant
		paused, run := false, int64(0)
		for revision := range int64(rapid.IntRange(1, 60).Draw(t, "steps")) {
			now = now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 6).Draw(t, "action") {
			case 0:
				if paused = !paused; paused {
					g.Set(only("replicaset"), revision)
				} else {
					g.Set(only("scheduler"), revision)
					leave = nil
				}
			case 1:
				if leave == nil && paused {
					leave, _ = g.Grant("replicaset", rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "key"), "alice")
					if leave == nil {
						t.Fatal("no grant")
					}
				}
			case 2:
				if leave != nil {
					if _, over := g.Take(leave, true); !over {
						t.Fatal("nobody is at it, but it is not over")
					}
					leave = nil
				}
			default:
				run++
				made := try(g, write(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "writer"), run), now)
				switch {
				case !paused && !made:
					t.Fatal("a write was held though nobody is paused")
				case paused && made && leave == nil:
					t.Fatal("a write passed without a grant")
				case paused && made:
					if done, _ := g.Take(leave, false); !done {
						t.Fatal("a write passed that was not granted")
					}
					leave = nil
				}
			}
		}
	})
}

func TestABarrierWaitsForWhatIsUnderWay(t *testing.T) {
	g := gate.New()
	v := g.Enter("replicaset-controller")
	g.Set(only("replicaset"), 1)
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		g.Barrier()
	}()
	select {
	case <-passed:
		t.Error("it did not wait")
	case <-time.After(20 * time.Millisecond):
	}
	v.Leave(write("a", 1), 5, noon)
	<-passed
}
