package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/internal/testlog"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/agent/volume"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/network/native"
	v1 "orch/proto/v1"
)

// asAgent makes the test's program run main.
const asAgent = "ORCH_TEST_NODEAGENT"

// A process that is killed says goodbye to nobody. Twenty times the agent is
// killed at a random moment of a pod's life, while it starts or ends; the next
// agent finds its way, touches nothing that runs, and leaves no volume behind.
func TestAnAgentThatIsKilledLeavesNothingBehindAndDoublesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute or two")
	}
	t.Parallel()
	engine := testdocker.Require(t)
	image := testimage.Build(t, engine)
	t.Run("on the engine's network", func(t *testing.T) { killAgents(t, engine, image, networkDocker) })
	t.Run("on the native network", func(t *testing.T) {
		if os.Geteuid() != 0 || runtime.GOOS != "linux" {
			if os.Getenv("CI") == "true" {
				t.Fatal("needs root on Linux")
			}
			t.Skip("NEEDS ROOT ON LINUX, so that the native network is not tested")
		}
		killAgents(t, engine, image, networkNative)
	})
}

func killAgents(t *testing.T, engine *testdocker.Engine, image, network string) {
	t.Parallel()
	s := newServer(t, time.Hour)
	labels := s.labels()
	engine.AlsoRemove(labels)

	dir := t.TempDir()
	t.Cleanup(func() { _ = volume.RemoveTree(dir, nil) }) // those of the pod that is kept
	start := func(more ...string) *exec.Cmd {
		args := append([]string{"--server", s.address, "--node-name", "n1", "--data-dir", dir, "--log-level", "error", "--network", network}, more...)
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env, cmd.Stderr = append(os.Environ(), asAgent+"=1"), os.Stderr
		if err := cmd.Start(); err != nil {
			t.Error(err)
		}
		return cmd
	}
	agent := start("--token", s.token(time.Hour))
	kill := func() { _ = agent.Process.Kill(); _ = agent.Wait() }
	defer func() { kill() }()
	if cluster := labels[lifecycle.LabelCluster]; network == networkNative {
		s.setSubnet("n1", testdocker.Subnet().String())
		t.Cleanup(func() {
			if err := native.Remove(cluster, "n1"); err != nil {
				t.Error(err)
			}
		})
	}
	s.ready("n1")

	if _, err := client.For[*v1.ConfigMap](s.admin).Create(t.Context(), &v1.ConfigMap{
		Metadata: &v1.ObjectMeta{Name: "c", Namespace: api.NamespaceDefault}, Data: map[string]string{"key": "value"},
	}); err != nil {
		t.Fatal(err)
	}
	pods := client.For[*v1.Pod](s.admin)
	create := func(name string) {
		t.Helper()
		grace := int64(1)
		mounts := []*v1.VolumeMount{{Name: "config", MountPath: "/config"}, {Name: "scratch", MountPath: "/scratch"}}
		_, err := pods.Create(t.Context(), &v1.Pod{
			Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"},
			Spec: &v1.PodSpec{
				NodeName: "n1", TerminationGracePeriodSeconds: &grace,
				// Each ends with an error where a file is not there.
				InitContainers: []*v1.Container{{
					Name: "init", Image: image, ImagePullPolicy: api.PullNever, VolumeMounts: mounts,
					Args: []string{"-write", "/scratch/made", "-print", "/config/key", "-exit", "0"},
				}},
				Containers: []*v1.Container{{
					Name: "app", Image: image, ImagePullPolicy: api.PullNever, VolumeMounts: mounts,
					Args: []string{"-print", "/scratch/made"},
				}},
				Volumes: []*v1.Volume{
					{Name: "config", ConfigMap: &v1.ConfigMapVolumeSource{Name: "c"}},
					{Name: "scratch", EmptyDir: &v1.EmptyDirVolumeSource{}},
				},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	running := func() (names []string) {
		t.Helper()
		list, err := engine.List(t.Context(), labels)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if parsed, pod, _, ok := lifecycle.Parse(c); ok && c.State == container.StateRunning {
				names = append(names, pod.Name+"/"+parsed.Name)
			}
		}
		slices.Sort(names)
		return names
	}

	until := func(name, what string, ok func(*v1.Pod) bool) *v1.Pod {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		var last *v1.Pod
		for e, err := range pods.Watch(ctx, client.WatchOptions{Namespace: "default", FieldSelector: "metadata.name=" + name, Wait: true}) {
			if err != nil {
				t.Fatalf("waiting until %s is %s: %v; last seen: %v; running: %v", name, what, err, last, running())
			}
			switch {
			case e.Type == v1.WatchEvent_TYPE_DELETED:
				last = nil
			case e.Object != nil:
				last = e.Object
			}
			if e.Type != v1.WatchEvent_TYPE_BOOKMARK && ok(last) {
				return last
			}
		}
		return nil
	}
	create("kept")
	kept := until("kept", "ready", api.IsPodReady).GetStatus().GetContainerStatuses()[0].GetContainerId()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	// life is how long a pod takes to come and go; the first one is not disturbed.
	for kills, round, life := 0, 0, time.Duration(0); kills < 20; round++ {
		if round == 100 {
			t.Fatalf("only %d of %d pods were met alive", kills, round)
		}
		begun := time.Now()
		over, killed := make(chan struct{}), make(chan bool)
		go func() {
			var moment <-chan time.Time
			if life > 0 {
				moment = time.After(time.Duration(random.Int64N(int64(life))))
			}
			select {
			case <-moment:
				kill()
				agent = start()
				killed <- true
			case <-over:
				killed <- false
			}
		}()
		name := fmt.Sprint("web-", round)
		create(name)
		until(name, "ready", api.IsPodReady)
		if got, want := running(), []string{"kept/POD", "kept/app", name + "/POD", name + "/app"}; !slices.Equal(got, want) {
			t.Errorf("round %d: %v run, want %v", round, got, want)
		}
		if _, err := pods.Delete(t.Context(), "default", name, client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		until(name, "gone", func(p *v1.Pod) bool { return p == nil })
		close(over)
		if <-killed {
			kills++
		}
		if life == 0 {
			life = time.Since(begun)
		}
		list, err := engine.List(t.Context(), labels)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if _, pod, _, _ := lifecycle.Parse(c); pod.Name != "kept" {
				t.Errorf("round %d left %s behind, which is %s", round, c.Name, c.State)
			}
		}
		volumes, err := filepath.Glob(filepath.Join(dir, "volumes", "*", "n1", "pods", "*"))
		if err != nil || len(volumes) != 1 {
			t.Errorf("round %d: volumes of %d pods: %v, %v", round, len(volumes), volumes, err)
		}
	}
	if out, err := exec.Command("ip", "-o", "link", "show", "master", "orch-"+native.Mark(labels[lifecycle.LabelCluster], "n1")).Output(); network == networkNative && (err != nil || bytes.Count(out, []byte("\n")) != 1) {
		t.Errorf("cables beside that of the pod that is kept: %s, %v", out, err)
	}
	p, err := pods.Get(t.Context(), "default", "kept")
	if err != nil {
		t.Fatal(err)
	}
	if st := p.GetStatus().GetContainerStatuses()[0]; st.GetContainerId() != kept || st.GetRestartCount() != 0 {
		t.Errorf("a container that ran all the time was touched: %v", st)
	}
	testlog.Invariants(t, s.admin, 0, 1)
}
