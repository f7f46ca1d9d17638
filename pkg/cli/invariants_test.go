package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/invariant"
	v1 "orch/proto/v1"
)

// strayAgent has a container whose pod nobody knows.
type strayAgent struct{ fakeAgent }

func (strayAgent) Containers(context.Context, *v1.ContainersRequest) (*v1.ContainersResponse, error) {
	return &v1.ContainersResponse{Containers: []*v1.NodeContainer{
		{Id: "abcdef", Namespace: "default", Pod: "stray", PodUid: "unknown", Container: "app", Attempt: 1, Running: true},
	}}, nil
}

func TestInvariants(t *testing.T) {
	s := withAgent(t, strayAgent{})
	pods := client.For[*v1.Pod](s.client)
	if _, err := pods.Create(t.Context(), &v1.Pod{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "stray"},
		Spec:     &v1.PodSpec{NodeName: "node-1", Containers: []*v1.Container{{Name: "app", Image: "app:1"}}},
	}); err != nil {
		t.Fatal(err)
	}
	s.ok("delete", "pod", "stray", "--force", "--grace-period=0")
	if _, err := client.For[*v1.Node](s.client).Create(t.Context(), &v1.Node{Metadata: &v1.ObjectMeta{Name: "node-2"}}); err != nil {
		t.Fatal(err)
	}

	// A node that offers nothing can hold nothing.
	out, errs, code := s.run("invariants")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	contains(t, errs, "node-2 was not asked: ")
	contains(t, out, "INVARIANT", "OwnedContainer        safety    1        no container without its pod", "promise   0",
		"pod/stray has left container app (abcdef, attempt 1) on node-1\n", "pod/stray was deleted by user admin: deleted with orchctl",
		"node/node-1 offers 0m cpu, 0 bytes of memory and room for 0 pods", "pod/ready is ready, and 0 of its 1 containers run on node-1\n", "the containers of 1 of 2 nodes.")
	var found struct {
		ToRevision int64
		Nodes      []string
		Violations []struct {
			Name, Object string
			Revision     int64
			Cause        struct{ Actor string }
		}
	}
	out, _, code = s.run("invariants", "-o", "json", "--class", "safety")
	if err := json.Unmarshal([]byte(out), &found); err != nil || code != 1 || len(found.Violations) == 0 {
		t.Fatal(err, code, out)
	}
	last := found.Violations[len(found.Violations)-1]
	if last.Name != "OwnedContainer" || last.Object != "pod/stray" || last.Cause.Actor != "admin" || found.ToRevision == 0 {
		t.Errorf("%+v", found)
	}
	if quiet := s.ok("invariants", "--class", "promise"); len(quiet) == 0 {
		t.Error("nothing was said")
	}
	out, _, _ = s.run("invariants", "-n", "elsewhere")
	contains(t, out, "\npod/stray in default has left container app", "\nnode/node-1 offers")
	s.fails(1, `--class "all": use safety or promise`, "invariants", "--class", "all")
	s.fails(1, "the log does not tell of revision 99999: it is yet to come", "invariants", "--since", "99999")
	s.fails(1, `--output "yaml": use json`, "invariants", "-o", "yaml")
	s.fails(1, "--watch prints sentences only", "invariants", "-w", "-o", "json")
}

// A fault elsewhere is named as orchctl why names it.
func TestInvariantsNameTheFaultsThatLastedMeanwhile(t *testing.T) {
	s := begin(t)
	injections := client.For[*v1.ChaosInjection](s.client)
	i, err := injections.Create(t.Context(), &v1.ChaosInjection{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "storm-1"},
		Spec:     &v1.ChaosInjectionSpec{Experiment: "storm", Fault: &v1.ChaosFault{Type: api.FaultCrashAPIServer}, Round: 1, Until: timestamppb.New(time.Now().Add(time.Minute))},
	})
	if err != nil {
		t.Fatal(err)
	}
	i.Status = &v1.ChaosInjectionStatus{Phase: api.ChaosInjected, InjectedAt: timestamppb.Now()}
	if _, err := injections.UpdateStatus(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	budgets, late := client.For[*v1.PodDisruptionBudget](s.client), client.WithTrigger(t.Context(), api.TriggerClock)
	b, err := budgets.Create(t.Context(), &v1.PodDisruptionBudget{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:     &v1.PodDisruptionBudgetSpec{MinAvailable: api.ParseIntOrString("1"), Selector: &v1.LabelSelector{}},
	})
	for _, healthy := range []int32{1, 0} {
		if err != nil {
			t.Fatal(err)
		}
		b.Status = &v1.PodDisruptionBudgetStatus{DesiredHealthy: 1, CurrentHealthy: healthy}
		b, err = budgets.UpdateStatus(late, b)
	}
	out, errs, _ := s.run("invariants")
	contains(t, out+errs, "poddisruptionbudget/web has ", "\n              ~ meanwhile chaosinjection/storm-1: round 1 of chaosexperiment/storm: CrashAPIServer of apiserver")
}

// What was before --since is not told, nor what goes on; that a promise is kept
// again is.
func TestInvariantsAreWatched(t *testing.T) {
	s := begin(t)
	budgets := client.For[*v1.PodDisruptionBudget](s.client)
	b, err := budgets.Create(t.Context(), &v1.PodDisruptionBudget{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:     &v1.PodDisruptionBudgetSpec{MinAvailable: api.ParseIntOrString("1"), Selector: &v1.LabelSelector{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	healthy := func(n int32) {
		t.Helper()
		b.Status = &v1.PodDisruptionBudgetStatus{DesiredHealthy: 1, CurrentHealthy: n}
		if b, err = budgets.UpdateStatus(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	healthy(1)
	healthy(0)
	healthy(1)

	ctx, interrupt := context.WithCancel(t.Context())
	out, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- Main(ctx, IO{Out: w, Err: w}, append([]string{"invariants", "--watch", "--since", fmt.Sprint(b.GetMetadata().GetResourceVersion() + 1)}, s.flags...), "test")
		w.Close()
	}()
	printed := bufio.NewScanner(out)
	next := func(about string) string {
		t.Helper()
		for printed.Scan() {
			if strings.Contains(printed.Text(), about) {
				return printed.Text()
			}
		}
		t.Fatalf("nothing was said of %s", about)
		return ""
	}
	next("Watching")
	healthy(0)
	if got := next("web"); got != "poddisruptionbudget/web has 0 ready pods, 1 promised, until now" {
		t.Errorf("broken: %q", got)
	}
	healthy(1)
	if got := next("web keeps"); !strings.HasPrefix(got, "poddisruptionbudget/web keeps its promise again, after ") || !strings.Contains(got, "s in which it had 0 ready pods, 1 promised (rev ") {
		t.Errorf("kept again: %q", got)
	}
	interrupt()
	for printed.Scan() {
	}
	if code := <-ended; code != 1 {
		t.Errorf("exit code %d", code)
	}
}

// Who is frozen on purpose is not ready for that, and not for its start.
func TestWhatAMachineTellsIsTheWorkOfAFaultThatLasts(t *testing.T) {
	injection := func(pod, phase string, rev int64) *v1.LogEntry {
		return &v1.LogEntry{Revision: rev, Kind: "ChaosInjection", Namespace: "default", Name: pod, Object: api.Wrap(&v1.ChaosInjection{
			Metadata: &v1.ObjectMeta{Namespace: "default", Name: pod},
			Spec:     &v1.ChaosInjectionSpec{PodName: pod}, Status: &v1.ChaosInjectionStatus{Phase: phase},
		})}
	}
	i := &inspection{checker: invariant.New()}
	for _, e := range []*v1.LogEntry{injection("a", api.ChaosInjected, 1), injection("b", api.ChaosHealed, 2)} {
		i.checker.Check(e)
	}
	for pod, want := range map[string]int64{"a": 1, "b": 0, "c": 0} {
		if got := i.hit("default", pod).GetRevision(); got != want {
			t.Errorf("pod %s is hit by revision %d, want %d", pod, got, want)
		}
	}
	if i.hit("other", "a") != nil {
		t.Error("a pod of another namespace is hit")
	}
}
