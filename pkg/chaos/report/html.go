package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"time"

	"orch/pkg/invariant"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"seconds": Seconds,
	"step":    func(of map[Step]float64, s Step) string { return Seconds(of[s]) },
	"has":     func(of map[Step]float64, s Step) bool { _, ok := of[s]; return ok },
	"broken":  (*Report).broken,
	"because": because,
	"day":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") },
	"safety":  func(v *invariant.Violation) bool { return v.Class == invariant.Safety },
}).Parse(pageText))

// The picture's measures, in its own units.
const (
	pictureWidth = 1000
	labelWidth   = 240
	laneHeight   = 22
	curveHeight  = 70
)

// picture is the timeline.
type picture struct {
	Width, Height int
	Ticks         []tick
	Lanes         []lane
	Curves        []curve
	Failures      []bar // of requests, over the whole height
	Left, Right   int
}

type tick struct {
	X            float64
	Text, Anchor string
}

type lane struct {
	Y    int
	Name string
	Bars []bar
}

type bar struct {
	X, Width  float64
	Y, Height int // in its lane
	Class     string
	Title     string
}

type curve struct {
	Y, Height int
	Name      string
	Most      int32
	Ready     string // points of a polyline
	Wanted    string
	Area      string
}

// HTML writes the report as one page that needs nothing else.
func (r *Report) HTML(w io.Writer) error {
	return page.Execute(w, map[string]any{"R": r, "P": r.draw(), "Steps": Steps, "Losses": r.losses()})
}

func (r *Report) draw() *picture {
	p := &picture{Width: pictureWidth, Left: labelWidth, Right: pictureWidth - 10}
	end := r.End
	for _, i := range r.Injections {
		if s, ok := i.Steps["ready"]; ok {
			if back := i.Injected.Add(time.Duration(s * float64(time.Second))); back.After(end) {
				end = back
			}
		}
	}
	whole := max(end.Sub(r.Start).Seconds(), 0.001)
	x := func(t time.Time) float64 {
		share := min(1, max(0, t.Sub(r.Start).Seconds()/whole))
		return float64(p.Left) + share*float64(p.Right-p.Left)
	}
	step := math.Pow(2, math.Floor(math.Log2(whole))-2) // so that there are four to eight, and short texts
	for n := 0.0; (n+0.5)*step < whole; n++ {           // more is too near to the end
		p.Ticks = append(p.Ticks, tick{float64(p.Left) + n*step/whole*float64(p.Right-p.Left), fmt.Sprintf("+%.3gs", n*step), "middle"})
	}
	p.Ticks = append(p.Ticks, tick{float64(p.Right), "+" + Seconds(whole), "end"})
	y := 30
	lanes := map[string]int{}
	for _, i := range r.Injections {
		if i.Injected.IsZero() {
			continue
		}
		at, ok := lanes[i.Target]
		if !ok {
			at = len(p.Lanes)
			lanes[i.Target] = at
			p.Lanes = append(p.Lanes, lane{Y: y, Name: shorten(i.Target, nameWidth)})
			y += laneHeight
		}
		p.Lanes[at].Bars = append(p.Lanes[at].Bars, i.bars(x, end)...)
	}
	for _, w := range r.Workloads {
		y += 10
		c := curve{Y: y, Height: curveHeight, Name: shorten(w.Name, nameWidth), Most: 1}
		for _, point := range w.Points {
			c.Most = max(c.Most, point.Wanted, point.Ready)
		}
		c.Ready = c.line(w.Points, x, end, func(p Point) int32 { return p.Ready })
		c.Wanted = c.line(w.Points, x, end, func(p Point) int32 { return p.Wanted })
		c.Area = fmt.Sprintf("%s %.1f,%d %d,%d", c.Ready, x(end), y+curveHeight, p.Left, y+curveHeight)
		p.Curves = append(p.Curves, c)
		y += curveHeight
	}
	if r.Probe != nil {
		for _, o := range r.Probe.Outages {
			from := x(o.Start)
			p.Failures = append(p.Failures, bar{from, max(1.5, x(o.End)-from), 0, 0, "failed", fmt.Sprintf("%d requests failed, for %s", o.Failed, Seconds(o.End.Sub(o.Start).Seconds()))})
		}
	}
	p.Height = y + 12
	return p
}

// bars are how long it was broken, and how long until it was ready again.
func (i *Injection) bars(x func(time.Time) float64, end time.Time) (bars []bar) {
	from := x(i.Injected)
	healed := i.Healed
	if healed.IsZero() {
		healed = i.Injected
	}
	back, text := end, "not ready again"
	if s, ok := i.Steps["ready"]; ok {
		back, text = i.Injected.Add(time.Duration(s*float64(time.Second))), "ready again after "+Seconds(s)
	}
	if i.Recovered || i.Note == notAgain {
		bars = append(bars, bar{from, max(2, x(back)-from), 10, 8, "recovering", i.Fault + " of " + i.Target + ": " + text})
	}
	return append(bars, bar{from, max(3, x(healed)-from), 3, 7, "broken", fmt.Sprintf("round %d: %s of %s", i.Round, i.Fault, i.Target)})
}

// line is a curve in steps.
func (c curve) line(points []Point, x func(time.Time) float64, end time.Time, of func(Point) int32) string {
	var b strings.Builder
	height := func(n int32) float64 {
		return float64(c.Y+c.Height) - float64(n)/float64(c.Most)*float64(c.Height-6)
	}
	for n, p := range points {
		if n > 0 {
			fmt.Fprintf(&b, "%.1f,%.1f ", x(p.Time), height(of(points[n-1])))
		}
		fmt.Fprintf(&b, "%.1f,%.1f ", x(p.Time), height(of(p)))
	}
	if n := len(points); n > 0 {
		fmt.Fprintf(&b, "%.1f,%.1f", x(end), height(of(points[n-1])))
	}
	return b.String()
}
