package containertest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"orch/pkg/container"
)

// archive is a tar archive of these entries; those whose names end with a slash
// are folders, those with an arrow links.
func (p *pod) archive(entries ...string) *bytes.Buffer {
	p.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o640, Size: 4}
		if link, target, ok := strings.Cut(name, " -> "); ok {
			h = &tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: target, Mode: 0o777}
		} else if strings.HasSuffix(name, "/") {
			h = &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o750}
		}
		p.ok(w.WriteHeader(h))
		if h.Size > 0 {
			_, err := io.WriteString(w, "text")
			p.ok(err)
		}
	}
	p.ok(w.Close())
	return &b
}

// copied lists what CopyFrom gives.
func (p *pod) copied(id, path string) (list []string, err error) {
	p.Helper()
	var b bytes.Buffer
	if err := p.CopyFrom(p.ctx, id, path, &b); err != nil {
		return nil, err
	}
	r := tar.NewReader(&b)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		p.ok(err)
		text, err := io.ReadAll(r)
		p.ok(err)
		list = append(list, fmt.Sprintf("%s %o %s%s", h.Name, h.Mode&0o777, h.Linkname, text))
	}
}

func testCopy(_ *testing.T, p *pod) {
	c := p.run("box")
	p.ok(p.CopyTo(p.ctx, c.ID, "/", p.archive("tmp/"))) // an image from scratch has none
	p.ok(p.CopyTo(p.ctx, c.ID, "/tmp", p.archive("d/", "d/f", "d/l -> f")))
	list, err := p.copied(c.ID, "/tmp/d")
	p.ok(err)
	p.equal("a folder", list, []string{"d/ 750 ", "d/f 640 text", "d/l 777 f"})
	list, err = p.copied(c.ID, "/tmp/d/f")
	p.ok(err)
	p.equal("a file", list, []string{"f 640 text"})

	for path, folder := range map[string]bool{"/": true, "/tmp/d": true, "/tmp/d/f": false, "/tmp/d/l": false} {
		mode, err := p.Stat(p.ctx, c.ID, path)
		if err != nil || mode.IsDir() != folder {
			p.Errorf("%s is %v, %v", path, mode, err)
		}
	}
	_, err = p.Stat(p.ctx, c.ID, "/tmp/nothing")
	p.is(err, container.ErrNoFile)
	_, err = p.copied(c.ID, "/tmp/nothing")
	p.is(err, container.ErrNoFile)
	p.is(p.CopyTo(p.ctx, c.ID, "/tmp/nothing", p.archive("f")), container.ErrNoFile)
	_, err = p.copied("0123456789abcdef", "/tmp")
	p.is(err, container.ErrNotFound)
	if err := p.CopyTo(p.ctx, c.ID, "/tmp", p.archive("d")); err == nil || !strings.Contains(err.Error(), "cannot overwrite directory") {
		p.Errorf("a file over a folder: %v", err)
	}
	if err := p.CopyTo(p.ctx, c.ID, "/tmp/d", p.archive("f/")); err == nil || !strings.Contains(err.Error(), "cannot overwrite non-directory") {
		p.Errorf("a folder over a file: %v", err)
	}

	p.ok(p.Kill(p.ctx, c.ID, "SIGKILL"))
	list, err = p.copied(c.ID, "/tmp/d/f")
	p.ok(err)
	p.equal("a file of a container that has ended", list, []string{"f 640 text"})

	for user, want := range map[string][2]int{"": {0, 0}, "7": {7, 0}, "7:8": {7, 8}} {
		config := p.config("user" + strings.ReplaceAll(user, ":", "-"))
		config.Security.User = user
		uid, gid, err := p.User(p.ctx, p.create(config))
		p.ok(err)
		p.equal("user "+user, [2]int{uid, gid}, want)
	}

	config := p.config("sealed")
	config.Security.ReadOnlyRootFS = true
	p.is(p.CopyTo(p.ctx, p.create(config), "/", p.archive("f")), container.ErrReadOnly)
}

func testUnlock(_ *testing.T, p *pod) {
	dir := p.TempDir()
	folders := []string{filepath.Join(dir, "a"), filepath.Join(dir, "a", "ünd b"), filepath.Join(dir, "c")}
	for _, folder := range append(folders, filepath.Join(dir, "other")) {
		p.ok(os.Mkdir(folder, 0o700))
	}
	p.ok(os.Chmod(folders[0], 0o700|fs.ModeSticky))
	labels := maps.Clone(p.subject.Labels)
	labels["orch.test/unlock"] = "yes"
	p.ok(p.Unlock(p.ctx, dir, folders, labels))
	for _, folder := range append(folders, filepath.Join(dir, "other")) {
		info, err := os.Stat(folder)
		p.ok(err)
		if open := info.Mode()&(fs.ModePerm|fs.ModeSticky) == 0o777; open == (filepath.Base(folder) == "other") {
			p.Errorf("%s: %v", folder, info.Mode())
		}
	}
	if left, err := p.List(p.ctx, labels); err != nil || len(left) > 0 {
		p.Errorf("still there: %v, %v", left, err)
	}
}
