package boltstore

import (
	"path/filepath"
	"testing"

	"orch/pkg/store"
	"orch/pkg/store/storetest"
)

// openAt opens a store that the test ends.
func openAt(t testing.TB, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func tempPath(t testing.TB) string { return filepath.Join(t.TempDir(), "store.db") }

func TestStore(t *testing.T) {
	for name, o := range map[string]Options{
		"with defaults":                        {},
		"with a window that nothing fits into": {windowBytes: 1, noSync: true},
		"with a window of a few entries":       {windowEntries: 3, noSync: true},
		"with a window of a few bytes":         {windowBytes: 1500, noSync: true},
	} {
		t.Run(name, func(t *testing.T) {
			open := func(t *testing.T) store.Store { return openAt(t, tempPath(t), o) }
			reopen := func(t *testing.T, s store.Store) store.Store {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				return openAt(t, s.(*Store).path, o)
			}
			storetest.RunDurable(t, open, reopen)
		})
	}
}
