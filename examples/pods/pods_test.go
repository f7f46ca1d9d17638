// Package pods holds the lessons on pods to what they promise: the commands in
// the comments of the manifests are run, and their output compared.
package pods

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"orch/examples/image"
	"orch/internal/testcluster"
	"orch/internal/testdocker"
)

// lessons are the manifests, by the path from here.
func lessons(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests", err)
	}
	return files
}

func TestEveryLessonIsAccepted(t *testing.T) {
	for _, file := range lessons(t) {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				testcluster.Start(t, testcluster.Options{}).Apply(string(text))
			})
		})
	}
}

// step is a command in a manifest's comment, and the lines that come of it.
type step struct{ command, output string }

// steps finds "#   $ command" and the lines "#   output" below it.
func steps(text string) []step {
	var all []step
	for line := range strings.Lines(text) {
		inside, ok := strings.CutPrefix(line, "#   ")
		command, isCommand := strings.CutPrefix(inside, "$ ")
		switch {
		case ok && isCommand:
			all = append(all, step{command: strings.TrimSpace(command)})
		case ok && len(all) > 0:
			all[len(all)-1].output += inside
		}
	}
	return all
}

func TestEveryLessonKeepsItsPromiseOnDocker(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a dozen pods")
	}
	engine := testdocker.Require(t)
	files := lessons(t)
	t.Chdir("../..")
	// It stays, as after `make images`.
	if err := image.Toolbox.Build(t.Context(), engine.Runtime, t.Output()); err != nil {
		t.Fatal(err)
	}
	bin, home := t.TempDir(), t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	shell := func(ctx context.Context, line string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", line)
		cmd.Env = append(os.Environ(), "ORCH_HOME="+home, "ORCH_SERVER=", "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	t.Cleanup(func() {
		if out, err := shell(context.WithoutCancel(t.Context()), "orchctl down --all"); err != nil {
			t.Errorf("orchctl down: %v\n%s", err, out)
		}
	})
	if out, err := shell(t.Context(), "orchctl up --name lessons --nodes 1 --wait=4m"); err != nil {
		t.Fatalf("orchctl up: %v\n%s", err, out)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			path := "examples/pods/" + file
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := shell(t.Context(), "orchctl apply -f "+path); err != nil {
				t.Fatalf("apply: %v\n%s", err, out)
			}
			for _, s := range steps(string(text)) {
				line := s.command
				if strings.HasPrefix(line, "orchctl wait ") {
					line += " --timeout=4m" // the last one counts; a busy machine needs more than the usual 30 s
				}
				got, err := shell(t.Context(), line)
				switch {
				case err != nil && !strings.Contains(s.output, "exit code"):
					why, _ := shell(t.Context(), "orchctl describe -f "+path)
					t.Fatalf("$ %s\n%s%v\n%s", s.command, got, err, why)
				case s.output != "" && strings.TrimSpace(got) != strings.TrimSpace(s.output):
					t.Errorf("$ %s\n%s\nthe lesson promises\n%s", s.command, got, s.output)
				}
			}
			if out, err := shell(t.Context(), "orchctl delete -f "+path); err != nil {
				t.Errorf("delete: %v\n%s", err, out)
			}
		})
	}
	if out, err := shell(t.Context(), "orchctl invariants --class safety"); err != nil {
		t.Errorf("after all lessons: %v\n%s", err, out)
	}
}
