package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"orch/internal/testdocker"
	"orch/internal/testlog"
	"orch/pkg/cli/local"
	"orch/pkg/client"
)

// tell builds the binaries and tells the story, from the repository's root, as
// `make demo` does.
func tell(t *testing.T, runtime string) string {
	t.Helper()
	t.Chdir("../../..")
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./cmd/...")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var out bytes.Buffer
	s := &story{out: &out, bin: bin, runtime: runtime}
	s.more = append(s.more, func(_ context.Context, c *client.Client) error {
		testlog.EveryWriteHasACause(t, c)
		return nil
	})
	if err := s.tell(context.Background()); err != nil {
		t.Fatalf("the story failed: %v\n%s", err, out.String())
	}
	// Nothing that was started from this folder still runs.
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, exe := range exes {
		if target, err := os.Readlink(exe); err == nil && strings.HasPrefix(target, bin+"/") {
			t.Errorf("%s still runs as %s", target, exe)
		}
	}
	return out.String()
}

// said fails the test unless the sentences come in this order.
func said(t *testing.T, text string, sentences ...string) {
	t.Helper()
	rest := text
	for _, s := range sentences {
		_, after, ok := strings.Cut(rest, s)
		if !ok {
			t.Fatalf("the story does not say %q where it should:\n%s", s, text)
		}
		rest = after
	}
}

var sentences = []string{
	"deployment.apps/recommend-service created", `"recommend-service" successfully rolled out`,
	"Healed: from the kill to a running replacement took", "1 (",
	"recommend-service scaled", "6/6",
	"image updated", "recommend-service:1.2.0", "Allocatable           safety    0", "5 of 6 were ready at least, as promised",
	"is gone.",
}

func TestTheStoryWithSimulatedContainers(t *testing.T) {
	said(t, tell(t, local.Fake), sentences...)
}

func TestTheStoryOnDocker(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a dozen containers")
	}
	testdocker.Require(t)
	networks := func() string {
		out, err := exec.Command("docker", "network", "ls", "-q").CombinedOutput()
		if err != nil {
			t.Skipf("docker network ls: %v: %s", err, out)
		}
		return string(out)
	}
	before := networks()
	said(t, tell(t, local.Docker), append([]string{"FROM scratch"}, sentences...)...)
	if after := networks(); after != before {
		t.Errorf("networks before:\n%safter:\n%s", before, after)
	}
}

func TestWhatToTryNextIsWhereTheClusterIs(t *testing.T) {
	for home, folder := range map[string]string{"": "~/.orch", "/srv/orch": "/srv/orch"} {
		t.Setenv("ORCH_HOME", home)
		var out bytes.Buffer
		(&story{out: &out, runtime: local.Fake, keep: true}).next()
		said(t, out.String(), "kill -9 $(cut -d' ' -f1 "+folder+"/clusters/webflix/node-2.pid)")
	}
}
