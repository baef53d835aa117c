// Package kvtest has a state database for tests of what lives in one.
package kvtest

import (
	"testing"

	"github.com/holdfast/holdfast/cluster/kv"
	"github.com/holdfast/holdfast/cluster/vfs"
)

// Open opens an empty database in memory, which is closed when the test ends.
func Open(t testing.TB) *kv.DB {
	t.Helper()
	db, err := kv.Open(kv.Config{FS: vfs.NewMemory(1), Dir: "/state"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}
