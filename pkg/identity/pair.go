package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Pair is a private key and the certificate for it. It changes when it is
// renewed, and what uses it takes the new one from the next handshake on; open
// connections go on.
//
// Concurrency: all methods may be called from several goroutines.
type Pair struct {
	path    string // "" is nowhere
	current atomic.Pointer[tls.Certificate]
}

// LoadPair reads a file with a key and its certificate, in PEM. One file holds
// both, so that no crash leaves a key beside another's certificate.
func LoadPair(path string) (*Pair, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s holds a private key, and others than its owner may read or write it (mode %v): chmod 0600", path, info.Mode().Perm())
	}
	p, err := ParsePair(data, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p.path = path
	return p, nil
}

// ParsePair reads a certificate and its key, in PEM.
func ParsePair(certificate, key []byte) (*Pair, error) {
	c, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	p := &Pair{}
	p.current.Store(&c)
	return p, nil
}

// Get returns the key and certificate of now.
func (p *Pair) Get() *tls.Certificate { return p.current.Load() }

// Certificate returns the certificate of now.
func (p *Pair) Certificate() *x509.Certificate { return p.Get().Leaf }

// PEM is certificate and key.
func (p *Pair) PEM() (certificate, key []byte, err error) {
	c := p.Get()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	return EncodeCertificate(c.Certificate[0]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// EncodeCertificate turns a certificate from DER into PEM.
func EncodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// set makes key and certificate (DER) the pair, on disk first.
func (p *Pair) set(key crypto.Signer, der []byte) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	next := &Pair{}
	next.current.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf})
	if p.path != "" {
		certificate, private, err := next.PEM()
		if err != nil {
			return err
		}
		if err := WriteFile(p.path, bytes.Join([][]byte{certificate, private}, nil)); err != nil {
			return err
		}
	}
	p.current.Store(next.Get())
	return nil
}

// Sign makes a certificate from a PKCS #10 request, both in DER.
type Sign func(ctx context.Context, request []byte) ([]byte, error)

// NewPair makes a key, has it certified, and keeps both in a file; "" is
// nowhere.
func NewPair(ctx context.Context, path string, sign Sign) (*Pair, error) {
	p := &Pair{path: path}
	return p, p.renew(ctx, sign)
}

// renew makes a new key, has it certified, and makes both the pair.
func (p *Pair) renew(ctx context.Context, sign Sign) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	der, err := sign(ctx, request)
	if err != nil {
		return err
	}
	return p.set(key, der)
}

// third is a third of the certificate's life, which began skew after NotBefore.
func (p *Pair) third() time.Duration {
	c := p.Certificate()
	return (c.NotAfter.Sub(c.NotBefore) - skew) / 3
}

// renewAt is when two thirds of the certificate's life are over.
func (p *Pair) renewAt() time.Time { return p.Certificate().NotAfter.Add(-p.third()) }

// retryAfter is how long to wait after a renewal that failed: a hundredth of the
// last third, so that a server may be away for a while.
func (p *Pair) retryAfter() time.Duration { return p.third() / 100 }

// KeepFresh renews the pair whenever two thirds of its life are over, until ctx
// ends. What goes wrong is told to failed, and tried again.
func (p *Pair) KeepFresh(ctx context.Context, sign Sign, failed func(error)) {
	for wait := time.Until(p.renewAt()); ; {
		timer := time.NewTimer(max(wait, 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := p.renew(ctx, sign)
		if wait = time.Until(p.renewAt()); err != nil {
			if ctx.Err() != nil {
				return
			}
			failed(err)
			wait = p.retryAfter()
		}
	}
}
