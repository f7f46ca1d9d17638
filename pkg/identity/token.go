package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"regexp"
	"strings"
	"time"

	v1 "orch/proto/v1"
)

// DefaultTokenLifetime is kubeadm's.
const DefaultTokenLifetime = 24 * time.Hour

// A token is "id.secret.hash". Id and secret are those of Kubernetes' bootstrap
// tokens, and so is the Secret that the API server remembers a token by, but for
// the secret itself: of that it keeps the SHA-256. The hash is that of the
// authority's key. A token may be used until it expires, for many nodes.
var validSecret = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

// Names and keys of a token's Secret, in the namespace kube-system.
const (
	tokenType   = "bootstrap.kubernetes.io/token"
	tokenPrefix = "bootstrap-token-"
)

// NewToken makes a token, and the Secret by which the API server knows it.
func NewToken(authority *x509.Certificate, expires time.Time) (string, *v1.Secret) {
	id, secret := randomText(6), randomText(16)
	return id + "." + secret + "." + Hash(authority), &v1.Secret{
		Metadata: &v1.ObjectMeta{Name: tokenPrefix + id, Namespace: "kube-system"},
		Type:     tokenType,
		Data: map[string][]byte{
			"token-id":                       []byte(id),
			"token-secret-sha256":            hashSecret(secret),
			"expiration":                     []byte(expires.UTC().Format(time.RFC3339)),
			"usage-bootstrap-authentication": []byte("true"),
		},
	}
}

// SplitToken returns the part of a token that the API server is told, and the
// hash of the authority that it has to belong to.
func SplitToken(token string) (secret, hash string, err error) {
	token = strings.TrimSpace(token)
	i := strings.LastIndexByte(token, '.')
	if i < 0 || !validSecret.MatchString(token[:i]) || !validHash(token[i+1:]) {
		return "", "", errors.New("it is not a token: want id.secret.hash, as 'apiserver token create' prints it")
	}
	return token[:i], token[i+1:], nil
}

// TokenSecret is the name of the Secret that knows a token ("id.secret"); "" for
// what is none.
func TokenSecret(secret string) (name, id string) {
	m := validSecret.FindStringSubmatch(secret)
	if m == nil {
		return "", ""
	}
	return tokenPrefix + m[1], m[1]
}

// MatchToken says whether a token ("id.secret") is the one that a Secret knows,
// and has not expired.
func MatchToken(s *v1.Secret, token string, now time.Time) bool {
	m := validSecret.FindStringSubmatch(token)
	if m == nil || s.GetType() != tokenType || string(s.GetData()["usage-bootstrap-authentication"]) != "true" {
		return false
	}
	expires, err := time.Parse(time.RFC3339, string(s.GetData()["expiration"]))
	same := subtle.ConstantTimeCompare(hashSecret(m[2]), s.GetData()["token-secret-sha256"]) == 1
	return same && string(s.GetData()["token-id"]) == m[1] && err == nil && now.Before(expires)
}

// hashSecret needs no salt and no work factor: a secret has 80 random bits.
func hashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return []byte(base64.StdEncoding.EncodeToString(sum[:]))
}

// randomText is n random letters and digits.
func randomText(n int) string {
	return strings.ToLower(rand.Text())[:n]
}
