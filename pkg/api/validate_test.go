package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "orch/proto/v1"
)

func validPod() *v1.Pod {
	p := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "web", Image: "web:1"}}},
	}
	Default(p)
	return p
}

func validDeployment() *v1.Deployment {
	d := &v1.Deployment{
		Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: &v1.DeploymentSpec{
			Selector: &v1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: &v1.PodTemplateSpec{
				Metadata: &v1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:     &v1.PodSpec{Containers: []*v1.Container{{Name: "web", Image: "web:1"}}},
			},
		},
	}
	Default(d)
	return d
}

// sentences joins path and message, as the user reads them.
func sentences(errs []*v1.FieldError) []string {
	var lines []string
	for _, e := range errs {
		lines = append(lines, e.GetField()+": "+e.GetMessage())
	}
	return lines
}

func TestObjectsThatAreRightAreAccepted(t *testing.T) {
	for _, o := range []Object{
		validPod(),
		validDeployment(),
		&v1.ReplicaSet{
			Metadata: &v1.ObjectMeta{Name: "web", Namespace: "default"},
			Spec:     &v1.ReplicaSetSpec{Selector: validDeployment().Spec.Selector, Template: validDeployment().Spec.Template},
		},
		&v1.Namespace{Metadata: &v1.ObjectMeta{Name: "shop"}, Spec: &v1.NamespaceSpec{Finalizers: []string{"kubernetes"}}},
		&v1.Node{Metadata: &v1.ObjectMeta{Name: "node-1.local"}, Status: &v1.NodeStatus{Capacity: map[string]string{"cpu": "2", "example.com/gpu": "1"}}},
		&v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: "c", Namespace: "default", GenerateName: "c-"}, Data: map[string]string{"a.txt": ""}},
		&v1.Secret{Metadata: &v1.ObjectMeta{Name: "s", Namespace: "default"}, Type: "my.io/type"},
		&v1.Event{Metadata: &v1.ObjectMeta{Name: "e.1", Namespace: "default"}, InvolvedObject: &v1.ObjectReference{Kind: "Node"}, Type: "Normal"},
	} {
		Default(o)
		if got := sentences(Validate(o)); got != nil {
			t.Errorf("%s: %v", KindOf(o).Name, got)
		}
		if got := sentences(ValidateUpdate(o, Clone(o))); got != nil {
			t.Errorf("%s, updated: %v", KindOf(o).Name, got)
		}
	}
}

func TestWhatHasNothingAtAllIsRefusedNotTrippedOver(t *testing.T) {
	objects := []Object{
		&v1.Pod{Spec: &v1.PodSpec{Containers: []*v1.Container{{Ports: []*v1.ContainerPort{{}}, Env: []*v1.EnvVar{{}}}}}},
		&v1.Deployment{Spec: &v1.DeploymentSpec{Template: &v1.PodTemplateSpec{}, Strategy: &v1.DeploymentStrategy{}, Selector: &v1.LabelSelector{}}},
		&v1.ReplicaSet{Spec: &v1.ReplicaSetSpec{Template: &v1.PodTemplateSpec{}}},
	}
	for _, k := range Kinds() {
		objects = append(objects, k.New())
	}
	for _, o := range objects {
		if len(Validate(o)) == 0 || len(ValidateUpdate(o, KindOf(o).New())) == 0 {
			t.Errorf("%v is accepted", o)
		}
	}
}

func TestPodsThatAreWrongAreRefused(t *testing.T) {
	first := func(change func(*v1.Container)) func(*v1.Pod) {
		return func(p *v1.Pod) { change(p.Spec.Containers[0]) }
	}
	for _, tt := range []struct {
		name   string
		change func(*v1.Pod)
		want   []string
	}{
		{
			"no containers",
			func(p *v1.Pod) { p.Spec.Containers = nil },
			[]string{"spec.containers: Required value"},
		},
		{
			"no name",
			func(p *v1.Pod) { p.Metadata.Name = "" },
			[]string{"metadata.name: Required value: name or generateName is required"},
		},
		{
			"a name that is no DNS name",
			func(p *v1.Pod) { p.Metadata.Name = "Web_1" },
			[]string{`metadata.name: Invalid value: "Web_1": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		},
		{
			"a namespace that is no DNS label",
			func(p *v1.Pod) { p.Metadata.Namespace = "a.b" },
			[]string{`metadata.namespace: Invalid value: "a.b": must not contain dots`},
		},
		{
			"a container's name with a capital",
			first(func(c *v1.Container) { c.Name = "Web" }),
			[]string{`spec.containers[0].name: Invalid value: "Web": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`},
		},
		{
			"two containers of one name",
			func(p *v1.Pod) { p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0]) },
			[]string{`spec.containers[1].name: Duplicate value: "web"`},
		},
		{
			"no image and an unknown pull policy",
			first(func(c *v1.Container) { c.Image, c.ImagePullPolicy = "", "Sometimes" }),
			[]string{
				"spec.containers[0].image: Required value",
				`spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"`,
			},
		},
		{
			"variables from nowhere, from two places, and beside a value",
			first(func(c *v1.Container) {
				both := &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{Name: "s", Key: ".."}, ConfigMapKeyRef: &v1.ConfigMapKeySelector{}}
				c.Env = []*v1.EnvVar{{Name: "A", ValueFrom: &v1.EnvVarSource{}}, {Name: "B", ValueFrom: both}, {Name: "C", Value: "x", ValueFrom: both}}
				c.EnvFrom = []*v1.EnvFromSource{{Prefix: "a="}, {ConfigMapRef: &v1.ConfigMapEnvSource{}, SecretRef: &v1.SecretEnvSource{Name: "s-"}}, {SecretRef: &v1.SecretEnvSource{Name: "S"}}}
			}),
			[]string{
				"spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
				"spec.containers[0].env[1].valueFrom.configMapKeyRef.name: Invalid value: \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '" + dnsSubdomainFormat + "')",
				"spec.containers[0].env[1].valueFrom.configMapKeyRef.key: Required value",
				`spec.containers[0].env[1].valueFrom.secretKeyRef.key: Invalid value: "..": must not be '..'`,
				`spec.containers[0].env[1].valueFrom: Invalid value: "": may not have more than one field specified at a time`,
				"spec.containers[0].env[2].valueFrom.configMapKeyRef.name: Invalid value: \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '" + dnsSubdomainFormat + "')",
				"spec.containers[0].env[2].valueFrom.configMapKeyRef.key: Required value",
				`spec.containers[0].env[2].valueFrom.secretKeyRef.key: Invalid value: "..": must not be '..'`,
				"spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
				`spec.containers[0].envFrom[0].prefix: Invalid value: "a=": a valid environment variable name must consist only of printable ASCII characters other than '='`,
				"spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
				"spec.containers[0].envFrom[1].configMapRef.name: Required value",
				`spec.containers[0].envFrom: Invalid value: "": may not have more than one field specified at a time`,
				"spec.containers[0].envFrom[2].secretRef.name: Invalid value: \"S\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '" + dnsSubdomainFormat + "')",
			},
		},
		{
			"fields and resources that cannot be variables",
			first(func(c *v1.Container) {
				for _, path := range []string{"", "spec.shoeSize", "status.phase", "metadata.labels", "metadata.labels['a b']", "spec.x['y']"} {
					c.Env = append(c.Env, &v1.EnvVar{Name: "A", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{ApiVersion: "v1", FieldPath: path}}})
				}
				for _, r := range []*v1.ResourceFieldSelector{{}, {Resource: "limits.gpu", Divisor: "3"}, {Resource: "limits.cpu", Divisor: "2"}, {Resource: "limits.memory", Divisor: "1m"}} {
					c.Env = append(c.Env, &v1.EnvVar{Name: "A", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: r}})
				}
			}),
			[]string{
				"spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Required value",
				`spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: "spec.shoeSize": error converting fieldPath: field label not supported: spec.shoeSize`,
				`spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`,
				`spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`,
				`spec.containers[0].env[4].valueFrom.fieldRef: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
				`spec.containers[0].env[5].valueFrom.fieldRef.fieldPath: Invalid value: "spec.x['y']": error converting fieldPath: field label does not support subscript: spec.x['y']`,
				"spec.containers[0].env[6].valueFrom.resourceFieldRef.resource: Required value",
				`spec.containers[0].env[7].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.gpu": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"`,
				`spec.containers[0].env[8].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource`,
				`spec.containers[0].env[9].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.memory": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource`,
			},
		},
		{
			"ports out of range",
			first(func(c *v1.Container) {
				c.Ports = []*v1.ContainerPort{{Protocol: "TCP"}, {ContainerPort: 70000, Protocol: "TCP"}, {ContainerPort: 80, HostPort: -1, Protocol: "tcp"}}
			}),
			[]string{
				"spec.containers[0].ports[0].containerPort: Required value",
				"spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
				`spec.containers[0].ports[2].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`,
				"spec.containers[0].ports[2].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive",
			},
		},
		{
			"ports of one name and one host port",
			first(func(c *v1.Container) {
				port := &v1.ContainerPort{Name: "http", ContainerPort: 80, HostPort: 8080, Protocol: "TCP"}
				c.Ports = []*v1.ContainerPort{port, port}
			}),
			[]string{
				`spec.containers[0].ports[1].name: Duplicate value: "http"`,
				`spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//8080"`,
			},
		},
		{
			"a port's name",
			first(func(c *v1.Container) {
				c.Ports = []*v1.ContainerPort{{Name: "80--", ContainerPort: 80, Protocol: "TCP"}}
			}),
			[]string{
				`spec.containers[0].ports[0].name: Invalid value: "80--": must contain at least one letter (a-z)`,
				`spec.containers[0].ports[0].name: Invalid value: "80--": must not contain consecutive hyphens`,
				`spec.containers[0].ports[0].name: Invalid value: "80--": must not begin or end with a hyphen`,
			},
		},
		{
			"an environment without names",
			first(func(c *v1.Container) { c.Env = []*v1.EnvVar{{}, {Name: "A=B"}} }),
			[]string{
				"spec.containers[0].env[0].name: Required value",
				`spec.containers[0].env[1].name: Invalid value: "A=B": a valid environment variable name must consist only of printable ASCII characters other than '='`,
			},
		},
		{
			"a request above its limit",
			first(func(c *v1.Container) {
				c.Resources.Limits, c.Resources.Requests = map[string]string{"cpu": "1"}, map[string]string{"cpu": "2"}
			}),
			[]string{`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`},
		},
		{
			"resources that are none",
			first(func(c *v1.Container) {
				c.Resources.Limits = map[string]string{"cpu": "a lot", "example.com/gpu": "1", "memory": "-1"}
			}),
			[]string{
				"spec.containers[0].resources.limits[cpu]: Invalid value: \"a lot\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
				`spec.containers[0].resources.limits[example.com/gpu]: Unsupported value: "example.com/gpu": supported values: "cpu", "ephemeral-storage", "memory"`,
				`spec.containers[0].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0`,
			},
		},
		{
			"the pod's own fields",
			func(p *v1.Pod) {
				p.Spec.RestartPolicy = "Maybe"
				p.Spec.TerminationGracePeriodSeconds, p.Spec.ActiveDeadlineSeconds = proto.Int64(-1), proto.Int64(0)
				p.Spec.NodeSelector = map[string]string{"a b": "c"}
				p.Spec.Hostname = "a.b"
			},
			[]string{
				`spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never"`,
				"spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
				"spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
				`spec.nodeSelector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
				`spec.hostname: Invalid value: "a.b": must not contain dots`,
			},
		},
		{
			"init containers",
			func(p *v1.Pod) {
				c := func(name string, change func(*v1.Container)) *v1.Container {
					c := proto.CloneOf(p.Spec.Containers[0])
					c.Name = name
					change(c)
					return c
				}
				probe := &v1.Probe{Exec: &v1.ExecAction{Command: []string{"a"}}, SuccessThreshold: 1}
				p.Spec.InitContainers = []*v1.Container{
					c(p.Spec.Containers[0].Name, func(*v1.Container) {}),
					c("hooked", func(c *v1.Container) { c.Lifecycle = &v1.Lifecycle{} }),
					c("probed", func(c *v1.Container) { c.ReadinessProbe = probe }),
					c("proxy", func(c *v1.Container) { c.ReadinessProbe, c.RestartPolicy = probe, proto.String("Always") }),
					c("never", func(c *v1.Container) { c.RestartPolicy = proto.String("Never") }),
				}
				p.Spec.Containers[0].RestartPolicy = proto.String("Always")
				p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{
					PostStart: &v1.LifecycleHandler{},
					PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{}, Sleep: &v1.SleepAction{Seconds: 1}},
				}
				p.Spec.InitContainers[3].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 31}}}
			},
			[]string{
				"spec.containers[0].lifecycle.postStart: Required value: must specify a handler type",
				"spec.containers[0].lifecycle.preStop.exec.command: Required value",
				"spec.containers[0].lifecycle.preStop.sleep: Forbidden: may not specify more than 1 handler type",
				"spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers",
				`spec.initContainers[0].name: Duplicate value: "web"`,
				"spec.initContainers[1].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
				"spec.initContainers[2].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
				"spec.initContainers[3].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
				`spec.initContainers[4].restartPolicy: Unsupported value: "Never": supported values: "Always"`,
			},
		},
		{
			"labels and annotations",
			func(p *v1.Pod) {
				p.Metadata.Labels = map[string]string{"a": strings.Repeat("x", 64)}
				p.Metadata.Annotations = map[string]string{"/a": "", "Example.COM/big": strings.Repeat("x", 256<<10), AnnotationStopWhenCutOff: "30"}
			},
			[]string{
				`metadata.labels: Invalid value: "` + strings.Repeat("x", 64) + `": must be no more than 63 characters`,
				`metadata.annotations: Invalid value: "/a": prefix part must be non-empty`,
				"metadata.annotations: Too long: may not be more than 262144 bytes",
				`metadata.annotations[orch.dev/stop-when-cut-off-after]: Invalid value: "30": must be a duration of a second or more, such as 30s`,
			},
		},
		{
			"two controllers",
			func(p *v1.Pod) {
				ref := &v1.OwnerReference{ApiVersion: "v1", Kind: "Pod", Name: "a", Uid: "u", Controller: proto.Bool(true)}
				p.Metadata.OwnerReferences = []*v1.OwnerReference{ref, ref}
			},
			[]string{`metadata.ownerReferences: Invalid value: [{"apiVersion":"v1","kind":"Pod","name":"a","uid":"u","controller":true},{"apiVersion":"v1","kind":"Pod","name":"a","uid":"u","controller":true}]: Only one reference can have Controller set to true. Found "true" in references for Pod/a and Pod/a`},
		},
		{
			"an owner without a name",
			func(p *v1.Pod) { p.Metadata.OwnerReferences = []*v1.OwnerReference{{Kind: "Pod", Uid: "u"}} },
			[]string{
				`metadata.ownerReferences[0].apiVersion: Required value: must not be empty`,
				`metadata.ownerReferences[0].name: Required value: must not be empty`,
			},
		},
		{
			"finalizers that contradict each other",
			func(p *v1.Pod) { p.Metadata.Finalizers = []string{"orphan", "foregroundDeletion"} },
			[]string{`metadata.finalizers: Invalid value: ["orphan","foregroundDeletion"]: finalizer orphan and foregroundDeletion cannot be both set`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := validPod()
			tt.change(p)
			if diff := cmp.Diff(tt.want, sentences(Validate(p))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDeploymentsThatAreWrongAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*v1.DeploymentSpec)
		want   []string
	}{
		{
			"negative replicas",
			func(s *v1.DeploymentSpec) { s.Replicas = proto.Int32(-1) },
			[]string{"spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		},
		{
			"neither selector nor template",
			func(s *v1.DeploymentSpec) { s.Selector, s.Template = nil, nil },
			[]string{"spec.selector: Required value", "spec.template: Required value"},
		},
		{
			"an empty selector",
			func(s *v1.DeploymentSpec) { s.Selector = &v1.LabelSelector{} },
			[]string{"spec.selector: Invalid value: {}: empty selector is invalid for deployment"},
		},
		{
			"a selector that does not choose the template's pods",
			func(s *v1.DeploymentSpec) { s.Template.Metadata.Labels["app"] = "other" },
			[]string{"spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"},
		},
		{
			"a selector with unknown operators",
			func(s *v1.DeploymentSpec) {
				s.Selector.MatchExpressions = []*v1.LabelSelectorRequirement{{Key: "a", Operator: "Is"}, {Key: "a", Operator: "In"}, {Key: "a", Operator: "Exists", Values: []string{"b"}}}
			},
			[]string{
				`spec.selector.matchExpressions[0].operator: Invalid value: "Is": not a valid selector operator`,
				"spec.selector.matchExpressions[1].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
				"spec.selector.matchExpressions[2].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
			},
		},
		{
			"a template whose pods end",
			func(s *v1.DeploymentSpec) {
				s.Template.Spec.RestartPolicy, s.Template.Spec.ActiveDeadlineSeconds = "Never", proto.Int64(1)
			},
			[]string{
				`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`,
				"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
			},
		},
		{
			"a template without an image",
			func(s *v1.DeploymentSpec) { s.Template.Spec.Containers[0].Image = "" },
			[]string{"spec.template.spec.containers[0].image: Required value"},
		},
		{
			"a rollout that could never move",
			func(s *v1.DeploymentSpec) {
				s.Strategy.RollingUpdate = &v1.RollingUpdateDeployment{MaxUnavailable: ParseIntOrString("0"), MaxSurge: ParseIntOrString("0%")}
			},
			[]string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"},
		},
		{
			"shares that are none",
			func(s *v1.DeploymentSpec) {
				s.Strategy.RollingUpdate = &v1.RollingUpdateDeployment{MaxUnavailable: ParseIntOrString("-1"), MaxSurge: ParseIntOrString("some")}
			},
			[]string{
				"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
				`spec.strategy.rollingUpdate.maxSurge: Invalid value: "some": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')`,
			},
		},
		{
			"more than all unavailable",
			func(s *v1.DeploymentSpec) { s.Strategy.RollingUpdate.MaxUnavailable = ParseIntOrString("101%") },
			[]string{`spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`},
		},
		{
			"parameters of another strategy",
			func(s *v1.DeploymentSpec) { s.Strategy.Type = "Recreate" },
			[]string{"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"},
		},
		{
			"an unknown strategy",
			func(s *v1.DeploymentSpec) { s.Strategy.Type = "BlueGreen" },
			[]string{`spec.strategy.type: Unsupported value: "BlueGreen": supported values: "Recreate", "RollingUpdate"`},
		},
		{
			"a deadline before the pods can be available",
			func(s *v1.DeploymentSpec) { s.MinReadySeconds, s.ProgressDeadlineSeconds = 600, proto.Int32(600) },
			[]string{"spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := validDeployment()
			tt.change(d.Spec)
			if diff := cmp.Diff(tt.want, sentences(Validate(d))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOtherKindsThatAreWrongAreRefused(t *testing.T) {
	in := &v1.ObjectMeta{Name: "a", Namespace: "default"}
	for _, tt := range []struct {
		name   string
		object Object
		want   []string
	}{
		{
			"a namespace with a dot",
			&v1.Namespace{Metadata: &v1.ObjectMeta{Name: "a.b"}},
			[]string{`metadata.name: Invalid value: "a.b": must not contain dots`},
		},
		{
			"a node in a namespace",
			&v1.Node{Metadata: in},
			[]string{"metadata.namespace: Forbidden: not allowed on this type"},
		},
		{
			"a node with less than nothing",
			&v1.Node{Metadata: &v1.ObjectMeta{Name: "a"}, Status: &v1.NodeStatus{Allocatable: map[string]string{"pods": "-1"}}},
			[]string{`status.allocatable[pods]: Invalid value: "-1": must be greater than or equal to 0`},
		},
		{
			"a node's subnets",
			&v1.Node{Metadata: &v1.ObjectMeta{Name: "a"}, Spec: &v1.NodeSpec{PodCidrs: []string{"10.0.0.0/24", "10.0.1/24"}}},
			[]string{`spec.podCIDRs[1]: Invalid value: "10.0.1/24": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`},
		},
		{
			"two subnets of one family",
			&v1.Node{Metadata: &v1.ObjectMeta{Name: "a"}, Spec: &v1.NodeSpec{PodCidrs: []string{"10.0.0.0/24", "10.0.1.0/24"}}},
			[]string{`spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: may specify no more than one CIDR for each IP family`},
		},
		{
			"a config map's keys",
			&v1.ConfigMap{Metadata: in, Data: map[string]string{"..": "", "a": ""}, BinaryData: map[string][]byte{"a": nil}},
			[]string{
				"data[..]: Invalid value: \"..\": must not be '..'",
				`data[a]: Invalid value: "a": duplicate of key present in binaryData`,
			},
		},
		{
			"a config map above a mebibyte",
			&v1.ConfigMap{Metadata: in, Data: map[string]string{"a": strings.Repeat("x", 1<<20)}, BinaryData: map[string][]byte{"b": {1}}},
			[]string{"data: Too long: may not be more than 1048576 bytes"},
		},
		{
			"a secret above a mebibyte",
			&v1.Secret{Metadata: in, Data: map[string][]byte{"a": make([]byte, 1<<20+1)}},
			[]string{"data: Too long: may not be more than 1048576 bytes"},
		},
		{
			"a secret that lacks what its type needs",
			&v1.Secret{Metadata: in, Type: "kubernetes.io/tls", Data: map[string][]byte{"tls.crt": nil}},
			[]string{"data[tls.key]: Required value"},
		},
		{
			"a secret of logins without them",
			&v1.Secret{Metadata: in, Type: "kubernetes.io/dockercfg", Data: map[string][]byte{".dockerconfigjson": []byte("{}")}},
			[]string{"data[.dockercfg]: Required value"},
		},
		{
			"logins that are no JSON, and are not shown",
			&v1.Secret{Metadata: in, Type: "kubernetes.io/dockerconfigjson", Data: map[string][]byte{".dockerconfigjson": []byte("me:password")}},
			[]string{`data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": invalid character 'm' looking for beginning of value`},
		},
		{
			"logins that are JSON of another shape",
			&v1.Secret{Metadata: in, Type: "kubernetes.io/dockerconfigjson", Data: map[string][]byte{".dockerconfigjson": []byte("[]")}},
			[]string{`data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": json: cannot unmarshal array into Go value of type map[string]interface {}`},
		},
		{
			"an event of another namespace",
			&v1.Event{Metadata: in, InvolvedObject: &v1.ObjectReference{Namespace: "shop"}, Type: "Loud"},
			[]string{
				`involvedObject.namespace: Invalid value: "shop": does not match event.namespace`,
				`type: Unsupported value: "Loud": supported values: "Normal", "Warning"`,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, sentences(Validate(tt.object))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatMayChange(t *testing.T) {
	meta := func() *v1.ObjectMeta { return &v1.ObjectMeta{Name: "a", Namespace: "default", Uid: "u"} }
	changedPod := func(change func(*v1.Pod)) Object {
		p := validPod()
		p.Spec.ActiveDeadlineSeconds = proto.Int64(100)
		change(p)
		return p
	}
	oldPod := changedPod(func(*v1.Pod) {})
	placed := changedPod(func(p *v1.Pod) { p.Spec.NodeName = "node-1" })
	for _, tt := range []struct {
		name     string
		old, new Object
		want     []string
	}{
		{"a pod's image", oldPod, changedPod(func(p *v1.Pod) { p.Spec.Containers[0].Image = "web:2" }), nil},
		{"a node's subnet, once", &v1.Node{Metadata: &v1.ObjectMeta{Name: "a"}}, &v1.Node{Metadata: &v1.ObjectMeta{Name: "a"}, Spec: &v1.NodeSpec{PodCidrs: []string{"10.0.0.0/24"}}}, nil},
		{
			"not a node's subnet, twice",
			&v1.Node{Metadata: &v1.ObjectMeta{Name: "a"}, Spec: &v1.NodeSpec{PodCidrs: []string{"10.0.0.0/24"}}},
			&v1.Node{Metadata: &v1.ObjectMeta{Name: "a"}, Spec: &v1.NodeSpec{PodCidrs: []string{"10.0.1.0/24"}}},
			[]string{`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`},
		},
		{"a pod's deadline, when it becomes shorter", oldPod, changedPod(func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = proto.Int64(50) }), nil},
		{
			"not a pod's deadline, when it becomes longer",
			oldPod,
			changedPod(func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = proto.Int64(500) }),
			[]string{"spec.activeDeadlineSeconds: Invalid value: 500: must be less than or equal to previous value"},
		},
		{
			"not a pod's deadline, when it is taken away",
			oldPod,
			changedPod(func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = nil }),
			[]string{"spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"},
		},
		{"a pod's node, once", oldPod, placed, nil},
		{
			"not a pod's node, twice",
			placed,
			changedPod(func(p *v1.Pod) { p.Spec.NodeName = "node-2" }),
			[]string{"spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations); changed: spec.nodeName"},
		},
		{
			"nothing else of a pod",
			oldPod,
			changedPod(func(p *v1.Pod) {
				p.Spec.RestartPolicy = "Never"
				p.Spec.Containers[0].Env = []*v1.EnvVar{{Name: "A"}}
				p.Spec.Containers[0].Resources.Limits = map[string]string{"cpu": "1"}
			}),
			[]string{"spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations); changed: spec.containers[0].env, spec.containers[0].resources.limits, spec.restartPolicy"},
		},
		{
			"not the number of a pod's containers",
			oldPod,
			changedPod(func(p *v1.Pod) {
				p.Spec.Containers = append(p.Spec.Containers, &v1.Container{Name: "b", Image: "b", ImagePullPolicy: "Never"})
			}),
			[]string{"spec.containers: Forbidden: pod updates may not add or remove containers"},
		},
		{
			"not a deployment's selector",
			validDeployment(),
			func() Object {
				d := validDeployment()
				d.Spec.Selector.MatchLabels["a"], d.Spec.Template.Metadata.Labels["a"] = "b", "b"
				return d
			}(),
			[]string{`spec.selector: Invalid value: {"matchLabels":{"a":"b","app":"web"}}: field is immutable`},
		},
		{
			"not an object's identity",
			&v1.ConfigMap{Metadata: meta()},
			&v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: "b", Namespace: "default", Uid: "v"}},
			[]string{`metadata.name: Invalid value: "b": field is immutable`, `metadata.uid: Invalid value: "v": field is immutable`},
		},
		{
			"not what is immutable",
			&v1.ConfigMap{Metadata: meta(), Immutable: proto.Bool(true)},
			&v1.ConfigMap{Metadata: meta(), Data: map[string]string{"a": ""}, BinaryData: map[string][]byte{"b": nil}},
			[]string{
				"immutable: Forbidden: field is immutable when `immutable` is set",
				"data: Forbidden: field is immutable when `immutable` is set",
				"binaryData: Forbidden: field is immutable when `immutable` is set",
			},
		},
		{
			"not a secret's type",
			&v1.Secret{Metadata: meta(), Type: "a", Immutable: proto.Bool(true)},
			&v1.Secret{Metadata: meta(), Type: "b", Immutable: proto.Bool(true)},
			[]string{`type: Invalid value: "b": field is immutable`},
		},
		{
			"no new finalizers on what is being deleted",
			&v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: "a", Namespace: "default", DeletionTimestamp: timestamppb.New(noon)}},
			&v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: "a", Namespace: "default", DeletionTimestamp: timestamppb.New(noon), Finalizers: []string{"x.io/y"}}},
			[]string{`metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"x.io/y"}`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, sentences(ValidateUpdate(tt.new, tt.old))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestProbesAreValidated(t *testing.T) {
	get := func(change func(*v1.HTTPGetAction)) *v1.Probe {
		a := &v1.HTTPGetAction{Port: ParseIntOrString("8080")}
		change(a)
		return &v1.Probe{HttpGet: a}
	}
	tests := []struct {
		name  string
		probe *v1.Probe
		want  []string
	}{
		{"a request needs only a port", get(func(*v1.HTTPGetAction) {}), nil},
		{"a port may have a name", get(func(a *v1.HTTPGetAction) { a.Port = ParseIntOrString("web") }), nil},
		{"one way to ask is needed", &v1.Probe{}, []string{"livenessProbe: Required value: must specify a handler type"}},
		{"and no more", &v1.Probe{Exec: &v1.ExecAction{Command: []string{"true"}}, Grpc: &v1.GRPCAction{Port: 1}}, []string{"livenessProbe.grpc: Forbidden: may not specify more than 1 handler type"}},
		{"a command may not be empty", &v1.Probe{Exec: &v1.ExecAction{}}, []string{"livenessProbe.exec.command: Required value"}},
		{"a port is needed", get(func(a *v1.HTTPGetAction) { a.Port = nil }), []string{"livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"}},
		{"a scheme is one of two", get(func(a *v1.HTTPGetAction) { a.Scheme = "FTP" }), []string{`livenessProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"`}},
		{
			"a header has a name", get(func(a *v1.HTTPGetAction) { a.HttpHeaders = []*v1.HTTPHeader{{Name: "a b"}} }),
			[]string{`livenessProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')`},
		},
		{"times are not negative", &v1.Probe{TcpSocket: &v1.TCPSocketAction{Port: ParseIntOrString("1")}, PeriodSeconds: -1}, []string{"livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"}},
		{"one success is enough", &v1.Probe{Grpc: &v1.GRPCAction{Port: 1}, SuccessThreshold: 2}, []string{"livenessProbe.successThreshold: Invalid value: 2: must be 1"}},
		{"a grace period is not zero", &v1.Probe{Grpc: &v1.GRPCAction{Port: 1}, TerminationGracePeriodSeconds: proto.Int64(0)}, []string{"livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pod := validPod()
			pod.Spec.Containers[0].LivenessProbe = test.probe
			Default(pod)
			var want []string
			for _, w := range test.want {
				want = append(want, "spec.containers[0]."+w)
			}
			if diff := cmp.Diff(want, sentences(Validate(pod))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	pod := validPod()
	pod.Spec.Containers[0].ReadinessProbe = &v1.Probe{Grpc: &v1.GRPCAction{Port: 1}, SuccessThreshold: 2, TerminationGracePeriodSeconds: proto.Int64(1)}
	Default(pod)
	want := []string{"spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes"}
	if diff := cmp.Diff(want, sentences(Validate(pod))); diff != "" {
		t.Errorf("readiness (-want +got):\n%s", diff)
	}
}
