package container

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheFirstThreadKeepsItsNetwork(t *testing.T) {
	for range 200 {
		if err := OnThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("what f leaves behind would be left on the first thread")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheMachinesOwnNetworkIsNoContainers(t *testing.T) {
	if _, err := Network("", os.Getpid()); err == nil || !strings.Contains(err.Error(), "the machine's own network") {
		t.Errorf("own network: %v", err)
	}
	if _, err := Network("nobody", os.Getpid()); !errors.Is(err, ErrNotFound) {
		t.Errorf("another container's process: %v, want %v", err, ErrNotFound)
	}
	if _, err := Network("", -1); !errors.Is(err, ErrNotFound) {
		t.Errorf("a process that is gone: %v, want %v", err, ErrNotFound)
	}
}
