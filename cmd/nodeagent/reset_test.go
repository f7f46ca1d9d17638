package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/internal/testlog"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/agent/volume"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/identity"
	v1 "orch/proto/v1"
)

// resetting runs the command and returns what it says.
func resetting(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), append([]string{"reset"}, args...), &out, &out)
	return out.String(), err
}

func TestResetRemovesOneNodeAndNothingOfItsNeighbour(t *testing.T) {
	if testing.Short() {
		t.Skip("runs pods on a real engine")
	}
	engine := testdocker.Require(t)
	image := testimage.Build(t, engine)
	s := newServer(t, time.Hour)
	engine.AlsoRemove(s.labels())
	token, home := s.token(time.Hour), t.TempDir()
	t.Cleanup(func() { _ = volume.RemoveTree(home, nil) }) // what n2 mounts
	agents, dirs := map[string]*process{}, map[string]string{}
	for _, name := range []string{"n1", "n2"} {
		dirs[name] = filepath.Join(home, name)
		agents[name] = s.agent(name, dirs[name], "--runtime", "docker", "--token", token)
		s.ready(name)
		if _, err := client.For[*v1.Pod](s.admin).Create(t.Context(), &v1.Pod{
			Metadata: &v1.ObjectMeta{Name: name, Namespace: api.NamespaceDefault},
			Spec: &v1.PodSpec{
				NodeName: name,
				Volumes:  []*v1.Volume{{Name: "scratch", EmptyDir: &v1.EmptyDirVolumeSource{Medium: "Memory"}}},
				Containers: []*v1.Container{{
					Name: "app", Image: image, ImagePullPolicy: api.PullNever, VolumeMounts: []*v1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}},
				}},
			},
		}); err != nil {
			t.Fatal(err)
		}
		for e, err := range client.For[*v1.Pod](s.admin).Watch(t.Context(), client.WatchOptions{Namespace: "default", FieldSelector: "metadata.name=" + name}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Object != nil && api.IsPodReady(e.Object) {
				break
			}
		}
	}
	ids := func(node string) string {
		t.Helper()
		list, err := engine.List(t.Context(), lifecycle.Owner{Cluster: s.labels()[lifecycle.LabelCluster], Node: node}.Labels())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, c := range list {
			all = append(all, c.ID+string(c.State))
		}
		return strings.Join(all, " ")
	}
	mine, theirs := ids("n1"), ids("n2")
	if strings.Count(mine, "running") != 2 || strings.Count(theirs, "running") != 2 {
		t.Fatalf("n1 has %s, n2 has %s", mine, theirs)
	}

	if out, err := resetting(t, "--data-dir", dirs["n1"]); err == nil || !strings.Contains(err.Error(), "a node agent runs on "+dirs["n1"]+": stop it first") {
		t.Errorf("while the agent runs: %q, %v", out, err)
	}
	testlog.Invariants(t, s.admin, 0, 2)
	agents["n1"].stop()
	if err := agents["n1"].wait(t); err != nil {
		t.Fatal(err)
	}
	dry, err := resetting(t, "--data-dir", dirs["n1"], "--dry-run")
	if err != nil || ids("n1") != mine || !exists(filepath.Join(dirs["n1"], pairFile)) {
		t.Errorf("a dry run: %v, %s", err, ids("n1"))
	}
	out, err := resetting(t, "--data-dir", dirs["n1"])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`(?m)^container [0-9a-f]{12} \(app of pod default/n1\) removed$`, `(?m)^container [0-9a-f]{12} \(POD of pod default/n1\) removed$`,
		`(?m)^image orch-sandbox:[0-9a-f]{12} stays: other nodes use it$`,
		`(?m)^\S+/volumes removed$`, `(?m)^\S+/node.pem removed$`, `(?m)^\S+/n1 removed$`, `'orchctl delete node n1'`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("it does not say %s:\n%s", want, out)
		}
	}
	// What a dry run says is what comes; but for the folder, which is not empty yet.
	if got, want := strings.ReplaceAll(dry, " (dry run)", ""), strings.ReplaceAll(out, dirs["n1"]+" removed\n", ""); got != want {
		t.Errorf("the dry run said\n%s, and this happened:\n%s", got, want)
	}
	if left := ids("n1"); left != "" || exists(dirs["n1"]) {
		t.Errorf("left: containers %q, folder %v", left, exists(dirs["n1"]))
	}
	if now := ids("n2"); now != theirs {
		t.Errorf("the neighbour had %s and has %s", theirs, now)
	}
	if out, err := resetting(t, "--data-dir", dirs["n1"]); err != nil || !strings.Contains(out, "nothing to remove") {
		t.Errorf("the second time: %q, %v", out, err)
	}

	// A new machine may take the name when the old Node is gone, and its pods are: it
	// would begin to start them when the test is over.
	if _, err := client.For[*v1.Pod](s.admin).Delete(t.Context(), api.NamespaceDefault, "n1", client.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.For[*v1.Node](s.admin).Delete(t.Context(), "", "n1", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	agents["n1"] = s.agent("n1", dirs["n1"], "--runtime", "docker", "--token", token)
	s.ready("n1")
}

func TestResetTouchesNoFolderThatIsNoAgents(t *testing.T) {
	dir := t.TempDir() // as an API server's
	if _, err := identity.OpenAuthority(dir, time.Hour); err != nil {
		t.Fatal(err)
	}
	out, err := resetting(t, "--data-dir", dir, "--runtime", "fake")
	if files, _ := os.ReadDir(dir); err != nil || !strings.Contains(out, "No node agent has used") || len(files) != 2 {
		t.Errorf("%q, %v; left: %v", out, err, files)
	}
	if _, err := resetting(t); err == nil || !strings.Contains(err.Error(), "--data-dir is required") {
		t.Errorf("without a folder: %v", err)
	}
}
