package fake

import (
	"context"
	"fmt"
	"strings"

	"orch/pkg/api"
	"orch/pkg/container"
)

// Hook is called before a call is carried out. It may block, as a stuck engine
// does, until ctx ends (and then has to return), and it may fail. op is the
// method's name ("Create"); target is the reference of an image, the name that a
// new container shall have, or the id of one that exists.
type Hook func(ctx context.Context, op, target string) error

// SetHook makes h the hook of all calls to come; nil is none.
func (e *Engine) SetHook(h Hook) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hook = h
}

// SetProgram gives containers of an image that start from now on a program.
func (e *Engine) SetProgram(image string, p Program) {
	e.mu.Lock()
	defer e.mu.Unlock()
	api.Put(&e.options.Programs, image, p)
}

// AddImage makes images local, as if they had been built on the machine.
func (e *Engine) AddImage(refs ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ref := range refs {
		e.pulled[ref] = false
	}
}

// Registry is a registry that has every image, at once, but those with
// "does-not-exist" in their name.
func Registry(_ context.Context, ref string, o container.PullOptions) error {
	if !strings.Contains(ref, "does-not-exist") {
		if o.Progress != nil {
			o.Progress(container.Progress{Layers: 1, Done: 1, Bytes: imageSize, TotalBytes: imageSize})
		}
		return nil
	}
	return fmt.Errorf("%w: Error response from daemon: manifest for %s not found: manifest unknown: manifest unknown",
		container.ErrNotFound, ref)
}

// StopEngine makes all calls, and all watches and other calls under way, fail
// with container.ErrUnavailable. With killContainers, containers are killed as
// by an engine that ends; otherwise they go on (Docker's live restore).
func (e *Engine) StopEngine(killContainers bool) {
	e.mu.Lock()
	var killed []*process
	for _, c := range e.containers {
		if killContainers && c.lives() {
			killed = append(killed, c.process)
		}
	}
	if !e.isDown {
		e.isDown = true
		close(e.down)
	}
	e.mu.Unlock()
	for _, p := range killed {
		p.kill()
		<-p.ended
	}
}

// StartEngine ends what StopEngine began.
func (e *Engine) StartEngine() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.isDown {
		e.isDown = false
		e.down = make(chan struct{})
	}
}

// Shutdown stops the engine with all containers and returns when no goroutine
// of it is left. It waits for programs that do not return when they are killed.
func (e *Engine) Shutdown() {
	e.StopEngine(true)
	e.running.Wait()
}

// enter begins a call: it fails when the engine is stopped, when ctx has ended,
// or when the hook wants it to.
func (e *Engine) enter(ctx context.Context, op, target string) error {
	e.mu.Lock()
	hook, isDown := e.hook, e.isDown
	e.mu.Unlock()
	err := ctx.Err()
	switch {
	case err != nil:
	case isDown:
		err = container.ErrUnavailable
	case hook != nil:
		err = e.whileUp(ctx, func(ctx context.Context) error { return hook(ctx, op, target) })
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(strings.ToLower(op)+" "+target), err)
	}
	return nil
}

// whileUp calls f with a context that also ends when the engine stops.
func (e *Engine) whileUp(ctx context.Context, f func(context.Context) error) error {
	e.mu.Lock()
	down := e.down
	e.mu.Unlock()
	bounded, cancel := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-down:
			cancel()
		case <-bounded.Done():
		}
	}()
	err := f(bounded)
	cancel()
	<-watching
	select {
	case <-down:
		if ctx.Err() == nil {
			return container.ErrUnavailable
		}
	default:
	}
	return err
}

// await blocks until the channel is closed, ctx ends or the engine stops.
func (e *Engine) await(ctx context.Context, ch <-chan struct{}) error {
	e.mu.Lock()
	down := e.down
	e.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-down:
		return container.ErrUnavailable
	case <-ctx.Done():
		return ctx.Err()
	}
}
