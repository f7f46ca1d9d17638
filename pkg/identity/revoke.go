package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"time"

	v1 "orch/proto/v1"
)

// revokedPrefix begins the names of revocations, in the namespace kube-system.
const revokedPrefix = "revoked-user-"

// RevocationName is the name of the ConfigMap that revokes a user; the user's own name
// may have letters that no object's has.
func RevocationName(user string) string {
	sum := sha256.Sum256([]byte(user))
	return revokedPrefix + hex.EncodeToString(sum[:8])
}

// NewRevocation is the ConfigMap that makes all certificates of a user worthless that
// were made up to now. One that is made later is good.
func NewRevocation(user string, now time.Time) *v1.ConfigMap {
	return &v1.ConfigMap{
		Metadata: &v1.ObjectMeta{Name: RevocationName(user), Namespace: "kube-system"},
		Data:     map[string]string{"user": user, "until": now.UTC().Format(time.RFC3339)},
	}
}

// RevokedUser is the user that an object revokes; "" where it revokes none.
func RevokedUser(c *v1.ConfigMap) string {
	user := c.GetData()["user"]
	if m := c.GetMetadata(); m.GetNamespace() != "kube-system" || m.GetName() != RevocationName(user) {
		return ""
	}
	return user
}

// IsRevoked says whether a certificate that was issued then is worthless. One that
// cannot be read revokes all.
func IsRevoked(c *v1.ConfigMap, issued time.Time) bool {
	until, err := time.Parse(time.RFC3339, strings.TrimSpace(c.GetData()["until"]))
	return err != nil || !issued.After(until)
}

// IssuedAt is when a certificate was made, to the second.
func IssuedAt(c *x509.Certificate) time.Time { return c.NotBefore.Add(skew) }
