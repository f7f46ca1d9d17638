package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/identity"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) {
	time.Local = time.FixedZone("home", -5*60*60) // what is told in UTC shows
	goleak.VerifyTestMain(m)
}

// session is a person at a terminal, with a real API server.
type session struct {
	t      *testing.T
	server string
	flags  []string // that lead to the server, as its administrator
	client *client.Client
	// authority is the cluster's.
	authority *identity.Authority
	inner     *bufconn.Listener // for parts of the server's own process
	stdin     string
}

// begin starts a server on an empty store and an empty ORCH_HOME.
func begin(t *testing.T) *session {
	t.Helper()
	t.Setenv("ORCH_HOME", t.TempDir())
	t.Setenv("ORCH_SERVER", "")
	s := memstore.New()
	dir := t.TempDir()
	authority, err := identity.OpenAuthority(dir, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	admin := filepath.Join(dir, "admin.pem")
	pair, err := authority.OpenPair(admin, identity.User{Name: "admin", Groups: []string{identity.GroupMasters}})
	if err != nil {
		t.Fatal(err)
	}
	server, err := apiserver.New(s, apiserver.Options{Authority: authority, Version: "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	inner := bufconn.Listen(1 << 20)
	var serving errgroup.Group
	serving.Go(func() error { return server.Serve(ctx, l) })
	serving.Go(func() error { return server.ServeInner(ctx, inner) })
	c, err := client.Dial(l.Addr().String(), "test", client.TLS(identity.DialTLS(identity.ServerName, pair, authority.Certificate())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := serving.Wait(); err != nil {
			t.Errorf("serve: %v", err)
		}
		s.Close()
	})
	return &session{t: t, server: l.Addr().String(), client: c, authority: authority, inner: inner, flags: []string{
		"--server", l.Addr().String(), "--certificate-authority", filepath.Join(dir, identity.AuthorityFile),
		"--client-certificate", admin, "--client-key", admin,
	}}
}

// run types one command.
func (s *session) run(args ...string) (out, errs string, code int) {
	s.t.Helper()
	var o, e bytes.Buffer
	code = Main(context.Background(), IO{In: strings.NewReader(s.stdin), Out: &o, Err: &e}, append(slices.Clone(s.flags), args...), "test")
	return o.String(), e.String(), code
}

// ok types a command that must succeed, and returns its output.
func (s *session) ok(args ...string) string {
	s.t.Helper()
	out, errs, code := s.run(args...)
	if code != 0 {
		s.t.Fatalf("orchctl %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// fails types a command that must end with an exit code and say a sentence.
func (s *session) fails(code int, sentence string, args ...string) {
	s.t.Helper()
	out, errs, got := s.run(args...)
	if got != code || !strings.Contains(errs, sentence) {
		s.t.Errorf("orchctl %s: exit code %d and\n%s%s\nwant %d and %q", strings.Join(args, " "), got, out, errs, code, sentence)
	}
	if n := strings.Count(strings.TrimSpace(errs), "\n"); n > 0 && !strings.Contains(errs, "Warning") {
		s.t.Errorf("orchctl %s: the error has %d lines, want one:\n%s", strings.Join(args, " "), n+1, errs)
	}
}

func (s *session) file(text string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

const web = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - {name: app, image: "web:1"}
`

func splitLines(s string) []string { return strings.Split(strings.TrimRight(s, "\n"), "\n") }

func TestApplyCreatesThenConfiguresThenLeavesAlone(t *testing.T) {
	s := begin(t)
	file := s.file(web)
	for _, want := range []string{"deployment.apps/web created\n", "deployment.apps/web unchanged\n"} {
		if got := s.ok("apply", "-f", file); got != want {
			t.Errorf("apply said %q, want %q", got, want)
		}
	}
	s.ok("scale", "deployment/web", "--replicas=5")
	changed := s.file(strings.Replace(strings.Replace(web, "web:1", "web:2", 1), "  replicas: 3\n", "", 1))
	if got := s.ok("apply", "-f", changed); got != "deployment.apps/web configured\n" {
		t.Errorf("apply said %q", got)
	}
	if got := s.ok("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"); got != "web:2" {
		t.Errorf("image is %q", got)
	}
}

func TestApplyReadsStandardInputAndListsAndFolders(t *testing.T) {
	s := begin(t)
	s.stdin = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n"
	if got := s.ok("apply", "-f", "-"); got != "configmap/a created\nsecret/b created\n" {
		t.Errorf("apply said %q", got)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"1.yaml":      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\n",
		"2.json":      `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"e"}}`,
		"deep/3.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: f}\n",
		"notes.txt":   "not a manifest",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.ok("apply", "-f", dir); got != "configmap/c created\nconfigmap/d created\nconfigmap/e created\n" {
		t.Errorf("apply of the folder said %q", got)
	}
	if got := s.ok("apply", "-R", "-f", dir, "-o", "name"); !strings.Contains(got, "configmap/f") {
		t.Errorf("apply -R said %q", got)
	}
}

func TestBadInputIsOneLineThatNamesWhatIsWrong(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(web))
	for name, c := range map[string]struct{ manifest, want string }{
		"malformed YAML":                       {"apiVersion: v1\nkind: [", "manifest.yaml"},
		"an unknown kind":                      {"apiVersion: v1\nkind: Pot\nmetadata: {name: x}\n", "Pot"},
		"a typo in a field":                    {strings.Replace(web, "replicas", "replica", 1), `did you mean "replicas"`},
		"a field that Orch does not implement": {strings.Replace(web, "    spec:\n      containers", "    spec:\n      affinity: {nodeAffinity: {}}\n      containers", 1), "does not implement"},
		"a selector that does not match":       {strings.Replace(web, "matchLabels: {app: web}", "matchLabels: {app: other}", 1), "`selector` does not match template `labels`"},
		"negative replicas":                    {strings.Replace(web, "replicas: 3", "replicas: -1", 1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		"a name that is no DNS label":          {"apiVersion: v1\nkind: Namespace\nmetadata: {name: My_Space}\n", "RFC 1123 label"},
		"a namespace that does not exist":      {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}\n", `namespaces "nowhere" not found`},
		"an immutable field":                   {strings.ReplaceAll(web, "app: web", "app: other"), "field is immutable"},
		"a stale resourceVersion":              {strings.Replace(web, "name: web", "name: web\n  resourceVersion: \"1\"", 1), "the object has been modified"},
		"nothing at all":                       {"# only a comment\n", "no objects passed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := *s
			s.t = t
			s.fails(1, c.want, "apply", "-f", s.file(c.manifest))
		})
	}
	s.fails(1, "does not exist", "apply", "-f", "/does/not/exist.yaml")
	big := s.file("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: big}\ndata:\n  x: " + strings.Repeat("a", 10<<20) + "\n")
	s.fails(1, "the most is", "apply", "-f", big)
	if got := s.ok("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"); got != "3" {
		t.Errorf("after all that web has %s replicas, want 3", got)
	}
}

func TestValidateWarnAndIgnore(t *testing.T) {
	s := begin(t)
	file := s.file(strings.Replace(web, "replicas", "replica", 1))
	out, errs, code := s.run("apply", "-f", file, "--validate=warn")
	if code != 0 || out != "deployment.apps/web created\n" || !strings.Contains(errs, "Warning: ") {
		t.Errorf("warn: %d %q %q", code, out, errs)
	}
	if _, errs, code := s.run("apply", "-f", file, "--validate=ignore"); code != 0 || errs != "" {
		t.Errorf("ignore: %d %q", code, errs)
	}
	s.fails(1, "invalid validation", "apply", "-f", file, "--validate=maybe")
}

// pods makes pods as controllers and agents would.
func (s *session) pods() {
	s.t.Helper()
	ctx := context.Background()
	r := client.For[*v1.Pod](s.client)
	for name, st := range map[string]*v1.PodStatus{
		"ready": {Phase: "Running", PodIp: "10.1.2.3", Conditions: []*v1.Condition{{Type: "Ready", Status: "True"}}, ContainerStatuses: []*v1.ContainerStatus{
			{Name: "app", Ready: true, RestartCount: 2, State: &v1.ContainerState{Running: &v1.ContainerStateRunning{}}},
		}},
		"crashing": {Phase: "Running", ContainerStatuses: []*v1.ContainerStatus{
			{Name: "app", RestartCount: 4, State: &v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}},
		}},
		"killed": {Phase: "Failed", ContainerStatuses: []*v1.ContainerStatus{
			{Name: "app", State: &v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}}},
		}},
		"pending": {Phase: "Pending"},
	} {
		p := &v1.Pod{Metadata: &v1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "web", "is": name}}, Spec: &v1.PodSpec{
			Containers: []*v1.Container{{Name: "app", Image: "web:1"}}, NodeName: "node-1",
		}}
		p, err := r.Create(ctx, p)
		if err != nil {
			s.t.Fatal(err)
		}
		p.Status = st
		if _, err := r.UpdateStatus(ctx, p); err != nil {
			s.t.Fatal(err)
		}
	}
}

func TestGetShowsKubectlsTable(t *testing.T) {
	s := begin(t)
	s.pods()
	want := []string{
		"NAME       READY   STATUS             RESTARTS   AGE",
		"crashing   0/1     CrashLoopBackOff   4          0s",
		"killed     0/1     OOMKilled          0          0s",
		"pending    0/1     Pending            0          0s",
		"ready      1/1     Running            2          0s",
	}
	got := splitLines(strings.ReplaceAll(s.ok("get", "po"), "1s\n", "0s\n"))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("get pods (-want +got):\n%s", d)
	}
	if got := s.ok("get", "pods", "ready", "-o", "wide"); !strings.Contains(got, "10.1.2.3   node-1   <none>           <none>") {
		t.Errorf("wide is\n%s", got)
	}
	for args, want := range map[string]string{
		"get pods -l is=ready -o name":                                                 "pod/ready\n",
		"get pods --field-selector status.phase=Running -o name":                       "pod/crashing\npod/ready\n",
		"get pods --field-selector status.phase!=Running -o name":                      "pod/killed\npod/pending\n",
		"get pod/ready pod/pending -o name":                                            "pod/ready\npod/pending\n",
		"get pods --sort-by=.status.containerStatuses[0].restartCount -o name":         "pod/pending\npod/killed\npod/ready\npod/crashing\n",
		"get pods -o jsonpath={.items[?(@.status.podIP==\"10.1.2.3\")].metadata.name}": "ready",
		"get pod ready -o go-template={{.status.phase}}":                               "Running",
		"get pod ready -o custom-columns=N:.metadata.name,P:.status.phase,X:.nope":     "N       P         X\nready   Running   <none>\n",
		"get pods -l is=ready --no-headers -L is --show-labels":                        "ready   1/1   Running   2     0s    ready   app=web,is=ready\n",
	} {
		if got := s.ok(strings.Split(args, " ")...); strings.ReplaceAll(got, " 1s ", " 0s ") != want && !strings.HasPrefix(args, "get pods -l is=ready --no") {
			t.Errorf("orchctl %s:\n%q\nwant\n%q", args, got, want)
		}
	}
}

func TestGetOfNothing(t *testing.T) {
	s := begin(t)
	_, errs, code := s.run("get", "pods")
	if code != 0 || errs != "No resources found in default namespace.\n" {
		t.Errorf("get pods: %d %q", code, errs)
	}
	_, errs, code = s.run("get", "nodes")
	if code != 0 || errs != "No resources found\n" {
		t.Errorf("get nodes: %d %q", code, errs)
	}
	s.fails(1, `Error from server (NotFound): pods "x" not found`, "get", "pod", "x")
	s.fails(1, `couldn't find any field with path ".nope" in the list of objects`, "get", "namespaces", "--sort-by=.nope")
	if _, errs, code := s.run("get", "pod", "x", "--ignore-not-found"); code != 0 || errs != "" {
		t.Errorf("get --ignore-not-found: %d %q", code, errs)
	}
	s.fails(1, `the server doesn't have a resource type "pots"`, "get", "pots")
	s.fails(1, "unable to match a printer", "get", "ns", "-o", "xml")
	out := s.ok("get", "pods", "-o", "json")
	if !strings.Contains(out, `"items": []`) || !strings.Contains(out, `"kind": "List"`) {
		t.Errorf("an empty list as JSON is\n%s", out)
	}
}

func TestSeveralKindsAtOnceAndAllNamespaces(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(web))
	s.ok("create", "configmap", "settings", "--from-literal=a=b")
	out := s.ok("get", "deploy,cm")
	for _, want := range []string{"deployment.apps/web", "configmap/settings"} {
		if !strings.Contains(out, want) {
			t.Errorf("get deploy,cm lacks %s:\n%s", want, out)
		}
	}
	if out := s.ok("get", "cm", "-A"); !strings.HasPrefix(out, "NAMESPACE   NAME") {
		t.Errorf("get -A is\n%s", out)
	}
}

func TestDeleteWaitsAndSaysWhat(t *testing.T) {
	s := begin(t)
	s.ok("create", "configmap", "a")
	s.ok("create", "configmap", "b")
	if got := s.ok("delete", "cm", "a"); got != "configmap \"a\" deleted\n" {
		t.Errorf("delete said %q", got)
	}
	s.fails(1, `configmaps "a" not found`, "delete", "cm", "a")
	s.ok("delete", "cm", "a", "--ignore-not-found")
	s.fails(1, "no name was specified", "delete", "cm")
	if got := s.ok("delete", "cm", "--all", "-o", "name"); got != "configmap/b\n" {
		t.Errorf("delete --all said %q", got)
	}
	s.fails(1, "is forbidden", "delete", "ns", "default")
}

func TestScaleSetImageLabelAnnotateCordon(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(web))
	for _, c := range []struct{ args, want string }{
		{"scale deploy web --replicas=6", "deployment.apps/web scaled\n"},
		{"get deploy web -o jsonpath={.spec.replicas}", "6"},
		{"set image deploy/web app=web:2", "deployment.apps/web image updated\n"},
		{"get deploy web -o jsonpath={.spec.template.spec.containers[*].image}", "web:2"},
		{"label deploy web tier=front", "deployment.apps/web labeled\n"},
		{"label deploy web tier=front", "deployment.apps/web not labeled\n"},
		{"label deploy web tier-", "deployment.apps/web unlabeled\n"},
		{"get deploy web -o jsonpath={.metadata.labels}", `{"app":"web"}`},
		{"annotate deploy web why=because", "deployment.apps/web annotated\n"},
		{"rollout pause deploy/web", "deployment.apps/web paused\n"},
		{"rollout resume deploy/web", "deployment.apps/web resumed\n"},
		{"rollout restart deploy/web", "deployment.apps/web restarted\n"},
	} {
		if got := s.ok(strings.Split(c.args, " ")...); got != c.want {
			t.Errorf("orchctl %s: %q, want %q", c.args, got, c.want)
		}
	}
	s.fails(1, "--overwrite is false", "label", "deploy", "web", "app=other")
	s.fails(1, "expected replicas to be 4, was 6", "scale", "deploy", "web", "--replicas=1", "--current-replicas=4")
	s.fails(1, `unable to find container named "nope"`, "set", "image", "deploy/web", "nope=x")
	s.fails(1, "--replicas=COUNT flag is required", "scale", "deploy", "web")
	if _, err := client.For[*v1.Node](s.client).Create(context.Background(), &v1.Node{Metadata: &v1.ObjectMeta{Name: "n1"}}); err != nil {
		t.Fatal(err)
	}
	if got := s.ok("cordon", "n1") + s.ok("cordon", "n1") + s.ok("uncordon", "n1"); got != "node/n1 cordoned\nnode/n1 already cordoned\nnode/n1 uncordoned\n" {
		t.Errorf("cordon said %q", got)
	}
}

func TestAManifestWithTolerationsIsAppliedTwice(t *testing.T) {
	s := begin(t)
	file := s.file(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  tolerations: [{key: dedicated, operator: Exists}]
  containers: [{name: c, image: "c:1", resources: {requests: {memory: 1Mi}}}]
`)
	if got := s.ok("apply", "-f", file) + s.ok("apply", "-f", file); got != "pod/p created\npod/p unchanged\n" {
		t.Errorf("apply said %q", got)
	}
	if out := s.ok("describe", "pod", "p"); !strings.Contains(out, "Tolerations:      dedicated op=Exists\n                  node.kubernetes.io/memory-pressure:NoSchedule op=Exists\n") {
		t.Errorf("describe does not show the tolerations:\n%s", out)
	}
}

func TestTaint(t *testing.T) {
	s := begin(t)
	if _, err := client.For[*v1.Node](s.client).Create(context.Background(), &v1.Node{Metadata: &v1.ObjectMeta{Name: "n1"}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"taint nodes n1 dedicated=films:NoSchedule gpu:NoExecute", "node/n1 tainted\n"},
		{"taint node/n1 dedicated=books:NoSchedule --overwrite", "node/n1 modified\n"},
		{"get node n1 -o jsonpath={.spec.taints}", `[{"effect":"NoSchedule","key":"dedicated","value":"books"},{"effect":"NoExecute","key":"gpu"}]`},
		{"taint no --all old:PreferNoSchedule gpu-", "node/n1 modified\n"},
		{"taint nodes n1 dedicated:NoSchedule-", "node/n1 untainted\n"},
	} {
		if got := s.ok(strings.Split(c.args, " ")...); got != c.want {
			t.Errorf("orchctl %s: %q, want %q", c.args, got, c.want)
		}
	}
	if out := s.ok("describe", "node", "n1"); !strings.Contains(out, "Taints:             old:PreferNoSchedule\n") {
		t.Errorf("describe does not show the taint:\n%s", out)
	}
	for args, want := range map[string]string{
		"taint nodes n1 old=x:PreferNoSchedule": "node n1 already has old taint(s) with same effect(s) and --overwrite is false",
		"taint nodes n1 none-":                  `taint "none" not found`,
		"taint nodes n1 a:Never":                "invalid taint effect: Never",
		"taint nodes n1 a=b":                    "invalid taint spec: a=b",
		"taint nodes n1":                        "at least one taint update is required",
		"taint nodes a:NoSchedule":              "at least one resource name must be specified since 'all' parameter is not set",
		"taint a:NoSchedule":                    "one or more resources must be specified as <resource> <name>",
		"taint pods n1 a:NoSchedule":            "only node types are supported",
		"taint nodes n1 a:NoSchedule a-":        "can not both modify and remove the following taint(s) in the same command: a=",
		"taint nodes n1 a:NoSchedule n2":        "all resources must be specified before taint changes: n2",
		"taint nodes n1 a=b c:NoSchedule":       "invalid taint spec: a=b",
		"taint nodes n1 a=*:NoSchedule":         "spec.taints[0].value",
	} {
		s.fails(1, want, strings.Split(args, " ")...)
	}
}

func TestWarningsOfTheServerAreShownOnce(t *testing.T) {
	s := begin(t)
	s.ok("label", "namespace", "default", "pod-security.kubernetes.io/enforce=privileged", "pod-security.kubernetes.io/warn=baseline")
	pod := "{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {hostPID: true, containers: [{name: app, image: web}]}}\n"
	out, errs, code := s.run("apply", "-f", s.file(fmt.Sprintf(pod+"---\n"+pod, "a", "b")))
	want := "Warning: would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)\n"
	if code != 0 || errs != want || out != "pod/a created\npod/b created\n" {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	out, errs, code = s.run("label", "namespace", "default", "--overwrite", "pod-security.kubernetes.io/enforce=baseline")
	want = "Warning: existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"\n" +
		"Warning: a (and 1 other pod): host namespaces\n"
	if code != 0 || errs != want || out != "namespace/default labeled\n" {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	s.fails(1, `pods "c" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true)`, "create", "-f", s.file(fmt.Sprintf(pod, "c")))
}

func TestDryRunWritesNothing(t *testing.T) {
	s := begin(t)
	file := s.file(web)
	for _, how := range []string{"client", "server"} {
		s.ok("apply", "-f", file, "--dry-run="+how)
		s.ok("create", "-f", file, "--dry-run="+how)
	}
	s.fails(1, "not found", "get", "deploy", "web")
	out := s.ok("create", "deployment", "x", "--image=x:1", "--dry-run=client", "-o", "yaml")
	if !strings.Contains(out, "kind: Deployment") || !strings.Contains(out, "image: x:1") {
		t.Errorf("create -o yaml is\n%s", out)
	}
	// A manifest to be kept names a namespace only where one was asked for.
	if strings.Contains(out, "namespace:") {
		t.Errorf("create -o yaml chooses a namespace:\n%s", out)
	}
	if out := s.ok("create", "configmap", "x", "-n", "shop", "--dry-run=client", "-o", "yaml"); !strings.Contains(out, "namespace: shop") {
		t.Errorf("create -n shop -o yaml is\n%s", out)
	}
}

func TestCreateSecretDockerRegistryMakesWhatKubectlMakes(t *testing.T) {
	s := begin(t)
	s.fails(1, "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required",
		"create", "secret", "docker-registry", "reg", "--docker-username=me")
	s.ok("create", "secret", "docker-registry", "reg", "--docker-server=reg.example", "--docker-username=me", "--docker-password=x:y")
	s.ok("create", "secret", "docker-registry", "copy", "--from-file="+s.file(`{"auths": {}}`))
	for name, want := range map[string]string{
		"reg":  `{"auths":{"reg.example":{"username":"me","password":"x:y","auth":"bWU6eDp5"}}}`,
		"copy": `{"auths": {}}`,
	} {
		out := s.ok("get", "secret", name, "-o", `jsonpath={.type} {.data.\.dockerconfigjson}`)
		if want := api.SecretDockerConfigJSON + " " + base64.StdEncoding.EncodeToString([]byte(want)); out != want {
			t.Errorf("%s is %s, want %s", name, out, want)
		}
	}
}

func TestDiffEndsWithOneWhereThereAreDifferences(t *testing.T) {
	s := begin(t)
	file := s.file(web)
	s.ok("apply", "-f", file)
	if out, _, code := s.run("diff", "-f", file); code != 0 || out != "" {
		t.Errorf("diff of the same: %d %q", code, out)
	}
	out, _, code := s.run("diff", "-f", s.file(strings.Replace(web, "web:1", "web:2", 1)))
	if code != 1 || !strings.Contains(out, "+      - image: web:2") && !strings.Contains(out, "web:2") {
		t.Errorf("diff: %d\n%s", code, out)
	}
	if _, errs, code := s.run("diff", "-f", "/nope"); code < 2 || errs == "" {
		t.Errorf("diff of a missing file: %d %q", code, errs)
	}
}

func TestWhatIsWrongWithOneDocumentDoesNotKeepTheOthersBack(t *testing.T) {
	s := begin(t)
	settings := func(name, more string) string {
		return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + more + "}\n"
	}
	file := s.file(settings("a", "") + settings("b", ", lables: {}") + "---\napiVersion: v1\nkind: Pood\nmetadata: {name: c}\n" + settings("d", ", namespace: other") + settings("e", ""))
	for _, verb := range []string{"apply", "create"} {
		out, errs, code := s.run(verb, "-n", "default", "-f", file)
		if out != "configmap/a created\nconfigmap/e created\n" || code != 1 || strings.Count(errs, "\n") != 3 ||
			!strings.Contains(errs, "lables") || !strings.Contains(errs, "Pood") || !strings.Contains(errs, `does not match the namespace "default"`) {
			t.Errorf("%s: exit code %d\n%s\n%s", verb, code, out, errs)
		}
		out, errs, code = s.run("delete", "--request-timeout=90", "-n", "default", "-f", file)
		if out != "configmap \"a\" deleted\nconfigmap \"e\" deleted\n" || code != 1 || !strings.Contains(errs, "Pood") {
			t.Errorf("delete: exit code %d\n%s\n%s", code, out, errs)
		}
	}
}

func TestARequestTimeoutIsANumberOfSecondsOrATime(t *testing.T) {
	for text, want := range map[string]time.Duration{"5": 5 * time.Second, "5s": 5 * time.Second, "2m": 2 * time.Minute, "0": 0} {
		var s seconds
		if err := s.Set(text); err != nil || time.Duration(s) != want {
			t.Errorf("%s: %v, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "-1", "5 s", "soon"} {
		if err := new(seconds).Set(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestEditSavesWhatTheEditorWrote(t *testing.T) {
	s := begin(t)
	t.Setenv("TMPDIR", t.TempDir()) // for the copy that the last one leaves
	s.ok("apply", "-f", s.file(web))
	t.Setenv("KUBE_EDITOR", "sed -i s/web:1/web:9/")
	if got := s.ok("edit", "deploy/web"); got != "deployment.apps/web edited\n" {
		t.Errorf("edit said %q", got)
	}
	t.Setenv("KUBE_EDITOR", "true")
	if _, errs, code := s.run("edit", "deploy/web"); code != 0 || !strings.Contains(errs, "no changes made") {
		t.Errorf("edit without a change: %d %q", code, errs)
	}
	t.Setenv("KUBE_EDITOR", "sed -i s/replicas:/replikas:/")
	if _, errs, code := s.run("edit", "deploy/web"); code != 1 || !strings.Contains(errs, "a copy of your changes") {
		t.Errorf("edit with a typo: %d %q", code, errs)
	}
}

func TestWaitForConditionJSONPathAndDelete(t *testing.T) {
	s := begin(t)
	s.pods()
	if got := s.ok("wait", "--for=condition=Ready", "pod/ready"); got != "pod/ready condition met\n" {
		t.Errorf("wait said %q", got)
	}
	s.ok("wait", "--for=jsonpath={.status.phase}=Running", "pod", "-l", "is=ready")
	s.ok("wait", "--for=delete", "pod/nobody")
	s.fails(1, "timed out waiting for the condition on pods/pending", "wait", "--for=condition=Ready", "pod/pending", "--timeout=50ms")
	s.fails(1, "unrecognized condition", "wait", "--for=luck", "pod/ready")
	done := make(chan string)
	go func() {
		out, errs, _ := s.run("wait", "--for=jsonpath={.metadata.labels.go}", "pod/ready", "--timeout=30s")
		done <- out + errs
	}()
	s.ok("label", "pod", "ready", "go=now")
	if got := <-done; got != "pod/ready condition met\n" {
		t.Errorf("wait said %q", got)
	}
}

func TestRolloutStatusSaysWhereItStands(t *testing.T) {
	status := func(observed int64, replicas, updated, available int32) *v1.Deployment {
		return &v1.Deployment{
			Metadata: &v1.ObjectMeta{Name: "web", Generation: 2}, Spec: &v1.DeploymentSpec{Replicas: proto.Int32(3)},
			Status: &v1.DeploymentStatus{ObservedGeneration: observed, Replicas: replicas, UpdatedReplicas: updated, AvailableReplicas: available},
		}
	}
	late := status(2, 3, 1, 3)
	late.Status.Conditions = []*v1.Condition{{Type: api.DeploymentProgressing, Status: "False", Reason: "ProgressDeadlineExceeded"}}
	for name, c := range map[string]struct {
		d    *v1.Deployment
		want string
		done bool
		err  string
	}{
		"the controller has not looked yet": {status(1, 3, 3, 3), "Waiting for deployment spec update to be observed...", false, ""},
		"new pods are missing":              {status(2, 3, 1, 3), `Waiting for deployment "web" rollout to finish: 1 out of 3 new replicas have been updated...`, false, ""},
		"old pods are still there":          {status(2, 4, 3, 3), `Waiting for deployment "web" rollout to finish: 1 old replicas are pending termination...`, false, ""},
		"new pods are not available":        {status(2, 3, 3, 2), `Waiting for deployment "web" rollout to finish: 2 of 3 updated replicas are available...`, false, ""},
		"all is done":                       {status(2, 3, 3, 3), `deployment "web" successfully rolled out`, true, ""},
		"it took too long":                  {late, "", false, `deployment "web" exceeded its progress deadline`},
	} {
		t.Run(name, func(t *testing.T) {
			text, done, err := rolloutStatus(c.d, 0)
			if text != c.want || done != c.done || (err != nil) != (c.err != "") || err != nil && err.Error() != c.err {
				t.Errorf("got %q %v %v", text, done, err)
			}
		})
	}
}

func TestConfigContexts(t *testing.T) {
	s := begin(t)
	s.ok("config", "set-context", "here")
	t.Setenv("ORCH_SERVER", "")
	run := func(args ...string) (string, string, int) {
		var o, e bytes.Buffer
		code := Main(context.Background(), IO{In: strings.NewReader(""), Out: &o, Err: &e}, args, "test")
		return o.String(), e.String(), code
	}
	if out, _, code := run("config", "use-context", "here"); code != 0 || out != "Switched to context \"here\".\n" {
		t.Errorf("use-context: %d %q", code, out)
	}
	if out, errs, code := run("get", "ns", "-o", "name"); code != 0 || out != "namespace/default\nnamespace/kube-system\n" {
		t.Errorf("get ns through the context: %d %q %q", code, out, errs)
	}
	if out, _, _ := run("config", "get-contexts"); !strings.Contains(out, "*         here") {
		t.Errorf("get-contexts:\n%s", out)
	}
	if _, errs, code := run("config", "use-context", "there"); code != 1 || !strings.Contains(errs, "no context exists") {
		t.Errorf("use-context of nothing: %d %q", code, errs)
	}
}

func TestAServerThatDoesNotAnswerIsSaidAtOnce(t *testing.T) {
	t.Setenv("ORCH_HOME", t.TempDir())
	var o, e bytes.Buffer
	code := Main(context.Background(), IO{In: strings.NewReader(""), Out: &o, Err: &e}, []string{"get", "pods", "--server", "127.0.0.1:1"}, "test")
	if code != 1 || !strings.Contains(e.String(), "127.0.0.1:1") || strings.Count(e.String(), "\n") != 1 {
		t.Errorf("%d %q", code, e.String())
	}
	e.Reset()
	code = Main(context.Background(), IO{In: strings.NewReader(""), Out: &o, Err: &e}, []string{"get", "pods"}, "test")
	if code != 1 || !strings.Contains(e.String(), "'orchctl up' (for a lab: 'orchctl up --runtime=fake --name lab')") {
		t.Errorf("without any cluster: %d %q", code, e.String())
	}
}

func TestExplainKnowsEveryFieldsComment(t *testing.T) {
	s := begin(t)
	out := s.ok("explain", "deployment.spec.strategy.rollingUpdate")
	for _, want := range []string{"KIND:       Deployment", "maxSurge\t<IntOrString>", "Number or percentage (rounded up)"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain lacks %q:\n%s", want, out)
		}
	}
	if out := s.ok("explain", "chaosexperiment.spec"); !strings.Contains(out, "nodeSelector instead") {
		t.Errorf("a comment has other names than a manifest:\n%s", out)
	}
	s.fails(1, `field "nope" does not exist`, "explain", "pod.spec.nope")
	for _, k := range api.Kinds() {
		s.ok("explain", k.Plural, "--recursive")
	}
}

func TestDescribeEveryKind(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(web))
	s.pods()
	s.ok("create", "configmap", "c", "--from-literal=mode=dark")
	s.ok("create", "secret", "generic", "s", "--from-literal=password=hunter2")
	for args, want := range map[string]string{
		"describe deploy web":   "3 desired | 0 updated",
		"describe pod crashing": "CrashLoopBackOff",
		"describe cm c":         "dark",
		"describe secret s":     "password:  7 bytes",
		"describe ns default":   "Active",
	} {
		out := s.ok(strings.Split(args, " ")...)
		if !strings.Contains(out, want) || strings.Contains(out, "hunter2") {
			t.Errorf("orchctl %s lacks %q:\n%s", args, want, out)
		}
	}
}

func TestDescribeShowsProbesAsKubectlDoes(t *testing.T) {
	s := begin(t)
	s.ok("apply", "-f", s.file(`
apiVersion: v1
kind: Pod
metadata: {name: asked}
spec:
  containers:
  - name: app
    image: app:1
    ports: [{name: web, containerPort: 8080}]
    startupProbe: {tcpSocket: {port: web}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {httpGet: {path: /healthz, port: web, scheme: HTTPS}, initialDelaySeconds: 5, timeoutSeconds: 2}
    readinessProbe: {exec: {command: [cat, /ready]}, successThreshold: 2}
  - name: side
    image: side:1
    livenessProbe: {grpc: {port: 9090, service: films}}
`))
	out := s.ok("describe", "pod", "asked")
	for _, want := range []string{
		"    Liveness:     http-get https://:web/healthz delay=5s timeout=2s period=10s #success=1 #failure=3\n" +
			"    Readiness:    exec [cat /ready] delay=0s timeout=1s period=10s #success=2 #failure=3\n" +
			"    Startup:      tcp-socket :web delay=0s timeout=1s period=1s #success=1 #failure=30\n",
		"grpc <pod>:9090 films delay=0s timeout=1s period=10s #success=1 #failure=3\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%s\nlacks\n%s", out, want)
		}
	}
}

func TestDescribeHasTheOrderOfKubectl(t *testing.T) {
	s := begin(t)
	s.pods()
	s.ok("apply", "-f", s.file(`
apiVersion: v1
kind: Pod
metadata: {name: full}
spec:
  containers:
  - name: app
    image: app:1
    command: [run, "a\nb"]
    args: [now]
    resources: {limits: {cpu: "1"}}
    livenessProbe: {exec: {command: [ok]}}
    env: [{name: A, value: "1"}]
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, emptyDir: {}}]
`))
	r := client.For[*v1.Pod](s.client)
	p, err := r.Get(t.Context(), "default", "full")
	if err != nil {
		t.Fatal(err)
	}
	p.Status.ContainerStatuses = []*v1.ContainerStatus{{Name: "app", State: &v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "Slow"}}}}
	if _, err := r.UpdateStatus(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	out := s.ok("describe", "pod", "full")
	var names []string
	for _, line := range splitLines(out) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "    "), ":"); ok && strings.HasPrefix(line, "    ") && name[0] != ' ' {
			names = append(names, name)
		}
	}
	want := []string{
		"Container ID", "Image", "Image ID", "Port", "Host Port", "Command", "Args", "State", "Ready", "Restart Count",
		"Limits", "Requests", "Liveness", "Environment", "Mounts", "Type", "Medium", "SizeLimit",
	}
	if diff := cmp.Diff(want, names); diff != "" || !strings.Contains(out, "    Command:\n      run\n      a\n      b\n    Args:\n      now\n") {
		t.Errorf("%s\n%s", diff, out)
	}
}

func TestDescribeShowsHowAContainerEndedLately(t *testing.T) {
	s := begin(t)
	s.pods()
	r := client.For[*v1.Pod](s.client)
	p, err := r.Get(t.Context(), "default", "crashing")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	p.Metadata.Annotations = map[string]string{api.AnnotationTerminations: api.Terminations{"app": {
		{ContainerID: "docker://1", StartedAt: at.Add(-90 * time.Second), FinishedAt: at, ExitCode: 3, Reason: "Error", Log: "one\nout of ideas"},
		{ContainerID: "docker://2", RestartCount: 1, StartedAt: at, FinishedAt: at.Add(time.Hour), ExitCode: 137, Signal: 9, Reason: "Killed", Message: "SIGKILL from outside: " + strings.Repeat("é", 60)},
	}}.String()}
	if _, err := r.UpdateStatus(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	out := s.ok("describe", "pod", "crashing")
	zone := at.Format("-0700")
	want := `    Terminations:
      Finished                         Ran  Exit Code       Reason  Message                                                       Last Log Lines
      --------                         ---  ---------       ------  -------                                                       --------------
      Fri, 02 Jan 2026 04:04:05 ZONE  60m  137 (signal 9)  Killed  SIGKILL from outside: ééééééééééééééééééééééééééééééééééééé…  <none>
      Fri, 02 Jan 2026 03:04:05 ZONE  90s  3               Error   <none>                                                        one
                                                                                                                                  out of ideas
`
	if want = strings.ReplaceAll(want, "ZONE", zone); !strings.Contains(out, want) || strings.Contains(out, api.AnnotationTerminations) {
		t.Errorf("%s\nlacks\n%s", out, want)
	}
}

func TestAWatchEndsWithItsTimeAndShowsEventsInOrder(t *testing.T) {
	s := begin(t)
	for name, second := range map[string]int64{"a": 3, "b": 1, "c": 2} {
		if _, err := client.For[*v1.Event](s.client).Create(context.Background(), &v1.Event{
			Metadata: &v1.ObjectMeta{Namespace: "default", Name: name}, Reason: "At" + name, Type: "Normal",
			InvolvedObject: &v1.ObjectReference{Kind: "Pod", Name: "web", Namespace: "default"},
			LastTimestamp:  &timestamppb.Timestamp{Seconds: second},
		}); err != nil {
			t.Fatal(err)
		}
	}
	out := s.ok("events", "-w", "--no-headers", "--request-timeout=2s")
	var order []string
	for _, line := range splitLines(out) {
		order = append(order, strings.Fields(line)[2])
	}
	if diff := cmp.Diff([]string{"Atb", "Atc", "Ata"}, order); diff != "" {
		t.Errorf("%s\n%s", diff, out)
	}
	if diff := cmp.Diff("event/b\nevent/c\nevent/a\n", s.ok("events", "-o", "name")); diff != "" {
		t.Error(diff)
	}
}

func TestAnInterruptedCommandEndsAsAShellExpects(t *testing.T) {
	s := begin(t)
	s.pods()
	ctx, interrupt := context.WithCancel(t.Context())
	out, w := io.Pipe()
	ended := make(chan int, 1)
	var errs bytes.Buffer
	go func() {
		ended <- Main(ctx, IO{In: strings.NewReader(""), Out: w, Err: &errs}, append([]string{"get", "pods", "-w"}, s.flags...), "test")
		w.Close()
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	interrupt()
	if code := <-ended; code != 130 || errs.Len() > 0 {
		t.Errorf("exit code %d, %q", code, errs.String())
	}
}

func TestVersionIsThatOfBothSides(t *testing.T) {
	s := begin(t)
	for args, want := range map[string]string{
		"":                 "Client Version: test\nServer Version: v1.2.3\n",
		"--client":         "Client Version: test\n",
		"-o yaml --client": "clientVersion:\n  gitVersion: test\n  goVersion: " + runtime.Version() + "\n  platform: " + runtime.GOOS + "/" + runtime.GOARCH + "\n",
	} {
		if got := s.ok(append([]string{"version"}, strings.Fields(args)...)...); got != want {
			t.Errorf("version %s printed\n%swant\n%s", args, got, want)
		}
	}
	var both map[string]map[string]string
	if err := json.Unmarshal([]byte(s.ok("version", "-o", "json")), &both); err != nil || both["serverVersion"]["gitVersion"] != "v1.2.3" || both["clientVersion"]["gitVersion"] != "test" {
		t.Errorf("%v, %v", both, err)
	}
	s.fails(1, "--output must be 'yaml' or 'json'", "version", "-o", "wide")
	s.flags = []string{"--server", "127.0.0.1:1"}
	if out, errs, code := s.run("version"); out != "Client Version: test\n" || code != 1 || errs == "" {
		t.Errorf("without a server: %d %q %q", code, out, errs)
	}
}

func TestGetWatchShowsChangesInOrder(t *testing.T) {
	s := begin(t)
	s.ok("create", "configmap", "a")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan int)
	go func() {
		code := Main(ctx, IO{In: strings.NewReader(""), Out: w, Err: w}, append([]string{"get", "cm", "-w", "-o", "name"}, s.flags...), "test")
		w.Close()
		done <- code
	}()
	buf := make([]byte, 256)
	read := func(want string) {
		t.Helper()
		n, err := r.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Fatalf("watch printed %q (%v), want %q", buf[:n], err, want)
		}
	}
	read("configmap/a\n")
	s.ok("create", "configmap", "b")
	read("configmap/b\n")
	s.ok("delete", "cm", "a")
	read("configmap/a\n")
	cancel()
	<-done
	r.Close()
}

func TestAVerbThatOnlyKubectlHasNamesWhatToUse(t *testing.T) {
	var out, errs strings.Builder
	code := Main(t.Context(), IO{Out: &out, Err: &errs}, []string{"run", "web", "--image=web:1"}, "test")
	if want := "error: run is not in Orch; use create deployment, or apply -f\n"; code != 1 || errs.String() != want {
		t.Errorf("code %d, %q, want %q", code, errs.String(), want)
	}
}
