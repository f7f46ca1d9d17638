package apiserver

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"orch/pkg/api"
	"orch/pkg/apiserver/authz"
	"orch/pkg/identity"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

var kindSecret, kindConfigMap = api.KindByName("Secret"), api.KindByName("ConfigMap")

// certificates is the Identity service.
type certificates struct {
	v1.UnimplementedIdentityServer
	s *Server
}

// errRevokedUser says that a user was shut out.
var errRevokedUser = api.Errorf(api.ErrUnauthorized, "the certificate of this user was revoked: ask for another")

// authenticate refuses who has not shown who they are, users whose certificates
// were revoked, and nodes that are in the cluster no more: with a Node object goes
// the certificate that names its uid.
func (s *Server) authenticate(ctx context.Context, c *caller) error {
	if c == nobody {
		return api.Errorf(api.ErrUnauthorized, "Unauthorized: the API server wants a client certificate")
	}
	node := c.NodeName()
	switch {
	case c.inner || c.trusted:
		return nil
	case node == "":
		seen := s.revocations.Load() + 1 // before the look, so that none is missed
		if c.believed.Load() == seen {
			return nil
		}
		err := s.believe(ctx, c.Name, c.issued)
		if err == nil {
			c.believed.Store(seen)
		}
		return err
	}
	r, err := s.current(ctx, kindNode, "", node)
	switch {
	case errors.Is(err, api.ErrNotFound):
		return errRevoked
	case err != nil:
		return err
	}
	if m := r.object.GetMetadata(); m.GetUid() != c.UID || m.GetDeletionTimestamp() != nil {
		return errRevoked
	}
	return nil
}

// believe refuses a certificate of a user that was revoked after it was made.
func (s *Server) believe(ctx context.Context, user string, issued time.Time) error {
	r, err := s.current(ctx, kindConfigMap, api.NamespaceSystem, identity.RevocationName(user))
	if err == nil && identity.IsRevoked(r.object.(*v1.ConfigMap), issued) {
		return errRevokedUser
	}
	return api.IgnoreNotFound(err)
}

// Believe is for other listeners of the server's process: it refuses the certificate of
// a user that was revoked.
func (s *Server) Believe(c *x509.Certificate) error {
	return s.believe(context.Background(), identity.UserOf(c).Name, identity.IssuedAt(c))
}

// errToken does not say whether there is such a token.
var errToken = api.Errorf(api.ErrUnauthorized, "the token is not valid: it is not one of this cluster, or has expired; 'apiserver token create' makes another")

// Join makes a node, and a certificate for it, for the holder of a token.
func (c *certificates) Join(ctx context.Context, r *v1.JoinRequest) (*v1.CertificateResponse, error) {
	s := c.s
	if s.authority == nil {
		return nil, errNoAuthority
	}
	name, id := identity.TokenSecret(r.GetToken())
	if name == "" {
		return nil, errToken
	}
	token, err := s.current(ctx, kindSecret, api.NamespaceSystem, name)
	if errors.Is(err, api.ErrNotFound) {
		return nil, errToken
	} else if err != nil {
		return nil, err
	}
	if !identity.MatchToken(token.object.(*v1.Secret), r.GetToken(), s.now()) {
		return nil, errToken
	}
	noteOf(ctx).request = on("create", kindNode, "", "", r.GetNodeName())
	noteOf(ctx).caller = &caller{User: identity.User{Name: "system:bootstrap:" + id, Groups: []string{"system:bootstrappers"}}}
	node, err := s.joining(ctx, r.GetNodeName(), sha256.Sum256(r.GetRequest()), store.Cause{
		Actor: "system:bootstrap:" + id, Reason: "JoinNode", Message: "a machine with token " + id + " joins as node " + r.GetNodeName(),
	})
	if err != nil {
		return nil, err
	}
	return c.issue(r.GetRequest(), node)
}

// joinPatience is how long after a machine joined another one of that name is refused,
// which would be the same node. By then the first one is ready.
const joinPatience = 30 * time.Second

// joins are the last machines that joined, by the name of their node.
type joins struct {
	mu   sync.Mutex // held while one joins
	last map[string]joined
}

type joined struct {
	request [sha256.Size]byte // one that is repeated is the same machine's
	at      time.Time
}

// joining returns the node that joins: a new one, or one that is there and not
// ready, which is a machine that has lost its certificate.
func (s *Server) joining(ctx context.Context, name string, request [sha256.Size]byte, why store.Cause) (u identity.User, err error) {
	s.joins.mu.Lock()
	defer s.joins.mu.Unlock()
	defer func() {
		if err == nil {
			api.Put(&s.joins.last, name, joined{request, s.now()})
		}
	}()
	for {
		old, err := s.current(ctx, kindNode, "", name)
		if errors.Is(err, api.ErrNotFound) {
			node := &v1.Node{Metadata: &v1.ObjectMeta{Name: name}, Spec: &v1.NodeSpec{}, Status: &v1.NodeStatus{}}
			_, err := s.create(ctx, node, why, false)
			if errors.Is(err, api.ErrAlreadyExists) {
				continue
			}
			return identity.Node(name, node.GetMetadata().GetUid()), err
		}
		if err != nil {
			return identity.User{}, err
		}
		noteOf(ctx).object(kindNode, "", name)
		taken := &api.StatusError{Reason: api.ErrAlreadyExists, Kind: kindNode.Name, Name: name}
		if api.IsNodeReady(old.object.(*v1.Node)) {
			taken.Message = "a Node with name \"" + name + "\" and status \"Ready\" already exists in the cluster: delete it first (orchctl delete node " + name + "), or join under another --node-name"
			return identity.User{}, taken
		}
		if j := s.joins.last[name]; j.request != request && s.now().Sub(j.at) < joinPatience {
			taken.Message = "a machine has just joined as Node \"" + name + "\": join under another --node-name, or, if it is the same machine, in half a minute"
			return identity.User{}, taken
		}
		return identity.Node(name, old.object.GetMetadata().GetUid()), nil
	}
}

// Renew gives a node another certificate, which also keeps the connection open
// that it is asked for on.
func (c *certificates) Renew(ctx context.Context, r *v1.RenewRequest) (*v1.CertificateResponse, error) {
	me := callerOf(ctx)
	if me.NodeName() == "" || me.UID == "" {
		return nil, api.Errorf(api.ErrForbidden, "only nodes renew their certificates: %q is none", me.Name)
	}
	noteOf(ctx).request = on("update", kindNode, "certificate", "", me.NodeName())
	answer, err := c.issue(r.GetRequest(), me.User)
	if err != nil {
		return nil, err
	}
	if leaf, err := x509.ParseCertificate(answer.GetCertificate()); err == nil && me.expiry != nil {
		me.expiry.Reset(time.Until(leaf.NotAfter))
	}
	return answer, nil
}

func (c *certificates) issue(request []byte, u identity.User) (*v1.CertificateResponse, error) {
	a := c.s.authority
	if a == nil {
		return nil, errNoAuthority
	}
	var dns []string
	if node := u.NodeName(); node != "" {
		dns = []string{identity.NodeServerName(node)}
		u = identity.Node(node, u.UID)
	}
	certificate, err := a.Issue(request, u, dns...)
	if err != nil {
		return nil, api.Errorf(api.ErrBadRequest, "%v", err)
	}
	return &v1.CertificateResponse{Certificate: certificate, Authority: a.Certificate().Raw}, nil
}

// Review says who the caller is, and what they may do, or whether they may do
// something.
func (c *certificates) Review(ctx context.Context, r *v1.ReviewRequest) (*v1.ReviewResponse, error) {
	me := callerOf(ctx)
	answer := &v1.ReviewResponse{User: me.Name, Groups: me.Groups}
	if r.GetRules() {
		p, err := c.s.policy(ctx)
		if err != nil {
			return nil, err
		}
		answer.Rules = p.RulesOf(me.User, r.GetNamespace())
		if me.NodeName() != "" {
			answer.Reason = "node authorizer does not support user rule resolution"
		}
		return answer, nil
	}
	if r.GetVerb() == "" {
		return answer, nil
	}
	var err error
	answer.Allowed, answer.Reason, err = c.s.may(ctx, me.User, authz.Request{
		Verb: r.GetVerb(), Group: r.GetGroup(), Resource: r.GetResource(), Subresource: r.GetSubresource(),
		Namespace: r.GetNamespace(), Name: r.GetName(), Path: r.GetNonResourceUrl(),
	})
	return answer, err
}

var errNoAuthority = api.Errorf(api.ErrUnimplemented, "this API server has no certificate authority")

// Sign makes a certificate for a user.
func (c *certificates) Sign(ctx context.Context, r *v1.SignRequest) (*v1.CertificateResponse, error) {
	u := identity.User{Name: r.GetUser(), Groups: r.GetGroups()}
	switch {
	case u.Name == "":
		return nil, api.Errorf(api.ErrBadRequest, "user: Required value: a certificate needs a name")
	case u.NodeName() != "" || u.Name == identity.ServerName:
		return nil, api.Errorf(api.ErrForbidden, "user: Invalid value: %q: nodes get their certificates by a token, and the API server makes its own", u.Name)
	}
	// A certificate is the user: so it is for those who may impersonate that one.
	if err := c.s.authorize(ctx, authz.Request{Verb: "impersonate", Resource: "users", Name: u.Name}); err != nil {
		return nil, err
	}
	for _, g := range u.Groups {
		if err := c.s.authorize(ctx, authz.Request{Verb: "impersonate", Resource: "groups", Name: g}); err != nil {
			return nil, err
		}
	}
	return c.issue(r.GetRequest(), u)
}
