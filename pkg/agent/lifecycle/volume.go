package lifecycle

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"orch/pkg/agent/volume"
	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Volume is what a volume of the pod has to be now, or why that cannot be said:
// errUnknown, or what people should read.
type Volume struct {
	volume.Volume
	Err error
}

// Volumes returns the pod's volumes, in the order of its spec.
func (v View) Volumes() []Volume {
	var all []Volume
	for _, s := range v.Pod.GetSpec().GetVolumes() {
		n := Volume{Volume: volume.Volume{Name: s.GetName(), Group: fsGroup(v.Pod.GetSpec())}}
		// As in Kubernetes, everything that can hold a secret is in memory.
		n.Memory = s.Secret != nil || s.DownwardApi != nil || s.Projected != nil
		f := files{View: v, found: map[string]volume.File{}}
		switch {
		case s.HostPath != nil:
			n.HostPath, n.HostPathType, n.Group = s.GetHostPath().GetPath(), s.GetHostPath().GetType(), nil
		case s.ConfigMap != nil:
			c := s.GetConfigMap()
			f.mode = c.GetDefaultMode()
			n.Err = f.values(kindConfigMap, c.GetName(), c.GetItems(), c.GetOptional())
			n.Files = f.found
		case s.Secret != nil:
			c := s.GetSecret()
			f.mode = c.GetDefaultMode()
			n.Err = f.values(kindSecret, c.GetSecretName(), c.GetItems(), c.GetOptional())
			n.Files = f.found
		case s.DownwardApi != nil:
			f.mode = s.GetDownwardApi().GetDefaultMode()
			n.Err = f.facts(s.GetDownwardApi().GetItems())
			n.Files = f.found
		case s.Projected != nil:
			f.mode = s.GetProjected().GetDefaultMode()
			n.Err = f.projected(s.GetProjected())
			n.Files = f.found
		default:
			n.Memory = s.GetEmptyDir().GetMedium() == api.MediumMemory
			n.Size = api.ResourcesOf(map[string]string{api.ResourceMemory: s.GetEmptyDir().GetSizeLimit()}).Memory
		}
		all = append(all, n)
	}
	return all
}

func fsGroup(spec *v1.PodSpec) *int64 {
	if c := spec.GetSecurityContext(); c != nil {
		return c.FsGroup
	}
	return nil
}

// files collects what a volume holds.
type files struct {
	View
	found map[string]volume.File
	mode  int32
}

func (f files) add(path string, data []byte, mode *int32) {
	m := f.mode
	if mode != nil {
		m = *mode
	}
	f.found[filepath.Clean(path)] = volume.File{Data: data, Mode: fs.FileMode(m) & fs.ModePerm}
}

// values adds those of a ConfigMap or Secret: the named items, or all.
func (f files) values(kind, name string, items []*v1.KeyToPath, optional bool) error {
	o, err := f.need(kind, name, optional)
	if err != nil {
		return err
	}
	data, missing := map[string][]byte{}, "configmap references non-existent config key: %s"
	switch o := o.(type) {
	case *v1.ConfigMap:
		for key, text := range o.GetData() {
			data[key] = []byte(text)
		}
		maps.Copy(data, o.GetBinaryData())
	case *v1.Secret:
		data, missing = o.GetData(), "references non-existent secret key: %s"
	}
	if len(items) == 0 {
		for key, value := range data {
			f.add(key, value, nil)
		}
	}
	for _, item := range items {
		if value, ok := data[item.GetKey()]; ok {
			f.add(item.GetPath(), value, item.Mode)
		} else if !optional {
			return fmt.Errorf(missing, item.GetKey()) //nolint:err113 // Kubernetes' sentence
		}
	}
	return nil
}

// facts adds what a downwardAPI tells of the pod.
func (f files) facts(items []*v1.DownwardAPIVolumeFile) error {
	for _, item := range items {
		var value string
		var err error
		if r := item.GetResourceFieldRef(); r != nil {
			value, err = f.resource(nil, r)
		} else {
			value, err = api.PodField(f.Pod, item.GetFieldRef().GetFieldPath())
		}
		if err != nil {
			return err
		}
		f.add(item.GetPath(), []byte(value), item.Mode)
	}
	return nil
}

func (f files) projected(p *v1.ProjectedVolumeSource) error {
	for _, s := range p.GetSources() {
		var err error
		switch {
		case s.Secret != nil:
			err = f.values(kindSecret, s.GetSecret().GetName(), s.GetSecret().GetItems(), s.GetSecret().GetOptional())
		case s.ConfigMap != nil:
			err = f.values(kindConfigMap, s.GetConfigMap().GetName(), s.GetConfigMap().GetItems(), s.GetConfigMap().GetOptional())
		default:
			err = f.facts(s.GetDownwardApi().GetItems())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// VolumeMount is a volume as a container sees it.
type VolumeMount struct {
	volume.Volume
	SubPath  string
	Target   string
	ReadOnly bool
}

// mounts returns what the container mounts, with the variables that a
// subPathExpr may name.
func (v View) mounts(c *v1.Container, env []string) ([]VolumeMount, error) {
	volumes := v.Volumes()
	var all []VolumeMount
	for _, m := range c.GetVolumeMounts() {
		i := slices.IndexFunc(volumes, func(n Volume) bool { return n.Name == m.GetName() })
		if i < 0 {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.GetName(), c.GetName()) //nolint:err113 // Kubernetes' sentence
		}
		subPath, err := expandSubPath(m, env)
		if err != nil {
			return nil, err
		}
		target := m.GetMountPath()
		if !filepath.IsAbs(target) {
			target = "/" + target
		}
		all = append(all, VolumeMount{
			Volume: volumes[i].Volume, SubPath: subPath, Target: target,
			ReadOnly: m.GetReadOnly() || volumes[i].ReadOnly(),
		})
	}
	return all, nil
}

func expandSubPath(m *v1.VolumeMount, env []string) (string, error) {
	if m.GetSubPathExpr() == "" {
		return m.GetSubPath(), nil
	}
	var missing []string
	path := expand(m.GetSubPathExpr(), func(name string) (string, bool) {
		value, _ := lookupEnv(env, name)
		if value == "" {
			missing = append(missing, name)
		}
		return value, true
	})
	switch {
	case len(missing) > 0:
		return "", fmt.Errorf("missing value for %s", strings.Join(missing, ", ")) //nolint:err113 // Kubernetes' sentence
	case filepath.IsAbs(path):
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", path) //nolint:err113 // Kubernetes' sentence
	case slices.Contains(strings.Split(path, "/"), ".."):
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", path) //nolint:err113 // Kubernetes' sentence
	}
	return path, nil
}

// mountVolumes has the pod's volumes made and kept as they should be. It returns
// whether containers can be started: a volume that was made once serves them
// also while its new content is not known, or is being written.
func (p *planner) mountVolumes() (ready bool) {
	ready = true
	var stale []volume.Volume
	for _, v := range p.Volumes() {
		made, ok := p.Memory.Volumes[v.Name]
		ready = ready && ok
		switch {
		case v.Err == errUnknown: //nolint:errorlint // it is never wrapped
		case v.Err != nil:
			api.Put(&p.Unmountable, v.Name, v.Err.Error())
		case made != v.Fingerprint():
			stale = append(stale, v.Volume)
		}
	}
	if len(stale) > 0 {
		p.retry(Action{Verb: Mount, Slot: volumeSlot, Volumes: stale})
	}
	return ready
}
