package apiserver_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

func deploymentJSON(replicas, image string) string {
	return fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","labels":{"team":"a"}},"spec":{%s
		"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},
		"spec":{"containers":[{"name":"web","image":%q}]}}}}`, replicas, image)
}

func TestApplyCreatesConfiguresAndLeavesAlone(t *testing.T) {
	s := start(t)
	apply := func(doc, want string) *v1.Deployment {
		t.Helper()
		o, result, _, err := s.Apply(t.Context(), []byte(doc), client.ApplyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if result != want {
			t.Errorf("result %q, want %q", result, want)
		}
		return o.(*v1.Deployment)
	}
	d := apply(deploymentJSON(`"replicas":3,`, "web:1"), "created")
	if d.GetSpec().GetReplicas() != 3 || d.GetSpec().GetStrategy().GetType() != api.StrategyRollingUpdate {
		t.Errorf("created: %v", d.GetSpec())
	}
	revision := s.store.Revision()
	apply(deploymentJSON(`"replicas":3,`, "web:1"), "unchanged")
	if s.store.Revision() != revision {
		t.Errorf("applied twice: revision %d after %d", s.store.Revision(), revision)
	}
	// What others write stays, what the manifest no longer says goes.
	deployments := client.For[*v1.Deployment](s.Client)
	must[*v1.Deployment](t)(deployments.Modify(t.Context(), "default", "web", func(d *v1.Deployment) error {
		d.Metadata.Labels["by-hand"] = "yes"
		d.Spec.Template.Spec.Containers[0].Env = []*v1.EnvVar{{Name: "DEBUG", Value: "1"}}
		return nil
	}))
	d = apply(strings.Replace(deploymentJSON(`"replicas":3,`, "web:2"), `{"team":"a"}`, "{}", 1), "configured")
	c := d.GetSpec().GetTemplate().GetSpec().GetContainers()[0]
	if c.GetImage() != "web:2" || len(c.GetEnv()) != 1 || fmt.Sprint(d.GetMetadata().GetLabels()) != "map[by-hand:yes]" {
		t.Errorf("configured: %v, labels %v", c, d.GetMetadata().GetLabels())
	}
	// A field that is no longer in the manifest gets its default.
	if d = apply(deploymentJSON("", "web:2"), "configured"); d.GetSpec().GetReplicas() != 1 {
		t.Errorf("replicas %d", d.GetSpec().GetReplicas())
	}
}

func TestApplyOfWhatCannotBe(t *testing.T) {
	s := start(t)
	if _, _, _, err := s.Apply(t.Context(), []byte(deploymentJSON("", "web:1")), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		doc  string
		kind error
		text string
	}{
		"an immutable field":       {strings.ReplaceAll(deploymentJSON("", "web:1"), `"app":"web"`, `"app":"db"`), api.ErrInvalid, "field is immutable"},
		"a value out of range":     {deploymentJSON(`"replicas":-1,`, "web:1"), api.ErrInvalid, "must be greater than or equal to 0"},
		"a misspelt field":         {deploymentJSON(`"replica":3,`, "web:1"), api.ErrBadRequest, "spec.replica"},
		"no JSON":                  {`{"apiVersion":`, api.ErrBadRequest, ""},
		"an unknown kind":          {`{"apiVersion":"v1","kind":"Poodle","metadata":{"name":"a"}}`, api.ErrBadRequest, "Poodle"},
		"no name":                  {`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"a-"}}`, api.ErrBadRequest, "metadata.name"},
		"a stale resource version": {strings.Replace(deploymentJSON("", "web:2"), `"name":"web",`, `"name":"web","resourceVersion":"1",`, 1), api.ErrConflict, "has been modified"},
	} {
		before := s.store.Revision()
		_, _, _, err := s.Apply(t.Context(), []byte(tt.doc), client.ApplyOptions{})
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) || s.store.Revision() != before {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestApplyOfAnUnknownFieldCanBeAWarning(t *testing.T) {
	s := start(t)
	doc := []byte(deploymentJSON(`"replica":3,`, "web:1"))
	_, result, warnings, err := s.Apply(t.Context(), doc, client.ApplyOptions{Validation: "Warn"})
	if err != nil || result != "created" || len(warnings) != 1 {
		t.Errorf("warn: %s, %v, %v", result, warnings, err)
	}
	_, result, warnings, err = s.Apply(t.Context(), doc, client.ApplyOptions{Validation: "Ignore"})
	if err != nil || result != "unchanged" || len(warnings) != 0 {
		t.Errorf("ignore: %s, %v, %v", result, warnings, err)
	}
}

func TestADryRunOfApplyWritesNothing(t *testing.T) {
	s := start(t)
	for _, step := range []struct {
		doc    string
		dryRun bool
		want   string
	}{
		{deploymentJSON("", "web:1"), true, "created"},
		{deploymentJSON("", "web:1"), false, "created"},
		{deploymentJSON("", "web:1"), true, "unchanged"},
		{deploymentJSON("", "web:2"), true, "configured"},
	} {
		before := s.store.Revision()
		_, result, _, err := s.Apply(t.Context(), []byte(step.doc), client.ApplyOptions{DryRun: step.dryRun})
		if err != nil || result != step.want || step.dryRun && s.store.Revision() != before {
			t.Errorf("%+v: %s, %v, revision %d after %d", step, result, err, s.store.Revision(), before)
		}
	}
}

func TestConcurrentAppliesAndUpdatesLoseNothing(t *testing.T) {
	s := start(t)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			doc := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shared"},"data":{"applied":"%d"}}`, i)
			if _, _, _, err := s.Apply(t.Context(), []byte(doc), client.ApplyOptions{}); err != nil {
				t.Error(err)
			}
			_, err := client.For[*v1.ConfigMap](s.Client).Modify(t.Context(), "default", "shared", func(c *v1.ConfigMap) error {
				c.Data[fmt.Sprint("by-hand-", i)] = "yes"
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	c := must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](s.Client).Get(t.Context(), "default", "shared"))
	if len(c.GetData()) != 9 {
		t.Errorf("data %v", c.GetData())
	}
}

func TestApplyOfASecretTakesPlainText(t *testing.T) {
	s := start(t)
	doc := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"login"},"stringData":{"password":"%s"}}`
	for i, want := range []string{"created", "unchanged", "configured"} {
		text := []string{"old", "old", "new"}[i]
		o, result, _, err := s.Apply(t.Context(), fmt.Appendf(nil, doc, text), client.ApplyOptions{})
		if err != nil || result != want || string(o.(*v1.Secret).GetData()["password"]) != text {
			t.Errorf("%s: %s, %v, %v", want, result, o, err)
		}
	}
}
