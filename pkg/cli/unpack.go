package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// unpacking writes an archive that came from a container, whose program may have
// made it to do harm. Nothing is written outside destination: all goes through an
// os.Root, which follows no link out of it, and links are made after everything
// else, so that nothing is written through them. A link stays only where it leads
// to something inside.
type unpacking struct {
	destination string
	noPreserve  bool
	warnings    io.Writer

	prefix string // of all names of the archive
	root   *os.Root
	links  []*tar.Header
	modes  []*tar.Header // of folders; they may be read-only in the end
}

func (u *unpacking) run(archive io.Reader) error {
	in := tar.NewReader(archive)
	first, err := in.Next()
	if err != nil {
		return archiveError(err)
	}
	if err := os.MkdirAll(filepath.Dir(u.destination), 0o755); err != nil { //nolint:gosec // as kubectl
		return err
	}
	switch first.Typeflag {
	case tar.TypeDir:
		return u.folder(in, first)
	case tar.TypeReg:
		if info, err := os.Stat(u.destination); err == nil && info.IsDir() {
			return fmt.Errorf("%s is a directory: name the file too, such as %s", u.destination, filepath.Join(u.destination, path.Base(first.Name)))
		}
		// The user named it, so that a link of the user's own is followed.
		file, err := os.OpenFile(u.destination, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666) //nolint:gosec // as kubectl, less the umask
		if err != nil {
			return err
		}
		return u.fill(file, in, first)
	}
	u.skip(u.destination, first)
	return nil
}

// folder unpacks a folder as the destination.
func (u *unpacking) folder(in *tar.Reader, h *tar.Header) (err error) {
	if err := os.MkdirAll(u.destination, 0o755); err != nil { //nolint:gosec // as kubectl
		return err
	}
	if u.root, err = os.OpenRoot(u.destination); err != nil {
		return err
	}
	defer u.root.Close()
	if u.prefix = path.Clean("/" + h.Name)[1:]; u.prefix != "" {
		u.prefix += "/"
	}
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return archiveError(err)
		}
		name, ok := u.name(h.Name)
		if !ok {
			return fmt.Errorf("tar contents corrupted: %q is outside of %q", h.Name, u.prefix)
		}
		h.Name = name
		if err := u.entry(in, h); err != nil {
			return err
		}
	}
	u.link()
	for _, h := range slices.Backward(u.modes) {
		if err := u.root.Chmod(h.Name, permissions(h)); err != nil {
			return err
		}
	}
	return nil
}

// name is an entry's name in the destination, unless the archive lies.
func (u *unpacking) name(name string) (string, bool) {
	relative, ok := strings.CutPrefix(strings.TrimPrefix(strings.TrimPrefix(name, "./"), "/"), u.prefix)
	relative = filepath.FromSlash(strings.TrimSuffix(relative, "/"))
	return relative, ok && filepath.IsLocal(relative)
}

func (u *unpacking) entry(in *tar.Reader, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if !u.noPreserve {
			u.modes = append(u.modes, h)
		}
		return u.root.MkdirAll(h.Name, 0o755)
	case tar.TypeReg:
		if err := u.root.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
			return err
		}
		file, err := u.root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
		if err != nil {
			return err
		}
		return u.fill(file, in, h)
	case tar.TypeLink:
		target, ok := u.name(h.Linkname)
		if !ok {
			return fmt.Errorf("tar contents corrupted: %q is a link to %q", h.Name, h.Linkname)
		}
		if err := u.root.Remove(h.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return u.root.Link(target, h.Name)
	case tar.TypeSymlink:
		u.links = append(u.links, h)
		return nil
	}
	u.skip(filepath.Join(u.destination, h.Name), h)
	return nil
}

// fill writes a file and closes it.
func (u *unpacking) fill(file *os.File, in io.Reader, h *tar.Header) error {
	_, err := io.Copy(file, in)
	if err == nil && !u.noPreserve {
		err = file.Chmod(permissions(h))
	}
	return archiveError(errors.Join(err, file.Close()))
}

// link makes the links, and takes those away again that lead out.
func (u *unpacking) link() {
	var made []*tar.Header
	for _, h := range u.links {
		target := filepath.FromSlash(h.Linkname)
		if !filepath.IsLocal(filepath.Join(filepath.Dir(h.Name), target)) || filepath.IsAbs(target) {
			u.skip(filepath.Join(u.destination, h.Name), h)
			continue
		}
		_ = u.root.MkdirAll(filepath.Dir(h.Name), 0o755)
		if info, err := u.root.Lstat(h.Name); err == nil && !info.IsDir() {
			_ = u.root.Remove(h.Name)
		}
		if u.root.Symlink(target, h.Name) != nil {
			u.skip(filepath.Join(u.destination, h.Name), h)
			continue
		}
		made = append(made, h)
	}
	for _, h := range made {
		if _, err := u.root.Stat(h.Name); err != nil {
			_ = u.root.Remove(h.Name)
			u.skip(filepath.Join(u.destination, h.Name), h)
		}
	}
}

func (u *unpacking) skip(name string, h *tar.Header) {
	if h.Typeflag == tar.TypeSymlink {
		fmt.Fprintf(u.warnings, "warning: skipping symlink: %q -> %q\n", name, h.Linkname)
		return
	}
	fmt.Fprintf(u.warnings, "warning: skipping %q: neither a file, a folder nor a link\n", name)
}

// permissions leaves out the bits that lend a program its owner's rights.
func permissions(h *tar.Header) fs.FileMode { return h.FileInfo().Mode().Perm() }

func archiveError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the copy ended before it was complete: %w", err)
	}
	return err
}
