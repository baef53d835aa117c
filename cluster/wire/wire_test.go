package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// formats are those of the protocols there are.
var formats = []Format{{Magic: "HR", Number: 1}, {Magic: "HN", Number: 1}, {Magic: "HVDR", Number: 1, Zeros: 2}}

func frameOf(f Format, kind byte, payload []byte) []byte {
	return f.End(append(f.Begin(nil), payload...), kind)
}

func TestFramesComeBackAsTheyWent(t *testing.T) {
	for _, f := range formats {
		var stream []byte
		sizes := []int{0, 1, f.head(), piece - 1, piece, piece + 1, 1 << 20, 3}
		for i, size := range sizes {
			stream = append(stream, frameOf(f, byte(i), bytes.Repeat([]byte{byte(i + 1)}, size))...)
		}
		r, buf := iotest.HalfReader(bytes.NewReader(stream)), []byte(nil)
		for i, size := range sizes {
			kind, payload, err := f.Read(r, buf, 1<<20)
			if err != nil || kind != byte(i) || !bytes.Equal(payload, bytes.Repeat([]byte{byte(i + 1)}, size)) {
				t.Fatalf("%s: frame %d of %d bytes came as kind %d of %d: %v", f.Magic, i, size, kind, len(payload), err)
			}
			buf = payload
		}
		if _, _, err := f.Read(r, buf, 1<<20); err != io.EOF {
			t.Errorf("%s: at the end: %v", f.Magic, err)
		}
	}
}

// TestEveryBitCounts flips each bit of a frame, and cuts it at each byte.
func TestEveryBitCounts(t *testing.T) {
	for _, f := range formats {
		whole := frameOf(f, 7, []byte("payload"))
		for at := range whole {
			for bit := range 8 {
				hurt := bytes.Clone(whole)
				hurt[at] ^= 1 << bit
				_, _, err := f.Read(bytes.NewReader(hurt), nil, len(whole))
				if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrDamaged) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%s: bit %d of byte %d: %v", f.Magic, bit, at, err)
				}
			}
			want := io.ErrUnexpectedEOF
			if at == 0 {
				want = io.EOF
			}
			if _, _, err := f.Read(bytes.NewReader(whole[:at]), nil, len(whole)); !errors.Is(err, want) {
				t.Errorf("%s: cut at %d: %v", f.Magic, at, err)
			}
		}
	}
}

func TestALengthAloneCostsNoMemory(t *testing.T) {
	f := formats[0]
	frame := frameOf(f, 1, make([]byte, 1<<20))
	if _, _, err := f.Read(bytes.NewReader(frame), nil, 1<<20-1); !errors.Is(err, ErrMalformed) {
		t.Errorf("one byte over the limit: %v", err)
	}
	_, payload, err := f.Read(bytes.NewReader(frame[:1000]), nil, 1<<20)
	if !errors.Is(err, io.ErrUnexpectedEOF) || cap(payload) > 2*piece {
		t.Errorf("1,000 bytes of a MiB took %d: %v", cap(payload), err)
	}
}

// TestErrorsOfTheReaderStayWhatTheyAre: callers tell a context that ended from a frame that was cut.
func TestErrorsOfTheReaderStayWhatTheyAre(t *testing.T) {
	mine := errors.New("mine")
	frame := frameOf(formats[0], 1, []byte("payload"))
	for _, n := range []int{0, 5, 15} {
		r := io.MultiReader(bytes.NewReader(frame[:n]), iotest.ErrReader(mine))
		if _, _, err := formats[0].Read(r, nil, 100); !errors.Is(err, mine) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	for i, format := range formats {
		f.Add(uint8(i), frameOf(format, 1, []byte("payload")))
		f.Add(uint8(i), format.Begin(nil))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		format := formats[int(which)%len(formats)]
		kind, payload, err := format.Read(bytes.NewReader(b), nil, 1<<20)
		if err != nil {
			return
		}
		if again := frameOf(format, kind, payload); !bytes.HasPrefix(b, again) {
			t.Errorf("%x is read as kind %d, %x", b, kind, payload)
		}
	})
}

func TestAWatchFiresWhenNothingMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fired := make(chan struct{}, 1)
		w := NewWatch(time.Second, func() { fired <- struct{}{} })
		quiet := func(d time.Duration, when string) {
			t.Helper()
			select {
			case <-fired:
				t.Fatalf("it fired %s", when)
			case <-time.After(d):
			}
		}
		r := w.Reader(bytes.NewReader(make([]byte, 3)))
		for range 3 {
			quiet(900*time.Millisecond, "while bytes move")
			if _, err := r.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		w.Pause()
		quiet(time.Hour, "in a pause")
		w.Moved()
		if _, err := r.Read(make([]byte, 1)); err != io.EOF { // an end is no byte
			t.Fatal(err)
		}
		begin := time.Now()
		<-fired
		if took := time.Since(begin); took != time.Second {
			t.Errorf("it fired after %v", took)
		}
		w.Moved()
		w.End()
		w.Moved()
		quiet(time.Hour, "after its end")
	})
}
