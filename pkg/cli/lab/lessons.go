package lab

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func reconciliation(s *story) {
	s.mark("You said what should be: a Deployment", each(s, nil, func(e *v1.LogEntry, _, is *v1.Deployment) bool {
		return e.GetPrevious() == 0 && byPerson(e) && is != nil
	}), "orchctl apply -f examples/webflix/")
	s.mark("Others made it so: pods exist because of it", each(s, nil, func(e *v1.LogEntry, _, is *v1.Pod) bool {
		if e.GetPrevious() != 0 {
			return false
		}
		d := api.ControllerOf(s.controllerOf(is))
		return d.GetKind() == "Deployment" && s.followsFrom(e, "Deployment", d.GetName())
	}), "wait a moment; are the controllers paused?")
	s.replacedByHand()
	s.mark("A paused controller wrote what you let it, by a step", s.find(nil, func(e *v1.LogEntry) bool { return e.GetCause().GetSteppedBy() != "" }),
		"orchctl controllers pause replicaset, want another number, look at orchctl controllers plan, and then orchctl controllers step replicaset")
	s.mark("You wanted another number, and got it", chain(func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(e *v1.LogEntry, was, is *v1.Deployment) bool {
			return byPerson(e) && was != nil && is != nil && was.GetSpec().GetReplicas() != is.GetSpec().GetReplicas()
		})
	}, func(scaled *v1.LogEntry) *v1.LogEntry {
		want := scaled.GetObject().GetDeployment()
		return each(s, scaled, func(_ *v1.LogEntry, _, is *v1.Deployment) bool {
			return uid(is) == uid(want) && is.GetSpec().GetReplicas() == want.GetSpec().GetReplicas() && settled(is)
		})
	}), "orchctl scale deployment/recommend-service --replicas=5, and wait until all are ready")
	s.mark("You took a pod away from its ReplicaSet by a label, and another took its place", chain(func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(_ *v1.LogEntry, was, is *v1.Pod) bool {
			return is != nil && owner(was) != "" && owner(is) == ""
		})
	}, func(released *v1.LogEntry) *v1.LogEntry {
		return s.replacement(released, api.Unwrap(s.before(released).GetObject()).(*v1.Pod), func(*v1.Pod) bool { return true })
	}), "orchctl label pod NAME app-")
}

// controllerOf finds a pod's ReplicaSet as it last was.
func (s *story) controllerOf(p *v1.Pod) (set *v1.ReplicaSet) {
	if owner(p) == "" {
		return nil
	}
	each(s, nil, func(_ *v1.LogEntry, _, is *v1.ReplicaSet) bool {
		if uid(is) == owner(p) {
			set = is
		}
		return set != nil
	})
	return set
}

// replacedByHand is a mark of two lessons.
func (s *story) replacedByHand() *v1.LogEntry {
	return s.mark("A pod that you deleted was replaced by another", chain(func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(e *v1.LogEntry, was, is *v1.Pod) bool {
			return byPerson(e) && e.GetCause().GetReason() != "Drained" && owner(was) != "" && (is == nil || isEnding(is)) && !isEnding(was)
		})
	}, func(deleted *v1.LogEntry) *v1.LogEntry {
		return s.replacement(deleted, api.Unwrap(s.before(deleted).GetObject()).(*v1.Pod), func(*v1.Pod) bool { return true })
	}), "orchctl delete pod NAME, of a pod that a Deployment made")
}

func selfHealing(s *story) {
	s.mark("A container ended, and was started again in the same pod", each(s, nil, func(_ *v1.LogEntry, was, is *v1.Pod) bool {
		return was != nil && uid(was) == uid(is) && restarts(is) > restarts(was)
	}), "orchctl exec NAME -- kill 1, where NAME is a pod; with Docker instead: docker kill CONTAINER")
	backingOff := func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(_ *v1.LogEntry, _, is *v1.Pod) bool { return waitsFor(is, "CrashLoopBackOff") })
	}
	s.mark("It ended again too soon, and the agent made it wait", backingOff(nil),
		"end the container of the same pod again, right after its restart")
	s.mark("When the wait was over it ran again, in the same pod", chain(backingOff, func(waits *v1.LogEntry) *v1.LogEntry {
		pod := waits.GetObject().GetPod()
		return each(s, waits, func(_ *v1.LogEntry, _, is *v1.Pod) bool {
			return uid(is) == uid(pod) && restarts(is) > restarts(pod) && api.IsPodReady(is)
		})
	}), "have patience, and leave the pod alone: ten seconds after the second death, twenty after the third")
	replaced := s.replacedByHand()
	s.mark("In the end nothing is missing", func() *v1.LogEntry {
		if replaced == nil {
			return nil
		}
		return each(s, replaced, func(_ *v1.LogEntry, _, is *v1.Deployment) bool { return settled(is) })
	}(), "delete a pod as above, and wait until the Deployment has all its replicas available")
}

// waitsFor says that a container of a pod waits for one of the reasons.
func waitsFor(p *v1.Pod, reasons ...string) bool {
	return slices.ContainsFunc(p.GetStatus().GetContainerStatuses(), func(c *v1.ContainerStatus) bool {
		return slices.Contains(reasons, c.GetState().GetWaiting().GetReason())
	})
}

func rollouts(s *story) {
	// A rollout begins where somebody gives a Deployment that has all it wants
	// another template, and ends with the next.
	begin := func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(e *v1.LogEntry, was, is *v1.Deployment) bool {
			return newTemplate(e, was, is) && was.GetStatus().GetAvailableReplicas() == was.GetSpec().GetReplicas() && promised(was) > 0
		})
	}
	// A new version is one that it never had.
	fresh := func(after *v1.LogEntry) *v1.LogEntry {
		e := begin(after)
		for e != nil && s.hadBefore(e) {
			e = begin(e)
		}
		return e
	}
	s.mark("A new version was rolled out", chain(fresh, s.rolledOut), "orchctl set image deployment/recommend-service app=recommend-service:1.2.0, and wait until it is done")
	s.mark("Nobody missed anything: all the time there were as many as promised", chain(fresh, func(begun *v1.LogEntry) *v1.LogEntry {
		done := s.rolledOut(begun)
		if done == nil || s.brokenPromise(begun, done) {
			return nil
		}
		return done
	}), "roll out a version that works, with the strategy of the example, and do not scale meanwhile")
	stuck := func(begun *v1.LogEntry) *v1.LogEntry {
		next, want := s.nextTemplate(begun), begun.GetObject().GetDeployment()
		fresh := map[string]bool{} // pods that were made since
		sick := each(s, begun, func(e *v1.LogEntry, _, is *v1.Pod) bool {
			if e.GetPrevious() == 0 {
				fresh[uid(is)] = owner(s.controllerOf(is)) == uid(want)
			}
			return fresh[uid(is)] && waitsFor(is, unstarted...)
		})
		if next == nil || sick == nil || sick.GetRevision() > next.GetRevision() || s.brokenPromise(begun, next) {
			return nil
		}
		return next
	}
	s.mark("A version that does not start was held up, and the old one went on", chain(begin, stuck),
		"orchctl set image deployment/recommend-service app=does-not-exist:1, look, and take it back when a pod shows ErrImagePull")
	s.mark("You took it back, and all is well", chain(begin, func(begun *v1.LogEntry) *v1.LogEntry {
		if next := stuck(begun); next != nil {
			return s.rolledOut(next)
		}
		return nil
	}), "orchctl rollout undo deployment/recommend-service, and wait until it is done")
}

// unstarted are reasons for which containers of a bad version wait.
var unstarted = []string{
	"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CrashLoopBackOff",
	"CreateContainerConfigError", "CreateContainerError", "RunContainerError",
}

// hadBefore says that a Deployment had its template before an entry already.
func (s *story) hadBefore(e *v1.LogEntry) bool {
	want := e.GetObject().GetDeployment()
	return each(s, nil, func(_ *v1.LogEntry, _, is *v1.Deployment) bool {
		return uid(is) == uid(want) && proto.Equal(is.GetSpec().GetTemplate(), want.GetSpec().GetTemplate())
	}) != e
}

// nextTemplate finds the next rollout of a Deployment after one.
func (s *story) nextTemplate(begun *v1.LogEntry) *v1.LogEntry {
	return each(s, begun, func(e *v1.LogEntry, was, is *v1.Deployment) bool {
		return newTemplate(e, was, is) && uid(is) == uid(begun.GetObject().GetDeployment())
	})
}

// rolledOut finds where all pods of a Deployment are of the template that began.
func (s *story) rolledOut(begun *v1.LogEntry) *v1.LogEntry {
	want := begun.GetObject().GetDeployment()
	return each(s, begun, func(_ *v1.LogEntry, _, is *v1.Deployment) bool {
		return uid(is) == uid(want) && settled(is) && proto.Equal(is.GetSpec().GetTemplate(), want.GetSpec().GetTemplate())
	})
}

// brokenPromise says that between two entries of a Deployment fewer replicas were
// available than its strategy allows.
func (s *story) brokenPromise(from, to *v1.LogEntry) bool {
	want := from.GetObject().GetDeployment()
	broken := each(s, from, func(_ *v1.LogEntry, _, is *v1.Deployment) bool {
		return uid(is) == uid(want) && is.GetStatus().GetAvailableReplicas() < promised(want)
	})
	return broken != nil && broken.GetRevision() <= to.GetRevision()
}

func probes(s *story) {
	s.mark("A pod is Ready because it was asked", each(s, nil, func(_ *v1.LogEntry, _, is *v1.Pod) bool {
		return api.IsPodReady(is) && isAskedWhetherReady(is)
	}), "orchctl apply -f examples/labs/probes.yaml, and wait until its pods are ready")
	unready := func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(e *v1.LogEntry, was, is *v1.Pod) bool {
			return api.IsPodReady(was) && is != nil && !api.IsPodReady(is) && !isEnding(is) && isAskedWhetherReady(is) &&
				uid(is) == uid(was) && restarts(is) == restarts(was) && allRun(is) && e.GetCause().GetActor() == "system:node:"+is.GetSpec().GetNodeName()
		})
	}
	s.mark("It said that it was not ready, and went on running", unready(nil), "let the readiness probe fail: orchctl exec NAME -- answer /ready 503")
	s.mark("It was ready again, without a restart", chain(unready, func(failed *v1.LogEntry) *v1.LogEntry {
		pod := failed.GetObject().GetPod()
		return each(s, failed, func(_ *v1.LogEntry, _, is *v1.Pod) bool {
			return uid(is) == uid(pod) && api.IsPodReady(is) && restarts(is) == restarts(pod)
		})
	}), "let the same pod answer well again: orchctl exec NAME -- answer /ready 200")
	stopped := func(after *v1.LogEntry) *v1.LogEntry {
		return each(s, after, func(_ *v1.LogEntry, was, is *v1.Pod) bool {
			return is != nil && livenessFailures(is) > livenessFailures(was)
		})
	}
	s.mark("A container that did not answer for its life was stopped", stopped(nil), "let the liveness probe fail: orchctl exec NAME -- answer /alive 500")
	s.mark("A new one took its place in the pod, and is ready", chain(stopped, func(ended *v1.LogEntry) *v1.LogEntry {
		pod := ended.GetObject().GetPod()
		return each(s, ended, func(_ *v1.LogEntry, _, is *v1.Pod) bool {
			return uid(is) == uid(pod) && api.IsPodReady(is) && restarts(is) >= restarts(pod) && restarts(is) > 0
		})
	}), "wait until it is ready")
}

func isAskedWhetherReady(p *v1.Pod) bool {
	return slices.ContainsFunc(p.GetSpec().GetContainers(), func(c *v1.Container) bool { return c.GetReadinessProbe() != nil })
}

func allRun(p *v1.Pod) bool {
	return !slices.ContainsFunc(p.GetStatus().GetContainerStatuses(), func(c *v1.ContainerStatus) bool { return c.GetState().GetRunning() == nil })
}

// livenessFailures counts the containers of a pod that were stopped because their
// liveness probe failed, as far as the pod remembers.
func livenessFailures(p *v1.Pod) (n int) {
	for _, ends := range api.TerminationsOf(p) {
		for _, t := range ends {
			if t.Reason == api.ReasonLivenessFailed {
				n++
			}
		}
	}
	return n
}
