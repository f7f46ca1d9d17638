// Package identity says who somebody is: a certificate authority for one
// cluster, the certificates that it makes, and the tokens with which a machine
// asks for its first.
//
// The one invariant: a private key is made where it is used and never leaves
// that machine; what travels is a request to certify it. Only crypto/x509 and
// crypto/tls decide what is believed.
//
// Who has which name:
//
//   - the API server is the one holder of a certificate for the name
//     [ServerName], whatever address it is reached at;
//   - a node is the user system:node:NAME of the group system:nodes, as in
//     Kubernetes, and its certificate names the uid of its Node object; so with
//     the object goes the certificate;
//   - anybody else is a user and groups: CommonName and Organization.
//
// Read next: authority.go (who signs), pair.go (a key with its certificate, and
// its renewal), tls.go (who talks to whom), token.go.
package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
)

// Names with a meaning, all of them Kubernetes'.
const (
	// GroupMasters may do everything.
	GroupMasters = "system:masters"
	// GroupNodes are the nodes.
	GroupNodes = "system:nodes"
	// GroupAuthenticated is everybody who has shown who they are.
	GroupAuthenticated = "system:authenticated"
	// Anonymous is everybody else.
	Anonymous            = "system:anonymous"
	GroupUnauthenticated = "system:unauthenticated"

	nodePrefix = "system:node:"
)

// User is somebody who makes requests.
type User struct {
	Name   string
	Groups []string
	// UID is that of the Node object of a node; else empty.
	UID string
}

// Node returns the user that a node is.
func Node(name, uid string) User {
	return User{Name: nodePrefix + name, Groups: []string{GroupNodes}, UID: uid}
}

// NodeName is the name of the node that a user is; "" where it is none.
func (u User) NodeName() string {
	name, ok := strings.CutPrefix(u.Name, nodePrefix)
	if !ok || !u.In(GroupNodes) {
		return ""
	}
	return name
}

// In says whether the user is in a group.
func (u User) In(group string) bool {
	for _, g := range u.Groups {
		if g == group {
			return true
		}
	}
	return false
}

// subject is the user as a certificate names it. SerialNumber is X.509's
// attribute for what tells two holders of one name apart.
func (u User) subject() pkix.Name {
	return pkix.Name{CommonName: u.Name, Organization: u.Groups, SerialNumber: u.UID}
}

// UserOf is the user that a certificate names. Every such user is also in the
// group system:authenticated.
func UserOf(c *x509.Certificate) User {
	return User{Name: c.Subject.CommonName, Groups: append(c.Subject.Organization[:len(c.Subject.Organization):len(c.Subject.Organization)], GroupAuthenticated), UID: c.Subject.SerialNumber}
}
