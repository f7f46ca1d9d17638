package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"orch/pkg/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// must is for what has to succeed: must(t)(f()).
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func authority(t testing.TB) *identity.Authority {
	t.Helper()
	return must[*identity.Authority](t)(identity.OpenAuthority(t.TempDir(), time.Hour))
}

func pair(t testing.TB, sign identity.Sign) *identity.Pair {
	t.Helper()
	return must[*identity.Pair](t)(identity.NewPair(t.Context(), "", sign))
}

// shake is a handshake, and what both sides say of it.
func shake(server, client *tls.Config) (serverErr, clientErr error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		c := tls.Server(a, server)
		err := c.Handshake()
		if err == nil {
			_, err = c.Write([]byte{1}) // TLS 1.3: the client hears of a refusal with the first byte
		}
		_ = a.Close()
		done <- err
	}()
	c := tls.Client(b, client)
	_, clientErr = io.ReadFull(c, make([]byte, 1))
	_ = b.Close()
	return <-done, clientErr
}

func believed(*x509.Certificate) error { return nil }

func TestWhoMaySpeakToWhom(t *testing.T) {
	a, other := authority(t), authority(t)
	ca := a.Certificate()
	server := pair(t, a.ForServer())
	node := pair(t, a.For(identity.Node("n1", "u1"), identity.NodeServerName("n1")))
	alice := pair(t, a.For(identity.User{Name: "alice", Groups: []string{"team"}}))
	admin := pair(t, a.For(identity.User{Name: "admin", Groups: []string{identity.GroupMasters}}))
	liar := pair(t, a.For(identity.User{Name: identity.ServerName})) // a name is not enough
	stranger := pair(t, other.For(identity.Node("n1", "u1"), identity.NodeServerName("n1"), identity.ServerName))
	foreign := pair(t, other.ForServer())
	old := identity.ServeTLS(server, ca)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12

	for name, tt := range map[string]struct {
		server, client *tls.Config
		refused        bool
	}{
		"a node speaks to the API server":                    {identity.ServeTLS(server, ca), identity.DialTLS(identity.ServerName, node, ca), false},
		"somebody without a certificate gets through to TLS": {identity.ServeTLS(server, ca), identity.DialTLS(identity.ServerName, nil, ca), false},
		"another cluster's node does not":                    {identity.ServeTLS(server, ca), identity.DialTLS(identity.ServerName, stranger, ca), true},
		"another cluster's server is not believed":           {identity.ServeTLS(foreign, other.Certificate()), identity.DialTLS(identity.ServerName, node, ca), true},
		"a node is not believed to be the API server":        {identity.ServeTLS(node, ca), identity.DialTLS(identity.ServerName, alice, ca), true},
		"a user is not believed to be the API server":        {identity.ServeTLS(alice, ca), identity.DialTLS(identity.ServerName, node, ca), true},
		"TLS 1.2 is refused":                                 {old, identity.DialTLS(identity.ServerName, node, ca), true},
		"the API server speaks to an agent":                  {identity.ServeNodeTLS(node, ca), identity.DialTLS(identity.NodeServerName("n1"), server, ca), false},
		"but not to one that answers for another":            {identity.ServeNodeTLS(node, ca), identity.DialTLS(identity.NodeServerName("n2"), server, ca), true},
		"a node does not speak to an agent":                  {identity.ServeNodeTLS(node, ca), identity.DialTLS(identity.NodeServerName("n1"), node, ca), true},
		"an administrator does not":                          {identity.ServeNodeTLS(node, ca), identity.DialTLS(identity.NodeServerName("n1"), admin, ca), true},
		"who is called as the API server does not":           {identity.ServeNodeTLS(node, ca), identity.DialTLS(identity.NodeServerName("n1"), liar, ca), true},
		"who has no certificate does not":                    {identity.ServeNodeTLS(node, ca), identity.DialTLS(identity.NodeServerName("n1"), nil, ca), true},
		"an administrator reads metrics":                     {identity.ServeMetricsTLS(server, ca, believed), identity.DialTLS(identity.ServerName, admin, ca), false},
		"a user does not":                                    {identity.ServeMetricsTLS(server, ca, believed), identity.DialTLS(identity.ServerName, alice, ca), true},
		"nobody does not":                                    {identity.ServeMetricsTLS(server, ca, believed), identity.DialTLS(identity.ServerName, nil, ca), true},
		"who joins believes the hash":                        {identity.ServeTLS(server, ca), identity.JoinTLS(identity.Hash(ca), func(error) {}), false},
		"and no other":                                       {identity.ServeTLS(server, ca), identity.JoinTLS(identity.Hash(other.Certificate()), func(error) {}), true},
		"nor a node of the cluster":                          {identity.ServeTLS(node, ca), identity.JoinTLS(identity.Hash(ca), func(error) {}), true},
	} {
		t.Run(name, func(t *testing.T) {
			serverErr, clientErr := shake(tt.server, tt.client)
			if (clientErr != nil) != tt.refused {
				t.Errorf("client: %v; server: %v", clientErr, serverErr)
			}
		})
	}
}

func TestTheSubjectOfARequestDoesNotMatter(t *testing.T) {
	a := authority(t)
	u := identity.UserOf(pair(t, a.For(identity.Node("n1", "u1"))).Certificate())
	if u.NodeName() != "n1" || u.UID != "u1" || !slices.Equal(u.Groups, []string{identity.GroupNodes, identity.GroupAuthenticated}) {
		t.Errorf("%+v", u)
	}
	if name := (identity.User{Name: "system:node:n1"}).NodeName(); name != "" {
		t.Errorf("a user who is called as a node is taken for %q", name)
	}
	if _, err := a.Issue([]byte("no request"), identity.User{Name: "x"}); err == nil {
		t.Error("a broken request was signed")
	}
}

func TestFilesArePrivateAndBelievedAgain(t *testing.T) {
	dir := t.TempDir()
	a := must[*identity.Authority](t)(identity.OpenAuthority(dir, time.Hour))
	u := identity.User{Name: "admin", Groups: []string{identity.GroupMasters}}
	admin := filepath.Join(dir, "admin.pem")
	first := must[*identity.Pair](t)(a.OpenPair(admin, u))
	again := must[*identity.Authority](t)(identity.OpenAuthority(dir, time.Hour))
	if !again.Certificate().Equal(a.Certificate()) {
		t.Error("another authority after a restart")
	}
	if second := must[*identity.Pair](t)(again.OpenPair(admin, u)); !second.Certificate().Equal(first.Certificate()) {
		t.Error("another certificate after a restart")
	}
	files := must[[]os.DirEntry](t)(os.ReadDir(dir))
	if len(files) != 3 {
		t.Errorf("files %v", files)
	}
	for _, f := range files {
		if info := must[os.FileInfo](t)(f.Info()); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
	// Of another authority: the folder was emptied, and the file forgotten.
	if p := must[*identity.Pair](t)(authority(t).OpenPair(admin, u)); p.Certificate().Equal(first.Certificate()) {
		t.Error("the certificate of an authority that is gone was kept")
	}
	if err := os.Chmod(admin, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.LoadPair(admin); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("a key that others may read: %v", err)
	}
}

func TestAPairIsRenewedAtTwoThirdsOfItsLifeAndTriesAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := must[*identity.Authority](t)(identity.OpenAuthority(dir, 30*24*time.Hour))
		p := must[*identity.Pair](t)(identity.NewPair(t.Context(), filepath.Join(dir, "node.pem"), a.For(identity.Node("n1", "u1"))))
		first := p.Certificate()
		ctx, cancel := context.WithCancel(t.Context())
		var tries, failures atomic.Int32
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.KeepFresh(ctx, func(ctx context.Context, request []byte) ([]byte, error) {
				if tries.Add(1) <= 2 {
					return nil, errors.New("the server is away")
				}
				return a.Issue(request, identity.Node("n1", "u1"))
			}, func(error) { failures.Add(1) })
		}()
		time.Sleep(19 * 24 * time.Hour)
		synctest.Wait()
		if n := tries.Load(); n != 0 {
			t.Errorf("%d tries after 19 days of 30", n)
		}
		time.Sleep(36 * time.Hour)
		synctest.Wait()
		if tries.Load() != 3 || failures.Load() != 2 || p.Certificate().Equal(first) {
			t.Errorf("after 20.5 days: %d tries, %d failures", tries.Load(), failures.Load())
		}
		if onDisk := must[*identity.Pair](t)(identity.LoadPair(filepath.Join(dir, "node.pem"))); !onDisk.Certificate().Equal(p.Certificate()) {
			t.Error("the file holds another certificate")
		}
		if p.Get().PrivateKey == nil || slices.Equal(first.RawSubjectPublicKeyInfo, p.Certificate().RawSubjectPublicKeyInfo) {
			t.Error("the key was kept")
		}
		cancel()
		<-done
	})
}

func TestATokenIsGoodUntilItExpires(t *testing.T) {
	a := authority(t)
	now := time.Now()
	token, secret := identity.NewToken(a.Certificate(), now.Add(time.Hour))
	short, hash, err := identity.SplitToken(token + "\n")
	if err != nil || hash != identity.Hash(a.Certificate()) {
		t.Fatalf("%q: %q, %v", token, hash, err)
	}
	if name, _ := identity.TokenSecret(short); name != secret.GetMetadata().GetName() {
		t.Errorf("secret %q, want %q", name, secret.GetMetadata().GetName())
	}
	for _, v := range secret.GetData() {
		if strings.Contains(string(v), short[7:]) {
			t.Error("the secret of the token is kept in clear")
		}
	}
	wrong := short[:len(short)-1] + "2"
	if strings.HasSuffix(short, "2") {
		wrong = short[:len(short)-1] + "3"
	}
	for name, tt := range map[string]struct {
		token string
		at    time.Time
		want  bool
	}{
		"the token":            {short, now, true},
		"an expired one":       {short, now.Add(2 * time.Hour), false},
		"with another secret":  {wrong, now, false},
		"with another id":      {"aaaaaa" + short[6:], now, false},
		"what is not a token":  {"", now, false},
		"the token with a CA":  {token, now, false},
		"in the last instants": {short, now.Add(59 * time.Minute), true},
	} {
		if got := identity.MatchToken(secret, tt.token, tt.at); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, bad := range []string{"", "abc", short, short + ".xyz", token + "0", strings.ToUpper(token)} {
		if _, _, err := identity.SplitToken(bad); err == nil {
			t.Errorf("%q was taken for a token", bad)
		}
	}
}
