// Package printer turns objects into what a terminal shows: kubectl's tables,
// and the formats of -o.
//
// The one invariant: columns, their order and their words are kubectl's, so
// that a script which cuts columns works on both. Read next: columns.go.
package printer

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// column is one column of a kind's table.
type column struct {
	title string
	// wide columns appear with -o wide only.
	wide bool
	cell func(o api.Object, now time.Time) string
}

// Table prints objects as rows. Headers come once, before the first row, so
// that a watch can go on adding rows.
//
// Concurrency: a Table belongs to one goroutine.
type Table struct {
	Out io.Writer
	// Wide shows the columns of -o wide.
	Wide bool
	// WithNamespace begins each row with the namespace.
	WithNamespace bool
	// WithKind writes names as type/name, for answers of several kinds.
	WithKind bool
	// ShowLabels ends each row with all labels.
	ShowLabels bool
	// LabelColumns are labels that get a column each.
	LabelColumns []string
	NoHeaders    bool

	widths []int
	kind   *api.Kind
}

// gap between columns, as kubectl has it.
const gap = 3

// Print adds rows for objects of one kind. Rows of a later call keep the widths
// of the earlier ones where they fit.
func (t *Table) Print(k *api.Kind, objects []api.Object, now time.Time) error {
	cols := t.columns(k)
	var rows [][]string
	if t.kind != k {
		t.kind, t.widths = k, nil
		if !t.NoHeaders {
			var head []string
			for _, c := range cols {
				head = append(head, c.title)
			}
			rows = append(rows, head)
		}
	}
	for _, o := range objects {
		var row []string
		for _, c := range cols {
			row = append(row, c.cell(o, now))
		}
		rows = append(rows, row)
	}
	return t.write(rows)
}

func (t *Table) columns(k *api.Kind) []column {
	var cols []column
	if t.WithNamespace && k.Namespaced {
		cols = append(cols, column{title: "NAMESPACE", cell: func(o api.Object, _ time.Time) string {
			return o.GetMetadata().GetNamespace()
		}})
	}
	for _, c := range columnsOf(k) {
		if c.wide && !t.Wide {
			continue
		}
		if c.title == "NAME" && t.WithKind {
			c.cell = func(o api.Object, _ time.Time) string { return Name(o) }
		}
		cols = append(cols, c)
	}
	for _, l := range t.LabelColumns {
		title := strings.ToUpper(l[strings.LastIndex(l, "/")+1:])
		cols = append(cols, column{title: title, cell: func(o api.Object, _ time.Time) string {
			return o.GetMetadata().GetLabels()[l]
		}})
	}
	if t.ShowLabels {
		cols = append(cols, column{title: "LABELS", cell: func(o api.Object, _ time.Time) string {
			return FormatMap(o.GetMetadata().GetLabels())
		}})
	}
	return cols
}

func (t *Table) write(rows [][]string) error {
	for _, r := range rows {
		for i, c := range r {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], len([]rune(c)))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", t.widths[i]-len([]rune(c))+gap))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(t.Out, b.String())
	return err
}

// Rows writes a small table that is not of objects: a header and rows.
func Rows(w io.Writer, rows [][]string) error {
	return (&Table{Out: w}).write(rows)
}

// Name is TYPE/NAME, or TYPE.GROUP/NAME, as -o name prints it.
func Name(o api.Object) string {
	k := api.KindOf(o)
	s := k.Singular
	if k.Group != "" {
		s += "." + k.Group
	}
	return s + "/" + o.GetMetadata().GetName()
}

// FormatMap is a map as key=value pairs in order, "<none>" when empty.
func FormatMap(m map[string]string) string { return cmp.Or(strings.Join(Pairs(m, "="), ","), "<none>") }

// Pairs are the entries of a map in order.
func Pairs(m map[string]string, sep string) []string {
	var out []string
	for k, v := range m {
		out = append(out, k+sep+v)
	}
	slices.Sort(out)
	return out
}

// Selector is a selector as a person writes it.
func Selector(ls *v1.LabelSelector) string {
	s, err := api.SelectorOf(ls)
	if err != nil {
		return "<invalid>"
	}
	return cmp.Or(s.String(), "<none>")
}

// Age is how long ago t was, as kubectl writes ages; "<unknown>" for no time.
func Age(t *v1Time, now time.Time) string {
	if t == nil || !t.IsValid() {
		return "<unknown>"
	}
	return Duration(now.Sub(t.AsTime()))
}

// Duration is d in at most two units, as kubectl writes it: 45s, 3m12s, 5h,
// 2d3h, 400d. The steps are those of apimachinery's duration.HumanDuration.
func Duration(d time.Duration) string {
	s := int(d.Seconds())
	two := func(a int, ua string, b int, ub string) string {
		if b == 0 {
			return fmt.Sprintf("%d%s", a, ua)
		}
		return fmt.Sprintf("%d%s%d%s", a, ua, b, ub)
	}
	m, h, days := s/60, s/3600, s/86400
	switch {
	case s < -1:
		return "<invalid>"
	case s < 0:
		return "0s"
	case s < 120:
		return fmt.Sprintf("%ds", s)
	case m < 10:
		return two(m, "m", s%60, "s")
	case m < 180:
		return fmt.Sprintf("%dm", m)
	case h < 8:
		return two(h, "h", m%60, "m")
	case h < 48:
		return fmt.Sprintf("%dh", h)
	case days < 8:
		return two(days, "d", h%24, "h")
	case days < 365*2:
		return fmt.Sprintf("%dd", days)
	case days < 365*8:
		return two(days/365, "y", days%365, "d")
	}
	return fmt.Sprintf("%dy", days/365)
}
