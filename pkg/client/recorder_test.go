package client

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func TestRecorderDropsTheOldestAndSaysSo(t *testing.T) {
	r := NewRecorder(New(nil, "tester"), "tester", "")
	var log bytes.Buffer
	r.log = slog.New(slog.NewTextHandler(&log, nil))
	pod := &v1.Pod{Metadata: &v1.ObjectMeta{Namespace: "default", Name: "p"}}
	for i := range maxPending + 10 {
		r.Event(t.Context(), pod, api.EventNormal, "Numbered", "event %d", i)
	}
	var got []string
	for h := r.next(); h != nil; h = r.next() {
		got = append(got, h.key.message)
	}
	if len(got) != maxPending || got[0] != "event 10" || got[len(got)-1] != fmt.Sprintf("event %d", maxPending+9) {
		t.Errorf("%d events, first %q, last %q; want %d, without the first 10", len(got), got[0], got[len(got)-1], maxPending)
	}
	if !strings.Contains(log.String(), "dropped=10") {
		t.Errorf("the log does not say how many were dropped: %s", log.String())
	}
	if len(r.waiting) != 0 {
		t.Errorf("%d events are remembered as waiting, want none", len(r.waiting))
	}
}
