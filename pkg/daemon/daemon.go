// Package daemon is what the control plane and the agent have alike as processes:
// signals, flags of logging, and figures for Prometheus.
//
// The one invariant: nothing here knows what a daemon does.
//
// Read next: the mains of cmd.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"

	"orch/pkg/chaos/crash"
)

// Main runs a daemon until SIGTERM or interrupt, and returns its exit code.
func Main(name string, run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	crash.Wait(ctx)
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// ErrDone says that the flags asked for nothing but a text.
var ErrDone = errors.New("done")

// NewFlags returns the flags of a daemon, with --help and an end of it that says
// which commands it has.
func NewFlags(name, commands string, stderr io.Writer) *pflag.FlagSet {
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintf(stderr, "Usage of %s:\n%s\nCommands, with --data-dir: %s\n", name, f.FlagUsages(), commands)
	}
	return f
}

// Parse adds the flags that all daemons have, parses, and returns the logger that
// they ask for.
func Parse(f *pflag.FlagSet, version string, args []string, stdout io.Writer) (*slog.Logger, error) {
	var level slog.Level
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	format := f.String("log-format", "text", "text or json")
	show := f.Bool("version", false, "print the version and end")
	err := f.Parse(args)
	h := &slog.HandlerOptions{Level: level}
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return nil, ErrDone
	case err != nil:
		return nil, err
	case *show:
		fmt.Fprintf(stdout, "%s %s (%s, %s/%s)\n", f.Name(), version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil, ErrDone
	case f.NArg() > 0:
		return nil, fmt.Errorf("unknown argument %q: see --help", f.Arg(0))
	case *format == "text":
		return slog.New(slog.NewTextHandler(f.Output(), h)), nil
	case *format == "json":
		return slog.New(slog.NewJSONHandler(f.Output(), h)), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", *format)
}

// NewRegistry returns a registry that has the figures of the process.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// ServeMetrics answers /metrics, /healthz and /debug/pprof until ctx ends.
func ServeMetrics(ctx context.Context, l net.Listener, r *prometheus.Registry) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{Registry: r}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
