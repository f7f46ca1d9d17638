package prober

import (
	"math"
	"time"
)

// Buckets grow by a twentieth, from 10 µs to more than an hour.
const (
	buckets = 420
	growth  = 1.05
	least   = 10 * time.Microsecond
)

// histogram counts durations in buckets, so that it takes the same room however
// many there are. What it answers is at most a twentieth too much.
type histogram struct {
	counts [buckets]int64
	total  int64
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	i := 0
	if d > least {
		i = min(buckets-1, int(math.Ceil(math.Log(float64(d)/float64(least))/math.Log(growth))))
	}
	h.counts[i]++
	h.total++
	h.max = max(h.max, d)
}

// quantile is what a share q of the durations does not exceed; 0 where there are
// none.
func (h *histogram) quantile(q float64) time.Duration {
	rank, seen := int64(math.Ceil(q*float64(h.total))), int64(0)
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return min(h.max, time.Duration(float64(least)*math.Pow(growth, float64(i))))
		}
	}
	return 0
}
