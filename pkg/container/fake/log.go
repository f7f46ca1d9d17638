package fake

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"orch/pkg/container"
)

// logBytes is how much of a container's output is kept; older lines go.
const logBytes = 1 << 20

const (
	streamOut = iota
	streamErr
)

// log keeps the last lines that a container printed.
//
// Concurrency: all methods may be called from several goroutines.
type log struct {
	mu      sync.Mutex
	lines   []logLine
	dropped int // lines that went before lines[0]
	bytes   int
	running bool
	changed chan struct{} // closed and replaced at each change
}

type logLine struct {
	time   time.Time
	stream int
	text   []byte // with its line break
}

func newLog() *log { return &log{changed: make(chan struct{}), running: true} }

func (l *log) add(stream int, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, logLine{time.Now().UTC(), stream, text})
	for l.bytes += len(text); l.bytes > logBytes; l.dropped++ {
		l.bytes -= len(l.lines[0].text)
		l.lines = l.lines[1:]
	}
	l.notify()
}

// open and close tell whether more can come.
func (l *log) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = true
}

func (l *log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = false
	l.notify()
}

func (l *log) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// since returns the lines from number n on, the number of the next one, whether
// more can come, and what is closed then.
func (l *log) since(n int) (lines []logLine, next int, running bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(max(n-l.dropped, 0), len(l.lines))
	return l.lines[n:len(l.lines):len(l.lines)], l.dropped + len(l.lines), l.running, l.changed
}

// lineWriter cuts what is written into lines.
type lineWriter struct {
	log    *log
	stream int
	mu     sync.Mutex
	rest   []byte // a line without its end
}

func (l *log) writer(stream int) *lineWriter { return &lineWriter{log: l, stream: stream} }

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 {
			return len(p), nil
		}
		w.log.add(w.stream, bytes.Clone(w.rest[:end+1]))
		w.rest = w.rest[end+1:]
	}
}

// flush gives out a last line that has no end.
func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rest) > 0 {
		w.log.add(w.stream, w.rest)
		w.rest = nil
	}
}

// Logs copies the container's output until its end, or, when following, until
// the container ends.
func (e *Engine) Logs(ctx context.Context, id string, o container.LogOptions, stdout, stderr io.Writer) error {
	op := "logs of container " + id
	if err := e.enter(ctx, "Logs", id); err != nil {
		return err
	}
	e.mu.Lock()
	c, ok := e.containers[id]
	e.mu.Unlock()
	if !ok {
		return noContainer(op, id)
	}
	return e.follow(ctx, op, c, o, stdout, stderr)
}

func (e *Engine) follow(ctx context.Context, op string, c *fakeContainer, o container.LogOptions, stdout, stderr io.Writer) error {
	writers := [...]io.Writer{streamOut: stdout, streamErr: stderr}
	lines, next, running, changed := c.log.since(0)
	if o.Tail >= 0 && len(lines) > o.Tail {
		lines = lines[len(lines)-o.Tail:]
	}
	for {
		for _, line := range lines {
			w := writers[line.stream]
			if w == nil || line.time.Before(o.Since) {
				continue
			}
			text := line.text
			if o.Timestamps {
				text = fmt.Appendf(nil, "%s %s", line.time.Format("2006-01-02T15:04:05.000000000Z07:00"), text)
			}
			if _, err := w.Write(text); err != nil {
				return fmt.Errorf("%s: write output: %w", op, err)
			}
		}
		if !o.Follow || !running {
			return nil
		}
		if err := e.await(ctx, changed); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		lines, next, running, changed = c.log.since(next)
	}
}
