package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"orch/pkg/store/boltstore"
)

// commitHistogram is the time that commits take, fsync included, under etcd's
// name for it.
func commitHistogram(r prometheus.Registerer) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "store_backend_commit_duration_seconds", Help: "Time of a commit, which takes many changes.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14), // 0.5 ms to 4 s
	})
	r.MustRegister(h)
	return h
}

// storeGauges are the store's own figures.
func storeGauges(s *boltstore.Store) []prometheus.Collector {
	gauge := func(name, help string, f func(boltstore.Stats) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return f(s.Stats()) })
	}
	counter := func(name, help string, f func(boltstore.Stats) float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return f(s.Stats()) })
	}
	return []prometheus.Collector{
		gauge("store_size_bytes", "Size of the store's file.", func(s boltstore.Stats) float64 { return float64(s.FileBytes) }),
		gauge("store_log_entries", "Entries of the log that can be read.", func(s boltstore.Stats) float64 { return float64(s.Entries) }),
		gauge("store_watchers", "Watchers that read from memory.", func(s boltstore.Stats) float64 { return float64(s.Watchers) }),
		counter("store_commits_total", "Commits.", func(s boltstore.Stats) float64 { return float64(s.Commits) }),
		counter("store_changes_total", "Changes that were committed.", func(s boltstore.Stats) float64 { return float64(s.Changes) }),
		counter("store_wakeups_total", "Signals to watchers.", func(s boltstore.Stats) float64 { return float64(s.Wakeups) }),
		gauge("store_compaction_failed", "1 where the last compaction failed.", func(s boltstore.Stats) float64 {
			if s.CompactErr != nil {
				return 1
			}
			return 0
		}),
	}
}
