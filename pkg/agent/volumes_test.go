package agent_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	v1 "orch/proto/v1"
)

// withVolume mounts a volume at /NAME in all containers of the pod.
func withVolume(v *v1.Volume, changes ...func(*v1.VolumeMount)) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, v)
		for _, c := range p.Spec.Containers {
			m := &v1.VolumeMount{Name: v.GetName(), MountPath: "/" + v.GetName()}
			for _, change := range changes {
				change(m)
			}
			c.VolumeMounts = append(c.VolumeMounts, m)
		}
	}
}

func configMapVolume(name, of string) *v1.Volume {
	return &v1.Volume{Name: name, ConfigMap: &v1.ConfigMapVolumeSource{Name: of}}
}

func labelsVolume(name string) *v1.Volume {
	return &v1.Volume{Name: name, DownwardApi: &v1.DownwardAPIVolumeSource{Items: []*v1.DownwardAPIVolumeFile{
		{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
	}}}
}

func (c *cluster) label(name, key, value string) {
	c.t.Helper()
	p := c.get(name)
	if p.Metadata.Labels == nil {
		p.Metadata.Labels = map[string]string{}
	}
	p.Metadata.Labels[key] = value
	if _, err := c.pods.Update(c.t.Context(), p); err != nil {
		c.t.Fatal(err)
	}
}

// left lists the uids of pods of which a volume is left.
func (c *cluster) left() []string {
	found, err := filepath.Glob(filepath.Join(c.dataDir, c.id, "*", "pods", "*"))
	if err != nil {
		c.t.Fatal(err)
	}
	return found
}

func TestVolumesWaitForWhatIsMissingAndFollowWhatChanges(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		n := c.start("n1", engine)
		c.create(pod("web", withVolume(configMapVolume("config", "c")), withVolume(labelsVolume("facts")), withVolume(&v1.Volume{Name: "scratch"})))
		synctest.Wait()
		p := c.get("web")
		if got := status(p, "app").GetState().GetWaiting().GetReason(); got != lifecycle.ReasonContainerCreating || p.GetStatus().GetPhase() != api.PodPending {
			t.Errorf("waits for %q in phase %s", got, p.GetStatus().GetPhase())
		}
		c.expect(engine) // nothing is made before the volumes are
		c.setConfigMap("c", map[string]string{"a": "1"})
		c.until("web", "ready", running)
		cat := func(path, want string) {
			t.Helper()
			synctest.Wait()
			if got := c.run(engine, "web", "cat", path); got != want {
				t.Errorf("%s holds %q, want %q", path, got, want)
			}
		}
		cat("/config/a", "1")

		c.setConfigMap("c", map[string]string{"a": "2", "b": "3"})
		cat("/config/a", "2")
		cat("/config/b", "3")
		c.label("web", "tier", "back")
		cat("/facts/labels", `tier="back"`)

		// What is missing now, or while no agent runs, does not disturb what runs.
		n.kill()
		if _, err := client.For[*v1.ConfigMap](c.client).Delete(t.Context(), "default", "c", client.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.start("n1", engine)
		synctest.Wait()
		c.run(engine, "web", "kill", "1")
		c.until("web", "started again", restarted(1))
		cat("/config/a", "2")
		c.setConfigMap("c", map[string]string{"a": "4"})
		cat("/config/a", "4")
		cat("/config/b", "cat: can't open '/config/b': No such file or directory\n(exit 1, <nil>)")

		c.delete("web", nil)
		c.until("web", "gone", gone)
		synctest.Wait()
		if left := c.left(); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
		told := slices.DeleteFunc(c.events("web"), func(e string) bool { return !strings.Contains(e, "FailedMount") })
		for _, e := range told {
			if !strings.Contains(e, `MountVolume.SetUp failed for volume "config" : configmap "c" not found`) {
				t.Error(e)
			}
		}
		if len(told) == 0 {
			t.Error("no event tells of the missing ConfigMap")
		}
	})
}

func TestVolumesOfPodsThatWentMeanwhileAreRemovedAndNoOthers(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		n := c.start("n1", engine)
		for _, name := range []string{"goes", "vanishes", "stays"} {
			c.create(pod(name, withVolume(&v1.Volume{Name: "scratch"})))
			c.until(name, "ready", running)
		}
		vanished := c.get("vanishes").GetMetadata().GetUid()
		stays := c.get("stays").GetMetadata().GetUid()
		n.kill()
		stranger := filepath.Join(c.dataDir, "other-cluster", "n1", "pods", "uid")
		neighbor := filepath.Join(c.dataDir, c.id, "n2", "pods", "uid")
		for _, dir := range []string{stranger, neighbor} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		c.delete("goes", proto.Int64(0))
		c.delete("vanishes", proto.Int64(0)) // and somebody removes its containers
		for _, name := range []string{"app", lifecycle.SandboxSlot} {
			if err := engine.Remove(t.Context(), c.find(engine, "vanishes", name)); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.ContainsFunc(c.left(), func(dir string) bool { return filepath.Base(dir) == vanished }) {
			t.Fatal("the test shows nothing")
		}
		c.start("n1", engine)
		for range 5 { // the grace period of what is gone from the API passes
			synctest.Wait()
			c.untilContainers(engine, "stays/POD#0 running", "stays/app#0 running")
		}
		synctest.Wait()
		left := c.left()
		if len(left) != 2 || filepath.Base(left[0]) != stays || left[1] != neighbor {
			t.Errorf("left over: %v", left)
		}
		if _, err := os.Stat(stranger); err != nil {
			t.Error(err)
		}
	})
}

func TestDockerVolumes(t *testing.T) {
	engine := marked{testdocker.Require(t)}
	if os.Getuid() != 0 {
		t.Skip("volumes in memory, fsGroup and subPath need an agent that is root")
	}
	image := testimage.Build(t, engine.Engine)
	c := newCluster(t)
	n := c.start("n1", engine)
	secrets := client.For[*v1.Secret](c.client)
	if _, err := secrets.Create(t.Context(), &v1.Secret{
		Metadata: &v1.ObjectMeta{Name: "s", Namespace: "default"}, Data: map[string][]byte{"key": []byte("hidden\n")},
	}); err != nil {
		t.Fatal(err)
	}
	c.setConfigMap("c", map[string]string{"a": "1", "b": "1"})
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("of the node\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.create(pod("web", withSidecar(image),
		withVolume(configMapVolume("config", "c")),
		withVolume(&v1.Volume{Name: "secret", Secret: &v1.SecretVolumeSource{
			SecretName: "s", Items: []*v1.KeyToPath{{Key: "key", Path: "deep/key", Mode: proto.Int32(0o400)}},
		}}),
		withVolume(&v1.Volume{Name: "all", Projected: &v1.ProjectedVolumeSource{Sources: []*v1.VolumeProjection{
			{ConfigMap: &v1.ConfigMapProjection{Name: "c"}},
			{Secret: &v1.SecretProjection{Name: "s"}},
			{DownwardApi: &v1.DownwardAPIProjection{Items: []*v1.DownwardAPIVolumeFile{
				{Path: "name", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}},
				{Path: "cpu", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "app", Resource: "requests.cpu"}},
			}}},
		}}}),
		withVolume(labelsVolume("facts")),
		withVolume(&v1.Volume{Name: "scratch"}),
		withVolume(&v1.Volume{Name: "memory", EmptyDir: &v1.EmptyDirVolumeSource{Medium: api.MediumMemory, SizeLimit: "1Mi"}}),
		withVolume(&v1.Volume{Name: "node", HostPath: &v1.HostPathVolumeSource{Path: host, Type: proto.String("Directory")}},
			func(m *v1.VolumeMount) { m.ReadOnly = true }),
		withVolume(&v1.Volume{Name: "made", HostPath: &v1.HostPathVolumeSource{Path: filepath.Join(host, "made")}}),
		program(image, "-watch", "/config"),
		func(p *v1.Pod) {
			p.Spec.Containers[1].Args = nil
			p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: proto.Int64(1000), RunAsGroup: proto.Int64(1000), FsGroup: proto.Int64(4000)}
			p.Spec.Containers[0].Env = []*v1.EnvVar{{Name: "PART", Value: "logs"}}
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts,
				&v1.VolumeMount{Name: "scratch", MountPath: "/part", SubPathExpr: "$(PART)/app"},
				&v1.VolumeMount{Name: "config", MountPath: "/etc/one.conf", SubPath: "a"})
		},
	))
	p := c.until("web", "ready", running)
	run := func(name string, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if _, err := engine.Exec(t.Context(), id(c.get("web"), name), container.ExecOptions{
			Command: append(append([]string{testimage.Path}, args...), "-exit", "0"), Stdout: &out, Stderr: &out,
		}); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	is := func(name, want string, args ...string) {
		t.Helper()
		if got := run(name, args...); got != want {
			t.Errorf("%s %v: %q, want %q", name, args, got, want)
		}
	}
	// Some engines count the process's own group among the further ones.
	if got := run("app", "-id"); !strings.HasPrefix(got, "1000:1000:") || !strings.HasSuffix(got, "4000\n") {
		t.Errorf("user and groups %q", got)
	}
	is("app", "hidden\n-r--r----- 4000\n", "-stat", "/secret/deep/key", "-print", "/secret/deep/key")
	is("app", "dgrwxrwxrwx 4000\n", "-stat", "/scratch")
	is("app", "-rw-r--r-- 4000\n", "-stat", "/config/a")
	for path, want := range map[string]string{"/all/a": "1", "/all/key": "hidden\n", "/all/name": "web", "/all/cpu": "0", "/node/file": "of the node\n", "/etc/one.conf": "1"} {
		is("app", want, "-print", path)
	}
	is("app", "<nil>\n", "-write", "/scratch/shared")
	is("side", "", "-print", "/scratch/shared")
	is("app", "<nil>\n", "-write", "/part/mine")
	is("side", "", "-print", "/scratch/logs/app/mine")
	is("app", "<nil>\n", "-write", "/memory/x")
	for _, path := range []string{"/config/x", "/secret/x", "/all/x", "/facts/x", "/node/x"} {
		is("app", "read-only file system\n", "-write", path)
	}
	streams := n.streams(t)
	for path, want := range map[string]string{
		"/scratch": "", "/memory/mine": "", "/part": "",
		"/config/x": `/config/x: volume "config" is mounted read-only in container "app", at /config`,
		"/node/x":   `/node/x: volume "node" is mounted read-only in container "app", at /node`,
	} {
		if _, err := copyTo(t, streams, path); (err != nil) != (want != "") || err != nil && err.Error() != want {
			t.Errorf("copy to %s: %v, want %q", path, err, want)
		}
	}
	for _, path := range []string{"/scratch/mine", "/memory/mine", "/scratch/logs/app/mine"} {
		var archive bytes.Buffer
		if err := engine.CopyFrom(t.Context(), id(p, "side"), path, &archive); err != nil || !strings.Contains(archive.String(), "text") {
			t.Errorf("copy from %s: %d bytes, %v", path, archive.Len(), err)
		}
	}
	if info, err := os.Stat(filepath.Join(host, "made")); err != nil || !info.IsDir() {
		t.Errorf("the hostPath of no type: %v", err)
	}

	// Changes are seen by who reads in a loop, each of them whole.
	for i := 2; i <= 5; i++ {
		c.setConfigMap("c", map[string]string{"a": fmt.Sprint(i), "b": fmt.Sprint(i)})
		log := output(t, engine, id(p, "app"), fmt.Sprintf("version %d\n", i))
		if strings.Contains(log, "mixed") {
			t.Errorf("two versions at once: %s", log)
		}
	}
	is("app", "1", "-print", "/etc/one.conf")

	// A new attempt, of a new agent, keeps what containers wrote.
	n.kill()
	if err := engine.Kill(t.Context(), id(p, "app"), "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	n = c.start("n1", engine)
	c.until("web", "healed", restarted(1))
	is("app", "", "-print", "/scratch/shared")
	is("app", "", "-print", "/memory/x")
	is("app", "5", "-print", "/etc/one.conf")

	// An agent that was killed while the pod went leaves nothing to the next one.
	n.kill()
	c.delete("web", proto.Int64(0))
	c.start("n1", engine)
	c.untilContainers(engine)
	for deadline := time.Now().Add(c.patience); len(c.left()) > 0 && time.Now().Before(deadline); {
		c.expect(engine) // the engine sets the pace
	}
	if left := c.left(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if _, err := os.Stat(filepath.Join(host, "file")); err != nil {
		t.Errorf("the node's own files are gone: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), c.dataDir) {
		t.Errorf("still mounted: %v", err)
	}
}
