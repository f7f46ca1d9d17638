package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Source returns the path of this machine that the engine is to mount for the
// container's mount of that index.
//
// A part of a volume is the difficult case: containers write to the volume, and
// one that puts a link to / in the place of that part, in the moment between
// looking and mounting, would see the whole machine (CVE-2017-1002101). So the
// part is opened once, by a call that never leaves the volume, and what was
// opened is bound to a path of ours, of which nobody else can say what it is.
func (h *Host) Source(uid string, v Volume, subPath, container string, index int) (string, error) {
	base := h.path(uid, v)
	if subPath == "" {
		return base, nil
	}
	defer h.lock(uid)()
	if !v.ReadOnly() {
		if err := makeSubPath(base, subPath); err != nil {
			return "", fmt.Errorf("create subPath %q: %w", subPath, err)
		}
	}
	target := filepath.Join(h.pod(uid), "subpaths", container, strconv.Itoa(index))
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return "", err
	}
	// What an attempt before was given. Containers that run have mounts of their
	// own, and keep them.
	if err := unmountBelow(target); err != nil {
		return "", err
	}
	if err := bindBeneath(base, subPath, target); err != nil {
		return "", fmt.Errorf("subPath %q: %w", subPath, err)
	}
	return target, nil
}

// makeSubPath makes the directories of a subPath that is not there, with the
// mode of the volume. os.Root follows no link out of the volume.
func makeSubPath(base, subPath string) error {
	root, err := os.OpenRoot(base)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Stat(subPath); err == nil {
		return nil
	}
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	path := ""
	for element := range strings.SplitSeq(filepath.Clean(subPath), "/") {
		path = filepath.Join(path, element)
		switch err := root.Mkdir(path, 0o700); {
		case errors.Is(err, fs.ErrExist):
		case err != nil:
			return err
		default: // not by Mkdir, which the umask would lessen
			if err := root.Chmod(path, info.Mode()&(fs.ModePerm|fs.ModeSetgid)); err != nil {
				return err
			}
		}
	}
	return nil
}
