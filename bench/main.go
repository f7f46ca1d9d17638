// Command bench measures Orch beside its peers, in one run on one machine, and
// prints medians and ratios: what a figure is worth shows only next to another
// that the same noise has hit.
//
//	go run ./bench              everything (needs Docker, and bin/ from make build)
//	go run ./bench -only heal   one part; -only=? lists them
//	go run ./bench -only falsealarm -alarms 10m
//
// The one invariant: Orch and peer do the same work, measured from outside by
// the same clock. Read next: heal.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is one run.
type bench struct {
	bin    string
	rounds int
	alarms time.Duration
	rows   []row
}

// row is one line of the table.
type row struct {
	what       string
	orch, peer string
	peerName   string
	// ratio is Orch's figure by the peer's; 0 where there is no peer.
	ratio float64
	// target says what the ratio (or the figure) should be, and ok whether it
	// is.
	target string
	ok     bool
}

func main() {
	initLab()
	b := &bench{}
	if len(os.Args) == 2 && os.Args[1] == serveProbes {
		serve()
		return
	}
	if len(os.Args) > 1 && (os.Args[1] == trafficSink || os.Args[1] == trafficSource) {
		traffic(os.Args[1:])
		return
	}
	only := flag.String("only", "", "measure only this: "+strings.Join(names(b.parts()), ", "))
	flag.StringVar(&b.bin, "bin", "bin", "folder with the three binaries")
	flag.IntVar(&b.rounds, "rounds", 7, "how often each thing is measured")
	flag.DurationVar(&b.alarms, "alarms", time.Minute, "how long false alarms are counted; ten minutes say more")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) error {
	var err error
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.rounds < 5 {
		return errors.New("-rounds must be at least 5: a median of fewer says little")
	}
	parts := b.parts()
	if only != "" && !slices.Contains(names(parts), only) {
		return fmt.Errorf("-only %q: use one of %s", only, strings.Join(names(parts), ", "))
	}
	begin := time.Now()
	var failed []error
	for _, p := range parts {
		if only != "" && p.name != only || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(os.Stderr, "%4.0fs  measuring %s ...\n", time.Since(begin).Seconds(), p.name)
		if err := p.run(ctx); err != nil { // what the others measure is worth no less
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	b.print(time.Since(begin))
	return errors.Join(failed...)
}

// part is something that can be measured by itself.
type part struct {
	name string
	run  func(context.Context) error
}

func (b *bench) parts() []part {
	return []part{
		{"store", b.store},
		{"grpc", b.grpc},
		{"why", b.why},
		{"probes", b.probes},
		{"heal", b.heal},
		{"failover", b.failover},
		{"start", b.start},
		{"join", b.join},
		{"network", b.network},
		{"exec", b.exec},
		{"logs", b.logs},
		{"idle", b.idle},
		{"lab", b.lab},
		{"falsealarm", b.falsealarm},
	}
}

func names(parts []part) []string {
	var all []string
	for _, p := range parts {
		all = append(all, p.name)
	}
	return all
}

// print writes the table.
func (b *bench) print(took time.Duration) {
	cells := [][]string{{"what", "orch", "peer", "", "ratio", "target", ""}}
	for _, r := range b.rows {
		ratio, verdict := "", "MISSED"
		if r.ratio != 0 {
			ratio = fmt.Sprintf("%.2f", r.ratio)
		}
		if r.ok {
			verdict = "met"
		}
		cells = append(cells, []string{r.what, r.orch, r.peer, r.peerName, ratio, r.target, verdict})
	}
	widths := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, c := range line {
			widths[i] = max(widths[i], len([]rune(c)))
		}
	}
	fmt.Printf("medians of %d rounds, measured in %v\n\n", b.rounds, took.Round(time.Second))
	for _, line := range cells {
		var s strings.Builder
		for i, c := range line {
			s.WriteString(c + strings.Repeat(" ", widths[i]-len([]rune(c))+2))
		}
		fmt.Println(strings.TrimRight(s.String(), " "))
	}
}

// atMost adds a row whose ratio Orch/peer should be at most limit.
func (b *bench) atMost(what string, orch time.Duration, peerName string, peer time.Duration, limit float64) {
	ratio := float64(orch) / float64(peer)
	b.rows = append(b.rows, row{what, ms(orch), ms(peer), peerName, ratio, fmt.Sprintf("≤ %.2f", limit), ratio <= limit})
}

// atLeast adds a row of rates whose ratio Orch/peer should be at least limit.
func (b *bench) atLeast(what string, orch float64, peerName string, peer, limit float64) {
	b.compared(what, comparison{orch, peer, orch / peer}, peerName, limit)
}

// compared adds a row of rates of two that took turns.
func (b *bench) compared(what string, c comparison, peerName string, limit float64) {
	b.rows = append(b.rows, row{what, rate(c.orch), rate(c.peer), peerName, c.ratio, fmt.Sprintf("≥ %.2f", limit), c.ratio >= limit})
}

// under adds a row of a figure without a peer.
func (b *bench) under(what, unit string, figure, limit float64) {
	b.rows = append(b.rows, row{what: what, orch: fmt.Sprintf("%.2f %s", figure, unit), target: fmt.Sprintf("< %g %s", limit, unit), ok: figure < limit})
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func rate(f float64) string {
	if f < 100 {
		return fmt.Sprintf("%.2f/s", f)
	}
	return fmt.Sprintf("%.0f/s", f)
}

// median of an uneven or even number of figures; the upper of the middle two.
func median[T int64 | float64 | time.Duration](v []T) T {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}
