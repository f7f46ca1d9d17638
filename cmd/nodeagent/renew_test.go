package main

import (
	"errors"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/identity"
	v1 "orch/proto/v1"
)

// witness is a watch of somebody who has nothing to do with what happens: one
// stream, which cannot be opened again without the test's knowing.
type witness struct {
	v1.Resources_WatchClient
	name   string
	client *client.Client
	fields string
	heard  []string
}

// witness opens a watch as a user.
func (s *server) witness(u identity.User, fields string) *witness {
	s.t.Helper()
	c := s.dial(u)
	return &witness{s.watchAs(c, fields), u.Name, c, fields, nil}
}

// hear reads on until the watch has told that a pod was made.
func (w *witness) hear(t *testing.T, pod string) {
	t.Helper()
	for {
		e, err := w.Recv()
		if err != nil {
			t.Fatalf("the watch of %s has ended: %v", w.name, err)
		}
		if e.GetObject() == nil {
			continue
		}
		w.heard = append(w.heard, line(e))
		if e.GetType() == v1.WatchEvent_TYPE_ADDED && e.GetObject().GetPod().GetMetadata().GetName() == pod {
			return
		}
	}
}

// missed compares what was heard with what the log says to one who comes later.
func (w *witness) missed(t *testing.T) {
	t.Helper()
	start := int64(1)
	again, err := w.client.Resources().Watch(t.Context(), &v1.WatchRequest{Kind: "Pod", FieldSelector: w.fields, FromRevision: &start})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(w.heard); {
		e, err := again.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.GetObject() == nil {
			continue
		}
		if line(e) != w.heard[i] {
			t.Fatalf("%s heard %q, and not %q", w.name, w.heard, line(e))
		}
		i++
	}
}

func line(e *v1.WatchEvent) string {
	m := e.GetObject().GetPod().GetMetadata()
	return e.GetType().String() + " " + m.GetName() + " " + strconv.FormatInt(e.GetRevision(), 10)
}

// pod makes a pod on a node, of which all witnesses must hear.
func (s *server) pod(name, node string, all []*witness) {
	s.t.Helper()
	pod := &v1.Pod{
		Metadata: &v1.ObjectMeta{Name: name, Namespace: api.NamespaceDefault},
		Spec:     &v1.PodSpec{NodeName: node, Containers: []*v1.Container{{Name: "c", Image: "i:1"}}},
	}
	if _, err := client.For[*v1.Pod](s.admin).Create(s.t.Context(), pod); err != nil {
		s.t.Fatal(err)
	}
	for _, w := range all {
		w.hear(s.t, name)
	}
}

func TestACertificateIsRenewedWhileWatchesGoOn(t *testing.T) {
	t.Parallel() // it waits most of the time
	// The last third of a life is what agent and test have for a renewal.
	s := newServer(t, 15*time.Second)
	token := s.token(time.Hour)
	a := s.agent("n1", t.TempDir(), "--token", token)
	b := s.agent("n2", t.TempDir(), "--token", token)
	gone := s.agent("n3", t.TempDir(), "--token", token)
	s.ready("n1")
	s.ready("n3")

	// What another node and a user watch goes on all the time, whatever happens to
	// the certificates of others.
	n2 := identity.Node("n2", s.ready("n2").GetMetadata().GetUid())
	others := []*witness{
		s.witness(n2, "spec.nodeName=n2"),
		s.witness(identity.User{Name: "jane", Groups: []string{identity.GroupMasters}}, "spec.nodeName=n2"),
	}
	first, err := identity.LoadPair(filepath.Join(a.dir, pairFile))
	if err != nil {
		t.Fatal(err)
	}
	// Three connections with the same certificate: one that is left alone, one on
	// which it is renewed, and the agent's, which renews by itself.
	left, _ := s.watch("n1", a.dir)
	renewed, c := s.watch("n1", a.dir)
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		now, err := identity.LoadPair(filepath.Join(a.dir, pairFile))
		if err != nil {
			t.Fatal(err)
		}
		if !now.Certificate().Equal(first.Certificate()) {
			tick.Stop()
			break
		}
	}
	s.pod("the-agent-has-renewed", "n2", others)
	next, err := identity.NewPair(t.Context(), "", renew(c))
	if err != nil {
		t.Fatal(err)
	}
	if !next.Certificate().NotAfter.After(first.Certificate().NotAfter) || identity.UserOf(next.Certificate()).Name != "system:node:n1" {
		t.Errorf("the next certificate: %v", next.Certificate())
	}
	s.pod("a-connection-was-renewed", "n2", others)
	if _, err := left.Recv(); err == nil {
		t.Fatal("an event nobody made")
	}
	if now := time.Now(); now.Before(first.Certificate().NotAfter) {
		t.Errorf("the connection was closed at %v, the certificate is good until %v", now, first.Certificate().NotAfter)
	}
	s.pod("a-connection-has-expired", "n2", others)
	s.pod("p", "n1", nil)
	if e, err := renewed.Recv(); err != nil || e.GetObject().GetPod().GetMetadata().GetName() != "p" {
		t.Errorf("the watch whose connection was renewed: %v, %v", e, err)
	}

	// A third node and another user are shut out.
	mallory := s.witness(identity.User{Name: "mallory", Groups: []string{identity.GroupMasters}}, "spec.nodeName=nowhere")
	if _, err := client.For[*v1.Node](s.admin).Delete(t.Context(), "", "n3", client.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.For[*v1.ConfigMap](s.admin).Create(t.Context(), identity.NewRevocation("mallory", time.Now())); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err = mallory.Recv(); err != nil {
			break
		}
	}
	if !errors.Is(api.FromStatus(err), api.ErrUnauthorized) {
		t.Errorf("the watch of the revoked user ended with %v", err)
	}
	if err := gone.wait(t); err == nil {
		t.Error("the agent of the revoked node ended without an error")
	}
	s.pod("others-were-revoked", "n2", others)
	for _, w := range others {
		w.missed(t)
	}

	for e, err := range client.For[*v1.Pod](s.admin).Watch(t.Context(), client.WatchOptions{Namespace: "default"}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Object != nil && e.Object.GetMetadata().GetName() == "p" && api.IsPodReady(e.Object) { // so the agent's connection is there
			break
		}
	}
	for _, x := range []*process{a, b} {
		x.stop()
		if err := x.wait(t); err != nil {
			t.Error(err)
		}
	}
}
