package main

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/internal/testlog"
	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// Engine, agent, API server and client hand a log on piece by piece, however
// long it is and however long its lines are. (make bench does it with a
// gigabyte, and looks at the processes.)
func TestALogIsStreamedInMemoryThatDoesNotGrow(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 64 MB")
	}
	const (
		// held is what may be on its way: windows of connections and buffers of the
		// encoders, twice.
		held = 16 << 20
		// enough is read. The container goes on writing until then: an engine that
		// rotates a log leaves out what a slow reader has not read in time.
		enough = 2 * held
	)
	engine := testdocker.Require(t)
	image := testimage.Build(t, engine)
	s := newServer(t, time.Hour)
	engine.AlsoRemove(s.labels())
	s.agent("n1", t.TempDir(), "--runtime", "docker", "--token", s.token(time.Hour))
	s.ready("n1")

	for name, width := range map[string]int{"lines": 100, "one-line": 0} {
		t.Run(name, func(t *testing.T) {
			pods := client.For[*v1.Pod](s.admin)
			if _, err := pods.Create(t.Context(), &v1.Pod{
				Metadata: &v1.ObjectMeta{Name: name, Namespace: api.NamespaceDefault},
				Spec: &v1.PodSpec{NodeName: "n1", RestartPolicy: "Never", TerminationGracePeriodSeconds: new(int64(1)), Containers: []*v1.Container{{
					Name: "app", Image: image, ImagePullPolicy: api.PullNever,
					Args: []string{fmt.Sprint("-bytes=", 1<<40), fmt.Sprint("-width=", width), "-exit=0"},
				}}},
			}); err != nil {
				t.Fatal(err)
			}
			for e, err := range pods.Watch(t.Context(), client.WatchOptions{Namespace: api.NamespaceDefault, FieldSelector: "metadata.name=" + name}) {
				if err != nil {
					t.Fatal(err)
				}
				if e.Object != nil && e.Object.GetStatus().GetPhase() != api.PodPending {
					break
				}
			}
			before := live()
			stream, err := s.admin.Streams().Logs(t.Context(), &v1.LogsRequest{Namespace: api.NamespaceDefault, Pod: name, Follow: true})
			if err != nil {
				t.Fatal(err)
			}
			read, sampled, highest := 0, 0, before
			for read < enough {
				chunk, err := stream.Recv()
				if err != nil {
					t.Fatalf("after %d bytes: %v", read, err)
				}
				read += len(chunk.GetData())
				if read-sampled >= 4<<20 {
					sampled, highest = read, max(highest, live())
				}
			}
			t.Logf("%d bytes came, and the heap grew from %d by %d", read, before, highest-before)
			if highest > before+held {
				t.Errorf("the heap grew from %d bytes to %d", before, highest)
			}
			if _, err := pods.Delete(t.Context(), api.NamespaceDefault, name, client.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	testlog.Invariants(t, s.admin, 0, 1)
}

// live is what is in use of the heap.
func live() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
