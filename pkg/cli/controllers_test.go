package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"orch/pkg/client"
	"orch/pkg/controller/deployment"
	"orch/pkg/controller/replicaset"
	"orch/pkg/informer"
	v1 "orch/proto/v1"
)

// withControllers begins a session in whose server the controllers of Deployments
// and of ReplicaSets run.
func withControllers(t *testing.T) *session {
	t.Helper()
	s := begin(t)
	c, err := client.Dial("passthrough:///inner", "apiserver",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.inner.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	deployments, sets := informer.New(client.For[*v1.Deployment](c), informer.Options{}), informer.New(client.For[*v1.ReplicaSet](c), informer.Options{})
	pods := informer.New(client.For[*v1.Pod](c), informer.Options{})
	d, r := deployment.New(c, deployments, sets, pods, nil), replicaset.New(c, sets, pods, nil)
	ctx, cancel := context.WithCancel(context.Background())
	var running errgroup.Group
	for _, run := range []func(context.Context) error{deployments.Run, sets.Run, pods.Run, d.Run, r.Run} {
		running.Go(func() error { return run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		if err := running.Wait(); err != nil {
			t.Error(err)
		}
		c.Close()
	})
	return s
}

// holds waits until a controller holds so many writes.
func (s *session) holds(name string, n int) {
	s.t.Helper()
	for late := time.After(time.Minute); ; {
		var all struct{ Items []listed }
		if err := json.Unmarshal([]byte(s.ok("controllers", "list", name, "-o", "json")), &all); err != nil || len(all.Items) != 1 {
			s.t.Fatalf("%+v, %v", all, err)
		}
		if len(all.Items[0].Held) == n {
			return
		}
		select {
		case <-late:
			s.t.Fatalf("%s holds %+v, want %d writes", name, all.Items[0].Held, n)
		default:
		}
	}
}

const everyController = "deployment, replicaset, scheduler, node, disruption, garbage, namespace, event, nodeipam"

func TestAControllerIsPausedSteppedAndResumed(t *testing.T) {
	s := withControllers(t)
	contains(t, s.ok("controllers", "list"), "NAME", "PAUSED", "HELD", "LAST WRITE", "replicaset   False    0")
	if got := s.ok("controllers", "list", "-o", "name"); strings.Count(got, "\n") != 9 || !strings.HasPrefix(got, "controller/deployment\ncontroller/replicaset\n") {
		t.Errorf("names:\n%s", got)
	}
	if _, errs, code := s.run("controllers", "plan"); code != 0 || errs != "No controller is paused.\n" {
		t.Errorf("a plan of nobody: %d %q", code, errs)
	}
	if got := s.ok("controllers", "plan", "replicaset"); got != "controller/replicaset is not paused: it holds nothing\n" {
		t.Errorf("the plan of one that is not paused: %s", got)
	}
	if got := s.ok("controllers", "pause", "replicaset", "scheduler"); got != "controller/replicaset paused\ncontroller/scheduler paused\n" {
		t.Errorf("pause: %s", got)
	}
	if got := s.ok("controllers", "pause", "replicaset"); got != "controller/replicaset is already paused\n" {
		t.Errorf("a second pause: %s", got)
	}
	if got := s.ok("controllers", "plan"); got != "paused, and would write nothing: replicaset, scheduler\n" {
		t.Errorf("plans of those who have nothing to do: %s", got)
	}
	s.fails(1, "holds nothing: all is as it should be in its eyes", "controllers", "step", "scheduler")

	s.ok("apply", "-f", s.file(web))
	s.holds("replicaset", 3)
	plan := s.ok("controllers", "plan")
	contains(t, plan, "controller/replicaset is paused and would write 3 times:\n\ncreate pod/web-", "<random>, for default/web-", " (3 times)\n",
		"  SuccessfulCreate: ReplicaSet web-", " wanted 3, had 0 (because of rev ", "    + spec.containers[app].image: web:1\n", "\n\npaused, and would write nothing: scheduler\n")
	if strings.Contains(plan, "metadata.uid") {
		t.Errorf("the plan has what every object has:\n%s", plan)
	}
	var list struct{ Items []listed }
	if err := yaml.Unmarshal([]byte(s.ok("controllers", "list", "replicaset", "-o", "yaml")), &list); err != nil || len(list.Items) != 1 || len(list.Items[0].Held) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if h := list.Items[0].Held[0]; h.Verb != "create" || h.Reason != "SuccessfulCreate" || h.After["kind"] != "Pod" || h.Before != nil || h.Trigger == 0 {
		t.Errorf("held: %+v", h)
	}
	contains(t, s.ok("why", "deployment/web"), "now           controller replicaset is paused and would create pod/web-")
	key := list.Items[0].Held[0].Key
	s.fails(1, "controller replicaset holds nothing of default/none, but of "+key, "controllers", "step", "replicaset", "--key", "default/none")

	contains(t, s.ok("controllers", "step", "replicaset", "--key", key), "controller/replicaset did: create pod/web-", " (rev ",
		"wanted 3, had 0 (because of rev ", "\n\nNext: controller/replicaset is paused and would write ", "wanted 3, had 1 (because of rev ")
	s.holds("replicaset", 2)
	made := strings.TrimSpace(s.ok("get", "pods", "-o", "name"))
	contains(t, s.ok("why", made), "wanted 3, had 0, let through by a step of user admin (rev ")
	contains(t, s.ok("history", made), "replicaset-controller, stepped by admin   SuccessfulCreate")
	if got := s.ok("history", made, "-o", "json"); !strings.Contains(got, `"steppedBy": "admin"`) {
		t.Errorf("history: %s", got)
	}

	if got := s.ok("controllers", "resume", "--all"); got != "controller/replicaset resumed\ncontroller/scheduler resumed\n" {
		t.Errorf("resume: %s", got)
	}
	s.ok("wait", "deployment/web", "--for=jsonpath={.status.replicas}=3")
	for _, name := range strings.Fields(s.ok("get", "pods", "-o", "name")) {
		if got := s.ok("history", name, "-o", "json"); name != made && strings.Contains(got, "steppedBy") {
			t.Errorf("nobody stepped: %s", got)
		}
	}
	if got := s.ok("controllers", "resume", "replicaset"); got != "controller/replicaset is not paused\n" {
		t.Errorf("a second resume: %s", got)
	}
	if got := s.ok("controllers", "resume", "--all"); got != "" {
		t.Errorf("a second resume of all: %s", got)
	}
}

func TestPausingTellsWhatIsWrongInALine(t *testing.T) {
	s := begin(t)
	unknown := `controllers "pods" not found: there are ` + everyController
	for _, c := range []struct {
		args, want string
	}{
		{"controllers list pods", unknown},
		{"controllers list -o wide", `--output "wide": use json, yaml or name, or none for a table`},
		{"controllers plan replicaset pods", unknown},
		{"controllers pause", "name one or more controllers, or give --all"},
		{"controllers pause --all replicaset", "name one or more controllers, or give --all"},
		{"controllers pause replicaset pods", unknown},
		{"controllers resume", "name one or more controllers, or give --all"},
		{"controllers pods", `unknown command "pods" for "orchctl controllers"`},
		{"up --paused replicaset", "--paused=NAME,NAME"},
		{"controllers step", "name one controller, such as replicaset"},
		{"controllers step replicaset node", "name one controller, such as replicaset"},
		{"controllers step pods", unknown},
		{"controllers step replicaset", "controller replicaset is not paused: only a paused one is led by steps (orchctl controllers pause replicaset)"},
	} {
		s.fails(1, c.want, strings.Fields(c.args)...)
	}
	if got := s.ok("controllers", "list"); strings.Contains(got, "True") {
		t.Errorf("with one wrong name, another is paused:\n%s", got)
	}
}

func TestNamesOfControllersAreCompleted(t *testing.T) {
	s := begin(t)
	s.ok("controllers", "pause", "replicaset", "node")
	for args, want := range map[string]string{
		"list":              everyController,
		"plan":              "replicaset, node",
		"step":              "replicaset, node",
		"step replicaset":   "",
		"resume":            "replicaset, node",
		"resume node":       "replicaset",
		"pause":             "deployment, scheduler, disruption, garbage, namespace, event, nodeipam",
		"pause garbage":     "deployment, scheduler, disruption, namespace, event, nodeipam",
		"list nodeipam all": strings.TrimSuffix(everyController, ", nodeipam"),
	} {
		var names []string
		for _, line := range splitLines(s.ok(slices.Concat([]string{"__complete", "controllers"}, strings.Fields(args), s.flags, []string{""})...)) {
			if line != "" && !strings.HasPrefix(line, ":") {
				names = append(names, line)
			}
		}
		if got := strings.Join(names, ", "); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}

// Whoever works with objects is told at once, on standard error, and once.
func TestEveryCommandTellsThatAControllerIsPaused(t *testing.T) {
	s := begin(t)
	manifest := s.file(web)
	s.ok("apply", "-f", manifest)
	s.ok("create", "configmap", "there")
	said := func(args string) string {
		t.Helper()
		out, errs, _ := s.run(strings.Fields(strings.ReplaceAll(args, "FILE", manifest))...)
		if strings.Contains(out, "paused:") {
			t.Errorf("%s: on standard output:\n%s", args, out)
		}
		return errs
	}
	commands := []string{
		"get pods", "get deployments,pods", "get deployment none", "get pods --at 1", "describe deployment web",
		"apply -f FILE", "diff -f FILE", "create configmap c", "label configmap c a=b", "scale deployment/web --replicas=4", "delete configmap c",
		"rollout status deployment/web --watch=false", "rollout restart deployment/web", "wait deployment/web --for=jsonpath={.kind}=Deployment",
		"wait configmap/there --for=create", "why deployment/web", "history deployment/web", "replay --from 1", "events", "lab check 1",
	}
	for _, c := range commands {
		if got := said(c); strings.Contains(got, "Warning") {
			t.Errorf("nobody is paused, and %s says:\n%s", c, got)
		}
	}
	s.ok("controllers", "pause", "deployment")
	const want = "Warning: controller deployment is paused: see orchctl controllers plan\n"
	for _, c := range commands {
		if got := said(c); strings.Count(got, want) != 1 || strings.Count(got, "Warning") != 1 {
			t.Errorf("%s says:\n%s", c, got)
		}
	}
	// Who only watches is told before the first object comes, or before none does.
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan int, 1)
	go func() {
		watched <- Main(ctx, IO{In: strings.NewReader(""), Out: io.Discard, Err: w}, append([]string{"get", "pods", "-w"}, s.flags...), "test")
		w.Close()
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if line != want {
		t.Errorf("get -w says %q, %v", line, err)
	}
	cancel()
	r.Close() // it says nothing more that anybody waits for
	if code := <-watched; code != 130 {
		t.Errorf("get -w ended with %d", code)
	}
	if got := said("controllers list") + said("controllers plan") + said("auth whoami"); got != "" {
		t.Errorf("who asks for it, or for nothing of the kind, is told too:\n%s", got)
	}
}
