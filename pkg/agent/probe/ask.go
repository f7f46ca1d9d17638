package probe

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// Answer is what a container said. With Err, it could not be asked.
type Answer struct {
	Good    bool
	Message string
	Err     error
}

// maxMessage is how much of an answer is kept, in bytes.
const maxMessage = 1 << 10

// userAgent is the one by which servers know Kubernetes' probes.
const userAgent = "kube-probe/orch"

// Asker puts the questions.
//
// Concurrency: all methods may be called from several goroutines.
type Asker struct {
	runtime   container.Runtime
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	transport *http.Transport
}

// NewAsker returns an asker for the containers of r. Addresses are reached from
// this machine, or through r where it is a container.Dialer.
func NewAsker(r container.Runtime) *Asker {
	a := &Asker{runtime: r, dial: (&net.Dialer{}).DialContext}
	if d, ok := r.(container.Dialer); ok {
		a.dial = d.DialContext
	}
	a.transport = &http.Transport{
		DialContext:        a.dial,
		DisableKeepAlives:  true, // each question shows whether a connection can be had
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as Kubernetes: the pod's certificate names no address
	}
	return a
}

// Ask asks once, and waits at most as long as the probe says.
func (a *Asker) Ask(ctx context.Context, t Target, p *v1.Probe) Answer {
	timeout := seconds(p.GetTimeoutSeconds())
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.GetExec() != nil:
		return a.exec(ctx, t, p.GetExec())
	case p.GetHttpGet() != nil:
		return a.httpGet(ctx, t, p.GetHttpGet())
	case p.GetTcpSocket() != nil:
		return a.tcp(ctx, t, p.GetTcpSocket())
	}
	return a.grpc(ctx, t, p.GetGrpc(), timeout)
}

func (a *Asker) exec(ctx context.Context, t Target, e *v1.ExecAction) Answer {
	var output buffer
	command := t.Expand(e.GetCommand())
	code, err := a.runtime.Exec(ctx, t.ID, container.ExecOptions{Command: command, Stdout: &output, Stderr: &output})
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Answer{Message: fmt.Sprintf("command %q timed out", strings.Join(command, " "))}
	case err != nil:
		return Answer{Err: err}
	}
	return Answer{Good: code == 0, Message: output.String()}
}

func (a *Asker) httpGet(ctx context.Context, t Target, get *v1.HTTPGetAction) Answer {
	status, err := a.request(ctx, t, get, userAgent)
	var failed *unanswered
	switch {
	case errors.As(err, &failed):
		return Answer{Message: failed.Error()}
	case err != nil:
		return Answer{Err: err}
	case status >= http.StatusOK && status < http.StatusBadRequest:
		return Answer{Good: true}
	}
	return Answer{Message: fmt.Sprintf("HTTP probe failed with statuscode: %d", status)}
}

// unanswered says that the request was sent in vain.
type unanswered struct{ error }

// request sends an HTTP request and returns the answer's status. Redirects are
// followed on the same host; one that leads elsewhere is an answer.
func (a *Asker) request(ctx context.Context, t Target, get *v1.HTTPGetAction, agent string) (status int, err error) {
	address, err := address(t, get.GetHost(), get.GetPort())
	if err != nil {
		return 0, err
	}
	u, err := url.Parse(get.GetPath())
	if err != nil {
		u = &url.URL{Path: get.GetPath()}
	}
	u.Scheme, u.Host = strings.ToLower(get.GetScheme()), address
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("User-Agent", agent)
	request.Header.Set("Accept", "*/*")
	named := http.Header{}
	for _, h := range get.GetHttpHeaders() {
		named.Add(h.GetName(), h.GetValue())
	}
	for name, values := range named {
		request.Header[name] = values
	}
	if host := named.Get("Host"); host != "" {
		request.Host = host
	}
	client := http.Client{Transport: a.transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		switch {
		case to.URL.Hostname() != via[0].URL.Hostname():
			return http.ErrUseLastResponse
		case len(via) >= 10:
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	response, err := client.Do(request)
	if err != nil {
		return 0, &unanswered{err}
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 10*maxMessage)) // so that the server can finish
	return response.StatusCode, nil
}

func (a *Asker) tcp(ctx context.Context, t Target, s *v1.TCPSocketAction) Answer {
	address, err := address(t, s.GetHost(), s.GetPort())
	if err != nil {
		return Answer{Err: err}
	}
	conn, err := a.dial(ctx, "tcp", address)
	if err != nil {
		return Answer{Message: err.Error()}
	}
	conn.Close()
	return Answer{Good: true}
}

func (a *Asker) grpc(ctx context.Context, t Target, g *v1.GRPCAction, timeout time.Duration) Answer {
	target := net.JoinHostPort(t.IP, strconv.Itoa(int(g.GetPort())))
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithUserAgent(userAgent),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return a.dial(ctx, "tcp", address) }))
	if err != nil {
		return Answer{Err: err}
	}
	defer conn.Close()
	response, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: g.GetService()})
	switch status.Code(err) {
	case codes.OK:
		if s := response.GetStatus(); s != healthpb.HealthCheckResponse_SERVING {
			return Answer{Message: fmt.Sprintf("service unhealthy (responded with %q)", s)}
		}
		return Answer{Good: true}
	case codes.Unimplemented:
		return Answer{Message: fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())}
	case codes.DeadlineExceeded:
		return Answer{Message: fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)}
	}
	return Answer{Message: fmt.Sprintf("error: health rpc probe failed: %v", err)}
}

// address is where to ask: a host, or else the pod, and a port, or else the
// container's port of that name.
func address(t Target, host string, port *v1.IntOrString) (string, error) {
	host = cmp.Or(host, t.IP)
	number := port.GetInt()
	if name := port.GetStr(); name != "" {
		for _, p := range t.Spec.GetPorts() {
			if p.GetName() == name {
				number = p.GetContainerPort()
			}
		}
		if number == 0 {
			return "", fmt.Errorf("port %s not found", name) //nolint:err113 // Kubernetes' sentence
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(int(number))), nil
}

// buffer keeps the beginning of what is written to it, from two streams.
type buffer struct {
	mu   sync.Mutex
	kept bytes.Buffer
}

func (b *buffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept.Write(data[:min(len(data), maxMessage-b.kept.Len())])
	return len(data), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.ToValidUTF8(b.kept.String(), "\ufffd")
}
