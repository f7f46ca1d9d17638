// Command recommend-service is the demo's microservice: it recommends films
// over HTTP, says which version and which pod answered, and ends at once when
// it is asked to.
//
//	GET /recommend  {"version":"1.0.1","pod":"recommend-service-…","films":[…]}
//	GET /healthz    ok
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is set by the build: the images differ in nothing else.
var version = "dev"

func main() {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil)).With("version", version)
	if err := run(log); err != nil {
		log.Error("recommend-service failed", "error", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	pod, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /recommend", func(w http.ResponseWriter, r *http.Request) {
		log.Info("recommended", "to", r.RemoteAddr)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"version": version, "pod": pod, "why": os.Getenv("GREETING"), "films": films(),
		})
	})
	srv := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.ListenAndServe() }()
	log.Info("serving", "address", srv.Addr, "pod", pod)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		log.Info("asked to end")
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// films changes with the version, so that one can see which answered.
func films() []string {
	if version >= "1.2" {
		return []string{"Rolling Update", "Raft: The Quorum", "12 Angry Pods", "Eventual Consistency"}
	}
	return []string{"Rolling Update", "Raft: The Quorum"}
}
