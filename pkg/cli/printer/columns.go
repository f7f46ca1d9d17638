package printer

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

type v1Time = timestamppb.Timestamp

// of makes a column's cell out of a function on the kind's own type.
func of[T api.Object](f func(o T, now time.Time) string) func(api.Object, time.Time) string {
	return func(o api.Object, now time.Time) string { return f(o.(T), now) }
}

// text makes one out of a function that does not depend on the time.
func text[T api.Object](f func(o T) string) func(api.Object, time.Time) string {
	return func(o api.Object, _ time.Time) string { return f(o.(T)) }
}

// num makes a cell out of a function that returns a number.
func num[T api.Object, N int | int32](f func(o T) N) func(api.Object, time.Time) string {
	return func(o api.Object, _ time.Time) string { return strconv.Itoa(int(f(o.(T)))) }
}

var (
	nameColumn = column{title: "NAME", cell: func(o api.Object, _ time.Time) string { return o.GetMetadata().GetName() }}
	ageColumn  = column{title: "AGE", cell: func(o api.Object, now time.Time) string {
		return Age(o.GetMetadata().GetCreationTimestamp(), now)
	}}
)

// columnsOf is kubectl's table for each kind.
func columnsOf(k *api.Kind) []column {
	switch k.Name {
	case "Pod":
		return podColumns
	case "Deployment":
		return deploymentColumns
	case "ReplicaSet":
		return replicaSetColumns
	case "Node":
		return nodeColumns
	case "PodDisruptionBudget":
		return budgetColumns
	case "ChaosExperiment":
		return experimentColumns
	case "ChaosInjection":
		return injectionColumns
	case "Event":
		return eventColumns
	case "Namespace":
		return []column{nameColumn, {title: "STATUS", cell: text(func(n *v1.Namespace) string {
			return n.GetStatus().GetPhase()
		})}, ageColumn}
	case "ConfigMap":
		return []column{nameColumn, {title: "DATA", cell: num(func(c *v1.ConfigMap) int {
			return len(c.GetData()) + len(c.GetBinaryData())
		})}, ageColumn}
	case "Secret":
		return []column{nameColumn, {title: "TYPE", cell: text(func(s *v1.Secret) string {
			return s.GetType()
		})}, {title: "DATA", cell: num(func(s *v1.Secret) int { return len(s.GetData()) })}, ageColumn}
	}
	if k.Group == api.GroupRBAC {
		return rbacColumns(k)
	}
	return []column{nameColumn, ageColumn}
}

var podColumns = []column{
	nameColumn,
	{title: "READY", cell: of(func(p *v1.Pod, now time.Time) string { ready, _, _ := podCells(p, now); return ready })},
	{title: "STATUS", cell: of(func(p *v1.Pod, now time.Time) string { _, status, _ := podCells(p, now); return status })},
	{title: "RESTARTS", cell: of(func(p *v1.Pod, now time.Time) string { _, _, restarts := podCells(p, now); return restarts })},
	ageColumn,
	{title: "IP", wide: true, cell: text(func(p *v1.Pod) string { return cmp.Or(p.GetStatus().GetPodIp(), "<none>") })},
	{title: "NODE", wide: true, cell: text(func(p *v1.Pod) string { return cmp.Or(p.GetSpec().GetNodeName(), "<none>") })},
	{title: "NOMINATED NODE", wide: true, cell: func(api.Object, time.Time) string { return "<none>" }},
	{title: "READINESS GATES", wide: true, cell: func(api.Object, time.Time) string { return "<none>" }},
}

var deploymentColumns = append([]column{
	nameColumn,
	{title: "READY", cell: text(func(d *v1.Deployment) string {
		return fmt.Sprintf("%d/%d", d.GetStatus().GetReadyReplicas(), d.GetSpec().GetReplicas())
	})},
	{title: "UP-TO-DATE", cell: num(func(d *v1.Deployment) int32 { return d.GetStatus().GetUpdatedReplicas() })},
	{title: "AVAILABLE", cell: num(func(d *v1.Deployment) int32 { return d.GetStatus().GetAvailableReplicas() })},
	ageColumn,
}, templateColumns[*v1.DeploymentSpec, *v1.Deployment]()...)

var replicaSetColumns = append([]column{
	nameColumn,
	{title: "DESIRED", cell: num(func(r *v1.ReplicaSet) int32 { return r.GetSpec().GetReplicas() })},
	{title: "CURRENT", cell: num(func(r *v1.ReplicaSet) int32 { return r.GetStatus().GetReplicas() })},
	{title: "READY", cell: num(func(r *v1.ReplicaSet) int32 { return r.GetStatus().GetReadyReplicas() })},
	ageColumn,
}, templateColumns[*v1.ReplicaSetSpec, *v1.ReplicaSet]()...)

// templated is the spec of kinds that have a pod template.
type templated interface {
	GetTemplate() *v1.PodTemplateSpec
	GetSelector() *v1.LabelSelector
}

// templateColumns are the wide columns of those.
func templateColumns[S templated, O interface {
	api.Object
	GetSpec() S
}]() []column {
	join := func(f func(*v1.Container) string) func(api.Object, time.Time) string {
		return text(func(o O) string {
			var out []string
			for _, c := range o.GetSpec().GetTemplate().GetSpec().GetContainers() {
				out = append(out, f(c))
			}
			return strings.Join(out, ",")
		})
	}
	return []column{
		{title: "CONTAINERS", wide: true, cell: join((*v1.Container).GetName)},
		{title: "IMAGES", wide: true, cell: join((*v1.Container).GetImage)},
		{title: "SELECTOR", wide: true, cell: text(func(o O) string { return Selector(o.GetSpec().GetSelector()) })},
	}
}

var budgetColumns = []column{
	nameColumn,
	{title: "MIN AVAILABLE", cell: text(func(b *v1.PodDisruptionBudget) string {
		return cmp.Or(api.FormatIntOrString(b.GetSpec().GetMinAvailable()), "N/A")
	})},
	{title: "MAX UNAVAILABLE", cell: text(func(b *v1.PodDisruptionBudget) string {
		return cmp.Or(api.FormatIntOrString(b.GetSpec().GetMaxUnavailable()), "N/A")
	})},
	{title: "ALLOWED DISRUPTIONS", cell: num(func(b *v1.PodDisruptionBudget) int32 { return b.GetStatus().GetDisruptionsAllowed() })},
	ageColumn,
}

var experimentColumns = []column{
	nameColumn,
	{title: "FAULT", cell: text(func(e *v1.ChaosExperiment) string { return e.GetSpec().GetFault().GetType() })},
	{title: "PHASE", cell: text(func(e *v1.ChaosExperiment) string { return cmp.Or(e.GetStatus().GetPhase(), "Pending") })},
	{title: "ROUNDS", cell: num(func(e *v1.ChaosExperiment) int32 { return e.GetStatus().GetRounds() })},
	{title: "INJECTIONS", cell: num(func(e *v1.ChaosExperiment) int32 { return e.GetStatus().GetInjections() })},
	ageColumn,
	{title: "SELECTOR", wide: true, cell: text(func(e *v1.ChaosExperiment) string {
		return Selector(cmp.Or(e.GetSpec().GetSelector(), e.GetSpec().GetNodeSelector()))
	})},
	{title: "MESSAGE", wide: true, cell: text(func(e *v1.ChaosExperiment) string { return e.GetStatus().GetMessage() })},
}

var injectionColumns = []column{
	nameColumn,
	{title: "FAULT", cell: text(func(i *v1.ChaosInjection) string { return i.GetSpec().GetFault().GetType() })},
	{title: "TARGET", cell: text(func(i *v1.ChaosInjection) string { return api.ChaosTarget(i) })},
	{title: "PHASE", cell: text(func(i *v1.ChaosInjection) string { return cmp.Or(i.GetStatus().GetPhase(), "Pending") })},
	{title: "ROUND", cell: num(func(i *v1.ChaosInjection) int32 { return i.GetSpec().GetRound() })},
	ageColumn,
	{title: "NODE", wide: true, cell: text(func(i *v1.ChaosInjection) string { return cmp.Or(i.GetSpec().GetNodeName(), "<none>") })},
	{title: "EXPERIMENT", wide: true, cell: text(func(i *v1.ChaosInjection) string { return i.GetSpec().GetExperiment() })},
	{title: "MESSAGE", wide: true, cell: text(func(i *v1.ChaosInjection) string { return i.GetStatus().GetMessage() })},
}

var nodeColumns = []column{
	nameColumn,
	{title: "STATUS", cell: text(func(n *v1.Node) string {
		words := []string{"Unknown"}
		if c := api.GetCondition(n.GetStatus().GetConditions(), api.NodeReady); c != nil {
			words[0] = "NotReady"
			if c.GetStatus() == "True" {
				words[0] = "Ready"
			}
		}
		if n.GetSpec().GetUnschedulable() {
			words = append(words, "SchedulingDisabled")
		}
		return strings.Join(words, ",")
	})},
	{title: "ROLES", cell: text(func(n *v1.Node) string {
		const prefix = "node-role.kubernetes.io/"
		var roles []string
		for l := range n.GetMetadata().GetLabels() {
			if r, ok := strings.CutPrefix(l, prefix); ok && r != "" {
				roles = append(roles, r)
			}
		}
		return cmp.Or(strings.Join(roles, ","), "<none>")
	})},
	ageColumn,
	{title: "VERSION", cell: text(func(n *v1.Node) string { return n.GetStatus().GetNodeInfo().GetKubeletVersion() })},
	{title: "INTERNAL-IP", wide: true, cell: text(func(n *v1.Node) string { return nodeAddress(n, "InternalIP") })},
	{title: "EXTERNAL-IP", wide: true, cell: text(func(n *v1.Node) string { return nodeAddress(n, "ExternalIP") })},
	{title: "OS-IMAGE", wide: true, cell: text(func(n *v1.Node) string { return cmp.Or(n.GetStatus().GetNodeInfo().GetOsImage(), "<unknown>") })},
	{title: "KERNEL-VERSION", wide: true, cell: text(func(n *v1.Node) string {
		return cmp.Or(n.GetStatus().GetNodeInfo().GetKernelVersion(), "<unknown>")
	})},
	{title: "CONTAINER-RUNTIME", wide: true, cell: text(func(n *v1.Node) string {
		return cmp.Or(n.GetStatus().GetNodeInfo().GetContainerRuntimeVersion(), "<unknown>")
	})},
}

func nodeAddress(n *v1.Node, typ string) string {
	return cmp.Or(api.NodeAddress(n, typ), "<none>")
}

var eventColumns = []column{
	{title: "LAST SEEN", cell: of(EventAge)},
	{title: "TYPE", cell: text(func(e *v1.Event) string { return e.GetType() })},
	{title: "REASON", cell: text(func(e *v1.Event) string { return e.GetReason() })},
	{title: "OBJECT", cell: text(func(e *v1.Event) string {
		return strings.ToLower(e.GetInvolvedObject().GetKind()) + "/" + e.GetInvolvedObject().GetName()
	})},
	{title: "SUBOBJECT", wide: true, cell: text(func(e *v1.Event) string { return e.GetInvolvedObject().GetFieldPath() })},
	{title: "SOURCE", wide: true, cell: text(func(e *v1.Event) string { return EventSource(e) })},
	{title: "MESSAGE", cell: text(func(e *v1.Event) string { return strings.Join(strings.Fields(e.GetMessage()), " ") })},
	{title: "FIRST SEEN", wide: true, cell: of(func(e *v1.Event, now time.Time) string { return Age(e.GetFirstTimestamp(), now) })},
	{title: "COUNT", wide: true, cell: num(func(e *v1.Event) int32 { return max(1, e.GetCount()) })},
	{title: "NAME", wide: true, cell: nameColumn.cell},
}

// EventTime is when an event was last seen.
func EventTime(e *v1.Event) *v1Time {
	for _, t := range []*v1Time{e.GetLastTimestamp(), e.GetEventTime(), e.GetFirstTimestamp()} {
		if t != nil {
			return t
		}
	}
	return e.GetMetadata().GetCreationTimestamp()
}

// EventAge is how long ago an event was last seen, and how often since when.
func EventAge(e *v1.Event, now time.Time) string {
	age := Age(EventTime(e), now)
	if e.GetCount() > 1 {
		age = fmt.Sprintf("%s (x%d over %s)", age, e.GetCount(), Age(e.GetFirstTimestamp(), now))
	}
	return age
}

// EventSource is who saw the event: component, and host where known.
func EventSource(e *v1.Event) string {
	c := cmp.Or(e.GetSource().GetComponent(), e.GetReportingComponent())
	h := cmp.Or(e.GetSource().GetHost(), e.GetReportingInstance())
	if h == "" {
		return c
	}
	return c + ", " + h
}

// binding is a RoleBinding or ClusterRoleBinding.
type binding interface {
	GetRoleRef() *v1.RoleRef
}

// rbacColumns are those of roles, or of their bindings.
func rbacColumns(k *api.Kind) []column {
	if _, ok := k.New().(binding); !ok {
		return []column{nameColumn, {title: "CREATED AT", cell: func(o api.Object, _ time.Time) string {
			return o.GetMetadata().GetCreationTimestamp().AsTime().Format(time.RFC3339)
		}}}
	}
	return []column{
		nameColumn,
		{title: "ROLE", cell: func(o api.Object, _ time.Time) string {
			r := o.(binding).GetRoleRef()
			return r.GetKind() + "/" + r.GetName()
		}},
		ageColumn,
	}
}
