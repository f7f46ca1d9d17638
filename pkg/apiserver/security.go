package apiserver

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/metadata"

	"orch/pkg/api"
	"orch/pkg/api/podsecurity"
	"orch/pkg/apiserver/admission"
	v1 "orch/proto/v1"
)

// admitUpdate is admission.Update, and what the namespace says of the result.
func (s *Server) admitUpdate(ctx context.Context) admit {
	return func(o, old api.Object, now time.Time) (api.Object, error) {
		s.tolerate(o)
		next, err := admission.Update(o, old, now)
		if err != nil {
			return nil, err
		}
		return next, s.secure(ctx, next, old)
	}
}

// tolerate lets a pod stay on a node that fails, for a while.
func (s *Server) tolerate(o api.Object) {
	if p, ok := o.(*v1.Pod); ok && p.GetSpec() != nil {
		api.TolerateNodeFailures(p.GetSpec(), s.notReady, s.unreachable)
	}
}

// secure holds an object that is to be written to the Pod Security Standards of
// its namespace: pods are refused or warned of, templates warned of, because the
// pods that they make will be refused. Old is what the object replaces, or nil.
// Pods of kube-system are exempt: they are the cluster's own.
func (s *Server) secure(ctx context.Context, o, old api.Object) error {
	switch o := o.(type) {
	case *v1.Namespace:
		return s.secureNamespace(ctx, o, old)
	case *v1.ChaosExperiment:
		if old == nil {
			return s.secureChaos(ctx, o)
		}
		return nil
	}
	meta, spec := podsecurity.PodOf(o)
	if spec == nil || o.GetMetadata().GetNamespace() == api.NamespaceSystem {
		return nil
	}
	pod, isPod := o.(*v1.Pod)
	if was, ok := old.(*v1.Pod); ok && isPod && sameImages(pod, was) {
		return nil // nothing that a level looks at has changed
	}
	ns, err := s.namespace(ctx, o.GetMetadata().GetNamespace())
	if err != nil {
		return err
	}
	policy, _ := podsecurity.PolicyOf(ns.object.GetMetadata().GetLabels())
	if why := policy.Enforce.Violates("violates", meta, spec); isPod && why != "" {
		return api.Forbidden(kindPod, meta.GetName(), why)
	}
	if why := policy.Warn.Violates("would violate", meta, spec); why != "" {
		noteOf(ctx).warn(why)
	}
	noteOf(ctx).audit = policy.Audit.Violates("would violate", meta, spec)
	return nil
}

func sameImages(a, b *v1.Pod) bool {
	return slices.EqualFunc(api.AllContainers(a.GetSpec()), api.AllContainers(b.GetSpec()), func(a, b *v1.Container) bool {
		return a.GetImage() == b.GetImage()
	})
}

// secureNamespace refuses labels that mean nothing, and warns of pods that run
// already and would be refused from now on.
func (s *Server) secureNamespace(ctx context.Context, ns *v1.Namespace, old api.Object) error {
	name := ns.GetMetadata().GetName()
	policy, wrong := podsecurity.PolicyOf(ns.GetMetadata().GetLabels())
	if err := api.Invalid(kindNamespace, name, wrong); err != nil || old == nil || name == api.NamespaceSystem {
		return err
	}
	was, _ := podsecurity.PolicyOf(old.GetMetadata().GetLabels())
	if !policy.Enforce.Tightens(was.Enforce) {
		return nil
	}
	pods, err := all[*v1.Pod](ctx, s, name, 0)
	if err != nil {
		return err
	}
	noteOf(ctx).warn(policy.Enforce.Existing(name, pods)...)
	return nil
}

// warningKey is pkg/client's WarningKey.
const warningKey = "orch-warning-bin"

// warn keeps sentences that the client is to hear beside its answer, each once.
func (n *note) warn(texts ...string) {
	for _, text := range texts {
		if !slices.Contains(n.warnings, text) {
			n.warnings = append(n.warnings, text)
		}
	}
}

// warningHeader has what warn has kept, as Kubernetes' header "Warning" has; nil is
// nothing, which costs nothing.
func (n *note) warningHeader() metadata.MD {
	if len(n.warnings) == 0 {
		return nil
	}
	return metadata.MD{warningKey: n.warnings}
}
