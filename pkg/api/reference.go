package api

import (
	"slices"

	v1 "orch/proto/v1"
)

// Ref names a ConfigMap or Secret.
type Ref struct {
	Kind string // "ConfigMap" or "Secret"
	Key
}

// References returns the ConfigMaps and Secrets that the pod names, each once.
func References(pod *v1.Pod) []Ref {
	var refs []Ref
	add := func(kind, name string) {
		ref := Ref{kind, Key{Namespace: pod.GetMetadata().GetNamespace(), Name: name}}
		if name != "" && !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	for _, s := range pod.GetSpec().GetImagePullSecrets() {
		add("Secret", s.GetName())
	}
	for _, c := range AllContainers(pod.GetSpec()) {
		for _, f := range c.GetEnvFrom() {
			add("ConfigMap", f.GetConfigMapRef().GetName())
			add("Secret", f.GetSecretRef().GetName())
		}
		for _, e := range c.GetEnv() {
			add("ConfigMap", e.GetValueFrom().GetConfigMapKeyRef().GetName())
			add("Secret", e.GetValueFrom().GetSecretKeyRef().GetName())
		}
	}
	for _, v := range pod.GetSpec().GetVolumes() {
		add("ConfigMap", v.GetConfigMap().GetName())
		add("Secret", v.GetSecret().GetSecretName())
		for _, s := range v.GetProjected().GetSources() {
			add("ConfigMap", s.GetConfigMap().GetName())
			add("Secret", s.GetSecret().GetName())
		}
	}
	return refs
}
