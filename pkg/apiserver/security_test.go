package apiserver_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"orch/pkg/api"
	"orch/pkg/api/podsecurity"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// listening returns a client of the server, and what it has been warned of since
// the last question.
func listening(t *testing.T, srv *server) (*client.Client, func() []string) {
	t.Helper()
	var warnings []string
	conn, err := grpc.NewClient("passthrough:///server",
		append(client.OnWarning(func(text string) { warnings = append(warnings, text) }),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return srv.listen.Load().DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return client.New(conn, "tester"), func() []string {
		said := warnings
		warnings = nil
		return said
	}
}

func onTheHost(namespace, name string) *v1.Pod {
	return &v1.Pod{
		Metadata: &v1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:     &v1.PodSpec{HostNetwork: true, Containers: []*v1.Container{{Name: "app", Image: "web:1"}}},
	}
}

func TestPodsAreHeldToTheStandardOfTheirNamespace(t *testing.T) {
	c, warned := listening(t, start(t))
	spaces, pods := client.For[*v1.Namespace](c), client.For[*v1.Pod](c)
	for name, labels := range map[string]map[string]string{
		"plain":  nil,
		"open":   {podsecurity.LabelEnforce: "privileged"},
		"strict": {podsecurity.LabelEnforce: "restricted", podsecurity.LabelEnforce + "-version": "v1.30"},
		"warned": {podsecurity.LabelEnforce: "privileged", podsecurity.LabelWarn: "baseline"},
	} {
		if _, err := spaces.Create(t.Context(), &v1.Namespace{Metadata: &v1.ObjectMeta{Name: name, Labels: labels}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, in    string
		host        bool
		want, warns string
	}{
		{"baseline is enforced where no label says otherwise", "plain", true, `pods "web" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`, ""},
		{"what baseline allows is allowed", "plain", false, "", ""},
		{"privileged allows all", "open", true, "", ""},
		{
			"restricted wants more than a plain pod has", "strict", false,
			`pods "web" is forbidden: violates PodSecurity "restricted:v1.30": ` +
				`allowPrivilegeEscalation != false (container "app" must set securityContext.allowPrivilegeEscalation=false), ` +
				`unrestricted capabilities (container "app" must set securityContext.capabilities.drop=["ALL"]), ` +
				`runAsNonRoot != true (pod or container "app" must set securityContext.runAsNonRoot=true), ` +
				`seccompProfile (pod or container "app" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")`, "",
		},
		{"a warning does not keep a pod out", "warned", true, "", `would violate PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`},
		{"kube-system is exempt", api.NamespaceSystem, true, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := onTheHost(tt.in, "web")
			p.Spec.HostNetwork = tt.host
			_, err := pods.Create(t.Context(), p)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tt.want || tt.want != "" && !errors.Is(err, api.ErrForbidden) {
				t.Errorf("%v\nwant %s", err, tt.want)
			}
			if said := strings.Join(warned(), "; "); said != tt.warns {
				t.Errorf("warned %q, want %q", said, tt.warns)
			}
		})
	}
}

func TestTemplatesAreWarnedOf(t *testing.T) {
	c, warned := listening(t, start(t))
	p := onTheHost("default", "")
	d := &v1.Deployment{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: &v1.DeploymentSpec{
			Selector: &v1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: &v1.PodTemplateSpec{Metadata: &v1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: p.GetSpec()},
		},
	}
	if _, err := client.For[*v1.Deployment](c).Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	want := []string{`would violate PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`}
	if diff := cmp.Diff(want, warned()); diff != "" {
		t.Error(diff)
	}
}

func TestTheLabelsOfANamespaceAreChecked(t *testing.T) {
	c, warned := listening(t, start(t))
	spaces, pods := client.For[*v1.Namespace](c), client.For[*v1.Pod](c)
	ns := &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "team", Labels: map[string]string{podsecurity.LabelEnforce: "open"}}}
	want := `Namespace "team" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "open": must be one of privileged, baseline, restricted`
	if _, err := spaces.Create(t.Context(), ns); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	ns.Metadata.Labels[podsecurity.LabelEnforce] = "privileged"
	if _, err := spaces.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "a", "c"} {
		if _, err := pods.Create(t.Context(), onTheHost("team", name)); err != nil {
			t.Fatal(err)
		}
	}
	relabel := func(label, value string) error {
		_, err := spaces.Modify(t.Context(), "", "team", func(n *v1.Namespace) error { n.Metadata.Labels[label] = value; return nil })
		return err
	}
	if err := relabel(podsecurity.LabelEnforce, "baseline"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		`existing pods in namespace "team" violate the new PodSecurity enforce level "baseline:latest"`,
		`a (and 2 other pods): host namespaces`,
	}, warned()); diff != "" {
		t.Error(diff)
	}
	if err := relabel("x", "y"); err != nil || warned() != nil {
		t.Errorf("a label that says nothing about pods: %v, or a warning", err)
	}
	if err := relabel(podsecurity.LabelEnforce+"-version", "1.30"); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("a version that is none: %v", err)
	}
	// What runs stays, and may be labelled; a new image is looked at again.
	change := func(f func(*v1.Pod)) error {
		_, err := pods.Modify(t.Context(), "team", "a", func(p *v1.Pod) error { f(p); return nil })
		return err
	}
	if err := change(func(p *v1.Pod) { p.Metadata.Labels = map[string]string{"a": "b"} }); err != nil {
		t.Error(err)
	}
	if err := change(func(p *v1.Pod) { p.Spec.Containers[0].Image = "web:2" }); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a new image: %v", err)
	}
}
