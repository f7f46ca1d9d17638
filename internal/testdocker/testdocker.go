// Package testdocker connects tests to the Docker engine of this machine.
//
// Its invariant: what a test makes carries the label of its run, and only what
// carries that label is removed. Other containers on the engine are safe.
package testdocker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"orch/pkg/container"
	"orch/pkg/container/docker"
)

// RunLabel is on each container that a test makes. What a test process that was
// killed left behind is found with
// `docker ps -aq --filter label=orch.test/run`.
const RunLabel = "orch.test/run"

// Engine is an engine for one test, and a container.Runtime that puts the run's
// label on all that it creates.
//
// Concurrency: all methods may be called from several goroutines.
type Engine struct {
	*docker.Runtime
	// Run is unique to this test; it can be part of names.
	Run string

	mu     sync.Mutex
	labels []map[string]string // what carries all labels of one of these goes
	images []string
}

var _ container.Runtime = (*Engine)(nil)

// Require returns the engine, and removes at the end of the test what carries
// its label, also when the test fails. Where no engine answers, the test is
// skipped, or fails with CI=true.
func Require(t testing.TB) *Engine {
	t.Helper()
	runtime, err := docker.New("")
	if err == nil {
		_, err = runtime.Info(within(t, 3*time.Minute))
	}
	if err != nil {
		message := fmt.Sprintf("NO DOCKER ENGINE ANSWERS, so that no Docker test runs: %v", err)
		if os.Getenv("CI") == "true" {
			t.Fatal(message)
		}
		loud.Do(func() { fmt.Fprintln(os.Stderr, "=== "+message) })
		t.Skip(message)
	}
	e := &Engine{Runtime: runtime, Run: "t" + strings.ToLower(rand.Text()[:10])}
	e.AlsoRemove(e.Labels(nil))
	t.Cleanup(func() {
		defer runtime.Close()
		if err := e.removeAll(within(t, 3*time.Minute)); err != nil {
			t.Errorf("clean up run %s: %v", e.Run, err)
		}
	})
	return e
}

// loud prints the reason once for all tests of a package.
var loud sync.Once

// Labels are extra with the label of this run.
func (e *Engine) Labels(extra map[string]string) map[string]string {
	labels := map[string]string{RunLabel: e.Run}
	maps.Copy(labels, extra)
	return labels
}

// Name makes a container's name unique to this run.
func (e *Engine) Name(name string) string { return "orch-test-" + e.Run + "-" + name }

// CreateSandbox is the runtime's, with the label of this run.
func (e *Engine) CreateSandbox(ctx context.Context, s container.Sandbox) (container.Container, error) {
	s.Labels = e.Labels(s.Labels)
	return e.Runtime.CreateSandbox(ctx, s)
}

// Create is the runtime's, with the label of this run.
func (e *Engine) Create(ctx context.Context, c container.Config) (string, error) {
	c.Labels = e.Labels(c.Labels)
	return e.Runtime.Create(ctx, c)
}

// AlsoRemove says that the containers that carry all these labels are the
// test's as well: those of a process that it starts, for example. The labels
// have to be unique to the test.
func (e *Engine) AlsoRemove(labels map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.labels = append(e.labels, labels)
}

// RemoveImageLater removes an image after all containers.
func (e *Engine) RemoveImageLater(ref string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images = append(e.images, ref)
}

// removeAll removes what is the test's: sandboxes after other containers, so
// that nothing loses its network before its end, and images last.
func (e *Engine) removeAll(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for _, labels := range e.labels {
		list, err := e.List(ctx, labels)
		errs = append(errs, err)
		for _, sandboxes := range []bool{false, true} {
			for _, c := range list {
				if (c.IP != "") == sandboxes {
					errs = append(errs, e.Remove(ctx, c.ID))
				}
			}
		}
	}
	for _, ref := range e.images {
		errs = append(errs, e.RemoveImage(ctx, ref))
	}
	return errors.Join(errs...)
}

// Subnet is a subnet for a native network. It is drawn by lot, because several test
// runs may share the machine.
func Subnet() netip.Prefix {
	text := []byte(rand.Text())
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64 + text[0]%64, text[1]*16 + text[2], 0}), 24)
}

// within is a context that is still good while a test cleans up.
func within(t testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
	t.Cleanup(cancel)
	return ctx
}
