package apiserver

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"

	"orch/pkg/api"
	"orch/pkg/apiserver/authz"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// secureChaos says what only the cluster knows against an experiment: its namespace
// is protected, its author may not break nodes or the API server, or no node can do
// what it asks for.
func (s *Server) secureChaos(ctx context.Context, x *v1.ChaosExperiment) error {
	m, fault := x.GetMetadata(), x.GetSpec().GetFault().GetType()
	ns, err := s.namespace(ctx, m.GetNamespace())
	if err != nil {
		return err
	}
	if m.GetNamespace() == api.NamespaceSystem || api.IsChaosProtected(ns.object) {
		return api.Forbidden(kindChaos, m.GetName(), "namespace "+m.GetNamespace()+" is protected: nothing in it may be broken")
	}
	kind, _ := api.FaultKindOf(fault)
	if resource := injectable[kind.Scope]; resource != "" && !callerOf(ctx).trusted {
		r := authz.Request{Verb: "inject", Group: api.GroupChaos, Resource: resource}
		allowed, why, err := s.may(ctx, callerOf(ctx).User, r)
		if err != nil {
			return err
		}
		if !allowed {
			return r.Refusal(callerOf(ctx).User, why)
		}
	}
	if !kind.Agent {
		return nil
	}
	why, err := s.nobodyCanInject(ctx, x)
	if err != nil || why == "" {
		return err
	}
	return api.Invalid(kindChaos, m.GetName(), []*v1.FieldError{{Field: "spec.fault.type", Reason: "FieldValueForbidden", Message: "Forbidden: " + why}})
}

// injectable are the resources that it takes the verb inject on to break what belongs
// to no namespace.
var injectable = map[api.ChaosScope]string{api.ScopeNode: "nodes", api.ScopeAPIServer: "apiservers"}

// nobodyCanInject says why no node that an experiment may hit can do its fault; ""
// where one can.
func (s *Server) nobodyCanInject(ctx context.Context, x *v1.ChaosExperiment) (string, error) {
	selector, err := api.SelectorOf(x.GetSpec().GetNodeSelector())
	if err != nil {
		return "", err
	}
	fault := x.GetSpec().GetFault().GetType()
	nodes, err := all[*v1.Node](ctx, s, "", 0)
	if err != nil {
		return "", err
	}
	for _, n := range nodes {
		chosen := x.GetSpec().GetNodeSelector() == nil || selector.Matches(n.GetMetadata().GetLabels())
		if chosen && api.IsNodeReady(n) && !api.IsChaosProtected(n) && api.NodeCanInject(n, fault) {
			return "", nil
		}
	}
	if fault == api.FaultNetworkDelay {
		return "no node that may be hit is ready and has a kernel that can delay packets (netem; label " + api.LabelChaosNetem + ")", nil
	}
	return "no node that may be hit is ready and has an agent that can do " + fault + " (annotation " + api.AnnotationChaosFaults + ")", nil
}

// attendPatience is how long an attended experiment goes on without its
// experimenter, who comes after it was made, or again after a restart of the server.
const attendPatience = 10 * time.Second

// attendance is who attends to which experiments.
//
// Concurrency: all methods may be called from several goroutines.
type attendance struct {
	mu    sync.Mutex // guards what follows
	there map[api.Key]int
}

// add counts those who attend to an experiment, and returns how many there are now.
func (a *attendance) add(key api.Key, n int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.there == nil {
		a.there = map[api.Key]int{}
	}
	a.there[key] += n
	left := a.there[key]
	if left == 0 {
		delete(a.there, key)
	}
	return left
}

// expect stops an experiment that nobody has come to attend to in time.
func (s *Server) expect(key api.Key) {
	time.AfterFunc(attendPatience, func() {
		if s.running.Err() == nil && s.attended.add(key, 0) == 0 {
			s.abandon(key, store.Cause{Actor: "apiserver", Trigger: api.TriggerClock}, "nobody attends to it")
		}
	})
}

// expectAttendance is for the experiments that there are when the server starts.
func (s *Server) expectAttendance(ctx context.Context) error {
	experiments, err := all[*v1.ChaosExperiment](ctx, s, "", 0)
	for _, x := range experiments {
		if x.GetSpec().GetAttended() && !isOver(x) {
			s.expect(api.KeyOf(x))
		}
	}
	return err
}

func isOver(x *v1.ChaosExperiment) bool { return x.GetStatus().GetEndTime() != nil }

// abandon stops an attended experiment.
func (s *Server) abandon(key api.Key, c store.Cause, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), graceOfStop)
	defer cancel()
	x, err := get[*v1.ChaosExperiment](ctx, s, key.Namespace, key.Name)
	if err == nil {
		x = api.Clone(x)
		if isOver(x) || x.GetSpec().GetStop() || !x.GetSpec().GetAttended() {
			return
		}
		x.Spec.Stop = true
		api.Put(&x.Metadata.Annotations, api.AnnotationChaosStopped, why)
		c.Reason, c.Message = "AttendanceEnded", why
		_, err = s.update(ctx, x, s.admitUpdate(ctx), c, false)
	}
	if err != nil && !errors.Is(err, api.ErrNotFound) {
		s.logger.Error("experiment not stopped", "experiment", key.String(), "error", err)
	}
}

// AttendChaos lasts as long as an experiment, which ends when it does.
func (c *cluster) AttendChaos(r *v1.AttendChaosRequest, stream grpc.ServerStreamingServer[v1.AttendChaosResponse]) error {
	ctx, s := stream.Context(), c.s
	key, err := s.ask(ctx, "update", kindChaos, "", r.GetNamespace(), r.GetName())
	if err != nil {
		return err
	}
	at := s.store.Revision()
	now, err := get[*v1.ChaosExperiment](ctx, s, key.Namespace, key.Name)
	if err != nil {
		return err
	}
	s.attended.add(key, 1)
	over := isOver(now)
	defer func() {
		if s.attended.add(key, -1) == 0 && !over && s.running.Err() == nil {
			s.abandon(key, store.Cause{Actor: callerOf(ctx).Name}, "its experimenter left: Ctrl-C, or a lost connection")
		}
	}()
	if err := stream.Send(&v1.AttendChaosResponse{}); err != nil {
		return err
	}
	w := s.store.Watch(keyOf(kindChaos, key.Namespace, key.Name), at)
	defer w.Close()
	for !over {
		entries, err := w.Next(ctx)
		if err != nil {
			return storeError(err, kindChaos, key.Name)
		}
		for _, e := range entries {
			if over = e.Deleted; over {
				break
			}
			o, err := s.object(e)
			if err != nil {
				return err
			}
			over = isOver(o.(*v1.ChaosExperiment))
		}
	}
	return nil
}
