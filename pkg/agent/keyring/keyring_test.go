package keyring

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func secret(name, typ, key, data string) *v1.Secret {
	return &v1.Secret{Metadata: &v1.ObjectMeta{Name: name}, Type: typ, Data: map[string][]byte{key: []byte(data)}}
}

func config(data string) *v1.Secret {
	return secret("s", api.SecretDockerConfigJSON, api.SecretDockerConfigJSONKey, data)
}

// auths has one entry per registry, whose user is of the same name.
func auths(registries ...string) *v1.Secret {
	var entries []string
	for _, r := range registries {
		entries = append(entries, fmt.Sprintf(`%q: {"username": %q, "password": "p"}`, r, r))
	}
	return config(`{"auths": {` + strings.Join(entries, ", ") + `}}`)
}

func TestLogins(t *testing.T) {
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, test := range []struct {
		name    string
		secrets []*v1.Secret
		image   string
		want    []string // users
	}{
		{"nothing is tried without a secret", nil, "reg.example/app:1", nil},
		{"a registry's login is for all its images", []*v1.Secret{auths("reg.example")}, "reg.example/team/app:1", []string{"reg.example"}},
		{"and for no other registry's", []*v1.Secret{auths("reg.example")}, "other.example/app:1", nil},
		{"nor for another port's", []*v1.Secret{auths("reg.example")}, "reg.example:5000/app", nil},
		{"scheme and version of the address do not matter", []*v1.Secret{auths("https://reg.example:5000/v2/")}, "reg.example:5000/app", []string{"https://reg.example:5000/v2/"}},
		{"a login for a path is for what is below", []*v1.Secret{auths("reg.example/team")}, "reg.example/team/app", []string{"reg.example/team"}},
		{"and not for what is beside", []*v1.Secret{auths("reg.example/team")}, "reg.example/other/app", nil},
		{"the more specific login comes first", []*v1.Secret{auths("reg.example", "reg.example/team")}, "reg.example/team/app", []string{"reg.example/team", "reg.example"}},
		{
			"of equals, that of the secret named first", []*v1.Secret{
				config(`{"auths": {"reg.example": {"username": "one"}}}`), config(`{"auths": {"reg.example": {"username": "two"}}}`),
			}, "reg.example/app", []string{"one", "two"},
		},
		{"a star stands for one part of the host", []*v1.Secret{auths("*.reg.example")}, "eu.reg.example/app", []string{"*.reg.example"}},
		{"and for not more than one", []*v1.Secret{auths("*.example")}, "eu.reg.example/app", nil},
		{"Docker's own registry has an old name", []*v1.Secret{auths("https://index.docker.io/v1/")}, "nginx", []string{"https://index.docker.io/v1/"}},
		{"and its present one", []*v1.Secret{auths("docker.io")}, "team/nginx:1", []string{"docker.io"}},
		{"an old name is no other registry's", []*v1.Secret{auths("index.docker.io")}, "reg.example/nginx", nil},
		{"a digest does not matter", []*v1.Secret{auths("reg.example")}, "reg.example/app:1@sha256:" + strings.Repeat("a", 64), []string{"reg.example"}},
		{
			"the older form has no auths around it",
			[]*v1.Secret{secret("s", api.SecretDockercfg, api.SecretDockercfgKey, `{"reg.example": {"username": "old"}}`)},
			"reg.example/app",
			[]string{"old"},
		},
		{
			"auth wins over username",
			[]*v1.Secret{config(`{"auths": {"reg.example": {"username": "u", "auth": "` + encode("fromauth:p:p") + `"}}}`)},
			"reg.example/app",
			[]string{"fromauth"},
		},
		{
			"auth may lack its padding",
			[]*v1.Secret{config(`{"auths": {"reg.example": {"auth": "` + strings.TrimRight(encode("me:p"), "=") + `"}}}`)},
			"reg.example/app",
			[]string{"me"},
		},
		{"a secret of another type opens nothing", []*v1.Secret{secret("s", "Opaque", api.SecretDockerConfigJSONKey, "-")}, "reg.example/app", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			logins, err := Logins(test.secrets, test.image)
			if err != nil {
				t.Fatal(err)
			}
			var users []string
			for _, l := range logins {
				users = append(users, l.Username)
			}
			if diff := cmp.Diff(test.want, users); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestASecretThatCannotBeReadIsNamedButNotQuoted(t *testing.T) {
	for data, want := range map[string]string{
		`{"auths": 12345}`:                `secret "s": .dockerconfigjson is not a Docker configuration in JSON`,
		`12345`:                           `secret "s": .dockerconfigjson is not a Docker configuration in JSON`,
		`{"auths": {"r.example": 12345}}`: `secret "s": .dockerconfigjson: the entry of "r.example" must have username and password, or auth as base64(username:password)`,
		`{"auths": {"r.example": {"auth": "12345"}}}`:   `secret "s": .dockerconfigjson: the entry of "r.example" must have username and password, or auth as base64(username:password)`,
		`{"auths": {"r.example": {"auth": "MTIzNDU"}}}`: `secret "s": .dockerconfigjson: the entry of "r.example" must have username and password, or auth as base64(username:password)`,
	} {
		if _, err := Logins([]*v1.Secret{config(data)}, "r.example/app"); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", data, err, want)
		}
	}
}
