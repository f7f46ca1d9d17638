package agent

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the agent counts about itself.
type metrics struct {
	pods     prometheus.Gauge
	starts   prometheus.Counter
	restarts prometheus.Counter
	heal     prometheus.Histogram
	errors   *prometheus.CounterVec
}

// newMetrics registers the metrics with r, which may be nil.
func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		pods: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "orch_agent_pods", Help: "Pods that the agent works on.",
		}),
		starts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orch_agent_container_starts_total", Help: "Containers started.",
		}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "orch_agent_container_restarts_total", Help: "Containers started again after they had ended.",
		}),
		heal: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "orch_agent_heal_seconds",
			Help:    "From the end of a container's process to its replacement running, where no back-off was due.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 9),
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "orch_agent_runtime_errors_total", Help: "Calls of the container engine that failed.",
		}, []string{"operation"}),
	}
	if r != nil {
		r.MustRegister(m.pods, m.starts, m.restarts, m.heal, m.errors)
	}
	return m
}
