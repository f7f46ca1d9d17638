package archtest

import (
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// layers are the rooms of the house, lowest first. A package imports packages of
// lower layers only, and of its own family.
//
// A pattern is a package's directory; `*` stands for one element of a path.
// Ending in "/..." it stands for a directory and everything below it, which
// together are one family; any other package is a family of its own. Of several
// patterns that match, the longest directory wins, and a package before a tree.
var layers = [][]string{
	0: {"proto/v1"},
	1: {"pkg/api/...", "pkg/store", "pkg/identity"},
	2: {"pkg/store/..."},
	3: {"pkg/apiserver/...", "pkg/client/..."},
	4: {"pkg/informer", "pkg/reconcile", "pkg/membership", "pkg/container/...", "pkg/why", "pkg/invariant", "pkg/chaos/*"},
	5: {"pkg/chaos/report", "pkg/controller/*", "pkg/scheduler/...", "pkg/agent/...", "pkg/network/..."},
	6: {"pkg/cli/...", "pkg/controller", "pkg/daemon"},
	7: {"cmd/*"},
}

// unlayered are the places that may import anything, because no product package
// imports them: helpers of tests, measurements, examples, and below pkg the
// conformance suites and harnesses whose names end in "test". Their lines do not
// count as the product's.
var unlayered = []string{"internal/...", "test/...", "bench/...", "examples/...", "tools/...", "pkg/*/*test"}

// shared are packages that others of their own layer may import: they hold what
// several controllers need to decide alike, and are no controllers themselves; or
// the words in which the log is told.
var shared = []string{"pkg/controller/claim", "pkg/why"}

// A wall keeps an import in the few places that are meant to know it, whatever
// the layers say. Unlayered packages stand outside the walls.
type wall struct {
	imports string   // an import path; everything below it is meant too
	only    []string // patterns of the packages that may import it
	why     string
}

var walls = []wall{
	{
		imports: "github.com/docker", only: []string{"pkg/container/docker"},
		why: "another engine takes another package, not a search through the code; use the contract of pkg/container",
	},
	{
		imports: "github.com/moby", only: []string{"pkg/container/docker"},
		why: "another engine takes another package, not a search through the code; use the contract of pkg/container",
	},
	{
		imports: "go.etcd.io/bbolt", only: []string{"pkg/store/boltstore"},
		why: "another database takes another package; use the contract of pkg/store",
	},
	{
		imports: "github.com/hashicorp/memberlist", only: []string{"pkg/membership"},
		why: "who is alive is asked of pkg/membership",
	},
	{
		imports: "github.com/vishvananda/netlink", only: []string{"pkg/network/native"},
		why: "another kernel takes another package; use the contract of pkg/network",
	},
	{
		imports: "orch/pkg/store", only: []string{"pkg/store/...", "pkg/apiserver/...", "cmd/apiserver"},
		why: "the API server is the store's only door; use pkg/client",
	},
	{
		imports: "orch/pkg/apiserver", only: []string{"pkg/apiserver/...", "cmd/apiserver"},
		why: "everything else is a client of the API; use pkg/client",
	},
	{
		imports: "testing",
		why:     "a binary would carry the test framework and its flags; what several packages' tests share goes into a package whose name ends in test",
	},
}

// layerProblems says what is wrong with the imports of p, seen from the layers.
func layerProblems(p goPackage) []string {
	if matchAny(unlayered, p.path()) {
		return nil
	}
	layer, family, ok := place(p.path())
	if !ok {
		return []string{fmt.Sprintf("%s has no layer: add it to the table in internal/archtest/rules_test.go, one above the highest layer that it imports, and to docs/architecture.md", p.path())}
	}
	var problems []string
	for _, imported := range p.Imports {
		to, ours := strings.CutPrefix(imported, module+"/")
		if !ours {
			continue
		}
		toLayer, toFamily, ok := place(to)
		switch {
		case matchAny(unlayered, to):
			problems = append(problems, fmt.Sprintf("%s imports %s, which is for tests, measurements and examples only", p.path(), to))
		case !ok:
			// Reported once, for the package itself.
		case toFamily == family || toLayer < layer:
		case toLayer == layer && matchAny(shared, to) && !matchAny(shared, p.path()):
		case toLayer == layer:
			problems = append(problems, fmt.Sprintf("%s imports %s of its own layer %d: let them meet through the API, or move what both need to a lower layer", p.path(), to, layer))
		default:
			problems = append(problems, fmt.Sprintf("%s (layer %d) imports %s (layer %d): turn the dependency round, with an interface declared where it is used", p.path(), layer, to, toLayer))
		}
	}
	return problems
}

// wallProblems says which walls the imports of p break through.
func wallProblems(p goPackage) []string {
	if matchAny(unlayered, p.path()) {
		return nil
	}
	var problems []string
	for _, imported := range p.Imports {
		for _, w := range walls {
			behind := imported == w.imports || strings.HasPrefix(imported, w.imports+"/")
			if behind && !matchAny(w.only, p.path()) {
				problems = append(problems, fmt.Sprintf("%s imports %s: %s", p.path(), imported, w.why))
			}
		}
	}
	return problems
}

// place finds the layer of a package and the family that it belongs to there.
func place(pkg string) (layer int, family string, ok bool) {
	best := 0
	for n, patterns := range layers {
		for _, pattern := range patterns {
			dir, isTree := strings.CutSuffix(pattern, "/...")
			weight := 2 * len(dir)
			if !isTree {
				weight++
			}
			if weight <= best || !match(pattern, pkg) {
				continue
			}
			best, layer, family, ok = weight, n, pkg, true
			if isTree {
				family = pattern
			}
		}
	}
	return layer, family, ok
}

func match(pattern, pkg string) bool {
	if dir, isTree := strings.CutSuffix(pattern, "/..."); isTree {
		return pkg == dir || strings.HasPrefix(pkg, dir+"/")
	}
	ok, err := path.Match(pattern, pkg)
	return err == nil && ok
}

func matchAny(patterns []string, pkg string) bool {
	for _, pattern := range patterns {
		if match(pattern, pkg) {
			return true
		}
	}
	return false
}

// The judges are judged too: a rule that never fires proves nothing.
func TestRulesFire(t *testing.T) {
	const (
		noLayer = " has no layer: add it to the table in internal/archtest/rules_test.go, one above the highest layer that it imports, and to docs/architecture.md"
		meet    = ": let them meet through the API, or move what both need to a lower layer"
		turn    = ": turn the dependency round, with an interface declared where it is used"
	)
	tests := []struct {
		name    string
		pkg     string
		imports []string
		want    []string
	}{
		{
			name:    "a lower layer may be imported, and so may anything from outside",
			pkg:     "pkg/controller/deployment",
			imports: []string{"context", "orch/pkg/reconcile", "orch/proto/v1", "google.golang.org/grpc"},
		},
		{
			name:    "a package may import its own family",
			pkg:     "pkg/container/docker",
			imports: []string{"orch/pkg/container", "github.com/docker/docker/client"},
		},
		{
			name:    "a contract stands one layer below its implementations",
			pkg:     "pkg/store",
			imports: []string{"orch/pkg/store/memstore"},
			want:    []string{"pkg/store (layer 1) imports pkg/store/memstore (layer 2)" + turn},
		},
		{
			name:    "a higher layer is refused",
			pkg:     "pkg/client",
			imports: []string{"orch/pkg/informer"},
			want:    []string{"pkg/client (layer 3) imports pkg/informer (layer 4)" + turn},
		},
		{
			name:    "controllers do not import each other",
			pkg:     "pkg/controller/deployment",
			imports: []string{"orch/pkg/controller/replicaset"},
			want:    []string{"pkg/controller/deployment imports pkg/controller/replicaset of its own layer 5" + meet},
		},
		{
			name:    "controllers may share what is no controller",
			pkg:     "pkg/controller/deployment",
			imports: []string{"orch/pkg/controller/claim"},
		},
		{
			name:    "what controllers share imports no controller",
			pkg:     "pkg/controller/claim",
			imports: []string{"orch/pkg/controller/replicaset"},
			want:    []string{"pkg/controller/claim imports pkg/controller/replicaset of its own layer 5" + meet},
		},
		{
			name:    "the scheduler does not import the agent",
			pkg:     "pkg/scheduler",
			imports: []string{"orch/pkg/agent"},
			want:    []string{"pkg/scheduler imports pkg/agent of its own layer 5" + meet},
		},
		{
			name:    "the scheduler reaches neither the store nor the API server, though both lie below it",
			pkg:     "pkg/scheduler",
			imports: []string{"orch/pkg/apiserver", "orch/pkg/store"},
			want: []string{
				"pkg/scheduler imports orch/pkg/apiserver: everything else is a client of the API; use pkg/client",
				"pkg/scheduler imports orch/pkg/store: the API server is the store's only door; use pkg/client",
			},
		},
		{
			name:    "a wall covers what lies below its path and not what merely begins like it",
			pkg:     "pkg/apiserver",
			imports: []string{"go.etcd.io/bbolt/errors", "go.etcd.io/bbolted"},
			want:    []string{"pkg/apiserver imports go.etcd.io/bbolt/errors: another database takes another package; use the contract of pkg/store"},
		},
		{
			name:    "product code does not import helpers of tests",
			pkg:     "cmd/orchctl",
			imports: []string{"orch/internal/testcluster"},
			want:    []string{"cmd/orchctl imports internal/testcluster, which is for tests, measurements and examples only"},
		},
		{
			name:    "product code does not import a conformance suite, though it lies below it",
			pkg:     "pkg/container/fake",
			imports: []string{"orch/pkg/container", "orch/pkg/container/containertest"},
			want:    []string{"pkg/container/fake imports pkg/container/containertest, which is for tests, measurements and examples only"},
		},
		{
			name:    "a conformance suite imports what it likes",
			pkg:     "pkg/container/containertest",
			imports: []string{"testing", "orch/internal/testimage", "orch/pkg/container"},
		},
		{
			name:    "helpers of tests import what they like",
			pkg:     "internal/testcluster",
			imports: []string{"testing", "orch/pkg/apiserver", "orch/cmd/apiserver", "github.com/docker/docker/client"},
		},
		{
			name:    "a package that the table does not know is told where to go",
			pkg:     "pkg/novelty",
			imports: []string{"orch/pkg/api"},
			want:    []string{"pkg/novelty" + noLayer},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := goPackage{ImportPath: module + "/" + tt.pkg, Imports: tt.imports}
			got := append(layerProblems(p), wallProblems(p)...)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}
