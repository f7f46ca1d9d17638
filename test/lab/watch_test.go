//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"orch/internal/testimage"
	"orch/internal/testlog"
	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/container"
	v1 "orch/proto/v1"
	"orch/test/lab"
)

// image is on every engine.
const image = "testimage"

// patience is how long a cluster may take to become as it should be. It is no
// figure: those are measured by bench.
const patience = 4 * time.Minute

// cluster is a lab with Orch on it, as a story sees it.
type cluster struct {
	*testing.T
	*lab.Lab
	client *client.Client
}

// start builds a lab that ends with the test.
func start(t *testing.T, o lab.Options) *cluster {
	t.Helper()
	lab.Require(t)
	o.Bin = *bin
	o.Images = func(ctx context.Context, m *lab.Machine) error {
		engine, err := m.Engine()
		if err != nil {
			return err
		}
		defer engine.Close()
		return testimage.Import(ctx, engine, image)
	}
	l, err := lab.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := &cluster{T: t, Lab: l}
	if c.client, err = l.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.client.Close() })
	return c
}

// story tells one, on machines that are well, with a Deployment "web" whose pods
// are spread evenly. After one that went wrong the machines are not well, and no
// other is told.
func (c *cluster) story(name string, replicas int, f func(c *cluster)) {
	c.Helper()
	ok := c.Run(name, func(t *testing.T) {
		s := &cluster{T: t, Lab: c.Lab, client: c.client}
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(s.state())
			}
			s.do(s.Heal())
		})
		start, err := client.For[*v1.Pod](c.client).List(t.Context(), client.ListOptions{})
		s.do(err)
		s.apply("web", replicas, "1")
		s.settled(replicas)
		f(s)
		s.do(s.Heal())
		testlog.Invariants(t, c.client, start.Revision, len(c.Machines))
		testlog.EveryWriteHasACause(t, c.client)
		s.orchctl("delete", "deployment", "--all", "--cascade=foreground", "--timeout=2m")
		s.settled(0)
	})
	if !ok {
		c.FailNow()
	}
}

// do fails the story where something could not be done.
func (c *cluster) do(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) orchctl(args ...string) string {
	c.Helper()
	out, err := c.Orchctl(context.Background(), args...)
	c.do(err)
	return out
}

// apply applies a Deployment whose pods carry a version.
func (c *cluster) apply(name string, replicas int, version string) {
	c.Helper()
	c.do(c.Apply(c.Context(), deployment(name, replicas, version)))
}

func deployment(name string, replicas int, version string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s, version: "%[3]s"}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: app, image: %[4]s, imagePullPolicy: IfNotPresent}]
`, name, replicas, version, image)
}

// pods are those of the API, by uid.
func (c *cluster) pods() map[string]*v1.Pod {
	pods := map[string]*v1.Pod{}
	list, err := client.For[*v1.Pod](c.client).List(c.Context(), client.ListOptions{Namespace: api.NamespaceDefault})
	c.do(err)
	for _, p := range list.Items {
		pods[p.GetMetadata().GetUid()] = p
	}
	return pods
}

// on are the pods of a machine.
func (c *cluster) on(m *lab.Machine) []*v1.Pod {
	return slices.DeleteFunc(slices.Collect(maps.Values(c.pods())), func(p *v1.Pod) bool { return p.GetSpec().GetNodeName() != m.Name })
}

func (c *cluster) node(m *lab.Machine) *v1.Node {
	n, err := client.For[*v1.Node](c.client).Get(c.Context(), "", m.Name)
	c.do(err)
	return n
}

// ready is the condition of the node.
func (c *cluster) ready(m *lab.Machine) *v1.Condition {
	return api.GetCondition(c.node(m).GetStatus().GetConditions(), api.NodeReady)
}

// found is a container and where it is.
type found struct {
	container.Container
	machine, uid, slot string
}

// containers are all of Orch's on the engines that answer.
func (c *cluster) containers() (all []found, err error) {
	for _, m := range c.Machines {
		if !m.Running() || m.Simulated() {
			continue
		}
		engine, err := m.Engine()
		if err != nil {
			return nil, err
		}
		list, err := engine.List(c.Context(), map[string]string{lifecycle.LabelNode: m.Name})
		for i := 0; i < len(list) && err == nil; i++ {
			if list[i], err = engine.Inspect(c.Context(), list[i].ID); err == nil {
				all = append(all, found{list[i], m.Name, list[i].Labels[lifecycle.LabelPodUID], list[i].Labels[lifecycle.LabelContainer]})
			}
		}
		engine.Close()
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// eventually waits until it is so; what is not so yet is the error.
func (c *cluster) eventually(what string, try func() error) {
	c.Helper()
	deadline := time.After(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			c.Fatalf("not after %v: %s: %v", patience, what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// always fails where it is not so at some time in a while: in which what should
// not happen would have, by all that the cluster waits for.
func (c *cluster) always(what string, try func() error) {
	c.Helper()
	if *long {
		c.during(time.Minute, what, try)
	} else {
		c.during(15*time.Second, what, try)
	}
}

// during fails where it is not so at some time in that long.
func (c *cluster) during(d time.Duration, what string, try func() error) {
	c.Helper()
	end := time.Now().Add(d)
	c.eventually("the end of: "+what, func() error {
		if err := try(); err != nil {
			c.Fatalf("not so: %s: %v", what, err)
		}
		if time.Now().Before(end) {
			return errors.New("it goes on")
		}
		return nil
	})
}

// settled waits until the cluster is what was asked for: the API has so many pods
// of "web", all Ready, on nodes that are; and what is on the engines is just
// what these pods need, each container once, and nothing else.
func (c *cluster) settled(replicas int) {
	c.Helper()
	c.eventually(fmt.Sprintf("%d pods run once each", replicas), func() error { return c.unsettled(replicas) })
}

func (c *cluster) unsettled(replicas int) error {
	for _, m := range c.Machines {
		if !m.Running() {
			continue
		}
		if ready := c.ready(m); ready.GetStatus() != api.ConditionTrue {
			return fmt.Errorf("node %s is not Ready: %s", m.Name, ready.GetMessage())
		}
	}
	pods, wanted := c.pods(), map[string]bool{}
	if len(pods) != replicas {
		return fmt.Errorf("the API has %d pods", len(pods))
	}
	for uid, p := range pods {
		switch {
		case p.GetMetadata().GetDeletionTimestamp() != nil:
			return fmt.Errorf("pod %s is being deleted", p.GetMetadata().GetName())
		case !api.IsPodReady(p):
			return fmt.Errorf("pod %s on %s is not Ready", p.GetMetadata().GetName(), p.GetSpec().GetNodeName())
		}
		for _, slot := range []string{"", "app"} {
			wanted[p.GetSpec().GetNodeName()+"/"+uid+"/"+slot] = true
		}
	}
	all, err := c.containers()
	if err != nil {
		return err
	}
	for _, f := range all {
		key := f.machine + "/" + f.uid + "/" + f.slot
		switch {
		case pods[f.uid] == nil:
			return fmt.Errorf("%s has container %s (%s), and there is no such pod", f.machine, f.Name, f.State)
		case f.State != container.StateRunning: // an attempt before the present one
			continue
		case !wanted[key]:
			return fmt.Errorf("%s runs container %s, which runs already or should not", f.machine, f.Name)
		}
		delete(wanted, key)
	}
	if len(wanted) > 0 && !c.Machines[0].Simulated() {
		return fmt.Errorf("does not run: %q", slices.Collect(maps.Keys(wanted)))
	}
	return nil
}

// untouched remembers what runs now of those containers, and returns a function
// that fails the story where one has ended or was started again.
func (c *cluster) untouched(which func(found) bool) (check func()) {
	c.Helper()
	before, err := c.containers()
	c.do(err)
	before = slices.DeleteFunc(before, func(f found) bool { return f.State != container.StateRunning || !which(f) })
	return func() {
		c.Helper()
		after, err := c.containers()
		c.do(err)
		started := map[string]time.Time{}
		for _, f := range after {
			if f.State == container.StateRunning {
				started[f.ID] = f.StartedAt
			}
		}
		for _, f := range before {
			if at, ok := started[f.ID]; !ok || !at.Equal(f.StartedAt) {
				c.Errorf("container %s on %s has nothing to do with it, and was ended or restarted", f.Name, f.machine)
			}
		}
	}
}

func everything(found) bool { return true }

// but are the containers of all other machines.
func but(m *lab.Machine) func(found) bool {
	return func(f found) bool { return f.machine != m.Name }
}

// state is what a person would look at.
func (c *cluster) state() string {
	var s strings.Builder
	out, err := c.Orchctl(context.Background(), "get", "nodes,deployments,pods", "-o", "wide")
	fmt.Fprintln(&s, out, err)
	for _, m := range c.Machines {
		if m.Running() {
			out, err := m.Run(context.Background(), "sh", "-c", "docker ps -a --format '{{.Names}} {{.Status}}'; tail -n 5 "+m.Log("nodeagent"))
			fmt.Fprintln(&s, m.Name, out, err)
		}
	}
	return s.String()
}
