// Package archtest holds the tests of the architecture: which package may import
// which, and a few promises about the code base as a whole.
//
// Its one invariant: the tables below are the architecture. A package that is
// not in them, or an import that they do not allow, fails the build with a
// sentence that says what to do. docs/architecture.md tells the same in prose.
//
// Read rules_test.go for the tables and how they are judged, and this file for
// how the code base is measured against them.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the directory of the product's go.mod, seen from this package.
const root = "../.."

// module is the path that all of the product's import paths begin with.
const module = "orch"

// goPackage is what `go list -json` says of a package, as far as it matters here.
type goPackage struct {
	ImportPath string   // "orch/pkg/api"
	Doc        string   // first sentence of the package comment
	GoFiles    []string // without tests; empty for a package that is only tests
	Imports    []string // without those of tests: a test may import any layer
}

// path is the package's directory below the root: "pkg/api".
func (p goPackage) path() string {
	return strings.TrimPrefix(p.ImportPath, module+"/")
}

func TestEveryPackageImportsOnlyLowerLayers(t *testing.T) {
	for _, p := range packages(t) {
		for _, problem := range layerProblems(p) {
			t.Error(problem)
		}
	}
}

func TestImportWallsStand(t *testing.T) {
	for _, p := range packages(t) {
		for _, problem := range wallProblems(p) {
			t.Error(problem)
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment: say above `package` in one of its files what it is, its one invariant and where to read next", p.path())
		}
	}
}

// packages lists the product's packages. The modules in tools and
// test/conformance are not among them, which is why they are modules.
//
// The go command reads files that `go test` does not know of when it decides
// whether an old result still holds. TestProductStaysSmall opens every Go file
// itself, so a result is never older than the code.
func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Doc,GoFiles,Imports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var list []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		list = append(list, p)
	}
	if len(list) == 0 {
		t.Fatal("go list found no packages")
	}
	return list
}

// walk calls visit with every file below the root whose name ends in ext, by its
// slash-separated path from the root, leaving out what is not source: hidden
// directories, bin and testdata.
func walk(t *testing.T, ext string, visit func(path string, content []byte)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			name := d.Name()
			if path == "bin" || name == "testdata" || (strings.HasPrefix(name, ".") && name != ".") {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular() || filepath.Ext(path) != ext:
			return nil
		}
		content, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		visit(path, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
