// Command cmd makes the images of all examples on the Docker engine; `make
// images` runs it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"orch/examples/image"
	"orch/examples/webflix"
	"orch/pkg/container/docker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	rt, err := docker.New("")
	if err != nil {
		return err
	}
	defer rt.Close()
	if err := webflix.BuildImages(ctx, rt, os.Stdout); err != nil {
		return err
	}
	return image.Toolbox.Build(ctx, rt, os.Stdout)
}
