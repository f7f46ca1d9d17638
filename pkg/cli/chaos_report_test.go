package cli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/chaos/report"
	"orch/pkg/client"
	"orch/pkg/identity"
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
	contains(t, s.ok("chaos", "report", strings.TrimSpace(s.ok("get", "chaosexperiments", "-o", "name"))), "chaosexperiment/storm in namespace default")
	s.ok("chaos", "stop", "chaosexperiment/storm")
	s.fails(1, "pod/storm is no chaos experiment", "chaos", "stop", "pod/storm")
	s.fails(1, `--output "yaml": use text, json or html`, "chaos", "report", "storm", "-o", "yaml")
}

func TestWhoMayReadOneNamespaceGetsItsReport(t *testing.T) {
	s := begin(t)
	s.ok("create", "rolebinding", "admins", "--clusterrole=admin", "--user=eve")
	s.ok("create", "rolebinding", "breakers", "--clusterrole=chaos", "--user=eve")
	x, err := client.For[*v1.ChaosExperiment](s.client).Create(t.Context(), &v1.ChaosExperiment{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "storm"},
		Spec:     &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: "KillPod"}, Selector: &v1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	x.Status = &v1.ChaosExperimentStatus{Phase: "Running", StartTime: timestamppb.New(time.Now()), StartRevision: x.GetMetadata().GetResourceVersion()}
	if _, err := client.For[*v1.ChaosExperiment](s.client).UpdateStatus(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	p := &v1.Pod{Metadata: &v1.ObjectMeta{Name: "web-1"}, Spec: &v1.PodSpec{NodeName: "node-1", Containers: []*v1.Container{{Name: "app", Image: "web:1"}}}}
	if _, err := client.For[*v1.Pod](s.client).Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	const left = "Only namespace default is told of"
	if all := s.ok("chaos", "report", "storm"); strings.Contains(all, left) {
		t.Errorf("admin is told of a part:\n%s", all)
	}
	eve := filepath.Join(t.TempDir(), "eve.pem")
	if _, err := s.authority.OpenPair(eve, identity.User{Name: "eve"}); err != nil {
		t.Fatal(err)
	}
	s.flags = append(s.flags, "--client-certificate", eve, "--client-key", eve)
	contains(t, s.ok("chaos", "report", "storm"), left, "ROUND", "Invariants: 0 of safety broken, 0 promises")
	contains(t, s.ok("chaos", "report", "storm", "-o", "html"), left)
}

// The steady state is the hypothesis: whoever runs an experiment learns from the exit
// code that it did not hold.
func TestRunEndsAsTheExperimentDid(t *testing.T) {
	for name, tt := range map[string]struct {
		status *v1.ChaosExperimentStatus
		code   int
		says   string
	}{
		"it is completed":           {&v1.ChaosExperimentStatus{Phase: "Completed", Message: "1 round in 5s"}, 0, "Completed: 1 round in 5s"},
		"somebody stopped it":       {&v1.ChaosExperimentStatus{Phase: "Stopped", Message: "somebody stopped it"}, 0, "Stopped: somebody"},
		"the steady state violated": {&v1.ChaosExperimentStatus{Phase: "Stopped", Message: "steady state violated: 1 of 2", Conditions: []*v1.GenerationCondition{{Type: "SteadyState", Status: "False"}}}, 1, "Stopped: steady state violated"},
		"nobody could be hit":       {&v1.ChaosExperimentStatus{Phase: "Failed", Message: "nothing that may be hit was there"}, 1, "Failed: nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t)
			var controller errgroup.Group
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			controller.Go(func() error {
				return eachEvent(ctx, client.ForKind(s.client, api.KindByName("ChaosExperiment")), client.WatchOptions{Namespace: "default"}, func(e client.Event[api.Object]) (bool, error) {
					x, ok := e.Object.(*v1.ChaosExperiment)
					if !ok {
						return false, nil
					}
					x.Status = tt.status
					x.Status.StartTime, x.Status.EndTime = timestamppb.Now(), timestamppb.Now()
					_, err := client.For[*v1.ChaosExperiment](s.client).UpdateStatus(ctx, x)
					return true, err
				})
			})
			out, errs, code := s.run("chaos", "kill-pod", "-l", "app=web", "--probe", "http://10.0.0.7/", "--for", "5s")
			if !strings.Contains(out, " created") {
				t.Fatal(out, errs)
			}
			if err := controller.Wait(); err != nil {
				t.Fatal(err)
			}
			if code != tt.code || !strings.Contains(out, tt.says) {
				t.Errorf("code %d, want %d and %q:\n%s%s", code, tt.code, tt.says, out, errs)
			}
			contains(t, s.ok("get", "chaosexperiments", "-o", "yaml"), "gracePeriodSeconds: 0", "probe:", "url: http://10.0.0.7/")
		})
	}
}

func TestDryRunSaysHowManyRoundsThereAre(t *testing.T) {
	s := begin(t)
	contains(t, s.ok("chaos", "kill-pod", "--every", "10s", "--for", "1m", "--seed", "3", "--dry-run=client"), "0 may be hit (dry run)", "… 6 rounds in all")
}

// A killed pod is not there to be killed again.
func TestDryRunDoesNotGuessWhomLaterRoundsKill(t *testing.T) {
	s := begin(t)
	if _, err := client.For[*v1.Pod](s.client).Create(t.Context(), &v1.Pod{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: &v1.PodSpec{Containers: []*v1.Container{{Name: "app", Image: "app:1"}}},
	}); err != nil {
		t.Fatal(err)
	}
	out := s.ok("chaos", "kill-pod", "--every", "10s", "--for", "1m", "--seed", "3", "--dry-run=client")
	if want := "1 may be hit (dry run)\nround 1: KillPod of pod/web\n… 6 rounds in all; whom the others hit depends on the pods that take the place of those\n"; out != want {
		t.Errorf("%s\nwant:\n%s", out, want)
	}
}

func TestDryRunKnowsWhatIsProtected(t *testing.T) {
	s := begin(t)
	s.ok("create", "namespace", "prot")
	s.ok("label", "namespace", "prot", "chaos.orch.dev/protected=true")
	s.fails(1, "namespace prot is protected: nothing in it may be broken", "-n", "prot", "chaos", "kill", "--dry-run=client")
}

func TestTimesOfAnExperimentAreWholeSeconds(t *testing.T) {
	s := begin(t)
	s.fails(1, "--for 0s: want a time, for example 30s", "chaos", "kill", "--for", "0s")
	s.fails(1, "--every 400ms: want whole seconds", "chaos", "kill", "--every", "400ms")
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
