package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "orch/proto/v1"
)

// mounts writes what a container mounts.
func (d description) mounts(level int, ct *v1.Container) {
	if len(ct.GetVolumeMounts()) == 0 {
		d.line(level, "Mounts", "<none>")
		return
	}
	d.head(level, "Mounts")
	sorted := slices.SortedFunc(slices.Values(ct.GetVolumeMounts()), func(a, b *v1.VolumeMount) int {
		return cmp.Compare(a.GetMountPath(), b.GetMountPath())
	})
	for _, m := range sorted {
		flags := map[bool]string{true: "ro", false: "rw"}[m.GetReadOnly()]
		if m.GetSubPath() != "" {
			flags += fmt.Sprintf(",path=%q", m.GetSubPath())
		}
		fmt.Fprintf(d.w, "%s%s from %s (%s)\n", strings.Repeat("  ", level+1), m.GetMountPath(), m.GetName(), flags)
	}
}

// volumes writes the volumes of a pod, as kubectl does; also its template's, at
// level 1, are indented as there.
func (d description) volumes(level int, volumes []*v1.Volume) {
	if len(volumes) == 0 {
		d.line(level, "Volumes", "<none>")
		return
	}
	d.head(level, "Volumes")
	for _, v := range volumes {
		fmt.Fprintf(d.w, "%s%s:\n", strings.Repeat(" ", level+2), v.GetName())
		d.volume(2, v)
	}
}

func (d description) volume(level int, v *v1.Volume) {
	typ := func(what string) { d.line(level, "Type", "%s", what) }
	object := func(name, value string, optional bool) {
		d.line(level, name, "%s", value)
		d.line(level, "Optional", "%t", optional)
	}
	switch {
	case v.HostPath != nil:
		typ("HostPath (bare host directory volume)")
		d.line(level, "Path", "%s", v.GetHostPath().GetPath())
		hostPathType := "<none>"
		if v.HostPath.Type != nil {
			hostPathType = v.GetHostPath().GetType()
		}
		d.line(level, "HostPathType", "%s", hostPathType)
	case v.EmptyDir != nil:
		typ("EmptyDir (a temporary directory that shares a pod's lifetime)")
		d.line(level, "Medium", "%s", v.GetEmptyDir().GetMedium())
		limit := v.GetEmptyDir().GetSizeLimit()
		if limit == "" || limit == "0" {
			limit = "<unset>"
		}
		d.line(level, "SizeLimit", "%s", limit)
	case v.Secret != nil:
		typ("Secret (a volume populated by a Secret)")
		object("SecretName", v.GetSecret().GetSecretName(), v.GetSecret().GetOptional())
	case v.ConfigMap != nil:
		typ("ConfigMap (a volume populated by a ConfigMap)")
		object("Name", v.GetConfigMap().GetName(), v.GetConfigMap().GetOptional())
	case v.DownwardApi != nil:
		typ("DownwardAPI (a volume populated by information about the pod)")
		d.head(level, "Items")
		for _, f := range v.GetDownwardApi().GetItems() {
			what := f.GetFieldRef().GetFieldPath()
			if r := f.GetResourceFieldRef(); r != nil {
				what = r.GetResource()
			}
			fmt.Fprintf(d.w, "%s%s -> %s\n", strings.Repeat("  ", level+1), what, f.GetPath())
		}
	case v.Projected != nil:
		typ("Projected (a volume that contains injected data from multiple sources)")
		for _, s := range v.GetProjected().GetSources() {
			switch {
			case s.Secret != nil:
				object("SecretName", s.GetSecret().GetName(), s.GetSecret().GetOptional())
			case s.DownwardApi != nil:
				d.line(level, "DownwardAPI", "true")
			case s.ConfigMap != nil:
				object("ConfigMapName", s.GetConfigMap().GetName(), s.GetConfigMap().GetOptional())
			}
		}
	}
}
