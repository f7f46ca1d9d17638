package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

var update = flag.Bool("update", false, "write what is made to testdata")

// began is when the experiments of these tests begin.
var began = time.Date(2026, 11, 22, 18, 30, 0, 0, time.UTC)

// book is a log that is written at chosen moments, in milliseconds from began.
type book struct {
	entries []*v1.LogEntry
	seen    map[string]int64
}

func (b *book) at(ms int, actor, reason, message string, objects ...api.Object) {
	for _, o := range objects {
		m := o.GetMetadata()
		key := api.KindOf(o).Name + m.GetName()
		rev := int64(101 + len(b.entries))
		b.entries = append(b.entries, &v1.LogEntry{
			Revision: rev, Time: timestamppb.New(began.Add(time.Duration(ms) * time.Millisecond)), Kind: api.KindOf(o).Name,
			Namespace: m.GetNamespace(), Name: m.GetName(), Object: api.Wrap(api.Clone(o)), Previous: b.seen[key],
			Deleted: reason == "Gone", Cause: &v1.Cause{Actor: actor, Reason: reason, Message: message},
		})
		if b.seen == nil {
			b.seen = map[string]int64{}
		}
		b.seen[key] = rev
	}
}

func after(ms int) *timestamppb.Timestamp {
	return timestamppb.New(began.Add(time.Duration(ms) * time.Millisecond))
}

func deployment(replicas int32) *v1.Deployment {
	return &v1.Deployment{Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default", Uid: "d"}, Spec: &v1.DeploymentSpec{
		Replicas: &replicas, Strategy: &v1.DeploymentStrategy{RollingUpdate: &v1.RollingUpdateDeployment{MaxUnavailable: api.ParseIntOrString("0"), MaxSurge: api.ParseIntOrString("1")}},
	}}
}

func set() *v1.ReplicaSet {
	return &v1.ReplicaSet{Metadata: &v1.ObjectMeta{Name: "web-1", Namespace: "default", Uid: "s", OwnerReferences: []*v1.OwnerReference{api.NewControllerRef(deployment(1))}}}
}

// pod is one that is ready on a node; life counts its container's attempts.
func pod(name, node string, life int32, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default", Uid: "uid-" + name, OwnerReferences: []*v1.OwnerReference{api.NewControllerRef(set())}},
		Spec:     &v1.PodSpec{NodeName: node, Containers: []*v1.Container{{Name: "app"}}},
		Status: &v1.PodStatus{
			Phase: api.PodRunning, Conditions: []*v1.Condition{{Type: api.PodReady, Status: api.ConditionTrue}},
			ContainerStatuses: []*v1.ContainerStatus{{Name: "app", Ready: true, RestartCount: life, ContainerId: fmt.Sprint(name, life), State: &v1.ContainerState{Running: &v1.ContainerStateRunning{}}}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func unready(p *v1.Pod) {
	p.Status.Conditions[0].Status = api.ConditionFalse
	p.Status.ContainerStatuses[0].Ready = false
}

func created(p *v1.Pod) {
	unready(p)
	p.Spec.NodeName, p.Status.Phase, p.Status.ContainerStatuses = "", api.PodPending, nil
}

func bound(p *v1.Pod) {
	unready(p)
	p.Status.Phase, p.Status.ContainerStatuses = api.PodPending, nil
}

func ending(p *v1.Pod) { p.Metadata.DeletionTimestamp = timestamppb.New(began) }

func node(name string, ready string) *v1.Node {
	return &v1.Node{Metadata: &v1.ObjectMeta{Name: name}, Status: &v1.NodeStatus{
		Allocatable: map[string]string{"cpu": "9", "memory": "9Gi", "pods": "99"}, Conditions: []*v1.Condition{{Type: api.NodeReady, Status: ready}},
	}}
}

func injection(name, fault, nodeName, podName string, round int32, injected, healed int) *v1.ChaosInjection {
	i := &v1.ChaosInjection{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:     &v1.ChaosInjectionSpec{Experiment: "storm", Fault: &v1.ChaosFault{Type: fault}, NodeName: nodeName, PodName: podName, Round: round},
		Status:   &v1.ChaosInjectionStatus{Phase: "Healed", InjectedAt: after(injected), HealedAt: after(healed)},
	}
	if podName != "" {
		i.Spec.PodUid = "uid-" + podName
	}
	return i
}

// pending is an injection that was asked for, and not yet carried out.
func pending(name, fault, nodeName, podName string, round int32) *v1.ChaosInjection {
	i := injection(name, fault, nodeName, podName, round, 0, 0)
	i.Status = &v1.ChaosInjectionStatus{}
	return i
}

// before is the cluster as the experiments find it.
func before() []api.Object {
	return []api.Object{node("node-1", "True"), node("node-2", "True"), deployment(2), set(), pod("a", "node-1", 0), pod("b", "node-2", 0)}
}

func experiment(end int) *v1.ChaosExperiment {
	return &v1.ChaosExperiment{
		Metadata: &v1.ObjectMeta{Name: "storm", Namespace: "default"},
		Spec:     &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: "KillContainer"}, Seed: 42, Probe: &v1.ChaosProbe{Url: "http://10.0.0.7:8080/"}},
		Status: &v1.ChaosExperimentStatus{
			Phase: "Completed", Message: "all of 20s is over", StartTime: after(0), EndTime: after(end), StartRevision: 100, EndRevision: 140,
			Probe: &v1.ChaosProbeStatus{Requests: 200, Failed: 3, P50Microseconds: 1900, P99Microseconds: 8000, MaxMicroseconds: 41000, Outages: []*v1.ChaosOutage{{StartTime: after(1050), EndTime: after(1400), Failed: 3}}},
		},
	}
}

const agent1 = "system:node:node-1"

// storm is a container killed in place, a pod killed, and a node stopped for good.
func storm() *book {
	b := &book{}
	// The agent tells of the pod before it tells of the injection.
	b.at(990, "chaos-controller", "Injected", "", pending("storm-1", "KillContainer", "node-1", "a", 1))
	b.at(1012, agent1, "ContainerExited", "container app was killed from outside by signal 9", pod("a", "node-1", 0, unready, func(p *v1.Pod) { p.Status.ContainerStatuses[0].State = &v1.ContainerState{} }))
	b.at(1030, agent1, "ChaosHealed", "", injection("storm-1", "KillContainer", "node-1", "a", 1, 1000, 1000))
	b.at(1150, agent1, "ContainerStarted", "container app started again (restart 1)", pod("a", "node-1", 1, unready))
	b.at(1400, agent1, "ContainerReady", "container app is ready", pod("a", "node-1", 1))
	b.at(4990, "chaos-controller", "Injected", "", pending("storm-2", "KillPod", "", "b", 2))
	b.at(4999, "chaos-controller", "ChaosKill", "killed by chaosinjection/storm-2", pod("b", "node-2", 0, ending)) // before it is noted
	b.at(5000, "chaos-controller", "Injected", "", injection("storm-2", "KillPod", "", "b", 2, 5000, 5000))
	b.at(5010, "replicaset-controller", "SuccessfulCreate", "wanted 2, had 1", pod("c", "", 0, created))
	b.at(5020, "default-scheduler", "Scheduled", "placed on node-2", pod("c", "node-2", 0, bound))
	b.at(5300, "system:node:node-2", "Pulled", "", &v1.Event{Metadata: &v1.ObjectMeta{Name: "c.1", Namespace: "default"}, Reason: "Pulled", InvolvedObject: &v1.ObjectReference{Uid: "uid-c"}})
	b.at(5500, "system:node:node-2", "ContainerStarted", "container app started", pod("c", "node-2", 0, unready))
	b.at(5600, "system:node:node-2", "ContainerReady", "container app is ready", pod("c", "node-2", 0))
	b.at(5700, "system:node:node-2", "Gone", "", pod("b", "node-2", 0, ending))
	b.at(10_000, "chaos-controller", "Injected", "", injection("storm-3", "StopNode", "node-1", "", 3, 10_000, 19_000))
	b.at(13_000, "node-controller", "NodeNotReady", "node-1 is silent", node("node-1", "Unknown"))
	b.at(13_000, "node-controller", "NodeNotReady", "node-1 is silent", pod("a", "node-1", 1, unready))
	b.at(14_000, "taint-eviction-controller", "TaintEviction", "node-1 is unreachable", pod("a", "node-1", 1, unready, ending))
	b.at(14_010, "replicaset-controller", "SuccessfulCreate", "wanted 2, had 1", pod("d", "", 0, created))
	b.at(14_020, "default-scheduler", "Scheduled", "placed on node-2", pod("d", "node-2", 0, bound))
	b.at(15_000, "system:node:node-2", "ContainerReady", "container app started", pod("d", "node-2", 0))
	b.at(19_500, agent1, "NodeReady", "", node("node-1", "True"))
	b.at(21_000, "system:node:node-2", "ContainerReady", "after the end", pod("d", "node-2", 0, unready))
	return b
}

func TestEveryStepIsMeasuredFromTheInjection(t *testing.T) {
	r := Make(experiment(20_000), before(), storm().entries, began.Add(time.Hour))
	want := []map[Step]float64{
		{"detect": 0.012, "decide": 0.15, "start": 0.15, "ready": 0.4},
		{"detect": 0, "decide": 0.01, "schedule": 0.02, "pull": 0.3, "start": 0.5, "ready": 0.6},
		{"detect": 3, "decide": 4.01, "schedule": 4.02, "start": 5, "ready": 5},
	}
	for i, x := range r.Injections {
		for s, v := range x.Steps {
			x.Steps[s] = float64(int64(v*1000+0.5)) / 1000
		}
		if diff := cmp.Diff(want[i], x.Steps); diff != "" || !x.Noticed || !x.Recovered {
			t.Errorf("%s, noticed %v, recovered %v (-want +got):\n%s", x.Name, x.Noticed, x.Recovered, diff)
		}
	}
	w := r.Workloads[0]
	// From 1.012 to 1.4, from 5 to 5.6, from 13 to 15.
	if lost := fmt.Sprintf("%.3f of %.0f, fewest %d", w.Lost, w.Wanted, w.Fewest); lost != "2.989 of 40, fewest 1" {
		t.Errorf("lost %s", lost)
	}
	if len(r.Violations) != 3 {
		t.Errorf("broken: %v", r.Violations)
	}
}

func TestWhatIsNotReadyAgainIsSaid(t *testing.T) {
	b := &book{}
	b.at(1000, agent1, "ChaosInjected", "", injection("storm-1", "PauseContainer", "node-1", "a", 1, 1000, 1000))
	b.at(1500, agent1, "ContainerUnready", "container app is no longer ready", pod("a", "node-1", 0, unready))
	x := experiment(0)
	x.Status.EndTime, x.Status.Phase = nil, "Running"
	r := Make(x, before(), b.entries, began.Add(3*time.Second))
	i := r.Injections[0]
	if !r.SoFar || !i.Noticed || i.Recovered || len(i.Steps) != 1 || i.Steps["detect"] != 0.5 || r.Workloads[0].Lost != 1.5 {
		t.Errorf("so far %v, %+v, lost %v", r.SoFar, i, r.Workloads[0].Lost)
	}
	var out bytes.Buffer
	if err := r.Text(&out); err != nil || !strings.Contains(out.String(), "not ready again") || !strings.Contains(out.String(), "so far") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// A fault that lasts is told of while it does, or ten seconds later; one that is over
// at once, as a process may take its time to end, until ten seconds after the
// experiment. What comes later has other reasons.
func TestWhatComesLongAfterAFaultIsNotItsWork(t *testing.T) {
	for _, tt := range []struct {
		fault string
		sign  int // in ms; the fault is healed after 3 s, the experiment ends after 20 s
		want  bool
	}{{"StressCPU", 2_900, true}, {"StressCPU", 12_900, true}, {"StressCPU", 13_100, false}, {"KillContainer", 13_100, true}, {"KillContainer", 30_100, false}} {
		b := &book{}
		b.at(1000, agent1, "Injected", "", injection("storm-1", tt.fault, "node-1", "a", 1, 1000, 3000))
		b.at(tt.sign, agent1, "ContainerUnready", "", pod("a", "node-1", 0, unready))
		b.at(tt.sign+500, agent1, "ContainerReady", "", pod("a", "node-1", 0))
		i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]
		if _, detected := i.Steps["detect"]; detected != tt.want || i.Noticed != tt.want {
			t.Errorf("%s, a sign after %d ms: %v, want it counted: %v", tt.fault, tt.sign, i.Steps, tt.want)
		}
	}
}

// What the experiment broke is lost until it is made up for, though that is after its
// end; what others break then, or never was whole, is not its work.
func TestLossesAreCountedUntilTheLastRecovery(t *testing.T) {
	b := &book{}
	b.at(9_990, "chaos-controller", "Injected", "", pending("storm-1", "KillContainer", "node-1", "a", 1))
	b.at(10_000, agent1, "ChaosHealed", "", injection("storm-1", "KillContainer", "node-1", "a", 1, 10_000, 10_000))
	b.at(10_500, agent1, "ContainerExited", "", pod("a", "node-1", 0, unready)) // after the end
	b.at(14_500, agent1, "ContainerReady", "", pod("a", "node-1", 1))
	b.at(15_000, agent1, "ContainerUnready", "", pod("b", "node-1", 0, unready))
	b.at(99_000, agent1, "ContainerReady", "", pod("b", "node-1", 0))
	r := Make(experiment(10_000), before(), b.entries, began.Add(time.Hour))
	w := r.Workloads[0]
	if got := fmt.Sprintf("%.1f of %.1f, fewest %d", w.Lost, w.Wanted, w.Fewest); got != "4.0 of 28.0, fewest 1" || len(w.Points) != 3 {
		t.Errorf("lost %s, %v", got, w.Points)
	}
	if len(r.Violations) != 1 || !r.Violations[0].Ended.Equal(began.Add(14_500*time.Millisecond)) {
		t.Errorf("%v", r.Violations)
	}
}

// A server that crashes says nothing until it takes writes again; its experiment may
// be noted only then.
func TestACrashOfTheAPIServerIsOverWithTheNextWrite(t *testing.T) {
	crash := func(i *v1.ChaosInjection) *v1.ChaosInjection { i.Spec.Until = after(5000); return i }
	b := &book{}
	b.at(1000, "chaos-controller", "Injected", "", crash(pending("storm-1", "CrashAPIServer", "", "", 1)))
	b.at(1010, "chaos-controller", "ChaosInjected", "", crash(injection("storm-1", "CrashAPIServer", "", "", 1, 900, 5100))) // a clock that is behind
	b.at(1020, agent1, "NodeStatus", "just before", node("node-1", "True"))
	b.at(5400, agent1, "NodeStatus", "", node("node-1", "True"))
	b.at(5500, agent1, "NodeStatus", "", node("node-1", "True"))
	i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]
	if diff := cmp.Diff(map[Step]float64{"start": 4.4, "ready": 4.4}, i.Steps); diff != "" || !i.Noticed || !i.Recovered || !i.Injected.Equal(began.Add(time.Second)) {
		t.Errorf("%+v (-want +got):\n%s", i, diff)
	}
}

// Somebody kills the container of a pod that has its processor used: that is not what
// the fault did. What it ended by itself may be.
func TestWhoIsKilledFromOutsideIsNotTheFaults(t *testing.T) {
	for reason, noticed := range map[string]bool{api.ReasonKilled: false, "Error": true} {
		b := &book{}
		ended := func(p *v1.Pod) {
			p.Status.ContainerStatuses[0].LastState = &v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ContainerId: "a0", ExitCode: 137}}
			p.Metadata.Annotations = map[string]string{api.AnnotationTerminations: api.Terminations{"app": {{ContainerID: "a0", Reason: reason}}}.String()}
		}
		b.at(1000, "chaos-controller", "Injected", "", injection("storm-1", "StressCPU", "node-1", "a", 1, 1000, 7000))
		b.at(3000, agent1, "ContainerExited", "", pod("a", "node-1", 0, unready, ended))
		killed := b.entries[len(b.entries)-1].GetRevision()
		b.at(3100, agent1, "ContainerStarted", "", pod("a", "node-1", 1, ended))
		b.entries[len(b.entries)-1].Cause.Trigger = killed
		if i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]; i.Noticed != noticed {
			t.Errorf("%s: %+v", reason, i)
		}
	}
}

// Of those who were deaf, the report says how late they came.
func TestDroppedWatchesMakeDecisionsLate(t *testing.T) {
	for name, test := range map[string]struct {
		actors []string
		want   float64
	}{
		"all are deaf":                          {nil, 5.5},
		"the scheduler alone is":                {[]string{"default-scheduler"}, 5.1},
		"somebody else is, who decides nothing": {[]string{"somebody"}, 0},
	} {
		deaf := func(i *v1.ChaosInjection) *v1.ChaosInjection {
			i.Spec.Until, i.Spec.Fault.Actors = after(6000), test.actors
			return i
		}
		b := &book{}
		by := func(ms int, actor string, trigger int64, o api.Object) int64 {
			b.at(ms, actor, "", "", o)
			e := b.entries[len(b.entries)-1]
			e.Cause.Trigger = trigger
			return e.GetRevision()
		}
		b.at(1000, "chaos-controller", "Injected", "", deaf(pending("storm-1", "DropWatches", "", "", 1)))
		b.at(1010, "chaos-controller", "ChaosInjected", "", deaf(injection("storm-1", "DropWatches", "", "", 1, 1000, 6000)))
		by(9000, "chaos-controller", 102, deaf(injection("storm-1", "DropWatches", "", "", 1, 1000, 6000))) // experiments are spared
		rev := by(1500, "admin", 0, deployment(3))
		by(1600, "admin", rev, deployment(4)) // a person reads by herself
		rev = by(1700, "admin", 0, deployment(5))
		rev = by(7200, "deployment-controller", rev, set())
		by(7300, "default-scheduler", rev, pod("c", "", 0, created)) // of a change that was made when all heard again
		rev = by(2300, "admin", 0, pod("d", "", 0, created))
		by(7400, "default-scheduler", rev, pod("d", "node-1", 0))
		i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]
		late, wantNote := i.Late, "decisions about changes made meanwhile came up to "+Seconds(test.want)+" after these"
		if test.want == 0 {
			wantNote = "nothing in the log tells of it"
		}
		if math.Abs(late-test.want) > 1e-6 || !strings.HasPrefix(i.Note, wantNote) || i.Noticed {
			t.Errorf("%s: %v late, note %q; want %v, %q", name, late, i.Note, test.want, wantNote)
		}
	}
}

// Agents write their events aside: that of the pull may come when the pod is ready.
func TestAnEventOfThePullMayComeLate(t *testing.T) {
	b := &book{}
	b.at(1000, "chaos-controller", "Injected", "", injection("storm-1", "KillPod", "", "b", 1, 1000, 1000))
	b.at(1001, "chaos-controller", "ChaosKill", "", pod("b", "node-2", 0, ending))
	b.at(1010, "replicaset-controller", "SuccessfulCreate", "", pod("c", "", 0, created))
	b.at(1500, "system:node:node-2", "ContainerReady", "", pod("c", "node-2", 0))
	b.at(1600, "system:node:node-2", "Pulled", "", &v1.Event{Metadata: &v1.ObjectMeta{Name: "c.1", Namespace: "default"}, Reason: "Pulled", InvolvedObject: &v1.ObjectReference{Uid: "uid-c"}})
	if i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]; i.Steps["pull"] != 0.5 {
		t.Errorf("%v", i.Steps)
	}
}

func TestAnImageThatWasThereIsNoPull(t *testing.T) {
	b := &book{}
	b.at(1000, "chaos-controller", "Injected", "", injection("storm-1", "KillPod", "", "b", 1, 1000, 1000))
	b.at(1001, "chaos-controller", "ChaosKill", "", pod("b", "node-2", 0, ending))
	b.at(1010, "replicaset-controller", "SuccessfulCreate", "", pod("c", "", 0, created))
	b.at(1500, "system:node:node-2", "ContainerReady", "", pod("c", "node-2", 0))
	b.at(1600, "system:node:node-2", "Pulled", "", &v1.Event{
		Metadata: &v1.ObjectMeta{Name: "c.1", Namespace: "default"}, Reason: "Pulled", InvolvedObject: &v1.ObjectReference{Uid: "uid-c"},
		Message: `Container image "app:1" already present on machine`,
	})
	if i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]; i.Steps["ready"] != 0.5 || slices.Contains(slices.Collect(maps.Keys(i.Steps)), "pull") {
		t.Errorf("%v", i.Steps)
	}
}

// What a person deletes, or another injection breaks, while a fault lasts, is not its
// work.
func TestWhatHasAnotherCauseIsNotTheFaults(t *testing.T) {
	other := injection("rain-1", "KillPod", "", "a", 1, 3000, 3000)
	other.Spec.Experiment = "rain"
	for name, tt := range map[string]struct {
		actor   string
		trigger int64
		change  func(*v1.Pod)
		want    bool
	}{
		"a person deletes it":            {"admin", 0, ending, false},
		"another injection kills it":     {"chaos-controller", 102, ending, false},
		"another makes it unready":       {agent1, 102, unready, false},
		"the fault itself":               {agent1, 101, unready, true},
		"what an agent saw":              {agent1, 0, unready, true},
		"an eviction, as time was over":  {"taint-eviction-controller", -1, ending, true},
		"what the log does not tell any": {"replicaset-controller", 50, ending, true},
	} {
		b := &book{}
		b.at(1000, agent1, "Injected", "", injection("storm-1", "StressCPU", "node-1", "a", 1, 1000, 9000))
		b.at(3000, "chaos-controller", "Injected", "", other)
		b.at(3500, tt.actor, "Sign", "", pod("a", "node-1", 0, tt.change))
		b.entries[2].Cause.Trigger = tt.trigger
		if i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]; i.Noticed != tt.want {
			t.Errorf("%s: %v, want it counted: %v", name, i.Steps, tt.want)
		}
	}
}

// A recovery that somebody else cuts short ends there: what comes then is not its work.
func TestWhatOthersReplaceIsNotTheFaultsRecovery(t *testing.T) {
	other := injection("rain-1", "KillPod", "", "a", 1, 3000, 3000)
	other.Spec.Experiment = "rain"
	for name, tt := range map[string]struct {
		actor   string
		trigger int64
	}{"a person deletes it": {"admin", 0}, "another injection kills it": {"chaos-controller", 102}} {
		b := &book{}
		b.at(1000, agent1, "Injected", "", injection("storm-1", "PauseContainer", "node-1", "a", 1, 1000, 9000))
		b.at(1001, "chaos-controller", "Injected", "", other)
		b.at(2000, agent1, "ContainerUnready", "", pod("a", "node-1", 0, unready))
		b.at(3500, tt.actor, "Deleted", "", pod("a", "node-1", 0, unready, ending))
		b.entries[3].Cause.Trigger = tt.trigger
		b.at(3510, "replicaset-controller", "SuccessfulCreate", "", pod("c", "", 0, created))
		b.at(4000, "system:node:node-2", "ContainerReady", "", pod("c", "node-2", 0))
		i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]
		if diff := cmp.Diff(map[Step]float64{"detect": 1}, i.Steps); diff != "" || i.Recovered || i.Note != "pod/a was ended by others before it was ready again" {
			t.Errorf("%s: note %q, recovered %v (-want +got):\n%s", name, i.Note, i.Recovered, diff)
		}
	}
}

// Of a pod that was not ready when it was hit, what counts is what the log ascribes to
// that injection.
func TestAPodThatWasNotReadyIsFollowedByTheLogsCauses(t *testing.T) {
	b := &book{}
	b.at(500, agent1, "ContainerExited", "", pod("a", "node-1", 0, unready))
	b.at(1000, "chaos-controller", "Injected", "", injection("storm-1", "KillPod", "", "a", 1, 1000, 1000))
	b.at(1001, agent1, "ContainerStarted", "by itself", pod("a", "node-1", 1, unready))
	b.at(1100, "chaos-controller", "ChaosKill", "", pod("a", "node-1", 1, unready, ending))
	b.entries[3].Cause.Trigger = 102
	b.at(1200, "replicaset-controller", "SuccessfulCreate", "", pod("c", "", 0, created))
	b.entries[4].Cause.Trigger = 104
	b.at(1300, "default-scheduler", "Scheduled", "", pod("c", "node-2", 0, bound))
	b.at(2000, "system:node:node-2", "ContainerStarted", "", pod("c", "node-2", 0, unready))
	i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]
	if diff := cmp.Diff(map[Step]float64{"detect": 0.1, "decide": 0.2, "schedule": 0.3, "start": 1}, i.Steps); diff != "" || i.Recovered || i.Note != "pod/a was not ready when it was hit" {
		t.Errorf("note %q (-want +got):\n%s", i.Note, diff)
	}
	b.at(2500, "system:node:node-2", "ContainerReady", "", pod("c", "node-2", 0))
	if i = Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]; i.Steps["ready"] != 1.5 || !i.Recovered || i.Note != "" {
		t.Errorf("%+v", i)
	}
}

// Of several pods that are missing, each is replaced by the one that follows from its
// end.
func TestAReplacementIsThatOfTheEndThatItFollowsFrom(t *testing.T) {
	b := &book{}
	for _, name := range []string{"a", "b"} {
		b.at(1000, "chaos-controller", "Injected", "", injection("storm-"+name, "KillPod", "", name, 1, 1000, 1000))
	}
	for n, name := range []string{"a", "b"} {
		b.at(1100+n, "chaos-controller", "ChaosKill", "", pod(name, "node-1", 0, ending))
		b.entries[2+n].Cause.Trigger = int64(101 + n)
	}
	for n, name := range []string{"d", "c"} { // d for b, c for a
		b.at(2000+1000*n, "replicaset-controller", "SuccessfulCreate", "", pod(name, "", 0, created))
		b.entries[4+n].Cause.Trigger = int64(104 - n)
	}
	r := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour))
	if a, b := r.Injections[0].Steps["decide"], r.Injections[1].Steps["decide"]; a != 2 || b != 1 {
		t.Errorf("a is replaced after %v, b after %v; want 2 and 1", a, b)
	}
}

// A container that was started again, of a pod that is then replaced all the same, was
// not the recovery.
func TestARestartBeforeAReplacementIsNotAStep(t *testing.T) {
	b := &book{}
	b.at(1000, agent1, "Injected", "", injection("storm-1", "KillContainer", "node-1", "a", 1, 1000, 1000))
	b.at(1300, agent1, "ContainerStarted", "", pod("a", "node-1", 1, unready))
	b.at(2000, "taint-eviction-controller", "TaintEviction", "", pod("a", "node-1", 1, unready, ending))
	b.entries[2].Cause.Trigger = api.TriggerClock
	b.at(2100, "replicaset-controller", "SuccessfulCreate", "", pod("c", "", 0, created))
	b.at(2200, "default-scheduler", "Scheduled", "", pod("c", "node-2", 0, bound))
	b.at(3000, "system:node:node-2", "ContainerReady", "", pod("c", "node-2", 0))
	i := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour)).Injections[0]
	for s, v := range i.Steps {
		i.Steps[s] = float64(int64(v*1000+0.5)) / 1000
	}
	if diff := cmp.Diff(map[Step]float64{"detect": 0.3, "decide": 1.1, "schedule": 1.2, "start": 2, "ready": 2}, i.Steps); diff != "" {
		t.Error(diff)
	}
}

func TestWhatWasBrokenNamesTheInjection(t *testing.T) {
	b := &book{}
	b.at(1000, agent1, "ChaosHealed", "is healed", injection("storm-1", "KillContainer", "node-1", "a", 1, 1000, 1000))
	b.at(1010, agent1, "ContainerExited", "container app was killed", pod("a", "node-1", 0, unready))
	b.entries[1].Cause.Trigger = 101
	b.at(1400, agent1, "ContainerReady", "", pod("a", "node-1", 1))
	b.at(5000, agent1, "ChaosInjected", "", injection("storm-2", "StopNode", "node-1", "", 2, 5000, 9000))
	b.at(8000, "node-controller", "NodeNotReady", "is silent", node("node-1", "Unknown"))
	b.entries[4].Cause.Trigger = api.TriggerClock
	b.at(8001, "node-controller", "NodeNotReady", "is not ready any more", pod("a", "node-1", 1, unready))
	b.entries[5].Cause.Trigger = 105
	b.at(9000, agent1, "ContainerReady", "", pod("a", "node-1", 1))
	x := experiment(20_000)
	x.Metadata.Uid = "x"
	b.at(20_000, "chaos-controller", "ChaosCompleted", "", x)
	b.at(21_000, "admin", "Labelled", "", x)
	var out bytes.Buffer
	r := Make(x, before(), b.entries, began.Add(time.Hour))
	if err := r.Text(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"container app was killed\n             ← chaosinjection/storm-1 ",
		"is not ready any more\n             ~ meanwhile chaosinjection/storm-2: round 2 of chaosexperiment/storm: StopNode of node/node-1",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("want %q in:\n%s", want, out.String())
		}
	}
	if r.EndRevision != 108 {
		t.Errorf("it ended at revision %d, want 108: that of the write that ended it", r.EndRevision)
	}
}

func TestAnInjectionThatLeavesNoTraceSaysSo(t *testing.T) {
	b := &book{}
	b.at(1000, agent1, "Injected", "", injection("storm-1", "StressCPU", "node-1", "a", 1, 1000, 9000))
	r := Make(experiment(20_000), before(), b.entries, began.Add(time.Hour))
	var out bytes.Buffer
	if err := r.Text(&out); err != nil || !strings.Contains(out.String(), "nothing in the log tells of it") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestAnExperimentThatHasNotBegun(t *testing.T) {
	r := Make(&v1.ChaosExperiment{Metadata: &v1.ObjectMeta{Name: "storm"}}, nil, nil, began)
	var out bytes.Buffer
	if err := r.Text(&out); err != nil || !strings.Contains(out.String(), "It has not begun.") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if err := r.HTML(io.Discard); err != nil {
		t.Error(err)
	}
}

// Text is for who sits there, a page for whoever gets it.
func TestMain(m *testing.M) {
	time.Local = time.FixedZone("home", -5*60*60)
	m.Run()
}

func TestHowItIsShown(t *testing.T) {
	x := experiment(20_000)
	x.Status.Message = `<script>alert("no")</script>`
	r := Make(x, before(), storm().entries, began.Add(time.Hour))
	r.LogFrom = 101
	var text, page bytes.Buffer
	if err := r.Text(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.HTML(&page); err != nil {
		t.Fatal(err)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "storm.txt", text.Bytes())
	golden(t, "storm.json", append(data, '\n'))
	for _, l := range strings.Split(strings.Split(text.String(), "\n\n")[1], "\n") {
		if n := len([]rune(l)); n > 100 {
			t.Errorf("%d columns: %s", n, l)
		}
	}
	if *update {
		golden(t, "storm.html", page.Bytes())
	}
	if found := regexp.MustCompile(`(?i)(src|href|url\(|@import|<script)[^>]*`).FindString(page.String()); found != "" {
		t.Errorf("the page needs more than itself: %s", found)
	}
	for _, address := range regexp.MustCompile(`https?://[^"< ]+`).FindAllString(page.String(), -1) {
		t.Errorf("the page names %s", address)
	}
	d := xml.NewDecoder(&page)
	d.Strict, d.AutoClose, d.Entity = false, []string{"meta"}, xml.HTMLEntity
	elements := map[string]int{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the page is no page: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok {
			elements[e.Name.Local]++
		}
	}
	if elements["svg"] != 1 || elements["rect"] < 7 || elements["polyline"] != 2 || elements["tr"] < 8 {
		t.Errorf("elements: %v", elements)
	}
}

func TestFiguresAgree(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 0.0283: "0.028", 0.9996: "1.00", 2.989: "2.99", 24.99: "25.0", 1234.5: "1234"} {
		if got := three(n); got != want {
			t.Errorf("%v is %s, want %s", n, got, want)
		}
	}
	x := experiment(14_000)
	x.Status.Probe = &v1.ChaosProbeStatus{Requests: 4, Failed: 4, Outages: []*v1.ChaosOutage{{StartTime: after(0), EndTime: after(4000), Failed: 4}}}
	r := Make(x, before(), nil, began)
	if got := r.losses()[1]; got != "Requests: 4 of 4 failed (100 %), in 1 outage" {
		t.Error(got)
	}
	r.Probe.Unasked = 51
	if got := r.losses()[1]; got != "Requests: 4 of 4 failed (100 %), in 1 outage; of 51 more nothing is known: the API server, which asks, was away" {
		t.Error(got)
	}
	var ticks []string
	for _, tick := range r.draw().Ticks {
		ticks = append(ticks, tick.Text)
	}
	if diff := cmp.Diff([]string{"+0s", "+2s", "+4s", "+6s", "+8s", "+10s", "+12s", "+14.0s"}, ticks); diff != "" {
		t.Error(diff)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestQuantilesGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []*Injection
		for range rapid.IntRange(1, 40).Draw(t, "injections") {
			all = append(all, &Injection{Steps: map[Step]float64{"ready": rapid.Float64Range(0, 100).Draw(t, "ready")}})
		}
		s := summaries(all)
		if len(s) != 1 || s[0].N != len(all) || s[0].P50 > s[0].P95 || s[0].P95 > s[0].Max {
			t.Fatalf("%+v", s)
		}
		below := 0
		for _, i := range all {
			if i.Steps["ready"] <= s[0].P50 {
				below++
			}
		}
		if 2*below < len(all) {
			t.Fatalf("the median %v has %d of %d below it", s[0].P50, below, len(all))
		}
	})
}

// What was lost is what somebody would count who looks every millisecond.
func TestReplicaSecondsAreCountedRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &book{}
		ms, wanted := 0, int32(2)
		ready := map[string]bool{"a": true, "b": true}
		lost := 0
		for range rapid.IntRange(0, 20).Draw(t, "writes") {
			d := rapid.IntRange(0, 500).Draw(t, "pause")
			n := int32(0)
			for _, ok := range ready {
				if ok {
					n++
				}
			}
			lost += d * int(max(0, wanted-n))
			ms += d
			switch name := rapid.SampledFrom([]string{"a", "b", "c", ""}).Draw(t, "pod"); {
			case name == "":
				wanted = rapid.Int32Range(0, 4).Draw(t, "replicas")
				b.at(ms, "admin", "Scaled", "", deployment(wanted))
			case rapid.Bool().Draw(t, "ready"):
				ready[name] = true
				b.at(ms, agent1, "ContainerReady", "", pod(name, "node-1", 0))
			default:
				ready[name] = false
				b.at(ms, agent1, "ContainerUnready", "", pod(name, "node-1", 0, unready))
			}
		}
		x := experiment(ms)
		r := Make(x, before(), b.entries, began)
		got := 0.0
		if len(r.Workloads) > 0 {
			got = r.Workloads[0].Lost
		}
		if want := float64(lost) / 1000; got < want-1e-6 || got > want+1e-6 {
			t.Fatalf("lost %v, want %v", got, want)
		}
	})
}
