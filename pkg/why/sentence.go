package why

import (
	"cmp"
	"fmt"
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// sentence tells one entry. It follows the object's name, so it begins with a
// verb or with what happened to a part.
func sentence(e, before *v1.LogEntry, changes []Change) string {
	cause := e.GetCause()
	message, by := cause.GetMessage(), Who(cause.GetActor())
	isUser := strings.HasPrefix(by, "user ")
	because := func(verb string) string {
		switch {
		case isUser && message != "":
			return fmt.Sprintf("%s by %s: %s", verb, by, message)
		case message == "":
			return fmt.Sprintf("%s by %s", verb, by)
		}
		return fmt.Sprintf("%s because %s", verb, message)
	}
	o := api.Unwrap(e.GetObject())
	switch {
	case e.GetDeleted() && before.GetObject() != nil && ending(api.Unwrap(before.GetObject())):
		return "is gone: " + cmp.Or(message, "nothing held it any more")
	case e.GetDeleted():
		return because("was deleted")
	case e.GetPrevious() == 0 && isUser:
		return because("was created")
	case e.GetPrevious() == 0:
		return because("exists")
	case o != nil && ending(o) && before != nil && !ending(api.Unwrap(before.GetObject())):
		return because("was asked to end")
	case isUser:
		return withChanges(because("was changed"), intended(changes))
	}
	if strings.HasPrefix(cause.GetReason(), "Scaled") {
		return "was scaled " + message
	}
	return cmp.Or(message, strings.ToLower(cause.GetReason()))
}

func ending(o api.Object) bool {
	return o != nil && o.GetMetadata().GetDeletionTimestamp() != nil
}

// intended are the changes of what somebody wanted, as against what is.
func intended(changes []Change) (some []Change) {
	for _, c := range changes {
		if !strings.HasPrefix(c.Path, "status") {
			some = append(some, c)
		}
	}
	return some
}

// maxChanges is how many changes a sentence names.
const maxChanges = 3

func withChanges(s string, changes []Change) string {
	if len(changes) == 0 {
		return s
	}
	return s + " (" + Summary(changes) + ")"
}

// Summary names the first few changes and counts the others.
func Summary(changes []Change) string {
	var parts []string
	for _, c := range changes[:min(len(changes), maxChanges)] {
		parts = append(parts, c.String())
	}
	if more := len(changes) - maxChanges; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, ", ")
}

// state is how an object is, as its newest entry shows it.
func state(e *v1.LogEntry) string {
	if e.GetDeleted() {
		return "is gone"
	}
	var s string
	switch o := api.Unwrap(e.GetObject()).(type) {
	case *v1.Pod:
		s = PodState(o)
	case *v1.Deployment:
		st := o.GetStatus()
		s = fmt.Sprintf("has %d of %d replicas available, %d of the newest template", st.GetAvailableReplicas(), o.GetSpec().GetReplicas(), st.GetUpdatedReplicas())
		if c := api.GetCondition(st.GetConditions(), api.DeploymentProgressing); c.GetStatus() == api.ConditionFalse {
			s += "; " + c.GetMessage()
		}
	case *v1.ReplicaSet:
		s = fmt.Sprintf("has %d of %d replicas, %d ready", o.GetStatus().GetReplicas(), o.GetSpec().GetReplicas(), o.GetStatus().GetReadyReplicas())
	case *v1.Node:
		ready := api.GetCondition(o.GetStatus().GetConditions(), api.NodeReady)
		s = "is not ready: " + ready.GetMessage()
		if api.IsNodeReady(o) {
			s = "is ready"
		}
		if o.GetSpec().GetUnschedulable() {
			s += ", and cordoned"
		}
	case *v1.PodDisruptionBudget:
		st := o.GetStatus()
		s = fmt.Sprintf("has %d of %d pods healthy, needs %d and allows %s", st.GetCurrentHealthy(), st.GetExpectedPods(), st.GetDesiredHealthy(), api.Count(int(st.GetDisruptionsAllowed()), "disruption"))
	case *v1.ChaosExperiment:
		s = phased(o.GetStatus())
	case *v1.ChaosInjection:
		s = phased(o.GetStatus())
	default:
		s = "exists"
	}
	if ending(api.Unwrap(e.GetObject())) {
		s += ", and is about to end"
	}
	return s
}

func phased(s interface {
	GetPhase() string
	GetMessage() string
},
) string {
	return strings.TrimSuffix("is "+cmp.Or(s.GetPhase(), api.ChaosPending)+": "+s.GetMessage(), ": ")
}

// PodState names what a pod waits for, or what it does.
func PodState(p *v1.Pod) string {
	s := "is " + p.GetStatus().GetPhase()
	if node := p.GetSpec().GetNodeName(); node != "" {
		s += " on " + node
	} else if c := api.GetCondition(p.GetStatus().GetConditions(), api.PodScheduled); c.GetStatus() == api.ConditionFalse {
		s += ", without a node: " + c.GetMessage()
	}
	for _, c := range api.AllStatuses(p.GetStatus()) {
		if n := c.GetRestartCount(); n > 0 {
			s += fmt.Sprintf("; container %s restarted %d×", c.GetName(), n)
		}
		if w := c.GetState().GetWaiting(); w != nil {
			s += fmt.Sprintf("; container %s waits: %s", c.GetName(), strings.TrimSuffix(w.GetReason()+": "+w.GetMessage(), ": "))
		} else if c.GetState().GetRunning() != nil && !c.GetReady() {
			s += fmt.Sprintf("; container %s is not ready", c.GetName())
		}
	}
	return s
}
