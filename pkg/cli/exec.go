package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// execFlags are those of exec and attach.
type execFlags struct {
	container         string
	stdin, tty, quiet bool
	patience          time.Duration
}

func (e *execFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&e.container, "container", "c", "", "which container (default the first)")
	c.Flags().BoolVarP(&e.stdin, "stdin", "i", false, "pass standard input on")
	c.Flags().BoolVarP(&e.tty, "tty", "t", false, "standard input is a terminal")
	c.Flags().BoolVarP(&e.quiet, "quiet", "q", false, "print only what the container prints")
	podTimeoutFlag(c, &e.patience, podTimeout)
}

// request finds the pod and the container.
func (e *execFlags) request(ctx context.Context, f *factory, arg, verb string) (*client.Client, *v1.Pod, *v1.ExecRequest, error) {
	cl, err := f.client()
	if err != nil {
		return nil, nil, nil, err
	}
	pod, err := f.onePod(ctx, cl, arg, e.patience)
	if err != nil {
		return nil, nil, nil, err
	}
	if api.IsPodTerminal(pod) {
		return nil, nil, nil, fmt.Errorf("cannot %s a container in a completed pod; current phase is %s", verb, pod.GetStatus().GetPhase())
	}
	return cl, pod, &v1.ExecRequest{
		Namespace: pod.GetMetadata().GetNamespace(), Pod: pod.GetMetadata().GetName(), Container: f.defaultContainer(pod, e.container, e.quiet),
		Stdin: e.stdin, Tty: e.tty,
	}, nil
}

func newExec(f *factory) *cobra.Command {
	var e execFlags
	c := &cobra.Command{
		Use: "exec (POD | TYPE/NAME) [-c CONTAINER] [-it] -- COMMAND [ARGS...]", Short: "Run a command in a container",
		Long:              "Run a command in a running container. The exit code is the command's.",
		Example:           "  orchctl exec web-1 -- kill 1\n  orchctl exec -it deployment/web -c app -- /bin/sh",
		ValidArgsFunction: f.completePods,
		RunE: func(c *cobra.Command, args []string) error {
			dash := c.ArgsLenAtDash()
			if dash < 0 && len(args) > 1 {
				return fmt.Errorf("exec POD COMMAND is not supported: put -- before the command: orchctl exec %s -- %s", args[0], args[1])
			}
			if dash != 1 || len(args) < 2 {
				return fmt.Errorf("name one pod, and a command behind --: orchctl exec POD -- COMMAND")
			}
			cl, _, r, err := e.request(c.Context(), f, args[0], "exec into")
			if err != nil {
				return err
			}
			r.Command = args[1:]
			return runExec(c.Context(), f, cl.Streams().Exec, r)
		},
	}
	e.add(c)
	return c
}

// newAttach is exec for what runs already.
func newAttach(f *factory) *cobra.Command {
	var e execFlags
	c := &cobra.Command{
		Use: "attach (POD | TYPE/NAME) [-c CONTAINER] [-it]", Short: "Connect to a running container",
		Long: "Connect to the output of a container's own program from now on, and with -i to its\n" +
			"input. The container goes on when the command is interrupted.",
		Example:           "  orchctl attach web-1\n  orchctl attach -it deployment/shell -c app",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: f.completePods,
		RunE: func(c *cobra.Command, args []string) error {
			cl, pod, r, err := e.request(c.Context(), f, args[0], "attach")
			if err != nil {
				return err
			}
			if r.Tty && !api.FindContainer(pod.GetSpec(), r.GetContainer()).GetTty() {
				fmt.Fprintf(f.Err, "error: Unable to use a TTY - container %s did not allocate one\n", r.GetContainer())
				r.Tty = false
			}
			if e.stdin && !e.quiet {
				fmt.Fprintln(f.Err, "If you don't see a command prompt, try pressing enter.")
			}
			return runExec(c.Context(), f, cl.Streams().Attach, r)
		},
	}
	e.add(c)
	return c
}

// defaultContainer is the container named, or the one that the pod's annotation
// names, or the first of several, which is said.
func (f *factory) defaultContainer(p *v1.Pod, name string, quiet bool) string {
	if name != "" {
		return name
	}
	name = p.GetMetadata().GetAnnotations()[api.AnnotationDefaultContainer]
	if api.FindContainer(p.GetSpec(), name) != nil {
		return name
	} else if name != "" {
		fmt.Fprintf(f.Err, "Default container name %q not found in pod %s\n", name, p.GetMetadata().GetName())
	}
	name = p.GetSpec().GetContainers()[0].GetName()
	if len(api.AllContainers(p.GetSpec())) > 1 && !quiet {
		fmt.Fprintf(f.Err, "Defaulted container %q out of: %s\n", name, containerNames(p))
	}
	return name
}

func containerNames(p *v1.Pod) string {
	var names []string
	for _, c := range p.GetSpec().GetContainers() {
		names = append(names, c.GetName())
	}
	for _, c := range p.GetSpec().GetInitContainers() {
		names = append(names, c.GetName()+" (init)")
	}
	return strings.Join(names, ", ")
}

// runExec carries one command out, and ends as it ends: its exit code becomes
// orchctl's.
func runExec(ctx context.Context, f *factory, open func(context.Context, ...grpc.CallOption) (v1.Streams_ExecClient, error), r *v1.ExecRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	terminal, isTerminal := f.In.(*os.File)
	isTerminal = isTerminal && term.IsTerminal(int(terminal.Fd()))
	if r.GetTty() && !isTerminal {
		fmt.Fprintln(f.Err, "Unable to use a TTY - input is not a terminal or the right kind of file")
		r.Tty = false
	}
	stream, err := open(ctx)
	if err != nil {
		return api.FromStatus(err)
	}
	if err := stream.Send(&v1.ExecInput{Input: &v1.ExecInput_Request{Request: r}}); err != nil {
		return execError(stream, err)
	}
	if r.GetTty() {
		old, err := term.MakeRaw(int(terminal.Fd()))
		if err != nil {
			return fmt.Errorf("make the terminal raw: %w", err)
		}
		defer term.Restore(int(terminal.Fd()), old) //nolint:errcheck // nothing more can be done
	}
	// Input and sizes come from two goroutines, and a stream takes one at a time.
	var sending sync.Mutex
	pass := func(m *v1.ExecInput) bool {
		sending.Lock()
		defer sending.Unlock()
		return stream.Send(m) == nil // else Recv tells why
	}
	if r.GetTty() {
		go sendSizes(ctx, terminal, pass)
	}
	if r.GetStdin() {
		go func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := f.In.Read(buf)
				if n > 0 && !pass(&v1.ExecInput{Input: &v1.ExecInput_Stdin{Stdin: append([]byte(nil), buf[:n]...)}}) {
					return
				}
				if err != nil {
					pass(&v1.ExecInput{Input: &v1.ExecInput_CloseStdin{CloseStdin: true}})
					return
				}
			}
		}()
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the node ended the stream without an exit code")
		}
		if err != nil {
			return streamError(ctx, err)
		}
		switch o := m.GetOutput().(type) {
		case *v1.ExecOutput_Stdout:
			_, err = f.Out.Write(o.Stdout)
		case *v1.ExecOutput_Stderr:
			_, err = f.Err.Write(o.Stderr)
		case *v1.ExecOutput_ExitCode:
			if o.ExitCode == 0 {
				return nil
			}
			return &exitError{code: int(o.ExitCode), text: fmt.Sprintf("command terminated with exit code %d", o.ExitCode)}
		}
		if err != nil {
			return err
		}
	}
}

// execError is the server's reason for a stream that it ended.
func execError(stream v1.Streams_ExecClient, err error) error {
	if _, recvErr := stream.Recv(); recvErr != nil && !errors.Is(recvErr, io.EOF) {
		err = recvErr
	}
	return api.FromStatus(err)
}

// sendSizes sends the terminal's size now and whenever it changes.
func sendSizes(ctx context.Context, terminal *os.File, pass func(*v1.ExecInput) bool) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	for {
		if w, h, err := term.GetSize(int(terminal.Fd())); err == nil {
			size := &v1.TerminalSize{Width: uint32(w), Height: uint32(h)} //nolint:gosec // characters of a terminal
			if !pass(&v1.ExecInput{Input: &v1.ExecInput_Resize{Resize: size}}) {
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
