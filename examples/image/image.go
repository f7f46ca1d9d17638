// Package image makes the images of the examples from this repository's own Go
// code, so that no registry and no Dockerfile is needed. Each is one static
// program FROM scratch. Read next: cmd, which makes them all (`make images`).
package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"orch/pkg/container/docker"
)

// Image is one of the examples' images.
type Image struct {
	Ref     string // "toolbox:1"
	Package string // of the program, from the repository's root: "./examples/pods/toolbox"
	Version string // goes into the program's variable main.version, where it has one
	Expose  []string
}

// Toolbox is the image of the lessons in examples/pods.
var Toolbox = Image{Ref: "toolbox:1", Package: "./examples/pods/toolbox"}

// Build compiles the program for the engine's machine and imports it. It needs
// Go, and to run in the repository's root.
func (i Image) Build(ctx context.Context, rt *docker.Runtime, out io.Writer) error {
	dir, err := os.MkdirTemp("", "orch-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// The engine may run elsewhere, on another architecture (a Mac's VM).
	info, err := rt.Info(ctx)
	if err != nil {
		return err
	}
	name := path.Base(i.Package)
	binary := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+i.Version, "-o", binary, i.Package)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+info.Architecture)
	cmd.Stderr = out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s for %s: %w", i.Package, i.Ref, err)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	files := []docker.ImageFile{{Path: "/" + name, Mode: 0o755, Content: data}}
	config := docker.ImageConfig{Entrypoint: []string{"/" + name}, User: "65534:65534", Expose: i.Expose}
	if _, err := rt.ImportImage(ctx, i.Ref, files, config); err != nil {
		return fmt.Errorf("make image %s: %w", i.Ref, err)
	}
	fmt.Fprintf(out, "  ✓ %s (%.1f MB, FROM scratch)\n", i.Ref, float64(len(data))/1e6)
	return nil
}
