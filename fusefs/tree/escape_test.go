package tree

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNamesAreReversible(t *testing.T) {
	segment := rapid.OneOf(
		rapid.SampledFrom([]string{"", ".", "..", "...", "a", "%", "%hf", "%hf:", "%hf:a", "%hf-file:x", "%hf#", "a\x00b", "\xff", strings.Repeat("n", 255),
			strings.Repeat("n", 256), strings.Repeat("%", 255), strings.Repeat("\x00", 1000), strings.Repeat(".", 256)}),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), func(b []byte) string { return strings.ReplaceAll(string(b), "/", "_") }),
	)
	rapid.Check(t, func(t *rapid.T) {
		s, shadowed := segment.Draw(t, "segment"), rapid.Bool().Draw(t, "shadowed")
		name := escapeName(s, shadowed)
		if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
			t.Fatalf("%q has the name %q, which is no file name", s, name)
		}
		got, err := unescapeName(name)
		if err != nil {
			t.Fatalf("%q of %q: %v", name, s, err)
		}
		if got.file != shadowed {
			t.Fatalf("%q: file is %v", name, got.file)
		}
		if got.digest != "" {
			if !strings.HasPrefix(s, got.start) || !got.matches(s) || got.matches(s+"x") {
				t.Fatalf("%q does not stand for %q", name, s)
			}
		} else if got.name != s {
			t.Fatalf("%q reads back as %q, want %q", name, got.name, s)
		}
	})
}

func TestOneNameForOneKey(t *testing.T) {
	for _, name := range []string{"%hf", "%hfx", "%hf:abc", "%hf:%61", "%hf:%2f", "%hf:%2", "%hf#x", "%hf##a#b", "%hf-file:%61"} {
		if got, err := unescapeName(name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q stands for %+v, %v; want %v", name, got, err, ErrInvalid)
		}
	}
}

func TestPartsReachTheLargestFile(t *testing.T) {
	var total int64
	for n := 1; n <= maxParts; n++ {
		total += partSize(n, 1<<40)
	}
	if total < maxFile {
		t.Errorf("%d parts hold %d bytes, want %d", maxParts, total, int64(maxFile))
	}
	if got := partSize(1, 0); got != firstPart {
		t.Errorf("first part is %d", got)
	}
	if got := partSize(9999, 128<<20); got != 128<<20 {
		t.Errorf("a part of a small budget is %d", got)
	}
}
