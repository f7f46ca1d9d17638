package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Lifetimes. The authority's is kubeadm's, the others' that of Kubernetes'
// --cluster-signing-duration.
const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	DefaultLifetime   = 365 * 24 * time.Hour
	// skew is how far apart the clocks of two machines may be.
	skew = 5 * time.Minute
)

// Files of an authority.
const (
	AuthorityFile = "ca.crt"
	authorityPair = "ca.pem"
)

// Authority is the certificate authority of a cluster.
//
// Concurrency: all methods may be called from several goroutines.
type Authority struct {
	pair     *Pair
	lifetime time.Duration
}

// OpenAuthority reads the authority in a folder, or makes one where there is
// none: its key in ca.pem, its certificate alone in ca.crt. Certificates that it
// makes live as long as lifetime.
func OpenAuthority(dir string, lifetime time.Duration) (*Authority, error) {
	path := filepath.Join(dir, authorityPair)
	pair, err := LoadPair(path)
	if errors.Is(err, fs.ErrNotExist) {
		pair, err = newAuthority(path)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a := &Authority{pair, lifetime}
	return a, SaveAuthority(filepath.Join(dir, AuthorityFile), a.Certificate())
}

func newAuthority(path string) (*Pair, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "orch"},
		NotBefore: now.Add(-skew), NotAfter: now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	p := &Pair{path: path}
	return p, p.set(key, der)
}

// LoadAuthority reads the certificate of an authority.
func LoadAuthority(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := ParseAuthority(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// SaveAuthority writes the certificate of an authority to a file.
func SaveAuthority(path string, c *x509.Certificate) error {
	return WriteFile(path, EncodeCertificate(c.Raw))
}

// ParseAuthority reads the certificate of an authority, in PEM.
func ParseAuthority(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM is in it")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Certificate is the authority's own.
func (a *Authority) Certificate() *x509.Certificate { return a.pair.Certificate() }

// Issue certifies the key of a request (PKCS #10, DER) as a user's, and for the
// DNS names as a server's. The subject of the request does not matter: who
// somebody is, is not theirs to say.
func (a *Authority) Issue(request []byte, u User, dns ...string) ([]byte, error) {
	r, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: u.subject(), DNSNames: dns,
		NotBefore: now.Add(-skew), NotAfter: now.Add(a.lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(dns) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	// No certificate outlives the one that it is believed by.
	if last := a.Certificate().NotAfter; template.NotAfter.After(last) {
		template.NotAfter = last
	}
	return x509.CreateCertificate(rand.Reader, template, a.Certificate(), r.PublicKey, a.pair.Get().PrivateKey)
}

// For is how a pair of a user's is certified by the authority itself.
func (a *Authority) For(u User, dns ...string) Sign {
	return func(_ context.Context, request []byte) ([]byte, error) { return a.Issue(request, u, dns...) }
}

// ForServer is For the API server itself.
func (a *Authority) ForServer() Sign { return a.For(User{Name: ServerName}, ServerName) }

// OpenPair reads a user's pair from a file, or makes one there: where there is
// none, where it is another authority's, and where it is to be renewed.
func (a *Authority) OpenPair(path string, u User) (*Pair, error) {
	p, err := LoadPair(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case p.Certificate().CheckSignatureFrom(a.Certificate()) == nil && time.Now().Before(p.renewAt()):
		return p, nil
	}
	return NewPair(context.Background(), path, a.For(u))
}

// Hash is what a token says of an authority: the SHA-256 of its public key, in
// hexadecimal, as kubeadm's --discovery-token-ca-cert-hash.
func Hash(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// serial is a random number of 20 bytes, positive: what RFC 5280 allows.
func serial() *big.Int {
	b := make([]byte, 20)
	_, _ = rand.Read(b) // it never fails
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

// WriteFile writes a file whole or not at all, for its owner only. After a power cut
// it is there too.
func WriteFile(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
