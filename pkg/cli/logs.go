package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// logsFlags are the flags of logs.
type logsFlags struct {
	selection
	container     string
	allContainers bool
	allPods       bool
	ignoreErrors  bool
	follow        bool
	previous      bool
	timestamps    bool
	prefix        bool
	tail          int64
	limitBytes    int64
	since         time.Duration
	sinceTime     string
	maxFollow     int
	podTimeout    time.Duration
}

// maxLogRequests is how many logs are followed at once, unless the user wants
// more: kubectl's default for --max-log-requests.
const maxLogRequests = 5

// How long a pod of a Deployment or ReplicaSet is waited for: kubectl's defaults
// for --pod-running-timeout of logs, and of the other verbs.
const (
	logsPodTimeout = 20 * time.Second
	podTimeout     = time.Minute
)

func podTimeoutFlag(c *cobra.Command, d *time.Duration, standard time.Duration) {
	c.Flags().DurationVar(d, "pod-running-timeout", standard, "how long to wait until TYPE/NAME has a pod")
}

func newLogs(f *factory) *cobra.Command {
	var l logsFlags
	c := &cobra.Command{
		Use: "logs (POD | TYPE/NAME) [-c CONTAINER] | -l SELECTOR", Short: "Print what containers wrote",
		Example: "  orchctl logs -f web-1\n  orchctl logs deployment/recommend-service --tail=20\n" +
			"  orchctl logs -l app=recommend-service --prefix --since=10m\n  orchctl logs web-1 --previous     # of the life before this one",
		ValidArgsFunction: f.completePods,
		RunE: func(c *cobra.Command, args []string) error {
			return l.run(c, f, args)
		},
	}
	c.Flags().StringVarP(&l.container, "container", "c", "", "which container")
	c.Flags().BoolVar(&l.allContainers, "all-containers", false, "all containers of the pods")
	c.Flags().BoolVar(&l.allPods, "all-pods", false, "all pods of TYPE/NAME; sets --prefix")
	c.Flags().BoolVar(&l.ignoreErrors, "ignore-errors", false, "go on with the other logs after an error")
	c.Flags().BoolVarP(&l.follow, "follow", "f", false, "go on with what will be written")
	c.Flags().BoolVarP(&l.previous, "previous", "p", false, "the container's life before the present one")
	c.Flags().BoolVar(&l.timestamps, "timestamps", false, "begin each line with its time")
	c.Flags().BoolVar(&l.prefix, "prefix", false, "begin each line with pod and container")
	c.Flags().Int64Var(&l.limitBytes, "limit-bytes", 0, "no more of each log than so many bytes; 0 is all")
	c.Flags().Int64Var(&l.tail, "tail", -1, "the last lines only; -1 is all (with a selector 10)")
	c.Flags().DurationVar(&l.since, "since", 0, "only what is newer than this, such as 5s or 3h")
	c.Flags().StringVar(&l.sinceTime, "since-time", "", "only what is newer than this time (RFC 3339)")
	c.Flags().StringVarP(&l.labels, "selector", "l", "", "the pods with these labels")
	c.Flags().IntVar(&l.maxFollow, "max-log-requests", maxLogRequests, "how many logs to follow at once")
	podTimeoutFlag(c, &l.podTimeout, logsPodTimeout)
	return c
}

func (l *logsFlags) run(c *cobra.Command, f *factory, args []string) error {
	switch {
	case len(args) == 0 && l.labels == "":
		return fmt.Errorf("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]' or a selector with -l")
	case len(args) > 0 && l.labels != "":
		return fmt.Errorf("only a selector (-l) or a POD name is allowed")
	case len(args) > 2 || len(args) == 2 && l.container != "":
		return fmt.Errorf("name one pod, and one container with -c")
	case l.limitBytes < 0:
		return fmt.Errorf("--limit-bytes must be greater than 0")
	case l.since < 0:
		return fmt.Errorf("--since must be greater than 0")
	case l.tail < -1:
		return fmt.Errorf("--tail must be greater than or equal to -1")
	case l.podTimeout <= 0:
		return fmt.Errorf("--pod-running-timeout must be higher than zero")
	case l.since != 0 && l.sinceTime != "":
		return fmt.Errorf("at most one of --since or --since-time may be specified")
	case l.allContainers && l.container != "":
		return fmt.Errorf("--all-containers=true should not be specified with container name %s", l.container)
	}
	if len(args) == 2 {
		l.container = args[1] // kubectl's old form: logs POD CONTAINER
	}
	cl, err := f.client()
	if err != nil {
		return err
	}
	ctx := c.Context()
	var pods []*v1.Pod
	if l.labels != "" {
		list, err := client.For[*v1.Pod](cl).List(ctx, client.ListOptions{Namespace: f.ns(), LabelSelector: l.labels})
		if err != nil {
			return err
		}
		pods = list.Items
		if !c.Flags().Changed("tail") {
			l.tail = 10
		}
		if len(pods) == 0 {
			l.nothing(f, []target{{kind: api.KindByName("Pod")}})
			return nil
		}
	} else {
		if pods, err = f.podsOf(ctx, cl, args[0], l.podTimeout); err != nil {
			return err
		}
		if !l.allPods {
			if len(pods) > 1 {
				fmt.Fprintf(f.Err, "Found %d pods, using pod/%s\n", len(pods), pods[0].GetMetadata().GetName())
			}
			pods = pods[:1]
		}
	}
	l.prefix = l.prefix || l.allPods
	requests, err := l.requests(f, pods)
	if err != nil {
		return err
	}
	if l.follow && len(requests) > l.maxFollow {
		return fmt.Errorf("you are attempting to follow %d log streams, but maximum allowed concurrency is %d, use --max-log-requests to increase the limit", len(requests), l.maxFollow)
	}
	out := &lines{w: f.Out}
	if !l.follow {
		for _, r := range requests {
			if err := l.copy(ctx, cl, r, &lineWriter{out: out, alone: true}); err != nil {
				return err
			}
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range requests {
		g.Go(func() error { return l.copy(ctx, cl, r, &lineWriter{out: out, alone: len(requests) == 1}) })
	}
	return g.Wait()
}

// requests are one for each container that is meant.
func (l *logsFlags) requests(f *factory, pods []*v1.Pod) ([]*v1.LogsRequest, error) {
	var since *timestamppb.Timestamp
	if l.since > 0 {
		since = timestamppb.New(time.Now().Add(-l.since))
	}
	if l.sinceTime != "" {
		t, err := time.Parse(time.RFC3339, l.sinceTime)
		if err != nil {
			return nil, fmt.Errorf("--since-time %q is not a time such as 2026-01-31T18:00:00Z", l.sinceTime)
		}
		since = timestamppb.New(t)
	}
	var out []*v1.LogsRequest
	for _, p := range pods {
		var containers []string
		if l.allContainers {
			for _, ct := range api.AllContainers(p.GetSpec()) {
				containers = append(containers, ct.GetName())
			}
		} else {
			containers = []string{f.defaultContainer(p, l.container, l.allPods)}
		}
		for _, name := range containers {
			r := &v1.LogsRequest{
				Namespace: p.GetMetadata().GetNamespace(), Pod: p.GetMetadata().GetName(), Container: name,
				Follow: l.follow, Previous: l.previous, Timestamps: l.timestamps, Since: since,
			}
			if l.tail >= 0 {
				r.TailLines = &l.tail
			}
			if l.limitBytes > 0 {
				r.LimitBytes = &l.limitBytes
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// copy prints one log, and with --ignore-errors what is wrong with it.
func (l *logsFlags) copy(ctx context.Context, c *client.Client, r *v1.LogsRequest, w *lineWriter) error {
	err := l.print(ctx, c, r, w)
	if err == nil || !l.ignoreErrors || ctx.Err() != nil {
		return err
	}
	w.alone = true // to the end
	_, err = fmt.Fprintf(w, "error: %v\n", err)
	return err
}

func (l *logsFlags) print(ctx context.Context, c *client.Client, r *v1.LogsRequest, w *lineWriter) error {
	stream, err := c.Streams().Logs(ctx, r)
	if err != nil {
		return streamError(ctx, err)
	}
	if l.prefix {
		w.prefix = fmt.Sprintf("[pod/%s/%s] ", r.GetPod(), r.GetContainer())
	}
	defer w.flush()
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return streamError(ctx, err)
		}
		if _, err := w.Write(chunk.GetData()); err != nil {
			return err
		}
	}
}

// streamError is the server's error, or ctx's where the stream ended because
// the user ended it.
func streamError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return api.FromStatus(err)
}

// lines is an output to which several writers add whole lines.
//
// Concurrency: safe for several lineWriters.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

// maxLine is how much of a line is kept back until its end comes: a container may
// write for ever without one.
const maxLine = 1 << 20

// lineWriter passes whole lines on, each with the prefix. Who is alone need not
// wait for a line's end, which may be long in coming: nobody else writes into it.
type lineWriter struct {
	out    *lines
	prefix string
	alone  bool
	rest   []byte
	within bool // the beginning of the line has been passed on
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	w.rest = append(w.rest, p...)
	end := bytes.LastIndexByte(w.rest, '\n') + 1
	if w.alone || len(w.rest)-end > maxLine {
		end = len(w.rest)
	}
	if end == 0 {
		return n, nil
	}
	err := w.put(w.rest[:end])
	w.rest = append(w.rest[:0], w.rest[end:]...)
	return n, err
}

// flush writes a last line that has no end.
func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		_ = w.put(w.rest)
		w.rest = nil
	}
}

func (w *lineWriter) put(p []byte) error {
	if w.prefix != "" {
		var b bytes.Buffer
		for line := range bytes.Lines(p) {
			if !w.within {
				b.WriteString(w.prefix)
			}
			b.Write(line)
			w.within = !bytes.HasSuffix(line, []byte("\n"))
		}
		p = b.Bytes()
	}
	w.out.mu.Lock()
	defer w.out.mu.Unlock()
	_, err := w.out.w.Write(p)
	return err
}

// onePod finds the pod that arg means, as podsOf; of several the first.
func (f *factory) onePod(ctx context.Context, c *client.Client, arg string, patience time.Duration) (*v1.Pod, error) {
	pods, err := f.podsOf(ctx, c, arg, patience)
	if err != nil {
		return nil, err
	}
	return pods[0], nil
}

// podsOf finds the pods that POD, pod/NAME, deployment/NAME or replicaset/NAME
// means, those that are ready first. It waits for patience until there is one.
func (f *factory) podsOf(ctx context.Context, c *client.Client, arg string, patience time.Duration) ([]*v1.Pod, error) {
	s := selection{}
	args := []string{arg}
	if !strings.Contains(arg, "/") {
		args = []string{"pods", arg}
	}
	targets, err := s.parse(f, args)
	if err != nil {
		return nil, err
	}
	t := targets[0]
	o, err := client.ForKind(c, t.kind).Get(ctx, t.namespace, t.name)
	if err != nil {
		return nil, err
	}
	var ls *v1.LabelSelector
	switch o := o.(type) {
	case *v1.Pod:
		return []*v1.Pod{o}, nil
	case *v1.Deployment:
		ls = o.GetSpec().GetSelector()
	case *v1.ReplicaSet:
		ls = o.GetSpec().GetSelector()
	default:
		return nil, fmt.Errorf("cannot find pods of %s: name a pod, a deployment or a replicaset", arg)
	}
	sel, err := api.SelectorOf(ls)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var found []*v1.Pod
	synced := false
	for e, err := range client.For[*v1.Pod](c).Watch(ctx, client.WatchOptions{Namespace: t.namespace, LabelSelector: sel.String()}) {
		switch {
		case errors.Is(err, api.ErrTimeout), errors.Is(ctx.Err(), context.DeadlineExceeded): // the server may notice first
			return nil, fmt.Errorf("timed out waiting for the condition: %s has no pods, and 'orchctl describe %s' says why", arg, arg)
		case err != nil:
			return nil, err
		case e.Type == v1.WatchEvent_TYPE_ADDED:
			found = append(found, e.Object)
		case e.Type == v1.WatchEvent_TYPE_SYNCED:
			synced = true
		}
		if synced && len(found) > 0 {
			break
		}
	}
	rank := func(p *v1.Pod) int {
		if api.IsPodReady(p) && api.IsPodActive(p) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(found, func(a, b *v1.Pod) int { return rank(a) - rank(b) })
	return found, nil
}

// completePods completes the names of pods.
func (f *factory) completePods(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return f.completeKinds(c, []string{"pods"}, prefix)
}
