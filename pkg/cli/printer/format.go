package printer

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"

	"orch/pkg/api"
	"orch/pkg/api/manifest"
	"orch/pkg/cli/jsonpath"
)

// Printer prints objects in one format. Several objects become a List where the
// format has such a thing, unless single says that the user named one.
type Printer interface {
	Print(w io.Writer, objects []api.Object, single bool) error
}

// Formats lists what -o takes, for help and error messages.
const Formats = "json, yaml, name, wide, jsonpath=…, jsonpath-file=…, custom-columns=…, custom-columns-file=…, go-template=…, go-template-file=…"

// New returns the printer for a value of -o, or nil for tables ("" and "wide").
func New(format string) (Printer, error) {
	name, arg, hasArg := strings.Cut(format, "=")
	if file, ok := strings.CutSuffix(name, "-file"); ok && hasArg {
		data, err := os.ReadFile(arg)
		if err != nil {
			return nil, err
		}
		name, arg = file, string(data)
	}
	if arg == "" && slices.Contains([]string{"jsonpath", "go-template", "custom-columns"}, name) {
		return nil, fmt.Errorf("template format specified but no template given: -o %s=TEMPLATE", name)
	}
	switch name {
	case "", "wide":
		return nil, nil
	case "json":
		return marshaler(func(v any) ([]byte, error) {
			data, err := json.MarshalIndent(v, "", "    ")
			return append(data, '\n'), err
		}), nil
	case "yaml":
		return marshaler(yaml.Marshal), nil
	case "name":
		return namePrinter{}, nil
	case "jsonpath":
		t, err := jsonpath.Parse(arg)
		if err != nil {
			return nil, fmt.Errorf("error parsing jsonpath %s: %w", arg, err)
		}
		return printerFunc(t.Execute), nil
	case "go-template":
		t, err := template.New("output").Parse(arg)
		if err != nil {
			return nil, fmt.Errorf("error parsing template %s: %w", arg, err)
		}
		return printerFunc(t.Execute), nil
	case "custom-columns":
		return newCustomColumns(arg)
	}
	return nil, fmt.Errorf("unable to match a printer suitable for the output format %q, allowed formats are: %s", format, Formats)
}

// printerFunc prints one tree: an object, or a List of them.
type printerFunc func(w io.Writer, tree any) error

func (f printerFunc) Print(w io.Writer, objects []api.Object, single bool) error {
	items := []any{}
	for _, o := range objects {
		m, err := manifest.ToMap(o)
		if err != nil {
			return err
		}
		items = append(items, m)
	}
	if single && len(items) == 1 {
		return f(w, items[0])
	}
	return f(w, map[string]any{"apiVersion": "v1", "kind": "List", "metadata": map[string]any{"resourceVersion": ""}, "items": items})
}

// marshaler prints a tree as bytes.
func marshaler(marshal func(any) ([]byte, error)) printerFunc {
	return func(w io.Writer, tree any) error {
		data, err := marshal(tree)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	}
}

type namePrinter struct{}

func (namePrinter) Print(w io.Writer, objects []api.Object, _ bool) error {
	for _, o := range objects {
		if _, err := fmt.Fprintln(w, Name(o)); err != nil {
			return err
		}
	}
	return nil
}

// customColumns prints TITLE:PATH columns.
type customColumns struct {
	titles []string
	paths  []*jsonpath.Template
	// started says that the header is out; a watch prints on.
	started *bool
}

func newCustomColumns(spec string) (Printer, error) {
	p := customColumns{started: new(bool)}
	for part := range strings.SplitSeq(strings.TrimSpace(spec), ",") {
		title, path, ok := strings.Cut(part, ":")
		if !ok || title == "" || path == "" {
			return nil, fmt.Errorf("unexpected custom-columns spec: %s, expected <header>:<json-path-expr>", part)
		}
		t, err := jsonpath.ParseRelaxed(path)
		if err != nil {
			return nil, fmt.Errorf("custom column %s: %w", title, err)
		}
		p.titles, p.paths = append(p.titles, title), append(p.paths, t)
	}
	return p, nil
}

func (p customColumns) Print(w io.Writer, objects []api.Object, _ bool) error {
	var rows [][]string
	if !*p.started {
		*p.started = true
		rows = append(rows, p.titles)
	}
	for _, o := range objects {
		m, err := manifest.ToMap(o)
		if err != nil {
			return err
		}
		var row []string
		for _, t := range p.paths {
			values, err := t.Find(m)
			if err != nil || len(values) == 0 {
				row = append(row, "<none>")
				continue
			}
			var cells []string
			for _, v := range values {
				cells = append(cells, cellText(v))
			}
			row = append(row, strings.Join(cells, ","))
		}
		rows = append(rows, row)
	}
	return (&Table{Out: w}).write(rows)
}

// cellText is a JSON value in a cell: text as it is, the rest as Go prints it,
// as kubectl does.
func cellText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return fmt.Sprint(v)
}
