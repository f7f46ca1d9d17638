package agent

import (
	"sync"
	"time"
)

// gatherFor is how long a message waits for more: nothing to a reader, and some
// hundred lines of an engine that reads a log from its disk.
const gatherFor = time.Millisecond

// batch is a writer that gathers what is written within a millisecond, and while
// the message before it is on its way: an engine hands out a log line by line,
// and a message for each would cost API server and agent more than the engine
// spends on reading it. Who writes faster than the client reads is held back
// once chunkSize bytes wait.
//
// Concurrency: Write by one goroutine, run by another; end by either, once.
type batch struct {
	full    chan struct{} // says that a message need not wait for more
	mu      sync.Mutex    // protects what follows
	changed sync.Cond     // of mu
	waiting []byte
	ended   bool
	err     error // why run ended early
}

func newBatch() *batch {
	b := &batch{full: make(chan struct{}, 1)}
	b.changed.L = &b.mu
	return b
}

func (b *batch) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n := 0; n < len(p); {
		for len(b.waiting) >= chunkSize && b.err == nil {
			b.changed.Wait()
		}
		if b.err != nil {
			return n, b.err
		}
		piece := p[n:min(len(p), n+chunkSize-len(b.waiting))]
		b.waiting = append(b.waiting, piece...)
		n += len(piece)
		b.changed.Broadcast()
		if len(b.waiting) == chunkSize {
			b.hurry()
		}
	}
	return len(p), nil
}

// hurry ends the present wait for more, or the next.
func (b *batch) hurry() {
	select {
	case b.full <- struct{}{}:
	default:
	}
}

// end lets run return when it has sent everything.
func (b *batch) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.changed.Broadcast()
	b.hurry()
}

// run sends what is written until end or an error, which Write then returns too.
// send must not keep what it is given.
func (b *batch) run(send func([]byte) error) error {
	var sending []byte
	for {
		b.mu.Lock()
		for len(b.waiting) == 0 && !b.ended {
			b.changed.Wait()
		}
		b.mu.Unlock()
		select {
		case <-b.full:
		case <-time.After(gatherFor):
		}
		b.mu.Lock()
		sending, b.waiting = b.waiting, sending[:0]
		b.changed.Broadcast()
		b.mu.Unlock()
		if len(sending) == 0 {
			return nil
		}
		if err := send(sending); err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.err = err
			b.changed.Broadcast()
			return err
		}
	}
}
