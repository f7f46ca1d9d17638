package boltstore

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A disk of 24 MiB, of which some are taken, fills up under a writing process.
func TestFullDiskLosesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small disk needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "store.db")
	if err := os.WriteFile(path+".ballast", make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := childCommand(t, "fill", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), syscall.ENOSPC.Error()) {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("the write that found no room was told: %s", out)
}

func TestReadOnlyDiskIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("a read-only disk needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "store.db")
	_, err := Open(path, Options{})
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), syscall.EROFS.Error()) {
		t.Errorf("error %v", err)
	}
}
