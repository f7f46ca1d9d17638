package memstore_test

import (
	"testing"

	"go.uber.org/goleak"

	"orch/pkg/store"
	"orch/pkg/store/memstore"
	"orch/pkg/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memstore.New() })
}
