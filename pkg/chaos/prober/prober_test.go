package prober

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	v1 "orch/proto/v1"
)

// answers stands for the network and a server: a status, or 0 where it never
// answers.
type answers func() int

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) {
	status := f()
	if status == 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Request: r, Header: http.Header{"Location": {"elsewhere"}}}, nil
}

// probe asks for so long, and returns what was counted.
func probe(t *testing.T, p *Prober, d time.Duration) *v1.ChaosProbeStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := p.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run: %v", err)
	}
	return p.Snapshot()
}

// Who asks ends with its process, and users do not.
func TestANewProberGoesOnWhereAnotherEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		since := time.Now()
		fine := answers(func() int {
			time.Sleep(20 * time.Millisecond)
			return http.StatusOK
		})
		first := New(&v1.ChaosProbe{Url: "http://web/"})
		first.client.Transport = answers(func() int { return http.StatusServiceUnavailable })
		before := probe(t, first, 2*time.Second+time.Millisecond)
		time.Sleep(5 * time.Second)
		next := New(&v1.ChaosProbe{Url: "http://web/"})
		next.Resume(before, since)
		if s := next.Snapshot(); s.GetRequests() != 21 || s.GetFailed() != 21 || s.GetUnasked() != 49 {
			t.Errorf("at first: %v", s)
		}
		next.client.Transport = fine
		s := probe(t, next, time.Second+50*time.Millisecond)
		if s.GetRequests() != 32 || s.GetFailed() != 21 || s.GetUnasked() != 49 || len(s.GetOutages()) != 1 || s.GetP50Microseconds() != 20_000 {
			t.Errorf("in the end: %v", s)
		}
		third := New(&v1.ChaosProbe{Url: "http://web/"})
		third.Resume(s, since)
		if again := third.Snapshot(); again.GetUnasked() != s.GetUnasked() || again.GetP50Microseconds() != 20_000 || again.GetMaxMicroseconds() != 20_000 {
			t.Errorf("a third: %v", again)
		}
	})
}

func TestAnOutageIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := New(&v1.ChaosProbe{Url: "http://web/"})
		p.client.Transport = answers(func() int {
			switch since := time.Since(began); {
			case since >= time.Second && since < 2*time.Second:
				return http.StatusServiceUnavailable
			case since >= 2500*time.Millisecond && since < 3*time.Second: // less than a second later
				return http.StatusInternalServerError
			case since >= 8*time.Second && since < 8100*time.Millisecond:
				return 0
			}
			time.Sleep(20 * time.Millisecond)
			return http.StatusFound // which is well, and not followed
		})
		s := probe(t, p, 10*time.Second+time.Millisecond)
		if s.GetRequests() != 100 || s.GetFailed() != 16 {
			t.Errorf("%d of %d failed, want 16 of 100", s.GetFailed(), s.GetRequests())
		}
		if len(s.GetOutages()) != 2 {
			t.Fatalf("outages: %v", s.GetOutages())
		}
		first, second := s.GetOutages()[0], s.GetOutages()[1]
		if from, to := first.GetStartTime().AsTime().Sub(began), first.GetEndTime().AsTime().Sub(began); first.GetFailed() != 15 || from != time.Second || to != 2900*time.Millisecond {
			t.Errorf("the first outage: %d from %v to %v", first.GetFailed(), from, to)
		}
		if from, to := second.GetStartTime().AsTime().Sub(began), second.GetEndTime().AsTime().Sub(began); second.GetFailed() != 1 || from != 8*time.Second || to != 9*time.Second {
			t.Errorf("the second outage: %d from %v to %v", second.GetFailed(), from, to)
		}
		if !strings.Contains(s.GetLastError(), "exceeded") {
			t.Errorf("last error %q", s.GetLastError())
		}
		if p50 := s.GetP50Microseconds(); p50 != 20_000 || s.GetMaxMicroseconds() != 20_000 {
			t.Errorf("median %d µs, most %d µs", p50, s.GetMaxMicroseconds())
		}
	})
}

func TestWhatIsHealthyIsForTheThresholdToSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(&v1.ChaosProbe{Url: "http://web/", PeriodMilliseconds: 1000, FailureThreshold: 2})
		p.client.Transport = answers(func() int { return http.StatusNotFound })
		probe(t, p, 500*time.Millisecond)
		if err := p.Healthy(); err != nil {
			t.Errorf("after one failure: %v", err)
		}
		probe(t, p, 500*time.Millisecond)
		if err := p.Healthy(); err == nil || !strings.Contains(err.Error(), "2 requests to http://web/ in a row have failed: HTTP probe failed with statuscode: 404") {
			t.Errorf("after two failures: %v", err)
		}
	})
}

func TestARealServerIsAsked(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte("ok"))
	}))
	defer server.Close()
	if err := New(&v1.ChaosProbe{Url: server.URL + "/healthz"}).ask(t.Context()); err != nil {
		t.Error(err)
	}
	if err := New(&v1.ChaosProbe{Url: server.URL}).ask(t.Context()); err == nil {
		t.Error("404 is well")
	}
	server.Close()
	if err := New(&v1.ChaosProbe{Url: server.URL}).ask(t.Context()); err == nil {
		t.Error("a server that is gone is well")
	}
}

func TestManyOutagesTakeNoMoreRoom(t *testing.T) {
	s := &v1.ChaosProbeStatus{}
	begin := time.Unix(0, 0)
	for i := range 3 * maxOutages {
		at := begin.Add(time.Duration(i) * time.Minute)
		Fail(s, at, at.Add(time.Second))
	}
	last := s.GetOutages()[maxOutages-1]
	if len(s.GetOutages()) != maxOutages || last.GetFailed() != 2*maxOutages+1 {
		t.Errorf("%d outages, the last with %d failures", len(s.GetOutages()), last.GetFailed())
	}
}

func TestQuantilesAreNearTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(int64(least), int64(time.Minute)), 1, 200).Draw(t, "durations")
		var h histogram
		for _, d := range all {
			h.add(time.Duration(d))
		}
		slices.Sort(all)
		before := time.Duration(0)
		for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
			exact := time.Duration(all[int(max(1, ceil(q*float64(len(all)))))-1])
			got := h.quantile(q)
			if got < exact-1 || float64(got) > growth*float64(exact)+1 {
				t.Fatalf("quantile %v is %v, want about %v", q, got, exact)
			}
			if got < before {
				t.Fatalf("quantile %v is %v, and a smaller one was %v", q, got, before)
			}
			before = got
		}
	})
	if got := (&histogram{}).quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
}

func ceil(f float64) float64 {
	if f != float64(int64(f)) {
		return float64(int64(f) + 1)
	}
	return f
}
