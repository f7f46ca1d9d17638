package agent_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/client"
	"orch/pkg/container"
	"orch/pkg/container/fake"
	v1 "orch/proto/v1"
)

func (c *cluster) setConfigMap(name string, data map[string]string) {
	c.t.Helper()
	maps := client.For[*v1.ConfigMap](c.client)
	o := &v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: name, Namespace: "default"}, Data: data}
	if _, err := maps.Create(c.t.Context(), o); err == nil {
		return
	}
	if _, err := maps.Update(c.t.Context(), o); err != nil {
		c.t.Fatal(err)
	}
}

// run runs a command in the pod's container app and returns what it prints.
func (c *cluster) run(r container.Runtime, pod string, command ...string) string {
	c.t.Helper()
	var out bytes.Buffer
	code, err := r.Exec(c.t.Context(), c.find(r, pod, "app"), container.ExecOptions{Command: command, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		return fmt.Sprintf("%s(exit %d, %v)", &out, code, err)
	}
	return out.String()
}

func withEnv(vars ...*v1.EnvVar) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Containers[0].Env = vars }
}

func keyOf(name, key string) *v1.EnvVar {
	return &v1.EnvVar{Name: "V", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{Name: name, Key: key}}}
}

func TestAMissingConfigMapHealsTheMomentItAppears(t *testing.T) {
	bubble(t, fake.Options{}, func(t *testing.T, c *cluster, engine *fake.Engine) {
		c.start("n1", engine)
		c.create(pod("web", withEnv(keyOf("c", "k"))))
		waits := func(message string) func(*v1.Pod) bool {
			return func(p *v1.Pod) bool {
				w := status(p, "app").GetState().GetWaiting()
				return w.GetReason() == lifecycle.ReasonContainerConfigError && w.GetMessage() == message
			}
		}
		c.until("web", "waiting for the ConfigMap", waits(`configmap "c" not found`))
		c.setConfigMap("c", map[string]string{"other": "1"})
		c.until("web", "waiting for the key", waits("couldn't find key k in ConfigMap default/c"))
		c.setConfigMap("c", map[string]string{"k": "v1"})
		c.until("web", "ready", running)
		if env := c.run(engine, "web", "env"); !strings.Contains(env, "V=v1\n") {
			t.Errorf("environment:\n%s", env)
		}

		// What runs is left alone; the next attempt sees the new value.
		c.setConfigMap("c", map[string]string{"k": "v2"})
		synctest.Wait()
		c.run(engine, "web", "kill", "1")
		c.until("web", "started again", restarted(1))
		if env := c.run(engine, "web", "env"); !strings.Contains(env, "V=v2\n") {
			t.Errorf("environment after a restart:\n%s", env)
		}
		c.delete("web", proto.Int64(0))
		c.until("web", "gone", gone)
		synctest.Wait()
		events, err := client.For[*v1.Event](c.client).List(t.Context(), client.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		told := 0
		for _, e := range events.Items {
			if e.GetReason() == "Failed" && e.GetMessage() == `Error: configmap "c" not found` {
				told++
			}
		}
		if told != 1 {
			t.Errorf("%d events tell of the missing ConfigMap, want 1", told)
		}
	})
}
