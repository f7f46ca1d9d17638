package volume

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The files of a volume lie in a directory of their own, and what containers
// see are links into it, as in Kubernetes:
//
//	..2026_11_22_16_04_05.123/app.conf   the file
//	..data -> ..2026_11_22_16_04_05.123  which directory it is
//	app.conf -> ..data/app.conf          what the container opens
//
// A change makes a new directory and renames one link: that is a single moment.
const (
	dataLink = "..data"
	newLink  = "..data_tmp"
)

// write makes files what the volume in dir holds. Each step finds the work of
// an earlier call that ended before it, and the last one cleans up after all.
func (h *Host) write(dir string, files map[string]File, group *int64) error {
	now, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if now == "" || !holds(filepath.Join(dir, now), files) {
		if now, err = h.publish(dir, files, group); err != nil {
			return err
		}
	}
	wanted := map[string]bool{dataLink: true, now: true}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		wanted[top] = true
		h.stepped()
		if err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if wanted[e.Name()] {
			continue
		}
		h.stepped()
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// publish writes the files into a new directory and makes that the volume's.
func (h *Host) publish(dir string, files map[string]File, group *int64) (string, error) {
	fresh, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return "", err
	}
	h.stepped()
	if err := own(fresh, 0o755, group, true); err != nil {
		return "", err
	}
	for name, file := range files {
		h.stepped()
		if err := writeFile(fresh, name, file, group); err != nil {
			return "", err
		}
	}
	link := filepath.Join(dir, newLink)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	h.stepped()
	if err := os.Symlink(filepath.Base(fresh), link); err != nil {
		return "", err
	}
	h.stepped()
	return filepath.Base(fresh), os.Rename(link, filepath.Join(dir, dataLink))
}

func writeFile(root, name string, file File, group *int64) error {
	parent := root
	for _, element := range strings.Split(filepath.Dir(name), "/") {
		if element == "." {
			break
		}
		parent = filepath.Join(parent, element)
		switch err := os.Mkdir(parent, 0o700); {
		case errors.Is(err, fs.ErrExist):
		case err != nil:
			return err
		default:
			if err := own(parent, 0o755, group, true); err != nil {
				return err
			}
		}
	}
	path := filepath.Join(root, name)
	if err := os.WriteFile(path, file.Data, 0o600); err != nil {
		return err
	}
	return own(path, file.Mode, group, true)
}

var errDiffers = errors.New("another file")

// holds says that the directory has these files, and no others. Modes and group
// cannot change while a pod lives.
func holds(dir string, files map[string]File) bool {
	found := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if f, ok := files[name]; !ok || !bytes.Equal(data, f.Data) {
			return errDiffers
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}
