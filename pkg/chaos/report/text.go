package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"orch/pkg/api"
	"orch/pkg/invariant"
)

// missing stands for a step that a recovery did without.
const missing = "-"

// nameWidth is how much there is of a name.
const nameWidth = 30

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
	fmt.Fprintf(&b, "%s to %s (%s), %s\n", r.Start.Local().Format("2006-01-02 15:04:05"), r.End.Local().Format("15:04:05"), r.End.Sub(r.Start).Round(time.Second), api.Count(len(r.Injections), "injection"))
	if r.LogFrom > 0 {
		fmt.Fprintf(&b, "The log begins at revision %d, later than the experiment: what was before is not told.\n", r.LogFrom)
	}
	if r.OnlyNamespace {
		fmt.Fprintf(&b, "Only namespace %s is told of, as you may not read the rest: no node, and no other namespace.\n", r.Namespace)
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
		fmt.Fprintf(&b, "%-5d %8s  %-30s%s", i.Round, at, shorten(i.Target, nameWidth), steps(i.Steps))
		if i.Note != "" {
			b.WriteString("\n       " + i.Note)
		}
		b.WriteString("\n")
	}
	for n, name := range []string{"p50", "p95", "max"} {
		of := map[Step]float64{}
		for _, s := range r.Summary {
			of[s.Step] = []float64{s.P50, s.P95, s.Max}[n]
		}
		if len(of) > 0 {
			fmt.Fprintf(&b, "%-5s %8s  %-30s%s\n", name, "", "", steps(of))
		}
	}
	b.WriteString("\n")
	for _, l := range r.losses() {
		b.WriteString(l + "\n")
	}
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "  rev %-6d %-7s %s\n", v.Revision, v.Class, r.broken(v))
		fmt.Fprintf(&b, "             because %s\n", because(v, "\n             "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// losses are the sentences about what users lost.
func (r *Report) losses() (lines []string) {
	for _, w := range r.Workloads {
		lines = append(lines, fmt.Sprintf("Lost: %s of %s replica-seconds of %s (%s %%); %s at the fewest", three(w.Lost), three(w.Wanted), w.Name, three(100*w.Lost/w.Wanted), api.Count(int(w.Fewest), "ready pod")))
	}
	if p := r.Probe; p != nil {
		share := 100 * float64(p.Failed) / float64(max(1, p.Requests))
		line := fmt.Sprintf("Requests: %d of %d failed (%s %%), in %s", p.Failed, p.Requests, three(share), api.Count(len(p.Outages), "outage"))
		if p.Failed < p.Requests { // latencies are of those that did not fail
			line += fmt.Sprintf("; p50 %s, p99 %s, max %s", Seconds(p.P50), Seconds(p.P99), Seconds(p.Max))
		}
		if p.Unasked > 0 {
			line += fmt.Sprintf("; of %d more nothing is known: the API server, which asks, was away", p.Unasked)
		}
		lines = append(lines, line)
	}
	broken := map[invariant.Class]int{}
	for _, v := range r.Violations {
		broken[v.Class]++
	}
	return append(lines, fmt.Sprintf("Invariants: %d of safety broken, %s", broken[invariant.Safety], api.Count(broken[invariant.Promise], "promise")))
}

// broken says what was wrong, and a promise for how long.
func (r *Report) broken(v *invariant.Violation) string {
	where, lasted := "", ""
	if v.Namespace != "" && v.Namespace != r.Namespace {
		where = " in namespace " + v.Namespace
	}
	if !v.Ended.IsZero() {
		lasted = ", for " + Seconds(v.Ended.Sub(v.Time).Seconds())
	}
	return v.Object + where + " " + v.Broken + lasted
}

// because says what broke it, and which injections the log names for that, each behind
// a separator.
func because(v *invariant.Violation, separator string) string {
	text := v.Cause.Object + " " + v.Cause.Text
	for s := v.Cause; s != nil; s = s.Because {
		if strings.HasPrefix(s.Object, "chaosinjection/") && !strings.Contains(text, s.Object) {
			text += separator + "← " + s.Object + " " + s.Text
		}
		for _, m := range s.Meanwhile {
			text += separator + "~ meanwhile " + m.Object + ": " + m.Text
		}
	}
	return text
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

// three writes a number so that its first three digits show, and no more than they.
func three(n float64) string {
	digits := 3
	for bound := 0.9995; digits > 0 && (n >= bound || n == 0); bound *= 10 {
		digits--
	}
	return strconv.FormatFloat(n, 'f', digits, 64)
}

// Seconds writes a duration as shortly as it can be compared: 12ms, 1.25s, 95s.
func Seconds(s float64) string {
	if s < 0.9995 {
		return fmt.Sprintf("%.0fms", 1000*s)
	}
	return three(s) + "s"
}

// shorten keeps the beginning and, as names differ there, the end.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n/2-1] + "…" + s[len(s)-n/2:]
}
