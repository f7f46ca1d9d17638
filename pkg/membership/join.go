package membership

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// KeySize is the length of the key, in bytes: AES-256.
const KeySize = 32

// keyFile is the file of the API server's data folder with the key in base64.
const keyFile = "gossip.key"

// OpenKey reads the key from a data folder, or makes one.
func OpenKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, keyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, KeySize)
		_, _ = rand.Read(key) // never fails
		return key, os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600)
	} else if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: others than its owner may read or write it (mode %v): chmod 0600", path, info.Mode().Perm())
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != KeySize {
		return nil, fmt.Errorf("%s is no key of %d bytes in base64: remove it, and the API server makes another, which nodes ask for when it starts", path, KeySize)
	}
	return key, nil
}

// Beside is the address for the gossip of a program that listens at another: the
// port some steps further; any, where that is any.
func Beside(listen string, steps int) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return "", fmt.Errorf("address %s: want a number for the port", listen)
	}
	if n > 0 {
		n += steps
	}
	return net.JoinHostPort(host, strconv.Itoa(n)), nil
}

// askAgain is how long to wait where the API server does not say how to join.
const askAgain = 5 * time.Second

// errNews says that the cluster gossips in another way than before.
var errNews = errors.New("the gossip of the cluster is another one")

// Join makes a node a member of the gossip of its cluster until ctx ends, if the
// cluster has one. The key, the profile and where the API server listens, it asks
// the API server; server is the address at which that is reached. Whatever goes
// wrong is logged and tried again: an agent can do without.
func Join(ctx context.Context, c *client.Client, server string, o Options) {
	for ctx.Err() == nil {
		if err := join(ctx, c, server, o); err != nil && ctx.Err() == nil {
			o.Logger.Debug("no member of the gossip", "error", err)
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
		}
	}
}

func join(ctx context.Context, c *client.Client, server string, o Options) error {
	g, err := ask(ctx, c)
	if err != nil || g == nil {
		return err
	}
	o.Key, o.Profile = g.GetKey(), g.GetProfile()
	m, err := New(o)
	if err != nil {
		o.Logger.Warn("this node takes no part in the gossip; its death is noticed later", "error", err)
		return nil
	}
	return m.Run(ctx, func(ctx context.Context) ([]string, error) {
		// Meanwhile the API server may have another port or key; or not answer.
		if now, err := ask(ctx, c); err == nil {
			if !bytes.Equal(now.GetKey(), g.GetKey()) || now.GetProfile() != g.GetProfile() {
				return nil, errNews
			}
			g = now
		}
		host, port, err := net.SplitHostPort(g.GetSeed())
		if err != nil {
			return nil, err
		}
		if host == "" {
			if host, _, err = net.SplitHostPort(server); err != nil {
				return nil, err
			}
		}
		return []string{net.JoinHostPort(host, port)}, nil
	})
}

// ask asks the API server how to join; nil: not at all.
func ask(ctx context.Context, c *client.Client) (*v1.Gossip, error) {
	ctx, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	stream, err := c.Cluster().Peers(ctx, &v1.PeersRequest{})
	if err != nil {
		return nil, api.FromStatus(err)
	}
	answer, err := stream.Recv()
	return answer.GetGossip(), api.FromStatus(err)
}
