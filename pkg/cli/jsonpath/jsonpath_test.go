package jsonpath

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const pods = `{"kind":"List","none":null,"items":[
	{"metadata":{"name":"a","labels":{"app":"web","kubernetes.io/hostname":"n1"}},
	 "spec":{"containers":[{"name":"x","image":"i:1"},{"name":"y","image":"i:2"}]},
	 "status":{"phase":"Running","restarts":3,"conditions":[{"type":"Ready","status":"True"},{"type":"Initialized","status":"True"}]}},
	{"metadata":{"name":"b","labels":{"app":"db"}},
	 "spec":{"containers":[{"name":"x","image":"i:3"}]},
	 "status":{"phase":"Pending","restarts":0}}]}`

// tree has whole numbers as int64, as the manifests of objects do.
func tree(t testing.TB, data string) any {
	var v any
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatal(err)
	}
	return whole(v)
}

func whole(v any) any {
	switch v := v.(type) {
	case float64:
		return int64(v)
	case []any:
		for i := range v {
			v[i] = whole(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = whole(v[k])
		}
	}
	return v
}

func TestTemplatesPrintWhatTheyFind(t *testing.T) {
	tests := []struct {
		name, template, want string
	}{
		{"a text is itself", "a b\n", "a b\n"},
		{"several values have spaces between them", "{.items[*].metadata.name}", "a b"},
		{"texts stand between expressions", "{.kind}: {.items[0].metadata.name}\n", "List: a\n"},
		{"a quoted text has escapes", `{"a\tb\n"}{'it\'s'}`, "a\tb\nit's"},
		{"a range repeats what it holds", `{range .items[*]}{.metadata.name}{"="}{.status.phase}{"\n"}{end}done`, "a=Running\nb=Pending\ndone"},
		{"ranges nest", `{range .items[*]}{.metadata.name}:{range .spec.containers[*]} {.name}{end};{end}`, "a: x y;b: x;"},
		{"a range over nothing prints nothing", `{range .items[0].none[*]}x{end}y`, "y"},
		{"null", `{.none}`, "null"},
		{"a filter compares texts", `{.items[*].status.conditions[?(@.type=="Ready")].status}`, "True"},
		{"a filter compares numbers", `{.items[?(@.status.restarts>=1)].metadata.name}`, "a"},
		{"a filter asks for what is there", `{.items[?(@.status.conditions)].metadata.name}`, "a"},
		{"a filter may have brackets in its text", `{.items[?(@.metadata.name!=")]")].metadata.name}`, "a b"},
		{"negative numbers count from the end", `{.items[-1].metadata.name}`, "b"},
		{"a slice", `{.items[0].spec.containers[0:1].name} {.items[0].spec.containers[:].name}`, "x x y"},
		{"a slice with a step", `{.items[::2].metadata.name}`, "a"},
		{"a union of names", `{.items[0]['kind','metadata'].name}`, "a"},
		{"a union of numbers", `{.items[1,0].metadata.name}`, "b a"},
		{"a name in brackets", `{.items[0].metadata['name']}`, "a"},
		{"a dot in a name is escaped", `{.items[0].metadata.labels.kubernetes\.io/hostname}`, "n1"},
		{"a dot in a name in brackets too", `{.items[0].metadata.labels['kubernetes\.io/hostname']}`, "n1"},
		{"descent finds names at any depth", `{..image}`, "i:1 i:2 i:3"},
		{"objects and lists are JSON", `{.items[0].spec.containers[0]}`, `{"image":"i:1","name":"x"}`},
		{"an object's values", `{.items[0].metadata.labels.*}`, "web n1"},
		{"what is not there is nothing", `<{.items[*].nothing.at.all}>`, "<>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			template, err := Parse(tt.template)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := template.Execute(&b, tree(t, pods)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, b.String()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestTemplatesThatAreWrong(t *testing.T) {
	for template, want := range map[string]string{
		"{.a":      "unclosed action",
		`{"a}`:     "unterminated quoted string",
		"{[a]}":    "invalid array index a",
		"{[?(@.a}": "unterminated filter",
	} {
		if _, err := Parse(template); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", template, err, want)
		}
	}
	for text, want := range map[string]string{
		"{end}":           "not in range, nothing to end",
		"{metadata.name}": "unrecognized identifier metadata",
		"{.items[5]}":     "array index out of bounds: index 5, length 2",
	} {
		template, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := template.Execute(&b, tree(t, pods)); err == nil || err.Error() != want || b.Len() > 0 {
			t.Errorf("%s: got %v and %q, want %s", text, err, b.String(), want)
		}
	}
}

// A watch prints one template again and again.
func TestATemplateIsExecutedTwice(t *testing.T) {
	template, err := Parse(`{range .items[*]}{.metadata.name}{" "}{end}{.kind}`)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var b strings.Builder
		if err := template.Execute(&b, tree(t, pods)); err != nil || b.String() != "a b List" {
			t.Errorf("%q, %v", b.String(), err)
		}
	}
}

func TestRelaxedPathsMayLeaveOutBracesAndDot(t *testing.T) {
	for _, path := range []string{"kind", ".kind", "{kind}", "{.kind}"} {
		template, err := ParseRelaxed(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := template.Find(tree(t, pods))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]any{"List"}, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", path, diff)
		}
	}
	for _, path := range []string{"", "{", "{.a}{.b}", "{.a} x"} {
		if _, err := ParseRelaxed(path); err == nil {
			t.Errorf("%q is accepted", path)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{.items[*].metadata.name}", `{range .items[?(@.a=="x")]}{..b[-1:]}{"\n"}{end}`, "{['a','b'][1,2]}", "{[?(\x00)]}"} {
		f.Add(s)
	}
	data := tree(f, pods)
	f.Fuzz(func(_ *testing.T, text string) {
		if template, err := Parse(text); err == nil {
			_ = template.Execute(&strings.Builder{}, data) // must not panic
		}
	})
}
