package expect

import (
	"fmt"
	"strings"
	"testing"
)

// listener is a test that may fail: it keeps what it was told.
type listener struct {
	testing.TB
	told []string
}

func (l *listener) Helper() {}

func (l *listener) Errorf(format string, args ...any) {
	l.told = append(l.told, fmt.Sprintf(format, args...))
}

func TestGoldenSaysWhereBytesDiffer(t *testing.T) {
	for got, want := range map[string]string{
		"first line\nsecond line\n":         "",
		"first line\nsecond lime\n":         "from byte 20, in line 2",
		"first line\n":                      "from byte 11, in line 2",
		"first line\nsecond line\nand more": "from byte 23, in line 3",
		"":                                  "from byte 0, in line 1",
	} {
		l := &listener{TB: t}
		Golden(l, "lines.golden", []byte(got))
		if said := strings.Join(l.told, ""); (said == "") != (want == "") || !strings.Contains(said, want) {
			t.Errorf("%q: it says %q, want %q", got, said, want)
		}
	}
}

func TestSoonAsksUntilItIsSo(t *testing.T) {
	asked := 0
	Soon(t, "the third question", func() bool { asked++; return asked == 3 })
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}
