package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"orch/pkg/store"
)

// written returns a store file as bytes, and the log that is in it.
func written(t *testing.T) ([]byte, []store.Entry) {
	t.Helper()
	s := openAt(t, tempPath(t), Options{noSync: true})
	for i := range 300 {
		mustCommit(t, s, store.Change{
			Key:    fmt.Sprintf("k/%d", i%40),
			Value:  bytes.Repeat([]byte{byte(i)}, i*5),
			Expect: store.ExpectAny,
		})
	}
	if err := s.Compact(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	log, err := s.Log(t.Context(), 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := s.Snapshot(&file); err != nil {
		t.Fatal(err)
	}
	return file.Bytes(), log
}

// edit returns file after f has changed it through bbolt.
func edit(t *testing.T, file []byte, f func(txn) error) []byte {
	t.Helper()
	path := tempPath(t)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Store{db: db}).update(f); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	file, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestOpenRefusesWhatIsBroken(t *testing.T) {
	file, _ := written(t)
	zeroed := func(from, to int) []byte {
		b := bytes.Clone(file)
		clear(b[from:to])
		return b
	}
	for _, tt := range []struct {
		name string
		file []byte
		want string
	}{
		{"an empty file", nil, "it is empty"},
		{"a text", []byte("apiVersion: v1\nkind: Pod\n"), "no valid header"},
		{"a longer text", bytes.Repeat([]byte("apiVersion: v1\nkind: Pod\n"), 10000), "no valid header"},
		{"a file cut to half", file[:len(file)/2], "it was cut short"},
		{"a file cut by a byte", file[:len(file)-1], "it was cut short"},
		{"a file cut to its header", file[:2*os.Getpagesize()], ""},
		{"a file cut within its header", file[:100], ""},
		{"a file without its header", zeroed(0, 2*os.Getpagesize()), "no valid header"},
		{"a file whose second half is zero", zeroed(len(file)/2, len(file)), ""},
		{"a file without all but its header", zeroed(2*os.Getpagesize(), len(file)), ""},
		{"a record that says something else", edit(t, file, func(t txn) error {
			b := bytes.Clone(t.log.Get(revisionKey(300)))
			b[len(b)-1]++
			return t.log.Put(revisionKey(300), b)
		}), "revision 300: malformed record: wrong checksum"},
		{"a log without one of its entries", edit(t, file, func(t txn) error {
			return t.log.Delete(revisionKey(200))
		}), "the log jumps from revision 199 to 201"},
		{"a log without its end", edit(t, file, func(t txn) error {
			return t.log.Delete(revisionKey(300))
		}), `current is revision 300, the log says 260`},
		{"a key that nothing was written to", edit(t, file, func(t txn) error {
			return t.current.Put([]byte("k/x"), pointer{rev: 300}.encode())
		}), `key "k/x": current is revision 300, the log says 0`},
		{"a key that was forgotten", edit(t, file, func(t txn) error {
			return t.current.Delete([]byte("k/7"))
		}), "39 keys are current, the log has 40"},
		{"a pointer that is none", edit(t, file, func(t txn) error {
			return t.current.Put([]byte("k/7"), []byte("seven"))
		}), `key "k/7"`},
		{"a compaction that never was", edit(t, file, func(t txn) error {
			b := bytes.Clone(t.meta.Get(compactedKey))
			b[0]++
			return t.meta.Put(compactedKey, b)
		}), "compacted revision"},
		{"a store without its log", edit(t, file, func(t txn) error {
			return t.DeleteBucket(logBucket)
		}), "a bucket is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := tempPath(t)
			if err := os.WriteFile(path, tt.file, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(path, Options{})
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error %v, want ErrCorrupt", err)
			}
			for _, part := range []string{path, tt.want, "a copy of an earlier time"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, tt.file) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

// Whatever few bytes are wrong, Open either refuses the file or shows the log
// as it was; and nothing panics.
func TestOpenFindsWrongBytes(t *testing.T) {
	file, log := written(t)
	random := rand.New(rand.NewPCG(1, 2))
	path := tempPath(t)
	refused := 0
	const rounds = 400
	for range rounds {
		b := bytes.Clone(file)
		var changed []int
		for range 1 + random.IntN(3) {
			at := random.IntN(len(b))
			if random.IntN(2) == 0 { // often where pages begin, which is where their structure is
				at = at/os.Getpagesize()*os.Getpagesize() + random.IntN(64)
			}
			b[at] ^= byte(1 + random.IntN(255))
			changed = append(changed, at)
		}
		// A new file each time: where bbolt panics while it opens one, the lock on
		// that stays until the process ends.
		if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, Options{noSync: true})
		if err != nil {
			if refused++; !errors.Is(err, ErrCorrupt) {
				t.Errorf("bytes %v: %v", changed, err)
			}
			continue
		}
		got, err := s.Log(t.Context(), 100, 0)
		if err != nil {
			t.Errorf("bytes %v: %v", changed, err)
		}
		// The newer of two headers may be the one that broke, and then the older
		// one speaks, which knows all but the last transaction: here the compaction.
		if !reflect.DeepEqual(log, got) {
			t.Errorf("bytes %v: the log is another one: %d entries, want %d", changed, len(got), len(log))
		}
		if _, err := s.Commit(t.Context(), store.Change{Key: "after"}); err != nil {
			t.Errorf("bytes %v: %v", changed, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("bytes %v: %v", changed, err)
		}
	}
	if refused < rounds/4 {
		t.Errorf("only %d of %d files were refused", refused, rounds)
	}
}

func TestOpenSaysWhyItCannot(t *testing.T) {
	file, _ := written(t)
	foreign := filepath.Join(t.TempDir(), "foreign.db")
	db, err := bbolt.Open(foreign, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("photographs"))
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	newer := tempPath(t)
	err = os.WriteFile(newer, edit(t, file, func(t txn) error { return t.meta.Put(formatKey, encodeFormat(9)) }), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	locked := tempPath(t)
	openAt(t, locked, Options{})
	for _, tt := range []struct{ name, path, want string }{
		{"a directory that is not there", filepath.Join(t.TempDir(), "none", "store.db"), "no such file or directory"},
		{"a directory in place of the file", t.TempDir(), "it is a directory"},
		{"a file in place of the directory", filepath.Join(newer, "store.db"), "not a directory"},
		{"somebody else's bbolt file", foreign, "a bucket is missing"},
		{"a file of a newer program", newer, "the file has format 9, this program reads format 1"},
		{"a file that is open", locked, "another process has it open"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Open(tt.path, Options{})
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.path) {
				t.Errorf("%q does not say %q", err, tt.want)
			}
		})
	}
}

func TestSnapshotRestores(t *testing.T) {
	file, log := written(t)
	path := tempPath(t)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openAt(t, path, Options{})
	got, err := s.Log(t.Context(), 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(log, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if e := mustCommit(t, s, store.Change{Key: "k/0", Expect: 281}); e.Revision != 301 {
		t.Errorf("it goes on at revision %d", e.Revision)
	}
}

func TestOnlyTheOwnerCanReadTheFile(t *testing.T) {
	path := tempPath(t)
	openAt(t, path, Options{})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
