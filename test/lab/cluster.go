//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc"

	"orch/pkg/api"
	"orch/pkg/cli/config"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// contextName is the context of orchctl on all machines.
const contextName = "lab"

// Up starts the API server and an agent on every machine, and returns when all
// nodes are Ready.
func (l *Lab) Up(ctx context.Context) error {
	if err := l.StartAPIServer(ctx); err != nil {
		return err
	}
	var err error
	if l.token, err = l.API.Run(ctx, "apiserver", "token", "create", "--data-dir", l.data()); err != nil {
		return err
	}
	for _, m := range l.Machines {
		if err := m.StartAgent(); err != nil {
			return err
		}
	}
	ready := []string{"wait", "--for=condition=Ready", "--timeout=1m"}
	for _, m := range l.Machines {
		ready = append(ready, "node/"+m.Name)
	}
	err = eventually(func() error { _, err := l.Orchctl(ctx, ready...); return err }) // at first there is no such node
	if err != nil {
		for _, m := range l.Machines {
			err = fmt.Errorf("%w\n%s: %s", err, m.Name, tail(m.Log("nodeagent")))
		}
	}
	return err
}

// StartAPIServer starts the API server and waits until it answers.
func (l *Lab) StartAPIServer(ctx context.Context) error {
	args := append([]string{"--data-dir", l.data(), "--listen", l.server()}, l.options.APIServer...)
	if err := l.API.Start("apiserver", args...); err != nil {
		return err
	}
	err := eventually(func() error {
		c, err := l.Client()
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = client.For[*v1.Namespace](c).Get(ctx, "", api.NamespaceSystem)
		return err
	})
	if err != nil {
		return fmt.Errorf("the API server does not answer: %w; its log ends with: %s", err, tail(l.API.Log("apiserver")))
	}
	cfg := config.Config{APIVersion: "v1", Kind: "Config", CurrentContext: contextName}
	cfg.Set(contextName, l.target().Cluster, l.target().User)
	return cfg.Save(config.Path(l.home()))
}

// KillAPIServer kills it with SIGKILL.
func (l *Lab) KillAPIServer() error { return l.API.Signal("apiserver", syscall.SIGKILL) }

// StartAgent starts the machine's agent. The node has the machine's name.
func (m *Machine) StartAgent() error {
	args := []string{"--data-dir", filepath.Join(m.Dir, "agent"), "--join", m.lab.server(), "--token", strings.TrimSpace(m.lab.token), "--node-name", m.Name, "--listen", net.JoinHostPort(m.Address, "10250")}
	if m.Simulated() {
		args = append(args, "--runtime=fake", "--capacity=cpu=16,memory=16Gi,pods=110")
	}
	return m.Start("nodeagent", append(args, m.lab.options.Agent...)...)
}

// KillAgent kills it with SIGKILL.
func (m *Machine) KillAgent() error { return m.Signal("nodeagent", syscall.SIGKILL) }

// Orchctl runs orchctl on the API server's machine and returns what it prints.
func (l *Lab) Orchctl(ctx context.Context, args ...string) (string, error) {
	return l.API.Run(ctx, "orchctl", args...)
}

// Apply applies manifests.
func (l *Lab) Apply(ctx context.Context, manifests string) error {
	cmd := l.API.Command(ctx, "orchctl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	out, err := cmd.CombinedOutput()
	return output("orchctl apply", out, err)
}

// Client connects to the API server as the first user, from its own machine:
// what is cut in the switch does not disturb it. The caller closes it.
func (l *Lab) Client() (*client.Client, error) {
	if _, err := os.Stat(l.target().ClientKey); err != nil {
		return nil, err
	}
	return l.target().Dial(grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return l.API.Dial(ctx, "tcp", address)
	}))
}

func (l *Lab) target() config.Target {
	admin := filepath.Join(l.data(), "admin.pem")
	return config.Target{
		Cluster: config.Cluster{Server: l.server(), CertificateAuthority: filepath.Join(l.data(), "ca.crt")},
		User:    config.User{ClientCertificate: admin, ClientKey: admin},
	}
}

func (l *Lab) server() string { return net.JoinHostPort(l.API.Address, "7480") }

// data is the folder of the API server, home that of orchctl.
func (l *Lab) data() string { return filepath.Join(l.API.Dir, "apiserver") }
func (l *Lab) home() string { return filepath.Join(l.Dir, "home") }
