package docstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// binaries builds the product's programs and returns their folder.
func binaries(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/apiserver", "./cmd/nodeagent", "./cmd/orchctl")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

var (
	daemonCall = regexp.MustCompile(`(?:^|[\s/(=])(apiserver token create|apiserver secrets rotate-key|apiserver user revoke|apiserver|nodeagent reset|nodeagent)((?: [^\s|;&)#]+)+)`)
	daemonFlag = regexp.MustCompile(`(?:^|[\s"=])(--[a-z][-a-z]+)`)
)

// What documents and units give to apiserver and nodeagent, these take.
func TestEveryFlagOfADaemonThatADocumentShowsExists(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binaries")
	}
	bin := binaries(t)
	usage := map[string]string{}
	check := func(where, line string) {
		for _, m := range daemonCall.FindAllStringSubmatch(line, -1) {
			if usage[m[1]] == "" {
				words := append(strings.Fields(m[1]), "--help")
				out, err := exec.CommandContext(t.Context(), filepath.Join(bin, words[0]), words[1:]...).CombinedOutput()
				if err != nil {
					t.Errorf("%s --help: %v", m[1], err)
				}
				usage[m[1]] = string(out)
			}
			for _, flag := range daemonFlag.FindAllStringSubmatch(m[2], -1) {
				if flag[1] != "--help" && !regexp.MustCompile(`(?m)^ +(-\w, )?`+flag[1]+`\b`).MatchString(usage[m[1]]) {
					t.Errorf("%s: %s: %s has no flag %s", where, line, m[1], flag[1])
				}
			}
		}
	}
	for _, d := range documents(t) {
		for _, c := range code(d.text) {
			check(d.path, c)
		}
	}
	for _, unit := range units(t) {
		check(unit, read(t, unit).text)
	}
	if len(usage) < 4 {
		t.Errorf("only %d commands were found; is the pattern still right?", len(usage))
	}
}

// units are the files for systemd.
func units(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "deploy/systemd/*.service"))
	if err != nil || len(files) != 2 {
		t.Fatalf("units: %v, %v", files, err)
	}
	for i, f := range files {
		files[i] = strings.TrimPrefix(f, root+"/")
	}
	return files
}

func TestSystemdTakesTheUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze")
	}
	dir := t.TempDir()
	var files []string
	for _, unit := range units(t) {
		file := filepath.Join(dir, filepath.Base(unit))
		text := strings.ReplaceAll(read(t, unit).text, "ExecStart=/usr/local/bin/", "ExecStart=/bin/true ") // it wants the program to be there
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	// Units of the machine that it looks at besides may be at fault as well.
	out, _ := exec.CommandContext(t.Context(), analyze, append([]string{"verify", "--man=no"}, files...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) || strings.HasPrefix(line, "orch-") {
			t.Error(line)
		}
	}
}
