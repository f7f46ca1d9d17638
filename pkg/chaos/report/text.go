package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"orch/pkg/invariant"
)

// missing stands for a step that a recovery did without.
const missing = "-"

// Text writes the report for a terminal of 100 columns.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "chaosexperiment/%s in namespace %s: %s, seed %d\n", r.Experiment, r.Namespace, r.Fault, r.Seed)
	state := r.Phase
	if r.SoFar {
		state += ", and what follows is so far"
	}
	if r.Message != "" {
		state += ": " + r.Message
	}
	fmt.Fprintf(&b, "%s\n", state)
	if r.Start.Unix() <= 0 {
		_, err := fmt.Fprintf(w, "%sIt has not begun.\n", b.String())
		return err
	}
	fmt.Fprintf(&b, "%s to %s (%s), %d injections\n", r.Start.Format("2006-01-02 15:04:05"), r.End.Format("15:04:05"), r.End.Sub(r.Start).Round(time.Second), len(r.Injections))
	if r.LogFrom > 0 {
		fmt.Fprintf(&b, "The log begins at revision %d, later than the experiment: what was before is not told.\n", r.LogFrom)
	}
	fmt.Fprintf(&b, "\n%-5s %8s  %-30s", "ROUND", "AT", "TARGET")
	for _, s := range Steps {
		fmt.Fprintf(&b, " %8s", strings.ToUpper(string(s)))
	}
	b.WriteString("\n")
	for _, i := range r.Injections {
		at := missing
		if !i.Injected.IsZero() {
			at = "+" + Seconds(i.Injected.Sub(r.Start).Seconds())
		}
		fmt.Fprintf(&b, "%-5d %8s  %-30s%s", i.Round, at, shorten(i.Target, 30), steps(i.Steps))
		switch {
		case i.Phase == "Failed":
			b.WriteString("\n       failed: " + i.Message)
		case i.Noticed && !i.Recovered:
			b.WriteString("\n       not ready again")
		}
		b.WriteString("\n")
	}
	for _, q := range []struct {
		name string
		of   func(Summary) float64
	}{{"p50", func(s Summary) float64 { return s.P50 }}, {"p95", func(s Summary) float64 { return s.P95 }}, {"max", func(s Summary) float64 { return s.Max }}} {
		of := map[Step]float64{}
		for _, s := range r.Summary {
			of[s.Step] = q.of(s)
		}
		if len(of) > 0 {
			fmt.Fprintf(&b, "%-5s %8s  %-30s%s\n", q.name, "", "", steps(of))
		}
	}
	b.WriteString("\n")
	for _, l := range r.losses() {
		b.WriteString(l + "\n")
	}
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "  rev %-6d %-7s %s %s\n", v.Revision, v.Class, v.Object, v.Broken)
		fmt.Fprintf(&b, "             because %s %s\n", v.Cause.Object, v.Cause.Text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// losses are the sentences about what users lost.
func (r *Report) losses() (lines []string) {
	for _, w := range r.Workloads {
		lines = append(lines, fmt.Sprintf("Lost: %.1f of %.1f replica-seconds of %s (%.2f %%); %d ready pods at the fewest", w.Lost, w.Wanted, w.Name, 100*w.Lost/w.Wanted, w.Fewest))
	}
	if p := r.Probe; p != nil {
		share := 100 * float64(p.Failed) / float64(max(1, p.Requests))
		lines = append(lines, fmt.Sprintf("Requests: %d of %d failed (%.2f %%), in %d outages; p50 %s, p99 %s, max %s", p.Failed, p.Requests, share, len(p.Outages), Seconds(p.P50), Seconds(p.P99), Seconds(p.Max)))
	}
	broken := map[invariant.Class]int{}
	for _, v := range r.Violations {
		broken[v.Class]++
	}
	return append(lines, fmt.Sprintf("Invariants: %d of safety broken, %d promises", broken[invariant.Safety], broken[invariant.Promise]))
}

func steps(of map[Step]float64) string {
	var b strings.Builder
	for _, s := range Steps {
		text := missing
		if t, ok := of[s]; ok {
			text = Seconds(t)
		}
		fmt.Fprintf(&b, " %8s", text)
	}
	return b.String()
}

// Seconds writes a duration as shortly as it can be compared: 12ms, 1.25s, 95s.
func Seconds(s float64) string {
	switch {
	case s < 0.9995:
		return fmt.Sprintf("%.0fms", 1000*s)
	case s < 10:
		return fmt.Sprintf("%.2fs", s)
	case s < 100:
		return fmt.Sprintf("%.1fs", s)
	}
	return fmt.Sprintf("%.0fs", s)
}

// shorten keeps the beginning and, as names differ there, the end.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n/2-1] + "…" + s[len(s)-n/2:]
}
