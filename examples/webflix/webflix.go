// Package webflix knows the images of the Webflix example. Read next: demo, the
// story that `make demo` tells.
package webflix

import (
	"context"
	"io"

	"orch/examples/image"
	"orch/pkg/container/docker"
)

// Versions of recommend-service that the example has.
var Versions = []string{"1.0.1", "1.2.0"}

// Image is the reference of a version's image.
func Image(version string) string { return "recommend-service:" + version }

// BuildImages makes the image of each version. It needs Go, and to run in the
// repository's root.
func BuildImages(ctx context.Context, rt *docker.Runtime, out io.Writer) error {
	for _, v := range Versions {
		i := image.Image{Ref: Image(v), Package: "./examples/webflix/recommend-service", Version: v, Expose: []string{"8080/tcp"}}
		if err := i.Build(ctx, rt, out); err != nil {
			return err
		}
	}
	return nil
}
