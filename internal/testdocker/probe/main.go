// Command probe says whether a Docker engine answers, and so whether the tests
// that need one will run: go test hides what a passing test prints, and a
// skipped test passes. Its exit status is that of the tests: 0, except where
// CI=true makes a missing engine a failure.
//
// It starts a container too, and waits for that far longer than any test would:
// the first answers of an engine on a machine that has just booted come from a
// cold disk, and can take longer than a test may wait.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"orch/internal/testdocker"
	"orch/pkg/container"
	"orch/pkg/container/docker"
)

// patience is for an engine that is there and slow; where none is, the first
// call fails at once.
const patience = 3 * time.Minute

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	slow := time.AfterFunc(10*time.Second, func() { fmt.Println("wait  test  for the Docker engine, which is slow") })
	err := tryOut(ctx)
	slow.Stop()
	switch {
	case err == nil:
		return
	case os.Getenv("CI") == "true":
		fmt.Printf("FAIL  test  no Docker engine answers: %v\n", err)
		os.Exit(1)
	default:
		fmt.Printf("SKIP  NO DOCKER ENGINE ANSWERS, so no Docker test will run: %v\n", err)
	}
}

// tryOut asks the engine that the tests would use, and runs a container on it.
func tryOut(ctx context.Context) error {
	runtime, err := docker.New("")
	if err != nil {
		return err
	}
	defer runtime.Close()
	if _, err := runtime.Info(ctx); err != nil {
		return err
	}
	name := fmt.Sprintf("orch-test-probe-%d", os.Getpid())
	sandbox, err := runtime.CreateSandbox(ctx, container.Sandbox{Name: name, Labels: map[string]string{testdocker.RunLabel: name}})
	if err != nil {
		return err
	}
	return runtime.Remove(ctx, sandbox.ID)
}
