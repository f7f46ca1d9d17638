package apiserver_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func TestAPodEndsGracefully(t *testing.T) {
	s := start(t)
	pods := client.For[*v1.Pod](s.Client)
	p := pod("web")
	p.Spec.NodeName = "node-1"
	must[*v1.Pod](t)(pods.Create(t.Context(), p))

	p = must[*v1.Pod](t)(pods.Delete(t.Context(), "default", "web", client.DeleteOptions{}))
	m := p.GetMetadata()
	if m.GetDeletionTimestamp() == nil || m.GetDeletionGracePeriodSeconds() != 30 || m.GetGeneration() != 2 {
		t.Fatalf("after delete: %v", m)
	}
	// Everybody asks again; nothing happens.
	again := must[*v1.Pod](t)(pods.Delete(t.Context(), "default", "web", client.DeleteOptions{GracePeriodSeconds: proto.Int64(60)}))
	if again.GetMetadata().GetResourceVersion() != m.GetResourceVersion() {
		t.Errorf("a longer grace period was written: %v", again.GetMetadata())
	}
	// The agent has stopped the containers.
	_, err := pods.Delete(t.Context(), "default", "web", client.DeleteOptions{GracePeriodSeconds: proto.Int64(0), UID: "another"})
	if !errors.Is(err, api.ErrConflict) {
		t.Errorf("with another pod's uid: %v", err)
	}
	must[*v1.Pod](t)(pods.Delete(t.Context(), "default", "web", client.DeleteOptions{GracePeriodSeconds: proto.Int64(0), UID: m.GetUid()}))
	if _, err := pods.Get(t.Context(), "default", "web"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("after the agent's delete: %v", err)
	}
	if _, err := pods.Delete(t.Context(), "default", "web", client.DeleteOptions{}); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("delete of what is gone: %v", err)
	}
}

func TestTheLastFinalizerThatGoesRemovesTheObject(t *testing.T) {
	s := start(t)
	deployments := client.For[*v1.Deployment](s.Client)
	d := deployment("web")
	d.Metadata.Finalizers = []string{"example.com/mine"}
	must[*v1.Deployment](t)(deployments.Create(t.Context(), d))
	d = must[*v1.Deployment](t)(deployments.Delete(t.Context(), "default", "web", client.DeleteOptions{PropagationPolicy: api.PropagationForeground}))
	if len(d.GetMetadata().GetFinalizers()) != 2 || d.GetMetadata().GetDeletionTimestamp() == nil {
		t.Fatalf("after delete: %v", d.GetMetadata())
	}
	d.Metadata.Finalizers = append(d.Metadata.Finalizers, "example.com/late")
	if _, err := deployments.Update(t.Context(), d); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a new finalizer on what is going: %v", err)
	}
	d.Metadata.Finalizers = d.Metadata.Finalizers[1:2]
	d = must[*v1.Deployment](t)(deployments.Update(t.Context(), d))
	if _, err := deployments.Get(t.Context(), "default", "web"); err != nil {
		t.Errorf("while a finalizer is left: %v", err)
	}
	d.Metadata.Finalizers = nil
	must[*v1.Deployment](t)(deployments.Update(t.Context(), d))
	if _, err := deployments.Get(t.Context(), "default", "web"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("when the last finalizer is gone: %v", err)
	}
}

// The finalizers of a pod do not shorten its grace period.
func TestAPodWithoutFinalizersStillHasItsGracePeriod(t *testing.T) {
	s := start(t)
	pods := client.For[*v1.Pod](s.Client)
	p := pod("web")
	p.Spec.NodeName, p.Metadata.Finalizers = "node-1", []string{"example.com/mine"}
	must[*v1.Pod](t)(pods.Create(t.Context(), p))
	p = must[*v1.Pod](t)(pods.Delete(t.Context(), "default", "web", client.DeleteOptions{}))
	p.Metadata.Finalizers = nil
	must[*v1.Pod](t)(pods.Update(t.Context(), p))
	must[*v1.Pod](t)(pods.Get(t.Context(), "default", "web"))
}

func TestANamespaceGoesWhenItsControllerSaysSo(t *testing.T) {
	s := start(t)
	spaces := client.For[*v1.Namespace](s.Client)
	must[*v1.Namespace](t)(spaces.Create(t.Context(), namespace("team")))
	n := must[*v1.Namespace](t)(spaces.Get(t.Context(), "", "team"))
	n.Spec = nil
	n = must[*v1.Namespace](t)(spaces.Update(t.Context(), n))
	if len(n.GetSpec().GetFinalizers()) != 1 {
		t.Errorf("the finalizer of a namespace in use was taken away: %v", n)
	}
	n = must[*v1.Namespace](t)(spaces.Delete(t.Context(), "", "team", client.DeleteOptions{}))
	n.Spec.Finalizers = nil
	must[*v1.Namespace](t)(spaces.Update(t.Context(), n))
	if _, err := spaces.Get(t.Context(), "", "team"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("after its last finalizer: %v", err)
	}
	must[*v1.Namespace](t)(spaces.Create(t.Context(), namespace("team")))
}

func TestADryRunOfDeleteDeletesNothing(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("a")))
	must[*v1.ConfigMap](t)(configs.Delete(t.Context(), "default", "a", client.DeleteOptions{DryRun: true}))
	must[*v1.ConfigMap](t)(configs.Get(t.Context(), "default", "a"))
}

func TestDeleteHasPreconditions(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	c := must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("a")))
	for name, o := range map[string]client.DeleteOptions{
		"another uid":      {UID: "another"},
		"another revision": {ResourceVersion: c.GetMetadata().GetResourceVersion() + 1},
	} {
		if _, err := configs.Delete(t.Context(), "default", "a", o); !errors.Is(err, api.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := configs.Delete(t.Context(), "default", "a", client.DeleteOptions{PropagationPolicy: "Sideways"}); !errors.Is(err, api.ErrBadRequest) {
		t.Errorf("unknown policy: %v", err)
	}
	must[*v1.ConfigMap](t)(configs.Delete(t.Context(), "default", "a", client.DeleteOptions{
		UID: c.GetMetadata().GetUid(), ResourceVersion: c.GetMetadata().GetResourceVersion(),
	}))
}
