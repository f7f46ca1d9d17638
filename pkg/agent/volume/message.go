package volume

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// maxMessage is how much of a message is read: the kubelet's figure, in bytes.
const maxMessage = 4096

func (h *Host) message(uid, container string, attempt int) string {
	return filepath.Join(h.pod(uid), "messages", container, strconv.Itoa(attempt))
}

// MakeMessage makes the empty file into which one life of a container may write
// why it ends, whoever its user is, and returns where it is.
func (h *Host) MakeMessage(uid, container string, attempt int) (path string, err error) {
	path = h.message(uid, container, attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as kubelet's: a container finds only what is mounted
		return "", err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666) //nolint:gosec // the container's user writes
	if err != nil {
		return "", err
	}
	return path, errors.Join(f.Chmod(0o666), f.Close()) // whatever the umask is
}

// Message returns the beginning of what the container has written; "" where there
// is nothing. What a container puts in the file's place is not followed.
func (h *Host) Message(uid, container string, attempt int) string {
	f, err := os.Open(h.message(uid, container, attempt))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, maxMessage))
	return string(b)
}

// RemoveMessage forgets one life's file.
func (h *Host) RemoveMessage(uid, container string, attempt int) {
	_ = os.Remove(h.message(uid, container, attempt)) // else it goes with the pod
}
