package apiserver_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/store"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

// badStore is a store on which single operations can be made to fail.
type badStore struct {
	store.Store
	get    func(ctx context.Context, key string) error
	commit func(c store.Change) error
}

func (s *badStore) Get(ctx context.Context, key string, at int64) (store.Entry, error) {
	if s.get != nil {
		if err := s.get(ctx, key); err != nil {
			return store.Entry{}, err
		}
	}
	return s.Store.Get(ctx, key, at)
}

func (s *badStore) Commit(ctx context.Context, c store.Change) (store.Entry, error) {
	if s.commit != nil {
		if err := s.commit(c); err != nil {
			return store.Entry{}, err
		}
	}
	return s.Store.Commit(ctx, c)
}

func TestEveryKindOfErrorArrives(t *testing.T) {
	bad := &badStore{Store: memstore.New()}
	s := startOn(t, bad, apiserver.Options{})
	bad.get = func(_ context.Context, key string) error {
		if strings.HasSuffix(key, "/panic") {
			panic("as ordered")
		}
		if strings.HasSuffix(key, "/closed") {
			return store.ErrClosed
		}
		return nil
	}
	ctx := t.Context()
	configs, pods := client.For[*v1.ConfigMap](s.Client), client.For[*v1.Pod](s.Client)
	c := must[*v1.ConfigMap](t)(configs.Create(ctx, configMap("a")))
	big := pod("big")
	big.Spec.Containers[0].Args = []string{strings.Repeat("x", 1600<<10)}

	tests := map[string]struct {
		do   func() error
		kind error
		text string
	}{
		"an object that is not there": {
			func() error { _, err := pods.Get(ctx, "default", "web"); return err },
			api.ErrNotFound, `pods "web" not found`,
		},
		"a name that is taken": {
			func() error { _, err := configs.Create(ctx, configMap("a")); return err },
			api.ErrAlreadyExists, `configmaps "a" already exists`,
		},
		"a stale resource version": {
			func() error {
				old := api.Clone(c)
				old.Metadata.ResourceVersion--
				_, err := configs.Update(ctx, old)
				return err
			},
			api.ErrConflict, `Operation cannot be fulfilled on configmaps "a": the object has been modified`,
		},
		"a name that is no DNS name": {
			func() error { _, err := configs.Create(ctx, configMap("A_B")); return err },
			api.ErrInvalid, `ConfigMap "A_B" is invalid: metadata.name: Invalid value: "A_B"`,
		},
		"a new object with a version": {
			func() error { _, err := configs.Create(ctx, c); return err },
			api.ErrBadRequest, "resourceVersion should not be set on objects to be created",
		},
		"an unknown kind": {
			func() error {
				_, err := s.Resources().Get(ctx, &v1.GetRequest{Kind: "Poodle", Name: "a"})
				return api.FromStatus(err)
			},
			api.ErrBadRequest, `no matches for kind "Poodle"`,
		},
		"no object at all": {
			func() error {
				_, err := s.Resources().Create(ctx, &v1.CreateRequest{Object: &v1.Object{}})
				return api.FromStatus(err)
			},
			api.ErrBadRequest, "the request holds no object",
		},
		"no metadata": {
			func() error {
				_, err := s.Resources().Create(ctx, &v1.CreateRequest{Object: api.Wrap(&v1.Pod{})})
				return api.FromStatus(err)
			},
			api.ErrBadRequest, "metadata",
		},
		"a selector that is none": {
			func() error { _, err := pods.List(ctx, client.ListOptions{LabelSelector: "a b"}); return err },
			api.ErrBadRequest, "unable to parse label selector",
		},
		"a field that cannot be selected": {
			func() error {
				_, err := pods.List(ctx, client.ListOptions{FieldSelector: "spec.color=red"})
				return err
			},
			api.ErrBadRequest, "field label not supported: spec.color",
		},
		"a namespace that every cluster has": {
			func() error {
				_, err := client.For[*v1.Namespace](s.Client).Delete(ctx, "", "default", client.DeleteOptions{})
				return err
			},
			api.ErrForbidden, `namespaces "default" is forbidden: this namespace may not be deleted`,
		},
		"an object that is too large": {
			func() error { _, err := pods.Create(ctx, big); return err },
			api.ErrTooLarge, "Request entity too large",
		},
		"a manifest that is too large": {
			func() error {
				_, _, _, err := s.Apply(ctx, bytes.Repeat([]byte(" "), 10<<20), client.ApplyOptions{})
				return err
			},
			api.ErrTooLarge, "the manifest has 10485760 bytes, the limit is 3145728",
		},
		"a message that is not even read": {
			func() error {
				_, _, _, err := s.Apply(ctx, bytes.Repeat([]byte(" "), 13<<20), client.ApplyOptions{})
				return err
			},
			api.ErrTooLarge, "larger than max",
		},
		"a status where there is none": {
			func() error { _, err := configs.UpdateStatus(ctx, c); return err },
			api.ErrUnimplemented, "configmaps have no status",
		},
		"a revision to come": {
			func() error { _, err := configs.GetAt(ctx, "default", "a", 1000); return err },
			api.ErrTimeout, "Too large resource version",
		},
		"a store that has been closed": {
			func() error { _, err := configs.Get(ctx, "default", "closed"); return err },
			api.ErrUnavailable, "shutting down",
		},
		"a bug in the server": {
			func() error { _, err := configs.Get(ctx, "default", "panic"); return err },
			api.ErrInternal, "failed to handle this request",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := tt.do()
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v: %s", err, tt.kind, tt.text)
			}
		})
	}
}

func TestAPanicOfAStreamIsAnError(t *testing.T) {
	bad := &badStore{Store: memstore.New()}
	s := startOn(t, bad, apiserver.Options{})
	bad.get = func(context.Context, string) error { panic("as ordered") }
	w := open[*v1.Pod](t.Context(), s.Client, client.WatchOptions{Namespace: "default", FieldSelector: "metadata.name=a"})
	defer w.stop()
	if _, err, _ := w.next(); !errors.Is(err, api.ErrInternal) {
		t.Errorf("got %v", err)
	}
}

// A full disk is an error of that write; the server goes on.
func TestAStoreThatCannotWriteSaysWhy(t *testing.T) {
	bad := &badStore{Store: memstore.New()}
	s := startOn(t, bad, apiserver.Options{})
	configs := client.For[*v1.ConfigMap](s.Client)
	bad.commit = func(store.Change) error { return errors.New("write store.db: no space left on device") }
	_, err := configs.Create(t.Context(), configMap("a"))
	if !errors.Is(err, api.ErrInternal) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("got %v", err)
	}
	bad.commit = nil
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("a")))
}

func TestATakenGeneratedNameIsReplacedByAnother(t *testing.T) {
	bad := &badStore{Store: memstore.New()}
	s := startOn(t, bad, apiserver.Options{})
	for taken, want := range map[int32]error{7: nil, 8: api.ErrAlreadyExists} {
		var tries atomic.Int32
		bad.commit = func(store.Change) error {
			if tries.Add(1) <= taken {
				return store.ErrConflict
			}
			return nil
		}
		c := configMap("")
		c.Metadata.GenerateName = "a-"
		if _, err := client.For[*v1.ConfigMap](s.Client).Create(t.Context(), c); !errors.Is(err, want) {
			t.Errorf("%d names were taken: %v", taken, err)
		}
	}
}

func TestAClientOfAnotherClusterIsNotServed(t *testing.T) {
	s := start(t)
	system, err := client.For[*v1.Namespace](s.Client).Get(t.Context(), "", api.NamespaceSystem)
	if err != nil {
		t.Fatal(err)
	}
	ours := client.For[*v1.Namespace](s.OfCluster(system.GetMetadata().GetUid()))
	if _, err := ours.Get(t.Context(), "", api.NamespaceDefault); err != nil {
		t.Errorf("the cluster that is meant: %v", err)
	}
	others := client.For[*v1.Namespace](s.OfCluster("another"))
	if _, err := others.Get(t.Context(), "", api.NamespaceDefault); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("get from another cluster: %v", err)
	}
	for _, err := range others.Watch(t.Context(), client.WatchOptions{}) {
		if !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("watch of another cluster: %v", err)
		}
		break
	}
}

func TestTooManyRequestsAreRefusedAtOnce(t *testing.T) {
	bad := &badStore{Store: memstore.New()}
	s := startOn(t, bad, apiserver.Options{MaxInFlight: 1})
	held, release := make(chan struct{}), make(chan struct{})
	bad.get = func(_ context.Context, key string) error {
		if strings.HasSuffix(key, "/slow") {
			close(held)
			<-release
		}
		return nil
	}
	configs := client.For[*v1.ConfigMap](s.Client)
	slow := make(chan error, 1)
	go func() { _, err := configs.Get(t.Context(), "default", "slow"); slow <- err }()
	<-held
	if _, err := configs.Get(t.Context(), "default", "a"); !errors.Is(err, api.ErrTooManyRequests) {
		t.Errorf("one more request: %v", err)
	}
	// Watches do not count.
	w := open[*v1.Pod](t.Context(), s.Client, client.WatchOptions{})
	defer w.stop()
	w.expect(t, synced, "")
	close(release)
	if err := <-slow; !errors.Is(err, api.ErrNotFound) {
		t.Errorf("the first request: %v", err)
	}
	if _, err := configs.Get(t.Context(), "default", "a"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("when it is over: %v", err)
	}
}

func TestTheLogTellsWritesAndNoSecrets(t *testing.T) {
	var log bytes.Buffer
	s := startOn(t, memstore.New(), apiserver.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	ctx := client.WithCause(t.Context(), "Rotated", "it was a month old")
	secrets := client.For[*v1.Secret](s.Client)
	must[*v1.Secret](t)(secrets.Create(ctx, &v1.Secret{Metadata: &v1.ObjectMeta{Name: "login"}, StringData: map[string]string{"password": "hunter2"}}))
	must[*v1.Secret](t)(secrets.Get(ctx, "default", "login"))
	_, _, _, err := s.Apply(ctx, []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"login"},"stringData":{"password":"hunter3"}}`), client.ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	generated := configMap("")
	generated.Metadata.GenerateName = "made-"
	must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](s.Client).Create(ctx, generated))
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	text := log.String()
	if strings.Contains(text, "hunter") || strings.Contains(text, "aHVudGVy") {
		t.Errorf("the log tells a secret:\n%s", text)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, want := range []string{"verb=Create", "resource=secrets", "name=login", "revision=9", "actor=tester", "reason=Rotated", `cause="it was a month old"`} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("no %s in %s", want, lines[0])
		}
	}
	if len(lines) != 3 || !strings.Contains(lines[2], "name=made-") {
		t.Errorf("want the three writes and no read:\n%s", text)
	}
}

func TestHealthAndReflectionAreServed(t *testing.T) {
	s := start(t)
	h := must[*healthpb.HealthCheckResponse](t)(healthpb.NewHealthClient(s.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "orch.v1.Resources"}))
	if h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v", h)
	}
	r, err := reflectionpb.NewServerReflectionClient(s.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := r.Recv()
	if err != nil || !strings.Contains(answer.String(), "orch.v1.Resources") || !strings.Contains(answer.String(), "orch.v1.Streams") {
		t.Errorf("reflection: %v, %v", answer, err)
	}
	if err := r.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("reflection ended with %v", err)
	}
}

func TestACancelledRequestIsNoFailureOfTheServer(t *testing.T) {
	bad := &badStore{Store: memstore.New()}
	s := startOn(t, bad, apiserver.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	bad.get = func(ctx context.Context, _ string) error { cancel(); <-ctx.Done(); return ctx.Err() }
	_, err := s.Resources().Get(ctx, &v1.GetRequest{Kind: "Pod", Name: "a"})
	if status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
}
