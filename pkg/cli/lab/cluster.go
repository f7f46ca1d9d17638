package lab

import (
	"slices"
	"strings"

	"orch/pkg/api"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// bound finds where a pod that is as asked for got its node.
func (s *story) bound(after *v1.LogEntry, is func(p *v1.Pod) bool) *v1.LogEntry {
	return each(s, after, func(_ *v1.LogEntry, was, p *v1.Pod) bool {
		return was != nil && was.GetSpec().GetNodeName() == "" && p.GetSpec().GetNodeName() != "" && is(p)
	})
}

// cordoned finds where somebody kept new pods from a node.
func (s *story) cordoned(after *v1.LogEntry) *v1.LogEntry {
	return each(s, after, func(e *v1.LogEntry, was, is *v1.Node) bool {
		return byPerson(e) && was != nil && !was.GetSpec().GetUnschedulable() && is.GetSpec().GetUnschedulable()
	})
}

func scheduling(s *story) {
	nodes := map[string]bool{}
	each(s, nil, func(_ *v1.LogEntry, _, is *v1.Node) bool {
		if is != nil {
			nodes[is.GetMetadata().GetName()] = true
		}
		return false
	})
	enough := max(2, min(3, len(nodes)))
	where := map[string]map[string]bool{} // the nodes of an owner's pods
	s.mark("Equal pods were spread over the nodes", s.bound(nil, func(p *v1.Pod) bool {
		if owner(p) == "" {
			return false
		}
		if where[owner(p)] == nil {
			where[owner(p)] = map[string]bool{}
		}
		where[owner(p)][p.GetSpec().GetNodeName()] = true
		return len(where[owner(p)]) >= enough
	}), "orchctl apply -f examples/webflix/")
	s.mark("You closed a node, and new pods went elsewhere", chain(s.cordoned, func(closed *v1.LogEntry) *v1.LogEntry {
		node := closed.GetName()
		opened := each(s, closed, func(_ *v1.LogEntry, _, is *v1.Node) bool {
			return is != nil && is.GetMetadata().GetName() == node && !is.GetSpec().GetUnschedulable()
		})
		placed := s.bound(closed, func(p *v1.Pod) bool { return p.GetSpec().GetNodeName() != node })
		if placed == nil || opened != nil && opened.GetRevision() < placed.GetRevision() {
			return nil
		}
		return placed
	}), "orchctl cordon node-1, and scale to more pods while it is closed")
	homeless := func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(_ *v1.LogEntry, _, is *v1.Pod) bool {
			return api.GetCondition(is.GetStatus().GetConditions(), api.PodScheduled).GetStatus() == api.ConditionFalse
		})
	}
	s.mark("A pod found no node, and says why", homeless(nil), "scale to more pods than the nodes have room for")
	s.mark("It got one when there was room", chain(homeless, func(waits *v1.LogEntry) *v1.LogEntry {
		return s.bound(waits, func(p *v1.Pod) bool { return uid(p) == uid(waits.GetObject().GetPod()) })
	}), "make room: open the closed node, add one with orchctl up --nodes, or delete a pod that is placed")
	s.mark("A pod went where its selector wants it", s.bound(nil, func(p *v1.Pod) bool {
		return len(p.GetSpec().GetNodeSelector()) > 0
	}), "orchctl apply -f examples/labs/trainer.yaml, and orchctl label node node-2 disk=ssd")
}

func nodeDeath(s *story) {
	lost := func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(e *v1.LogEntry, was, is *v1.Node) bool {
			return was != nil && is != nil && api.IsNodeReady(was) && !api.IsNodeReady(is) && e.GetCause().GetReason() == "NodeStatusUnknown"
		})
	}
	s.mark("A node fell silent, and the cluster noticed", lost(nil), "kill an agent, with -9 so that it cannot say goodbye: kill -9 $(cut -d' ' -f1 ${ORCH_HOME:-~/.orch}/clusters/lab/node-2.pid)")
	evicted := func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(e *v1.LogEntry, was, is *v1.Pod) bool {
			return e.GetCause().GetReason() == "DeletionByTaintManager" && was != nil && !isEnding(was) && (is == nil || isEnding(is)) && owner(was) != ""
		})
	}
	s.mark("Its pods were asked to end", evicted(nil), "give it a few seconds more, with pods of a Deployment on the node")
	elsewhere := func(gone *v1.LogEntry) *v1.LogEntry {
		pod := api.Unwrap(s.before(gone).GetObject()).(*v1.Pod)
		return s.replacement(gone, pod, func(p *v1.Pod) bool {
			return api.IsPodReady(p) && p.GetSpec().GetNodeName() != pod.GetSpec().GetNodeName()
		})
	}
	s.mark("Others took their place on another node, and are ready", chain(evicted, elsewhere), "wait until the Deployment has all its replicas again")
	s.mark("The node came back", chain(lost, func(silent *v1.LogEntry) *v1.LogEntry {
		return each(s, silent, func(_ *v1.LogEntry, _, is *v1.Node) bool {
			return is.GetMetadata().GetName() == silent.GetName() && api.IsNodeReady(is)
		})
	}), "start the agent again: orchctl up --runtime=fake --name lab")
	s.mark("It ended what had been moved, and only then the old pods went", chain(evicted, func(e *v1.LogEntry) *v1.LogEntry {
		return each(s, e, func(gone *v1.LogEntry, was, is *v1.Pod) bool {
			return is == nil && uid(was) == uid(api.Unwrap(s.before(e).GetObject()))
		})
	}), "start the agent again and wait a moment")
	s.mark("You emptied a node in good order, and its pods are ready elsewhere", chain(s.cordoned, func(closed *v1.LogEntry) *v1.LogEntry {
		asked := each(s, closed, func(e *v1.LogEntry, was, is *v1.Pod) bool {
			return byPerson(e) && was != nil && was.GetSpec().GetNodeName() == closed.GetName() && owner(was) != "" && (is == nil || isEnding(is)) && !isEnding(was)
		})
		if asked == nil {
			return nil
		}
		return elsewhere(asked)
	}), "orchctl drain node-1, and later orchctl uncordon node-1")
}

func levels(s *story) {
	s.mark("Nobody heard of changes for a while", each(s, nil, func(_ *v1.LogEntry, _, is *v1.ChaosExperiment) bool {
		return is.GetStatus().GetPhase() == api.ChaosCompleted && is.GetSpec().GetFault().GetType() == api.FaultDropWatches
	}), "orchctl apply -f examples/labs/blind.yaml, and wait until it is Completed")
	// From one wish to the next, with nothing done about the first.
	changed := func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(e *v1.LogEntry, was, is *v1.Deployment) bool {
			return byPerson(e) && was != nil && is != nil && was.GetSpec().GetReplicas() != is.GetSpec().GetReplicas()
		})
	}
	skipped := func(first *v1.LogEntry) *v1.LogEntry {
		second := changed(first)
		acted := each(s, first, func(_ *v1.LogEntry, _, is *v1.ReplicaSet) bool {
			return is != nil && owner(is) == uid(first.GetObject().GetDeployment()) && is.GetSpec().GetReplicas() == first.GetObject().GetDeployment().GetSpec().GetReplicas()
		})
		if second == nil || second.GetName() != first.GetName() || acted != nil && acted.GetRevision() < second.GetRevision() {
			return nil
		}
		return second
	}
	s.mark("You changed your mind before anybody had acted", chain(changed, skipped), "scale the Deployment three times while nobody hears of it; too late? orchctl delete -f examples/labs/blind.yaml, and apply it again")
	s.mark("What you wanted in between was never done, and what you wanted last was", chain(changed, func(first *v1.LogEntry) *v1.LogEntry {
		last := skipped(first)
		for next := last; next != nil; next = skipped(last) {
			last = next
		}
		if last == nil {
			return nil
		}
		want := last.GetObject().GetDeployment()
		return each(s, last, func(_ *v1.LogEntry, _, is *v1.Deployment) bool {
			return uid(is) == uid(want) && is.GetSpec().GetReplicas() == want.GetSpec().GetReplicas() && settled(is)
		})
	}), "wait until it is over and the Deployment has all that it wants")
}

func ownController(s *story) {
	s.mark("A program got rights of its own", s.find(nil, func(e *v1.LogEntry) bool {
		var subjects []*v1.Subject
		switch o := api.Unwrap(e.GetObject()).(type) {
		case *v1.RoleBinding:
			subjects = o.GetSubjects()
		case *v1.ClusterRoleBinding:
			subjects = o.GetSubjects()
		}
		return byPerson(e) && slices.ContainsFunc(subjects, func(u *v1.Subject) bool { return u.GetKind() == "User" })
	}), "orchctl create user janitor, and orchctl create rolebinding janitor --clusterrole=edit --user=janitor")
	first := s.find(nil, byProgram)
	s.mark("It wrote something, and said why and because of what", first,
		"run your controller as a user whose name does not end in -controller; its writes need client.WithCause and the context of the loop")
	s.mark("It did so for something else as well", s.find(first, func(e *v1.LogEntry) bool {
		return byProgram(e) && (e.GetName() != first.GetName() || e.GetKind() != first.GetKind())
	}), "give it a second object to look after, best while it is not running")
	s.mark("You changed it: it also acts for another reason", s.find(first, func(e *v1.LogEntry) bool {
		return byProgram(e) && e.GetCause().GetReason() != first.GetCause().GetReason()
	}), "change its plan, with a reason of its own in client.WithCause, and run it again")
}

// byProgram says that a program with a user of its own wrote it, and what made
// that necessary: Orch's own parts have other names, and who types names nothing.
func byProgram(e *v1.LogEntry) bool {
	c := e.GetCause()
	return c.GetTrigger() != 0 && c.GetMessage() != "" && strings.HasPrefix(why.Who(c.GetActor()), "user ")
}
