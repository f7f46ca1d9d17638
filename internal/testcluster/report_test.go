package testcluster_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/internal/testcluster"
	"orch/pkg/api"
	"orch/pkg/chaos/report"
	"orch/pkg/client"
	chaoscontroller "orch/pkg/controller/chaos"
	"orch/pkg/invariant"
	v1 "orch/proto/v1"
)

// A report of an experiment that is carried out by hand: a container is killed,
// then a pod.
func TestARecoveryIsReadFromTheLog(t *testing.T) {
	story(t, 3, func(t *testing.T, c *testcluster.Cluster) {
		deployed(t, c)
		synctest.Wait()
		x := &v1.ChaosExperiment{
			Metadata: &v1.ObjectMeta{Namespace: "default", Name: "storm"},
			Spec:     &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: "KillContainer"}},
			Status:   &v1.ChaosExperimentStatus{Phase: "Running", StartTime: timestamppb.Now()},
		}
		log := entries(t, c, 0)
		x.Status.StartRevision = log[len(log)-1].GetRevision()
		var before []api.Object
		for _, kind := range invariant.Kinds {
			l, err := client.ForKind(c.Client(), api.KindByName(kind)).List(t.Context(), client.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			before = append(before, l.Items...)
		}
		killed := c.Ready("app=web")[0]
		var injections []*v1.LogEntry
		inject := func(fault string, p *v1.Pod) {
			injections = append(injections, &v1.LogEntry{
				Kind: "ChaosInjection", Namespace: "default", Name: fault, Time: timestamppb.Now(),
				Object: api.Wrap(&v1.ChaosInjection{
					Metadata: &v1.ObjectMeta{Namespace: "default", Name: fault},
					Spec:     &v1.ChaosInjectionSpec{Experiment: "storm", Fault: &v1.ChaosFault{Type: fault}, PodName: p.GetMetadata().GetName(), PodUid: p.GetMetadata().GetUid()},
					Status:   &v1.ChaosInjectionStatus{Phase: "Healed", InjectedAt: timestamppb.Now()},
				}),
			})
		}
		inject("KillContainer", killed)
		for i := range 3 {
			if n := c.Node(i); n.Name == killed.GetSpec().GetNodeName() {
				if err := n.Engine.Kill(t.Context(), oneOf(t, n).ID, "SIGKILL"); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Minute)
		inject("KillPod", killed)
		if _, err := client.For[*v1.Pod](c.Client().As(chaoscontroller.Name)).Delete(t.Context(), "default", killed.GetMetadata().GetName(), client.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		all := slices.Concat(injections, entries(t, c, x.GetStatus().GetStartRevision()))
		slices.SortStableFunc(all, func(a, b *v1.LogEntry) int { return a.GetTime().AsTime().Compare(b.GetTime().AsTime()) })
		r := report.Make(x, before, all, time.Now())
		for _, i := range r.Injections {
			if !i.Recovered {
				t.Errorf("%s of %s: recovered %v, %v", i.Fault, i.Target, i.Recovered, i.Steps)
			}
			_, scheduled := i.Steps["schedule"]
			if scheduled != (i.Fault == "KillPod") {
				t.Errorf("%s: steps %v", i.Fault, i.Steps)
			}
			for n, s := range report.Steps[1:] {
				if at, ok := i.Steps[s]; ok && at < i.Steps[report.Steps[n]] {
					t.Errorf("%s: %s comes before %s: %v", i.Fault, s, report.Steps[n], i.Steps)
				}
			}
		}
		if len(r.Injections) != 2 || len(r.Workloads) != 1 || r.Workloads[0].Wanted < 360 {
			t.Errorf("%d injections, workloads %+v", len(r.Injections), r.Workloads)
		}
		if promises := c.CheckInvariants(); len(promises) != len(r.Violations) || len(promises) == 0 {
			t.Errorf("the report has %v, the log %v", r.Violations, promises)
		}
	})
}

func entries(t *testing.T, c *testcluster.Cluster, after int64) (all []*v1.LogEntry) {
	t.Helper()
	for e, err := range c.Client().History(t.Context(), &v1.HistoryRequest{AfterRevision: after}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}
