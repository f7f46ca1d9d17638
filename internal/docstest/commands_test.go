package docstest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"orch/pkg/cli"
)

// help returns what orchctl says of a verb, and whether there is such a verb.
func help(t *testing.T, path ...string) (text string, ok bool) {
	t.Helper()
	var out bytes.Buffer
	args := append(append([]string{}, path...), "--help")
	code := cli.Main(t.Context(), cli.IO{In: strings.NewReader(""), Out: &out, Err: &out}, args, "test")
	usage := "Usage:\n  " + strings.Join(append([]string{"orchctl"}, path...), " ")
	rest, found := out.String(), false
	if _, after, ok := strings.Cut(rest, usage); ok {
		found = after == "" || strings.HasPrefix(after, " ") || strings.HasPrefix(after, "\n")
	}
	return out.String(), code == 0 && found
}

// isPlaceholder says that a word stands for others: NAME, TYPE/NAME, VERB.
func isPlaceholder(word string) bool {
	return word == strings.ToUpper(word) && strings.ToLower(word) != word
}

func TestEveryVerbAndFlagThatADocumentShowsExists(t *testing.T) {
	for _, d := range documents(t) {
		for _, c := range code(d.text) {
			for _, args := range invocations(c) {
				checkInvocation(t, d, args)
			}
		}
	}
}

func checkInvocation(t *testing.T, d document, args invocation) {
	t.Helper()
	line := "orchctl " + strings.Join(args, " ")
	verb := args[0]
	if isPlaceholder(verb) || strings.HasPrefix(verb, "-") || strings.HasPrefix(verb, "…") {
		return
	}
	text, ok := help(t, verb)
	if !ok {
		t.Errorf("%s: %s: there is no verb %q", d.path, line, verb)
		return
	}
	if len(args) > 1 && strings.Contains(text, "Available Commands:") && !strings.HasPrefix(args[1], "-") && !isPlaceholder(args[1]) {
		if text, ok = help(t, verb, args[1]); !ok {
			t.Errorf("%s: %s: %q has no subcommand %q", d.path, line, verb, args[1])
			return
		}
	}
	for _, word := range args[1:] {
		for _, flag := range flagsOf(word) {
			if !regexp.MustCompile(`(?m)^ +(-\w, )?` + flag + `\b|^ +` + flag + `, `).MatchString(text) {
				t.Errorf("%s: %s: %q has no flag %s", d.path, line, verb, flag)
			}
		}
	}
}

// flagsOf returns the flags that a word sets: "--name=x" one, "-it" two.
func flagsOf(word string) []string {
	name, _, _ := strings.Cut(word, "=")
	switch {
	case strings.HasPrefix(name, "--"):
		return []string{name}
	case !strings.HasPrefix(name, "-") || len(name) == 1:
		return nil
	}
	var flags []string
	for _, letter := range name[1:] {
		flags = append(flags, "-"+string(letter))
	}
	return flags
}

func TestVerbsThatAreSaidToBeMissingAreMissing(t *testing.T) {
	for line := range strings.Lines(read(t, "docs/differences.md").text) {
		if !strings.HasPrefix(line, "| verbs that are missing |") {
			continue
		}
		for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
			if _, ok := help(t, m[1]); ok {
				t.Errorf("docs/differences.md says that orchctl has no verb %q, and it has", m[1])
			}
		}
		return
	}
	t.Error("docs/differences.md has no row \"verbs that are missing\"")
}

var symbolLink = regexp.MustCompile("\\[`([\\w.]+)`\\]\\(([^)#]+\\.go)\\)")

func TestFunctionsThatADocumentLinksToAreInTheirFiles(t *testing.T) {
	found := 0
	for _, d := range documents(t) {
		for _, m := range symbolLink.FindAllStringSubmatch(d.text, -1) {
			found++
			file := filepath.Join(root, filepath.Dir(d.path), m[2])
			name := m[1][strings.LastIndexByte(m[1], '.')+1:]
			if names, err := declared(file); err != nil {
				t.Errorf("%s: %v", d.path, err)
			} else if !names[name] {
				t.Errorf("%s: %s does not declare %s", d.path, m[2], name)
			}
		}
	}
	if found == 0 {
		t.Error("no document links to a function; is the pattern still right?")
	}
}

// declared returns the names that a Go file declares at its top level, methods
// included.
func declared(file string) (map[string]bool, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, decl := range parsed.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			names[decl.Name.Name] = true
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					names[spec.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						names[name.Name] = true
					}
				}
			}
		}
	}
	return names, nil
}

var (
	testName   = regexp.MustCompile(`\bTest[A-Z]\w+`)
	makeTarget = regexp.MustCompile(`(?:^|\$ )make ([a-z]+)`)
)

func TestTestsAndTargetsThatADocumentNamesExist(t *testing.T) {
	makefile := read(t, "Makefile").text
	tests := testFiles(t)
	for _, d := range documents(t) {
		for _, c := range code(d.text) {
			for _, m := range makeTarget.FindAllStringSubmatch(c, -1) {
				if !strings.Contains(makefile, "\n"+m[1]+":") {
					t.Errorf("%s: there is no target for make %s", d.path, m[1])
				}
			}
			for _, name := range testName.FindAllString(c, -1) {
				if !strings.Contains(tests, "func "+name+"(") {
					t.Errorf("%s: there is no test %s", d.path, name)
				}
			}
		}
	}
}

// testFiles returns all test files, one behind the other.
func testFiles(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// internal/archtest asks whoever adds a package to say a word about it.
func TestTheArchitectureNamesEveryPackage(t *testing.T) {
	page := read(t, "docs/architecture.md").text
	packages, err := os.ReadDir(filepath.Join(root, "pkg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		if p.IsDir() && !strings.Contains(page, "(../pkg/"+p.Name()+")") {
			t.Errorf("docs/architecture.md does not name pkg/%s in its table of layers", p.Name())
		}
	}
}
