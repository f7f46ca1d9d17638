package event

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "orch/proto/v1"
)

func TestRemaining(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	for name, tt := range map[string]struct {
		event *v1.Event
		want  time.Duration
	}{
		"it stays for its time":                   {&v1.Event{LastTimestamp: ago(20 * time.Minute)}, 40 * time.Minute},
		"it goes after that":                      {&v1.Event{LastTimestamp: ago(time.Hour)}, 0},
		"that it happened again counts":           {&v1.Event{FirstTimestamp: ago(3 * time.Hour), LastTimestamp: ago(time.Minute)}, 59 * time.Minute},
		"without other times its creation counts": {&v1.Event{Metadata: &v1.ObjectMeta{CreationTimestamp: ago(time.Minute)}}, 59 * time.Minute},
		"the newer form of events has one time":   {&v1.Event{EventTime: ago(time.Minute)}, 59 * time.Minute},
		"one from the future is new":              {&v1.Event{LastTimestamp: ago(-24 * time.Hour)}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Remaining(tt.event, time.Hour, now); got != tt.want {
				t.Errorf("remaining %v, want %v", got, tt.want)
			}
		})
	}
}
