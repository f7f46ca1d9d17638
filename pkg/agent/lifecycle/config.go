package lifecycle

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// Ref names a ConfigMap or Secret.
type Ref = api.Ref

// Objects finds what a pod refers to: nil where there is none. known is false
// as long as that has not been looked up.
type Objects func(Ref) (o api.Object, known bool)

const (
	kindConfigMap = "ConfigMap"
	kindSecret    = "Secret"
)

// errUnknown says that nobody knows yet whether there is such an object, or
// what the pod's address will be.
var errUnknown = errors.New("not known yet")

// object returns what the pod refers to; nil where there is none.
func (v View) object(kind, name string) (o api.Object, known bool) {
	if v.Objects == nil {
		return nil, false
	}
	return v.Objects(Ref{Kind: kind, Key: api.Key{Namespace: v.Pod.GetMetadata().GetNamespace(), Name: name}})
}

// pullSecrets returns the Secrets that the pod names for pulling images, and the
// names of those that there are not; known is false until all are looked up.
func (v View) pullSecrets() (secrets []*v1.Secret, missing []string, known bool) {
	for _, r := range v.Pod.GetSpec().GetImagePullSecrets() {
		if r.GetName() == "" {
			continue // the API takes it, and Kubernetes ignores it
		}
		o, known := v.object(kindSecret, r.GetName())
		if !known {
			return nil, nil, false
		}
		if s, ok := o.(*v1.Secret); ok {
			secrets = append(secrets, s)
		} else {
			missing = append(missing, r.GetName())
		}
	}
	return secrets, missing, true
}

// need returns what the pod needs; nil without an error where it may be missing
// and is.
func (v View) need(kind, name string, optional bool) (api.Object, error) {
	o, known := v.object(kind, name)
	switch {
	case o != nil:
		return o, nil
	case !known:
		return nil, errUnknown
	case optional:
		return nil, nil
	}
	return nil, fmt.Errorf("%s %q not found", strings.ToLower(kind), name) //nolint:err113 // Kubernetes' sentence
}

// data returns the values of an object that can be variables; nil without an
// error where it may be missing and is.
func (v View) data(kind, name string, optional bool) (map[string]string, error) {
	o, err := v.need(kind, name, optional)
	switch o := o.(type) {
	case *v1.ConfigMap:
		return o.GetData(), err
	case *v1.Secret:
		values := make(map[string]string, len(o.GetData()))
		for k, b := range o.GetData() {
			values[k] = string(b)
		}
		return values, err
	}
	return nil, err
}

// value returns one value of an object; ok is false where it may be missing and
// is.
func (v View) value(kind, name, key string, optional bool) (value string, ok bool, err error) {
	data, err := v.data(kind, name, optional)
	if err != nil {
		return "", false, err
	}
	if value, ok = data[key]; !ok && !optional {
		return "", false, fmt.Errorf("couldn't find key %v in %s %v/%v", key, kind, v.Pod.GetMetadata().GetNamespace(), name) //nolint:err113 // Kubernetes' sentence
	}
	return value, ok, nil
}

// Environment returns a container's variables as NAME=value: those of envFrom
// and then those of env, each name once and its last value. In a value of env,
// $(NAME) stands for a variable before it. The error is errUnknown, or what
// people should read.
func (v View) Environment(c *v1.Container) ([]string, error) {
	env := &environment{values: map[string]string{}}
	for _, f := range c.GetEnvFrom() {
		kind, name, optional := kindConfigMap, f.GetConfigMapRef().GetName(), f.GetConfigMapRef().GetOptional()
		if r := f.GetSecretRef(); r != nil {
			kind, name, optional = kindSecret, r.GetName(), r.GetOptional()
		}
		data, err := v.data(kind, name, optional)
		if err != nil {
			return nil, err
		}
		for _, k := range slices.Sorted(maps.Keys(data)) {
			env.set(f.GetPrefix()+k, data[k])
		}
	}
	for _, e := range c.GetEnv() {
		value, ok, err := expand(e.GetValue(), env.lookup), true, error(nil)
		if from := e.GetValueFrom(); from != nil && e.GetValue() == "" {
			value, ok, err = v.valueFrom(c, from)
		}
		if err != nil {
			return nil, err
		}
		if ok {
			env.set(e.GetName(), value)
		}
	}
	return env.list(), nil
}

func (v View) valueFrom(c *v1.Container, from *v1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.GetConfigMapKeyRef() != nil:
		r := from.GetConfigMapKeyRef()
		return v.value(kindConfigMap, r.GetName(), r.GetKey(), r.GetOptional())
	case from.GetSecretKeyRef() != nil:
		r := from.GetSecretKeyRef()
		return v.value(kindSecret, r.GetName(), r.GetKey(), r.GetOptional())
	case from.GetFieldRef() != nil:
		field := from.GetFieldRef().GetFieldPath()
		if strings.HasPrefix(field, "status.podIP") && !v.sandboxAlive() {
			return "", false, errUnknown
		}
		value, err = api.PodField(v.present(), field)
		return value, true, err
	}
	value, err = v.resource(c, from.GetResourceFieldRef())
	return value, true, err
}

// present is the pod with the addresses that it has now: its status in the API
// may not show them yet.
func (v View) present() *v1.Pod {
	status := &v1.PodStatus{HostIp: v.HostIP}
	if s := v.newestSandbox(); s != nil && s.IP != "" {
		status.PodIp, status.PodIps = s.IP, []*v1.PodIP{{Ip: s.IP}}
	}
	return &v1.Pod{Metadata: v.Pod.GetMetadata(), Spec: v.Pod.GetSpec(), Status: status}
}

func (v View) resource(own *v1.Container, f *v1.ResourceFieldSelector) (string, error) {
	c := own
	if name := f.GetContainerName(); name != "" {
		if c = api.FindContainer(v.Pod.GetSpec(), name); c == nil {
			return "", fmt.Errorf("container %s not found", name) //nolint:err113 // Kubernetes' sentence
		}
	}
	return api.ContainerResource(c, f.GetResource(), f.GetDivisor(), v.Allocatable), nil
}

// configError is why the container cannot be started as its spec has it; nil
// also where that is not known yet.
func (v View) configError(c *v1.Container) error {
	if !v.sandboxAlive() {
		return nil
	}
	if _, _, err := v.configuration(c); err != nil && !errors.Is(err, errUnknown) {
		return err
	}
	return nil
}

// configuration is what a container is given of what its pod refers to. The
// error is errUnknown, or what people should read.
func (v View) configuration(c *v1.Container) (env []string, mounts []VolumeMount, err error) {
	if env, err = v.Environment(c); err == nil {
		mounts, err = v.mounts(c, env)
	}
	return env, mounts, err
}

// environment is a list of variables.
type environment struct {
	names  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

func (e *environment) lookup(name string) (string, bool) {
	value, ok := e.values[name]
	return value, ok
}

func (e *environment) list() []string {
	list := make([]string, len(e.names))
	for i, name := range e.names {
		list[i] = name + "=" + e.values[name]
	}
	return list
}
