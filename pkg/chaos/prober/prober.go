// Package prober asks an HTTP address again and again, as a user would who never
// tires, and counts what that user sees.
//
// The one invariant: what it has counted says what it has asked; an answer that
// nobody waits for any more, because the prober was stopped, counts as nothing.
package prober

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "orch/proto/v1"
)

// Defaults of a ChaosProbe.
const (
	DefaultPeriod    = 100 * time.Millisecond
	DefaultTimeout   = time.Second
	DefaultThreshold = 3
)

// maxOutages bounds what is kept of outages: the last of them grows instead.
const maxOutages = 100

// maxUnderWay is how many requests wait for an answer at a time: a user who gets
// none for ten seconds does not ask a hundred times more.
const maxUnderWay = 64

// Prober asks one address.
//
// Concurrency: all methods may be called from several goroutines.
type Prober struct {
	url             string
	period, timeout time.Duration
	threshold       int
	client          *http.Client

	mu        sync.Mutex // guards what follows
	status    *v1.ChaosProbeStatus
	latencies histogram
	inARow    int // failures since the last success
}

// New returns a prober of what spec names.
func New(spec *v1.ChaosProbe) *Prober {
	p := &Prober{
		url:       spec.GetUrl(),
		period:    cmp.Or(time.Duration(spec.GetPeriodMilliseconds())*time.Millisecond, DefaultPeriod),
		timeout:   cmp.Or(time.Duration(spec.GetTimeoutMilliseconds())*time.Millisecond, DefaultTimeout),
		threshold: cmp.Or(int(spec.GetFailureThreshold()), DefaultThreshold),
		status:    &v1.ChaosProbeStatus{},
	}
	p.client = &http.Client{
		Timeout: p.timeout,
		// Each request makes its own connection, as those of many users would: one
		// that is kept would go on where a new one is refused.
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

// Resume begins with what another prober has counted since it began, and whose process
// has ended: what was due meanwhile is Unasked. It comes before Run. Latencies are of
// what is asked from now on, if that is anything, but for the greatest.
func (p *Prober) Resume(before *v1.ChaosProbeStatus, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = proto.CloneOf(before)
	p.status.Unasked = max(before.GetUnasked(), int64(time.Since(since)/p.period)-before.GetRequests())
}

// Run asks until ctx ends, and returns when no request is under way. It asks in
// each period, whether or not the answer before has come: who waits for a slow
// server before asking again does not see how many it keeps waiting.
func (p *Prober) Run(ctx context.Context) error {
	tick := time.NewTicker(p.period)
	defer tick.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	slots := make(chan struct{}, maxUnderWay)
	for {
		select {
		case slots <- struct{}{}:
			asking.Go(func() {
				defer func() { <-slots }()
				began := time.Now()
				err := p.ask(ctx)
				if ctx.Err() == nil {
					p.count(began, time.Since(began), err)
				}
			})
		default:
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask is one request; nil is an answer of 200 to 399 in time.
func (p *Prober) ask(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return err
	}
	answer, err := p.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20)); err != nil {
		return err
	}
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", answer.StatusCode)
	}
	return nil
}

// count enters one answer. A failure counts from when it was asked until it was
// known.
func (p *Prober) count(began time.Time, took time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Requests++
	if err == nil {
		p.inARow = 0
		p.latencies.add(took)
		return
	}
	p.inARow++
	s.Failed++
	s.LastError = err.Error()
	Fail(s, began, began.Add(took))
}

// outageGap is how much may be between two failures of one outage.
const outageGap = time.Second

// Fail enters a failure into the outages. They are merged where less than a second
// is between them.
func Fail(s *v1.ChaosProbeStatus, from, to time.Time) {
	if n := len(s.GetOutages()); n > 0 {
		last := s.GetOutages()[n-1]
		if from.Sub(last.GetEndTime().AsTime()) < outageGap || n == maxOutages {
			last.Failed++
			if to.After(last.GetEndTime().AsTime()) {
				last.EndTime = timestamppb.New(to)
			}
			if from.Before(last.GetStartTime().AsTime()) {
				last.StartTime = timestamppb.New(from)
			}
			return
		}
	}
	s.Outages = append(s.Outages, &v1.ChaosOutage{StartTime: timestamppb.New(from), EndTime: timestamppb.New(to), Failed: 1})
}

// Snapshot is what was counted so far. Latencies are those of requests that did
// not fail.
func (p *Prober) Snapshot() *v1.ChaosProbeStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := proto.CloneOf(p.status)
	if p.latencies.total > 0 {
		s.P50Microseconds = p.latencies.quantile(0.50).Microseconds()
		s.P99Microseconds = p.latencies.quantile(0.99).Microseconds()
		s.MaxMicroseconds = max(s.GetMaxMicroseconds(), p.latencies.max.Microseconds())
	}
	return s
}

// Healthy says that fewer requests in a row have failed than the threshold; else
// the error says what the last answered.
func (p *Prober) Healthy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inARow < p.threshold {
		return nil
	}
	return fmt.Errorf("%d requests to %s in a row have failed: %w", p.inARow, p.url, errors.New(p.status.GetLastError()))
}
