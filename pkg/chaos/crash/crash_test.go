//go:build unix

package crash_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"orch/pkg/chaos/crash"
)

// The test's own program is the one that crashes: with a folder in this variable it
// is no test.
const folder = "ORCH_TEST_CRASH"

func TestMain(m *testing.M) {
	if dir := os.Getenv(folder); dir != "" {
		if err := live(dir); err != nil {
			fmt.Fprintln(os.Stdout, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// live is a daemon with a lock, which crashes in its first life.
func live(dir string) error {
	crash.Wait(context.Background())
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("locked by the life before: %w", err)
	}
	fmt.Fprintln(os.Stdout, "pid", os.Getpid(), "arguments", os.Args[1:], "down", os.Getenv("ORCH_DOWN_UNTIL") != "")
	defer fmt.Fprintln(os.Stdout, "cleaned up")
	if err := os.Mkdir(filepath.Join(dir, "crashed"), 0o700); err != nil {
		return nil // the second life
	}
	return crash.Now(50 * time.Millisecond)
}

func TestAProcessComesBackAsItselfWithoutItsLocks(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, "-a", "b")
	c.Env = append(os.Environ(), folder+"="+t.TempDir())
	begin := time.Now()
	out, err := c.CombinedOutput()
	line := fmt.Sprintf("pid %d arguments [-a b] down false\n", c.ProcessState.Pid())
	if err != nil || string(out) != line+line+"cleaned up\n" {
		t.Errorf("%v: %s", err, strings.TrimSpace(string(out)))
	}
	if down := time.Since(begin); down < 50*time.Millisecond {
		t.Errorf("down for %v", down)
	}
}

func TestNobodyWaitsWhoHasNotCrashed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	crash.Wait(ctx)
	t.Setenv("ORCH_DOWN_UNTIL", "9000000000000000000")
	crash.Wait(ctx) // who is told to stop while down stops
}
