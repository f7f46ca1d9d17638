package fake

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"orch/pkg/container"
)

// mountable checks the sources of mounts, and makes those that are to be made,
// as a real engine does.
func mountable(mounts []container.Mount) error {
	for _, m := range mounts {
		if m.MakeSource {
			if err := os.MkdirAll(m.Source, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		if _, err := os.Stat(m.Source); err != nil {
			return fmt.Errorf("invalid mount config: bind source path does not exist: %s", m.Source) //nolint:err113 // the engine's sentence
		}
	}
	return nil
}

// Path returns where the container's path is on this machine. A simulated
// container has no files but those that are mounted.
func (p *Process) Path(path string, write bool) (string, error) {
	var found *container.Mount
	for i, m := range p.Config.Mounts {
		if (path == m.Target || strings.HasPrefix(path, strings.TrimSuffix(m.Target, "/")+"/")) && (found == nil || len(found.Target) < len(m.Target)) {
			found = &p.Config.Mounts[i]
		}
	}
	switch {
	case found == nil:
		return "", &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	case write && found.ReadOnly:
		return "", &fs.PathError{Op: "open", Path: path, Err: syscall.EROFS}
	}
	return filepath.Join(found.Source, strings.TrimPrefix(path, found.Target)), nil
}
