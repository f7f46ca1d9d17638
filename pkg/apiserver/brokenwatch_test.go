package apiserver_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/apiserver"
	"orch/pkg/client"
	"orch/pkg/store/memstore"
	v1 "orch/proto/v1"
)

// broken is a story with a watch of ConfigMaps, in virtual time.
func broken(t *testing.T, story func(t *testing.T, s *server, w watch[*v1.ConfigMap])) {
	synctest.Test(t, func(t *testing.T) {
		s, err := newServer(memstore.New(), apiserver.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer closed(t, s)
		w := open[*v1.ConfigMap](t.Context(), s.Client, client.WatchOptions{})
		defer w.stop()
		w.expect(t, synced, "")
		story(t, s, w)
	})
}

func (s *server) breakWatches(lasts time.Duration, f *v1.ChaosFault) {
	s.api.BreakWatches([]*v1.ChaosInjection{{
		Metadata: &v1.ObjectMeta{Name: "x-1-1", Namespace: "default"},
		Spec:     &v1.ChaosInjectionSpec{Fault: f, Until: timestamppb.New(time.Now().Add(lasts))},
	}})
}

func TestADelayedWatchHearsOfEachChangeLater(t *testing.T) {
	for name, tt := range map[string]struct {
		actors []string
		want   time.Duration
	}{"everybody's": {nil, 5 * time.Second}, "its own": {[]string{"tester"}, 5 * time.Second}, "another's": {[]string{"apiserver"}, 0}} {
		t.Run(name, func(t *testing.T) {
			broken(t, func(t *testing.T, s *server, w watch[*v1.ConfigMap]) {
				s.breakWatches(8*time.Second, &v1.ChaosFault{Type: api.FaultDelayWatches, DelayMilliseconds: 5000, Actors: tt.actors})
				for _, change := range []struct {
					name string
					want time.Duration
				}{{"delayed", tt.want}, {"until-the-fault-is-over", min(tt.want, 3*time.Second)}, {"afterwards", 0}} {
					began := time.Now()
					must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](s.Client).Create(t.Context(), configMap(change.name)))
					w.expect(t, added, change.name)
					if took := time.Since(began); took != change.want { // virtual
						t.Errorf("%s: heard of after %v, want %v", change.name, took, change.want)
					}
				}
			})
		})
	}
}

// Also where nothing would have been sent: whoever watches goes on from what it knows,
// and not from what it may have missed.
func TestADroppedWatchEndsWithItsFault(t *testing.T) {
	for _, change := range []bool{false, true} {
		broken(t, func(t *testing.T, s *server, w watch[*v1.ConfigMap]) {
			time.Sleep(time.Second)
			s.breakWatches(3*time.Second, &v1.ChaosFault{Type: api.FaultDropWatches})
			began := time.Now()
			if change {
				must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](s.Client).Create(t.Context(), configMap("dropped")))
			}
			e, err, _ := w.next()
			if !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "this watch was dropped by chaosinjection/x-1-1") {
				t.Fatalf("with a change: %v: got %v, %v", change, e, err)
			}
			if took := time.Since(began); took != 3*time.Second { // virtual
				t.Errorf("with a change: %v: it ended after %v", change, took)
			}
		})
	}
}
