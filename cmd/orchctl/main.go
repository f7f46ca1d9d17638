// Command orchctl controls an Orch cluster. See pkg/cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"orch/pkg/cli"
)

// version is set by the build.
var version = "dev"

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends what the first has not
	defer stop()
	return cli.Main(ctx, cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Args[1:], version)
}
