package docstest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"orch/pkg/cli/lab"
)

// TestTheLabs types every command of every lesson, in order, on a cluster of its
// own with simulated containers. Before the first one that follows `orchctl up`
// no mark is given; at the end the lesson's own `lab check` gives all, and no rule
// of safety was broken on the way.
func TestTheLabs(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binaries and starts clusters")
	}
	bin := binaries(t)
	for _, l := range lab.Lessons() {
		t.Run(fmt.Sprintf("%d %s", l.Number, l.Title), func(t *testing.T) {
			t.Parallel()
			page := read(t, l.Page)
			check := fmt.Sprintf("orchctl lab check %d", l.Number)
			sh := newShell(t, bin)
			fresh := true
			for _, s := range steps(blocks(page.text)) {
				if strings.HasPrefix(s.command, "orchctl down") {
					if out, code := sh.run("orchctl invariants --class safety"); code != 0 {
						t.Errorf("at the end of the lesson, orchctl invariants ends with %d:\n%s", code, out)
					}
				}
				began := time.Now()
				out, code := sh.run(s.command)
				t.Logf("$ %s (%v)", s.command, time.Since(began).Round(time.Millisecond))
				if code != 0 {
					t.Fatalf("$ %s\n%sexit code %d", s.command, out, code)
				}
				for _, problem := range compare(unabridged(s.output), strings.Split(strings.TrimRight(masked(out), "\n"), "\n")) {
					t.Errorf("$ %s\n%s\n%s %s", s.command, out, l.Page, problem)
				}
				if fresh && strings.HasPrefix(s.command, "orchctl up ") {
					fresh = false
					if out, code := sh.run(check); code != 1 || strings.Contains(out, "✓") {
						t.Errorf("before anything is done, %s ends with %d:\n%s", check, code, out)
					}
				}
			}
			if !strings.Contains(page.text, "$ "+check+"\n") || fresh {
				t.Errorf("%s does not start a cluster, or does not end with %s", l.Page, check)
			}
		})
	}
}

// TestThePageAboutPauses types what docs/pause.md shows first, on the cluster that
// it speaks of.
func TestThePageAboutPauses(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binaries and starts a cluster")
	}
	t.Parallel()
	sh := newShell(t, binaries(t))
	page := read(t, "docs/pause.md")
	before := []step{{command: "orchctl up --runtime=fake --name pauses"}, {command: "orchctl apply -f examples/webflix/"}, {command: "orchctl rollout status deployment/recommend-service"}}
	shown := steps(blocks(page.text))
	if len(shown) < 6 {
		t.Fatalf("the page has only %d commands", len(shown))
	}
	for _, s := range append(before, shown...) {
		out, code := sh.run(s.command)
		if code != 0 {
			t.Fatalf("$ %s\n%sexit code %d", s.command, out, code)
		}
		for _, problem := range compare(unabridged(s.output), strings.Split(strings.TrimRight(masked(out), "\n"), "\n")) {
			t.Errorf("$ %s\n%s\ndocs/pause.md %s", s.command, out, problem)
		}
	}
	if out, code := sh.run("orchctl invariants --class safety"); code != 0 {
		t.Errorf("at the end, orchctl invariants ends with %d:\n%s", code, out)
	}
}

// steps are the commands in console blocks, and what is said to come of each.
func steps(blocks []block) []step {
	var all []step
	for _, b := range blocks {
		if b.language != "console" {
			continue
		}
		for _, line := range b.lines {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				all = append(all, step{command: command})
			} else if len(all) > 0 {
				last := &all[len(all)-1]
				last.output = append(last.output, line)
			}
		}
	}
	return all
}

var chance = regexp.MustCompile(`\d\d:\d\d:\d\d(\.\d+)?|\d{4}-\d\d-\d\dT[\d:]+Z|rev \d+|\b\d+(ms|m|s)\b|\(?\d+s ago\)?`)

// masked leaves out what is never twice the same: times and revisions.
func masked(text string) string { return chance.ReplaceAllString(text, "?") }

// unabridged are the lines of an output that are shown whole: without those that
// have a … for what was left out, and without the rows of tables where a whole
// line is one.
func unabridged(lines []string) []string {
	var whole []string
	inTable, some := false, slices.Contains(lines, "…")
	for _, line := range lines {
		inTable = line != "" && (inTable || header.MatchString(line))
		if strings.Contains(line, "…") || inTable && some && !header.MatchString(line) {
			continue
		}
		whole = append(whole, masked(line))
	}
	return whole
}

// shell is one shell for all commands of a lesson, as a student has it: variables
// and programs in the background stay.
type shell struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

func newShell(t *testing.T, bin string) *shell {
	t.Helper()
	home := t.TempDir()
	caches, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	cache, modules, _ := strings.Cut(strings.TrimSpace(string(caches)), "\n") // they are below the real home
	environment := append(os.Environ(), "GOCACHE="+cache, "GOMODCACHE="+modules, "HOME="+home, "ORCH_HOME="+filepath.Join(home, ".orch"), "ORCH_SERVER=", "PATH="+bin+":"+os.Getenv("PATH"))
	cmd := exec.CommandContext(t.Context(), "sh")
	cmd.Dir, cmd.Env = root, environment
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // the shell has it
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = r.Close()
		down := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(bin, "orchctl"), "down", "--all")
		down.Env = environment
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("orchctl down --all: %v\n%s", err, out)
		}
	})
	return &shell{t: t, in: in, out: bufio.NewReader(r)}
}

// run types one line and returns what comes and its exit code. It does not wait
// for what the line leaves in the background.
func (s *shell) run(line string) (out string, code int) {
	s.t.Helper()
	const end = "--- end of the command:"
	late := time.AfterFunc(2*patience, func() {
		s.t.Errorf("$ %s does not end", line)
		_ = s.in.(io.Closer).Close()
	})
	defer late.Stop()
	if _, err := fmt.Fprintf(s.in, "{ %s\n} </dev/null\necho \"%s $?\"\n", line, end); err != nil {
		s.t.Fatalf("$ %s: %v", line, err)
	}
	var all bytes.Buffer
	for {
		got, err := s.out.ReadString('\n')
		if before, after, ok := strings.Cut(got, end); ok {
			all.WriteString(before)
			_, err := fmt.Sscan(after, &code)
			if err != nil {
				s.t.Fatal(err)
			}
			return all.String(), code
		}
		all.WriteString(got)
		if err != nil {
			s.t.Fatalf("$ %s: the shell has ended: %v\n%s", line, err, &all)
		}
	}
}
