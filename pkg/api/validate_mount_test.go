package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "orch/proto/v1"
)

func TestVolumesThatAreWrongAreRefused(t *testing.T) {
	const mode = "must be a number between 0 and 0777 (octal), both inclusive"
	one := func(v *v1.Volume) []*v1.Volume { v.Name = "v"; return []*v1.Volume{v} }
	config := func(items ...*v1.KeyToPath) []*v1.Volume {
		return one(&v1.Volume{ConfigMap: &v1.ConfigMapVolumeSource{Name: "c", Items: items}})
	}
	facts := func(f *v1.DownwardAPIVolumeFile) []*v1.Volume {
		return one(&v1.Volume{DownwardApi: &v1.DownwardAPIVolumeSource{Items: []*v1.DownwardAPIVolumeFile{f}}})
	}
	projected := func(s ...*v1.VolumeProjection) []*v1.Volume {
		return one(&v1.Volume{Projected: &v1.ProjectedVolumeSource{Sources: s}})
	}
	host := func(path, typ string) []*v1.Volume {
		return one(&v1.Volume{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &typ}})
	}
	name := &v1.ObjectFieldSelector{FieldPath: "metadata.name"}
	for _, tt := range []struct {
		name    string
		volumes []*v1.Volume
		want    []string
	}{
		{"no name", []*v1.Volume{{}}, []string{"[0].name: Required value"}},
		{"a name twice", []*v1.Volume{{Name: "v"}, {Name: "v"}}, []string{`[1].name: Duplicate value: "v"`}},
		{
			"a name that is no DNS label",
			[]*v1.Volume{{Name: "V"}},
			[]string{`[0].name: Invalid value: "V": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`},
		},
		{
			"two sources", one(&v1.Volume{EmptyDir: &v1.EmptyDirVolumeSource{}, ConfigMap: &v1.ConfigMapVolumeSource{Name: "c"}}),
			[]string{"[0].configMap: Forbidden: may not specify more than 1 volume type"},
		},
		{"a medium that nobody knows", one(&v1.Volume{EmptyDir: &v1.EmptyDirVolumeSource{Medium: "Tape"}}), []string{`[0].emptyDir.medium: Unsupported value: "Tape": supported values: "", "Memory"`}},
		{"a negative size", one(&v1.Volume{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: "-1"}}), []string{"[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"}},
		{"a hostPath without a path", host("", ""), []string{"[0].hostPath.path: Required value"}},
		{"a relative hostPath", host("data", ""), []string{`[0].hostPath.path: Invalid value: "data": must be an absolute path`}},
		{"a hostPath that goes back", host("/a/../b", ""), []string{`[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'`}},
		{
			"a type that nobody knows", host("/a", "Folder"),
			[]string{`[0].hostPath.type: Unsupported value: "Folder": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`},
		},
		{"a ConfigMap without a name", one(&v1.Volume{ConfigMap: &v1.ConfigMapVolumeSource{}}), []string{"[0].configMap.name: Required value"}},
		{"a Secret without a name", one(&v1.Volume{Secret: &v1.SecretVolumeSource{}}), []string{"[0].secret.secretName: Required value"}},
		{
			"a mode above 0777", one(&v1.Volume{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: proto.Int32(0o1000)}}),
			[]string{"[0].secret.defaultMode: Invalid value: 512: " + mode},
		},
		{"a negative mode", config(&v1.KeyToPath{Key: "k", Path: "p", Mode: proto.Int32(-1)}), []string{"[0].configMap.items[0].mode: Invalid value: -1: " + mode}},
		{"an item of nothing", config(&v1.KeyToPath{}), []string{"[0].configMap.items[0].key: Required value", "[0].configMap.items[0].path: Required value"}},
		{"an item that leads out", config(&v1.KeyToPath{Key: "k", Path: "a/../../b"}), []string{`[0].configMap.items[0].path: Invalid value: "a/../../b": must not contain '..'`}},
		{"an item with an absolute path", config(&v1.KeyToPath{Key: "k", Path: "/a"}), []string{`[0].configMap.items[0].path: Invalid value: "/a": must be a relative path`}},
		{"an item with a name that Orch uses", config(&v1.KeyToPath{Key: "k", Path: "..data"}), []string{`[0].configMap.items[0].path: Invalid value: "..data": must not start with '..'`}},
		{
			"a fact of nothing", facts(&v1.DownwardAPIVolumeFile{}),
			[]string{"[0].downwardAPI.path: Required value", "[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"},
		},
		{
			"a fact that is not known before the pod runs", facts(&v1.DownwardAPIVolumeFile{Path: "p", FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}),
			[]string{`[0].downwardAPI.fieldRef.fieldPath: Unsupported value: "status.podIP": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"`},
		},
		{
			"two facts in one", facts(&v1.DownwardAPIVolumeFile{Path: "p", FieldRef: name, ResourceFieldRef: &v1.ResourceFieldSelector{}}),
			[]string{`[0].downwardAPI: Invalid value: "resource": fieldRef and resourceFieldRef can not be specified simultaneously`},
		},
		{
			"a resource of no container", facts(&v1.DownwardAPIVolumeFile{Path: "p", ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.cpu"}}),
			[]string{"[0].downwardAPI.resourceFieldRef.containerName: Required value"},
		},
		{
			"one path in two sources",
			projected(&v1.VolumeProjection{ConfigMap: &v1.ConfigMapProjection{Name: "c", Items: []*v1.KeyToPath{{Key: "k", Path: "p"}}}},
				&v1.VolumeProjection{Secret: &v1.SecretProjection{Name: "s", Items: []*v1.KeyToPath{{Key: "k", Path: "p"}}}}),
			[]string{`[0].projected: Invalid value: "s": conflicting duplicate paths`},
		},
		{
			"two sources in one", projected(&v1.VolumeProjection{ConfigMap: &v1.ConfigMapProjection{Name: "c"}, Secret: &v1.SecretProjection{}}),
			[]string{"[0].projected.sources[0].secret.name: Required value", "[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &v1.Pod{Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: &v1.PodSpec{
				Containers: []*v1.Container{{Name: "app", Image: "i"}}, Volumes: tt.volumes,
			}}
			Default(p)
			var want []string
			for _, w := range tt.want {
				want = append(want, "spec.volumes"+w)
			}
			if diff := cmp.Diff(want, sentences(Validate(p))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMountsThatAreWrongAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mounts []*v1.VolumeMount
		want   []string
	}{
		{"of nothing", []*v1.VolumeMount{{}}, []string{"[0].name: Required value", `[0].name: Not found: ""`, "[0].mountPath: Required value"}},
		{"of a volume that is not there", []*v1.VolumeMount{{Name: "x", MountPath: "/x"}}, []string{`[0].name: Not found: "x"`}},
		{"two at one path", []*v1.VolumeMount{{Name: "v", MountPath: "/x"}, {Name: "v", MountPath: "/x"}}, []string{`[1].mountPath: Invalid value: "/x": must be unique`}},
		{"a part outside of the volume", []*v1.VolumeMount{{Name: "v", MountPath: "/x", SubPath: "../y"}}, []string{`.subPath: Invalid value: "../y": must not contain '..'`}},
		{"a part with an absolute path", []*v1.VolumeMount{{Name: "v", MountPath: "/x", SubPathExpr: "/y"}}, []string{`.subPathExpr: Invalid value: "/y": must be a relative path`}},
		{"two parts", []*v1.VolumeMount{{Name: "v", MountPath: "/x", SubPath: "a", SubPathExpr: "b"}}, []string{`[0].subPathExpr: Invalid value: "b": subPathExpr and subPath are mutually exclusive`}},
		{
			"with propagation",
			[]*v1.VolumeMount{{Name: "v", MountPath: "/x", MountPropagation: proto.String("Bidirectional")}},
			[]string{`.mountPropagation: Unsupported value: "Bidirectional": supported values: "None"`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &v1.Pod{Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: &v1.PodSpec{
				Containers: []*v1.Container{{Name: "app", Image: "i", VolumeMounts: tt.mounts}}, Volumes: []*v1.Volume{{Name: "v"}},
			}}
			Default(p)
			var want []string
			for _, w := range tt.want {
				want = append(want, "spec.containers[0].volumeMounts"+w)
			}
			if diff := cmp.Diff(want, sentences(Validate(p))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestVolumesHaveTheDefaultsOfKubernetes(t *testing.T) {
	p := &v1.Pod{Spec: &v1.PodSpec{Volumes: []*v1.Volume{
		{Name: "none"},
		{Name: "size", EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: "1024Ki"}},
		{Name: "host", HostPath: &v1.HostPathVolumeSource{Path: "/x"}},
		{Name: "config", ConfigMap: &v1.ConfigMapVolumeSource{Name: "c"}},
		{Name: "own", Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: proto.Int32(0)}},
		{Name: "all", Projected: &v1.ProjectedVolumeSource{Sources: []*v1.VolumeProjection{{DownwardApi: &v1.DownwardAPIProjection{
			Items: []*v1.DownwardAPIVolumeFile{{Path: "p", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		}}}}},
	}}}
	Default(p)
	v := p.Spec.Volumes
	if v[0].EmptyDir == nil || v[1].EmptyDir.SizeLimit != "1Mi" || v[2].HostPath.Type == nil || v[3].ConfigMap.GetDefaultMode() != 0o644 ||
		v[4].Secret.GetDefaultMode() != 0 || v[5].Projected.GetDefaultMode() != 0o644 ||
		v[5].Projected.Sources[0].DownwardApi.Items[0].FieldRef.ApiVersion != "v1" {
		t.Errorf("%v", p)
	}
}
