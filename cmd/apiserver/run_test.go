package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/identity"
	"orch/pkg/store/boltstore"
	v1 "orch/proto/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is a run of main on a data folder.
type process struct {
	t    *testing.T
	dir  string
	stop func() // as SIGTERM; waits for the end
}

func start(t *testing.T, dir string) *process {
	t.Helper()
	return startLogging(t, dir, os.Stderr, "--log-level", "error")
}

// startLogging is start with the log in a file.
func startLogging(t *testing.T, dir string, log *os.File, more ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	args := append([]string{"--data-dir", dir, "--listen", "127.0.0.1:0", "--log-level", "debug"}, more...)
	go func() { done <- run(ctx, args, io.Discard, log) }()
	stopped := false
	p := &process{t: t, dir: dir, stop: func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}}
	t.Cleanup(p.stop)
	return p
}

// address waits for the file that holds an address.
func (p *process) address(file string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if b, err := os.ReadFile(filepath.Join(p.dir, file)); err == nil {
			tick.Stop()
			return strings.TrimSpace(string(b))
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("no file %s after two minutes", file)
		case <-tick.C:
		}
	}
}

func (p *process) dial() *client.Client {
	p.t.Helper()
	p.address(addressFile)
	c, _, err := dialAdmin(options{dataDir: p.dir})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

func TestWhatWasWrittenIsThereAfterARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "the", "server")
	p := start(t, dir)
	_, err := client.For[*v1.ConfigMap](p.dial()).Create(t.Context(), &v1.ConfigMap{
		Metadata: &v1.ObjectMeta{Name: "kept"}, Data: map[string]string{"a": "b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder: %v, %v; want mode 0700", info.Mode(), err)
	}
	p.stop()
	if _, err := os.Stat(filepath.Join(dir, addressFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file with the address is still there: %v", err)
	}

	p = start(t, dir)
	kept, err := client.For[*v1.ConfigMap](p.dial()).Get(t.Context(), "default", "kept")
	if err != nil || kept.GetData()["a"] != "b" {
		t.Errorf("after the restart: %v, %v", kept, err)
	}
}

func TestASecondServerOnTheSameFolderIsRefusedAtOnce(t *testing.T) {
	p := start(t, t.TempDir())
	p.address(addressFile)
	err := run(t.Context(), []string{"--data-dir", p.dir, "--listen", "127.0.0.1:0"}, io.Discard, io.Discard)
	if !errors.Is(err, boltstore.ErrLocked) || strings.Contains(err.Error(), "\n") {
		t.Errorf("second server: %v", err)
	}
}

func TestMetricsAndHealthAreServed(t *testing.T) {
	p := start(t, t.TempDir())
	for path, want := range map[string]string{
		"/healthz":      "ok",
		"/metrics":      "apiserver_store_revision",
		"/debug/pprof/": "goroutine",
	} {
		if body := p.get(t, path); !strings.Contains(body, want) {
			t.Errorf("%s: %.200s", path, body)
		}
	}
}

// get is what the metrics port answers to the administrator.
func (p *process) get(t *testing.T, path string) string {
	t.Helper()
	address := p.address(metricsAddressFile)
	authority, err := identity.LoadAuthority(filepath.Join(p.dir, identity.AuthorityFile))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := identity.LoadPair(filepath.Join(p.dir, adminFile))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(tls *tls.Config) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+path, nil)
		if err != nil {
			return nil, err
		}
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true}}
		return c.Do(r)
	}
	if answer, err := ask(identity.DialTLS(identity.ServerName, nil, authority)); err == nil {
		answer.Body.Close()
		t.Errorf("%s was shown to somebody without a certificate", path)
	}
	answer, err := ask(identity.DialTLS(identity.ServerName, pair, authority))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("%s: %s, %v", path, answer.Status, err)
	}
	return string(body)
}

func TestTokenCreatePrintsATokenOfThisCluster(t *testing.T) {
	dir := t.TempDir()
	create := func(more ...string) (string, error) {
		var out strings.Builder
		err := run(t.Context(), append([]string{"token", "create", "--data-dir", dir}, more...), &out, io.Discard)
		return out.String(), err
	}
	if _, err := create(); err == nil || !strings.Contains(err.Error(), "no API server runs") {
		t.Errorf("without a server: %v", err)
	}
	p := start(t, dir)
	c := p.dial()
	if _, err := create("--ttl", "-1s"); err == nil || !strings.Contains(err.Error(), "--ttl") {
		t.Errorf("with a time in the past: %v", err)
	}
	token, err := create("--ttl", "1h")
	if err != nil {
		t.Fatal(err)
	}
	short, hash, err := identity.SplitToken(token)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := identity.LoadAuthority(filepath.Join(dir, identity.AuthorityFile))
	if err != nil || identity.Hash(authority) != hash {
		t.Errorf("hash %s: %v", hash, err)
	}
	name, _ := identity.TokenSecret(short)
	secret, err := client.For[*v1.Secret](c).Get(t.Context(), "kube-system", name)
	if err != nil || !identity.MatchToken(secret, short, time.Now().Add(59*time.Minute)) || identity.MatchToken(secret, short, time.Now().Add(61*time.Minute)) {
		t.Errorf("%v, %v", secret, err)
	}
}

// user connects as a user whose certificate is made now.
func (p *process) user(name string, groups ...string) (*client.Client, *identity.Pair) {
	p.t.Helper()
	admin := p.dial()
	authority, err := identity.LoadAuthority(filepath.Join(p.dir, identity.AuthorityFile))
	if err != nil {
		p.t.Fatal(err)
	}
	pair, err := identity.NewPair(p.t.Context(), "", func(ctx context.Context, request []byte) ([]byte, error) {
		answer, err := admin.Identity().Sign(ctx, &v1.SignRequest{User: name, Groups: groups, Request: request})
		return answer.GetCertificate(), err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := client.Dial(p.address(addressFile), name, client.TLS(identity.DialTLS(identity.ServerName, pair, authority)))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c, pair
}

func TestARevokedUserIsOutAtOnceAndNobodyElseNotices(t *testing.T) {
	p := start(t, t.TempDir())
	watch := func(c *client.Client) v1.Resources_WatchClient {
		t.Helper()
		w, err := c.Resources().Watch(t.Context(), &v1.WatchRequest{Kind: "ConfigMap", Namespace: "default"})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := w.Recv(); err != nil || e.GetType() != v1.WatchEvent_TYPE_SYNCED {
			t.Fatalf("%v, %v", e, err)
		}
		return w
	}
	const name = "alice@example.com" // which can be no object's
	alice, pair := p.user(name, identity.GroupMasters)
	bob, _ := p.user("bob", identity.GroupMasters)
	mine, theirs := watch(alice), watch(bob)
	metrics := func() error {
		authority, err := identity.LoadAuthority(filepath.Join(p.dir, identity.AuthorityFile))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := (&tls.Dialer{Config: identity.DialTLS(identity.ServerName, pair, authority)}).DialContext(t.Context(), "tcp", p.address(metricsAddressFile))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		_, err = io.ReadAll(conn)
		return err
	}
	if err := metrics(); err != nil {
		t.Errorf("metrics, before: %v", err)
	}

	revoke := func(args ...string) (string, error) {
		var out strings.Builder
		err := run(t.Context(), append([]string{"user", "revoke"}, args...), &out, &out)
		return out.String(), err
	}
	if out, err := revoke(name, "--data-dir", p.dir); err != nil || out != "user/"+name+" revoked\n" {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := mine.Recv(); !errors.Is(api.FromStatus(err), api.ErrUnauthorized) || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("the open watch: %v", err)
	}
	if _, err := client.For[*v1.ConfigMap](alice).Get(t.Context(), "default", "c"); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("a request: %v", err)
	}
	if err := metrics(); err == nil {
		t.Error("metrics were shown to a user who was revoked")
	}
	if _, err := client.For[*v1.ConfigMap](bob).Create(t.Context(), &v1.ConfigMap{Metadata: &v1.ObjectMeta{Name: "c"}}); err != nil {
		t.Fatal(err)
	}
	if e, err := theirs.Recv(); err != nil || e.GetObject().GetConfigMap().GetMetadata().GetName() != "c" {
		t.Errorf("another user's watch: %v, %v", e, err)
	}

	nextSecond()
	again, _ := p.user(name, identity.GroupMasters)
	if _, err := client.For[*v1.ConfigMap](again).Get(t.Context(), "default", "c"); err != nil {
		t.Errorf("with a new certificate: %v", err)
	}
	if out, err := revoke(name, "--data-dir", p.dir); err != nil || out != "user/"+name+" revoked\n" {
		t.Errorf("the second time: %q, %v", out, err)
	}
	if _, err := revoke("--data-dir", p.dir); err == nil || !strings.Contains(err.Error(), "want the name of a user") {
		t.Errorf("without a name: %v", err)
	}
	if out, err := revoke("admin", "--data-dir", p.dir); err != nil || !strings.Contains(out, "admin.pem") {
		t.Errorf("the administrator: %q, %v", out, err)
	}
	if _, err := revoke("bob", "--data-dir", p.dir); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("by an administrator who was revoked: %v", err)
	}
	p.stop()
	if err := os.Remove(filepath.Join(p.dir, adminFile)); err != nil {
		t.Fatal(err)
	}
	nextSecond()
	p = start(t, p.dir)
	if _, err := client.For[*v1.ConfigMap](p.dial()).Get(t.Context(), "default", "c"); err != nil {
		t.Errorf("the next administrator: %v", err)
	}
}

// nextSecond waits for it: certificates tell the second in which they were made.
func nextSecond() {
	now := time.Now()
	<-time.After(time.Until(now.Truncate(time.Second).Add(time.Second)))
}

func TestBadFlagsSayWhatIsWrong(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args []string
		want string
	}{
		"no data folder":                   {nil, "--data-dir is required"},
		"a command that there is not":      {[]string{"serve"}, `unknown command "serve": there are ["secrets rotate-key"`},
		"an argument that is no flag":      {[]string{"--data-dir", blocked, "serve"}, `unknown argument "serve"`},
		"a command without its folder":     {[]string{"secrets", "rotate-key"}, "--data-dir is required"},
		"an unknown format of the log":     {[]string{"--data-dir", blocked, "--log-format", "xml"}, "want text or json"},
		"a data folder that is a file":     {[]string{"--data-dir", blocked}, "not a directory"},
		"an address that is not our own":   {[]string{"--data-dir", t.TempDir(), "--listen", "192.0.2.1:1"}, "192.0.2.1:1"},
		"metrics where nobody can listen":  {[]string{"--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--metrics-listen", "192.0.2.1:1"}, "192.0.2.1:1"},
		"a level of the log that is not":   {[]string{"--data-dir", blocked, "--log-level", "loud"}, "loud"},
		"a length of history with no unit": {[]string{"--data-dir", blocked, "--keep-history", "9"}, "missing unit"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), tt.args, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("run(%v) = %v; want %q", tt.args, err, tt.want)
			}
		})
	}
}

func TestVersionAndHelpEndWithoutAnError(t *testing.T) {
	for _, flag := range []string{"--version", "--help"} {
		var out strings.Builder
		if err := run(t.Context(), []string{flag}, &out, &out); err != nil || !strings.Contains(out.String(), "apiserver") {
			t.Errorf("%s: %v, %q", flag, err, out.String())
		}
	}
}

func TestSecretsAreEncryptedInTheStoreAndNeverLogged(t *testing.T) {
	const word = "a-well-kept-word"
	dir := t.TempDir()
	logs, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	p := startLogging(t, dir, logs)
	secrets := client.For[*v1.Secret](p.dial())
	if _, err := secrets.Create(t.Context(), &v1.Secret{Metadata: &v1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": word}}); err != nil {
		t.Fatal(err)
	}
	manifests := map[string]string{
		"applied":                `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"t"},"stringData":{"k":"` + word + `"}}`,
		"refused as no base64":   `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"u"},"data":{"k":"` + word + `!"}}`,
		"refused as no string":   `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"u"},"stringData":"` + word + `"}`,
		"refused as not allowed": `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"u"},"stringData":{"` + word + `/":"` + word + `"}}`,
	}
	for name, m := range manifests {
		_, _, _, err := p.dial().Apply(t.Context(), []byte(m), client.ApplyOptions{})
		if err != nil && name != "refused as not allowed" && strings.Contains(err.Error(), word) { // a key is no secret
			t.Errorf("%s: the error tells it: %v", name, err)
		}
		if (err == nil) != (name == "applied") {
			t.Errorf("%s: %v", name, err)
		}
	}
	metrics := p.get(t, "/metrics")
	p.stop()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range append(files, logs.Name()) {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, "address") {
			t.Errorf("%s is still there", f)
		}
		metrics += strings.ReplaceAll(string(data), word+"/", "") // the key
		if info, err := os.Stat(f); err != nil || f != logs.Name() && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, info.Mode())
		}
	}
	for _, form := range []string{word, "YS13ZWxsLWtlcHQtd29yZA"} {
		if strings.Contains(metrics, form) {
			t.Errorf("%q is in a file, the log or the metrics", form)
		}
	}

	// Twice replaced, the first key is gone, and the secret still there.
	for range 2 {
		if err := run(t.Context(), []string{"secrets", "rotate-key", "--data-dir", dir}, io.Discard, io.Discard); err != nil {
			t.Fatal(err)
		}
		p := start(t, dir)
		s, err := client.For[*v1.Secret](p.dial()).Get(t.Context(), "default", "s")
		if err != nil || string(s.GetData()["k"]) != word {
			t.Errorf("after a rotation: %v, %v", s, err)
		}
		p.stop()
	}
	if err := os.Remove(filepath.Join(dir, secretsKeyFile)); err != nil {
		t.Fatal(err)
	}
	err = run(t.Context(), []string{"--data-dir", dir, "--listen", "127.0.0.1:0"}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "put back the file") {
		t.Errorf("without the keys: %v", err)
	}
}
