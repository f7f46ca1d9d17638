package api

import (
	"maps"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "orch/proto/v1"
)

// Default fills in, in place, what Kubernetes fills in where a manifest says
// nothing, and brings quantities into their canonical form. Doing it twice
// changes nothing more.
//
// What only creation sets (a pod's phase, a namespace's finalizer, uid and
// times) is the API server's.
func Default(o Object) {
	for _, part := range []protoreflect.Name{"metadata", "spec"} {
		if fd := o.ProtoReflect().Descriptor().Fields().ByName(part); fd != nil {
			o.ProtoReflect().Mutable(fd) // made where it is missing
		}
	}
	switch o := o.(type) {
	case *v1.Pod:
		defaultPod(o)
	case *v1.ReplicaSet:
		setPointer(&o.Spec.Replicas, 1)
		defaultTemplate(o.Spec.Template)
	case *v1.Deployment:
		defaultDeployment(o.Spec)
	case *v1.Namespace:
		defaultNamespace(o)
	case *v1.Node:
		defaultNode(o)
	case *v1.Secret:
		defaultSecret(o)
	case *v1.ChaosExperiment:
		defaultExperiment(o.Spec)
	case *v1.RoleBinding:
		defaultBinding(&o.RoleRef, o.Subjects)
	case *v1.ClusterRoleBinding:
		defaultBinding(&o.RoleRef, o.Subjects)
	case *v1.Event:
		setMissing(&o.InvolvedObject)
		setMissing(&o.Source)
	}
}

func defaultPod(p *v1.Pod) {
	defaultPodSpec(p.Spec)
	// Only pods, not templates: a limit without a request requests as much, and
	// on the node's own network a port of the container is one of the node.
	for _, c := range AllContainers(p.Spec) {
		for _, port := range c.Ports {
			if p.Spec.HostNetwork && port.HostPort == 0 {
				port.HostPort = port.ContainerPort
			}
		}
		for name, limit := range c.Resources.Limits {
			if _, ok := c.Resources.Requests[name]; ok {
				continue
			}
			Put(&c.Resources.Requests, name, limit)
		}
	}
}

func defaultTemplate(t *v1.PodTemplateSpec) {
	if t == nil {
		return
	}
	setMissing(&t.Metadata)
	setMissing(&t.Spec)
	defaultPodSpec(t.Spec)
}

func defaultPodSpec(s *v1.PodSpec) {
	setString(&s.RestartPolicy, RestartPolicyAlways)
	setPointer(&s.TerminationGracePeriodSeconds, 30)
	setString(&s.SchedulerName, DefaultScheduler)
	for _, v := range s.Volumes {
		defaultVolume(v)
	}
	for _, c := range AllContainers(s) {
		setMissing(&c.Resources)
		canonicalize(c.Resources.Limits)
		canonicalize(c.Resources.Requests)
		setString(&c.ImagePullPolicy, pullPolicyOf(c.Image))
		for _, p := range c.Ports {
			setString(&p.Protocol, ProtocolTCP)
		}
		for _, v := range c.Env {
			defaultFieldRef(v.GetValueFrom().GetFieldRef())
			defaultResourceRef(v.GetValueFrom().GetResourceFieldRef())
		}
		defaultProbes(c)
		defaultHTTPGet(c.GetLifecycle().GetPostStart().GetHttpGet())
		defaultHTTPGet(c.GetLifecycle().GetPreStop().GetHttpGet())
	}
}

func defaultProbes(c *v1.Container) {
	for _, p := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		setNumber(&p.TimeoutSeconds, 1)
		setNumber(&p.PeriodSeconds, 10)
		setNumber(&p.SuccessThreshold, 1)
		setNumber(&p.FailureThreshold, 3)
		defaultHTTPGet(p.HttpGet)
		if p.Grpc != nil {
			setPointer(&p.Grpc.Service, "")
		}
	}
}

func defaultHTTPGet(a *v1.HTTPGetAction) {
	if a != nil {
		setString(&a.Path, "/")
		setString(&a.Scheme, SchemeHTTP)
	}
}

// defaultVolume makes a volume without a source an emptyDir.
func defaultVolume(v *v1.Volume) {
	const mode = 0o644
	switch {
	case v.HostPath != nil:
		setPointer(&v.HostPath.Type, "")
	case v.Secret != nil:
		setPointer(&v.Secret.DefaultMode, mode)
	case v.ConfigMap != nil:
		setPointer(&v.ConfigMap.DefaultMode, mode)
	case v.DownwardApi != nil:
		setPointer(&v.DownwardApi.DefaultMode, mode)
		defaultFacts(v.DownwardApi.Items)
	case v.Projected != nil:
		setPointer(&v.Projected.DefaultMode, mode)
		for _, s := range v.Projected.Sources {
			defaultFacts(s.GetDownwardApi().GetItems())
		}
	default:
		setMissing(&v.EmptyDir)
		v.EmptyDir.SizeLimit = canonical(v.EmptyDir.SizeLimit)
	}
}

func defaultFacts(files []*v1.DownwardAPIVolumeFile) {
	for _, f := range files {
		defaultFieldRef(f.FieldRef)
		defaultResourceRef(f.ResourceFieldRef)
	}
}

func defaultFieldRef(f *v1.ObjectFieldSelector) {
	if f != nil {
		setString(&f.ApiVersion, fieldOfPod)
	}
}

func defaultResourceRef(f *v1.ResourceFieldSelector) {
	if f != nil {
		setString(&f.Divisor, "0")
		f.Divisor = canonical(f.Divisor)
	}
}

// pullPolicyOf is Always for an image that is a moving target: tag latest, or
// neither tag nor digest.
func pullPolicyOf(image string) string {
	image, _, digested := strings.Cut(image, "@")
	tag := ""
	// A colon before the last slash is that of a registry's port.
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		tag = image[i+1:]
	}
	if tag == "" && !digested || tag == "latest" {
		return PullAlways
	}
	return PullIfNotPresent
}

func defaultDeployment(s *v1.DeploymentSpec) {
	setPointer(&s.Replicas, 1)
	setPointer(&s.RevisionHistoryLimit, 10)
	setPointer(&s.ProgressDeadlineSeconds, 600)
	setMissing(&s.Strategy)
	setString(&s.Strategy.Type, StrategyRollingUpdate)
	if s.Strategy.Type == StrategyRollingUpdate {
		setMissing(&s.Strategy.RollingUpdate)
		for _, share := range []**v1.IntOrString{&s.Strategy.RollingUpdate.MaxUnavailable, &s.Strategy.RollingUpdate.MaxSurge} {
			if *share == nil {
				*share = ParseIntOrString("25%")
			}
		}
	}
	defaultTemplate(s.Template)
}

func defaultNamespace(n *v1.Namespace) {
	setMissing(&n.Status)
	setString(&n.Status.Phase, NamespaceActive)
	// So that selectors can choose namespaces by name.
	if name := n.Metadata.Name; name != "" {
		Put(&n.Metadata.Labels, LabelNamespaceName, name)
	}
}

func defaultNode(n *v1.Node) {
	// podCIDR is the older form of podCIDRs' first. What it says holds.
	if s := n.Spec; s.PodCidr != "" && (len(s.PodCidrs) == 0 || s.PodCidrs[0] != s.PodCidr) {
		s.PodCidrs = []string{s.PodCidr}
	} else if len(s.PodCidrs) > 0 {
		s.PodCidr = s.PodCidrs[0]
	}
	if n.Status == nil {
		return
	}
	canonicalize(n.Status.Capacity)
	if n.Status.Allocatable == nil {
		n.Status.Allocatable = maps.Clone(n.Status.Capacity)
	}
	canonicalize(n.Status.Allocatable)
}

func defaultSecret(s *v1.Secret) {
	setString(&s.Type, "Opaque")
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

func defaultExperiment(s *v1.ChaosExperimentSpec) {
	setMissing(&s.Fault)
	setString(&s.Mode, ChaosOne)
	setNumber(&s.DurationSeconds, 60)
	if s.Fault.Type == FaultKillContainer {
		setString(&s.Fault.Signal, "SIGKILL")
	}
	if s.Fault.Type == FaultKillPod {
		setPointer(&s.Fault.GracePeriodSeconds, 0)
	}
	probes := []*v1.ChaosProbe{s.Probe}
	for _, st := range s.SteadyState {
		probes = append(probes, st.GetHttpGet())
		if r := st.GetReadyReplicas(); r != nil {
			setString(&r.Kind, "Deployment")
		}
	}
	for _, p := range probes {
		if p != nil {
			setNumber(&p.PeriodMilliseconds, 100)
			setNumber(&p.TimeoutMilliseconds, 1000)
			setNumber(&p.FailureThreshold, 3)
		}
	}
}

func defaultBinding(ref **v1.RoleRef, subjects []*v1.Subject) {
	setMissing(ref)
	setString(&(*ref).ApiGroup, GroupRBAC)
	for _, s := range subjects {
		if s.Kind == SubjectUser || s.Kind == SubjectGroup {
			setString(&s.ApiGroup, GroupRBAC)
		}
	}
}

func canonicalize(list map[string]string) {
	for name, s := range list {
		list[name] = canonical(s)
	}
}

// canonical writes a quantity in its canonical form, rounded up to a thousandth.
// What is no quantity stays as it is, for validation to refuse.
func canonical(s string) string {
	if q, err := ParseQuantity(strings.TrimSpace(s)); err == nil {
		return q.roundTo(-3).String()
	}
	return s
}

// setMissing makes an empty message where there is none.
func setMissing[M any, P interface {
	*M
	proto.Message
}](field *P,
) {
	if *field == nil {
		*field = new(M)
	}
}

// setPointer sets an optional field that is not set.
func setPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func setNumber(field *int32, value int32) {
	if *field == 0 {
		*field = value
	}
}

func setString(field *string, value string) {
	if *field == "" {
		*field = value
	}
}
