package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsSavedIsLoadedAndOnlyTheOwnersToRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "config")
	c, err := Load(path)
	if err != nil {
		t.Fatalf("a file that is not there: %v", err)
	}
	user := User{ClientCertificateData: []byte("certificate"), ClientKeyData: []byte("key")}
	c.Set("a", Cluster{Server: "127.0.0.1:1", CertificateAuthority: "ca.crt"}, user)
	c.Set("b", Cluster{Server: "127.0.0.1:2", CertificateAuthorityData: []byte("authority")}, user)
	c.Context("a").Namespace = "webflix"
	c.Set("a", Cluster{Server: "127.0.0.1:3"}, user) // moved: the namespace stays
	c.CurrentContext = "a"
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c, got); d != "" {
		t.Errorf("saved and loaded (-want +got):\n%s", d)
	}
	if got.Context("a").Namespace != "webflix" || got.Cluster("a").Server != "127.0.0.1:3" {
		t.Errorf("context a is %+v on %+v", got.Context("a"), got.Cluster("a"))
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestRemovingTheCurrentContextLeavesNone(t *testing.T) {
	c := &Config{}
	c.Set("a", Cluster{Server: "x"}, User{})
	c.CurrentContext = "a"
	if !c.Remove("a") || c.Remove("a") || c.CurrentContext != "" || len(c.Users) != 0 {
		t.Errorf("after removing all: %+v", c)
	}
}

func TestABrokenFileIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte("contextz: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestAProgramThatIsGivenNoFileSaysWhatIsMissing(t *testing.T) {
	if _, err := Dial("", ""); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Error(err)
	}
}
