package printer

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// The figures are what apimachinery's duration.HumanDuration gives.
func TestDurationsReadAsKubectlWritesThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-5 * time.Second:                              "<invalid>",
		0:                                             "0s",
		119 * time.Second:                             "119s",
		2 * time.Minute:                               "2m",
		2*time.Minute + 5*time.Second:                 "2m5s",
		10*time.Minute + 5*time.Second:                "10m",
		179 * time.Minute:                             "179m",
		3*time.Hour + 7*time.Minute:                   "3h7m",
		8*time.Hour + 7*time.Minute:                   "8h",
		47 * time.Hour:                                "47h",
		49 * time.Hour:                                "2d1h",
		8 * 24 * time.Hour:                            "8d",
		729 * 24 * time.Hour:                          "729d",
		(365*2 + 40) * 24 * time.Hour:                 "2y40d",
		(365*8 + 40) * 24 * time.Hour:                 "8y",
		9*time.Minute + 59*time.Second:                "9m59s",
		7*24*time.Hour + 23*time.Hour + time.Minute:   "7d23h",
		2*24*time.Hour + 30*time.Minute:               "2d",
		time.Duration(1.9 * float64(time.Second)):     "1s",
		time.Duration(-0.5 * float64(time.Second)):    "0s",
		3 * time.Hour:                                 "3h",
		30*24*time.Hour + 5*time.Hour + 3*time.Minute: "30d",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestRowsOfAWatchKeepTheWidthsOfTheList(t *testing.T) {
	var b strings.Builder
	table := &Table{Out: &b}
	k := api.KindByName("ConfigMap")
	now := time.Unix(1000, 0)
	cm := func(name string) []api.Object {
		return []api.Object{&v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: name, CreationTimestamp: timestamppb.New(now.Add(-time.Minute))}}}
	}
	for _, name := range []string{"a-long-name", "short"} {
		if err := table.Print(k, cm(name), now); err != nil {
			t.Fatal(err)
		}
	}
	want := "NAME          DATA   AGE\na-long-name   0      60s\nshort         0      60s\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestTheStatusOfAPodIsItsMostTellingWord(t *testing.T) {
	waiting := func(reason string) *v1.ContainerState {
		return &v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}
	}
	ended := func(reason string, code, signal int32) *v1.ContainerState {
		return &v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: reason, ExitCode: code, Signal: signal}}
	}
	running := &v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	pod := func(phase string, states ...*v1.ContainerState) *v1.Pod {
		p := &v1.Pod{Metadata: &v1.ObjectMeta{}, Status: &v1.PodStatus{Phase: phase}}
		for _, s := range states {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, &v1.ContainerStatus{State: s, Ready: s == running})
		}
		return p
	}
	deleted := pod("Running", running)
	deleted.Metadata.DeletionTimestamp = timestamppb.Now()
	evicted := pod("Failed")
	evicted.Status.Reason = "Evicted"
	late := pod("Failed", waiting("ContainerCreating"))
	late.Status.Reason = "DeadlineExceeded"
	for name, c := range map[string]struct {
		pod  *v1.Pod
		want string
	}{
		"all is well":                          {pod("Running", running), "Running"},
		"nothing has begun":                    {pod("Pending"), "Pending"},
		"the first container that waits":       {pod("Pending", waiting("ErrImagePull"), waiting("ContainerCreating")), "ErrImagePull"},
		"a container ended by a signal":        {pod("Failed", ended("", 137, 9)), "Signal:9"},
		"a container ended without a reason":   {pod("Failed", ended("", 3, 0)), "ExitCode:3"},
		"one is done and one runs, not ready":  {pod("Running", ended("Completed", 0, 0), running), "NotReady"},
		"a pod on its way out":                 {deleted, "Terminating"},
		"the pod's own reason, without others": {evicted, "Evicted"},
		"what has failed waits for nothing":    {late, "DeadlineExceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, got, _ := podCells(c.pod, time.Time{}); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestAPodWithInitContainersShowsHowFarItIs(t *testing.T) {
	waiting := func(reason string) *v1.ContainerStatus {
		return &v1.ContainerStatus{State: &v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}}
	}
	ended := func(reason string, code, signal, restarts int32) *v1.ContainerStatus {
		return &v1.ContainerStatus{RestartCount: restarts, State: &v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: reason, ExitCode: code, Signal: signal}}}
	}
	running := func(started, ready bool, restarts int32) *v1.ContainerStatus {
		return &v1.ContainerStatus{RestartCount: restarts, Ready: ready, Started: &started, State: &v1.ContainerState{Running: &v1.ContainerStateRunning{}}}
	}
	always := "Always"
	for name, c := range map[string]struct {
		init, proxy, app *v1.ContainerStatus
		want             string
	}{
		"nothing has begun":                {waiting("PodInitializing"), waiting("PodInitializing"), waiting("PodInitializing"), "0/2 Init:0/2 0"},
		"the first runs":                   {running(true, false, 0), waiting("PodInitializing"), waiting("PodInitializing"), "0/2 Init:0/2 0"},
		"it failed":                        {ended("Error", 1, 0, 1), waiting("PodInitializing"), waiting("PodInitializing"), "0/2 Init:Error 1"},
		"without a reason":                 {ended("", 3, 0, 0), waiting("PodInitializing"), waiting("PodInitializing"), "0/2 Init:ExitCode:3 0"},
		"by a signal":                      {ended("", 137, 9, 0), waiting("PodInitializing"), waiting("PodInitializing"), "0/2 Init:Signal:9 0"},
		"it crashes in a loop":             {waiting("CrashLoopBackOff"), waiting("PodInitializing"), waiting("PodInitializing"), "0/2 Init:CrashLoopBackOff 0"},
		"the sidecar is not up":            {ended("Completed", 0, 0, 0), running(false, false, 0), waiting("PodInitializing"), "0/2 Init:1/2 0"},
		"it is up":                         {ended("Completed", 0, 0, 0), running(true, true, 0), waiting("PodInitializing"), "1/2 PodInitializing 0"},
		"all runs; steps no longer count":  {ended("Completed", 0, 0, 5), running(true, true, 2), running(true, true, 1), "2/2 Running 3"},
		"the sidecar's restart is counted": {ended("Completed", 0, 0, 0), waiting("CrashLoopBackOff"), running(true, true, 0), "0/2 Init:CrashLoopBackOff 0"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &v1.Pod{Spec: &v1.PodSpec{
				InitContainers: []*v1.Container{{Name: "init"}, {Name: "proxy", RestartPolicy: &always}}, Containers: []*v1.Container{{Name: "app"}},
			}, Status: &v1.PodStatus{Phase: "Running"}}
			c.init.Name, c.proxy.Name, c.app.Name = "init", "proxy", "app"
			p.Status.InitContainerStatuses, p.Status.ContainerStatuses = []*v1.ContainerStatus{c.init, c.proxy}, []*v1.ContainerStatus{c.app}
			ready, status, restarts := podCells(p, time.Time{})
			if got := ready + " " + status + " " + restarts; got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestFormatsThatDoNotExistAreRefused(t *testing.T) {
	for _, f := range []string{"xml", "jsonpath=", "jsonpath={", "custom-columns=A", "custom-columns=", "go-template={{", "jsonpath-file=/does/not/exist"} {
		if _, err := New(f); err == nil {
			t.Errorf("-o %s was accepted", f)
		}
	}
}
