// Package volume makes the volumes of this node's pods: directories below one
// folder, by the pod's uid, which the engine mounts into containers.
//
//	<data dir>/<cluster>/<node>/pods/<uid>/volumes/<volume>
//	<data dir>/<cluster>/<node>/pods/<uid>/subpaths/<container>/<index>
//
// Its one invariant: everything can be done again. The agent may be killed
// between any two system calls; [Host.Set] and [Host.Remove] then finish what
// was begun, and a container sees a volume's files of before or of after, never
// some of each.
//
// What a volume holds is decided by package lifecycle, which is pure; this
// package carries it out. Read next: write.go (files that change at once),
// subpath.go (a part of a volume, whatever its owner does to it meanwhile).
package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"orch/pkg/api"
)

// Volume is what a volume of a pod has to be.
type Volume struct {
	Name string
	// HostPath, if not empty, is the path of the node that the volume is, and
	// HostPathType what has to be there. All below is for other volumes.
	HostPath, HostPathType string
	// Memory: on a tmpfs, of at most Size bytes where that is not 0.
	Memory bool
	Size   int64
	// Group owns the files, if not nil.
	Group *int64
	// Files are what the volume holds, by clean relative path; nil where the containers own it.
	Files map[string]File
}

// File is a file of a volume.
type File struct {
	Data []byte
	Mode fs.FileMode
}

// ReadOnly says that containers may not write to it.
func (v Volume) ReadOnly() bool { return v.Files != nil }

// Fingerprint differs where anything of the volume does.
func (v Volume) Fingerprint() string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %t %d", v.Name, v.HostPath, v.HostPathType, v.Memory, v.Size)
	if v.Group != nil {
		fmt.Fprintf(h, " group %d", *v.Group)
	}
	for _, name := range slices.Sorted(maps.Keys(v.Files)) {
		fmt.Fprintf(h, "\n%q %o %x", name, v.Files[name].Mode, sha256.Sum256(v.Files[name].Data))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Host keeps volumes in a folder of the machine.
//
// Concurrency: all methods may be called from several goroutines; those for one
// pod wait for each other.
type Host struct {
	dir  string
	pods sync.Map // of *sync.Mutex, by uid
	// step, if not nil, is called between any two changes. Tests end there.
	step func()
}

// New returns a host that keeps everything below dir, which is absolute and need
// not exist.
func New(dir string) *Host { return &Host{dir: dir} }

func (h *Host) lock(uid string) (unlock func()) {
	m, _ := h.pods.LoadOrStore(uid, &sync.Mutex{})
	mu, _ := m.(*sync.Mutex)
	mu.Lock()
	return mu.Unlock
}

func (h *Host) stepped() {
	if h.step != nil {
		h.step()
	}
}

func (h *Host) pod(uid string) string { return filepath.Join(h.dir, "pods", uid) }

// path is where a volume is on this machine.
func (h *Host) path(uid string, v Volume) string {
	if v.HostPath != "" {
		return v.HostPath
	}
	return filepath.Join(h.pod(uid), "volumes", v.Name)
}

// Pods returns the uids of pods of which something is here.
func (h *Host) Pods() []string {
	entries, _ := os.ReadDir(filepath.Join(h.dir, "pods")) // none before the first volume
	uids := make([]string, len(entries))
	for i, e := range entries {
		uids[i] = e.Name()
	}
	return uids
}

// Has says that something of the pod is here.
func (h *Host) Has(uid string) bool {
	_, err := os.Lstat(h.pod(uid))
	return err == nil
}

// Known returns the names of the pod's volumes that hold files already.
func (h *Host) Known(uid string) []string {
	links, _ := filepath.Glob(filepath.Join(h.pod(uid), "volumes", "*", dataLink))
	names := make([]string, len(links))
	for i, link := range links {
		names[i] = filepath.Base(filepath.Dir(link))
	}
	return names
}

// Set makes the volume as v has it, whatever it was before.
func (h *Host) Set(uid string, v Volume) error {
	defer h.lock(uid)()
	if v.HostPath != "" {
		return checkHostPath(v.HostPath, v.HostPathType)
	}
	dir := h.path(uid, v)
	// What others may read is decided by the files' modes inside a container;
	// on this machine nobody but the agent has any business here.
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := h.directory(dir, v); err != nil {
		return err
	}
	if v.Files == nil {
		return nil
	}
	return h.write(dir, v.Files, v.Group)
}

// directory makes the volume's root, open to all users as the kubelet's, unless
// it is there.
func (h *Host) directory(dir string, v Volume) error {
	if v.Memory {
		err := mountMemory(dir, v.Size, v.Group)
		// Without the right to mount, a Secret is kept on the disk, below a
		// folder that is closed to others; an emptyDir that was to be memory is
		// not what was asked for.
		unable := errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported)
		if v.Files == nil || !unable {
			return err
		}
	}
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	// Under another name until it has its mode and group: afterwards these
	// belong to the containers.
	making := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir))
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	h.stepped()
	if err := os.Mkdir(making, 0o700); err != nil {
		return err
	}
	h.stepped()
	if err := own(making, 0o777, v.Group, v.ReadOnly()); err != nil {
		return err
	}
	h.stepped()
	return os.Rename(making, dir)
}

// own gives a file or directory its mode and group. As in Kubernetes, a group
// may do what a volume is for, and new files inherit it.
func own(path string, mode fs.FileMode, group *int64, readOnly bool) error {
	if group != nil {
		if err := os.Lchown(path, -1, int(*group)); err != nil {
			return fmt.Errorf("fsGroup, for which the agent has to run as root: %w", err)
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if mode |= 0o440; !readOnly {
			mode |= 0o660
		}
		if info.IsDir() {
			mode |= fs.ModeSetgid | 0o110
		}
	}
	return os.Chmod(path, mode) // after chown, which takes the setgid bit away
}

// Remove removes all that there is of the pod. unlock is as that of [RemoveTree].
func (h *Host) Remove(uid string, unlock func(dir string, folders []string) error) error {
	defer h.lock(uid)()
	if err := RemoveTree(h.pod(uid), unlock); err != nil {
		return err
	}
	h.pods.Delete(uid)
	return nil
}

// RemoveTree removes a directory with what is in it, but nothing of what is
// mounted in it: that is unmounted before.
//
// Containers leave folders of users of their own, from which only root may remove
// anything. Somebody else has unlock let him write to them: container.Runtime's.
func RemoveTree(dir string, unlock func(dir string, folders []string) error) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unmountBelow(dir); err != nil {
		return fmt.Errorf("unmount what is below %s: %w", dir, err)
	}
	var before []string
	for {
		err := os.RemoveAll(dir)
		if unlock == nil || !errors.Is(err, fs.ErrPermission) {
			return err
		}
		// What is below a folder that is closed shows up the next time.
		folders := closed(dir)
		if slices.Equal(folders, before) {
			return err
		}
		if err := unlock(dir, folders); err != nil {
			return err
		}
		before = folders
	}
}

// closed returns the directories below dir, as far as this process can see them,
// from which it may not remove everything.
func closed(dir string) (folders []string) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if e == nil || !e.IsDir() {
			return nil
		}
		const all = 0o7 // read, write, enter: access(2)
		info, _ := e.Info()
		// In a sticky one, only a file's owner may remove it.
		if syscall.Access(path, all) != nil || info != nil && info.Mode()&fs.ModeSticky != 0 {
			folders = append(folders, path)
		}
		if err != nil {
			return fs.SkipDir
		}
		return nil
	})
	return slices.Compact(folders) // one that cannot be read comes twice
}

// Used returns how many bytes the pod's volume takes: 0 for one that is a path of
// the node, or not there. What only root may look into is not counted.
func (h *Host) Used(uid, name string) (bytes int64, err error) {
	err = filepath.WalkDir(filepath.Join(h.pod(uid), "volumes", name), func(_ string, e fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = e.Info()
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // containers go on working in it, and may close a part of it
		}
		if err != nil {
			return err
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += s.Blocks * 512 // the unit of stat(2), whatever the file system's
		}
		return nil
	})
	return bytes, err
}

// checkHostPath does what the kubelet does for the types of a hostPath, and
// gives its messages.
func checkHostPath(path, typ string) error {
	info, err := os.Stat(path)
	missing := err != nil
	var mode fs.FileMode
	if !missing {
		mode = info.Mode()
	}
	is, what := true, ""
	switch typ {
	case api.HostPathDirectoryOrCreate:
		if missing {
			return os.MkdirAll(path, 0o755)
		}
		is, what = mode.IsDir(), "directory"
	case api.HostPathDirectory:
		is, what = !missing && mode.IsDir(), "directory"
	case api.HostPathFileOrCreate:
		if missing {
			f, err := os.OpenFile(path, os.O_CREATE, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		is, what = mode.IsRegular(), "file"
	case api.HostPathFile:
		is, what = !missing && mode.IsRegular(), "file"
	case api.HostPathSocket:
		is, what = mode&fs.ModeSocket != 0, "socket file"
	case api.HostPathCharDevice:
		is, what = mode&fs.ModeCharDevice != 0, "character device"
	case api.HostPathBlockDevice:
		is, what = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, "block device"
	}
	if !is {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, what) //nolint:err113 // Kubernetes' sentence
	}
	return nil
}
