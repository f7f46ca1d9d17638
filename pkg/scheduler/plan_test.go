package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// summary is what a plan does: "bind p to a", "report p".
func summary(actions []action) (lines []string) {
	for _, a := range actions {
		line := "report " + a.pod.GetMetadata().GetName()
		if a.node != "" {
			line = "bind " + a.pod.GetMetadata().GetName() + " to " + a.node
		}
		lines = append(lines, fmt.Sprintf("%s because of %d", line, a.trigger))
	}
	return lines
}

// expect makes a plan and compares it.
func expect(t *testing.T, pl *planner, now time.Time, want ...string) []action {
	t.Helper()
	actions, _ := pl.plan(now)
	if diff := cmp.Diff(want, summary(actions)); diff != "" {
		t.Fatalf("plan (-want +got):\n%s", diff)
	}
	return actions
}

// stored is the pod as the server has it after a report.
func stored(a action, version int64) *v1.Pod {
	p := api.Clone(a.pod)
	p.Metadata.ResourceVersion = version
	api.SetCondition(&p.Status.Conditions, &v1.Condition{
		Type: api.PodScheduled, Status: api.ConditionFalse, Reason: api.ReasonUnschedulable, Message: a.message,
	}, noon)
	return p
}

func version2(p *v1.Pod) { p.Metadata.ResourceVersion = 2 }

func TestTheOldestPodComesFirst(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a", offers("pods", "2")), 1)
	pl.setPod(newPod("young", createdAt(30)), 2)
	pl.setPod(newPod("old", createdAt(10)), 3)
	pl.setPod(newPod("middle", createdAt(20)), 4)
	expect(t, pl, noon, "bind old to a because of 3", "bind middle to a because of 4", "report young because of 2")
	expect(t, pl, noon) // all is under way
}

func TestAPodThatFitsNowhereDoesNotHoldUpOthers(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a"), 1)
	pl.setPod(newPod("huge", createdAt(10), requests("cpu", "9")), 2)
	pl.setPod(newPod("small", createdAt(20)), 3)
	expect(t, pl, noon, "report huge because of 2", "bind small to a because of 3")
}

func TestPodsThatAreNotTheSchedulersAreLeftAlone(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a"), 1)
	pl.setPod(newPod("placed", on("a")), 2)
	pl.setPod(newPod("other's", func(p *v1.Pod) { p.Spec.SchedulerName = "mine" }), 3)
	pl.setPod(newPod("finished", finished), 4)
	pl.setPod(newPod("going", func(p *v1.Pod) { p.Metadata.DeletionTimestamp = timestamppb.New(noon) }), 5)
	gone := newPod("gone")
	pl.setPod(gone, 6)
	pl.removePod(gone, 7)
	expect(t, pl, noon)
}

func TestAReportIsWrittenOnceAndAgainWhenItsSentenceChanges(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a"), 1)
	pl.setPod(newPod("p", requests("cpu", "9")), 2)
	first := expect(t, pl, noon, "report p because of 2")
	pl.succeeded(first[0], stored(first[0], 3), noon)
	expect(t, pl, noon)

	pl.setNode("a", newNode("a", offers("cpu", "3")), 4)
	expect(t, pl, noon.Add(time.Hour)) // tried again, with the same answer

	pl.setNode("b", newNode("b", cordoned), 5)
	second := expect(t, pl, noon.Add(time.Hour), "report p because of 5")
	pl.succeeded(second[0], stored(second[0], 6), noon.Add(time.Hour))

	pl.setNode("b", nil, 7)
	actions, again := pl.plan(noon.Add(time.Hour))
	if len(actions) > 0 || !again.Equal(noon.Add(time.Hour).Add(minPause)) {
		t.Errorf("a third report at once: %v, again at %v", summary(actions), again)
	}
	expect(t, pl, again, "report p because of 7")
}

func TestAReportOutlivesTheScheduler(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a"), 1)
	p := newPod("p", requests("cpu", "9"))
	pl.setPod(p, 2)
	a := expect(t, pl, noon, "report p because of 2")[0]

	restarted := newPlanner()
	restarted.setNode("a", newNode("a"), 1)
	restarted.setPod(stored(a, 3), 3)
	expect(t, restarted, noon)
}

func TestWaitingPodsAreTriedAgainWhenSomethingRelevantChanges(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*planner)
		want   []string
	}{
		{"nothing", func(*planner) {}, nil},
		{"a heartbeat", func(pl *planner) { pl.setNode("a", newNode("a"), 10) }, nil},
		{"another pod comes", func(pl *planner) { pl.setPod(newPod("other", on("a")), 10) }, nil},
		{
			"a node comes",
			func(pl *planner) { pl.setNode("b", newNode("b"), 10) },
			[]string{"bind p to b because of 10"},
		},
		{
			"a node gets more to offer",
			func(pl *planner) { pl.setNode("a", newNode("a", offers("cpu", "4")), 10) },
			[]string{"bind p to a because of 10"},
		},
		{
			"a node is uncordoned",
			func(pl *planner) { pl.setNode("c", newNode("c"), 10) },
			[]string{"bind p to c because of 10"},
		},
		{
			"a pod is deleted",
			func(pl *planner) { pl.removePod(newPod("there", on("a")), 10) },
			[]string{"bind p to a because of 10"},
		},
		{
			"a pod ends",
			func(pl *planner) { pl.setPod(newPod("there", on("a"), finished), 10) },
			[]string{"bind p to a because of 10"},
		},
		{
			"five minutes have passed",
			func(pl *planner) {
				pl.cluster.nodes["a"].allocatable.MilliCPU = 9000 // and somehow nobody said so
				pl.newEra(0)
			},
			[]string{"bind p to a because of 5"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pl := newPlanner()
			pl.setNode("a", newNode("a"), 1)
			pl.setNode("c", newNode("c", cordoned), 2)
			pl.setPod(newPod("there", on("a"), requests("cpu", "1")), 3)
			pl.setPod(newPod("p", requests("cpu", "2")), 5)
			a := expect(t, pl, noon, "report p because of 5")[0]
			pl.succeeded(a, stored(a, 6), noon)
			tt.change(pl)
			expect(t, pl, noon, tt.want...) // without any pause
		})
	}
}

func TestAFailedBindGivesTheRoomBack(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a", offers("pods", "1")), 1)
	pl.setPod(newPod("p", createdAt(10)), 2)
	pl.setPod(newPod("q", createdAt(20)), 3)
	actions := expect(t, pl, noon, "bind p to a because of 2", "report q because of 3")
	pl.succeeded(actions[1], stored(actions[1], 4), noon)
	pl.failed(actions[0], refused, noon)

	expect(t, pl, noon, "bind q to a because of 3") // p pauses meanwhile
}

func TestABindingWhoseAnswerWasLostKeepsItsRoom(t *testing.T) {
	begin := func() (*planner, action) {
		pl := newPlanner()
		pl.setNode("a", newNode("a", offers("pods", "1")), 1)
		pl.setPod(newPod("p", createdAt(10)), 2)
		bind := expect(t, pl, noon, "bind p to a because of 2")[0]
		pl.failed(bind, unknown, noon)
		pl.setPod(newPod("q", createdAt(20)), 3)
		report := expect(t, pl, noon, "report q because of 3")[0] // p may be there
		pl.succeeded(report, stored(report, 4), noon)
		return pl, bind
	}
	t.Run("the write was made, as the next try finds, and then the mirror", func(t *testing.T) {
		pl, _ := begin()
		again := expect(t, pl, noon.Add(minPause), "bind p to a because of 2")[0]
		pl.failed(again, raced, noon)
		expect(t, pl, noon.Add(time.Hour))
		pl.setPod(newPod("p", on("a"), version2), 5)
		expect(t, pl, noon.Add(time.Hour))
	})
	t.Run("it was not, and the pod no longer fits", func(t *testing.T) {
		pl, _ := begin()
		pl.setNode("a", newNode("a", offers("pods", "1"), cordoned), 5)
		expect(t, pl, noon.Add(minPause), "report p because of 2", "report q because of 5")
	})
	t.Run("it was not, and the pod goes", func(t *testing.T) {
		pl, _ := begin()
		pl.removePod(newPod("p", version2), 5)
		expect(t, pl, noon.Add(minPause), "bind q to a because of 5")
	})
}

func TestThePauseAfterFailuresDoublesUpToTenSeconds(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a"), 1)
	pl.setPod(newPod("p"), 2)
	now := noon
	for _, seconds := range []int{1, 2, 4, 8, 10, 10} {
		pause := time.Duration(seconds) * time.Second
		a := expect(t, pl, now, "bind p to a because of 2")[0]
		pl.failed(a, refused, now)
		if actions, again := pl.plan(now); len(actions) > 0 || !again.Equal(now.Add(pause)) {
			t.Fatalf("%v, again after %v, want a pause of %v", summary(actions), again.Sub(now), pause)
		}
		now = now.Add(pause)
	}
}

func TestAPodThatLostARaceWaitsForItsNextVersion(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a"), 1)
	pl.setPod(newPod("p"), 1)
	a := expect(t, pl, noon, "bind p to a because of 1")[0]
	pl.failed(a, raced, noon)
	expect(t, pl, noon.Add(time.Hour))
	pl.setPod(newPod("p", version2), 2)
	expect(t, pl, noon, "bind p to a because of 1") // without any pause
}

func TestABoundPodCountsBeforeAndAfterTheMirrorShowsIt(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a", offers("pods", "1")), 1)
	pl.setPod(newPod("p"), 2)
	a := expect(t, pl, noon, "bind p to a because of 2")[0]
	pl.setPod(newPod("q"), 3)
	r := expect(t, pl, noon, "report q because of 3")[0]
	pl.succeeded(r, stored(r, 4), noon)

	pl.setPod(newPod("p", func(p *v1.Pod) { p.Metadata.Labels = map[string]string{"a": "b"} }), 4) // an older state, seen late
	expect(t, pl, noon)
	pl.setPod(newPod("p", on("a"), version2), 5)
	pl.succeeded(a, newPod("p", on("a"), version2), noon)
	expect(t, pl, noon)
	if len(pl.pending) != 1 {
		t.Errorf("%d pods wait, want q alone", len(pl.pending))
	}
	pl.removePod(newPod("p", on("a")), 6)
	expect(t, pl, noon, "bind q to a because of 6")
}

func TestAnAnswerThatComesAfterTheMirrorChangesNothing(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a", offers("pods", "1")), 1)
	pl.setPod(newPod("p"), 2)
	a := expect(t, pl, noon, "bind p to a because of 2")[0]
	pl.setPod(newPod("p", on("a"), version2), 3)
	pl.failed(a, unknown, noon) // the answer was lost on its way: the pod is bound
	pl.setPod(newPod("q"), 4)
	expect(t, pl, noon, "report q because of 4")
}

func TestALargeBacklogIsPlannedInParts(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a", offers("pods", "110")), 1)
	for i := range 100 {
		pl.setPod(newPod(fmt.Sprint("pod-", i)), int64(i))
	}
	first, again := pl.plan(noon)
	if len(first) != maxActions || !again.Equal(noon) {
		t.Errorf("%d actions first, again at %v", len(first), again)
	}
	if second, again := pl.plan(noon); len(second) != 100-maxActions || !again.IsZero() {
		t.Errorf("%d actions then, again at %v", len(second), again)
	}
}

func TestWhatIsHeldCountsAndIsPlannedAgain(t *testing.T) {
	pl := newPlanner()
	pl.setNode("a", newNode("a", offers("pods", "1")), 1)
	pl.setPod(newPod("first", createdAt(10)), 2)
	pl.setPod(newPod("second", createdAt(20)), 3)
	for _, a := range expect(t, pl, noon, "bind first to a because of 2", "report second because of 3") {
		pl.failed(a, held, noon)
	}
	expect(t, pl, noon.Add(api.HeldAgain-1))
	for i := range 3 {
		now := noon.Add(time.Duration(i+1) * api.HeldAgain)
		for _, a := range expect(t, pl, now, "bind first to a because of 2", "report second because of 1") {
			pl.failed(a, held, now)
		}
	}
}
