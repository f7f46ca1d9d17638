package fake

import (
	"context"
	"fmt"
	"maps"
	"time"

	"orch/pkg/api"
	"orch/pkg/container"
)

// watcher is one Watch. Its queue has no limit, so that a slow watcher delays
// nobody; Engine.mu guards it.
type watcher struct {
	labels map[string]string
	queue  []container.Event
	wake   chan struct{} // of size 1: there may be something
}

// emit tells the watchers. The caller holds e.mu.
func (e *Engine) emit(c *fakeContainer, action string) {
	for w := range e.watchers {
		if !api.HasAll(c.Labels, w.labels) {
			continue
		}
		w.queue = append(w.queue, container.Event{
			ID: c.ID, Action: action, Labels: maps.Clone(c.Labels), Time: time.Now().UTC(),
		})
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Watch calls f for each event of containers that carry the labels.
func (e *Engine) Watch(ctx context.Context, labels map[string]string, ready chan<- struct{}, f func(container.Event)) error {
	if err := e.enter(ctx, "Watch", ""); err != nil {
		return err
	}
	w := &watcher{labels: maps.Clone(labels), wake: make(chan struct{}, 1)}
	e.mu.Lock()
	down := e.down
	e.watchers[w] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers, w)
	}()
	if ready != nil {
		close(ready)
	}
	for {
		select {
		case <-w.wake:
			e.mu.Lock()
			events := w.queue
			w.queue = nil
			e.mu.Unlock()
			for _, event := range events {
				f(event)
			}
		case <-down:
			return fmt.Errorf("watch events: %w", container.ErrUnavailable)
		case <-ctx.Done():
			return fmt.Errorf("watch events: %w", ctx.Err())
		}
	}
}
