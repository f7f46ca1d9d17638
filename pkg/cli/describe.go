package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/cli/printer"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func newDescribe(f *factory) *cobra.Command {
	var (
		s          selection
		showEvents bool
	)
	c := &cobra.Command{
		Use: "describe (TYPE [NAME...] | TYPE/NAME | -f FILE)", Short: "Show objects with all that belongs to them",
		Example:           "  orchctl describe pod web-1\n  orchctl describe deployment/recommend-service\n  orchctl describe nodes",
		ValidArgsFunction: f.completeKinds,
		RunE: func(c *cobra.Command, args []string) error {
			targets, err := s.targets(f, args)
			if err != nil {
				return err
			}
			ctx, cancel := f.request(c.Context(), "Get", "")
			defer cancel()
			n := 0
			return s.each(ctx, f, targets, func(c *client.Client, o api.Object) error {
				if n++; n > 1 {
					fmt.Fprint(f.Out, "\n\n")
				}
				return describe(ctx, f.Out, c, o, showEvents)
			})
		},
	}
	s.fileFlags(c, "describe")
	s.selectorFlags(c)
	c.Flags().BoolVar(&showEvents, "show-events", true, "end with the object's events")
	return c
}

// description is a sheet of names and values, whose lines align when it is
// flushed.
type description struct{ w *tabwriter.Writer }

// line writes "Name: value", indented by level.
func (d description) line(level int, name, format string, args ...any) {
	fmt.Fprintf(d.w, "%s%s:\t%s\n", strings.Repeat("  ", level), name, fmt.Sprintf(format, args...))
}

// some writes a line for a value that there is.
func (d description) some(level int, name, value string) {
	if value != "" {
		d.line(level, name, "%s", value)
	}
}

// head writes "Name:" alone.
func (d description) head(level int, name string) {
	fmt.Fprintf(d.w, "%s%s:\n", strings.Repeat("  ", level), name)
}

// list writes values below each other, with the name before the first.
func (d description) list(level int, name string, values []string) {
	if len(values) == 0 {
		d.line(level, name, "<none>")
	}
	for i, v := range values {
		if i == 0 {
			d.line(level, name, "%s", v)
			continue
		}
		fmt.Fprintf(d.w, "%s\t%s\n", strings.Repeat("  ", level), v)
	}
}

// words writes the lines of values below a head, if there are any.
func (d description) words(level int, name string, values []string) {
	if len(values) > 0 {
		d.head(level, name)
		before := strings.Repeat("  ", level+1)
		fmt.Fprintln(d.w, before+strings.ReplaceAll(strings.Join(values, "\n"), "\n", "\n"+before))
	}
}

// table writes rows below a head and the titles of its columns.
func (d description) table(level int, name string, titles []string, rows [][]string) {
	var under []string
	for _, t := range titles {
		under = append(under, strings.Repeat("-", len(t)))
	}
	d.head(level, name)
	d.rows(level, append([][]string{titles, under}, rows...))
}

func (d description) rows(level int, rows [][]string) {
	for _, r := range rows {
		fmt.Fprintf(d.w, "%s%s\n", strings.Repeat("  ", level+1), strings.Join(r, "\t"))
	}
}

func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return "<unset>"
	}
	return t.AsTime().Local().Format(time.RFC1123Z)
}

// describe writes the sheet of one object.
func describe(ctx context.Context, w io.Writer, c *client.Client, o api.Object, showEvents bool) error {
	d := description{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	m := o.GetMetadata()
	d.line(0, "Name", "%s", m.GetName())
	if api.KindOf(o).Namespaced {
		d.line(0, "Namespace", "%s", m.GetNamespace())
	}
	switch o.(type) {
	case *v1.Deployment, *v1.Node, *v1.Event:
		d.line(0, "CreationTimestamp", "%s", stamp(m.GetCreationTimestamp()))
	}
	switch o := o.(type) { // what stands before the labels
	case *v1.Pod:
		node := strings.TrimSuffix(o.GetSpec().GetNodeName()+"/"+o.GetStatus().GetHostIp(), "/")
		d.line(0, "Node", "%s", cmp.Or(node, "<none>"))
		if t := o.GetStatus().GetStartTime(); t != nil {
			d.line(0, "Start Time", "%s", stamp(t))
		}
	case *v1.ReplicaSet:
		d.line(0, "Selector", "%s", printer.Selector(o.GetSpec().GetSelector()))
	}
	d.list(0, "Labels", printer.Pairs(m.GetLabels(), "="))
	annotations := api.Clone(o).GetMetadata().GetAnnotations()
	delete(annotations, api.AnnotationLastApplied)
	delete(annotations, api.AnnotationTerminations) // is a table of its own
	d.list(0, "Annotations", printer.Pairs(annotations, ": "))
	if t := m.GetDeletionTimestamp(); t != nil {
		if _, ok := o.(*v1.Pod); !ok { // a pod's status says it
			d.line(0, "Terminating since", "%s", stamp(t))
		}
		d.some(0, "Finalizers", strings.Join(m.GetFinalizers(), ", "))
	}
	if p, ok := o.(*v1.Pod); ok {
		d.podStatus(p)
	}
	if owner := api.ControllerOf(o); owner != nil {
		d.line(0, "Controlled By", "%s/%s", owner.GetKind(), owner.GetName())
	}
	var err error
	switch o := o.(type) {
	case *v1.Pod:
		d.pod(o)
	case *v1.Deployment:
		err = d.deployment(ctx, c, o)
	case *v1.ReplicaSet:
		err = d.replicaSet(ctx, c, o)
	case *v1.Node:
		err = d.node(ctx, c, o)
	case *v1.Namespace:
		d.line(0, "Status", "%s", o.GetStatus().GetPhase())
		d.conditions(o.GetStatus().GetConditions())
	case *v1.PodDisruptionBudget:
		d.budget(o)
	case *v1.ConfigMap:
		d.configMap(o)
	case *v1.Secret:
		d.secret(o)
	case *v1.Role:
		d.table(0, "PolicyRule", ruleHeader, ruleRows(o.GetRules()))
	case *v1.ClusterRole:
		d.table(0, "PolicyRule", ruleHeader, ruleRows(o.GetRules()))
	case *v1.RoleBinding:
		d.binding(o.GetRoleRef(), o.GetSubjects())
	case *v1.ClusterRoleBinding:
		d.binding(o.GetRoleRef(), o.GetSubjects())
	case *v1.ChaosExperiment:
		err = d.experiment(ctx, c, o)
	case *v1.ChaosInjection:
		err = d.fields(o)
	case *v1.Event:
		ref := o.GetInvolvedObject()
		d.line(0, "Object", "%s/%s", strings.ToLower(ref.GetKind()), ref.GetName())
		d.line(0, "Type", "%s", o.GetType())
		d.line(0, "Reason", "%s", o.GetReason())
		d.line(0, "Message", "%s", o.GetMessage())
		d.line(0, "Source", "%s", printer.EventSource(o))
		d.line(0, "Count", "%d", max(1, o.GetCount()))
		d.line(0, "First Seen", "%s", stamp(o.GetFirstTimestamp()))
		d.line(0, "Last Seen", "%s", stamp(printer.EventTime(o)))
		showEvents = false
	}
	if err != nil {
		return err
	}
	if showEvents {
		// Who may not read events sees the rest, as with kubectl.
		if err := d.events(ctx, c, o); err != nil && !errors.Is(err, api.ErrForbidden) {
			return err
		}
	}
	return d.w.Flush()
}

func (d description) budget(b *v1.PodDisruptionBudget) {
	if v := b.GetSpec().GetMinAvailable(); v != nil {
		d.line(0, "Min available", "%s", api.FormatIntOrString(v))
	} else if v := b.GetSpec().GetMaxUnavailable(); v != nil {
		d.line(0, "Max unavailable", "%s", api.FormatIntOrString(v))
	}
	if b.GetSpec().GetSelector() == nil {
		d.line(0, "Selector", "<unset>")
	} else {
		d.line(0, "Selector", "%s", printer.Selector(b.GetSpec().GetSelector()))
	}
	d.head(0, "Status")
	d.line(2, "Allowed disruptions", "%d", b.GetStatus().GetDisruptionsAllowed())
	d.line(2, "Current", "%d", b.GetStatus().GetCurrentHealthy())
	d.line(2, "Desired", "%d", b.GetStatus().GetDesiredHealthy())
	d.line(2, "Total", "%d", b.GetStatus().GetExpectedPods())
}

func (d description) podStatus(p *v1.Pod) {
	st := p.GetStatus()
	if m := p.GetMetadata(); m.GetDeletionTimestamp() != nil && !api.IsPodTerminal(p) {
		d.line(0, "Status", "Terminating (lasts %s)", printer.Duration(time.Since(m.GetDeletionTimestamp().AsTime())))
		d.line(0, "Termination Grace Period", "%ds", m.GetDeletionGracePeriodSeconds())
	} else {
		d.line(0, "Status", "%s", st.GetPhase())
	}
	d.some(0, "Reason", st.GetReason())
	d.some(0, "Message", st.GetMessage())
	d.line(0, "IP", "%s", st.GetPodIp())
	if len(st.GetPodIps()) > 0 {
		d.head(0, "IPs")
		for _, ip := range st.GetPodIps() {
			d.line(1, "IP", "%s", ip.GetIp())
		}
	}
}

func (d description) pod(p *v1.Pod) {
	spec, st := p.GetSpec(), p.GetStatus()
	if len(spec.GetInitContainers()) > 0 {
		d.head(0, "Init Containers")
		d.podContainers(p, spec.GetInitContainers(), st.GetInitContainerStatuses())
	}
	d.head(0, "Containers")
	d.podContainers(p, spec.GetContainers(), st.GetContainerStatuses())
	d.conditions(st.GetConditions())
	d.volumes(0, spec.GetVolumes())
	d.line(0, "QoS Class", "%s", st.GetQosClass())
	d.list(0, "Node-Selectors", printer.Pairs(spec.GetNodeSelector(), "="))
	d.list(0, "Tolerations", tolerationTexts(spec))
}

// podContainers writes containers of a pod and how they stand.
func (d description) podContainers(p *v1.Pod, containers []*v1.Container, list []*v1.ContainerStatus) {
	terminations := api.TerminationsOf(p)
	statuses := map[string]*v1.ContainerStatus{}
	for _, s := range list {
		statuses[s.GetName()] = s
	}
	for _, ct := range containers {
		d.head(1, ct.GetName())
		s := statuses[ct.GetName()]
		if s != nil {
			d.line(2, "Container ID", "%s", s.GetContainerId())
		}
		d.line(2, "Image", "%s", ct.GetImage())
		if s != nil {
			d.line(2, "Image ID", "%s", s.GetImageId())
		}
		d.program(2, ct)
		if s != nil {
			d.containerState(2, "State", s.GetState())
			if last := s.GetLastState(); last.GetTerminated() != nil {
				d.containerState(2, "Last State", last)
			}
			d.line(2, "Ready", "%s", title(s.GetReady()))
			d.line(2, "Restart Count", "%d", s.GetRestartCount())
			d.terminations(2, terminations[ct.GetName()])
		}
		d.surroundings(2, ct)
	}
}

// tolerationTexts are a pod's tolerations as kubectl writes them.
func tolerationTexts(s *v1.PodSpec) []string {
	var texts []string
	for _, t := range s.GetTolerations() {
		text := api.FormatTaint(&v1.Taint{Key: t.GetKey(), Value: t.GetValue(), Effect: t.GetEffect()})
		if t.GetOperator() == api.TolerationExists && t.GetValue() == "" {
			text = strings.TrimPrefix(text+" op=Exists", " ")
		}
		if t.TolerationSeconds != nil {
			text += fmt.Sprintf(" for %ds", t.GetTolerationSeconds())
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return texts
}

// terminations writes how a container ended lately, the last end first.
func (d description) terminations(level int, list []api.Termination) {
	if len(list) == 0 {
		return
	}
	var rows [][]string
	for _, t := range slices.Backward(list) {
		ran, code := "<unknown>", strconv.Itoa(int(t.ExitCode))
		if !t.StartedAt.IsZero() {
			ran = printer.Duration(t.FinishedAt.Sub(t.StartedAt))
		}
		if t.Signal != 0 {
			code += fmt.Sprintf(" (signal %d)", t.Signal)
		}
		message := cmp.Or(strings.ReplaceAll(t.Message, "\n", " "), "<none>")
		row := []string{stamp(timestamppb.New(t.FinishedAt)), ran, code, cmp.Or(t.Reason, "<none>"), shorten(message)}
		for line := range strings.SplitSeq(cmp.Or(t.Log, "<none>"), "\n") {
			rows = append(rows, append(row, shorten(line)))
			row = make([]string, len(row))
		}
	}
	d.table(level, "Terminations", []string{"Finished", "Ran", "Exit Code", "Reason", "Message", "Last Log Lines"}, rows)
}

// shorten cuts what would make a table too wide to read.
func shorten(s string) string {
	const columns = 60
	if r := []rune(s); len(r) > columns {
		return string(r[:columns-1]) + "…"
	}
	return s
}

func title(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// program writes what the spec says of a container's process: how it stands
// follows, and then its surroundings.
func (d description) program(level int, ct *v1.Container) {
	var ports, hostPorts []string
	for _, p := range ct.GetPorts() {
		ports = append(ports, fmt.Sprintf("%d/%s", p.GetContainerPort(), p.GetProtocol()))
		hostPorts = append(hostPorts, fmt.Sprintf("%d/%s", p.GetHostPort(), p.GetProtocol()))
	}
	plural := map[bool]string{true: "s"}[len(ports) > 1]
	d.line(level, "Port"+plural, "%s", cmp.Or(strings.Join(ports, ", "), "<none>"))
	d.line(level, "Host Port"+plural, "%s", cmp.Or(strings.Join(hostPorts, ", "), "<none>"))
	d.words(level, "Command", ct.GetCommand())
	d.words(level, "Args", ct.GetArgs())
}

// surroundings writes what the spec gives a container, and asks of it.
func (d description) surroundings(level int, ct *v1.Container) {
	d.words(level, "Limits", printer.Pairs(ct.GetResources().GetLimits(), ":\t"))
	d.words(level, "Requests", printer.Pairs(ct.GetResources().GetRequests(), ":\t"))
	d.some(level, "Liveness", probeText(ct.GetLivenessProbe()))
	d.some(level, "Readiness", probeText(ct.GetReadinessProbe()))
	d.some(level, "Startup", probeText(ct.GetStartupProbe()))
	d.environment(level, ct)
	d.mounts(level, ct)
}

func (d description) environment(level int, ct *v1.Container) {
	if len(ct.GetEnvFrom()) > 0 {
		d.head(level, "Environment Variables from")
	}
	for _, f := range ct.GetEnvFrom() {
		name, kind, optional := f.GetConfigMapRef().GetName(), "ConfigMap", f.GetConfigMapRef().GetOptional()
		if r := f.GetSecretRef(); r != nil {
			name, kind, optional = r.GetName(), "Secret", r.GetOptional()
		}
		if f.GetPrefix() != "" {
			kind += " with prefix '" + f.GetPrefix() + "'"
		}
		fmt.Fprintf(d.w, "%s%s\t%s\tOptional: %t\n", strings.Repeat("  ", level+1), name, kind, optional)
	}
	if len(ct.GetEnv()) == 0 {
		d.line(level, "Environment", "<none>")
		return
	}
	d.head(level, "Environment")
	for _, e := range ct.GetEnv() {
		d.line(level+1, e.GetName(), "%s", variable(ct, e))
	}
}

// variable is the value of a variable, or where it comes from.
func variable(ct *v1.Container, e *v1.EnvVar) string {
	from := e.GetValueFrom()
	switch {
	case from.GetConfigMapKeyRef() != nil:
		r := from.GetConfigMapKeyRef()
		return fmt.Sprintf("<set to the key '%s' of config map '%s'>\tOptional: %t", r.GetKey(), r.GetName(), r.GetOptional())
	case from.GetSecretKeyRef() != nil:
		r := from.GetSecretKeyRef()
		return fmt.Sprintf("<set to the key '%s' in secret '%s'>\tOptional: %t", r.GetKey(), r.GetName(), r.GetOptional())
	case from.GetFieldRef() != nil:
		return fmt.Sprintf(" (%s:%s)", from.GetFieldRef().GetApiVersion(), from.GetFieldRef().GetFieldPath())
	case from.GetResourceFieldRef() != nil:
		r := from.GetResourceFieldRef()
		value := api.ContainerResource(ct, r.GetResource(), r.GetDivisor(), nil)
		if value == "0" && strings.HasPrefix(r.GetResource(), "limits.") {
			value = "node allocatable"
		}
		return fmt.Sprintf("%s (%s)", value, r.GetResource())
	}
	return e.GetValue()
}

// probeText writes a probe on one line, as kubectl does; none is "".
func probeText(p *v1.Probe) string {
	how := "unknown"
	switch {
	case p == nil:
		return ""
	case p.GetExec() != nil:
		how = fmt.Sprintf("exec %v", p.GetExec().GetCommand())
	case p.GetHttpGet() != nil:
		a := p.GetHttpGet()
		how = fmt.Sprintf("http-get %s://%s:%s%s", strings.ToLower(a.GetScheme()), a.GetHost(), api.FormatIntOrString(a.GetPort()), a.GetPath())
	case p.GetTcpSocket() != nil:
		how = fmt.Sprintf("tcp-socket %s:%s", p.GetTcpSocket().GetHost(), api.FormatIntOrString(p.GetTcpSocket().GetPort()))
	case p.GetGrpc() != nil:
		how = fmt.Sprintf("grpc <pod>:%d %s", p.GetGrpc().GetPort(), p.GetGrpc().GetService())
	}
	return fmt.Sprintf("%s delay=%ds timeout=%ds period=%ds #success=%d #failure=%d", how,
		p.GetInitialDelaySeconds(), p.GetTimeoutSeconds(), p.GetPeriodSeconds(), p.GetSuccessThreshold(), p.GetFailureThreshold())
}

func (d description) containerState(level int, name string, s *v1.ContainerState) {
	switch {
	case s.GetRunning() != nil:
		d.line(level, name, "Running")
		d.line(level+1, "Started", "%s", stamp(s.GetRunning().GetStartedAt()))
	case s.GetTerminated() != nil:
		t := s.GetTerminated()
		d.line(level, name, "Terminated")
		d.some(level+1, "Reason", t.GetReason())
		d.some(level+1, "Message", t.GetMessage())
		d.line(level+1, "Exit Code", "%d", t.GetExitCode())
		if t.GetSignal() > 0 {
			d.line(level+1, "Signal", "%d", t.GetSignal())
		}
		d.line(level+1, "Started", "%s", stamp(t.GetStartedAt()))
		d.line(level+1, "Finished", "%s", stamp(t.GetFinishedAt()))
	default:
		d.line(level, name, "Waiting")
		d.some(level+1, "Reason", s.GetWaiting().GetReason())
		d.some(level+1, "Message", s.GetWaiting().GetMessage())
	}
}

func (d description) conditions(conds []*v1.Condition) {
	var rows [][]string
	for _, c := range conds {
		rows = append(rows, []string{c.GetType(), c.GetStatus(), c.GetReason(), c.GetMessage()})
	}
	if len(rows) > 0 {
		d.table(0, "Conditions", []string{"Type", "Status", "Reason", "Message"}, rows)
	}
}

// describeTemplate writes a pod template, as rollout history --revision shows
// it.
func describeTemplate(w io.Writer, t *v1.PodTemplateSpec) error {
	d := description{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	d.template(t)
	return d.w.Flush()
}

func (d description) template(t *v1.PodTemplateSpec) {
	d.head(0, "Pod Template")
	d.list(1, "Labels", printer.Pairs(t.GetMetadata().GetLabels(), "="))
	if a := t.GetMetadata().GetAnnotations(); len(a) > 0 {
		d.list(1, "Annotations", printer.Pairs(a, ": "))
	}
	for _, group := range []struct {
		name string
		list []*v1.Container
	}{{"Init Containers", t.GetSpec().GetInitContainers()}, {"Containers", t.GetSpec().GetContainers()}} {
		if len(group.list) > 0 {
			d.head(1, group.name)
		}
		for _, ct := range group.list {
			d.head(2, ct.GetName())
			d.line(3, "Image", "%s", ct.GetImage())
			d.program(3, ct)
			d.surroundings(3, ct)
		}
	}
	d.volumes(1, t.GetSpec().GetVolumes())
	d.list(1, "Node-Selectors", printer.Pairs(t.GetSpec().GetNodeSelector(), "="))
	d.list(1, "Tolerations", tolerationTexts(t.GetSpec()))
}

func (d description) deployment(ctx context.Context, c *client.Client, o *v1.Deployment) error {
	spec, st := o.GetSpec(), o.GetStatus()
	d.line(0, "Selector", "%s", printer.Selector(spec.GetSelector()))
	d.line(0, "Replicas", "%d desired | %d updated | %d total | %d available | %d unavailable",
		spec.GetReplicas(), st.GetUpdatedReplicas(), st.GetReplicas(), st.GetAvailableReplicas(), st.GetUnavailableReplicas())
	d.line(0, "StrategyType", "%s", spec.GetStrategy().GetType())
	d.line(0, "MinReadySeconds", "%d", spec.GetMinReadySeconds())
	if ru := spec.GetStrategy().GetRollingUpdate(); ru != nil {
		d.line(0, "RollingUpdateStrategy", "%s max unavailable, %s max surge", api.FormatIntOrString(ru.GetMaxUnavailable()), api.FormatIntOrString(ru.GetMaxSurge()))
	}
	if spec.GetPaused() {
		d.line(0, "Paused", "True")
	}
	d.template(spec.GetTemplate())
	d.conditions(st.GetConditions())
	sets, order, err := revisions(ctx, c, o)
	if err != nil {
		return err
	}
	var old []string
	current := "<none>"
	for _, n := range order {
		rs := sets[n]
		text := fmt.Sprintf("%s (%d/%d replicas created)", rs.GetMetadata().GetName(), rs.GetStatus().GetReplicas(), rs.GetSpec().GetReplicas())
		if rs.GetMetadata().GetAnnotations()[api.AnnotationRevision] == o.GetMetadata().GetAnnotations()[api.AnnotationRevision] {
			current = text
			continue
		}
		old = append(old, text)
	}
	d.line(0, "OldReplicaSets", "%s", cmp.Or(strings.Join(old, ", "), "<none>"))
	d.line(0, "NewReplicaSet", "%s", current)
	return nil
}

func (d description) replicaSet(ctx context.Context, c *client.Client, o *v1.ReplicaSet) error {
	d.line(0, "Replicas", "%d current / %d desired", o.GetStatus().GetReplicas(), o.GetSpec().GetReplicas())
	sel, err := api.SelectorOf(o.GetSpec().GetSelector())
	if err != nil {
		return err
	}
	pods, err := client.For[*v1.Pod](c).List(ctx, client.ListOptions{Namespace: o.GetMetadata().GetNamespace(), LabelSelector: sel.String()})
	if err != nil {
		return err
	}
	phases := map[string]int{}
	for _, p := range pods.Items {
		if api.ControllerOf(p).GetUid() == o.GetMetadata().GetUid() {
			phases[p.GetStatus().GetPhase()]++
		}
	}
	d.line(0, "Pods Status", "%d Running / %d Waiting / %d Succeeded / %d Failed",
		phases[api.PodRunning], phases[api.PodPending], phases[api.PodSucceeded], phases[api.PodFailed])
	d.template(o.GetSpec().GetTemplate())
	d.conditions(o.GetStatus().GetConditions())
	return nil
}

func (d description) node(ctx context.Context, c *client.Client, n *v1.Node) error {
	st := n.GetStatus()
	var taints []string
	for _, t := range slices.SortedFunc(slices.Values(n.GetSpec().GetTaints()), func(a, b *v1.Taint) int {
		return strings.Compare(a.GetEffect()+","+a.GetKey(), b.GetEffect()+","+b.GetKey())
	}) {
		taints = append(taints, api.FormatTaint(t))
	}
	d.list(0, "Taints", taints)
	d.line(0, "Unschedulable", "%t", n.GetSpec().GetUnschedulable())
	var rows [][]string
	for _, c := range st.GetConditions() {
		rows = append(rows, []string{c.GetType(), c.GetStatus(), stamp(c.GetLastHeartbeatTime()), stamp(c.GetLastTransitionTime()), c.GetReason(), c.GetMessage()})
	}
	if len(rows) > 0 {
		d.table(0, "Conditions", []string{"Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"}, rows)
	}
	d.head(0, "Addresses")
	for _, a := range st.GetAddresses() {
		d.line(1, a.GetType(), "%s", a.GetAddress())
	}
	d.words(0, "Capacity", printer.Pairs(st.GetCapacity(), ":\t"))
	d.words(0, "Allocatable", printer.Pairs(st.GetAllocatable(), ":\t"))
	info := st.GetNodeInfo()
	d.head(0, "System Info")
	d.line(1, "Kernel Version", "%s", info.GetKernelVersion())
	d.line(1, "OS Image", "%s", info.GetOsImage())
	d.line(1, "Operating System", "%s", info.GetOperatingSystem())
	d.line(1, "Architecture", "%s", info.GetArchitecture())
	d.line(1, "Container Runtime Version", "%s", info.GetContainerRuntimeVersion())
	d.line(1, "Agent Version", "%s", info.GetKubeletVersion())
	if s := n.GetSpec(); s.GetPodCidr() != "" {
		d.line(0, "PodCIDR", "%s", s.GetPodCidr())
		d.line(0, "PodCIDRs", "%s", strings.Join(s.GetPodCidrs(), ","))
	}

	pods, err := client.For[*v1.Pod](c).List(ctx, client.ListOptions{FieldSelector: "spec.nodeName=" + n.GetMetadata().GetName()})
	if err != nil {
		return err
	}
	allocatable := api.ResourcesOf(st.GetAllocatable())
	var requests, limits api.Resources
	rows = nil
	for _, p := range pods.Items {
		if api.IsPodTerminal(p) {
			continue
		}
		r, l := api.PodRequests(p.GetSpec()), api.PodLimits(p.GetSpec())
		requests, limits = requests.Add(r), limits.Add(l)
		rows = append(rows, []string{
			p.GetMetadata().GetNamespace(), p.GetMetadata().GetName(),
			share(api.NewMilliQuantity, r.MilliCPU, allocatable.MilliCPU),
			share(api.NewMilliQuantity, l.MilliCPU, allocatable.MilliCPU),
			share(api.NewBinaryQuantity, r.Memory, allocatable.Memory),
			share(api.NewBinaryQuantity, l.Memory, allocatable.Memory),
			printer.Age(p.GetMetadata().GetCreationTimestamp(), time.Now()),
		})
	}
	d.table(0, fmt.Sprintf("Non-terminated Pods (%d in total)", len(rows)),
		[]string{"Namespace", "Name", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"}, rows)
	rows = [][]string{{"(Total limits may be over 100 percent, i.e., overcommitted.)"}, {"Resource", "Requests", "Limits"}, {"--------", "--------", "------"}}
	for _, r := range []struct {
		name     string
		quantity func(int64) api.Quantity
		of       func(api.Resources) int64
	}{
		{api.ResourceCPU, api.NewMilliQuantity, func(r api.Resources) int64 { return r.MilliCPU }},
		{api.ResourceMemory, api.NewBinaryQuantity, func(r api.Resources) int64 { return r.Memory }},
		{api.ResourceEphemeralStorage, api.NewBinaryQuantity, func(r api.Resources) int64 { return r.EphemeralStorage }},
	} {
		whole := r.of(allocatable)
		rows = append(rows, []string{r.name, share(r.quantity, r.of(requests), whole), share(r.quantity, r.of(limits), whole)})
	}
	d.head(0, "Allocated resources")
	d.rows(0, rows)
	return nil
}

// share is an amount with its part of the whole: "100m (5%)".
func share(quantity func(int64) api.Quantity, part, whole int64) string {
	if whole <= 0 {
		return quantity(part).String() + " (0%)"
	}
	return fmt.Sprintf("%s (%d%%)", quantity(part), part*100/whole)
}

func (d description) configMap(cm *v1.ConfigMap) {
	fmt.Fprintf(d.w, "\nData\n====\n")
	for _, k := range slices.Sorted(maps.Keys(cm.GetData())) {
		fmt.Fprintf(d.w, "%s:\n----\n%s\n\n", k, cm.GetData()[k])
	}
	fmt.Fprintf(d.w, "BinaryData\n====\n")
	for _, k := range slices.Sorted(maps.Keys(cm.GetBinaryData())) {
		fmt.Fprintf(d.w, "%s: %d bytes\n", k, len(cm.GetBinaryData()[k]))
	}
}

// secret shows how long each value is, and never the value.
func (d description) secret(s *v1.Secret) {
	fmt.Fprintf(d.w, "\nType:\t%s\n\nData\n====\n", s.GetType())
	for _, k := range slices.Sorted(maps.Keys(s.GetData())) {
		fmt.Fprintf(d.w, "%s:\t%d bytes\n", k, len(s.GetData()[k]))
	}
}

// fields writes spec and status as a manifest has them, which is how kubectl shows
// kinds that it has no sheet for.
func (d description) fields(o api.Object) error {
	m, err := manifest.ToMap(o)
	if err != nil {
		return err
	}
	for _, part := range []string{"Spec", "Status"} {
		text, err := yaml.Marshal(m[strings.ToLower(part)])
		if err != nil {
			return err
		}
		d.words(0, part, []string{strings.TrimSpace(string(text))})
	}
	return nil
}

// experiment shows also what has been broken, round by round.
func (d description) experiment(ctx context.Context, c *client.Client, e *v1.ChaosExperiment) error {
	if err := d.fields(e); err != nil {
		return err
	}
	m := e.GetMetadata()
	made, err := client.For[*v1.ChaosInjection](c).List(ctx, client.ListOptions{Namespace: m.GetNamespace(), FieldSelector: "spec.experiment=" + m.GetName()})
	if err != nil {
		return err
	}
	slices.SortStableFunc(made.Items, func(a, b *v1.ChaosInjection) int { return cmp.Compare(a.GetSpec().GetRound(), b.GetSpec().GetRound()) })
	var rows [][]string
	for _, i := range made.Items {
		rows = append(rows, []string{
			fmt.Sprint(i.GetSpec().GetRound()), api.ChaosTarget(i), cmp.Or(i.GetStatus().GetPhase(), "Pending"),
			stamp(i.GetStatus().GetInjectedAt()), stamp(i.GetStatus().GetHealedAt()), i.GetStatus().GetMessage(),
		})
	}
	d.table(0, fmt.Sprintf("Injections (%d in total)", len(rows)), []string{"Round", "Target", "Phase", "Injected At", "Healed At", "Message"}, rows)
	return nil
}

// events ends the sheet with what happened to the object.
func (d description) events(ctx context.Context, c *client.Client, o api.Object) error {
	m := o.GetMetadata()
	list, err := client.For[*v1.Event](c).List(ctx, client.ListOptions{
		Namespace:     m.GetNamespace(),
		FieldSelector: fmt.Sprintf("involvedObject.uid=%s,involvedObject.name=%s", m.GetUid(), m.GetName()),
	})
	if err != nil {
		return err
	}
	if len(list.Items) == 0 {
		d.line(0, "Events", "<none>")
		return nil
	}
	sortEvents(list.Items)
	rows := [][]string{{"Type", "Reason", "Age", "From", "Message"}, {"----", "------", "----", "----", "-------"}}
	for _, e := range list.Items {
		rows = append(rows, []string{e.GetType(), e.GetReason(), printer.EventAge(e, time.Now()), printer.EventSource(e), strings.TrimSpace(e.GetMessage())})
	}
	d.head(0, "Events")
	d.rows(0, rows)
	return nil
}

func (d description) binding(ref *v1.RoleRef, subjects []*v1.Subject) {
	d.head(0, "Role")
	d.line(1, "Kind", "%s", ref.GetKind())
	d.line(1, "Name", "%s", ref.GetName())
	var rows [][]string
	for _, s := range subjects {
		rows = append(rows, []string{s.GetKind(), s.GetName(), s.GetNamespace()})
	}
	d.table(0, "Subjects", []string{"Kind", "Name", "Namespace"}, rows)
}
