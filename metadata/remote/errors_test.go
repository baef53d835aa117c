package remote

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata"
)

// TestErrorsMeanTheSameThere sends every sentinel, alone and wrapped with another one, and wants what it matched and
// nothing else on the other side.
func TestErrorsMeanTheSameThere(t *testing.T) {
	for i, a := range sentinels {
		b := sentinels[(i+7)%len(sentinels)]
		for _, err := range []error{a.err, fmt.Errorf("put %q: %w: %w", "key\xff", a.err, b.err)} {
			got := travel(t, err)
			if got.Error() != err.Error() {
				t.Errorf("text %q became %q", err, got)
			}
			for _, s := range sentinels {
				if errors.Is(got, s.err) != errors.Is(err, s.err) {
					t.Errorf("%v: matches %v here: %v, there: %v", err, s.err, errors.Is(err, s.err), errors.Is(got, s.err))
				}
			}
		}
	}
	if travel(t, nil) != nil {
		t.Error("no error became one")
	}
	unknown := travel(t, errors.New("a sentence"))
	if !errors.Is(unknown, metadata.ErrUnavailable) || !errors.Is(unknown, ErrUnlisted) || unknown.Error() != "a sentence" {
		t.Errorf("an error that nobody knows became %v", unknown)
	}
	leader := cluster.PeerID{7, 8}
	hinted := travel(t, fmt.Errorf("put: %w", metadata.NotLeader{Peer: leader}))
	var hint metadata.LeaderHint
	if !errors.As(hinted, &hint) || hint.Leader() != leader || !errors.Is(hinted, raft.ErrNotLeader) {
		t.Errorf("hint became %v", hinted)
	}
	if long := travel(t, errors.New(strings.Repeat("x", 2*maxText))); len(long.Error()) != maxText {
		t.Errorf("text of %d bytes", len(long.Error()))
	}
}

// travel takes an error over the wire.
func travel(t *testing.T, err error) error {
	t.Helper()
	var f fault
	d := newDecoder(appendFault(nil, err))
	if err := faults.read(d, &f); err != nil {
		t.Fatal(err)
	}
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	return f.error()
}

// TestEverySentinelHasANumber reads the sources of package metadata.
func TestEverySentinelHasANumber(t *testing.T) {
	numbers := map[byte]bool{}
	texts := map[string]bool{}
	for _, s := range sentinels {
		if numbers[s.code] {
			t.Errorf("number %d is given twice", s.code)
		}
		numbers[s.code], texts[s.err.Error()] = true, true
	}
	paths, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			name, text := sentinelOf(n)
			if name == "" {
				return true
			}
			if found++; !texts[text] {
				t.Errorf("metadata.%s has no number", name)
			}
			return false
		})
	}
	if found < 20 {
		t.Fatalf("only %d sentinels were found", found)
	}
	for _, err := range []error{context.Canceled, context.DeadlineExceeded} {
		if !texts[err.Error()] {
			t.Errorf("%v has no number", err)
		}
	}
}

// sentinelOf is the name and the text of a sentinel that is declared, "" for everything else.
func sentinelOf(n ast.Node) (name, text string) {
	spec, ok := n.(*ast.ValueSpec)
	if !ok || !strings.HasPrefix(spec.Names[0].Name, "Err") || len(spec.Values) != 1 {
		return "", ""
	}
	call, ok := spec.Values[0].(*ast.CallExpr)
	if !ok || len(call.Args) != 1 {
		return "", ""
	}
	literal, ok := call.Args[0].(*ast.BasicLit)
	if !ok {
		return "", ""
	}
	return spec.Names[0].Name, strings.Trim(literal.Value, `"`)
}
