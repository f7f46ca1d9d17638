package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"orch/pkg/container"
)

const (
	// pullSlots bounds the pulls under way: more would share the same line, and
	// the first would be done later. (The kubelet's default is one; then an image
	// of gigabytes holds up all others.)
	pullSlots = 4
	// progressEvery is how often those who wait are told how far a pull is.
	progressEvery = 5 * time.Second
)

// puller fetches images, each once at a time however many pods wait for it with
// the same logins: who has another password, or none, must not get in through
// somebody else's pull. A pull for which nobody waits any more ends.
//
// Concurrency: Pull may be called from several goroutines.
type puller struct {
	runtime container.Runtime
	slots   chan struct{} // a value in it is a pull under way

	mu    sync.Mutex // protects pulls and the waiters in them
	pulls map[string]*pull
}

type pull struct {
	waiters  int
	cancel   context.CancelFunc
	progress atomic.Pointer[container.Progress]
	done     chan struct{} // closed when the rest is set
	image    container.Image
	err      error
	took     time.Duration
}

func newPuller(r container.Runtime) *puller {
	return &puller{runtime: r, slots: make(chan struct{}, pullSlots), pulls: map[string]*pull{}}
}

// Pull fetches ref with the first login that works, or joins who does, and says
// how long that took. progress is called now and then while it gets on.
func (p *puller) Pull(ctx context.Context, ref string, logins []container.Login, progress func(container.Progress)) (container.Image, time.Duration, error) {
	key := ref
	for _, l := range logins {
		key += fmt.Sprintf(" %q:%q", l.Username, l.Password)
	}
	p.mu.Lock()
	job := p.pulls[key]
	if job == nil {
		// The pull lives as long as anybody waits, not as long as who came first.
		shared, cancel := context.WithCancel(context.WithoutCancel(ctx))
		job = &pull{cancel: cancel, done: make(chan struct{})}
		p.pulls[key] = job
		go p.run(shared, key, job, ref, logins)
	}
	job.waiters++
	p.mu.Unlock()

	job.await(ctx, progress)
	p.mu.Lock()
	job.waiters--
	last := job.waiters == 0
	if last && p.pulls[key] == job {
		delete(p.pulls, key)
	}
	p.mu.Unlock()
	if last {
		job.cancel()
		<-job.done // so that no goroutine outlives those who waited for it
	}
	if err := ctx.Err(); err != nil {
		return container.Image{}, 0, err
	}
	return job.image, job.took, job.err
}

// await returns when the pull is done, or ctx.
func (j *pull) await(ctx context.Context, progress func(container.Progress)) {
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for told := j.progress.Load(); ; {
		select {
		case <-j.done:
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now := j.progress.Load(); now != told {
			told = now
			progress(*now)
		}
	}
}

func (p *puller) run(ctx context.Context, key string, job *pull, ref string, logins []container.Login) {
	defer close(job.done)
	select {
	case p.slots <- struct{}{}:
		began := time.Now()
		job.image, job.err = p.try(ctx, ref, logins, func(now container.Progress) { job.progress.Store(&now) })
		job.took = time.Since(began)
		<-p.slots
	case <-ctx.Done():
		job.err = ctx.Err()
	}
	p.mu.Lock()
	if p.pulls[key] == job {
		delete(p.pulls, key)
	}
	p.mu.Unlock()
}

// try pulls with one login after the other. As in Kubernetes, who names a login
// for this registry is never pulled for without one.
func (p *puller) try(ctx context.Context, ref string, logins []container.Login, progress func(container.Progress)) (container.Image, error) {
	if len(logins) == 0 {
		return p.runtime.Pull(ctx, ref, container.PullOptions{Progress: progress})
	}
	var refused []string
	for _, login := range logins {
		image, err := p.runtime.Pull(ctx, ref, container.PullOptions{Login: &login, Progress: progress})
		switch {
		case err == nil, ctx.Err() != nil, errors.Is(err, container.ErrUnavailable), len(logins) == 1:
			return image, err
		case !slices.Contains(refused, err.Error()):
			refused = append(refused, err.Error())
		}
	}
	return container.Image{}, fmt.Errorf("[%s]", strings.Join(refused, ", ")) //nolint:err113 // as Kubernetes sums errors up
}
