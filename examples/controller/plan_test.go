package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/controller/controllertest"
	v1 "orch/proto/v1"
)

var now = time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)

func preview(name, ttl string, age time.Duration) *v1.Deployment {
	labels := map[string]string{"preview": "true"}
	d := &v1.Deployment{
		Metadata: &v1.ObjectMeta{Namespace: "default", Name: name, Labels: labels, CreationTimestamp: timestamppb.New(now.Add(-age))},
		Spec: &v1.DeploymentSpec{
			Replicas: proto.Int32(1),
			Selector: &v1.LabelSelector{MatchLabels: labels},
			Template: &v1.PodTemplateSpec{Metadata: &v1.ObjectMeta{Labels: labels}, Spec: &v1.PodSpec{
				Containers: []*v1.Container{{Name: "app", Image: "recommend-service:1.3.0"}},
			}},
		},
	}
	if ttl != "" {
		d.Metadata.Annotations = map[string]string{annotation: ttl}
	}
	return d
}

func TestPlan(t *testing.T) {
	ending := preview("web", "1m", time.Hour)
	ending.Metadata.DeletionTimestamp = timestamppb.New(now)
	tests := []struct {
		name    string
		preview *v1.Deployment
		want    action
	}{
		{"a young one is looked at again when its time is over", preview("web", "1m", 20*time.Second), action{After: 40 * time.Second}},
		{"one whose time is over goes", preview("web", "1m", 61*time.Second), action{Delete: "Expired", Why: "previews may live 1m0s, and this one is 1m1s old"}},
		{"its last moment is not one too many", preview("web", "1m", time.Minute), action{Delete: "Expired", Why: "previews may live 1m0s, and this one is 1m0s old"}},
		{"one that does not say stays", preview("web", "", time.Hour), action{}},
		{"a misprint kills nobody", preview("web", "1 minute", time.Hour), action{}},
		{"who is going already is left alone", ending, action{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := plan(tt.preview, now); got != tt.want {
				t.Errorf("plan = %+v, want %+v", got, tt.want)
			}
		})
	}
}

// The janitor on a real API server. It comes when one preview is over its time
// already, and waits for the other; what is no preview it does not touch.
func TestTheJanitorCatchesUpAndWaits(t *testing.T) {
	c := controllertest.Start(t)
	deployments := client.For[*v1.Deployment](c.Client)
	service := preview("recommend-service", "1ms", 0)
	service.Metadata.Labels = map[string]string{"app": "recommend-service"}
	for _, d := range []*v1.Deployment{service, preview("late", "1ms", 0), preview("soon", "1s", 0), preview("stays", "1h", 0)} {
		if _, err := deployments.Create(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	c.Go(func(ctx context.Context) error {
		return newJanitor(c.Client.As("janitor"), "default", slog.New(slog.DiscardHandler)).Run(ctx)
	})
	gone := func(name string) bool {
		_, err := deployments.Get(t.Context(), "default", name)
		return errors.Is(err, api.ErrNotFound)
	}
	c.Eventually("both are gone", func() bool { return gone("late") && gone("soon") })
	if gone("stays") || gone("recommend-service") {
		t.Error("it deleted more than it may")
	}
	for e, err := range c.Client.History(t.Context(), &v1.HistoryRequest{Kind: "Deployment", Namespace: "default"}) {
		if err != nil {
			t.Fatal(err)
		}
		if cause := e.GetCause(); e.GetDeleted() && (cause.GetActor() != "janitor" || cause.GetReason() != "Expired" || cause.GetTrigger() == 0) {
			t.Errorf("%s was deleted because of %v", e.GetName(), cause)
		}
	}
}
