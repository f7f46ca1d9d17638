package apiserver

import (
	"github.com/prometheus/client_golang/prometheus"

	"orch/pkg/api"
)

// metrics are the server's figures, under kube-apiserver's names where it has
// the same.
type metrics struct {
	requests *prometheus.CounterVec   // verb, resource, code
	latency  *prometheus.HistogramVec // verb
	watches  *prometheus.GaugeVec     // resource
	// wakeups counts how often a watch found something in its topic.
	wakeups prometheus.Counter
}

func newMetrics(r prometheus.Registerer, s *Server) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests, by verb, resource and gRPC code.",
		}, []string{"verb", "resource", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Time that requests took, watches and streams not counted.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16), // 0.1 ms to 3.3 s
		}, []string{"verb"}),
		watches: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_registered_watchers", Help: "Open watches, by resource.",
		}, []string{"resource"}),
		wakeups: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apiserver_watch_wakeups_total", Help: "How often a watch found changes in its part of the log.",
		}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.latency, m.watches, m.wakeups,
			gauge("apiserver_current_inflight_requests", "Requests being served, watches and streams not counted.", func() float64 { return float64(len(s.inFlight)) }),
			gauge("apiserver_store_revision", "The newest revision of the store.", func() float64 { return float64(s.store.Revision()) }),
			gauge("apiserver_store_compacted_revision", "The revision that the log was last compacted to.", func() float64 { return float64(s.store.Compacted()) }),
		)
	}
	return m
}

func gauge(name, help string, f func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
}

// watching counts a watch until the returned function is called.
func (m *metrics) watching(k *api.Kind) (done func()) {
	g := m.watches.WithLabelValues(k.Plural)
	g.Inc()
	return g.Dec
}
