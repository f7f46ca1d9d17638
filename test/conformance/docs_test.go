package conformance

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"orch/pkg/api/manifest"
	v1 "orch/proto/v1"
)

var code = regexp.MustCompile("`([^`]+)`")

// quoted returns what stands in backquotes.
func quoted(text string) []string {
	var words []string
	for _, m := range code.FindAllStringSubmatch(text, -1) {
		words = append(words, m[1])
	}
	return words
}

func read(t *testing.T, doc string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// cells returns the cells of a table's row, or nil.
func cells(line string) []string {
	c := strings.Split(line, "|")
	if len(c) < 4 {
		return nil
	}
	for i := range c {
		c[i] = strings.TrimSpace(c[i])
	}
	return c[1 : len(c)-1]
}

// podFields reads docs/pods.md: the rows of each type's table by field.
func podFields(t *testing.T) map[string]map[string][]string {
	t.Helper()
	tables := map[string]map[string][]string{}
	table := ""
	for line := range strings.Lines(read(t, "pods.md")) {
		if name, ok := strings.CutPrefix(line, "### "); ok {
			table = strings.TrimSpace(name)
			tables[table] = map[string][]string{}
			continue
		}
		if c := cells(line); len(c) == 3 && strings.HasPrefix(c[0], "`") && table != "" {
			field := strings.Trim(c[0], "`")
			if tables[table][field] != nil {
				t.Errorf("docs/pods.md: %s.%s has two rows", table, field)
			}
			tables[table][field] = c[1:]
		}
	}
	return tables
}

// The page has a row for every field of Kubernetes' PodSpec and of what Orch
// implements below it. A row of a field that is implemented names a test that
// exists, one of a field that is refused gives a reason.
func TestPodsPageListsEveryField(t *testing.T) {
	tables, tests := podFields(t), testsOfOrch(t)
	seen := map[string]bool{}
	var walk func(protoreflect.MessageDescriptor, reflect.Type)
	walk = func(md protoreflect.MessageDescriptor, typ reflect.Type) {
		name, theirs := string(md.Name()), map[string]reflect.Type{}
		if seen[name] {
			return
		}
		seen[name] = true
		jsonFields(typ, theirs)
		for _, field := range slices.Sorted(maps.Keys(theirs)) {
			fd, row, want := md.Fields().ByJSONName(field), tables[name][field], "no"
			if fd != nil {
				want = "yes"
			}
			switch {
			case row == nil:
				t.Errorf("docs/pods.md: table %s needs a row \"| `%s` | %s | … |\"", name, field, want)
			case row[0] != want:
				t.Errorf("docs/pods.md: %s.%s is said to be implemented: %s; it is: %s", name, field, row[0], want)
			case row[1] == "":
				t.Errorf("docs/pods.md: %s.%s needs a test's name or a reason", name, field)
			case fd != nil && len(quoted(row[1])) == 0:
				t.Errorf("docs/pods.md: %s.%s names no test", name, field)
			case fd != nil:
				for _, test := range quoted(row[1]) {
					if !tests[test] {
						t.Errorf("docs/pods.md: %s.%s names %s, and there is no such test", name, field, test)
					}
				}
			}
			delete(tables[name], field)
			if fd != nil && fd.Message() != nil && !fd.IsMap() && fd.Message().Name() != "Timestamp" && fd.Message().Name() != "IntOrString" {
				walk(fd.Message(), theirs[field])
			}
		}
	}
	walk((&v1.PodSpec{}).ProtoReflect().Descriptor(), reflect.TypeFor[corev1.PodSpec]())
	for name, rows := range tables {
		if !seen[name] {
			t.Errorf("docs/pods.md: no pod of Orch has a %s", name)
		}
		for field := range rows {
			t.Errorf("docs/pods.md: Kubernetes has no field %s.%s", name, field)
		}
	}
}

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// testsOfOrch are the tests of the product, as `folder.TestName`.
func testsOfOrch(t *testing.T) map[string]bool {
	t.Helper()
	tests := map[string]bool{}
	err := fs.WalkDir(os.DirFS("../.."), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(filepath.Join("../..", path))
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			tests[filepath.Base(filepath.Dir(path))+"."+string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

// Outside of pods, docs/differences.md lists every field that is refused. Fields
// of status are not among them: they are dropped.
func TestDifferencesListsTheFieldsThatAreRefused(t *testing.T) {
	refused := map[string][]string{}
	for line := range strings.Lines(read(t, "differences.md")) {
		if c := cells(line); c != nil {
			refused[c[0]] = quoted(c[1])
		}
	}
	pods := podFields(t)
	for md, fields := range missingFields(t) {
		name := string(md.Name())
		if strings.HasSuffix(name, "Status") || slices.Contains([]string{"Condition", "NodeSystemInfo", "ObjectMeta"}, name) || len(fields) == 0 || pods[name] != nil {
			continue
		}
		if diff := cmp.Diff(fields, refused[name]); diff != "" {
			t.Errorf("%s: -Kubernetes +docs/differences.md\n%s", name, diff)
		}
	}
}

// The values of refused fields that docs/pods.md says are accepted are.
func TestPodsPageListsTheValuesThatAreAccepted(t *testing.T) {
	around := map[string]string{
		"PodSpec":   "{apiVersion: v1, kind: Pod, spec: {%s}}",
		"Container": "{apiVersion: v1, kind: Pod, spec: {containers: [{%s}]}}",
	}
	found := 0
	for table, rows := range podFields(t) {
		for field, row := range rows {
			for _, value := range quoted(row[1]) {
				if row[0] != "no" || !strings.HasPrefix(value, field+": ") {
					continue
				}
				found++
				data, err := yaml.YAMLToJSON(fmt.Appendf(nil, around[table], value))
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := manifest.Unmarshal(data, manifest.Strict); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if found == 0 {
		t.Error("docs/pods.md lists no values")
	}
}
