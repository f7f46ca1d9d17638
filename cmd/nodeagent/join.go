package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/identity"
	v1 "orch/proto/v1"
)

// pairFile is the file of the data folder with the node's key and certificate.
const pairFile = "node.pem"

// member is this machine as a member of a cluster.
type member struct {
	pair      *identity.Pair
	authority *x509.Certificate
	// cluster is the uid of the namespace kube-system, which tells clusters apart;
	// "" where ctx ended first.
	cluster string
}

// dialTLS is for the way to the API server.
func (m *member) dialTLS() *tls.Config {
	return identity.DialTLS(identity.ServerName, m.pair, m.authority)
}

// enter makes this machine a member of the cluster: with the certificate that it
// has, or, where none is there or it is not believed, with the token.
func enter(ctx context.Context, o options) (*member, error) {
	m, err := o.known()
	if err != nil {
		return nil, err
	}
	if m != nil {
		c, err := client.Dial(o.server, o.nodeName, client.TLS(m.dialTLS()))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		m.cluster, err = clusterID(ctx, c, o)
		if !errors.Is(err, api.ErrUnauthorized) || o.token == "" {
			return m, err
		}
		o.logger.Warn("the certificate of this machine is not believed; joining again", "error", err)
	}
	return o.enroll(ctx)
}

// known is the member that the data folder says this machine is; nil where it
// says nothing, or what was true once and there is a token.
func (o options) known() (*member, error) {
	path := filepath.Join(o.dataDir, pairFile)
	pair, err := identity.LoadPair(path)
	if errors.Is(err, fs.ErrNotExist) {
		if o.token == "" {
			return nil, fmt.Errorf("this machine has not joined a cluster (there is no %s): give it --join HOST:PORT and the --token that 'apiserver token create' prints", path)
		}
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	authority, err := identity.LoadAuthority(filepath.Join(o.dataDir, identity.AuthorityFile))
	if err != nil {
		return nil, err
	}
	leaf := pair.Certificate()
	switch name := identity.UserOf(leaf).NodeName(); {
	case name != o.nodeName:
		return nil, fmt.Errorf("--node-name %s: the certificate in %s is that of node %q", o.nodeName, o.dataDir, name)
	case time.Now().After(leaf.NotAfter) && o.token == "":
		return nil, fmt.Errorf("the certificate of this machine (%s) was valid until %s: join again with a --token", path, leaf.NotAfter.Format(time.RFC3339))
	case time.Now().After(leaf.NotAfter):
		return nil, nil
	}
	return &member{pair: pair, authority: authority}, nil
}

// enroll joins the cluster with the token, as soon as the API server answers.
func (o options) enroll(ctx context.Context) (*member, error) {
	secret, hash, err := identity.SplitToken(o.token)
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c, err := client.Dial(o.server, o.nodeName, client.TLS(identity.JoinTLS(hash, stop)))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m := &member{}
	m.pair, err = identity.NewPair(ctx, filepath.Join(o.dataDir, pairFile), func(ctx context.Context, request []byte) ([]byte, error) {
		var answer *v1.CertificateResponse
		err := o.waitForServer(ctx, func() (err error) {
			answer, err = c.Identity().Join(ctx, &v1.JoinRequest{Token: secret, NodeName: o.nodeName, Request: request})
			return api.FromStatus(err)
		})
		if err != nil {
			return nil, err
		}
		if m.authority, err = x509.ParseCertificate(answer.GetAuthority()); err != nil {
			return nil, err
		}
		// Before the pair, so that a pair on disk always has its authority.
		return answer.GetCertificate(), identity.SaveAuthority(filepath.Join(o.dataDir, identity.AuthorityFile), m.authority)
	})
	if err != nil {
		switch why := context.Cause(ctx); {
		case why != nil && !errors.Is(why, context.Canceled) && !errors.Is(why, context.DeadlineExceeded):
			err = why
		case why != nil:
			return m, nil
		}
		return nil, fmt.Errorf("join the cluster at %s: %w", o.server, err)
	}
	o.logger.Info("joined the cluster", "server", o.server, "node", o.nodeName)
	known, err := client.Dial(o.server, o.nodeName, client.TLS(m.dialTLS()))
	if err != nil {
		return nil, err
	}
	defer known.Close()
	m.cluster, err = clusterID(ctx, known, o)
	return m, err
}

// renew asks the API server for the next certificate.
func renew(c *client.Client) identity.Sign {
	return func(ctx context.Context, request []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		answer, err := c.Identity().Renew(ctx, &v1.RenewRequest{Request: request})
		return answer.GetCertificate(), api.FromStatus(err)
	}
}

// clusterID waits for the API server and returns the uid of its namespace
// kube-system, which is what tells clusters apart; "" where ctx ended first.
func clusterID(ctx context.Context, c *client.Client, o options) (id string, err error) {
	err = o.waitForServer(ctx, func() error {
		ns, err := client.For[*v1.Namespace](c).Get(ctx, "", api.NamespaceSystem)
		id = ns.GetMetadata().GetUid()
		return err
	})
	switch {
	case err == nil:
		return id, nil
	case ctx.Err() != nil:
		return "", nil
	}
	return "", fmt.Errorf("the API server at %s does not let this agent in: %w", o.server, err)
}

// waitForServer asks until the server answers. What it answers with is the
// result, be it an error.
func (o options) waitForServer(ctx context.Context, ask func() error) error {
	for told := false; ; {
		err := ask()
		if !errors.Is(err, api.ErrUnavailable) && !errors.Is(err, api.ErrTimeout) {
			return err
		}
		if !told {
			o.logger.Warn("waiting for the API server", "server", o.server, "error", err)
			told = true
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// onRefusal makes a client tell when the API server no longer believes it: the
// node was removed from the cluster. To ask again would not help. An agent always
// has a watch open, or tries to, so streams are enough.
func onRefusal(tell func(error)) grpc.DialOption {
	check := func(err error) error {
		if status.Code(err) == codes.Unauthenticated {
			tell(api.FromStatus(err))
		}
		return err
	}
	return grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := open(ctx, desc, cc, method, opts...)
		return checkedStream{s, check}, check(err)
	})
}

type checkedStream struct {
	grpc.ClientStream
	check func(error) error
}

func (s checkedStream) RecvMsg(m any) error { return s.check(s.ClientStream.RecvMsg(m)) }
