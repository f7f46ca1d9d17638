package lifecycle

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"orch/pkg/agent/volume"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func TestVolumes(t *testing.T) {
	yes, mode, all := proto.Bool(true), proto.Int32(0o400), proto.Int32(0o644)
	objects := found(
		&v1.ConfigMap{
			Metadata: &v1.ObjectMeta{Name: "c", Namespace: "default"},
			Data:     map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"bin": {0xff}},
		},
		&v1.Secret{Metadata: &v1.ObjectMeta{Name: "s", Namespace: "default"}, Data: map[string][]byte{"k": []byte("hidden")}},
		&v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: "elsewhere", Namespace: "other"}},
	)
	config := func(c *v1.ConfigMapVolumeSource) *v1.Volume { c.DefaultMode = all; return &v1.Volume{ConfigMap: c} }
	secret := func(s *v1.SecretVolumeSource) *v1.Volume { s.DefaultMode = all; return &v1.Volume{Secret: s} }
	projected := func(p ...*v1.VolumeProjection) *v1.Volume {
		return &v1.Volume{Projected: &v1.ProjectedVolumeSource{Sources: p, DefaultMode: all}}
	}
	fact := func(path, field string) *v1.DownwardAPIVolumeFile {
		return &v1.DownwardAPIVolumeFile{Path: path, FieldRef: &v1.ObjectFieldSelector{FieldPath: field}}
	}
	for _, tt := range []struct {
		name   string
		volume *v1.Volume
		want   []string // path, mode and text of the files
		err    string
	}{
		{"all of a ConfigMap, binary data too", config(&v1.ConfigMapVolumeSource{Name: "c"}), []string{"a 0644 1", "b 0644 2", "bin 0644 \xff"}, ""},
		{
			"items of a ConfigMap, where they are wanted",
			config(&v1.ConfigMapVolumeSource{Name: "c", Items: []*v1.KeyToPath{{Key: "b", Path: "deep//er/./b", Mode: mode}}}),
			[]string{"deep/er/b 0400 2"},
			"",
		},
		{"a ConfigMap that is missing", config(&v1.ConfigMapVolumeSource{Name: "x"}), nil, `configmap "x" not found`},
		{"a ConfigMap of another namespace", config(&v1.ConfigMapVolumeSource{Name: "elsewhere"}), nil, `configmap "elsewhere" not found`},
		{"a ConfigMap that may be missing", config(&v1.ConfigMapVolumeSource{Name: "x", Optional: yes}), nil, ""},
		{
			"a key that is missing", config(&v1.ConfigMapVolumeSource{Name: "c", Items: []*v1.KeyToPath{{Key: "z", Path: "z"}}}), nil,
			"configmap references non-existent config key: z",
		},
		{
			"a key that may be missing",
			config(&v1.ConfigMapVolumeSource{Name: "c", Optional: yes, Items: []*v1.KeyToPath{{Key: "z", Path: "z"}, {Key: "a", Path: "a"}}}),
			[]string{"a 0644 1"},
			"",
		},
		{"a Secret", secret(&v1.SecretVolumeSource{SecretName: "s"}), []string{"k 0644 hidden"}, ""},
		{"a Secret that is missing", secret(&v1.SecretVolumeSource{SecretName: "x"}), nil, `secret "x" not found`},
		{
			"a Secret's key that is missing", secret(&v1.SecretVolumeSource{SecretName: "s", Items: []*v1.KeyToPath{{Key: "z", Path: "z"}}}), nil,
			"references non-existent secret key: z",
		},
		{
			"facts about the pod",
			&v1.Volume{DownwardApi: &v1.DownwardAPIVolumeSource{DefaultMode: mode, Items: []*v1.DownwardAPIVolumeFile{
				fact("name", "metadata.name"), fact("labels", "metadata.labels"), fact("one", "metadata.labels['tier']"),
				{Path: "cpu", Mode: all, ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "app", Resource: "requests.cpu", Divisor: "1m"}},
			}}},
			[]string{"cpu 0644 250", "labels 0400 tier=\"web\"", "name 0400 web", "one 0400 web"},
			"",
		},
		{
			"a resource of a container that is not there",
			&v1.Volume{DownwardApi: &v1.DownwardAPIVolumeSource{Items: []*v1.DownwardAPIVolumeFile{
				{Path: "cpu", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "nobody", Resource: "limits.cpu"}},
			}}},
			nil,
			"container nobody not found",
		},
		{
			"several sources in one",
			projected(&v1.VolumeProjection{ConfigMap: &v1.ConfigMapProjection{Name: "c", Items: []*v1.KeyToPath{{Key: "a", Path: "conf/a"}}}},
				&v1.VolumeProjection{Secret: &v1.SecretProjection{Name: "s"}},
				&v1.VolumeProjection{DownwardApi: &v1.DownwardAPIProjection{Items: []*v1.DownwardAPIVolumeFile{fact("name", "metadata.name")}}}),
			[]string{"conf/a 0644 1", "k 0644 hidden", "name 0644 web"},
			"",
		},
		{
			"several sources, of which one is missing",
			projected(&v1.VolumeProjection{ConfigMap: &v1.ConfigMapProjection{Name: "c"}}, &v1.VolumeProjection{Secret: &v1.SecretProjection{Name: "x"}}),
			nil,
			`secret "x" not found`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := view(newPod(func(p *v1.Pod) {
				p.Metadata.Name, p.Metadata.Labels = "web", map[string]string{"tier": "web"}
				p.Spec.Containers[0].Resources = &v1.ResourceRequirements{Requests: map[string]string{"cpu": "250m"}}
				p.Spec.Volumes = []*v1.Volume{tt.volume}
			}))
			v.Objects = objects
			got := v.Volumes()[0]
			if (got.Err == nil) != (tt.err == "") || got.Err != nil && got.Err.Error() != tt.err {
				t.Fatalf("error %v, want %s", got.Err, tt.err)
			}
			if got.Err != nil {
				return
			}
			var files []string
			for _, name := range slices.Sorted(maps.Keys(got.Files)) {
				files = append(files, fmt.Sprintf("%s %#o %s", name, got.Files[name].Mode, got.Files[name].Data))
			}
			if diff := cmp.Diff(tt.want, files); diff != "" || !got.ReadOnly() {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.Memory != (tt.volume.ConfigMap == nil) {
				t.Errorf("in memory: %t", got.Memory)
			}
		})
	}
}

func TestVolumesThatContainersOwn(t *testing.T) {
	pod := newPod(func(p *v1.Pod) {
		p.Spec.SecurityContext = &v1.PodSecurityContext{FsGroup: proto.Int64(4000), SupplementalGroups: []int64{1}}
		p.Spec.Volumes = []*v1.Volume{
			{Name: "host", HostPath: &v1.HostPathVolumeSource{Path: "/data", Type: proto.String("Directory")}},
			{Name: "scratch", EmptyDir: &v1.EmptyDirVolumeSource{}},
			{Name: "cache", EmptyDir: &v1.EmptyDirVolumeSource{Medium: "Memory", SizeLimit: "1Mi"}},
		}
	})
	var got []volume.Volume
	for _, v := range view(pod).Volumes() {
		got = append(got, v.Volume)
	}
	want := []volume.Volume{
		{Name: "host", HostPath: "/data", HostPathType: "Directory"}, // the node's files are not given away
		{Name: "scratch", Group: proto.Int64(4000)},
		{Name: "cache", Group: proto.Int64(4000), Memory: true, Size: 1 << 20},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	config := ContainerConfig(Owner{}, pod, pod.Spec.Containers[0], Action{Sandbox: &Container{}})
	if diff := cmp.Diff([]int64{1, 4000}, config.Security.Groups); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
}

func TestMounts(t *testing.T) {
	scratch := &v1.Volume{Name: "scratch"}
	config := &v1.Volume{Name: "config", DownwardApi: &v1.DownwardAPIVolumeSource{}}
	for _, tt := range []struct {
		name  string
		mount *v1.VolumeMount
		want  string
		err   string
	}{
		{"an emptyDir can be written", &v1.VolumeMount{Name: "scratch", MountPath: "/data"}, `/data "" ro=false`, ""},
		{"unless the mount says otherwise", &v1.VolumeMount{Name: "scratch", MountPath: "/data", ReadOnly: true}, `/data "" ro=true`, ""},
		{"what Orch writes cannot", &v1.VolumeMount{Name: "config", MountPath: "/etc/x"}, `/etc/x "" ro=true`, ""},
		{"a relative path begins at the root", &v1.VolumeMount{Name: "scratch", MountPath: "data"}, `/data "" ro=false`, ""},
		{"a part", &v1.VolumeMount{Name: "scratch", MountPath: "/data", SubPath: "a/b"}, `/data "a/b" ro=false`, ""},
		{"a part that variables name", &v1.VolumeMount{Name: "scratch", MountPath: "/data", SubPathExpr: "$(POD)/$$(X)"}, `/data "web-1/$(X)" ro=false`, ""},
		{"a variable that is missing", &v1.VolumeMount{Name: "scratch", MountPath: "/data", SubPathExpr: "$(NONE)"}, "", "missing value for NONE"},
		{"a variable that leads out", &v1.VolumeMount{Name: "scratch", MountPath: "/data", SubPathExpr: "x/$(UP)"}, "", "unable to provision SubPath `x/../..`: must not contain '..'"},
		{"a variable that leads to the root", &v1.VolumeMount{Name: "scratch", MountPath: "/data", SubPathExpr: "$(ROOT)"}, "", "error SubPath `/etc` must not be an absolute path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := newPod(func(p *v1.Pod) {
				p.Spec.Volumes = []*v1.Volume{scratch, config}
				p.Spec.Containers[0].VolumeMounts = []*v1.VolumeMount{tt.mount}
				p.Spec.Containers[0].Env = []*v1.EnvVar{{Name: "POD", Value: "web-1"}, {Name: "UP", Value: "../.."}, {Name: "ROOT", Value: "/etc"}}
			})
			_, mounts, err := view(pod, sandbox()).configuration(pod.Spec.Containers[0])
			if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Fatalf("error %v, want %s", err, tt.err)
			}
			if err == nil {
				if got := fmt.Sprintf("%s %q ro=%t", mounts[0].Target, mounts[0].SubPath, mounts[0].ReadOnly); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			}
		})
	}
}

func TestNothingIsMadeBeforeTheVolumesAre(t *testing.T) {
	pod := newPod(func(p *v1.Pod) {
		p.Spec.Volumes = []*v1.Volume{
			{Name: "config", ConfigMap: &v1.ConfigMapVolumeSource{Name: "c", DefaultMode: proto.Int32(0o644)}},
			{Name: "scratch", EmptyDir: &v1.EmptyDirVolumeSource{}},
		}
	})
	if diff := cmp.Diff([]Ref{{Kind: "ConfigMap", Key: api.Key{Namespace: "default", Name: "c"}}}, api.References(pod)); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
	verbs := func(r Result) (all []string) {
		for _, a := range r.Actions {
			all = append(all, string(a.Verb))
			for _, v := range a.Volumes {
				all = append(all, v.Name)
			}
		}
		return all
	}
	expect := func(what string, r Result, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, verbs(r)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	v := view(pod)
	expect("before the ConfigMap is looked up", Plan(v), "mount volumes", "scratch")
	v.Objects = found()
	r := Plan(v)
	expect("without the ConfigMap", r, "mount volumes", "scratch")
	if diff := cmp.Diff(map[string]string{"config": `configmap "c" not found`}, r.Unmountable); diff != "" {
		t.Errorf("without the ConfigMap (-want +got):\n%s", diff)
	}
	if got := status(v); got != "ContainerCreating" {
		t.Errorf("without the ConfigMap: %s", got)
	}
	v.Objects = found(configMap("c", map[string]string{"a": "1"}))
	r = Plan(v)
	expect("with the ConfigMap", r, "mount volumes", "config", "scratch")
	for _, made := range r.Actions[0].Volumes {
		v.Memory.Volumes[made.Name] = made.Fingerprint()
	}
	expect("when all are made", Plan(v), "create sandbox")

	v.Objects = found(configMap("c", map[string]string{"a": "2"}))
	expect("when one changes, nothing waits", Plan(v), "create sandbox", "mount volumes", "config")
	v.Objects = found()
	expect("when one goes away, nothing waits", Plan(v), "create sandbox")
}

func TestVolumesAreRemovedAfterTheContainersAndBeforeThePod(t *testing.T) {
	pod := newPod(deleted(0, 0))
	v := view(pod)
	v.Memory.Mounted = true
	if r := Plan(v); len(r.Actions) != 1 || r.Actions[0].Verb != Verify {
		t.Errorf("first: %+v", r.Actions)
	}
	v.Memory.Empty = true
	if r := Plan(v); len(r.Actions) != 1 || r.Actions[0].Verb != Unmount {
		t.Errorf("then: %+v", r.Actions)
	}
	v.Memory.Mounted = false
	if r := Plan(v); len(r.Actions) != 1 || r.Actions[0].Verb != Delete {
		t.Errorf("at last: %+v", r.Actions)
	}
	v.Pod, v.Memory.Mounted = nil, true
	if r := Plan(v); r.Done || len(r.Actions) != 1 || r.Actions[0].Verb != Unmount {
		t.Errorf("of a pod that is gone: %+v", r)
	}
}
