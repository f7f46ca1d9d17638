package testimage

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"orch/internal/testdocker"
	"orch/pkg/container/docker"
)

// Build imports the test image with a tag of its own, which goes with the
// engine's containers at the end of the test, and returns the tag. Tests that
// share an image call Build in their common parent.
//
// The image's entrypoint is the program, without arguments, and its environment
// has IMAGE=testimage.
func Build(t testing.TB, engine *testdocker.Engine) string {
	t.Helper()
	ref := "orch-test-image:" + strings.ToLower(rand.Text()[:10])
	engine.RemoveImageLater(ref)
	if err := Import(t.Context(), engine.Runtime, ref); err != nil {
		t.Fatal(err)
	}
	return ref
}

// Import makes the image under this name.
func Import(ctx context.Context, engine *docker.Runtime, ref string) error {
	info, err := engine.Info(ctx)
	if err != nil {
		return err
	}
	program, err := Binary(info.Architecture)
	if err != nil {
		return err
	}
	_, err = engine.ImportImage(ctx, ref,
		[]docker.ImageFile{{Path: Path, Mode: 0o755, Content: program}},
		docker.ImageConfig{Entrypoint: []string{Path}, Env: []string{"IMAGE=testimage"}})
	return err
}

// built remembers the program for this test process: compiling it costs a
// second or two.
var built struct {
	sync.Mutex
	arch    string
	program []byte
}

// Binary is the program, compiled for the architecture and statically linked.
func Binary(arch string) ([]byte, error) {
	built.Lock()
	defer built.Unlock()
	if built.arch == arch {
		return built.program, nil
	}
	dir, err := os.MkdirTemp("", "testimage-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "testimage")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", file, "orch/internal/testimage/cmd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the test image's program: %w\n%s", err, out)
	}
	program, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	built.arch, built.program = arch, program
	return program, nil
}
