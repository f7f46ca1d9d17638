// Package config keeps orchctl's contexts: which clusters there are, and which
// one a command speaks to.
//
// The file is $ORCH_HOME/config (default ~/.orch/config), in the form of a
// kubeconfig, so that what a student knows of one is true of the other. The one
// invariant: a file that was read can be written back without losing anything
// that this package understands. Read next: pkg/cli, which opens the context.
package config

import (
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"orch/pkg/client"
	"orch/pkg/identity"
)

// Config is the whole file.
type Config struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	CurrentContext string         `json:"current-context"`
	Clusters       []NamedCluster `json:"clusters"`
	Contexts       []NamedContext `json:"contexts"`
	Users          []NamedUser    `json:"users"`
}

// NamedCluster is a cluster under its name.
type NamedCluster struct {
	Name    string  `json:"name"`
	Cluster Cluster `json:"cluster"`
}

// Cluster says where an API server listens, and which authority it is believed
// by: a file, whose path may begin at the folder of the config, or its content.
type Cluster struct {
	// Server is HOST:PORT or unix:///path.
	Server                   string `json:"server"`
	CertificateAuthority     string `json:"certificate-authority,omitempty"`
	CertificateAuthorityData []byte `json:"certificate-authority-data,omitempty"`
}

// NamedContext is a context under its name.
type NamedContext struct {
	Name    string  `json:"name"`
	Context Context `json:"context"`
}

// Context joins a cluster, a user and the namespace to start in.
type Context struct {
	Cluster   string `json:"cluster"`
	User      string `json:"user"`
	Namespace string `json:"namespace,omitempty"`
}

// NamedUser is a user under its name.
type NamedUser struct {
	Name string `json:"name"`
	User User   `json:"user"`
}

// User is a certificate and its key, as files or their contents.
type User struct {
	ClientCertificate     string `json:"client-certificate,omitempty"`
	ClientCertificateData []byte `json:"client-certificate-data,omitempty"`
	ClientKey             string `json:"client-key,omitempty"`
	ClientKeyData         []byte `json:"client-key-data,omitempty"`
}

// Home is where everything of orchctl lives: $ORCH_HOME, else ~/.orch.
func Home() (string, error) {
	if h := os.Getenv("ORCH_HOME"); h != "" {
		return filepath.Abs(h)
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home directory (set ORCH_HOME instead): %w", err)
	}
	return filepath.Join(h, ".orch"), nil
}

// Path is the file in a home.
func Path(home string) string { return filepath.Join(home, "config") }

// Load reads the file; one that does not exist is an empty Config.
func Load(path string) (*Config, error) {
	c := &Config{APIVersion: "v1", Kind: "Config"}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Save writes the file whole or not at all, readable by its owner only.
func (c *Config) Save(path string) error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".config-*") // created with 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(data); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// Context returns the context with this name, or nil. The pointer is into c.
func (c *Config) Context(name string) *Context {
	for i := range c.Contexts {
		if c.Contexts[i].Name == name {
			return &c.Contexts[i].Context
		}
	}
	return nil
}

// Cluster returns the cluster with this name, or nil. The pointer is into c.
func (c *Config) Cluster(name string) *Cluster {
	for i := range c.Clusters {
		if c.Clusters[i].Name == name {
			return &c.Clusters[i].Cluster
		}
	}
	return nil
}

// User returns the user with this name, or nil. The pointer is into c.
func (c *Config) User(name string) *User {
	for i := range c.Users {
		if c.Users[i].Name == name {
			return &c.Users[i].User
		}
	}
	return nil
}

// Set adds or replaces a cluster, a user and a context of the same name. A
// context that is there keeps its namespace.
func (c *Config) Set(name string, cluster Cluster, user User) {
	if c.Cluster(name) == nil {
		c.Clusters = append(c.Clusters, NamedCluster{Name: name})
	}
	*c.Cluster(name) = cluster
	if c.User(name) == nil {
		c.Users = append(c.Users, NamedUser{Name: name})
	}
	*c.User(name) = user
	if c.Context(name) == nil {
		c.Contexts = append(c.Contexts, NamedContext{Name: name})
	}
	ctx := c.Context(name)
	ctx.Cluster, ctx.User = name, name
}

// Target is a server and how to speak to it: a context, perhaps with a part of
// it replaced.
type Target struct {
	Cluster
	User
	// Dir is where relative paths begin: the folder of the config.
	Dir string
}

// Target returns what a context names.
func (c *Config) Target(name, path string) (Target, error) {
	ctx := c.Context(name)
	if ctx == nil {
		return Target{}, fmt.Errorf("context %q does not exist in %s: 'orchctl config get-contexts' lists those that do", name, path)
	}
	t := Target{Dir: filepath.Dir(path)}
	cluster, user := c.Cluster(ctx.Cluster), c.User(ctx.User)
	if cluster == nil {
		return t, fmt.Errorf("context %q names cluster %q, which does not exist in %s", name, ctx.Cluster, path)
	}
	t.Cluster = *cluster
	if user != nil {
		t.User = *user
	}
	return t, nil
}

// Dial connects to the server of a context; "" is the current one. It is for
// programs that work beside orchctl.
func Dial(path, name string) (*client.Client, error) {
	if path == "" {
		return nil, fmt.Errorf("no file of contexts is named: 'orchctl create user NAME' writes one, for --kubeconfig")
	}
	c, err := Load(path)
	if err != nil {
		return nil, err
	}
	t, err := c.Target(cmp.Or(name, c.CurrentContext), path)
	if err != nil {
		return nil, err
	}
	return t.Dial()
}

// Dial connects to the target.
func (t Target) Dial(opts ...grpc.DialOption) (*client.Client, error) {
	tls, err := t.TLS()
	if err != nil {
		return nil, err
	}
	c, err := client.Dial(t.Server, "orchctl", append(opts, client.TLS(tls))...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.Server, err)
	}
	return c, nil
}

// TLS is how the target is spoken to.
func (t Target) TLS() (*tls.Config, error) {
	authority, err := t.read(t.CertificateAuthority, t.CertificateAuthorityData, "certificate-authority")
	if err != nil {
		return nil, err
	}
	ca, err := identity.ParseAuthority(authority)
	if err != nil {
		return nil, fmt.Errorf("certificate-authority of %s: %w", t.Server, err)
	}
	certificate, err := t.read(t.ClientCertificate, t.ClientCertificateData, "client-certificate")
	if err != nil {
		return nil, err
	}
	key, err := t.read(t.ClientKey, t.ClientKeyData, "client-key")
	if err != nil {
		return nil, err
	}
	pair, err := identity.ParsePair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("client-certificate and client-key for %s: %w", t.Server, err)
	}
	if end := pair.Certificate().NotAfter; time.Now().After(end) {
		return nil, fmt.Errorf("the client-certificate for %s was valid until %s: ask an administrator of the cluster for another ('orchctl create user')", t.Server, end.Format(time.RFC3339))
	}
	return identity.DialTLS(identity.ServerName, pair, ca), nil
}

func (t Target) read(file string, data []byte, what string) ([]byte, error) {
	switch {
	case len(data) > 0:
		return data, nil
	case file == "":
		return nil, fmt.Errorf("no %s is known for the API server at %s: name one with --%s, or use a context that does", what, t.Server, what)
	case !filepath.IsAbs(file):
		file = filepath.Join(t.Dir, file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return data, nil
}

// Redact takes the data of certificates and keys out, as kubectl does.
func (c *Config) Redact() {
	omitted, _ := base64.StdEncoding.DecodeString("DATA+OMITTED") // which is how it is then printed
	omit := func(data *[]byte) {
		if len(*data) > 0 {
			*data = omitted
		}
	}
	for i := range c.Clusters {
		omit(&c.Clusters[i].Cluster.CertificateAuthorityData)
	}
	for i := range c.Users {
		omit(&c.Users[i].User.ClientCertificateData)
		omit(&c.Users[i].User.ClientKeyData)
	}
}

// Remove forgets a context and the cluster of the same name; users stay as long
// as a context names them. It says whether there was anything.
func (c *Config) Remove(name string) bool {
	n := len(c.Contexts) + len(c.Clusters)
	c.Contexts = slices.DeleteFunc(c.Contexts, func(x NamedContext) bool { return x.Name == name })
	c.Clusters = slices.DeleteFunc(c.Clusters, func(x NamedCluster) bool { return x.Name == name })
	c.Users = slices.DeleteFunc(c.Users, func(u NamedUser) bool {
		return !slices.ContainsFunc(c.Contexts, func(x NamedContext) bool { return x.Context.User == u.Name })
	})
	if c.CurrentContext == name {
		c.CurrentContext = ""
	}
	return len(c.Contexts)+len(c.Clusters) < n
}
