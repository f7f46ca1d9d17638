package fake

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"orch/pkg/api"
	"orch/pkg/container"
)

// files are what was copied into a container, by clean path. Each container has
// the folders / and /tmp from the start.
type files map[string]file

type file struct {
	header tar.Header
	data   []byte
}

var folder = file{header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}

func (f files) get(name string) (file, bool) {
	if name == "/" || name == "/tmp" {
		return folder, true
	}
	found, ok := f[name]
	return found, ok
}

// filesOf returns a copy of a container's files. Their data is never changed.
func (e *Engine) filesOf(ctx context.Context, call, op, id string) (files, *fakeContainer, error) {
	if err := e.enter(ctx, call, id); err != nil {
		return nil, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, ok := e.containers[id]
	if !ok {
		return nil, nil, noContainer(op, id)
	}
	return maps.Clone(c.files), c, nil
}

// User tells the numbers of a container's user and group; there are no names.
func (e *Engine) User(ctx context.Context, id string) (uid, gid int, err error) {
	_, c, err := e.filesOf(ctx, "User", "look at container "+id, id)
	if err != nil {
		return 0, 0, err
	}
	user, group, _ := strings.Cut(c.config.Security.User, ":")
	uid, _ = strconv.Atoi(user)
	gid, _ = strconv.Atoi(group)
	return uid, gid, nil
}

// CopyTo unpacks a tar archive into a folder of a container.
func (e *Engine) CopyTo(ctx context.Context, id, dir string, archive io.Reader) error {
	op := "copy to " + dir + " of container " + id
	known, c, err := e.filesOf(ctx, "CopyTo", op, id)
	if err != nil {
		return err
	}
	dir = path.Clean("/" + dir)
	switch d, ok := known.get(dir); {
	case !ok:
		return fmt.Errorf("%s: %w", op, container.ErrNoFile)
	case d.header.Typeflag != tar.TypeDir:
		return fmt.Errorf("%s: extraction point is not a directory", op)
	case c.config.Security.ReadOnlyRootFS:
		return fmt.Errorf("%s: %w", op, container.ErrReadOnly)
	}
	in := tar.NewReader(archive)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		made := file{}
		if err == nil {
			made.header = *h
			made.data, err = io.ReadAll(in)
		}
		if err != nil {
			return fmt.Errorf("%s: read archive: %w", op, err)
		}
		name := path.Join(dir, path.Clean("/"+h.Name))
		if there, ok := known.get(name); ok && (there.header.Typeflag == tar.TypeDir) != (h.Typeflag == tar.TypeDir) {
			if h.Typeflag == tar.TypeDir {
				return fmt.Errorf("%s: cannot overwrite non-directory %q with directory", op, name)
			}
			return fmt.Errorf("%s: cannot overwrite directory %q with non-directory", op, name)
		}
		e.mu.Lock()
		if c.files == nil {
			c.files = files{}
		}
		for up := path.Dir(name); up != "/"; up = path.Dir(up) {
			if _, ok := c.files.get(up); !ok {
				c.files[up] = folder
			}
		}
		c.files[name] = made
		known = maps.Clone(c.files)
		e.mu.Unlock()
	}
}

// CopyFrom writes a file, a link or a folder of a container as a tar archive.
func (e *Engine) CopyFrom(ctx context.Context, id, name string, archive io.Writer) error {
	op := "copy from " + name + " of container " + id
	known, _, err := e.filesOf(ctx, "CopyFrom", op, id)
	if err != nil {
		return err
	}
	name = path.Clean("/" + name)
	root, ok := known.get(name)
	if !ok {
		return fmt.Errorf("%s: %w", op, container.ErrNoFile)
	}
	api.Put(&known, name, root)
	out := tar.NewWriter(archive)
	for _, at := range slices.Sorted(maps.Keys(known)) {
		if at != name && !strings.HasPrefix(at, strings.TrimSuffix(name, "/")+"/") {
			continue
		}
		f := known[at]
		f.header.Name = path.Join(path.Base(name), strings.TrimPrefix(at, name))
		if f.header.Typeflag == tar.TypeDir {
			f.header.Name += "/"
		}
		if err = out.WriteHeader(&f.header); err == nil {
			_, err = out.Write(f.data)
		}
		if err != nil {
			return fmt.Errorf("%s: write output: %w", op, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("%s: write output: %w", op, err)
	}
	return nil
}

// Stat tells what is at a path of a container, following links.
func (e *Engine) Stat(ctx context.Context, id, name string) (fs.FileMode, error) {
	op := "look at " + name + " of container " + id
	known, _, err := e.filesOf(ctx, "Stat", op, id)
	if err != nil {
		return 0, err
	}
	name = path.Clean("/" + name)
	for range 40 { // as many links as Linux follows
		f, ok := known.get(name)
		switch {
		case !ok:
			return 0, fmt.Errorf("%s: %w", op, container.ErrNoFile)
		case f.header.Typeflag != tar.TypeSymlink:
			return f.header.FileInfo().Mode(), nil
		case path.IsAbs(f.header.Linkname):
			name = path.Clean(f.header.Linkname)
		default:
			name = path.Join(path.Dir(name), f.header.Linkname)
		}
	}
	return 0, fmt.Errorf("%s: %w: too many links", op, container.ErrNoFile)
}

// Unlock lets everybody write to folders below dir.
func (e *Engine) Unlock(ctx context.Context, dir string, folders []string, _ map[string]string) error {
	if err := e.enter(ctx, "Unlock", dir); err != nil {
		return err
	}
	for _, folder := range folders {
		if err := os.Chmod(folder, 0o777); err != nil { //nolint:gosec // as asked
			return err
		}
	}
	return nil
}
