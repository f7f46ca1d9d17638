package local

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// rootlessImage has the image's name in the process that is not root.
const rootlessImage = "ORCH_TEST_ROOTLESS_IMAGE"

// What a container's root leaves in an emptyDir can only be removed by root, and
// neither agent nor orchctl need be that: to reach the engine's socket is enough.
func TestAUserWhoIsNotRootGetsRidOfWhatContainersLeave(t *testing.T) {
	if image := os.Getenv(rootlessImage); image != "" {
		liveWithoutRoot(t, image)
		return
	}
	if testing.Short() {
		t.Skip("starts containers")
	}
	engine := testdocker.Require(t)
	if os.Getuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	const somebody = 54321
	home, err := os.MkdirTemp("", "orch-rootless-") //nolint:usetesting // t.TempDir's lies in one that is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	groups := []uint32{}
	if info, err := os.Stat(strings.TrimPrefix(engine.Host(), "unix://")); err == nil {
		groups = append(groups, info.Sys().(*syscall.Stat_t).Gid)
	}
	for path, mode := range map[string]os.FileMode{home: 0o700, binaries: 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(home, somebody, somebody); err != nil {
		t.Fatal(err)
	}
	// The test's program lies in a folder that is closed to others.
	again := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	again.Dir = home
	again.Env = append(os.Environ(), rootlessImage+"="+testimage.Build(t, engine), "ORCH_TEST_BINARIES="+binaries, "TMPDIR="+home, "HOME="+home)
	again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: somebody, Gid: somebody, Groups: groups}}
	if out, err := again.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func liveWithoutRoot(t *testing.T, image string) {
	engine := testdocker.Require(t)
	home := t.TempDir()
	c := cluster(t, home, "rootless")
	c.mustUp(t, options(Docker, 1))
	st, err := c.load()
	if err != nil {
		t.Fatal(err)
	}
	mine := map[string]string{LabelCluster: st.UID}
	engine.AlsoRemove(mine)
	pods := client.For[*v1.Pod](dial(t, home, "rootless"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	until := func(what string, is func(*v1.Pod) bool) {
		t.Helper()
		for e, err := range pods.Watch(ctx, client.WatchOptions{}) {
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if p := e.Object; p != nil && p.GetMetadata().GetName() == "writer" {
				if e.Type == v1.WatchEvent_TYPE_DELETED {
					p = nil
				}
				if is(p) {
					return
				}
			}
		}
	}
	volume := func() string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(c.Dir(), "node-1", "volumes", st.UID, "node-1", "pods", "*", "volumes", "scratch"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(found, "\n")
	}
	// The container's root makes folders that are closed, and one that is sticky.
	live := func() {
		t.Helper()
		if _, err := pods.Create(ctx, &v1.Pod{
			Metadata: &v1.ObjectMeta{Namespace: "default", Name: "writer"},
			Spec: &v1.PodSpec{
				TerminationGracePeriodSeconds: proto.Int64(1),
				Containers: []*v1.Container{{
					Name: "app", Image: image, ImagePullPolicy: api.PullNever,
					VolumeMounts: []*v1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}},
				}},
				Volumes: []*v1.Volume{{Name: "scratch", EmptyDir: &v1.EmptyDirVolumeSource{}}},
			},
		}); err != nil {
			t.Fatal(err)
		}
		var id string
		until("it runs", func(p *v1.Pod) bool {
			if s := p.GetStatus().GetContainerStatuses(); len(s) > 0 && s[0].GetReady() {
				_, id, _ = strings.Cut(s[0].GetContainerId(), "://")
			}
			return id != ""
		})
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, h := range []tar.Header{
			{Name: "closed/", Mode: 0o700},
			{Name: "closed/more/", Mode: 0o700},
			{Name: "closed/more/ä b", Mode: 0o600},
			{Name: "sticky/", Mode: 0o1777},
			{Name: "sticky/file", Mode: 0o600, Uid: 1},
		} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := engine.CopyTo(ctx, id, "/scratch", &archive); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(volume(), "sticky", "file")); !os.IsPermission(err) {
			t.Fatalf("the test shows nothing: %v", err)
		}
	}

	live()
	if _, err := pods.Delete(ctx, "default", "writer", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until("it is gone", func(p *v1.Pod) bool { return p == nil })
	if left := volume(); left != "" {
		t.Errorf("left over: %s", left)
	}

	live()
	c.invariants(t)
	if _, err := c.Down(ctx); err != nil {
		t.Errorf("down: %v", err)
	}
	if _, err := os.Stat(c.Dir()); !os.IsNotExist(err) {
		t.Errorf("the cluster's folder: %v", err)
	}
	if left, err := engine.List(ctx, mine); err != nil || len(left) > 0 {
		t.Errorf("containers that are left: %v, %v", left, err)
	}
}
