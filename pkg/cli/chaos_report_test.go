package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/chaos/report"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func TestChaosReport(t *testing.T) {
	s := begin(t)
	experiments := client.For[*v1.ChaosExperiment](s.client)
	x, err := experiments.Create(t.Context(), &v1.ChaosExperiment{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "storm"},
		Spec:     &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: "KillPod"}, Selector: &v1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	contains(t, s.ok("chaos", "report", "storm"), "chaosexperiment/storm in namespace default: KillPod", "It has not begun.")
	x.Status = &v1.ChaosExperimentStatus{Phase: "Running", StartTime: timestamppb.New(time.Now()), StartRevision: x.GetMetadata().GetResourceVersion()}
	if _, err := experiments.UpdateStatus(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	contains(t, s.ok("chaos", "report", "storm"), "so far", "ROUND", "Invariants: 0 of safety broken, 0 promises")
	var r report.Report
	if err := json.Unmarshal([]byte(s.ok("chaos", "report", "storm", "-o", "json")), &r); err != nil || !r.SoFar || r.Experiment != "storm" {
		t.Errorf("%+v, %v", r, err)
	}
	file := filepath.Join(t.TempDir(), "report.html")
	s.ok("chaos", "report", "storm", "-o", "html", "--out", file)
	if page, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(page), "<!DOCTYPE html>") {
		t.Errorf("%v: %.100s", err, page)
	}
	s.fails(1, `"calm" not found`, "chaos", "report", "calm")
	s.fails(1, `--output "yaml": use text, json or html`, "chaos", "report", "storm", "-o", "yaml")
}

func TestDescribeExperiment(t *testing.T) {
	s := begin(t)
	kill := &v1.ChaosFault{Type: "KillPod"}
	_, err := client.For[*v1.ChaosExperiment](s.client).Create(t.Context(), &v1.ChaosExperiment{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "storm"},
		Spec:     &v1.ChaosExperimentSpec{Fault: kill, Selector: &v1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for round, pod := range map[int32]string{2: "b", 1: "a"} {
		_, err := client.For[*v1.ChaosInjection](s.client).Create(t.Context(), &v1.ChaosInjection{
			Metadata: &v1.ObjectMeta{Namespace: "default", Name: "storm-" + pod},
			Spec:     &v1.ChaosInjectionSpec{Experiment: "storm", Fault: kill, PodName: pod, PodUid: pod, Round: round},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	contains(t, s.ok("describe", "chaosexperiment/storm"), "Spec:\n", "  fault:\n", "    type: KillPod\n", "Injections (2 in total):\n", "  1      pod/a   Pending", "  2      pod/b   Pending", "Events:")
	contains(t, s.ok("describe", "chaosinjection", "storm-b"), "Spec:\n", "  experiment: storm\n", "  podName: b\n")
}
