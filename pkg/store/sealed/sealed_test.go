package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"orch/pkg/store"
	"orch/pkg/store/boltstore"
	"orch/pkg/store/memstore"
	"orch/pkg/store/sealed"
	"orch/pkg/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t *testing.T, path string) *sealed.Keys {
	t.Helper()
	k, err := sealed.LoadKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestStore(t *testing.T) {
	keys := load(t, filepath.Join(t.TempDir(), "keys"))
	storetest.Run(t, func(*testing.T) store.Store { return sealed.New(memstore.New(), keys, "") })
}

func put(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	if _, err := s.Commit(t.Context(), store.Change{Key: key, Value: []byte(value), Expect: store.ExpectAny, Cause: store.Cause{Actor: "test", Reason: "Put"}}); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s store.Store, key string) string {
	t.Helper()
	e, err := s.Get(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(e.Value)
}

func TestTheFileHoldsNothingInClear(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "store.db")
	below, err := boltstore.Open(file, boltstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := sealed.New(below, load(t, filepath.Join(dir, "keys")), "Secret/")
	put(t, s, "Secret/default/a", "a-well-kept-word")
	put(t, s, "ConfigMap/default/a", "an-open-word")
	if got := get(t, s, "Secret/default/a"); got != "a-well-kept-word" {
		t.Errorf("read %q", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("a-well-kept-word")) || !bytes.Contains(data, []byte("an-open-word")) {
		t.Error("the file holds a secret in clear, or nothing at all")
	}
}

func TestAKeyIsReplacedByASecondOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	below := memstore.New()
	defer below.Close()
	put(t, below, "Secret/default/plain", "written before there were keys")
	first := sealed.New(below, load(t, path), "Secret/")
	put(t, first, "Secret/default/a", "one")
	why := store.Cause{Actor: "test", Reason: "Reseal"}
	if n, err := first.Reseal(t.Context(), why); n != 1 || err != nil {
		t.Errorf("first key: %d, %v", n, err)
	}

	if err := sealed.Rotate(path); err != nil {
		t.Fatal(err)
	}
	both := sealed.New(below, load(t, path), "Secret/")
	if got := get(t, both, "Secret/default/a"); got != "one" {
		t.Errorf("read %q", got)
	}
	before := below.Revision()
	if n, err := both.Reseal(t.Context(), why); n != 2 || err != nil {
		t.Errorf("both keys: %d, %v", n, err)
	}
	if n, err := both.Reseal(t.Context(), why); n != 0 || err != nil {
		t.Errorf("a second time: %d, %v", n, err)
	}

	if err := sealed.Rotate(path); err != nil {
		t.Fatal(err)
	}
	keys := load(t, path)
	late := sealed.New(below, keys, "Secret/")
	if n, err := late.Reseal(t.Context(), why); n != 2 || err != nil {
		t.Errorf("the third key: %d, %v", n, err)
	}
	if err := keys.Forget(path); err != nil { // the first
		t.Fatal(err)
	}
	late = sealed.New(below, load(t, path), "Secret/")
	if got := get(t, late, "Secret/default/a"); got != "one" {
		t.Errorf("read %q", got)
	}
	if _, err := late.Get(t.Context(), "Secret/default/a", before); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("the past under a key that is gone: %v", err)
	}
	w := late.Watch("Secret", 1)
	defer w.Close()
	if _, err := w.Next(t.Context()); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a watch of the past: %v", err)
	}
	if entries, err := late.History(t.Context(), "Secret/default/a", 0); err != nil || len(entries) != 3 || entries[0].Value == nil || entries[1].Value == nil || entries[2].Value != nil {
		t.Errorf("history: %v, %v", entries, err)
	}

	other := sealed.New(below, load(t, filepath.Join(t.TempDir(), "keys")), "Secret/")
	if _, err := other.Get(t.Context(), "Secret/default/a", 0); !errors.Is(err, sealed.ErrKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := other.Reseal(t.Context(), why); !errors.Is(err, sealed.ErrKey) {
		t.Errorf("reseal with another key: %v", err)
	}
}

// failing is a store that dies after some writes.
type failing struct {
	store.Store
	left int
}

func (f *failing) Commit(ctx context.Context, c store.Change) (store.Entry, error) {
	if f.left--; f.left < 0 {
		return store.Entry{}, errors.New("killed")
	}
	return f.Store.Commit(ctx, c)
}

// Keys are replaced again and again, and at any moment the one who does it or the
// server is killed: whenever a server starts, it can read everything.
func TestNoSecretIsLostHoweverKeysAreReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	rapid.Check(t, func(t *rapid.T) {
		_ = os.Remove(path) // of the run before
		below := memstore.New()
		defer below.Close()
		why := store.Cause{Actor: "test", Reason: "Reseal"}
		names := []string{"Secret/default/a", "Secret/default/b", "Secret/default/c"}
		var running *sealed.Store // with the keys that it has read
		start := func(writes int) {
			keys, err := sealed.LoadKeys(path)
			if err != nil {
				t.Fatal(err)
			}
			s := sealed.New(&failing{below, writes}, keys, "Secret/")
			for i := range names {
				if _, err := s.Get(context.Background(), names[i], 0); running != nil && err != nil {
					t.Fatalf("%s cannot be read any more: %v", names[i], err)
				}
			}
			running = sealed.New(below, keys, "Secret/")
			if _, err := s.Reseal(context.Background(), why); err == nil {
				if err := keys.Forget(path); err != nil {
					t.Fatal(err)
				}
			}
		}
		write := func(name string) {
			e, _ := below.Get(context.Background(), name, 0)
			if _, err := running.Commit(context.Background(), store.Change{Key: name, Value: []byte(name), Expect: e.Revision, Cause: why}); err != nil {
				t.Fatal(err)
			}
		}
		start(9)
		for _, name := range names {
			write(name)
		}
		t.Repeat(map[string]func(*rapid.T){
			"rotate":                  func(*rapid.T) { _ = sealed.Rotate(path) },
			"rotate, killed half-way": func(*rapid.T) { _ = os.WriteFile(path+".new", []byte("half"), 0o600) },
			"restart":                 func(t *rapid.T) { start(rapid.IntRange(0, 4).Draw(t, "writes")) },
			"write":                   func(t *rapid.T) { write(rapid.SampledFrom(names).Draw(t, "name")) },
		})
	})
}

func TestAValueCannotTakeAnothersPlace(t *testing.T) {
	below := memstore.New()
	defer below.Close()
	s := sealed.New(below, load(t, filepath.Join(t.TempDir(), "keys")), "Secret/")
	put(t, s, "Secret/default/a", "one")
	put(t, below, "Secret/default/b", get(t, below, "Secret/default/a"))
	if _, err := s.Get(t.Context(), "Secret/default/b", 0); !errors.Is(err, sealed.ErrKey) {
		t.Errorf("a value under another name: %v", err)
	}
}

func TestBadKeyFilesAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		text, want string
		mode       os.FileMode
	}{
		"no key":                      {"\n", "is empty", 0o600},
		"a key that is too short":     {"c2hvcnQ=\n", "line 1: want 32 bytes", 0o600},
		"a key that is no base64":     {"!\n", "line 1: want 32 bytes", 0o600},
		"a file that others may read": {strings.Repeat("A", 43) + "=\n", "chmod 0600", 0o644},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys")
			if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := sealed.LoadKeys(path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v; want %q", err, tt.want)
			}
		})
	}
}
