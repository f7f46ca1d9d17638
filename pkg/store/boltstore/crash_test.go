package boltstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orch/pkg/store"
)

// The tests of this file run the test binary a second time, as a process of its
// own that does what this variable says with the file that is its argument.
const childEnv = "ORCH_BOLTSTORE_CHILD"

func TestMain(m *testing.M) {
	children := map[string]func(path string) error{
		"write": childWrite,
		"open":  childOpen,
		"fill":  childFill,
	}
	if child, ok := children[os.Getenv(childEnv)]; ok {
		if err := child(os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func childCommand(t *testing.T, do, path string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, path)
	cmd.Env = append(os.Environ(), childEnv+"="+do)
	return cmd
}

func childOpen(path string) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	return s.Close()
}

func TestSecondProcessIsRefusedAtOnce(t *testing.T) {
	path := tempPath(t)
	s := openAt(t, path, Options{})
	out, err := childCommand(t, "open", path).CombinedOutput()
	if want := "open store " + path + ": another process has it open\n"; err == nil || string(out) != want {
		t.Errorf("a second process says %q (%v), want %q", out, err, want)
	}
	mustCommit(t, s, store.Change{Key: "k"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := childCommand(t, "open", path).CombinedOutput(); err != nil {
		t.Errorf("the next process: %v: %s", err, out)
	}
}

// sealedValue is a value that shows whether it is whole: it says its key, is of
// any length, and ends in the checksum of both.
func sealedValue(key string, length int) []byte {
	b := append([]byte(key), bytes.Repeat([]byte{'.'}, length)...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func isSealed(key string, value []byte) bool {
	return len(value) >= sha256.Size && bytes.Equal(value, sealedValue(key, len(value)-sha256.Size-len(key)))
}

const (
	crashWriters = 8
	crashKeys    = 60
)

// childWrite writes with several goroutines, compacting meanwhile, and prints
// each answered change, until it is killed.
func childWrite(path string) error {
	s, err := Open(path, Options{KeepEntries: 1500, compactEvery: 5 * time.Millisecond})
	if err != nil {
		return err
	}
	errs := make(chan error)
	for range crashWriters {
		go func() {
			for {
				key := fmt.Sprintf("k/%d", rand.IntN(crashKeys))
				c := store.Change{Key: key, Value: sealedValue(key, rand.IntN(3000)), Expect: store.ExpectAny, Delete: rand.IntN(5) == 0}
				e, err := s.Commit(context.Background(), c)
				switch {
				case errors.Is(err, store.ErrNotFound): // nothing to delete
				case err != nil:
					errs <- err
					return
				default:
					// One write, so that a kill cannot tear the line.
					fmt.Fprintf(os.Stdout, "%d %s %d %t\n", e.Revision, e.Key, len(e.Value), e.Deleted)
				}
			}
		}()
	}
	return <-errs
}

// answer is what the writing process printed of an entry.
type answer struct {
	key     string
	length  int
	deleted bool
}

// A process that writes is killed again and again, on one and the same file.
// Whatever it was told is written is there, and nothing is there in part.
func TestKilledWriterLosesNothing(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 10
	}
	path := tempPath(t)
	known := map[int64]answer{} // every entry that was seen, answered or not
	head := int64(0)
	for round := range rounds {
		answered := writeUntilKilled(t, path)
		s, err := Open(path, Options{KeepEntries: -1, KeepFor: -1}) // checks that log and current agree
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		log, err := s.Log(t.Context(), s.Compacted(), 0)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		there := map[int64]answer{}
		for _, e := range log {
			if !isSealed(e.Key, e.Value) {
				t.Errorf("round %d: revision %d is not whole", round, e.Revision)
			}
			there[e.Revision] = answer{e.Key, len(e.Value), e.Deleted}
		}
		for _, before := range []map[int64]answer{known, answered} {
			for rev, want := range before {
				if got, ok := there[rev]; rev > s.Compacted() && (!ok || got != want) {
					t.Errorf("round %d: revision %d is %+v, was answered as %+v", round, rev, got, want)
				}
			}
		}
		// Beyond what was answered there can only be what was under way.
		if extra := s.Revision() - head - int64(len(answered)); extra < 0 || extra > crashWriters {
			t.Errorf("round %d: %d entries more than the %d that were answered", round, extra, len(answered))
		}
		checkFold(t, s, log)
		known, head = there, s.Revision()
		if err := s.Close(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d entries in %d rounds", head, rounds)
}

// writeUntilKilled runs childWrite, kills it at some moment after its first
// answer, and returns what it was answered.
func writeUntilKilled(t *testing.T, path string) map[int64]answer {
	t.Helper()
	cmd := childCommand(t, "write", path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answered := map[int64]answer{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var rev int64
		var a answer
		if _, err := fmt.Sscanf(lines.Text(), "%d %s %d %t", &rev, &a.key, &a.length, &a.deleted); err != nil {
			t.Fatalf("line %q: %v", lines.Text(), err)
		}
		if len(answered) == 0 {
			time.AfterFunc(rand.N(100*time.Millisecond), func() { _ = cmd.Process.Kill() })
		}
		answered[rev] = a
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the writer ended by itself: %v", err)
	}
	if len(answered) == 0 {
		t.Fatal("the writer wrote nothing")
	}
	return answered
}

// checkFold checks that the list at the newest revision is the list at the
// oldest with the log applied to it.
func checkFold(t *testing.T, s *Store, log []store.Entry) {
	t.Helper()
	live := map[string]int64{}
	if at := s.Compacted(); at > 0 {
		page, err := s.List(t.Context(), "", store.ListOptions{At: at})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			live[e.Key] = e.Revision
		}
	}
	for _, e := range log {
		if live[e.Key] = e.Revision; e.Deleted {
			delete(live, e.Key)
		}
	}
	page, err := s.List(t.Context(), "", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]int64{}
	for _, e := range page.Entries {
		now[e.Key] = e.Revision
	}
	if !reflect.DeepEqual(now, live) {
		t.Errorf("current is %v, the log says %v", now, live)
	}
}

// childFill writes until the disk takes no more, makes room, and goes on. It
// fails where anything but the write that found no room is the worse for it.
func childFill(path string) error {
	s, err := Open(path, Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx := context.Background()
	value := make([]byte, 64<<10)
	var full error
	n := 0
	for ; full == nil && n < 2000; n++ {
		_, full = s.Commit(ctx, store.Change{Key: fmt.Sprintf("k/%04d", n), Value: value})
	}
	n-- // the last one is not there
	check := func(s *Store, want int) error {
		page, err := s.List(ctx, "", store.ListOptions{})
		if err != nil || len(page.Entries) != want || s.Revision() != int64(want) {
			return fmt.Errorf("%d keys at revision %d, want %d: %w", len(page.Entries), s.Revision(), want, err)
		}
		return nil
	}
	if full == nil || errors.Is(full, ErrFailed) {
		return fmt.Errorf("a full disk: %w", full)
	}
	if err := check(s, n); err != nil {
		return fmt.Errorf("while the disk is full: %w", err)
	}
	if err := os.Remove(path + ".ballast"); err != nil {
		return err
	}
	if _, err := s.Commit(ctx, store.Change{Key: "k/more", Value: value}); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = Open(path, Options{}); err != nil {
		return err
	}
	defer s.Close()
	fmt.Fprintln(os.Stdout, full)
	return check(s, n+1)
}
