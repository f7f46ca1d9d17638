// Package docker runs containers on a Docker engine, from 20.10 (API 1.41) up.
//
// It is the only package that imports Docker: the module path of the client
// ends with v28, so that one day this package, and no other, will have to
// change. Its invariant: the engine is the only memory. A Runtime holds
// connections and what never changes about the engine, nothing about containers; two
// Runtimes on one engine, or one after the other, see the same.
//
// Nothing here polls. What has to be waited for is waited for in a request
// that the engine answers when it has happened, or in the kernel (exit_linux.go).
//
// Read sandbox.go for how a pod's namespaces are made, create.go for what a
// container is given, and pause.go for the smallest container image there is.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"orch/pkg/container"
)

// requestTimeout bounds every call that an engine in good health answers soon.
// It is the kubelet's --runtime-request-timeout: long enough for a machine
// that swaps, short enough that a stuck engine becomes an error.
const requestTimeout = 2 * time.Minute

// Runtime is container.Runtime on a Docker engine.
//
// Concurrency: all methods may be called from several goroutines. Each request
// has a connection of its own, so that one that hangs holds up no other.
type Runtime struct {
	cli *client.Client

	// negotiated is set once the API version has been agreed on; negotiating
	// is held (by a send) by whoever does it. The Docker client would do it by
	// itself, but under a mutex that no context ends, and reads the version
	// elsewhere without that mutex.
	negotiated  atomic.Bool
	negotiating chan struct{}

	// sandbox is the image of sandboxes for the engine's architecture, kept
	// because asking for it costs the engine more than creating a container.
	sandbox atomic.Pointer[sandboxImage]
	// unprotecting engines cannot lower a process's score below 0, and fail to
	// start it where they are asked to; Info finds out.
	unprotecting atomic.Bool
	// root is where the engine has its data, for Machine.
	root atomic.Pointer[string]
}

var _ container.Runtime = (*Runtime)(nil)

// New returns a runtime on the engine at host ("unix:///var/run/docker.sock").
// An empty host means the environment's: DOCKER_HOST with DOCKER_TLS_VERIFY and
// DOCKER_CERT_PATH, else Docker's default socket. New does not connect; Info
// tells whether an engine answers.
func New(host string) (*Runtime, error) {
	options := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if host != "" {
		options = append(options, client.WithHost(host))
	}
	cli, err := client.NewClientWithOpts(options...)
	if err != nil {
		return nil, fmt.Errorf("docker client: %w", err)
	}
	return &Runtime{cli: cli, negotiating: make(chan struct{}, 1)}, nil
}

// Host is the address of the engine that the runtime talks to.
func (r *Runtime) Host() string { return r.cli.DaemonHost() }

// Close closes idle connections; it stops no container.
func (r *Runtime) Close() error { return r.cli.Close() }

// Info describes engine and machine.
func (r *Runtime) Info(ctx context.Context) (container.Info, error) {
	return ask(ctx, r, "engine info", func(ctx context.Context, cli *client.Client) (container.Info, error) {
		i, err := cli.Info(ctx)
		rootless := slices.ContainsFunc(i.SecurityOptions, func(o string) bool { return strings.Contains(o, "rootless") })
		r.unprotecting.Store(rootless || lacksResourceCapability(ctx, r.Host()))
		return container.Info{
			Runtime:         "docker://" + i.ServerVersion,
			APIVersion:      cli.ClientVersion(),
			OperatingSystem: i.OperatingSystem,
			OS:              i.OSType,
			Architecture:    goarch(i.Architecture),
			KernelVersion:   i.KernelVersion,
			MilliCPU:        int64(i.NCPU) * 1000,
			MemoryBytes:     i.MemTotal,
		}, err
	})
}

// goarch translates uname's names of machines, which the engine's info uses,
// into Go's.
func goarch(machine string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	default:
		return machine
	}
}

// do carries out one bounded request (or a few) named op and sorts its error.
func (r *Runtime) do(ctx context.Context, op string, f func(context.Context, *client.Client) error) error {
	return r.doWithin(ctx, requestTimeout, op, f)
}

// ask is do for what has an answer.
func ask[T any](ctx context.Context, r *Runtime, op string, f func(context.Context, *client.Client) (T, error)) (answer T, err error) {
	err = r.do(ctx, op, func(ctx context.Context, cli *client.Client) error {
		answer, err = f(ctx, cli)
		return err
	})
	if err != nil {
		answer = *new(T)
	}
	return answer, err
}

func (r *Runtime) doWithin(ctx context.Context, limit time.Duration, op string, f func(context.Context, *client.Client) error) error {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cli, err := r.client(bounded)
	if err == nil {
		err = f(bounded, cli)
	}
	return sortError(ctx, op, err)
}

// client returns the Docker client after the API version has been agreed on.
func (r *Runtime) client(ctx context.Context) (*client.Client, error) {
	if r.negotiated.Load() {
		return r.cli, nil
	}
	select {
	case r.negotiating <- struct{}{}:
		defer func() { <-r.negotiating }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.negotiated.Load() {
		return r.cli, nil
	}
	ping, err := r.cli.Ping(ctx)
	if err != nil {
		return nil, err
	}
	if ping.APIVersion == "" {
		// Not an engine in good health. Going on would settle on API 1.24 for
		// as long as the process lives.
		return nil, fmt.Errorf("%w: %s does not answer as a Docker engine", container.ErrUnavailable, r.Host())
	}
	r.cli.NegotiateAPIVersionPing(ping)
	r.negotiated.Store(true)
	return r.cli, nil
}

// sortError names the operation and adds the contract's kind to an error of
// the Docker client, whose own text (the engine's message) is kept. ctx is the
// caller's: when it has ended, its error is what the caller wants to see.
func sortError(ctx context.Context, op string, err error) error {
	var kind error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", op, ctx.Err())
	case errors.Is(err, container.ErrUnavailable),
		errors.Is(err, container.ErrNotFound),
		errors.Is(err, container.ErrConflict),
		errors.Is(err, container.ErrNoFile),
		errors.Is(err, container.ErrNotRunning):
		return fmt.Errorf("%s: %w", op, err)
	case isUnavailable(err):
		kind = container.ErrUnavailable
	case cerrdefs.IsNotFound(err):
		kind = container.ErrNotFound
	case cerrdefs.IsConflict(err) && strings.Contains(err.Error(), "already in use"):
		kind = container.ErrConflict
	// Engines answer 409 for a stopped container in some calls, 500 in others.
	case strings.Contains(err.Error(), "is not running"):
		kind = container.ErrNotRunning
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
	return fmt.Errorf("%s: %w: %w", op, kind, err)
}

// isUnavailable tells an engine that does not answer, or stopped answering
// half-way, from one that refuses.
func isUnavailable(err error) bool {
	if output := (*outputError)(nil); errors.As(err, &output) {
		return false
	}
	var network net.Error // also a request that outlived its bound
	return client.IsErrConnectionFailed(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.As(err, &network)
}
