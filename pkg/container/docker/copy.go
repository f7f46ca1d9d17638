package docker

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	dockercontainer "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"

	"orch/pkg/container"
)

// The engine packs and unpacks by itself, from outside, so that an image needs no
// tar.

// CopyTo unpacks a tar archive into a folder of a container.
func (r *Runtime) CopyTo(ctx context.Context, id, dir string, archive io.Reader) error {
	op := "copy to " + dir + " of container " + id
	cli, err := r.client(ctx)
	if err != nil {
		return sortError(ctx, op, err)
	}
	err = cli.CopyToContainer(ctx, id, dir, archive, dockercontainer.CopyToContainerOptions{})
	return copyError(ctx, op, err)
}

// CopyFrom writes a file, a link or a folder of a container as a tar archive.
func (r *Runtime) CopyFrom(ctx context.Context, id, name string, archive io.Writer) error {
	op := "copy from " + name + " of container " + id
	cli, err := r.client(ctx)
	if err != nil {
		return sortError(ctx, op, err)
	}
	stream, _, err := cli.CopyFromContainer(ctx, id, name)
	if err == nil {
		defer stream.Close()
		err = demultiplex(stream, true, archive, io.Discard)
	}
	return copyError(ctx, op, err)
}

// Stat tells what is at a path of a container, following links.
func (r *Runtime) Stat(ctx context.Context, id, name string) (fs.FileMode, error) {
	op := "look at " + name + " of container " + id
	// As many links as Linux follows. The engine has resolved their targets.
	for range 40 {
		stat, err := ask(ctx, r, op, func(ctx context.Context, cli *client.Client) (dockercontainer.PathStat, error) {
			stat, err := cli.ContainerStatPath(ctx, id, name)
			if cerrdefs.IsNotFound(err) { // the answer has no text: is it the file that is missing?
				if _, err = cli.ContainerInspect(ctx, id); err == nil {
					err = container.ErrNoFile
				}
			}
			return stat, err
		})
		if err != nil {
			return 0, err
		}
		if stat.Mode&fs.ModeSymlink == 0 {
			return stat.Mode, nil
		}
		if name = stat.LinkTarget; !path.IsAbs(name) {
			name = "/" + name
		}
	}
	return 0, fmt.Errorf("%s: %w: too many links", op, container.ErrNoFile)
}

// User tells the numbers of a container's user and group, as runc finds them.
func (r *Runtime) User(ctx context.Context, id string) (uid, gid int, err error) {
	user, err := ask(ctx, r, "look at container "+id, func(ctx context.Context, cli *client.Client) (string, error) {
		inspected, err := cli.ContainerInspect(ctx, id)
		if err != nil || inspected.Config == nil {
			return "", err
		}
		return inspected.Config.User, nil
	})
	if err != nil || user == "" {
		return 0, 0, err
	}
	name, group, _ := strings.Cut(user, ":")
	accounts, err := r.accounts(ctx, id, "/etc/passwd")
	if err != nil {
		return 0, 0, err
	}
	if known := accounts(name); len(known) > 3 { // name:password:uid:gid:…
		name, group = known[2], cmp.Or(group, known[3])
	}
	if _, isName := strconv.Atoi(group); group != "" && isName != nil {
		groups, err := r.accounts(ctx, id, "/etc/group")
		if err != nil {
			return 0, 0, err
		}
		if known := groups(group); len(known) > 2 { // name:password:gid:…
			group = known[2]
		}
	}
	uid, err = strconv.Atoi(name)
	gid, groupErr := strconv.Atoi(cmp.Or(group, "0"))
	if err = errors.Join(err, groupErr); err != nil {
		return 0, 0, fmt.Errorf("user %q of container %s: %w", user, id, err)
	}
	return uid, gid, nil
}

// accountsFile is a file of accounts, which a container may have made to do harm.
type accountsFile struct{ bytes.Buffer }

func (f *accountsFile) Write(p []byte) (int, error) {
	if f.Len()+len(p) > 1<<20 {
		return 0, errors.New("a file of accounts of more than a mebibyte")
	}
	return f.Buffer.Write(p)
}

// accounts finds the fields of whom a file of the container knows by name or
// number; nil where it knows none.
func (r *Runtime) accounts(ctx context.Context, id, file string) (find func(who string) []string, err error) {
	var archive accountsFile
	err = r.CopyFrom(ctx, id, file, &archive)
	if err != nil && !errors.Is(err, container.ErrNoFile) {
		return nil, err
	}
	in := tar.NewReader(&archive)
	var text []byte
	if _, err := in.Next(); err == nil {
		text, _ = io.ReadAll(in)
	}
	return func(who string) []string {
		for line := range strings.Lines(string(text)) {
			fields := strings.Split(strings.TrimSpace(line), ":")
			if len(fields) > 2 && (fields[0] == who || fields[2] == who) {
				return fields
			}
		}
		return nil
	}, nil
}

// Unlock lets everybody write to folders below dir. The engine, which is root,
// unpacks an archive over them that holds nothing but the folders' new modes. It
// does so by way of a container that has dir, and is never started.
func (r *Runtime) Unlock(ctx context.Context, dir string, folders []string, labels map[string]string) error {
	const target = "/dir"
	var archive bytes.Buffer
	modes := tar.NewWriter(&archive)
	for _, folder := range folders {
		name, err := filepath.Rel(dir, folder)
		if err == nil {
			err = modes.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o777, Uid: os.Getuid(), Gid: os.Getgid()})
		}
		if err != nil {
			return err
		}
	}
	if err := modes.Close(); err != nil {
		return err
	}
	return r.do(ctx, "unlock folders of "+dir, func(ctx context.Context, cli *client.Client) error {
		config, host, err := sandboxConfig(container.Sandbox{Labels: labels})
		if err != nil {
			return err
		}
		host.NetworkMode = "none"
		host.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: dir, Target: target}}
		// One that a process left behind which was killed has the same name.
		hash := sha256.Sum256([]byte(dir))
		name := "orch-unlock-" + hex.EncodeToString(hash[:6])
		if err := r.Remove(ctx, name); err != nil {
			return err
		}
		id, err := r.createSandbox(ctx, cli, config, host, name)
		if err != nil {
			return err
		}
		err = cli.CopyToContainer(ctx, id, target, &archive, dockercontainer.CopyToContainerOptions{})
		return errors.Join(err, r.Remove(context.WithoutCancel(ctx), id))
	})
}

// copyError adds the kinds that only files have.
func copyError(ctx context.Context, op string, err error) error {
	switch {
	case err == nil || ctx.Err() != nil:
	case cerrdefs.IsNotFound(err) && strings.Contains(err.Error(), "Could not find the file"):
		return fmt.Errorf("%s: %w", op, container.ErrNoFile)
	case strings.Contains(err.Error(), "read-only"):
		return fmt.Errorf("%s: %w: %w", op, container.ErrReadOnly, err)
	}
	return sortError(ctx, op, err)
}
