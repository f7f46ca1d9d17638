package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ServerName is the name in the API server's certificate, at whatever address
// it is reached. The authority signs for one cluster only, so the name need
// not say which; and nothing has to be done when an address changes.
const ServerName = "apiserver"

// NodeServerName is the name in the certificate with which a node's agent
// serves.
func NodeServerName(node string) string { return node + ".node" }

// base is what all sides have in common.
func base() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} }

func pool(c *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c)
	return p
}

// ServeTLS is for the API server: it takes clients with a certificate of the
// authority, and such without one, who can only ask for one.
func ServeTLS(self *Pair, authority *x509.Certificate) *tls.Config {
	c := base()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		// The authority's certificate goes along, for those who know no more of it
		// than its hash.
		with := *self.Get()
		with.Certificate = [][]byte{with.Certificate[0], authority.Raw}
		return &with, nil
	}
	c.ClientAuth = tls.VerifyClientCertIfGiven
	c.ClientCAs = pool(authority)
	return c
}

// ServeNodeTLS is for an agent: nobody but the API server may connect.
func ServeNodeTLS(self *Pair, authority *x509.Certificate) *tls.Config {
	return serveFor(self, authority, func(peer *x509.Certificate) error {
		if peer.VerifyHostname(ServerName) != nil {
			return fmt.Errorf("%s is not the API server", peer.Subject.CommonName)
		}
		return nil
	})
}

// ServeMetricsTLS is for metrics: only those may read them who may do
// everything, or nothing but that (Kubernetes' system:monitoring), and whose
// certificates are believed.
func ServeMetricsTLS(self *Pair, authority *x509.Certificate, believe func(*x509.Certificate) error) *tls.Config {
	return serveFor(self, authority, func(peer *x509.Certificate) error {
		if u := UserOf(peer); !u.In(GroupMasters) && !u.In("system:monitoring") {
			return fmt.Errorf("%s may not read metrics", u.Name)
		}
		return believe(peer)
	})
}

func serveFor(self *Pair, authority *x509.Certificate, may func(peer *x509.Certificate) error) *tls.Config {
	c := base()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return self.Get(), nil }
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = pool(authority)
	c.VerifyConnection = func(s tls.ConnectionState) error { return may(s.PeerCertificates[0]) }
	return c
}

// DialTLS is for a client of the holder of a server name; self may be nil for
// one without a certificate.
func DialTLS(serverName string, self *Pair, authority *x509.Certificate) *tls.Config {
	c := base()
	c.ServerName, c.RootCAs = serverName, pool(authority)
	if self != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return self.Get(), nil }
	}
	return c
}

// JoinTLS is for a client of the API server that knows the authority by its hash
// alone. A server of another cluster is also told to other, because gRPC would
// try again and again.
func JoinTLS(hash string, other func(error)) *tls.Config {
	c := base()
	c.ServerName = ServerName
	// Not believed without more: VerifyConnection believes the one authority that
	// has the hash, and does then what the standard library would have done.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(s tls.ConnectionState) error {
		i := slices.IndexFunc(s.PeerCertificates, func(c *x509.Certificate) bool { return c.IsCA && Hash(c) == hash })
		if i < 0 {
			err := errors.New("the API server is not of the cluster that the token was made for: its CA has another hash")
			other(err)
			return err
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: ServerName, Roots: pool(s.PeerCertificates[i])})
		return err
	}
	return c
}

// validHash says whether a text can be a [Hash].
func validHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && strings.ToLower(s) == s
}
