package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

const (
	// MaxBytes is the most that one document may have: what Kubernetes' API
	// server takes in one request.
	MaxBytes = 3 << 20
	// maxStream bounds what is read into memory of a file or stream.
	maxStream = 64 << 20
)

// Document is one object of a file or stream.
type Document struct {
	// Source says where the object stands: "web.yaml", "web.yaml (document 2,
	// line 14)", "STDIN".
	Source string
	// JSON is the object as the user wrote it, without defaults and with what
	// Orch does not know: what Apply sends.
	JSON     []byte
	Object   api.Object
	Warnings []string
}

// Decode reads the objects of a stream of YAML documents, or of JSON values, in
// order. Lists (List, DeploymentList, …) are unfolded, empty documents are
// skipped. A document that is wrong is yielded as its error, with Source alone;
// those behind it follow.
func Decode(r io.Reader, source string, v Validation) iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		data, err := io.ReadAll(io.LimitReader(r, maxStream+1))
		if err == nil && len(data) > maxStream {
			err = api.Errorf(api.ErrTooLarge, "larger than %d MiB: split it", maxStream>>20)
		}
		if err != nil {
			yield(Document{Source: source}, fmt.Errorf("%s: %w", source, err))
			return
		}
		texts := split(data)
		for i, t := range texts {
			where := source
			if len(texts) > 1 {
				where = fmt.Sprintf("%s (document %d, line %d)", source, i+1, t.begin)
			}
			for doc, err := range t.objects(where, v) {
				if err != nil {
					err = fmt.Errorf("%s: %w", doc.Source, err)
				}
				if !yield(doc, err) {
					return
				}
			}
		}
	}
}

// objects yields the object of a document, or the objects of a list.
func (t text) objects(source string, v Validation) iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		if len(t.data) > MaxBytes {
			yield(Document{Source: source}, api.Errorf(api.ErrTooLarge, "the document has %d bytes: the most is %d MiB", len(t.data), MaxBytes>>20))
			return
		}
		tree, twice, err := t.parse()
		if err != nil {
			yield(Document{Source: source}, api.Errorf(api.ErrBadRequest, "%s", err))
			return
		}
		if tree == nil { // only comments
			return
		}
		for item, source := range unfold(tree, source) {
			doc, err := decodeItem(item, source, v, twice)
			if !yield(doc, t.locate(err)) {
				return
			}
		}
	}
}

// parse reads a document into the tree of its JSON.
func (t text) parse() (tree any, twice []*v1.FieldError, err error) {
	if bytes.HasPrefix(bytes.TrimSpace(t.data), []byte("{")) {
		if tree, twice, err = parseJSON(t.data); err == nil {
			return tree, twice, nil
		}
		// YAML's own braces look the same.
	}
	data, strictErr := yaml.YAMLToJSONStrict(t.data)
	if strictErr != nil {
		if data, err = yaml.YAMLToJSON(t.data); err != nil {
			return nil, nil, errors.New(t.shiftLines(strings.Join(strings.Fields(err.Error()), " ")))
		}
		// What only the strict reading refuses is a key given more than once.
		for line := range strings.Lines(strictErr.Error()) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "line ") {
				report(&twice, "", "FieldValueDuplicate", t.shiftLines(line))
			}
		}
	}
	tree, _, err = parseJSON(data)
	return tree, twice, err
}

var lineNumber = regexp.MustCompile(`\bline (\d+)`)

// shiftLines turns the line numbers of a message about the document into those
// of the stream.
func (t text) shiftLines(message string) string {
	return lineNumber.ReplaceAllStringFunc(message, func(s string) string {
		n, _ := strconv.Atoi(strings.TrimPrefix(s, "line ")) // the pattern has digits only
		return "line " + strconv.Itoa(n+t.line-1)
	})
}

// locate adds line numbers to the causes of an error. The parsers do not keep
// them; but a field whose name stands in the document once stands there.
func (t text) locate(err error) error {
	var se *api.StatusError
	if !errors.As(err, &se) || len(se.Causes) == 0 {
		return err
	}
	for _, c := range se.Causes {
		name, _, _ := strings.Cut(c.GetField()[strings.LastIndexByte(c.GetField(), '.')+1:], "[")
		if n := t.lineOf(name); n > 0 {
			c.Message += fmt.Sprintf(" (line %d)", n)
		}
	}
	se.Message = sentence(se.Kind, se.Name, se.Causes)
	return err
}

// lineOf returns the line on which a key stands, or 0 where it stands on none or
// on several.
func (t text) lineOf(key string) int {
	found, n := 0, t.line
	for line := range bytes.Lines(t.data) {
		for rest := line; key != ""; {
			i := bytes.Index(rest, []byte(key))
			if i < 0 {
				break
			}
			before := len(line) - len(rest) + i - 1
			rest = rest[i+len(key):]
			after := bytes.TrimLeft(rest, `"' `)
			if (before < 0 || strings.IndexByte(" \t{,\"'-", line[before]) >= 0) && bytes.HasPrefix(after, []byte(":")) {
				if found > 0 {
					return 0
				}
				found = n
			}
		}
		n++
	}
	return found
}

// unfold yields an object, or the objects of a list, with their places.
func unfold(tree any, source string) iter.Seq2[any, string] {
	return func(yield func(any, string) bool) {
		m, _ := tree.(map[string]any)
		kind, _ := m["kind"].(string)
		base, isList := strings.CutSuffix(kind, "List")
		items, ok := m["items"].([]any)
		if !isList || base != "" && api.KindByName(base) == nil || !ok && m["items"] != nil {
			yield(tree, source)
			return
		}
		for i, item := range items {
			if e, ok := item.(map[string]any); ok && base != "" && e["kind"] == nil {
				// A list of one kind may say it once for all.
				e["kind"], e["apiVersion"] = base, m["apiVersion"]
			}
			for e, source := range unfold(item, fmt.Sprintf("%s (items[%d])", source, i)) {
				if !yield(e, source) {
					return
				}
			}
		}
	}
}

func decodeItem(item any, source string, v Validation, twice []*v1.FieldError) (Document, error) {
	m, err := asObject(item)
	if err != nil {
		return Document{Source: source}, err
	}
	o, warnings, err := fromMap(m, v, twice)
	if err != nil {
		return Document{Source: source, Warnings: warnings}, err
	}
	data, err := json.Marshal(m)
	return Document{Source: source, JSON: data, Object: o, Warnings: warnings}, err
}
