package apiserver_test

import (
	"errors"
	"strings"
	"testing"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// Who may break what: edit alone nothing; with the role chaos in a namespace what is in
// it; nodes and the API server with the verb inject on them alone; what is protected
// nobody.
func TestWhoMayRunAnExperiment(t *testing.T) {
	g := guard(t)
	editor, breaker := g.group("ed", "editers"), g.group("bo", "breakers")
	must[*v1.RoleBinding](t)(client.For[*v1.RoleBinding](g.admin).Create(t.Context(), &v1.RoleBinding{
		Metadata: &v1.ObjectMeta{Name: "break"}, RoleRef: &v1.RoleRef{Kind: "ClusterRole", Name: "chaos"},
		Subjects: []*v1.Subject{{Kind: "Group", Name: "breakers"}},
	}))
	experiment := func(namespace, name, fault string) *v1.ChaosExperiment {
		x := &v1.ChaosExperiment{
			Metadata: &v1.ObjectMeta{Name: name, Namespace: namespace},
			Spec:     &v1.ChaosExperimentSpec{Fault: &v1.ChaosFault{Type: fault}},
		}
		if kind, _ := api.FaultKindOf(fault); kind.Scope == api.ScopePod {
			x.Spec.Selector = &v1.LabelSelector{}
		} else if x.Spec.FaultSeconds = 5; kind.Scope == api.ScopeNode {
			x.Spec.NodeSelector = &v1.LabelSelector{}
		}
		return x
	}
	create := func(c *client.Client, namespace, name, fault string) error {
		_, err := client.For[*v1.ChaosExperiment](c).Create(t.Context(), experiment(namespace, name, fault))
		return err
	}
	apply := func(c *client.Client, name, spec string) error {
		_, _, _, err := c.Apply(t.Context(), []byte(`{"apiVersion": "chaos.orch.dev/v1", "kind": "ChaosExperiment", "metadata": {"name": "`+name+`", "namespace": "default"}, "spec": `+spec+`}`), client.ApplyOptions{})
		return err
	}
	refused := func(what string, err error, says string) {
		t.Helper()
		if !errors.Is(err, api.ErrForbidden) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want it refused: %s", what, err, says)
		}
	}
	allowed := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	const kill = `{"fault": {"type": "KillPod"}, "selector": {}}`
	allowed("chaos creates", create(breaker, "default", "one", api.FaultKillPod))
	allowed("chaos applies", apply(breaker, "two", kill))
	stop := func(c *client.Client) error {
		_, err := client.For[*v1.ChaosExperiment](c).Modify(t.Context(), "default", "one", func(x *v1.ChaosExperiment) error {
			x.Spec.Stop = true
			return nil
		})
		return err
	}
	refused("edit creates", create(editor, "default", "three", api.FaultKillPod), "cannot create resource")
	refused("edit applies a new one", apply(editor, "three", kill), `"ed" cannot`)
	refused("edit applies another's", apply(editor, "two", `{"fault": {"type": "KillPod"}, "selector": {}, "stop": true}`), `"ed" cannot`)
	refused("edit updates", stop(editor), "cannot update resource")
	allowed("chaos updates", stop(breaker))

	for fault, resource := range map[string]string{api.FaultStopNode: "nodes", api.FaultCrashAPIServer: "apiservers"} {
		says := `cannot inject resource "` + resource + `"`
		refused("chaos in a namespace creates "+fault, create(breaker, "default", "x", fault), says)
		spec := map[string]string{
			api.FaultStopNode:       `{"fault": {"type": "StopNode"}, "nodeSelector": {}, "faultSeconds": 5}`,
			api.FaultCrashAPIServer: `{"fault": {"type": "CrashAPIServer"}, "faultSeconds": 5}`,
		}[fault]
		refused("chaos in a namespace applies "+fault, apply(breaker, "x", spec), says)
		if err := apply(breaker, "two", spec); !errors.Is(err, api.ErrInvalid) { // what it breaks cannot be changed
			t.Errorf("another fault was applied to an experiment: %v", err)
		}
	}
	must[*v1.ClusterRoleBinding](t)(client.For[*v1.ClusterRoleBinding](g.admin).Create(t.Context(), &v1.ClusterRoleBinding{
		Metadata: &v1.ObjectMeta{Name: "break"}, RoleRef: &v1.RoleRef{Kind: "ClusterRole", Name: "chaos"},
		Subjects: []*v1.Subject{{Kind: "Group", Name: "breakers"}},
	}))
	allowed("chaos in the cluster", create(breaker, "default", "four", api.FaultCrashAPIServer))

	must[*v1.Namespace](t)(client.For[*v1.Namespace](g.admin).Create(t.Context(), &v1.Namespace{
		Metadata: &v1.ObjectMeta{Name: "bank", Labels: map[string]string{api.LabelChaosProtected: "true"}},
	}))
	for _, c := range []*client.Client{breaker, g.admin} {
		refused("a protected namespace", create(c, "bank", "x", api.FaultKillPod), "namespace bank is protected")
		refused("the system's namespace", create(c, api.NamespaceSystem, "x", api.FaultKillPod), "is protected")
	}
}
