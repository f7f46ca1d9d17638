//go:build !linux

package volume

import (
	"errors"
	"fmt"
)

// Without Linux' mounts there are no volumes in memory and no parts of volumes.

func mountMemory(string, int64, *int64) error {
	return fmt.Errorf("a tmpfs: %w", errors.ErrUnsupported)
}

func bindBeneath(string, string, string) error { return errors.ErrUnsupported }

func unmountBelow(string) error { return nil }
