package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func newPortForward(f *factory) *cobra.Command {
	var (
		addresses []string
		patience  time.Duration
	)
	c := &cobra.Command{
		Use: "port-forward (POD | TYPE/NAME) [LOCAL:]REMOTE...", Short: "Connect ports of this machine to ports of a pod",
		Long: "Listen on ports of this machine and pass each connection on to a port of a pod,\n" +
			"until the pod goes or the command is interrupted. REMOTE is a number or the name\n" +
			"of a container's port; an empty LOCAL is any free port.",
		Example:           "  orchctl port-forward web-1 8080:80\n  orchctl port-forward deployment/web 8443:https 5000\n  orchctl port-forward web-1 :80 --address localhost,10.0.0.5",
		ValidArgsFunction: f.completePods,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return fmt.Errorf("TYPE/NAME and list of ports are required for port-forward")
			}
			cl, err := f.client()
			if err != nil {
				return err
			}
			pod, err := f.onePod(c.Context(), cl, args[0], patience)
			if err != nil {
				return err
			}
			if phase := pod.GetStatus().GetPhase(); phase != api.PodRunning {
				return fmt.Errorf("unable to forward port because pod is not running. Current status=%s", phase)
			}
			fw := &forwarding{f: f, streams: cl.Streams(), pod: pod}
			defer fw.close()
			for _, arg := range args[1:] {
				local, remote, err := parsePorts(pod, arg)
				if err == nil {
					err = fw.listen(c.Context(), addresses, local, remote)
				}
				if err != nil {
					return err
				}
			}
			return fw.run(c.Context())
		},
	}
	c.Flags().StringSliceVar(&addresses, "address", []string{"localhost"}, "addresses of this machine to listen on, separated by commas")
	podTimeoutFlag(c, &patience, podTimeout)
	return c
}

// parsePorts reads [LOCAL:]REMOTE; local 0 is any free port.
func parsePorts(pod *v1.Pod, arg string) (local, remote uint16, err error) {
	first, second, both := strings.Cut(arg, ":")
	name := first
	if both {
		name = second
	}
	n, err := strconv.ParseUint(name, 10, 16)
	if err != nil {
		for _, ct := range api.LastingContainers(pod.GetSpec()) {
			for _, p := range ct.GetPorts() {
				if p.GetName() == name && name != "" {
					n, err = uint64(p.GetContainerPort()), nil //nolint:gosec // validated as a port
				}
			}
		}
	}
	if err != nil || n == 0 {
		return 0, 0, fmt.Errorf("error parsing remote port: %q is neither a port's number nor the name of a port of pod %s", name, pod.GetMetadata().GetName())
	}
	l := n
	if both {
		first = cmp.Or(first, "0")
		if l, err = strconv.ParseUint(first, 10, 16); err != nil {
			return 0, 0, fmt.Errorf("error parsing local port: %q is not a port's number", first)
		}
	}
	return uint16(l), uint16(n), nil
}

// forwarding is the ports of one command.
//
// Concurrency: connections share the voice and the streams; the rest is the
// command's.
type forwarding struct {
	f         *factory
	streams   v1.StreamsClient
	pod       *v1.Pod
	listeners []net.Listener
	remotes   []uint16 // by listener
	voice
}

// listen opens a local port on each address. Of localhost's two addresses one
// is enough.
func (w *forwarding) listen(ctx context.Context, addresses []string, local, remote uint16) error {
	for _, address := range addresses {
		hosts := []string{address}
		if address == "localhost" {
			hosts = []string{"127.0.0.1", "::1"}
		}
		var errs []error
		for _, host := range hosts {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(local))))
			if err != nil {
				errs = append(errs, err)
				continue
			}
			w.listeners, w.remotes = append(w.listeners, l), append(w.remotes, remote)
			if tcp, ok := l.Addr().(*net.TCPAddr); ok {
				local = uint16(tcp.Port) //nolint:gosec // a port; where it was any, the next address takes the same
			}
			fmt.Fprintf(w.f.Out, "Forwarding from %s -> %d\n", l.Addr(), remote)
		}
		if len(errs) == len(hosts) {
			return fmt.Errorf("unable to listen on port %d: %w", local, errors.Join(errs...))
		}
	}
	return nil
}

func (w *forwarding) close() {
	for _, l := range w.listeners {
		l.Close()
	}
}

// run passes connections on until ctx ends or the pod is gone, and returns when
// all have ended.
func (w *forwarding) run(parent context.Context) error {
	g, ctx := errgroup.WithContext(parent)
	defer context.AfterFunc(ctx, w.close)()
	for i, l := range w.listeners {
		g.Go(func() error {
			for {
				conn, err := l.Accept()
				if err != nil {
					return errors.Join(ctx.Err(), err)
				}
				w.say(w.f.Out, "Handling connection for %d\n", l.Addr().(*net.TCPAddr).Port)
				g.Go(func() error {
					defer conn.Close()
					err := w.carry(ctx, conn, w.remotes[i])
					switch {
					case err == nil, ctx.Err() != nil:
						return nil
					case errors.Is(err, api.ErrNotFound):
						return fmt.Errorf("lost connection to pod: %w", err)
					}
					w.say(w.f.Err, "error: an error occurred forwarding %d -> %d: %v\n", l.Addr().(*net.TCPAddr).Port, w.remotes[i], err)
					return nil
				})
			}
		})
	}
	if err := g.Wait(); parent.Err() == nil {
		return err
	}
	return nil // interrupted, which is how this command ends
}

// carry passes one connection on. It returns when both directions have ended, or
// one has broken.
func (w *forwarding) carry(ctx context.Context, conn net.Conn, port uint16) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	stream, err := w.streams.PortForward(ctx)
	if err != nil {
		return api.FromStatus(err)
	}
	m := w.pod.GetMetadata()
	request := &v1.PortForwardRequest{Namespace: m.GetNamespace(), Pod: m.GetName(), Port: int32(port)}
	_ = stream.Send(&v1.PortForwardInput{Input: &v1.PortForwardInput_Request{Request: request}}) // Recv says why not
	if _, err := stream.Recv(); err != nil {                                                     // the pod has taken the connection
		return api.FromStatus(err)
	}
	go func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := conn.Read(buf)
			if n > 0 && stream.Send(&v1.PortForwardInput{Input: &v1.PortForwardInput_Data{Data: buf[:n]}}) != nil {
				return // Recv says why
			}
			switch {
			case errors.Is(err, io.EOF):
				_ = stream.CloseSend()
				return
			case err != nil: // the other side has gone away
				cancel()
				return
			}
		}
	}()
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return api.FromStatus(err)
		}
		if _, err := conn.Write(m.GetData()); err != nil {
			return nil // who connected reads no more, and needs no answer
		}
		if half, ok := conn.(*net.TCPConn); ok && m.GetCloseWrite() {
			_ = half.CloseWrite()
		}
	}
}
