package api

import (
	"path/filepath"
	"slices"
	"strings"

	v1 "orch/proto/v1"
)

// Types of a hostPath. An empty one checks nothing.
const (
	HostPathDirectoryOrCreate = "DirectoryOrCreate"
	HostPathDirectory         = "Directory"
	HostPathFileOrCreate      = "FileOrCreate"
	HostPathFile              = "File"
	HostPathSocket            = "Socket"
	HostPathCharDevice        = "CharDevice"
	HostPathBlockDevice       = "BlockDevice"
)

// MediumMemory makes an emptyDir a tmpfs.
const MediumMemory = "Memory"

// MountPropagationNone is the only propagation that there is.
const MountPropagationNone = "None"

const badFileMode = "must be a number between 0 and 0777 (octal), both inclusive"

// volumeFields are the fields of a pod that can become a file, besides single
// labels and annotations.
var volumeFields = []string{"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"}

// volumes checks the volumes of a pod, and what its containers mount of them.
func (e *problems) volumes(p path, s *v1.PodSpec) {
	names := map[string]bool{}
	for i, v := range s.GetVolumes() {
		p, before := p.child("volumes").index(i), len(e.list)
		e.volumeSource(p, v)
		e.valid(p.child("name"), v.GetName(), dnsLabel)
		if names[v.GetName()] {
			e.duplicate(p.child("name"), v.GetName())
		}
		if len(e.list) == before { // a volume that is wrong is none, as in Kubernetes
			names[v.GetName()] = true
		}
	}
	for i, c := range s.GetInitContainers() {
		e.volumeMounts(p.child("initContainers").index(i).child("volumeMounts"), c.GetVolumeMounts(), names)
	}
	for i, c := range s.GetContainers() {
		e.volumeMounts(p.child("containers").index(i).child("volumeMounts"), c.GetVolumeMounts(), names)
	}
	if g := s.GetSecurityContext(); g != nil {
		at := p.child("securityContext")
		e.id(at.child("fsGroup"), g.FsGroup)
		if g.FsGroupChangePolicy != nil {
			e.oneOf(at.child("fsGroupChangePolicy"), g.GetFsGroupChangePolicy(), "Always", "OnRootMismatch")
		}
	}
}

func (e *problems) volumeSource(p path, v *v1.Volume) {
	sources := 0
	only := func(name string, isSet bool, check func(path)) {
		switch p := p.child(name); {
		case !isSet:
		case sources > 0:
			e.forbidden(p, "may not specify more than 1 volume type")
		default:
			sources++
			check(p)
		}
	}
	only("emptyDir", v.EmptyDir != nil, func(p path) { e.emptyDir(p, v.GetEmptyDir()) })
	only("hostPath", v.HostPath != nil, func(p path) { e.hostPath(p, v.GetHostPath()) })
	only("secret", v.Secret != nil, func(p path) {
		e.present(p.child("secretName"), v.GetSecret().GetSecretName())
		e.fileMode(p.child("defaultMode"), v.GetSecret().DefaultMode)
		e.items(p.child("items"), v.GetSecret().GetItems())
	})
	only("downwardAPI", v.DownwardApi != nil, func(p path) {
		e.fileMode(p.child("defaultMode"), v.GetDownwardApi().DefaultMode)
		e.facts(p, v.GetDownwardApi().GetItems())
	})
	only("configMap", v.ConfigMap != nil, func(p path) {
		e.present(p.child("name"), v.GetConfigMap().GetName())
		e.fileMode(p.child("defaultMode"), v.GetConfigMap().DefaultMode)
		e.items(p.child("items"), v.GetConfigMap().GetItems())
	})
	only("projected", v.Projected != nil, func(p path) { e.projected(p, v.GetProjected()) })
	if sources == 0 {
		e.required(p, "must specify a volume type")
	}
}

func (e *problems) emptyDir(p path, d *v1.EmptyDirVolumeSource) {
	e.maybeOneOf(p.child("medium"), d.GetMedium(), "", MediumMemory)
	if d.GetSizeLimit() == "" {
		return
	}
	switch q, err := ParseQuantity(d.GetSizeLimit()); {
	case err != nil:
		e.invalid(p.child("sizeLimit"), d.GetSizeLimit(), err.Error())
	case q.Sign() < 0:
		e.forbidden(p.child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
	}
}

// hostPath refuses a relative path, too: Kubernetes leaves that to the container
// engine, which fails.
func (e *problems) hostPath(p path, h *v1.HostPathVolumeSource) {
	if h.GetPath() == "" {
		e.required(p.child("path"), "")
		return
	}
	if !filepath.IsAbs(h.GetPath()) {
		e.invalid(p.child("path"), h.GetPath(), "must be an absolute path")
	}
	e.noBacksteps(p.child("path"), h.GetPath())
	e.maybeOneOf(p.child("type"), h.GetType(), "", HostPathBlockDevice, HostPathCharDevice, HostPathDirectory,
		HostPathDirectoryOrCreate, HostPathFile, HostPathFileOrCreate, HostPathSocket)
}

func (e *problems) projected(p path, v *v1.ProjectedVolumeSource) {
	e.fileMode(p.child("defaultMode"), v.DefaultMode)
	seen := map[string]bool{}
	once := func(file, shown string) {
		if seen[file] {
			e.invalid(p, shown, "conflicting duplicate paths")
		}
		seen[file] = file != ""
	}
	for i, s := range v.GetSources() {
		at, sources := p.child("sources").index(i), 0
		for _, o := range []struct {
			kind  string
			isSet bool
			name  string
			items []*v1.KeyToPath
		}{
			{"secret", s.Secret != nil, s.GetSecret().GetName(), s.GetSecret().GetItems()},
			{"configMap", s.ConfigMap != nil, s.GetConfigMap().GetName(), s.GetConfigMap().GetItems()},
		} {
			if !o.isSet {
				continue
			}
			sources++
			e.present(at.child(o.kind).child("name"), o.name)
			e.items(at.child(o.kind).child("items"), o.items)
			for _, item := range o.items {
				once(item.GetPath(), o.name)
			}
		}
		if s.DownwardApi != nil {
			sources++
			e.facts(at.child("downwardAPI"), s.GetDownwardApi().GetItems())
			for _, f := range s.GetDownwardApi().GetItems() {
				once(f.GetPath(), f.GetPath())
			}
		}
		if sources > 1 {
			e.forbidden(at, "may not specify more than 1 volume type per source")
		}
	}
}

func (e *problems) items(p path, items []*v1.KeyToPath) {
	for i, item := range items {
		p := p.index(i)
		e.present(p.child("key"), item.GetKey())
		e.present(p.child("path"), item.GetPath())
		e.ownPath(p.child("path"), item.GetPath())
		e.fileMode(p.child("mode"), item.Mode)
	}
}

// facts checks the files of a downwardAPI. Like Kubernetes it does not say which
// of them is wrong, but by its path.
func (e *problems) facts(p path, files []*v1.DownwardAPIVolumeFile) {
	for _, f := range files {
		e.present(p.child("path"), f.GetPath())
		e.ownPath(p.child("path"), f.GetPath())
		switch r := f.GetResourceFieldRef(); {
		case f.FieldRef != nil:
			e.fieldRef(p.child("fieldRef"), f.GetFieldRef(), volumeFields)
			if r != nil {
				e.invalid(p, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
			}
		case r == nil:
			e.required(p, "one of fieldRef and resourceFieldRef is required")
		case r.GetContainerName() == "":
			e.required(p.child("resourceFieldRef").child("containerName"), "")
		default:
			e.resourceRef(p.child("resourceFieldRef"), r)
		}
		e.fileMode(p.child("mode"), f.Mode)
	}
}

func (e *problems) fileMode(p path, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		e.invalid(p, *mode, badFileMode)
	}
}

func (e *problems) volumeMounts(all path, mounts []*v1.VolumeMount, volumes map[string]bool) {
	at := map[string]bool{}
	for i, m := range mounts {
		p := all.index(i)
		e.present(p.child("name"), m.GetName())
		if !volumes[m.GetName()] {
			e.add(p.child("name"), "FieldValueNotFound", "Not found: "+show(m.GetName()), "")
		}
		e.present(p.child("mountPath"), m.GetMountPath())
		if at[m.GetMountPath()] {
			e.invalid(p.child("mountPath"), m.GetMountPath(), "must be unique")
		}
		at[m.GetMountPath()] = true
		// Kubernetes names no index in the paths of these.
		e.descending(all.child("subPath"), m.GetSubPath())
		if m.GetSubPathExpr() != "" && m.GetSubPath() != "" {
			e.invalid(p.child("subPathExpr"), m.GetSubPathExpr(), "subPathExpr and subPath are mutually exclusive")
		}
		e.descending(all.child("subPathExpr"), m.GetSubPathExpr())
		if m.MountPropagation != nil && m.GetMountPropagation() != MountPropagationNone {
			e.notSupported(all.child("mountPropagation"), m.GetMountPropagation(), MountPropagationNone)
		}
	}
}

// ownPath allows a file below the root of a volume that Orch writes, where names
// that begin with two dots are its own.
func (e *problems) ownPath(p path, name string) {
	e.descending(p, name)
	if strings.HasPrefix(name, "..") && !strings.HasPrefix(name, "../") {
		e.invalid(p, name, "must not start with '..'")
	}
}

func (e *problems) descending(p path, name string) {
	if filepath.IsAbs(name) {
		e.invalid(p, name, "must be a relative path")
	}
	e.noBacksteps(p, name)
}

func (e *problems) noBacksteps(p path, name string) {
	if slices.Contains(strings.Split(name, "/"), "..") {
		e.invalid(p, name, "must not contain '..'")
	}
}
