package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"orch/pkg/api"
	"orch/pkg/client"
	"orch/pkg/identity"
	"orch/pkg/store/sealed"
	v1 "orch/proto/v1"
)

// commands are what apiserver does besides serving, by the words before the
// flags. They work on the data folder of a server of this machine.
var commands = map[string]func(ctx context.Context, args []string, stdout, stderr io.Writer) error{
	"secrets rotate-key": rotateKey,
	"token create":       createToken,
	"user revoke":        revokeUser,
}

// command runs a command and says whether args named one.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) (bool, error) {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return false, nil
	}
	words := strings.Join(args[:min(2, len(args))], " ")
	run, ok := commands[words]
	if !ok {
		return true, fmt.Errorf("unknown command %q: there are %q; without one, apiserver serves", words, slices.Sorted(maps.Keys(commands)))
	}
	err := run(ctx, args[2:], stdout, stderr)
	if errors.Is(err, pflag.ErrHelp) {
		err = nil
	}
	return true, err
}

// parseCommand parses the flags of a command, which all have --data-dir.
func parseCommand(o *options, f *pflag.FlagSet, args []string, stderr io.Writer) error {
	f.SetOutput(stderr)
	f.StringVar(&o.dataDir, "data-dir", "", "the data folder of the API server (required)")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unknown argument %q: see --help", f.Arg(0))
	case o.dataDir == "":
		return errors.New("--data-dir is required: the data folder of the API server")
	}
	return nil
}

// rotateKey puts a new key into the file of keys for Secrets.
func rotateKey(_ context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	f := pflag.NewFlagSet("apiserver secrets rotate-key", pflag.ContinueOnError)
	f.StringVar(&o.secretsKeyFile, "secrets-key-file", "", "the file of keys (default: secrets.key in the data folder)")
	if err := parseCommand(&o, f, args, stderr); err != nil {
		return err
	}
	if _, err := sealed.LoadKeys(o.secretsKeys()); err != nil {
		return err
	}
	if err := sealed.Rotate(o.secretsKeys()); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s has a new key beside those before. Start the API server again: it then encrypts all Secrets anew, and keeps one key before the newest.\n", o.secretsKeys())
	return nil
}

// createToken makes a token with which machines join, and prints it.
func createToken(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	f := pflag.NewFlagSet("apiserver token create", pflag.ContinueOnError)
	ttl := f.Duration("ttl", identity.DefaultTokenLifetime, "how long the token can be used")
	if err := parseCommand(&o, f, args, stderr); err != nil {
		return err
	}
	if *ttl <= 0 {
		return fmt.Errorf("--ttl %v: want more than 0", *ttl)
	}
	c, authority, err := dialAdmin(o)
	if err != nil {
		return err
	}
	defer c.Close()
	token, secret := identity.NewToken(authority, time.Now().Add(*ttl))
	ctx = client.WithCause(ctx, "CreateToken", "machines may join with it for %v", *ttl)
	if _, err := client.For[*v1.Secret](c).Create(ctx, secret); err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, token)
	return err
}

// revokeUser makes the certificates of a user worthless that there are.
func revokeUser(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	f := pflag.NewFlagSet("apiserver user revoke NAME", pflag.ContinueOnError)
	name := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	if err := parseCommand(&o, f, args, stderr); err != nil {
		return err
	}
	if name == "" {
		return errors.New("want the name of a user: apiserver user revoke NAME")
	}
	c, _, err := dialAdmin(o)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx = client.WithCause(ctx, "RevokeUser", "certificates of user %s that were made until now are not believed any more", name)
	maps, revocation := client.For[*v1.ConfigMap](c), identity.NewRevocation(name, time.Now())
	_, err = maps.Create(ctx, revocation)
	if errors.Is(err, api.ErrAlreadyExists) {
		_, err = maps.Update(ctx, revocation)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "user/%s revoked\n", name)
	if name == admin.Name {
		fmt.Fprintf(stderr, "Remove %s and start the API server again: it then makes another.\n", filepath.Join(o.dataDir, adminFile))
	}
	return nil
}

// dialAdmin connects to the server that runs on the data folder.
func dialAdmin(o options) (*client.Client, *x509.Certificate, error) {
	address, err := os.ReadFile(filepath.Join(o.dataDir, addressFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("no API server runs on %s: start it first", o.dataDir)
	} else if err != nil {
		return nil, nil, err
	}
	authority, err := identity.LoadAuthority(filepath.Join(o.dataDir, identity.AuthorityFile))
	if err != nil {
		return nil, nil, err
	}
	pair, err := identity.LoadPair(filepath.Join(o.dataDir, adminFile))
	if err != nil {
		return nil, nil, err
	}
	c, err := client.Dial(strings.TrimSpace(string(address)), admin.Name, client.TLS(identity.DialTLS(identity.ServerName, pair, authority)))
	return c, authority, err
}
