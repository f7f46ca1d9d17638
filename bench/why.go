package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/store"
	"orch/pkg/store/boltstore"
	"orch/pkg/why"
	v1 "orch/proto/v1"
)

// The log that explanations are measured on: a million revisions, a hundred of
// each of ten thousand pods.
const (
	loggedPods      = 10_000
	revisionsPerPod = 100
	// chainEvery is how many rounds before it a revision names another's as its
	// trigger: the longest chains have ten links.
	chainEvery = 10
)

// why measures what causes cost a writer, and what a reader gets for it.
func (b *bench) why(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "orch-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := b.causes(ctx, dir); err != nil {
		return err
	}
	return b.past(ctx, filepath.Join(dir, "log.db"))
}

// running is a pod as the log mostly has it: complete, with the status of an
// agent. Most of what is written are such.
func running(name string) *v1.Pod {
	p := pod(name)
	api.Default(p)
	now := timestamppb.Now()
	p.Metadata.Uid, p.Metadata.CreationTimestamp = "b7dc85da-19cb-40b1-ac75-7b8c4ee98d35", now
	p.Metadata.OwnerReferences = []*v1.OwnerReference{{
		ApiVersion: "apps/v1", Kind: "ReplicaSet", Name: "recommend-service-6d4cf56db6", Uid: "54620c2c-a74d-47c2-aed2-f88429d67a77",
		Controller: new(true), BlockOwnerDeletion: new(true),
	}}
	p.Spec.NodeName = "node-2"
	p.Status = &v1.PodStatus{Phase: "Running", PodIp: "172.17.0.10", HostIp: "10.0.0.12", StartTime: now, QosClass: "Burstable"}
	for _, typ := range []string{"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		p.Status.Conditions = append(p.Status.Conditions, &v1.Condition{Type: typ, Status: "True", LastTransitionTime: now})
	}
	p.Status.ContainerStatuses = []*v1.ContainerStatus{{
		Name: "app", Image: "recommend-service:1.0.1", Ready: true, Started: new(true),
		ContainerId: "docker://75690b850afbb2256c47fc86dba9dc25b15e6df1e563b83bcb490002809470ee",
		ImageId:     "docker://sha256:9f769489336a1d2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3",
		State:       &v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: now}},
	}}
	return p
}

// causes compares writes with a cause and without, to two stores of one disk. The
// values are of all sizes from half a pod's to one and a half: of values of one
// size, either three or four go on a page of the file, and which of the two it is
// decides more than all else.
func (b *bench) causes(ctx context.Context, dir string) error {
	value, err := proto.Marshal(api.Wrap(running("web")))
	if err != nil {
		return err
	}
	size, values := int64(len(value)), bytes.Repeat(value, 2)
	full := store.Cause{
		Actor: "default-scheduler", Reason: "Scheduled", Trigger: 1,
		Message: "placed on node-2 (score 87: least allocated 62, balanced 98, spread 100); node-1 lacks 200m cpu, node-3 scored 61",
	}
	writer := func(name string, cause store.Cause) (func(context.Context, int64) error, func() error, error) {
		s, err := boltstore.Open(filepath.Join(dir, name), boltstore.Options{})
		if err != nil {
			return nil, nil, err
		}
		var n atomic.Int64
		return func(ctx context.Context, _ int64) error {
			i := n.Add(1)
			_, err := s.Commit(ctx, store.Change{
				Key: fmt.Sprintf("Pod/default/web-%08d", i), Value: values[:size/2+i*37%64*size/64], Expect: store.ExpectAbsent, Topics: []string{"Pod@node-1"}, Cause: cause,
			})
			return err
		}, s.Close, nil
	}
	with, closeWith, err := writer("with.db", full)
	if err != nil {
		return err
	}
	defer func() { _ = closeWith() }()
	without, closeWithout, err := writer("without.db", store.Cause{})
	if err != nil {
		return err
	}
	defer func() { _ = closeWithout() }()
	c, err := b.compare(ctx, with, without)
	if err != nil {
		return err
	}
	b.compared("why: durable writes with causes, 64 writers", c, "the same without causes", 0.95)
	return nil
}

// past measures explanations and lists of the past in a long log.
func (b *bench) past(ctx context.Context, path string) error {
	s, err := longLog(ctx, path)
	if err != nil {
		return err
	}
	defer s.Close()
	server, err := apiserver.New(s, apiserver.Options{})
	if err != nil {
		return err
	}
	l := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- server.ServeInner(ctx, l) }()
	defer func() {
		server.Stop()
		if err := <-done; err != nil {
			fmt.Fprintln(os.Stderr, "bench: serve:", err)
		}
	}()
	c, err := client.Dial("passthrough:///log", "bench", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		return err
	}
	defer c.Close()

	var explain, list []time.Duration
	for i := range b.rounds {
		key := why.Key{Kind: "Pod", Namespace: api.NamespaceDefault, Name: fmt.Sprintf("web-%08d", (i*7919)%loggedPods)}
		begin := time.Now()
		history, log, err := why.Gather(ctx, c, key)
		if err != nil {
			return err
		}
		if x := why.Explain(key, history, log, why.Options{All: true}); len(x.Steps) < revisionsPerPod {
			return fmt.Errorf("%s was explained in %d steps", key, len(x.Steps))
		}
		explain = append(explain, time.Since(begin))

		begin = time.Now()
		found, err := client.For[*v1.Pod](c).List(ctx, client.ListOptions{Namespace: api.NamespaceDefault, At: s.Revision() / 2})
		if err != nil {
			return err
		}
		if len(found.Items) != loggedPods {
			return fmt.Errorf("%d pods were there, want %d", len(found.Items), loggedPods)
		}
		list = append(list, time.Since(begin))
	}
	b.under(fmt.Sprintf("why: a pod, in a log of %d revisions", loggedPods*revisionsPerPod), "ms", 1000*median(explain).Seconds(), 200)
	b.under(fmt.Sprintf("get --at: %d pods, %d revisions back", loggedPods, loggedPods*revisionsPerPod/2), "s", median(list).Seconds(), 1)
	return nil
}

// longLog writes pods in turn, each revision because of an earlier one.
func longLog(ctx context.Context, path string) (*boltstore.Store, error) {
	s, err := boltstore.Open(path, boltstore.Options{KeepEntries: -1, KeepFor: -1})
	if err != nil {
		return nil, err
	}
	for round := range revisionsPerPod {
		g, ctx := errgroup.WithContext(ctx)
		for w := range writers {
			g.Go(func() error {
				for i := w; i < loggedPods; i += writers {
					p := pod(fmt.Sprintf("web-%08d", i))
					p.Metadata.Generation = int64(round)
					value, err := proto.Marshal(api.Wrap(p))
					if err != nil {
						return err
					}
					cause := store.Cause{Actor: "bench", Reason: "Written", Message: "because of another", Trigger: max(0, s.Revision()-int64(chainEvery*loggedPods))}
					if _, err := s.Commit(ctx, store.Change{Key: "Pod/default/" + p.GetMetadata().GetName(), Value: value, Expect: store.ExpectAny, Cause: cause}); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			_ = s.Close()
			return nil, err
		}
	}
	return s, nil
}
