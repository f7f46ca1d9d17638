package lifecycle

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// found makes the objects be what there is.
func found(objects ...api.Object) Objects {
	return func(ref Ref) (api.Object, bool) {
		for _, o := range objects {
			if api.KindOf(o).Name == ref.Kind && api.KeyOf(o) == ref.Key {
				return o, true
			}
		}
		return nil, true
	}
}

func configMap(name string, data map[string]string) *v1.ConfigMap {
	return &v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"}, Data: data}
}

func fromConfigMap(name, key string, optional *bool) *v1.EnvVar {
	return &v1.EnvVar{Name: "V", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{Name: name, Key: key, Optional: optional}}}
}

func fromSecret(name, key string, optional *bool) *v1.EnvVar {
	return &v1.EnvVar{Name: "V", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{Name: name, Key: key, Optional: optional}}}
}

func fromField(path string) *v1.EnvVar {
	return &v1.EnvVar{Name: "V", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}}
}

func fromResource(container, resource, divisor string) *v1.EnvVar {
	return &v1.EnvVar{Name: "V", ValueFrom: &v1.EnvVarSource{
		ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: container, Resource: resource, Divisor: divisor},
	}}
}

func all(prefix, configMap, secret string, optional *bool) *v1.EnvFromSource {
	f := &v1.EnvFromSource{Prefix: prefix}
	if configMap != "" {
		f.ConfigMapRef = &v1.ConfigMapEnvSource{Name: configMap, Optional: optional}
	} else {
		f.SecretRef = &v1.SecretEnvSource{Name: secret, Optional: optional}
	}
	return f
}

func TestEnvironment(t *testing.T) {
	yes := proto.Bool(true)
	objects := found(
		configMap("c", map[string]string{"A": "1", "B": "$(A)"}),
		&v1.Secret{Metadata: &v1.ObjectMeta{Name: "s", Namespace: "default"}, Data: map[string][]byte{"k": []byte("hidden")}},
		&v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: "elsewhere", Namespace: "other"}},
	)
	env := func(vars ...*v1.EnvVar) *v1.Container { return &v1.Container{Env: vars} }
	for _, tt := range []struct {
		name string
		c    *v1.Container
		want []string
		err  string
	}{
		{"a key of a ConfigMap", env(fromConfigMap("c", "A", nil)), []string{"V=1"}, ""},
		{"a value from an object is not expanded", env(&v1.EnvVar{Name: "A", Value: "x"}, fromConfigMap("c", "B", nil)), []string{"A=x", "V=$(A)"}, ""},
		{"a key of a Secret", env(fromSecret("s", "k", nil)), []string{"V=hidden"}, ""},
		{"a ConfigMap that is missing", env(fromConfigMap("x", "A", nil)), nil, `configmap "x" not found`},
		{"a ConfigMap of another namespace", env(fromConfigMap("elsewhere", "A", nil)), nil, `configmap "elsewhere" not found`},
		{"a Secret that is missing", env(fromSecret("x", "A", nil)), nil, `secret "x" not found`},
		{"a key that is missing", env(fromConfigMap("c", "Z", nil)), nil, "couldn't find key Z in ConfigMap default/c"},
		{"a Secret's key that is missing", env(fromSecret("s", "Z", nil)), nil, "couldn't find key Z in Secret default/s"},
		{"what may be missing is no variable", env(fromConfigMap("x", "A", yes), fromConfigMap("c", "Z", yes), fromSecret("x", "Z", yes)), []string{}, ""},
		{"all of an object, in order of keys", &v1.Container{EnvFrom: []*v1.EnvFromSource{all("P_", "c", "", nil), all("", "", "s", nil)}}, []string{"P_A=1", "P_B=$(A)", "k=hidden"}, ""},
		{"all of an object that may be missing", &v1.Container{EnvFrom: []*v1.EnvFromSource{all("", "x", "", yes), all("", "", "x", yes)}}, []string{}, ""},
		{"all of a Secret that is missing", &v1.Container{EnvFrom: []*v1.EnvFromSource{all("", "", "x", nil)}}, nil, `secret "x" not found`},
		{
			"env wins over envFrom and may refer to it",
			&v1.Container{EnvFrom: []*v1.EnvFromSource{all("", "c", "", nil)}, Env: []*v1.EnvVar{{Name: "C", Value: "$(A)$(A)"}, {Name: "A", Value: "2"}}},
			[]string{"A=2", "B=$(A)", "C=11"},
			"",
		},
		{"a field", env(fromField("metadata.uid")), []string{"V=u1"}, ""},
		{"a label", env(fromField("metadata.labels['example.com/tier']")), []string{"V=web"}, ""},
		{"an annotation that is not there", env(fromField("metadata.annotations['x']")), []string{"V="}, ""},
		{"the pod's address is the sandbox's", env(fromField("status.podIP")), []string{"V=10.0.0.2"}, ""},
		{"the node's address", env(fromField("status.hostIP")), []string{"V=192.168.0.1"}, ""},
		{"a limit of its own", env(fromResource("", "limits.memory", "1Mi")), []string{"V=" + "1024"}, ""},
		{"a request of another container, rounded up", env(fromResource("app", "requests.cpu", "0")), []string{"V=1"}, ""},
		{"a request in thousandths", env(fromResource("app", "requests.cpu", "1m")), []string{"V=250"}, ""},
		{"of a container that is not there", env(fromResource("nobody", "requests.cpu", "")), nil, "container nobody not found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := newPod(func(p *v1.Pod) {
				p.Metadata.Labels = map[string]string{"example.com/tier": "web"}
				p.Spec.Containers[0].Resources = &v1.ResourceRequirements{Requests: map[string]string{"cpu": "250m"}}
			})
			v := view(pod, sandbox())
			v.Objects, v.Allocatable = objects, map[string]string{"memory": "1Gi"}
			got, err := v.Environment(tt.c)
			if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Fatalf("error %v, want %s", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAContainerWaitsForWhatItRefersTo(t *testing.T) {
	pod := newPod(sidecar, func(p *v1.Pod) {
		p.Spec.Containers[0].Env = []*v1.EnvVar{fromConfigMap("c", "A", nil), fromConfigMap("c", "B", nil)}
		p.Spec.Containers[1].EnvFrom = []*v1.EnvFromSource{all("", "", "s", proto.Bool(true))}
	})
	want := []Ref{{Kind: "ConfigMap", Key: api.Key{Namespace: "default", Name: "c"}}, {Kind: "Secret", Key: api.Key{Namespace: "default", Name: "s"}}}
	if diff := cmp.Diff(want, api.References(pod)); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}

	v := view(pod, sandbox()).with()
	v.Objects = func(Ref) (api.Object, bool) { return nil, false }
	if p := Plan(v); len(p.Actions) != 0 || len(p.Misconfigured) != 0 {
		t.Errorf("before anything is looked up: %+v", p)
	}
	if got := status(v); got != "ContainerCreating" {
		t.Errorf("before anything is looked up: %s", got)
	}

	v.Objects = found()
	p := Plan(v)
	if diff := cmp.Diff(map[string]string{"app": `configmap "c" not found`}, p.Misconfigured); diff != "" {
		t.Errorf("without the ConfigMap (-want +got):\n%s", diff)
	}
	if len(p.Actions) != 1 || p.Actions[0].Container != "side" {
		t.Errorf("without the ConfigMap: %+v, want the other container to start", p.Actions)
	}
	if got := status(v); got != `CreateContainerConfigError configmap "c" not found` {
		t.Errorf("without the ConfigMap: %s", got)
	}

	v.Objects = found(configMap("c", map[string]string{"A": "1", "B": "2"}))
	if p := Plan(v); len(p.Actions) != 2 || len(p.Misconfigured) != 0 {
		t.Errorf("with the ConfigMap: %+v", p)
	}
}

// Containers are made while the sandbox is started, before it has an address.
func TestAContainerThatAsksForItsAddressIsMadeAfterTheSandbox(t *testing.T) {
	for field, want := range map[string]int{"status.podIP": 0, "status.hostIP": 1} {
		pod := newPod(func(p *v1.Pod) { p.Spec.Containers[0].Env = []*v1.EnvVar{fromField(field)} })
		p := Plan(view(pod, sandbox(created)).with(busy(SandboxSlot, CreateSandbox)))
		if len(p.Actions) != want || want == 1 && !cmp.Equal(p.Actions[0].Env, []string{"V=192.168.0.1"}) {
			t.Errorf("%s: %+v", field, p.Actions)
		}
	}
}

func status(v View) string { return state(Status(v).GetContainerStatuses()[0].GetState()) }
