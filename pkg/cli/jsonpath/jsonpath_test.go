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

func tree(t testing.TB, data string) any {
	var v any
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatal(err)
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
	tests := []struct {
		name, template, want string
	}{
		{"a range without an end", "{range .a}x", "range without {end}"},
		{"no closing brace", "{.a", "unclosed action"},
		{"an end without a range", "{end}", "not in range, nothing to end"},
		{"a name without a dot", "{metadata.name}", "unrecognized identifier metadata"},
		{"a character that means nothing", "{%}", "unrecognized character in action: '%'"},
		{"a text without its end", `{"a}`, "unterminated quoted string"},
		{"an index that is none", "{[a]}", "invalid array index a"},
		{"an index without its end", "{[1}", "unterminated array"},
		{"a filter without its end", "{[?(@.a}", "unterminated filter"},
		{"an operator that there is not", "{[?(@.a=1)]}", "unrecognized filter operator ="},
		{"descent of descent", "{....a}", "invalid multiple recursive descent"},
		{"ranges without end", strings.Repeat("{range .a}", 1000), "ranges nested more than 100 levels deep"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.template)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestDataThatDoesNotFit(t *testing.T) {
	tests := []struct {
		name, template, want string
	}{
		{"an index past the end", "{.items[5]}", "array index out of bounds: index 5, length 2"},
		{"an index into an object", "{[0]}", "object is not array or slice"},
		{"a filter of an object", "{[?(@.a)]}", "object is not array or slice and cannot be filtered"},
		{"a text and a number", `{.items[?(@.status.restarts=="x")]}`, "incompatible types for comparison: number and string"},
		{"a step back", `{.items[::-1]}`, "step must be > 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			template, err := Parse(tt.template)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := template.Execute(&b, tree(t, pods)); err == nil || err.Error() != tt.want || b.Len() > 0 {
				t.Errorf("got %v and %q, want %s", err, b.String(), tt.want)
			}
		})
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

func TestFindReturnsValuesAndNoText(t *testing.T) {
	template, err := Parse("name: {.kind} {range .items[*]}{.status.restarts} {end}")
	if err != nil {
		t.Fatal(err)
	}
	got, err := template.Find(tree(t, pods))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{"List", 3.0, 0.0}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
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
