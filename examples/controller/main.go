// Command controller is a controller of one's own: the janitor deletes previews,
// which are Deployments with the label preview=true, when their time is over. It
// runs anywhere, as a user like any other, and is the example of
// docs/labs/8-your-own-controller.md.
//
// The one invariant: what it does follows from what it sees, and from nothing
// that it remembers; so it may be killed at any moment, and come back later.
//
// Read next: plan.go, which decides; then pkg/reconcile, which calls.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"orch/pkg/api"
	"orch/pkg/cli/config"
	"orch/pkg/client"
	"orch/pkg/informer"
	"orch/pkg/reconcile"
	v1 "orch/proto/v1"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the file that orchctl create user wrote")
	namespace := flag.String("namespace", api.NamespaceDefault, "whose previews to look after")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	c, err := config.Dial(*kubeconfig, "")
	if err == nil {
		err = newJanitor(c, *namespace, log).Run(ctx)
		_ = c.Close()
	}
	if err != nil {
		log.Error("the janitor cannot work", "error", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be undone
	}
}

// janitor is the shell around plan.
type janitor struct {
	c        *client.Client
	previews *informer.Informer[*v1.Deployment]
	loop     *reconcile.Loop
	log      *slog.Logger
	now      func() time.Time
}

func newJanitor(c *client.Client, namespace string, log *slog.Logger) *janitor {
	j := &janitor{c: c, log: log, now: time.Now}
	// A mirror of what there is, kept true by a watch.
	j.previews = informer.New(client.For[*v1.Deployment](c), informer.Options{Namespace: namespace, LabelSelector: "preview=true", Logger: log})
	// A queue of names, and workers that take them to reconcile.
	j.loop = reconcile.New("janitor", j.reconcile, reconcile.Options{Mirrors: []reconcile.Mirror{j.previews}, Logger: log})
	// Whatever happens to a preview: look at it. What happened is not said.
	j.previews.OnChange(func(c informer.Change[*v1.Deployment]) {
		if c.New != nil {
			j.loop.Enqueue(api.KeyOf(c.New), c.Revision)
		}
	})
	return j
}

// Run works until ctx ends.
func (j *janitor) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return j.previews.Run(ctx) })
	g.Go(func() error { return j.loop.Run(ctx) })
	return g.Wait()
}

// reconcile makes the world as it should be for one preview.
func (j *janitor) reconcile(ctx context.Context, key api.Key) (reconcile.Result, error) {
	d, ok := j.previews.Get(key)
	if !ok {
		return reconcile.Result{}, nil // it is gone: nothing to do is a case like any other
	}
	a := plan(d, j.now())
	if a.Delete == "" {
		return reconcile.Result{After: a.After}, nil
	}
	// The cause goes into the log, with the revision (or the clock) that made
	// the loop call: orchctl why will tell it.
	ctx = client.WithCause(ctx, a.Delete, "%s", a.Why)
	m := d.GetMetadata()
	_, err := client.For[*v1.Deployment](j.c).Delete(ctx, m.GetNamespace(), m.GetName(), client.DeleteOptions{UID: m.GetUid()})
	if err == nil {
		j.log.Info("deleted", "preview", key, "why", a.Why)
	}
	if errors.Is(err, api.ErrNotFound) {
		err = nil // somebody was faster
	}
	return reconcile.Result{}, err // an error makes the loop try again, later and later
}
