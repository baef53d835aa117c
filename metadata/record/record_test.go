package record

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/tests/expect"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

func anyKey(t *rapid.T, name string) string {
	return string(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, '/', 'a', 0xfe, 0xff}), 0, 8).Draw(t, name))
}

// TestRowsSortAsObjectKeysDo checks order, round trip and that no key's rows lie between those of another.
func TestRowsSortAsObjectKeysDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyKey(t, "a"), anyKey(t, "b")
		rowA, rowB := KeyRow(FamilyCurrent, 7, a), KeyRow(FamilyCurrent, 7, b)
		if got, want := bytes.Compare(rowA, rowB), strings.Compare(a, b); got != want {
			t.Fatalf("rows of %q and %q compare as %d, keys as %d", a, b, got, want)
		}
		bucket, key, rest, err := SplitKeyRow(append(rowA, 1, 2, 3))
		if err != nil || bucket != 7 || key != a || !bytes.Equal(rest, []byte{1, 2, 3}) {
			t.Fatalf("%q came back as %d %q %x %v", a, bucket, key, rest, err)
		}
		if a != b && bytes.HasPrefix(rowB, rowA) {
			t.Fatalf("the row of %q begins with the row of %q", b, a)
		}
	})
}

// TestPrefixRowsHoldExactlyTheKeysOfAPrefix checks the span that listings walk.
func TestPrefixRowsHoldExactlyTheKeysOfAPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key, prefix := anyKey(t, "key"), anyKey(t, "prefix")
		row, start := KeyRow(FamilyCurrent, 7, key), PrefixRows(FamilyCurrent, 7, prefix)
		end := After(start)
		inside := bytes.Compare(row, start) >= 0 && bytes.Compare(row, end) < 0
		if inside != strings.HasPrefix(key, prefix) {
			t.Fatalf("key %q, prefix %q: inside %v", key, prefix, inside)
		}
	})
}

func TestNewerVersionsAndOlderUploadsComeFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c1, c2 := rapid.Uint64().Draw(t, "c1"), rapid.Uint64().Draw(t, "c2")
		r1, r2 := rapid.Uint32().Draw(t, "r1"), rapid.Uint32().Draw(t, "r2")
		newer := c1 > c2 || (c1 == c2 && r1 > r2)
		v1, v2 := VersionRow(FamilyVersions, 1, "k", c1, r1), VersionRow(FamilyVersions, 1, "k", c2, r2)
		if (bytes.Compare(v1, v2) < 0) != newer {
			t.Fatalf("version %d.%d against %d.%d", c1, r1, c2, r2)
		}
		clock, random, err := ParseID(v1[len(v1)-idSize:])
		if err != nil || clock != c1 || random != r1 {
			t.Fatalf("id %d.%d came back as %d.%d %v", c1, r1, clock, random, err)
		}
		u1 := UploadRow(FamilyUploads, 1, "k", &UploadID{Clock: c1, Random: uint64(r1)})
		u2 := UploadRow(FamilyUploads, 1, "k", &UploadID{Clock: c2, Random: uint64(r2)})
		if (bytes.Compare(u1, u2) > 0) != newer {
			t.Fatalf("upload %d.%d against %d.%d", c1, r1, c2, r2)
		}
	})
}

func TestAfterIsTheFirstKeyBehindAPrefix(t *testing.T) {
	for _, c := range []struct{ prefix, want string }{
		{"a", "b"}, {"a\xff", "b"}, {"a\xff\xff", "b"}, {"ab", "ac"}, {"\xff", ""}, {"", ""},
	} {
		got := After([]byte(c.prefix))
		if string(got) != c.want || (c.want == "") != (got == nil) {
			t.Errorf("After(%q) = %q, want %q", c.prefix, got, c.want)
		}
	}
}

func TestFreedRowsSortByTime(t *testing.T) {
	var rows [][]byte
	for i, at := range []int64{5, 1 << 40, 1 << 62} {
		rows = append(rows, FreedRow(FamilyFreed, 1, "k", at, uint64(9-i), 0))
		if got, err := FreedNotBefore(rows[i]); err != nil || got != at {
			t.Fatalf("time %d came back as %d %v", at, got, err)
		}
	}
	if !sort.SliceIsSorted(rows, func(i, j int) bool { return bytes.Compare(rows[i], rows[j]) < 0 }) {
		t.Fatal("freed rows do not sort by time")
	}
}

// samples has one row of every kind, with a value where the kind has one.
func samples() []struct {
	name  string
	key   []byte
	value proto.Message
} {
	id := &ID{Clock: 0x0102, Random: 0x0304}
	up := &UploadID{Clock: 0x0506, Random: 0x0708}
	when := &Time{Seconds: 1_700_000_000, Nanos: 9}
	version := &Version{
		Id: id, Null: true, Size: 5, Etag: []byte("5d41402abc4b2a76b9719d911017c592"), Modified: when,
		Headers: []*Pair{{Name: []byte("content-type"), Value: []byte("text/plain")}},
		Attr:    &Attr{Mode: 0o100644, Uid: 1, Gid: 2, Mtime: when, Inode: 3},
		Body:    &Body{Inline: []byte("hello")}, Lineage: id,
	}
	type sample = struct {
		name  string
		key   []byte
		value proto.Message
	}
	return []sample{
		{"current", KeyRow(FamilyCurrent, 1, "a\x00b"), version},
		{"current, large", KeyRow(FamilyCurrent, 1, "large"), &Version{Id: id, Size: 4096, Modified: when, Overflow: true, BytesOnly: true}},
		{"version", VersionRow(FamilyVersions, 1, "a", 0x0102, 0x0304), &Version{Id: id, DeleteMarker: true, Modified: when}},
		{"body", VersionRow(FamilyBody, 1, "a", 0x0102, 0x0304), &Body{
			Parts: []*Run{{First: 1, Count: 3, Size: 8}}, PartsOf: up, PartsKey: []byte("a"),
		}},
		{"null", KeyRow(FamilyNull, 1, "a"), id},
		{"upload", UploadRow(FamilyUploads, 1, "a", up), &Upload{Started: when, Owner: []byte("o"), Template: &Version{}, Session: 4}},
		{"part", PartRow(1, "a", up, 258), &Part{Size: 8, Etag: []byte("e"), Modified: when, Manifest: []byte{1}, Rest: []byte{2}, Adopted: true}},
		{"result", UploadRow(FamilyResult, 1, "a", up), &Completed{Version: version, Expires: when}},
		{"freed", FreedRow(FamilyFreed, 1, "a", 10, 11, 12), &Freed{Manifest: []byte{1}, Lineage: id, Version: id}},
		{"row", Opaque([]byte("intent")), &Row{Value: []byte{1}, Revision: 2}},
		{"local bucket", Local(LocalBucket, 1), &Bucket{Versioning: 1}},
		{"local clock", Local(LocalClock), nil},
		{"local slot", Local(LocalSlot, 1, 2), &Result{Seq: 2, Id: id, Found: true}},
		{"local fence", Local(LocalFence, 1), nil},
		{"local hold", Local(LocalHold, 1, 2, 3, 4, 0, 5), nil},
		{"local usage", Local(LocalUsage, 1), &Usage{Bucket: 1, Objects: 2, Bytes: 3}},
		{"local owned", append(Local(LocalOwned, 1), 'u'), nil},
		{"local stage", Local(LocalStage, 1, 2), &Stage{Bucket: 1, Key: []byte("a"), Version: version, Base: id, Own: []byte{1}}},
		{"local rename", AppendEscaped(Local(LocalRename, 1), "from/"), &Rename{Bucket: 1, From: []byte("from/"), To: []byte("to/"), Started: when}},
		{"local expires", Local(LocalExpires, 10), nil},
		{"command", nil, &Command{
			Format: Format, Epoch: 1, Term: 2, Session: 3, Seq: 4, Clock: 5, Result: []byte{8, 4}, Fence: 6, FenceBelow: 7,
			Effects: []*Effect{
				{Kind: Effect_PUT, Key: []byte{1}, Value: []byte{2}}, {Kind: Effect_DELETE, Key: []byte{1}},
				{Kind: Effect_MOVE_ROW, Key: []byte{1}, Value: []byte{2}},
				{Kind: Effect_MOVE_VERSION, Bucket: 1, From: []byte("a"), To: []byte("b"), Id: id, Null: true},
				{Kind: Effect_ADOPT, Key: []byte{1}, Value: []byte{2}}, {Kind: Effect_CLEAR, Key: []byte{1}, Value: []byte{2}},
			},
			Usage: []*Usage{{Bucket: 1, Objects: -1}},
		}},
		{"root bucket", nil, &BucketRow{Id: 1, Created: when, Owner: []byte("o"), Versioning: 2}},
		{"root session", nil, &SessionRow{Kind: 1, LeaseNanos: 5}},
	}
}

// TestGolden compares keys and values with those that format 1 was born with.
func TestGolden(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, "format %d\n", Format)
	for _, s := range samples() {
		value := []byte(nil)
		if s.value != nil {
			var err error
			if value, err = (proto.MarshalOptions{Deterministic: true}).Marshal(s.value); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Fprintf(&b, "%-14s key %s value %s\n", s.name, hex.EncodeToString(s.key), hex.EncodeToString(value))
	}
	expect.Golden(t, "format1.golden", []byte(b.String()))
}

// TestFormatDocumentNamesEveryFamily keeps FORMAT.md and the constants together.
func TestFormatDocumentNamesEveryFamily(t *testing.T) {
	text, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), fmt.Sprintf("format %d", Format)) {
		t.Errorf("FORMAT.md does not say format %d", Format)
	}
	for _, s := range samples() {
		if len(s.key) == 0 {
			continue
		}
		row := fmt.Sprintf("| `%c` |", s.key[0])
		if s.key[0] == FamilyLocal {
			row = fmt.Sprintf("| `r` `%c` |", s.key[1])
		}
		if !strings.Contains(string(text), row) {
			t.Errorf("FORMAT.md has no row %q for %s", row, s.name)
		}
	}
}

// FuzzKeys decodes any bytes as row keys: an error or something that encodes back to the same bytes.
func FuzzKeys(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.key)
	}
	f.Fuzz(func(t *testing.T, row []byte) {
		bucket, key, rest, err := SplitKeyRow(row)
		if err == nil {
			if again := append(KeyRow(row[0], bucket, key), rest...); !bytes.Equal(again, row) {
				t.Fatalf("%x came back as %x", row, again)
			}
			if id, left, err := ParseUploadID(rest); err == nil && len(left) == 0 {
				if again := UploadRow(row[0], bucket, key, id); !bytes.Equal(again, row) {
					t.Fatalf("%x came back as %x", row, again)
				}
			}
			if clock, random, err := ParseID(rest); err == nil {
				if again := VersionRow(row[0], bucket, key, clock, random); !bytes.Equal(again, row) {
					t.Fatalf("%x came back as %x", row, again)
				}
			}
		}
		if _, err := FreedNotBefore(row); err == nil && len(row) < freedSuffix {
			t.Fatalf("%x has a time", row)
		}
		if numbers, rest, err := LocalNumbers(row, 2); err == nil {
			if again := append(Local(row[1], numbers...), rest...); !bytes.Equal(again[1:], row[1:]) {
				t.Fatalf("%x came back as %x", row, again)
			}
		}
	})
}

// FuzzCommand decodes any bytes as a command: an error or a command that encodes.
func FuzzCommand(f *testing.F) {
	for _, s := range samples() {
		if c, ok := s.value.(*Command); ok {
			b, err := proto.Marshal(c)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Command
		if proto.Unmarshal(b, &c) != nil {
			return
		}
		if _, err := proto.Marshal(&c); err != nil {
			t.Fatal(err)
		}
	})
}
