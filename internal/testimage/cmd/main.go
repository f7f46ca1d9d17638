// Command testimage is the only program of the image that tests run; see the
// package internal/testimage.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"orch/internal/testimage"
)

func main() {
	names := map[os.Signal]string{
		syscall.SIGTERM: "SIGTERM", syscall.SIGINT: "SIGINT", syscall.SIGHUP: "SIGHUP", syscall.SIGUSR1: "SIGUSR1",
		syscall.SIGWINCH: "SIGWINCH",
	}
	received := make(chan os.Signal, 8)
	signal.Notify(received, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGWINCH)
	signals := make(chan string)
	go func() {
		for s := range received {
			signals <- names[s]
		}
	}()
	os.Exit(testimage.Program(context.Background(), testimage.Process{
		Args:    os.Args[1:],
		Env:     os.Environ(),
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Signals: signals,
	}))
}
