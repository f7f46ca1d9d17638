package docstest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long one command of the tour may take on a busy machine.
const patience = 5 * time.Minute

// TestTheTourOfTheReadme types what the README shows, with simulated containers,
// and compares what comes with what the README says.
func TestTheTourOfTheReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binaries and starts a cluster")
	}
	bin := binaries(t)
	home := t.TempDir()
	shell := func(ctx context.Context, line string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", line)
		cmd.Dir = root
		// The default of ORCH_HOME, because the tour names it.
		cmd.Env = append(os.Environ(), "HOME="+home, "ORCH_HOME="+filepath.Join(home, ".orch"), "ORCH_SERVER=", "PATH="+bin+":"+os.Getenv("PATH"))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	t.Cleanup(func() {
		if out, err := shell(context.WithoutCancel(t.Context()), "orchctl down --all"); err != nil {
			t.Errorf("orchctl down --all: %v\n%s", err, out)
		}
	})

	steps := tour(t)
	if len(steps) < 10 {
		t.Fatalf("the tour has only %d steps", len(steps))
	}
	for _, s := range steps {
		line := s.command
		switch {
		case strings.HasPrefix(line, "docker "), strings.HasPrefix(line, "export "):
			continue
		case line == "orchctl up":
			line += " --runtime=fake --wait=4m"
		case line == "orchctl down":
			line = "orchctl invariants --class safety && " + line
		}
		began := time.Now()
		out, err := shell(t.Context(), line)
		t.Logf("$ %s (%v)", line, time.Since(began).Round(time.Millisecond))
		if err != nil {
			t.Fatalf("$ %s\n%s%v", line, out, err)
		}
		for _, problem := range compare(s.output, strings.Split(strings.TrimRight(out, "\n"), "\n")) {
			t.Errorf("$ %s\n%s\nThe README %s", line, out, problem)
		}
	}
}

// step is one command of the tour, and what the README says comes of it.
type step struct {
	command string
	output  []string
}

// tour returns the commands in the console blocks of the README's tour.
func tour(t *testing.T) []step {
	t.Helper()
	return steps(blocks(section(t, read(t, "README.md"), "## A tour of two minutes")))
}

var (
	header  = regexp.MustCompile(`^[A-Z][A-Z -]+( {2,}[A-Z][A-Z -]+)+ *$`)
	podName = regexp.MustCompile(`\b(recommend-service)-[0-9a-z]{7,10}(-[0-9a-z]{5})?\b`)
	spaces  = regexp.MustCompile(` +`)
	// Where the API is, and which engine runs the containers.
	place = regexp.MustCompile(`127\.0\.0\.1:\d+|\b(docker|fake)://\S+`)
)

// compare says which lines of the README are not in what came. Names that hold
// chance are made equal. Of a table the header and the first column count: ages
// and addresses are the machine's. How far a rollout is when one looks is chance
// as well.
func compare(want, got []string) (problems []string) {
	normal := func(lines []string) (whole, first []string) {
		for _, line := range lines {
			line = podName.ReplaceAllStringFunc(line, func(name string) string {
				return podName.ReplaceAllString(name, "$1-HASH") + strings.Repeat("-ID", max(0, strings.Count(name, "-")-2))
			})
			line = strings.TrimSpace(spaces.ReplaceAllString(place.ReplaceAllString(line, "PLACE"), " "))
			cell, _, _ := strings.Cut(line, " ")
			whole, first = append(whole, line), append(first, cell)
		}
		return whole, first
	}
	wantWhole, wantFirst := normal(want)
	gotWhole, gotFirst := normal(got)
	inTable := false
	for i, line := range wantWhole {
		switch {
		case line == "":
			inTable = false
		case strings.HasPrefix(line, "Waiting for "):
		case inTable:
			if count(wantFirst, wantFirst[i]) != count(gotFirst, wantFirst[i]) {
				problems = append(problems, "shows another number of rows for "+wantFirst[i])
			}
		default:
			inTable = header.MatchString(want[i])
			if !slices.Contains(gotWhole, line) {
				problems = append(problems, "has the line: "+want[i])
			}
		}
	}
	return slices.Compact(problems)
}

func count(list []string, s string) int {
	n := 0
	for _, e := range list {
		if e == s {
			n++
		}
	}
	return n
}

func TestCompareSeesWhatMatters(t *testing.T) {
	shown := []string{
		"Waiting for rollout: 1 of 3",
		"NAME                                READY   AGE",
		"recommend-service-7bb9495f8-2tzgf   1/1     6s",
		"recommend-service-7bb9495f8-m47v7   1/1     6s",
		"",
		"done",
	}
	tests := []struct {
		name string
		got  []string
		want []string
	}{
		{
			"names, ages and widths are chance",
			[]string{"NAME   READY   AGE", "recommend-service-aaaaaaaaa-bbbbb   1/1   1m", "recommend-service-aaaaaaaaa-ccccc   0/1   1m", "", "done"},
			nil,
		},
		{
			"a row too few is not",
			[]string{"NAME   READY   AGE", "recommend-service-aaaaaaaaa-bbbbb   1/1   1m", "", "done"},
			[]string{"shows another number of rows for recommend-service-HASH-ID"},
		},
		{
			"another column is not, and neither is a missing line",
			[]string{"NAME   STATUS   AGE", "recommend-service-aaaaaaaaa-bbbbb   1/1   1m", "recommend-service-aaaaaaaaa-ccccc   0/1   1m"},
			[]string{"has the line: NAME                                READY   AGE", "has the line: done"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := compare(shown, tt.got); !slices.Equal(got, tt.want) {
				t.Errorf("compare = %q, want %q", got, tt.want)
			}
		})
	}
}
