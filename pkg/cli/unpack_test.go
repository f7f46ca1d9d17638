package cli

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// archived writes entries as a tar archive.
func archived(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text = "text of " + h.Name
			h.Size = int64(len(text))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tree lists what is below a folder, as "name mode content".
func tree(t testing.TB, folder string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == folder {
			return err
		}
		name, _ := filepath.Rel(folder, at)
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s", name, info.Mode())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(at)
			line += " " + target
		case info.Mode().IsRegular():
			text, _ := os.ReadFile(at)
			line += " " + string(text)
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestUnpack(t *testing.T) {
	dir := tar.Header{Typeflag: tar.TypeDir, Name: "d/"}
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	link := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
	}
	tests := []struct {
		name    string
		entries []tar.Header
		want    []string // of the destination
		says    string
		err     string
	}{
		{
			name: "a folder with modes, and links that stay inside",
			entries: []tar.Header{
				dir,
				{Typeflag: tar.TypeDir, Name: "d/sub/", Mode: 0o555},
				{Typeflag: tar.TypeReg, Name: "d/sub/f", Mode: 0o4751},
				link("d/l", "sub/f"), link("d/sub/up", "../l"),
				{Typeflag: tar.TypeLink, Name: "d/hard", Linkname: "d/sub/f"},
			},
			want: []string{"hard -rwxr-x--x text of d/sub/f", "l Lrwxrwxrwx sub/f", "sub dr-xr-xr-x", "sub/f -rwxr-x--x text of d/sub/f", "sub/up Lrwxrwxrwx ../l"},
		},
		{name: "a name that climbs out", entries: []tar.Header{dir, reg("d/../../evil")}, err: "tar contents corrupted"},
		{name: "an absolute name", entries: []tar.Header{dir, reg("/etc/evil")}, err: "tar contents corrupted"},
		{name: "a name beside the root", entries: []tar.Header{dir, reg("dd/evil")}, err: "tar contents corrupted"},
		{name: "a hard link to the outside", entries: []tar.Header{dir, {Typeflag: tar.TypeLink, Name: "d/x", Linkname: "../secret"}}, err: "tar contents corrupted"},
		{name: "a link to the outside", entries: []tar.Header{dir, link("d/x", "../secret")}, says: "skipping symlink"},
		{name: "an absolute link", entries: []tar.Header{dir, link("d/x", "/etc/passwd")}, says: "skipping symlink"},
		{name: "a link to nothing", entries: []tar.Header{dir, link("d/x", "nothing")}, says: "skipping symlink"},
		{
			name:    "a file through a link of the archive",
			entries: []tar.Header{dir, link("d/x", ".."), reg("d/x/evil")},
			want:    []string{"x drwxr-xr-x", "x/evil -rwxr-xr-x text of d/x/evil"}, says: "skipping symlink",
		},
		{
			name:    "links that lead out together",
			entries: []tar.Header{dir, link("d/a", "."), link("d/b", "a/.."), link("d/c", "a/../secret"), link("d/e", "e")},
			want:    []string{"a Lrwxrwxrwx ."}, says: "skipping symlink",
		},
		{name: "what is neither", entries: []tar.Header{dir, {Typeflag: tar.TypeFifo, Name: "d/pipe"}}, says: "neither a file, a folder nor a link"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			parent := t.TempDir()
			if err := os.WriteFile(filepath.Join(parent, "secret"), []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			var says strings.Builder
			u := unpacking{destination: filepath.Join(parent, "to"), warnings: &says}
			err := u.run(bytes.NewReader(archived(t, test.entries...)))
			if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error %v, want %q", err, test.err)
			}
			if err == nil {
				if diff := cmp.Diff(test.want, tree(t, u.destination)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
			if (says.String() != "") != (test.says != "") || !strings.Contains(says.String(), test.says) {
				t.Errorf("it says %q, want %q", says.String(), test.says)
			}
			_ = os.Chmod(filepath.Join(u.destination, "sub"), 0o700) //nolint:gosec // to be removed
			if got := tree(t, parent); got[0] != "secret -rw------- secret" || slices.ContainsFunc(got[1:], func(s string) bool { return !strings.HasPrefix(s, "to") }) {
				t.Errorf("beside the destination: %v", got)
			}
		})
	}
}

func TestUnpackAFile(t *testing.T) {
	parent := t.TempDir()
	file := archived(t, tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o640})
	u := unpacking{destination: filepath.Join(parent, "new", "g"), warnings: io.Discard}
	if err := u.run(bytes.NewReader(file)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"new drwxr-xr-x", "new/g -rw-r----- text of f"}, tree(t, parent)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	u.destination = parent
	if err := u.run(bytes.NewReader(file)); err == nil || !strings.Contains(err.Error(), "is a directory: name the file too, such as "+filepath.Join(parent, "f")) {
		t.Errorf("into a folder: %v", err)
	}
	for _, cut := range []int{0, 100, 515} {
		if err := (&unpacking{destination: filepath.Join(parent, "cut")}).run(bytes.NewReader(file[:cut])); err == nil || !strings.Contains(err.Error(), "before it was complete") {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

// FuzzUnpack lets an archive try to get out of its destination, or to leave a
// link that leads out.
func FuzzUnpack(f *testing.F) {
	for _, name := range []string{"d/x", "d/../x", "/x", "d/a/b", "./d/x"} {
		f.Add(name, "d/y", "..", byte(tar.TypeSymlink), byte(tar.TypeReg))
		f.Add(name, name+"/y", "a/..", byte(tar.TypeSymlink), byte(tar.TypeSymlink))
		f.Add(name, name+"/y", "/", byte(tar.TypeLink), byte(tar.TypeDir))
	}
	f.Fuzz(func(t *testing.T, first, second, target string, one, other byte) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755})
		for i, name := range []string{first, second} {
			h := &tar.Header{Typeflag: []byte{one, other}[i], Name: name, Linkname: target, Mode: 0o755}
			if w.WriteHeader(h) != nil { // an archive that Go does not write
				return
			}
		}
		_ = w.Close()
		parent := t.TempDir()
		_ = (&unpacking{destination: filepath.Join(parent, "to"), warnings: io.Discard}).run(&b)
		for _, line := range tree(t, parent) {
			if !strings.HasPrefix(line, "to ") && !strings.HasPrefix(line, "to/") {
				t.Fatalf("%q got out: %s", []string{first, second}, line)
			}
		}
		root, err := os.OpenRoot(filepath.Join(parent, "to"))
		if err != nil {
			return
		}
		defer root.Close()
		_ = filepath.WalkDir(filepath.Join(parent, "to"), func(at string, d fs.DirEntry, err error) error {
			if err == nil && d.Type()&fs.ModeSymlink != 0 {
				name, _ := filepath.Rel(filepath.Join(parent, "to"), at)
				if _, err := root.Stat(name); err != nil {
					t.Fatalf("%s leads out: %v", name, err)
				}
			}
			return nil
		})
	})
}
