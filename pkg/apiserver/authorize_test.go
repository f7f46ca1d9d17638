package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/identity"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

// guarded is a server behind TLS, for callers with certificates of all kinds.
type guarded struct {
	t         *testing.T
	authority *identity.Authority
	store     *memstore.Store
	listen    *bufconn.Listener
	audit     *lockedBuffer
	admin     *client.Client
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const secretWord = "a-well-kept-word"

// guard starts a server with two nodes, n1 and n2, each with a pod that names a
// Secret: p1 and s1 on n1, p2 and s2 on n2, all in default; and pod p0 of
// kube-system on n1. Viewer and editor have the roles view and edit in default.
func guard(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, store: memstore.New(), listen: bufconn.Listen(1 << 20), audit: &lockedBuffer{}}
	g.authority = must[*identity.Authority](t)(identity.OpenAuthority(t.TempDir(), time.Hour))
	s := must[*apiserver.Server](t)(apiserver.New(g.store, apiserver.Options{Authority: g.authority, Audit: g.audit}))
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), g.listen) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		g.store.Close()
	})
	g.admin = g.as(identity.User{Name: "admin", Groups: []string{identity.GroupMasters}})
	for _, n := range []string{"1", "2"} {
		must[*v1.Node](t)(client.For[*v1.Node](g.admin).Create(t.Context(), &v1.Node{Metadata: &v1.ObjectMeta{Name: "n" + n}}))
		must[*v1.Secret](t)(client.For[*v1.Secret](g.admin).Create(t.Context(), &v1.Secret{
			Metadata: &v1.ObjectMeta{Name: "s" + n}, StringData: map[string]string{"k": secretWord},
		}))
		p := pod("p" + n)
		p.Spec.NodeName = "n" + n
		p.Spec.Containers[0].EnvFrom = []*v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{Name: "s" + n}}}
		must[*v1.Pod](t)(client.For[*v1.Pod](g.admin).Create(t.Context(), p))
	}
	system := pod("p0")
	system.Metadata.Namespace, system.Spec.NodeName = "kube-system", "n1"
	must[*v1.Pod](t)(client.For[*v1.Pod](g.admin).Create(t.Context(), system))
	for _, role := range []string{"view", "edit", "admin"} {
		must[*v1.RoleBinding](t)(client.For[*v1.RoleBinding](g.admin).Create(t.Context(), &v1.RoleBinding{
			Metadata: &v1.ObjectMeta{Name: role}, RoleRef: &v1.RoleRef{Kind: "ClusterRole", Name: role},
			Subjects: []*v1.Subject{{Kind: "Group", Name: role + "ers"}},
		}))
	}
	return g
}

// as is a client with a certificate for a user.
func (g *guarded) as(u identity.User) *client.Client {
	g.t.Helper()
	return g.with(must[*identity.Pair](g.t)(identity.NewPair(g.t.Context(), "", g.authority.For(u))))
}

func (g *guarded) with(pair *identity.Pair, more ...grpc.DialOption) *client.Client {
	g.t.Helper()
	c := must[*client.Client](g.t)(client.Dial("passthrough:///server", "somebody-else", append(more,
		client.TLS(identity.DialTLS(identity.ServerName, pair, g.authority.Certificate())),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.listen.DialContext(ctx) }))...))
	g.t.Cleanup(func() { c.Close() })
	return c
}

// node is a client of a node that is there.
func (g *guarded) node(name string) *client.Client {
	g.t.Helper()
	n := must[*v1.Node](g.t)(client.For[*v1.Node](g.admin).Get(g.t.Context(), "", name))
	return g.as(identity.Node(name, n.GetMetadata().GetUid()))
}

func (g *guarded) group(name, group string) *client.Client {
	g.t.Helper()
	return g.as(identity.User{Name: name, Groups: []string{group}})
}

// recv is the first answer of a stream.
func recv[T any](stream interface{ Recv() (T, error) }, err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// calls are all calls that there are, each for something of node n1 that none of
// n2, a viewer and nobody may do.
func calls(t *testing.T) map[string]func(ctx context.Context, c *client.Client) error {
	t.Helper()
	p1 := pod("p1")
	p1.Spec.NodeName = "n1"
	exec := &v1.ExecInput{Input: &v1.ExecInput_Request{Request: &v1.ExecRequest{Namespace: "default", Pod: "p1", Command: []string{"true"}}}}
	forward := &v1.PortForwardInput{Input: &v1.PortForwardInput_Request{Request: &v1.PortForwardRequest{Namespace: "default", Pod: "p1", Port: 80}}}
	files := &v1.CopyInput{Input: &v1.CopyInput_Request{Request: &v1.CopyRequest{Namespace: "default", Pod: "p1", Path: "/etc"}}}
	return map[string]func(ctx context.Context, c *client.Client) error{
		"Resources/Get": func(ctx context.Context, c *client.Client) error {
			_, err := c.Resources().Get(ctx, &v1.GetRequest{Kind: "Secret", Namespace: "default", Name: "s1"})
			return err
		},
		"Resources/List": func(ctx context.Context, c *client.Client) error {
			_, err := c.Resources().List(ctx, &v1.ListRequest{Kind: "Secret", Namespace: "default"})
			return err
		},
		"Resources/Create": func(ctx context.Context, c *client.Client) error {
			_, err := c.Resources().Create(ctx, &v1.CreateRequest{Object: api.Wrap(pod("new"))})
			return err
		},
		"Resources/Update": func(ctx context.Context, c *client.Client) error {
			_, err := c.Resources().Update(ctx, &v1.UpdateRequest{Object: api.Wrap(p1)})
			return err
		},
		"Resources/UpdateStatus": func(ctx context.Context, c *client.Client) error {
			_, err := c.Resources().UpdateStatus(ctx, &v1.UpdateRequest{Object: api.Wrap(p1)})
			return err
		},
		"Resources/Apply": func(ctx context.Context, c *client.Client) error {
			_, err := c.Resources().Apply(ctx, &v1.ApplyRequest{Manifest: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}`)})
			return err
		},
		"Resources/Delete": func(ctx context.Context, c *client.Client) error {
			_, err := c.Resources().Delete(ctx, &v1.DeleteRequest{Kind: "Pod", Namespace: "default", Name: "p1"})
			return err
		},
		"Resources/Watch": func(ctx context.Context, c *client.Client) error {
			return recv(c.Resources().Watch(ctx, &v1.WatchRequest{Kind: "Secret", Namespace: "default", FieldSelector: "metadata.name=s1"}))
		},
		"Resources/History": func(ctx context.Context, c *client.Client) error {
			return recv(c.Resources().History(ctx, &v1.HistoryRequest{Kind: "Secret", Namespace: "default", Name: "s1"}))
		},
		"Streams/Logs": func(ctx context.Context, c *client.Client) error { // a viewer may read those of default
			return recv(c.Streams().Logs(ctx, &v1.LogsRequest{Namespace: "kube-system", Pod: "p0"}))
		},
		"Streams/Exec": func(ctx context.Context, c *client.Client) error {
			s, err := c.Streams().Exec(ctx)
			if err == nil {
				_ = s.Send(exec)
			}
			return recv(s, err)
		},
		"Streams/Attach": func(ctx context.Context, c *client.Client) error {
			s, err := c.Streams().Attach(ctx)
			if err == nil {
				_ = s.Send(exec)
			}
			return recv(s, err)
		},
		"Streams/PortForward": func(ctx context.Context, c *client.Client) error {
			s, err := c.Streams().PortForward(ctx)
			if err == nil {
				_ = s.Send(forward)
			}
			return recv(s, err)
		},
		"Streams/CopyTo": func(ctx context.Context, c *client.Client) error {
			s, err := c.Streams().CopyTo(ctx)
			if err == nil {
				_ = s.Send(files)
			}
			return recv(s, err)
		},
		"Streams/CopyFrom": func(ctx context.Context, c *client.Client) error {
			s, err := c.Streams().CopyFrom(ctx)
			if err == nil {
				_ = s.Send(files)
			}
			return recv(s, err)
		},
		"Streams/Stats": func(ctx context.Context, c *client.Client) error {
			_, err := c.Streams().Stats(ctx, &v1.StatsRequest{Node: "n1"})
			return err
		},
		"Streams/Containers": func(ctx context.Context, c *client.Client) error {
			_, err := c.Streams().Containers(ctx, &v1.ContainersRequest{Node: "n1"})
			return err
		},
		"Identity/Join": func(ctx context.Context, c *client.Client) error {
			_, err := c.Identity().Join(ctx, &v1.JoinRequest{Token: "aaaaaa.bbbbbbbbbbbbbbbb", NodeName: "n3"})
			return err
		},
		"Identity/Sign": func(ctx context.Context, c *client.Client) error {
			_, err := c.Identity().Sign(ctx, &v1.SignRequest{User: "mallory", Groups: []string{identity.GroupMasters}})
			return err
		},
		"Cluster/Peers": func(ctx context.Context, c *client.Client) error {
			return recv(c.Cluster().Peers(ctx, &v1.PeersRequest{}))
		},
		"Cluster/RenewLease": func(ctx context.Context, c *client.Client) error {
			_, err := c.Cluster().RenewLease(ctx, &v1.RenewLeaseRequest{})
			return err
		},
		"Cluster/AttendChaos": func(ctx context.Context, c *client.Client) error {
			return recv(c.Cluster().AttendChaos(ctx, &v1.AttendChaosRequest{Namespace: "default", Name: "x"}))
		},
		"Cluster/Leases": func(ctx context.Context, c *client.Client) error {
			return recv(c.Cluster().Leases(ctx, &v1.LeasesRequest{}))
		},
		"Controllers/ListControllers": func(ctx context.Context, c *client.Client) error {
			_, err := c.Controllers().ListControllers(ctx, &v1.ListControllersRequest{})
			return err
		},
		"Controllers/Pause": func(ctx context.Context, c *client.Client) error {
			_, err := c.Controllers().Pause(ctx, &v1.PauseRequest{Controller: "scheduler", Paused: true})
			return err
		},
		"Controllers/Step": func(ctx context.Context, c *client.Client) error {
			_, err := c.Controllers().Step(ctx, &v1.StepRequest{Controller: "scheduler"})
			return err
		},
		// Which build serves is no secret, and what the other two answer is about
		// the caller alone.
		"Cluster/Version": nil,
		"Identity/Renew":  nil,
		"Identity/Review": nil,
	}
}

func TestEveryCallIsRefusedToWhoMayNotMakeIt(t *testing.T) {
	g := guard(t)
	all := calls(t)
	callers := map[string]struct {
		client *client.Client
		want   error
	}{
		"another node":                   {g.node("n2"), api.ErrForbidden},
		"a viewer":                       {g.group("eve", "viewers"), api.ErrForbidden},
		"a user without roles":           {g.group("joe", "nobodies"), api.ErrForbidden},
		"nobody":                         {g.with(nil), api.ErrUnauthorized},
		"a node that is gone":            {g.as(identity.Node("n9", "u9")), api.ErrUnauthorized},
		"a node that was made again":     {g.as(identity.Node("n1", "the uid of the old one")), api.ErrUnauthorized},
		"who is only called like a node": {g.as(identity.User{Name: "system:node:n1"}), api.ErrForbidden},
	}
	before := g.store.Revision()
	for _, service := range []grpc.ServiceDesc{v1.Resources_ServiceDesc, v1.Streams_ServiceDesc, v1.Identity_ServiceDesc, v1.Cluster_ServiceDesc, v1.Controllers_ServiceDesc} {
		var methods []string
		for _, m := range service.Methods {
			methods = append(methods, m.MethodName)
		}
		for _, m := range service.Streams {
			methods = append(methods, m.StreamName)
		}
		for _, m := range methods {
			method := strings.TrimPrefix(service.ServiceName, "orch.v1.") + "/" + m
			call, known := all[method]
			if !known {
				t.Errorf("%s is not tested: say here who may not call it", method)
			}
			if call == nil {
				continue
			}
			for name, caller := range callers {
				want := caller.want
				if method == "Identity/Join" { // whoever asks, the token counts
					want = api.ErrUnauthorized
				}
				if name == "another node" && (method == "Cluster/Peers" || method == "Cluster/RenewLease") { // for itself
					want = nil
				}
				if err := api.FromStatus(call(t.Context(), caller.client)); !errors.Is(err, want) {
					t.Errorf("%s by %s: %v, want %v", method, name, err, want)
				}
			}
		}
	}
	if after := g.store.Revision(); after != before {
		t.Errorf("%d writes were made", after-before)
	}
	if strings.Contains(g.audit.String(), secretWord) {
		t.Error("the audit log tells a secret")
	}
}

func TestNobodyGetsMoreThanHealth(t *testing.T) {
	g := guard(t)
	conn := must[*grpc.ClientConn](t)(grpc.NewClient("passthrough:///server",
		client.TLS(identity.DialTLS(identity.ServerName, nil, g.authority.Certificate())),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.listen.DialContext(ctx) })))
	defer conn.Close()
	if r, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
	err := recv(reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context()))
	if !errors.Is(api.FromStatus(err), api.ErrUnauthorized) {
		t.Errorf("reflection: %v", err)
	}
	for name, call := range map[string]func(*client.Client) error{
		"Renew": func(c *client.Client) error {
			_, err := c.Identity().Renew(t.Context(), &v1.RenewRequest{})
			return err
		},
		"Review": func(c *client.Client) error {
			_, err := c.Identity().Review(t.Context(), &v1.ReviewRequest{})
			return err
		},
	} {
		if err := api.FromStatus(call(g.with(nil))); !errors.Is(err, api.ErrUnauthorized) {
			t.Errorf("%s by nobody: %v", name, err)
		}
	}
	if _, err := g.group("eve", "viewers").Identity().Renew(t.Context(), &v1.RenewRequest{}); !errors.Is(api.FromStatus(err), api.ErrForbidden) {
		t.Errorf("Renew by a user: %v", err)
	}
}

func TestANodeMayDoWhatItsPodsNeedAndNoMore(t *testing.T) {
	g := guard(t)
	n1 := g.node("n1")
	pods, nodes, events := client.For[*v1.Pod](n1), client.For[*v1.Node](n1), client.For[*v1.Event](n1)
	for _, n := range []string{"1", "2"} {
		must[*v1.ChaosInjection](t)(client.For[*v1.ChaosInjection](g.admin).Create(t.Context(), &v1.ChaosInjection{
			Metadata: &v1.ObjectMeta{Name: "i" + n},
			Spec: &v1.ChaosInjectionSpec{
				Experiment: "x", Fault: &v1.ChaosFault{Type: api.FaultKillContainer}, NodeName: "n" + n, PodName: "p" + n, PodUid: "u",
			},
		}))
	}
	injections := client.For[*v1.ChaosInjection](n1)
	heals := func(name string) func() error {
		return func() error {
			_, err := injections.UpdateStatus(t.Context(), &v1.ChaosInjection{
				Metadata: &v1.ObjectMeta{Namespace: "default", Name: name}, Status: &v1.ChaosInjectionStatus{Phase: api.ChaosHealed},
			})
			return err
		}
	}
	event := func(host, kind, namespace, name string) func() error {
		return func() error {
			_, err := events.Create(t.Context(), &v1.Event{
				Metadata:       &v1.ObjectMeta{GenerateName: "e-", Namespace: "default"},
				InvolvedObject: &v1.ObjectReference{Kind: kind, Namespace: namespace, Name: name}, Source: &v1.EventSource{Host: host},
			})
			return err
		}
	}
	modify := func(f func(*v1.Node)) func() error {
		return func() error {
			_, err := nodes.Modify(t.Context(), "", "n1", func(n *v1.Node) error { f(n); return nil })
			return err
		}
	}
	list := func(kind, fields string) func() error {
		return func() error {
			_, err := n1.Resources().List(t.Context(), &v1.ListRequest{Kind: kind, Namespace: "default", FieldSelector: fields})
			return api.FromStatus(err)
		}
	}
	get := func(kind, namespace, name string) func() error {
		return func() error {
			_, err := n1.Resources().Get(t.Context(), &v1.GetRequest{Kind: kind, Namespace: namespace, Name: name})
			return api.FromStatus(err)
		}
	}
	for name, tt := range map[string]struct {
		do      func() error
		refusal string // "" for none
	}{
		"read its pod":        {get("Pod", "default", "p1"), ""},
		"read another's pod":  {get("Pod", "default", "p2"), "pods that are on it"},
		"list its pods":       {list("Pod", "spec.nodeName=n1"), ""},
		"list another's pods": {list("Pod", "spec.nodeName=n2"), "spec.nodeName field selector"},
		"list all pods":       {list("Pod", ""), "spec.nodeName field selector"},
		"list a pod of some namespace": {func() error {
			_, err := n1.Resources().List(t.Context(), &v1.ListRequest{Kind: "Pod", FieldSelector: "metadata.name=p2"})
			return api.FromStatus(err)
		}, "spec.nodeName field selector"},
		"watch a pod that is yet to come": {func() error {
			return api.FromStatus(recv(n1.Resources().Watch(t.Context(), &v1.WatchRequest{Kind: "Pod", Namespace: "default", FieldSelector: "metadata.name=p9"})))
		}, "spec.nodeName field selector"},
		"read a secret of its pod":  {get("Secret", "default", "s1"), ""},
		"watch a secret of its pod": {list("Secret", "metadata.name=s1"), ""},
		"read another's secret":     {get("Secret", "default", "s2"), "no relationship found"},
		"list secrets":              {list("Secret", ""), "with a single name"},
		"read its injection":        {get("ChaosInjection", "default", "i1"), ""},
		"read another's injection":  {get("ChaosInjection", "default", "i2"), "injections that are its own"},
		"list its injections":       {list("ChaosInjection", "spec.nodeName=n1"), ""},
		"list another's injections": {list("ChaosInjection", "spec.nodeName=n2"), "spec.nodeName field selector"},
		"list all injections":       {list("ChaosInjection", ""), "spec.nodeName field selector"},
		"report on its injection":   {heals("i1"), ""},
		"report on another's":       {heals("i2"), "injections that are its own"},
		"heal what it likes": {func() error {
			i := must[*v1.ChaosInjection](t)(injections.Get(t.Context(), "default", "i1"))
			i.Spec.Heal = true
			_, err := injections.Update(t.Context(), i)
			return err
		}, "forbidden"},
		"read experiments":           {list("ChaosExperiment", ""), "forbidden"},
		"read its node":              {get("Node", "", "n1"), ""},
		"read another node":          {get("Node", "", "n2"), "other nodes"},
		"list nodes":                 {list("Node", ""), "other nodes"},
		"read the cluster's id":      {get("Namespace", "", "kube-system"), ""},
		"read other namespaces":      {get("Namespace", "", "default"), "forbidden"},
		"read roles":                 {list("Role", ""), "forbidden"},
		"read deployments":           {list("Deployment", ""), "forbidden"},
		"label itself":               {modify(func(n *v1.Node) { n.Metadata.Labels = map[string]string{"zone": "a"} }), ""},
		"give itself a guarded one":  {modify(func(n *v1.Node) { n.Metadata.Labels = map[string]string{"node-restriction.kubernetes.io/x": "a"} }), "node-restriction"},
		"uncordon itself":            {modify(func(n *v1.Node) { n.Spec = &v1.NodeSpec{Unschedulable: true} }), "modify its spec"},
		"say what happens to a pod":  {event("n1", "Pod", "default", "p1"), ""},
		"say what happens to itself": {event("n1", "Node", "", "n1"), ""},
		"speak for another node":     {event("n2", "Pod", "default", "p1"), "source.host"},
		"speak about another's pod":  {event("n1", "Pod", "default", "p2"), "itself and its pods"},
		"delete itself": {func() error {
			_, err := nodes.Delete(t.Context(), "", "n1", client.DeleteOptions{})
			return err
		}, "forbidden"},
		"bind a pod to itself": {func() error {
			_, err := pods.Create(t.Context(), &v1.Pod{Metadata: &v1.ObjectMeta{Name: "own"}, Spec: &v1.PodSpec{NodeName: "n1"}})
			return err
		}, "forbidden"},
		"report on its pod": {func() error {
			p := must[*v1.Pod](t)(pods.Get(t.Context(), "kube-system", "p0"))
			p.Status.Phase = api.PodRunning
			_, err := pods.UpdateStatus(t.Context(), p)
			return err
		}, ""},
	} {
		err := tt.do()
		switch {
		case tt.refusal == "" && err != nil:
			t.Errorf("a node may not %s: %v", name, err)
		case tt.refusal != "" && (!errors.Is(err, api.ErrForbidden) || !strings.Contains(err.Error(), tt.refusal)):
			t.Errorf("a node that wants to %s: %v, want a refusal with %q", name, err, tt.refusal)
		}
	}
	if _, err := pods.Delete(t.Context(), "default", "p1", client.DeleteOptions{}); err != nil {
		t.Errorf("a node may not end its pod: %v", err)
	}
}

func TestRolesAllowAndNobodyHandsOnMoreThanTheyHold(t *testing.T) {
	g := guard(t)
	viewer, editor, admin := g.group("eve", "viewers"), g.group("ed", "editers"), g.group("adam", "adminers")
	can := func(c *client.Client, verb, resource, group, namespace string) bool {
		t.Helper()
		r, err := c.Identity().Review(t.Context(), &v1.ReviewRequest{Verb: verb, Resource: resource, Group: group, Namespace: namespace})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetAllowed()
	}
	for _, tt := range []struct {
		who                              string
		c                                *client.Client
		verb, resource, group, namespace string
		want                             bool
	}{
		{"viewer", viewer, "get", "pods", "", "default", true},
		{"viewer", viewer, "get", "pods", "", "kube-system", false},
		{"viewer", viewer, "get", "pods", "", "", false},
		{"viewer", viewer, "get", "secrets", "", "default", false},
		{"viewer", viewer, "create", "pods", "", "default", false},
		{"editor", editor, "create", "deployments", "apps", "default", true},
		{"editor", editor, "get", "secrets", "", "default", true},
		{"editor", editor, "create", "rolebindings", api.GroupRBAC, "default", false},
		{"admin", admin, "create", "rolebindings", api.GroupRBAC, "default", true},
		{"admin", admin, "delete", "nodes", "", "", false},
		{"root", g.admin, "delete", "nodes", "", "", true},
	} {
		if got := can(tt.c, tt.verb, tt.resource, tt.group, tt.namespace); got != tt.want {
			t.Errorf("%s may %s %s in %q: %v", tt.who, tt.verb, tt.resource, tt.namespace, got)
		}
	}

	// As in Kubernetes, a namespace is an object in itself: who has a role in it may
	// look at it, and at no other.
	namespaces := client.For[*v1.Namespace](editor)
	if _, err := namespaces.Get(t.Context(), "", "default"); err != nil {
		t.Errorf("an editor asks for their namespace: %v", err)
	}
	_, other := namespaces.Get(t.Context(), "", "kube-system")
	_, all := namespaces.List(t.Context(), client.ListOptions{})
	_, deleted := namespaces.Delete(t.Context(), "", "default", client.DeleteOptions{})
	_, created := namespaces.Create(t.Context(), &v1.Namespace{Metadata: &v1.ObjectMeta{Name: "more"}})
	for what, err := range map[string]error{"another namespace": other, "all": all, "the end of theirs": deleted, "one more": created} {
		if !errors.Is(err, api.ErrForbidden) {
			t.Errorf("an editor asks for %s: %v", what, err)
		}
	}

	mine := must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](editor).Create(t.Context(), configMap("mine")))
	history, err := g.admin.Resources().History(t.Context(), &v1.HistoryRequest{Kind: "ConfigMap", Name: mine.GetMetadata().GetName()})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := history.Recv(); err != nil || e.GetCause().GetActor() != "ed" { // the client says "somebody-else"
		t.Errorf("actor %q, %v", e.GetCause().GetActor(), err)
	}

	rule := func(verb, resource string) []*v1.PolicyRule {
		return []*v1.PolicyRule{{Verbs: []string{verb}, ApiGroups: []string{""}, Resources: []string{resource}}}
	}
	roles, bindings := client.For[*v1.Role](admin), client.For[*v1.RoleBinding](admin)
	if _, err := roles.Create(t.Context(), &v1.Role{Metadata: &v1.ObjectMeta{Name: "reader"}, Rules: rule("get", "secrets")}); err != nil {
		t.Errorf("a role with less than its maker has: %v", err)
	}
	_, err = roles.Create(t.Context(), &v1.Role{Metadata: &v1.ObjectMeta{Name: "more"}, Rules: rule("*", "pods")})
	if !errors.Is(err, api.ErrForbidden) || !strings.Contains(err.Error(), `attempting to grant RBAC permissions not currently held:`) {
		t.Errorf("a role with more: %v", err)
	}
	binding := func(role string) *v1.RoleBinding {
		return &v1.RoleBinding{
			Metadata: &v1.ObjectMeta{Name: "to-" + role}, RoleRef: &v1.RoleRef{Kind: "ClusterRole", Name: role},
			Subjects: []*v1.Subject{{Kind: "User", Name: "joe"}},
		}
	}
	if _, err := bindings.Create(t.Context(), binding("cluster-admin")); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("a binding to more than one has: %v", err)
	}
	joe := g.group("joe", "nobodies")
	if can(joe, "get", "pods", "", "default") {
		t.Error("joe may read pods before he has a role")
	}
	must[*v1.RoleBinding](t)(bindings.Create(t.Context(), binding("edit")))
	if !can(joe, "get", "pods", "", "default") {
		t.Error("the role that was given has no effect")
	}
	must[*v1.RoleBinding](t)(bindings.Delete(t.Context(), "default", "to-edit", client.DeleteOptions{}))
	if can(joe, "get", "pods", "", "default") {
		t.Error("the role that was taken away has still effect")
	}
	_, err = client.For[*v1.Secret](joe).Get(t.Context(), "default", "s1")
	if want := `secrets "s1" is forbidden: User "joe" cannot get resource "secrets" in API group "" in the namespace "default"`; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

// Who may not read an object now may not read what it was either, whichever way
// they ask.
func TestThePastIsGuardedAsThePresent(t *testing.T) {
	g := guard(t)
	eve := g.group("eve", "viewers") // of default; Secrets are not for viewers
	secret := must[*v1.Secret](t)(client.For[*v1.Secret](g.admin).Get(t.Context(), "default", "s1"))
	mine := must[*v1.Pod](t)(client.For[*v1.Pod](g.admin).Get(t.Context(), "default", "p1"))
	foreign := must[*v1.Pod](t)(client.For[*v1.Pod](g.admin).Get(t.Context(), "kube-system", "p0"))
	_ = must[*v1.Secret](t)(client.For[*v1.Secret](g.admin).Delete(t.Context(), "default", "s1", client.DeleteOptions{}))

	then := secret.GetMetadata().GetResourceVersion()
	_, err := client.For[*v1.Secret](eve).GetAt(t.Context(), "default", "s1", then)
	_, err2 := client.For[*v1.Secret](eve).List(t.Context(), client.ListOptions{Namespace: "default", At: then})
	_, err3 := client.For[*v1.Secret](eve).GetAtTime(t.Context(), "default", "s1", time.Now())
	for _, err := range []error{err, err2, err3} {
		if !errors.Is(err, api.ErrForbidden) {
			t.Errorf("a viewer read a Secret of the past: %v", err)
		}
	}
	history := func(q *v1.HistoryRequest) (entries []*v1.LogEntry, err error) {
		for e, err := range eve.History(t.Context(), q) {
			if err != nil {
				return entries, err
			}
			entries = append(entries, e)
		}
		return entries, nil
	}
	entries, err := history(&v1.HistoryRequest{Revisions: []int64{then, mine.GetMetadata().GetResourceVersion(), foreign.GetMetadata().GetResourceVersion()}})
	if err != nil || len(entries) != 3 {
		t.Fatalf("%d entries: %v", len(entries), err)
	}
	for _, e := range entries {
		open := e.GetRevision() == mine.GetMetadata().GetResourceVersion()
		if open != (e.GetObject() != nil) || open == e.GetWithheld() || open != (e.GetName() != "") || open != (e.GetCause() != nil) {
			t.Errorf("a viewer gets %v", e)
		}
	}
	entries, err = history(&v1.HistoryRequest{Namespace: "default"})
	if err != nil || len(entries) == 0 {
		t.Errorf("the history of what a viewer may list: %d entries, %v", len(entries), err)
	}
	for _, e := range entries {
		if e.GetKind() == "Secret" || e.GetNamespace() != "default" || strings.Contains(e.String(), secretWord) {
			t.Errorf("a viewer gets %v", e)
		}
	}
	for what, q := range map[string]*v1.HistoryRequest{
		"of everything":          {},
		"of another namespace":   {Namespace: "kube-system"},
		"of Secrets":             {Kind: "Secret", Namespace: "default"},
		"of no kind":             {Kind: "Nothing", Namespace: "default"},
		"of more than is served": {Revisions: make([]int64, 2000)},
	} {
		if entries, err := history(q); err == nil || len(entries) > 0 {
			t.Errorf("a viewer got the history %s: %d entries, %v", what, len(entries), err)
		}
	}
}

// What was of a pod of that name says nothing about whose it was.
func TestNodesReadThePresentOnly(t *testing.T) {
	g := guard(t)
	n1 := g.node("n1")
	p2 := must[*v1.Pod](t)(client.For[*v1.Pod](g.admin).Get(t.Context(), "default", "p2"))
	_ = must[*v1.Pod](t)(client.For[*v1.Pod](g.admin).Delete(t.Context(), "default", "p2", client.DeleteOptions{GracePeriodSeconds: proto.Int64(0)}))
	then := p2.GetMetadata().GetResourceVersion()
	_, now := client.For[*v1.Pod](n1).Get(t.Context(), "default", "p2")
	if !errors.Is(now, api.ErrNotFound) {
		t.Errorf("a node asks whether a pod is gone: %v", now)
	}
	_, at := client.For[*v1.Pod](n1).GetAt(t.Context(), "default", "p2", then)
	_, atTime := client.For[*v1.Pod](n1).GetAtTime(t.Context(), "default", "p2", p2.GetMetadata().GetCreationTimestamp().AsTime().Add(time.Millisecond))
	_, list := client.For[*v1.Secret](n1).List(t.Context(), client.ListOptions{Namespace: "default", FieldSelector: "metadata.name=s1", At: then})
	history := func(q *v1.HistoryRequest) error { return api.FromStatus(recv(n1.Resources().History(t.Context(), q))) }
	for what, err := range map[string]error{
		"a pod as it was":           at,
		"a pod as it was at a time": atTime,
		"a secret as it was":        list,
		"the history of a pod":      history(&v1.HistoryRequest{Kind: "Pod", Namespace: "default", Name: "p2"}),
		"a revision":                history(&v1.HistoryRequest{Revisions: []int64{then}}),
	} {
		if !errors.Is(err, api.ErrForbidden) {
			t.Errorf("a node reads %s: %v", what, err)
		}
	}
}

// Two machines with one name would run each pod of it twice.
func TestOfTwoMachinesWithOneNameOneIsRefused(t *testing.T) {
	g := guard(t)
	token, secret := identity.NewToken(g.authority.Certificate(), time.Now().Add(time.Hour))
	must[*v1.Secret](t)(client.For[*v1.Secret](g.admin).Create(t.Context(), secret))
	short, _, _ := identity.SplitToken(token)
	joiner := g.with(nil)
	join := func(tries int) error {
		_, err := identity.NewPair(t.Context(), "", func(ctx context.Context, request []byte) (certificate []byte, err error) {
			for range tries {
				r, joinErr := joiner.Identity().Join(ctx, &v1.JoinRequest{Token: short, NodeName: "twin", Request: request})
				certificate, err = r.GetCertificate(), errors.Join(err, api.FromStatus(joinErr))
			}
			return certificate, err
		})
		return err
	}
	if err := join(2); err != nil { // the first answer may have been lost
		t.Errorf("the first: %v", err)
	}
	if err := join(1); !errors.Is(err, api.ErrAlreadyExists) {
		t.Errorf("the second: %v", err)
	}
	must[*v1.Node](t)(client.For[*v1.Node](g.admin).Delete(t.Context(), "", "twin", client.DeleteOptions{}))
	if err := join(1); err != nil {
		t.Errorf("after its node was deleted: %v", err)
	}
}

func TestTheAuditLogHasWritesAndRefusals(t *testing.T) {
	g := guard(t)
	editor, viewer := g.group("ed", "editers"), g.group("eve", "viewers")
	must[*v1.Secret](t)(client.For[*v1.Secret](editor).Create(t.Context(), &v1.Secret{
		Metadata: &v1.ObjectMeta{Name: "new"}, StringData: map[string]string{"k": secretWord},
	}))
	must[*v1.Secret](t)(client.For[*v1.Secret](editor).Get(t.Context(), "default", "new"))
	_, _ = client.For[*v1.Secret](viewer).Get(t.Context(), "default", "new")
	_, _ = client.For[*v1.Secret](g.with(nil)).Get(t.Context(), "default", "new")
	var got []string
	for line := range strings.Lines(g.audit.String()) {
		var e struct {
			User, Verb, Resource, Name, Code string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.User != "admin" && e.User != "apiserver" {
			got = append(got, fmt.Sprintf("%s %s %s/%s %s", e.User, e.Verb, e.Resource, e.Name, e.Code))
		}
	}
	want := "[ed create secrets/new OK eve get secrets/new PermissionDenied system:anonymous Get / Unauthenticated]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v\nwant %s", got, want)
	}
	if strings.Contains(g.audit.String(), secretWord) {
		t.Error("the audit log tells a secret")
	}
}
