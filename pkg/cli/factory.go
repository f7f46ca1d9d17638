package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"orch/pkg/api"
	"orch/pkg/cli/config"
	"orch/pkg/client"
)

// factory holds the global flags and makes from them what verbs need.
type factory struct {
	IO
	version string

	kubeconfig string
	context    string
	namespace  string
	server     string
	// credentials replace those of the context: paths of files.
	authority, certificate, key string
	timeout                     time.Duration

	conn *client.Client
	ends []context.CancelFunc // of what began
}

// home returns $ORCH_HOME and the path of the config file, which is in it unless
// a flag names another.
func (f *factory) home() (home, path string, err error) {
	home, err = config.Home()
	if path = config.Path(home); f.kubeconfig != "" {
		path = f.kubeconfig
	}
	return home, path, err
}

// target returns the server that the flags and the config choose.
func (f *factory) target() (config.Target, error) {
	_, path, err := f.home()
	if err != nil {
		return config.Target{}, err
	}
	cfg, err := config.Load(path)
	if err != nil {
		return config.Target{}, err
	}
	name := cmp.Or(f.context, cfg.CurrentContext)
	var t config.Target
	switch {
	case name != "":
		if t, err = cfg.Target(name, path); err != nil {
			return t, err
		}
		f.namespace = cmp.Or(f.namespace, cfg.Context(name).Namespace)
	case f.server == "":
		return t, fmt.Errorf("no cluster is chosen: start one with 'orchctl up' (for a lab: 'orchctl up --runtime=fake --name lab'), or choose one with 'orchctl config use-context NAME'")
	}
	t.Server = cmp.Or(f.server, t.Server)
	return t, f.replaceCredentials(&t)
}

// replaceCredentials puts what the flags name in the place of what the context
// does.
func (f *factory) replaceCredentials(t *config.Target) (err error) {
	replace := func(path string, file *string, data *[]byte) {
		if path != "" && err == nil {
			*file, err = filepath.Abs(path)
			*data = nil
		}
	}
	replace(f.authority, &t.CertificateAuthority, &t.CertificateAuthorityData)
	replace(f.certificate, &t.ClientCertificate, &t.ClientCertificateData)
	replace(f.key, &t.ClientKey, &t.ClientKeyData)
	return err
}

// client connects to the chosen server; a second call returns the same client.
func (f *factory) client() (*client.Client, error) {
	if f.conn != nil {
		return f.conn, nil
	}
	t, err := f.target()
	if err != nil {
		return nil, err
	}
	var said sync.Map
	f.conn, err = t.Dial(client.OnWarning(func(text string) {
		if _, again := said.LoadOrStore(text, true); !again {
			fmt.Fprintln(f.Err, "Warning: "+text)
		}
	})...)
	return f.conn, err
}

func (f *factory) close() {
	for _, end := range f.ends {
		end()
	}
	if f.conn != nil {
		f.conn.Close()
		f.conn = nil
	}
}

// ns is the namespace of the request.
func (f *factory) ns() string {
	if f.namespace == "" {
		// The context may name one; target fills it in.
		_, _ = f.target()
	}
	return cmp.Or(f.namespace, api.NamespaceDefault)
}

// begin is how a verb begins that asks the server: with a client, and with
// request's context, which lasts until orchctl ends.
func (f *factory) begin(ctx context.Context, reason, message string) (context.Context, *client.Client, error) {
	c, err := f.client()
	if err != nil {
		return nil, nil, err
	}
	ctx, end := f.request(ctx, reason, "%s", message)
	f.ends = append(f.ends, end)
	return ctx, c, nil
}

// request bounds one request and names the person as its cause.
func (f *factory) request(ctx context.Context, reason, format string, args ...any) (context.Context, context.CancelFunc) {
	return within(client.WithCause(ctx, reason, format, args...), f.timeout)
}

// voice prints whole texts for goroutines that speak at once.
type voice struct{ mu sync.Mutex }

func (v *voice) say(to io.Writer, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintf(to, format, args...)
}

// within bounds a context, unless the time is 0.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d > 0 {
		return context.WithTimeout(ctx, d)
	}
	return context.WithCancel(ctx)
}
