package volume

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountMemory makes dir a tmpfs, unless it is one.
func mountMemory(dir string, size int64, group *int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mounts, err := mountsBelow(dir)
	if err != nil || len(mounts) > 0 {
		return err
	}
	// Group and mode as own gives them, in the same moment.
	options := "mode=0777"
	if group != nil {
		options = fmt.Sprintf("mode=2777,gid=%d", *group)
	}
	if size > 0 {
		options += ",size=" + strconv.FormatInt(size, 10)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		_ = os.Remove(dir) // so that it can be made on the disk
		return fmt.Errorf("mount a tmpfs, for which the agent has to run as root: %w", err)
	}
	return nil
}

// bindBeneath binds what is at subPath of the directory base, links within it
// included, to target. Nothing outside of base can be bound.
func bindBeneath(base, subPath, target string) error {
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	part, err := unix.Openat2(root, subPath, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return err
	}
	defer unix.Close(part)
	var stat unix.Stat_t
	if err := unix.Fstat(part, &stat); err != nil {
		return err
	}
	// A directory can be bound only to a directory, all else only to a file.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o700)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(part), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind, for which the agent has to run as root: %w", err)
	}
	return nil
}

// unmountBelow unmounts what is mounted at dir and below it.
func unmountBelow(dir string) error {
	for {
		mounts, err := mountsBelow(dir)
		if err != nil || len(mounts) == 0 {
			return err
		}
		// The newest first: it may lie on an older one. Containers that still use
		// it do not hold us up.
		for _, m := range slices.Backward(mounts) {
			if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return &fs.PathError{Op: "unmount", Path: m, Err: err}
			}
		}
	}
}

// mountsBelow returns what is mounted at dir and below it, oldest first.
func mountsBelow(dir string) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir) // as the kernel writes it
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo") // see proc_pid_mountinfo(5)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		at := unescape.Replace(fields[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			found = append(found, at)
		}
	}
	return found, lines.Err()
}

// unescape reads the four characters that the kernel writes in octal.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
