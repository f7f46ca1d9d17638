package agent

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"sync"

	"orch/pkg/agent/lifecycle"
	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// chunkSize is how much of a log or of a command's output goes into a message.
const chunkSize = 32 << 10

// Logs sends the log of a container: of its present life, or of the one before.
// With follow it goes on with the lives to come.
func (a *Agent) Logs(r *v1.LogsRequest, stream v1.Streams_LogsServer) error {
	return api.ToStatus(a.logs(r, stream))
}

func (a *Agent) logs(r *v1.LogsRequest, stream v1.Streams_LogsServer) error {
	pod, spec, err := a.find(r.GetNamespace(), r.GetPod(), r.GetContainer())
	if err != nil {
		return err
	}
	c, err := a.logged(pod, spec.GetName(), r.GetPrevious())
	if err != nil {
		return err
	}
	o := container.LogOptions{Follow: r.GetFollow() && !r.GetPrevious(), Tail: -1, Timestamps: r.GetTimestamps()}
	if r.TailLines != nil {
		o.Tail = int(min(max(0, r.GetTailLines()), math.MaxInt32))
	}
	if r.GetSince() != nil {
		o.Since = r.GetSince().AsTime()
	}
	w := newBatch()
	sent := make(chan error, 1)
	go func() { sent <- w.run(func(b []byte) error { return stream.Send(&v1.LogsChunk{Data: b}) }) }()
	out := io.Writer(w)
	if r.LimitBytes != nil {
		out = &limited{w: w, left: r.GetLimitBytes()}
	}
	err = a.runtime.Logs(stream.Context(), c.ID, o, out, out)
	for err == nil && o.Follow {
		var ok bool
		if c, ok = a.nextLife(stream.Context(), pod, spec, c); !ok {
			break
		}
		o.Tail = -1
		err = a.runtime.Logs(stream.Context(), c.ID, o, out, out)
	}
	if errors.Is(err, errLimit) {
		err = nil
	}
	w.end()
	if failed := <-sent; err == nil {
		err = failed
	}
	return streamError(err)
}

// errLimit says that as much was written as was wanted.
var errLimit = errors.New("limit of bytes reached")

// limited is a writer that takes only so many bytes, and then errLimit.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(b []byte) (int, error) {
	n, err := l.w.Write(b[:min(int64(len(b)), l.left)])
	if l.left -= int64(n); err == nil && l.left == 0 {
		err = errLimit
	}
	return n, err
}

// nextLife waits for the life of a container that follows c. It returns false
// when there will be none.
func (a *Agent) nextLife(ctx context.Context, pod *v1.Pod, spec *v1.Container, c lifecycle.Container) (lifecycle.Container, bool) {
	uid := pod.GetMetadata().GetUid()
	for {
		looked := a.looked(uid)
		if looked == nil {
			return c, false
		}
		for _, next := range a.observer.Pod(uid) { // ordered by attempt
			if next.Name != c.Name {
				continue
			}
			if next.Attempt > c.Attempt && !next.BegunAt.IsZero() {
				return next, true
			}
			if next.ID == c.ID {
				c = next // its exit code may be known now
			}
		}
		if !lifecycle.WillRestart(a.pod(uid, api.KeyOf(pod)), spec, c) {
			return c, false
		}
		select {
		case <-looked:
		case <-ctx.Done():
			return c, false
		}
	}
}

// logged returns the attempt whose log is wanted.
func (a *Agent) logged(pod *v1.Pod, name string, previous bool) (lifecycle.Container, error) {
	var lives []lifecycle.Container
	for _, c := range a.observer.Pod(pod.GetMetadata().GetUid()) {
		if c.Name == name && (!c.BegunAt.IsZero() || c.Exited()) {
			lives = append(lives, c)
		}
	}
	podName := pod.GetMetadata().GetName()
	switch n := len(lives); {
	case previous && n > 0 && lives[n-1].Exited():
		return lives[n-1], nil // it waits to be started again: what ended is the one before
	case previous && n > 1:
		return lives[n-2], nil
	case previous:
		return lifecycle.Container{}, api.Errorf(api.ErrBadRequest, "previous terminated container %q in pod %q not found", name, podName)
	case n > 0:
		return lives[n-1], nil
	}
	reason := lifecycle.ReasonContainerCreating
	for _, s := range api.AllStatuses(pod.GetStatus()) {
		if s.GetName() != name {
			continue
		}
		if w := s.GetState().GetWaiting(); w != nil {
			reason = w.GetReason()
		}
		if s.GetState().GetTerminated() != nil || pod.GetMetadata().GetDeletionTimestamp() != nil {
			return lifecycle.Container{}, api.Errorf(api.ErrBadRequest, "container %q in pod %q is terminated", name, podName)
		}
	}
	if reason == lifecycle.ReasonErrImagePull || reason == lifecycle.ReasonImagePullBackOff {
		reason = "trying and failing to pull image"
	}
	return lifecycle.Container{}, api.Errorf(api.ErrBadRequest, "container %q in pod %q is waiting to start: %s", name, podName, reason)
}

// find returns the pod and the container meant; the container's name may be
// left out where there is only one.
func (a *Agent) find(namespace, pod, name string) (*v1.Pod, *v1.Container, error) {
	p, ok := a.mirror.Get(api.Key{Namespace: namespace, Name: pod})
	if !ok {
		return nil, nil, api.NotFound(a.mirror.Kind(), pod)
	}
	c, err := api.ChooseContainer(p, name)
	return p, c, err
}

// Exec runs a command in a running container. It ends with the command, or when
// the stream does.
func (a *Agent) Exec(stream v1.Streams_ExecServer) error {
	return api.ToStatus(a.interactive(stream, true))
}

// Attach connects to a running container's own input and output. It ends with
// the container, or when the stream does, which leaves the container alone.
func (a *Agent) Attach(stream v1.Streams_AttachServer) error {
	return api.ToStatus(a.interactive(stream, false))
}

// interactive is Exec or, without a command, Attach.
func (a *Agent) interactive(stream v1.Streams_ExecServer, exec bool) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	r := first.GetRequest()
	if r == nil || exec && len(r.GetCommand()) == 0 {
		return api.Errorf(api.ErrBadRequest, "you must specify at least one command for the container")
	}
	pod, spec, err := a.find(r.GetNamespace(), r.GetPod(), r.GetContainer())
	if err != nil {
		return err
	}
	all := a.observer.Pod(pod.GetMetadata().GetUid())
	slices.Reverse(all)
	i := slices.IndexFunc(all, func(c lifecycle.Container) bool { return c.Name == spec.GetName() && c.Running() })
	if i < 0 {
		return api.Errorf(api.ErrBadRequest, "container not found (%q)", spec.GetName())
	}
	call := a.runtime.Exec
	if !exec {
		call = a.runtime.Attach
		if r.GetTty() && !spec.GetTty() {
			return api.Errorf(api.ErrBadRequest, "container %s has no terminal (tty) in its spec", spec.GetName())
		}
		if r.GetStdin() && !spec.GetStdin() {
			return api.Errorf(api.ErrBadRequest, "container %s has no standard input (stdin) in its spec", spec.GetName())
		}
		r.Tty = spec.GetTty()
	}

	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	resize := make(chan container.Size, 1)
	o := container.ExecOptions{
		Command: r.GetCommand(), TTY: r.GetTty(), Resize: resize,
	}
	var sending sync.Mutex // both outputs share the stream, which takes one sender at a time
	send := func(m *v1.ExecOutput) error {
		sending.Lock()
		defer sending.Unlock()
		return stream.Send(m)
	}
	o.Stdout = chunks(func(b []byte) error { return send(&v1.ExecOutput{Output: &v1.ExecOutput_Stdout{Stdout: b}}) })
	o.Stderr = chunks(func(b []byte) error { return send(&v1.ExecOutput{Output: &v1.ExecOutput_Stderr{Stderr: b}}) })
	var stdin *io.PipeWriter
	if r.GetStdin() {
		o.Stdin, stdin = io.Pipe()
	}
	go receive(ctx, cancel, stream, stdin, resize)
	code, err := call(ctx, all[i].ID, o)
	if err != nil {
		return streamError(err)
	}
	return stream.Send(&v1.ExecOutput{Output: &v1.ExecOutput_ExitCode{ExitCode: int32(code)}})
}

// receive passes the client's input on until the stream ends, which gRPC makes
// it do when the handler returns. A client that goes away ends the command.
func receive(ctx context.Context, cancel context.CancelFunc, stream v1.Streams_ExecServer, stdin *io.PipeWriter, resize chan container.Size) {
	if stdin != nil {
		stop := context.AfterFunc(ctx, func() { stdin.CloseWithError(ctx.Err()) })
		defer stop()
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF): // no more input; the output may go on
			if stdin != nil {
				stdin.Close()
			}
			return
		case err != nil:
			cancel()
			return
		}
		switch in := m.GetInput().(type) {
		case *v1.ExecInput_Stdin:
			if stdin != nil {
				_, _ = stdin.Write(in.Stdin) // fails where the command reads no more
			}
		case *v1.ExecInput_CloseStdin:
			if stdin != nil {
				stdin.Close()
			}
		case *v1.ExecInput_Resize:
			size := container.Size{Width: uint16(min(in.Resize.GetWidth(), math.MaxUint16)), Height: uint16(min(in.Resize.GetHeight(), math.MaxUint16))}
			select { // only the last size matters
			case <-resize:
			default:
			}
			select {
			case resize <- size:
			case <-ctx.Done():
			}
		}
	}
}

// streamError gives an engine's error the kind that the API has for it.
func streamError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, container.ErrNotFound):
		return api.Errorf(api.ErrNotFound, "the container is gone: %v", err)
	case errors.Is(err, container.ErrNotRunning):
		return api.Errorf(api.ErrBadRequest, "%v", err)
	case errors.Is(err, container.ErrUnavailable):
		return api.Errorf(api.ErrUnavailable, "%v", err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.ErrTimeout, "%v", err)
	}
	return err
}

// chunks is a writer that sends what is written in pieces of bounded size.
type chunks func([]byte) error

func (send chunks) Write(b []byte) (int, error) {
	for piece := range slices.Chunk(b, chunkSize) {
		if err := send(piece); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}
