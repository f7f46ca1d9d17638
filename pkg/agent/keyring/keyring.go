// Package keyring finds the logins for an image in the Secrets that a pod names
// as its imagePullSecrets. It is pure.
//
// The rules are those of the kubelet's keyring: each entry of a Docker
// configuration names a registry, or a path in one, and the more specific entry
// is tried first; of equals, that of the Secret named first. What is wrong with a
// Secret is told without a word of its content.
package keyring

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"orch/pkg/api"
	"orch/pkg/container"
	v1 "orch/proto/v1"
)

// entry is one of a Docker configuration.
type entry struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"` // base64 of username:password, and wins
}

// lock is what a login opens: "registry.example:5000/team", "*.example".
type lock struct {
	place string
	login container.Login
}

// dockerHub is the name of Docker's own registry in configurations.
const dockerHub = "index.docker.io"

// Logins returns what is to be tried for the image, in this order; none: pull
// without. An error names the Secret that cannot be read.
func Logins(secrets []*v1.Secret, image string) ([]container.Login, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, fmt.Errorf("couldn't parse image name %q: %w", image, err)
	}
	var locks []lock
	for _, s := range secrets {
		some, err := read(s)
		if err != nil {
			return nil, fmt.Errorf("secret %q: %w", s.GetMetadata().GetName(), err)
		}
		locks = append(locks, some...)
	}
	slices.SortStableFunc(locks, func(a, b lock) int { return cmp.Compare(b.place, a.place) })
	var logins []container.Login
	for _, l := range locks {
		if opens(l.place, named.Name()) {
			logins = append(logins, l.login)
		}
	}
	if len(logins) == 0 && reference.Domain(named) == "docker.io" {
		for _, l := range locks {
			if l.place == dockerHub {
				logins = append(logins, l.login)
			}
		}
	}
	return logins, nil
}

// read returns what the Secret opens; nothing where it is of another type.
func read(s *v1.Secret) ([]lock, error) {
	var entries map[string]json.RawMessage
	var key string
	var err error
	switch s.GetType() {
	case api.SecretDockerConfigJSON:
		key = api.SecretDockerConfigJSONKey
		var file struct {
			Auths map[string]json.RawMessage `json:"auths"`
		}
		err = json.Unmarshal(s.GetData()[key], &file)
		entries = file.Auths
	case api.SecretDockercfg:
		key = api.SecretDockercfgKey
		err = json.Unmarshal(s.GetData()[key], &entries)
	default:
		return nil, nil
	}
	if len(s.GetData()[key]) == 0 {
		return nil, nil
	}
	if err != nil { // which may quote what it could not read
		return nil, fmt.Errorf("%s is not a Docker configuration in JSON", key) //nolint:err113 // for people
	}
	var locks []lock
	for _, registry := range slices.Sorted(maps.Keys(entries)) {
		var e entry
		if json.Unmarshal(entries[registry], &e) != nil || !e.decode() {
			return nil, fmt.Errorf("%s: the entry of %q must have username and password, or auth as base64(username:password)", key, registry) //nolint:err113 // for people
		}
		if place := placeOf(registry); place != "" {
			locks = append(locks, lock{place, container.Login{Username: e.Username, Password: e.Password}})
		}
	}
	return locks, nil
}

// decode takes username and password from auth.
func (e *entry) decode() (ok bool) {
	if e.Auth == "" {
		return true
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(e.Auth), "="))
	if err != nil {
		return false
	}
	e.Username, e.Password, ok = strings.Cut(string(b), ":")
	return ok
}

// placeOf is the host, and perhaps a path, of a configuration's key:
// "https://index.docker.io/v1/" is index.docker.io. "" where it is no address.
func placeOf(registry string) string {
	if !strings.HasPrefix(registry, "https://") && !strings.HasPrefix(registry, "http://") {
		registry = "https://" + registry
	}
	u, err := url.Parse(registry)
	if err != nil {
		return ""
	}
	p := u.Path
	if strings.HasPrefix(p, "/v1/") || strings.HasPrefix(p, "/v2/") {
		p = p[3:]
	}
	if p == "/" {
		p = ""
	}
	return u.Host + p
}

// opens says whether a login for place is one for the repository. A star stands
// for one part of the host's name; the path is a prefix.
func opens(place, repository string) bool {
	host, dir, _ := strings.Cut(place, "/")
	to, name, _ := strings.Cut(repository, "/")
	host, port, _ := strings.Cut(host, ":")
	to, toPort, _ := strings.Cut(to, ":")
	glob, parts := strings.Split(host, "."), strings.Split(to, ".")
	if port != toPort || len(glob) != len(parts) || !strings.HasPrefix(name, dir) {
		return false
	}
	for i, g := range glob {
		if ok, err := path.Match(g, parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
