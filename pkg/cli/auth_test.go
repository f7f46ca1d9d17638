package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAUserIsMadeAndMayDoWhatARoleSays(t *testing.T) {
	s := begin(t)
	if out := s.ok("auth", "whoami"); !strings.Contains(out, "admin") || !strings.Contains(out, "[system:masters system:authenticated]") {
		t.Errorf("whoami:\n%s", out)
	}
	file := filepath.Join(t.TempDir(), "alice.config")
	if out := s.ok("create", "user", "alice", "--group=students", "--file", file); out != "user/alice created\n" {
		t.Errorf("create user: %q", out)
	}
	s.fails(1, "is there already", "create", "user", "alice", "--file", file)
	s.fails(1, "nodes get their certificates by a token", "create", "user", "system:node:n1", "--group=system:nodes", "--file", file+"2")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	alice := with(t, file)
	if out, errs, code := alice("auth", "can-i", "list", "pods"); out != "no\n" || errs != "" || code != 1 {
		t.Errorf("can-i without a role: %q %q %d", out, errs, code)
	}
	if _, errs, code := alice("get", "pods"); code != 1 || errs != "Error from server (Forbidden): pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"\n" {
		t.Errorf("get without a role: %q %d", errs, code)
	}
	s.ok("create", "-f", s.file(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [pods, pods/log], verbs: [get, list]}
- {apiGroups: [apps], resources: [deployments], verbs: [get, list]}
`))
	s.ok("create", "rolebinding", "readers", "--role=reader", "--group=students")
	if out, _, code := alice("auth", "can-i", "list", "deploy"); out != "yes\n" || code != 0 {
		t.Errorf("can-i with a role: %q %d", out, code)
	}
	if out, errs, code := alice("auth", "can-i", "list", "nodes"); out != "no\n" || code != 1 || errs != "Warning: resource 'nodes' is not namespace scoped\n\n" {
		t.Errorf("can-i of nodes: %q %q %d", out, errs, code)
	}
	if out, _, code := alice("auth", "can-i", "get", "pods/web", "--subresource=log", "-q"); out != "" || code != 0 {
		t.Errorf("can-i in silence: %q %d", out, code)
	}
	if out, _, code := alice("get", "pods"); code != 0 {
		t.Errorf("get with a role: %q %d", out, code)
	}
	s.ok("create", "rolebinding", "viewers", "--clusterrole=view", "--group=students")
	if out, errs, code := alice("describe", "namespace", "default"); code != 0 || !strings.Contains(out, "Status:") {
		t.Errorf("describe, where the events are not for her: %q %q %d", out, errs, code)
	}
	for name, want := range map[string]string{"default": "yes\n", "kube-system": "no\n"} {
		if out, _, _ := alice("auth", "can-i", "get", "namespaces/"+name); out != want {
			t.Errorf("can-i of the namespace %s: %q", name, out)
		}
	}

	if out, _, _ := alice("config", "view"); !strings.Contains(out, "client-key-data: DATA+OMITTED") || !strings.Contains(out, "certificate-authority-data: DATA+OMITTED") {
		t.Errorf("config view:\n%s", out)
	}
	if out, _, _ := alice("config", "view", "--raw"); strings.Contains(out, "OMITTED") || !strings.Contains(out, "client-key-data: ") {
		t.Errorf("config view --raw:\n%s", out)
	}
}

// with returns a person at a terminal with a context file.
func with(t *testing.T, file string) func(args ...string) (out, errs string, code int) {
	return func(args ...string) (string, string, int) {
		t.Helper()
		var o, e bytes.Buffer
		code := Main(context.Background(), IO{In: strings.NewReader(""), Out: &o, Err: &e}, append(args, "--kubeconfig", file), "test")
		return o.String(), e.String(), code
	}
}

func TestRolesAreShownAsKubectlShowsThem(t *testing.T) {
	s := begin(t)
	s.ok("create", "-f", s.file(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [nodes], resourceNames: [a], verbs: [get]}
- {nonResourceURLs: [/metrics], verbs: [get]}
`))
	s.ok("create", "clusterrolebinding", "readers", "--clusterrole=reader", "--user=eve", "--serviceaccount=ns:sa")
	if out := s.ok("get", "clusterrolebindings", "readers"); !strings.Contains(out, "ClusterRole/reader") {
		t.Errorf("get:\n%s", out)
	}
	if out := s.ok("get", "clusterroles"); !strings.Contains(out, "CREATED AT") || !strings.Contains(out, "cluster-admin") {
		t.Errorf("get:\n%s", out)
	}
	out := s.ok("describe", "clusterrole", "reader")
	for _, want := range []string{"Resources  Non-Resource URLs  Resource Names  Verbs", "nodes      []                 [a]             [get]", "[/metrics]"} {
		if !strings.Contains(out, want) {
			t.Errorf("describe lacks %q:\n%s", want, out)
		}
	}
	if out := s.ok("describe", "clusterrolebinding", "readers"); !strings.Contains(out, "Kind:  ClusterRole") || !strings.Contains(out, "ServiceAccount  sa    ns") {
		t.Errorf("describe:\n%s", out)
	}
	s.fails(1, "exactly one of clusterrole or role must be specified", "create", "rolebinding", "x", "--user=eve")
	s.fails(1, "cannot change roleRef", "apply", "-f", s.file(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
`))
}

func TestRolesAreMadeFromFlags(t *testing.T) {
	s := begin(t)
	s.ok("create", "role", "r", "--verb=get,list", "--verb=get", "--resource=pods,deploy/scale,configmaps", "--resource-name=a")
	out := s.ok("get", "role", "r", "-o", "jsonpath={.rules}")
	want := `[{"apiGroups":[""],"resourceNames":["a"],"resources":["pods","configmaps"],"verbs":["get","list"]},` +
		`{"apiGroups":["apps"],"resourceNames":["a"],"resources":["deployments/scale"],"verbs":["get","list"]}]`
	if out != want {
		t.Errorf("%s, want %s", out, want)
	}
	s.ok("create", "clusterrole", "c", "--verb=*", "--verb=get", "--resource=*")
	s.ok("create", "clusterrole", "m", "--verb=get", "--non-resource-url=/metrics,/debug/*")
	if out := s.ok("get", "clusterroles", "c", "m", "-o", "jsonpath={.items[*].rules[*]}"); out != `{"apiGroups":["*"],"resources":["*"],"verbs":["*"]} {"nonResourceURLs":["/metrics","/debug/*"],"verbs":["get"]}` {
		t.Error(out)
	}
	for want, args := range map[string]string{
		"at least one verb must be specified":                           "role x --resource=pods",
		"at least one resource must be specified":                       "role x --verb=get",
		"one of resource or nonResourceURL must be specified":           "clusterrole x --verb=get",
		`the server doesn't have a resource type "poods"`:               "role x --verb=get --resource=poods",
		"can not perform 'bind' on 'pods' in group ''":                  "role x --verb=bind --resource=pods",
		"invalid verb: 'list' for nonResourceURL":                       "clusterrole x --verb=list --non-resource-url=/metrics",
		"nonResourceURL should start with /":                            "clusterrole x --verb=get --non-resource-url=metrics",
		"nonResourceURL only supports wildcard matches when '*' is at":  "clusterrole x --verb=get --non-resource-url=/*/a",
		"resource must be specified if apiGroup/subresource specified":  "role x --verb=get --resource=/scale",
		"list option can't be specified with neither quiet, all-namesp": "--list -q",
		"you must specify two arguments: verb resource or verb resourc": "get",
	} {
		words := append([]string{"create"}, strings.Fields(args)...)
		if len(words) < 4 && words[1] != "role" && words[1] != "clusterrole" {
			words = append([]string{"auth", "can-i"}, words[1:]...)
		}
		s.fails(1, want, words...)
	}
	if _, warning, _ := s.run("create", "role", "w", "--verb=eat", "--resource=pods"); warning != "Warning: 'eat' is not a standard resource verb\n" {
		t.Errorf("%q", warning)
	}
}

func TestWhatOneMayDoIsListedAsKubectlDoes(t *testing.T) {
	s := begin(t)
	if out := s.ok("auth", "can-i", "--list"); out != ""+
		"Resources   Non-Resource URLs   Resource Names   Verbs\n"+
		"*.*         []                  []               [*]\n"+
		"            [*]                 []               [*]\n" {
		t.Errorf("of an administrator:\n%s", out)
	}
	s.ok("create", "clusterrole", "m", "--verb=get", "--resource=nodes,nodes/stats", "--non-resource-url=/metrics,/debug/*")
	s.ok("create", "role", "r", "--verb=list,watch", "--resource=pods,deployments/scale,configmaps", "--resource-name=a", "--resource-name=b")
	s.ok("create", "role", "p", "--verb=get,list", "--resource=pods")
	s.ok("create", "clusterrolebinding", "m", "--clusterrole=m", "--user=eve")
	s.ok("create", "rolebinding", "r", "--role=r", "--user=eve")
	s.ok("create", "rolebinding", "p", "--role=p", "--user=eve")
	file := filepath.Join(t.TempDir(), "eve")
	s.ok("create", "user", "eve", "--file", file)
	eve := with(t, file)
	want := "" +
		"pods                     []           []    [get list]\n" +
		"                         [/debug/*]   []    [get]\n" +
		"                         [/metrics]   []    [get]\n" +
		"nodes/stats              []           []    [get]\n" +
		"nodes                    []           []    [get]\n" +
		"configmaps               []           [a]   [list watch]\n" +
		"configmaps               []           [b]   [list watch]\n" +
		"pods                     []           [a]   [list watch]\n" +
		"pods                     []           [b]   [list watch]\n" +
		"deployments.apps/scale   []           [a]   [list watch]\n" +
		"deployments.apps/scale   []           [b]   [list watch]\n"
	if out, _, _ := eve("auth", "can-i", "--list", "--no-headers"); out != want {
		t.Errorf("of a user:\n%s", out)
	}
	if out, _, _ := eve("auth", "can-i", "--list", "--no-headers", "-n", "kube-system"); strings.Contains(out, "pods") || strings.Count(out, "\n") != 4 {
		t.Errorf("elsewhere:\n%s", out)
	}
}
