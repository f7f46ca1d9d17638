package manifest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"orch/pkg/api"
)

// read returns what is in a stream: one line per object or error.
func read(stream string, v Validation) []string {
	var lines []string
	for doc, err := range Decode(strings.NewReader(stream), "f", v) {
		if err != nil {
			lines = append(lines, "error: "+err.Error())
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: %s %s", doc.Source, api.KindOf(doc.Object).Name, api.KeyOf(doc.Object)))
		for _, w := range doc.Warnings {
			lines = append(lines, "warning: "+w)
		}
	}
	return lines
}

func TestDecodeReadsStreams(t *testing.T) {
	const (
		a = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n"
		b = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, namespace: m}\n"
	)
	tests := []struct {
		name, stream string
		want         []string
	}{
		{"nothing", "", nil},
		{"only comments", "# a\n---\n# b\n---\n\n", nil},
		{"one document", a, []string{"f: Namespace a"}},
		{"one document among empty ones", "---\n# comment\n---\n" + a + "---\n---\n", []string{"f: Namespace a"}},
		{"two documents know their places", a + "---\n# comment\n" + b, []string{"f (document 1, line 1): Namespace a", "f (document 2, line 7): ConfigMap m/b"}},
		{"a marker may have a comment", a + "--- # next\n" + b, []string{"f (document 1, line 1): Namespace a", "f (document 2, line 6): ConfigMap m/b"}},
		{"dashes in a text are no marker", b + "data:\n  text: |\n    ---\n    x\n  more: |-\n    ----\n", []string{"f: ConfigMap m/b"}},
		{"lines may end as on Windows", strings.ReplaceAll(a+"---\n"+b, "\n", "\r\n"), []string{"f (document 1, line 1): Namespace a", "f (document 2, line 6): ConfigMap m/b"}},
		{"a byte order mark is passed over", "\ufeff" + a, []string{"f: Namespace a"}},
		{"JSON", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}`, []string{"f: Namespace a"}},
		{
			"several JSON values", "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"a\"}}\n\n{\"apiVersion\":\"v1\",\"kind\":\"Namespace\"}",
			[]string{"f (document 1, line 1): Namespace a", "f (document 2, line 3): Namespace "},
		},
		{"YAML that looks like JSON", "{apiVersion: v1, kind: Namespace, metadata: {name: a}}", []string{"f: Namespace a"}},
		{
			"a List is unfolded", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: Node, metadata: {name: b}}\n",
			[]string{"f (items[0]): Namespace a", "f (items[1]): Node b"},
		},
		{"an empty List is nothing", "apiVersion: v1\nkind: List\nitems: []\n", nil},
		{"a list of one kind says it once", "apiVersion: v1\nkind: NodeList\nitems:\n- metadata: {name: a}\n", []string{"f (items[0]): Node a"}},
		{
			"an error does not hide what follows", "kind: Namespace\n---\n" + a,
			[]string{`error: f (document 1, line 1): apiVersion is not set: a manifest begins like "apiVersion: apps/v1", "kind: Deployment"`, "f (document 2, line 3): Namespace a"},
		},
		{
			"an error in YAML names its line in the file", a + "---\n" + "a: b\nc: [\n",
			[]string{"f (document 1, line 1): Namespace a", "error: f (document 2, line 6): yaml: line 7: did not find expected node content"},
		},
		{
			"an error in a field names its line where that is certain", a + "---\n" + a + "spec:\n  finalisers: []\n",
			[]string{"f (document 1, line 1): Namespace a", `error: f (document 2, line 6): Namespace "a" cannot be read: unknown field "spec.finalisers": did you mean "finalizers"? (line 11)`},
		},
		{
			"an error in a field names no line where it could be another", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, tty: 1}\nspec:\n  tty: 1\n",
			[]string{`error: f: Pod "a" cannot be read: unknown field "metadata.tty"; unknown field "spec.tty"`},
		},
		{
			"a key given twice names its line", a + "kind: Namespace\n",
			[]string{`error: f: Namespace "a" cannot be read: line 5: key "kind" already set in map`},
		},
		{"what is no object is refused", "just text\n", []string{`error: f: expected an object with apiVersion and kind, found the string "just text"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, read(tt.stream, Strict)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestLenientDecodingWarnsOrIgnores(t *testing.T) {
	const stream = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, name: b}\nspecs: {}\n"
	tests := []struct {
		v    Validation
		want []string
	}{
		{Warn, []string{"f: Namespace b", `warning: line 3: key "name" already set in map`, `warning: unknown field "specs": did you mean "spec"?`}},
		{Ignore, []string{"f: Namespace b"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, read(stream, tt.v)); diff != "" {
			t.Errorf("%s: -want +got\n%s", tt.v, diff)
		}
	}
}

func TestDocumentsKeepWhatTheUserWrote(t *testing.T) {
	for doc, err := range Decode(strings.NewReader("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nextra: 1\n"), "f", Ignore) {
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(`{"apiVersion":"v1","extra":1,"kind":"Namespace","metadata":{"name":"a"}}`, string(doc.JSON)); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
}

func TestInputIsBounded(t *testing.T) {
	large := "apiVersion: v1\nkind: ConfigMap\ndata:\n  a: " + strings.Repeat("x", 10<<20) + "\n"
	want := []string{
		"error: f (document 1, line 1): the document has 10485803 bytes: the most is 3 MiB",
		"f (document 2, line 6): Namespace ",
	}
	if diff := cmp.Diff(want, read(large+"---\napiVersion: v1\nkind: Namespace\n", Strict)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, err := range Decode(endless{}, "f", Strict) {
		if !errors.Is(err, api.ErrTooLarge) {
			t.Errorf("got %v, want that it is too large", err)
		}
	}
	for _, err := range Decode(iotest.ErrReader(io.ErrClosedPipe), "f", Strict) {
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("got %v, want the reader's error", err)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '#'
	}
	return len(p), nil
}

func TestLoadReadsFilesDirectoriesAndStdin(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.yaml":     "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n",
		"a.json":     `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}`,
		"notes.txt":  "not a manifest",
		"sub/c.yml":  "apiVersion: v1\nkind: Namespace\nmetadata: {name: c}\n",
		"empty/x.md": "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stdin := "apiVersion: v1\nkind: Namespace\nmetadata: {name: s}\n"
	tests := []struct {
		name      string
		paths     []string
		recursive bool
		want      []string
		err       string
	}{
		{"a directory", []string{""}, false, []string{"a.json: a", "b.yaml: b"}, ""},
		{"a directory and those below", []string{""}, true, []string{"a.json: a", "b.yaml: b", "sub/c.yml: c"}, ""},
		{"a file and stdin", []string{"sub/c.yml", "-"}, false, []string{"sub/c.yml: c", "STDIN: s"}, ""},
		{"a file whatever its name", []string{"notes.txt"}, false, nil, `notes.txt: expected an object with apiVersion and kind, found the string "not a manifest"`},
		{"an error does not hide the others", []string{"none", "b.yaml"}, false, []string{"b.yaml: b"}, `the path "none" does not exist`},
		{"a directory without manifests", []string{"empty"}, false, nil, "empty: no files that end in .json, .yaml or .yml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var paths []string
			for _, p := range tt.paths {
				if p != "-" {
					p = filepath.Join(dir, p)
				}
				paths = append(paths, p)
			}
			docs, err := Load(paths, tt.recursive, strings.NewReader(stdin), Strict)
			var got []string
			for _, d := range docs {
				got = append(got, strings.TrimPrefix(d.Source, dir+"/")+": "+d.Object.GetMetadata().GetName())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if text := strings.ReplaceAll(fmt.Sprint(err), dir+"/", ""); tt.err != "" && text != tt.err || tt.err == "" && err != nil {
				t.Errorf("got error %q, want %q", text, tt.err)
			}
		})
	}
}

func TestLoadReadsURLs(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a.yaml":
			_, _ = io.WriteString(w, "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")
		case "/page":
			_, _ = io.WriteString(w, "<!DOCTYPE html>\n<html></html>\n")
		case "/endless":
			for line := strings.Repeat("# more\n", 1<<12); r.Context().Err() == nil; {
				_, _ = io.WriteString(w, line)
			}
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	for path, want := range map[string]string{
		"/a.yaml":  "",
		"/page":    server.URL + "/page: expected an object with apiVersion and kind, found the string",
		"/none":    `unable to read URL "` + server.URL + `/none", server reported 404 Not Found, status code=404`,
		"/endless": server.URL + "/endless: ",
	} {
		docs, err := Load([]string{server.URL + path}, false, nil, Strict)
		if want == "" {
			if err != nil || len(docs) != 1 || docs[0].Object.GetMetadata().GetName() != "a" {
				t.Errorf("%s: %v, %v", path, docs, err)
			}
		} else if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
		if path == "/endless" {
			t.Log(err)
		}
	}
	server.Close()
	if _, err := Load([]string{server.URL}, false, nil, Strict); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("without a server: %v", err)
	}
}
