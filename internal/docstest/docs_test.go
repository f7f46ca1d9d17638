// Package docstest holds the documents to the code: what they show is run, what
// they name exists.
//
// Its one invariant: whoever types what a document shows gets what it shows.
// Links between files are the business of internal/archtest.
//
// Read this file for how the code in documents is found, commands_test.go for
// what is checked without running anything, and tour_test.go for the tour of the
// README on a real cluster.
package docstest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// root is the directory of the product's go.mod, seen from this package.
const root = "../.."

// document is one Markdown file.
type document struct {
	path string // from the root: "docs/architecture.md"
	text string
}

// documents returns all Markdown files of the repository.
func documents(t *testing.T) []document {
	t.Helper()
	var all []document
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		all = append(all, document{path, string(text)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// read returns one document.
func read(t *testing.T, path string) document {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return document{path, string(text)}
}

// block is a fenced block of code.
type block struct {
	language string // "sh", "console"; empty where none is named
	lines    []string
}

// blocks returns the fenced blocks of a text.
func blocks(text string) []block {
	var all []block
	open := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		language, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && !open:
			all = append(all, block{language: language})
			open = true
		case isFence:
			open = false
		case open:
			last := &all[len(all)-1]
			last.lines = append(last.lines, line)
		}
	}
	return all
}

var inlineCode = regexp.MustCompile("`([^`\n]+)`")

// code returns every piece of code in a text: the lines of blocks, and what
// stands in backticks.
func code(text string) []string {
	var all []string
	var prose strings.Builder
	open := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			open = !open
		case open:
			all = append(all, strings.TrimRight(line, "\n"))
		default:
			prose.WriteString(line)
		}
	}
	for _, m := range inlineCode.FindAllStringSubmatch(prose.String(), -1) {
		all = append(all, m[1])
	}
	return all
}

// section returns what stands under a heading, up to the next of its level.
func section(t *testing.T, d document, heading string) string {
	t.Helper()
	_, after, ok := strings.Cut("\n"+d.text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", d.path, heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	inside, _, _ := strings.Cut(after, "\n"+level+" ")
	return inside
}

// invocation is one call of orchctl, as far as it can be understood without a
// shell.
type invocation []string

// ends are where a shell command ends, outside of quotes.
const ends = "|;&<>()#"

var orchctlWord = regexp.MustCompile(`(^|[\s("'/$])orchctl `)

// invocations finds the calls of orchctl in a piece of code.
func invocations(code string) []invocation {
	var all []invocation
	for _, at := range orchctlWord.FindAllStringIndex(code, -1) {
		if args := split(code[at[1]:]); len(args) > 0 {
			all = append(all, args)
		}
	}
	return all
}

// split cuts a shell command into words, up to its end or to "--", behind which
// the words are not orchctl's own.
func split(command string) []string {
	var words []string
	var word strings.Builder
	quote := rune(0)
	flush := func() {
		if word.Len() > 0 {
			words = append(words, word.String())
			word.Reset()
		}
	}
	for _, r := range command {
		switch {
		case r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote = r
		case strings.ContainsRune(ends, r):
			flush()
			return beforeDashes(words)
		case r == ' ':
			flush()
		default:
			word.WriteRune(r)
		}
	}
	flush()
	return beforeDashes(words)
}

func beforeDashes(words []string) []string {
	if i := slices.Index(words, "--"); i >= 0 {
		return words[:i]
	}
	return words
}

func TestCodeIsFound(t *testing.T) {
	text := strings.Join([]string{
		"Say `orchctl up` or [`start`](start.go).",
		"```console",
		"$ orchctl get pods -l 'app in (a,b)' | head -n 1",
		"NAME   READY",
		"$ docker kill $(orchctl get pod web -o jsonpath=\"{.x}\")",
		"$ orchctl exec web -- kill 1   # a comment",
		"```",
	}, "\n")
	var got []invocation
	for _, c := range code(text) {
		got = append(got, invocations(c)...)
	}
	want := []invocation{
		{"get", "pods", "-l", "app in (a,b)"},
		{"get", "pod", "web", "-o", "jsonpath={.x}"},
		{"exec", "web"},
		{"up"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("invocations (-want +got):\n%s", diff)
	}
}
