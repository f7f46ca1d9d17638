package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A person should be able to read the product in a week. What counts are lines of
// code: blank lines and comments are there to make reading easier. The figures
// are those of docs/decisions/0010-budget-of-lines.md: a hard limit for the
// whole, a remark for a package.
const (
	maxProductLines = 45_960
	maxPackageLines = 1_500
)

// code is a line that is neither blank nor only a comment.
var code = regexp.MustCompile(`(?m)^[ \t]*([^/ \t\n]|/[^/])`)

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

func TestProductStaysSmall(t *testing.T) {
	total, perPackage := 0, map[string]int{}
	walk(t, ".go", func(file string, content []byte) {
		if matchAny(unlayered, path.Dir(file)) || strings.HasSuffix(file, "_test.go") || generated.Match(content) {
			return
		}
		lines := len(code.FindAll(content, -1))
		total += lines
		perPackage[path.Dir(file)] += lines
	})
	if total >= maxProductLines {
		t.Errorf("the product has %d lines of code, which must stay under %d: find what can be said once, or left out", total, maxProductLines)
	}
	t.Logf("the product has %d lines of code", total)
	for pkg, lines := range perPackage {
		if lines > maxPackageLines {
			t.Logf("%s has %d lines of code: over about %d, a package usually holds two ideas", pkg, lines, maxPackageLines)
		}
	}
}

// A test that sleeps to wait for something is slow on a good day and fails on a
// bad one. In a testing/synctest bubble a sleep moves the clock, so a test file
// that sleeps must be one that uses synctest.
func TestTestsDoNotSleep(t *testing.T) {
	walk(t, ".go", func(file string, content []byte) {
		if strings.HasSuffix(file, "_test.go") && sleepsForReal(t, file, content) {
			t.Errorf("%s calls time.Sleep outside testing/synctest: wait for the event itself, or run in a bubble", file)
		}
	})
}

func TestSleepingTestsAreFound(t *testing.T) {
	tests := []struct {
		name, source string
		want         bool
	}{
		{"a sleep in real time is found", `package p; import "time"; func f() { time.Sleep(1) }`, true},
		{"so is one handed on as a value", `package p; import "time"; var f = time.Sleep`, true},
		{"a sleep of virtual time is fine", `package p; import ("time"; "testing/synctest"); func f() { time.Sleep(1); synctest.Wait() }`, false},
		{"words in a comment or a string are fine", `package p; /* time.Sleep(1) */ var s = "time.Sleep(1)"`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := sleepsForReal(t, "p_test.go", []byte(tt.source)); got != tt.want {
				t.Errorf("sleepsForReal = %v, want %v", got, tt.want)
			}
		})
	}
}

// sleepsForReal reports whether a Go file mentions time.Sleep without importing
// testing/synctest.
func sleepsForReal(t *testing.T, name string, source []byte) bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, imported := range file.Imports {
		if imported.Path.Value == `"testing/synctest"` {
			return false
		}
	}
	found := false
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
			x, ok := sel.X.(*ast.Ident)
			found = found || (ok && x.Name == "time")
		}
		return !found
	})
	return found
}

func TestLinksInDocumentsLeadSomewhere(t *testing.T) {
	walk(t, ".md", func(file string, content []byte) {
		for _, link := range links(string(content)) {
			target := filepath.Join(root, path.Dir(file), link)
			if strings.HasPrefix(link, "/") {
				target = filepath.Join(root, link)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which does not exist", file, link)
			}
		}
	})
}

func TestLinksAreFound(t *testing.T) {
	text := strings.Join([]string{
		"See [the design](docs/architecture.md#rooms), [a tour](<docs/my tour.md>),",
		"![the parts](docs/parts.svg \"parts\") and [Go](https://go.dev).",
		"A [heading](#names) and `[code](is-no-link.md)` are left alone.",
		"```",
		"[neither](is-this.md)",
		"```",
		"[later]: docs/later.md",
	}, "\n")
	want := []string{"docs/architecture.md", "docs/my tour.md", "docs/parts.svg", "docs/later.md"}
	if got := links(text); !slices.Equal(got, want) {
		t.Errorf("links = %q, want %q", got, want)
	}
}

var (
	codeInMarkdown = regexp.MustCompile("(?ms)^```.*?^```|`[^`\n]+`")
	linkInMarkdown = regexp.MustCompile(`\]\((?:<([^>]+)>|([^)\s]+))|(?m:^\[[^\]]+\]:\s+(\S+))`)
)

// links finds the files that a Markdown text links to, in order, as written but
// without their anchors. Links to other sites and within the text are left out.
func links(markdown string) []string {
	var files []string
	for _, m := range linkInMarkdown.FindAllStringSubmatch(codeInMarkdown.ReplaceAllString(markdown, ""), -1) {
		link, err := url.Parse(m[1] + m[2] + m[3])
		if err == nil && link.Scheme == "" && link.Host == "" && link.Path != "" {
			files = append(files, link.Path)
		}
	}
	return files
}
