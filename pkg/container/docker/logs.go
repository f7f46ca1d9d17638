package docker

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	dockercontainer "github.com/docker/docker/api/types/container"

	"orch/pkg/container"
)

// Logs copies the container's output until its end, or, when following, until
// the container ends. A container with a TTY has one stream, which goes to
// stdout.
func (r *Runtime) Logs(ctx context.Context, id string, o container.LogOptions, stdout, stderr io.Writer) error {
	return sortError(ctx, "logs of container "+id, r.logs(ctx, id, o, orDiscard(stdout), orDiscard(stderr)))
}

func (r *Runtime) logs(ctx context.Context, id string, o container.LogOptions, stdout, stderr io.Writer) error {
	cli, err := r.client(ctx)
	if err != nil {
		return err
	}
	// Only from API 1.42 on does the answer itself tell the two formats apart.
	inspected, err := cli.ContainerInspect(ctx, id)
	if err != nil {
		return err
	}
	options := dockercontainer.LogsOptions{
		ShowStdout: true,
		ShowStderr: true,
		Follow:     o.Follow,
		Timestamps: o.Timestamps,
		Tail:       "all",
	}
	if o.Tail >= 0 {
		options.Tail = strconv.Itoa(o.Tail)
	}
	if !o.Since.IsZero() {
		options.Since = o.Since.UTC().Format(time.RFC3339Nano)
	}
	stream, err := cli.ContainerLogs(ctx, id, options)
	if err != nil {
		return err
	}
	defer stream.Close()
	return demultiplex(stream, inspected.Config != nil && inspected.Config.Tty, stdout, stderr)
}

// demultiplex copies what the engine sends: raw from a TTY, otherwise in frames
// of standard output and standard error. An error of one of the writers is told
// from one of the engine's, which would mean container.ErrUnavailable.
func demultiplex(stream io.Reader, tty bool, stdout, stderr io.Writer) error {
	out, errout := &watchedWriter{w: stdout}, &watchedWriter{w: stderr}
	var err error
	if tty {
		_, err = io.Copy(out, stream)
	} else {
		err = unframe(bufio.NewReaderSize(stream, 32<<10), out, errout)
	}
	for _, w := range []*watchedWriter{out, errout} {
		if w.err != nil {
			return &outputError{w.err}
		}
	}
	return err
}

// unframe copies the frames of Docker's stream format to where they belong: one
// byte that says which stream, three of no use, four with the length, and so
// many of content. What is there of a frame is passed on at once. (Docker's own
// stdcopy waits for the end of a frame and moves what it has read of the next
// ones: for the lines of a log that costs more than all else.)
func unframe(r *bufio.Reader, stdout, stderr io.Writer) error {
	for {
		header, err := r.Peek(8)
		if err != nil {
			return unlessEOF(err)
		}
		kind, left := header[0], int(binary.BigEndian.Uint32(header[4:]))
		_, _ = r.Discard(len(header))
		var to io.Writer
		var said strings.Builder
		switch kind {
		case 0, 1:
			to = stdout
		case 2:
			to = stderr
		case 3: // what the engine itself has to say
			to, left = &said, min(left, 4<<10)
		default:
			return fmt.Errorf("a frame of the unknown kind %d", kind)
		}
		for left > 0 {
			if _, err := r.Peek(1); err != nil {
				return unlessEOF(err)
			}
			content, _ := r.Peek(min(left, r.Buffered()))
			if _, err := to.Write(content); err != nil {
				return err
			}
			_, _ = r.Discard(len(content))
			left -= len(content)
		}
		if said.Len() > 0 {
			return fmt.Errorf("the engine says: %s", said.String())
		}
	}
}

// unlessEOF forgives the end of a stream, also within a frame: that is how the
// output of an engine ends that was killed.
func unlessEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// outputError is an error of the caller's own writer, whatever it looks like.
type outputError struct{ err error }

func (e *outputError) Error() string { return "write output: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// watchedWriter remembers its first error.
type watchedWriter struct {
	w   io.Writer
	err error
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
