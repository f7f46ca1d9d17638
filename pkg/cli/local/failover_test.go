package local

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// failover is a cluster of three agents with six pods of a ReplicaSet and one pod
// that stays on node-3 whatever happens to it.
type failover struct {
	*Cluster
	t  *testing.T
	cl *client.Client
}

func newFailover(t *testing.T, name string) *failover {
	t.Helper()
	home := t.TempDir()
	f := &failover{cluster(t, home, name), t, nil}
	f.mustUp(t, options(Fake, 3))
	f.cl = dial(t, home, name)
	template := `{"metadata":{"labels":{"app":"web"}},"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"web","image":"web:1"}]}}`
	for _, manifest := range []string{
		`{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"name":"web"},"spec":{"replicas":6,"selector":{"matchLabels":{"app":"web"}},"template":` + template + `}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"loyal","labels":{"app":"loyal"}},"spec":{"nodeName":"node-3","containers":[{"name":"web","image":"web:1"}],
		  "tolerations":[{"key":"node.kubernetes.io/unreachable","operator":"Exists"}]}}`,
	} {
		if _, _, _, err := f.cl.Apply(t.Context(), []byte(manifest), client.ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	f.until("all pods are ready", func() bool { return len(f.ready("web", "")) == 6 && len(f.ready("loyal", "node-3")) == 1 })
	if len(f.ready("web", "node-3")) == 0 {
		t.Fatal("none came to node-3")
	}
	return f
}

// until waits until the condition holds; it looks after each write of a pod, a
// node or an event.
func (f *failover) until(what string, holds func() bool) {
	f.t.Helper()
	written := make(chan error, 1)
	ctx := f.t.Context()
	follow(f, written, client.For[*v1.Pod](f.cl))
	follow(f, written, client.For[*v1.Node](f.cl))
	follow(f, written, client.For[*v1.Event](f.cl))
	patience := time.After(2 * time.Minute)
	for !holds() {
		select {
		case err := <-written:
			if err != nil && ctx.Err() == nil {
				f.t.Fatal(err)
			}
		case <-patience:
			f.t.Fatalf("it is not true that %s: %v", what, f.pods(func(*v1.Pod) bool { return true }))
		}
	}
}

func follow[T api.Object](f *failover, written chan<- error, r client.Resource[T]) {
	go func() {
		for _, err := range r.Watch(f.t.Context(), client.WatchOptions{}) {
			select {
			case written <- err:
			case <-f.t.Context().Done():
				return
			}
		}
	}()
}

// pods are the pods that pass, as "name@node id".
func (f *failover) pods(pass func(*v1.Pod) bool) (out []string) {
	f.t.Helper()
	l, err := client.For[*v1.Pod](f.cl).List(f.t.Context(), client.ListOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, p := range l.Items {
		if pass(p) {
			id := ""
			for _, s := range p.GetStatus().GetContainerStatuses() {
				id += s.GetContainerId()
			}
			out = append(out, fmt.Sprintf("%s@%s %s", p.GetMetadata().GetName(), p.GetSpec().GetNodeName(), id))
		}
	}
	return out
}

// ready are those of an app on a node, or anywhere, that are ready and stay.
func (f *failover) ready(app, node string) []string {
	f.t.Helper()
	return f.pods(func(p *v1.Pod) bool {
		return p.GetMetadata().GetLabels()["app"] == app && (node == "" || p.GetSpec().GetNodeName() == node) && api.IsPodReady(p) && api.IsPodActive(p)
	})
}

// movedFromNode3 looks once: two looks may be before and after a change.
func (f *failover) movedFromNode3() bool {
	f.t.Helper()
	all := f.ready("web", "")
	return len(all) == 6 && !slices.ContainsFunc(all, func(p string) bool { return strings.Contains(p, "@node-3 ") })
}

func (f *failover) ending() int {
	f.t.Helper()
	return len(f.pods(func(p *v1.Pod) bool { return p.GetMetadata().GetDeletionTimestamp() != nil }))
}

func (f *failover) signal(s syscall.Signal, nodes ...string) {
	f.t.Helper()
	for _, n := range nodes {
		if err := syscall.Kill(f.runningPIDs(f.t)[n], s); err != nil {
			f.t.Fatalf("%v to %s: %v", s, n, err)
		}
	}
}

func TestWhatANodeLosesRunsElsewhereAndItKeepsWhatIsItsOwn(t *testing.T) {
	f := newFailover(t, "frozen")
	before, kept := f.ready("loyal", "node-3"), f.ready("web", "node-1")
	f.signal(syscall.SIGSTOP, "node-3")
	f.until("its pods run elsewhere", f.movedFromNode3)
	if f.ending() == 0 {
		t.Error("the objects of the lost pods are gone, though they may run")
	}
	f.signal(syscall.SIGCONT, "node-3")
	f.until("it has ended what was moved", func() bool { return f.ending() == 0 && len(f.ready("web", "")) == 6 })
	f.until("it says again how its own pod is", func() bool { return len(f.ready("loyal", "node-3")) == 1 })
	if after := f.ready("loyal", "node-3"); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("its own pod was touched: %v, then %v", before, after)
	}
	if all := fmt.Sprint(f.ready("web", "node-1")); !strings.Contains(all, strings.Trim(fmt.Sprint(kept), "[]")) && len(kept) == 1 {
		t.Errorf("pods of another node were touched: %v, then %v", kept, all)
	}
}

func TestAKilledAgentLosesItsPodsAndThreeAtOnceDoNot(t *testing.T) {
	f := newFailover(t, "killed")
	f.signal(syscall.SIGKILL, "node-3")
	f.until("its pods run elsewhere", f.movedFromNode3)
	f.mustUp(t, options(Fake, 3))
	f.until("what was moved is gone", func() bool { return f.ending() == 0 && len(f.ready("loyal", "node-3")) == 1 })

	pods := len(f.pods(func(*v1.Pod) bool { return true }))
	f.signal(syscall.SIGKILL, "node-1", "node-2", "node-3")
	f.until("it is said that nothing is evicted", func() bool {
		l, err := client.For[*v1.Event](f.cl).List(t.Context(), client.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stopped := map[string]bool{}
		for _, e := range l.Items {
			if e.GetReason() == "EvictionStopped" {
				stopped[e.GetInvolvedObject().GetName()] = true
			}
		}
		return len(stopped) == 3
	})
	if n := f.ending(); n > 0 || len(f.pods(func(*v1.Pod) bool { return true })) != pods {
		t.Errorf("%d pods are about to end", n)
	}
}
