package metadata

import (
	"errors"
	"strings"
	"testing"
)

func TestIDsKeepTheirOrderAndParseBack(t *testing.T) {
	ids := []VersionID{{0, 1}, {1, 0}, {1, 1}, {1, 1 << 31}, {255, 0}, {256, 9}, {1<<64 - 1, 1<<32 - 1}}
	for i, id := range ids {
		back, err := ParseVersionID(id.String())
		if err != nil || back != id {
			t.Errorf("ParseVersionID(%q) = %v, %v; want %v", id.String(), back, err, id)
		}
		if i > 0 && ids[i-1].String() >= id.String() {
			t.Errorf("%v is not before %v as a string", ids[i-1], id)
		}
	}
	up := UploadID{7, 1 << 60}
	if back, err := ParseUploadID(up.String()); err != nil || back != up {
		t.Errorf("ParseUploadID(%q) = %v, %v", up.String(), back, err)
	}
	if !(VersionID{}).IsZero() || !(UploadID{}).IsZero() || up.IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestBadIDsAreRefused(t *testing.T) {
	for _, s := range []string{"", "null", "0", strings.Repeat("0", 23), strings.Repeat("0", 25), strings.Repeat("F", 24), strings.Repeat("g", 24)} {
		if _, err := ParseVersionID(s); !errors.Is(err, ErrNoSuchVersion) {
			t.Errorf("ParseVersionID(%q): %v, want ErrNoSuchVersion", s, err)
		}
	}
	for _, s := range []string{"", strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("A", 32)} {
		if _, err := ParseUploadID(s); !errors.Is(err, ErrNoSuchUpload) {
			t.Errorf("ParseUploadID(%q): %v, want ErrNoSuchUpload", s, err)
		}
	}
}
