// Package expect holds what tests of many packages ask in the same way: that bytes on disk and on the wire stay as they
// are, and that something comes to be.
package expect

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Updating says that golden files are written anew: go test PACKAGE -update.
func Updating() bool { return *update }

// Golden fails t when got is not what the golden file testdata/name holds. A difference is a new format, which needs a
// new number and a new file.
func Golden(t testing.TB, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	t.Errorf("%s has %d bytes, now %d; from byte %d, in line %d, on it says\n%q\nand now\n%q", file, len(want), len(got), at,
		1+bytes.Count(got[:at], []byte("\n")), shown(want[at:]), shown(got[at:]))
}

// shown is as much of b as a person looks at.
func shown(b []byte) []byte { return b[:min(len(b), 160)] }

// patience is how long Soon waits: what a busy machine may take for what another one does at once.
const patience = time.Minute

// Soon waits until ok holds, and fails t when it does not within a minute. It is for what happens in the background.
func Soon(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
