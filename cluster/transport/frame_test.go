package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/holdfast/holdfast/tests/expect"
)

// encode is a stream of these messages.
func encode(messages ...[]byte) []byte {
	data := []byte(streamMagic)
	for _, message := range messages {
		head := frameHeader(message)
		data = append(append(data, head[:]...), message...)
	}
	return data
}

// decode reads a whole stream.
func decode(r io.Reader) (messages [][]byte, err error) {
	f := frameReader{r: r}
	if err := f.start(); err != nil {
		return nil, err
	}
	for {
		message, err := f.next()
		if err != nil {
			return messages, err
		}
		messages = append(messages, bytes.Clone(message))
	}
}

func TestAStreamStaysAsItIs(t *testing.T) {
	expect.Golden(t, "stream.golden", []byte(hex.Dump(encode([]byte("first"), nil, []byte{0, 255}))))
}

func TestFramesComeBackAsTheyWent(t *testing.T) {
	lengths := []int{0, 1, 7, 8, 64<<10 - 1, 64 << 10, 64<<10 + 1, keptBuffer, keptBuffer + 1, 5 << 20, 3, MaxFrame, 1}
	var want [][]byte
	for i, length := range lengths {
		want = append(want, bytes.Repeat([]byte{byte(i + 1)}, length))
	}
	got, err := decode(iotest.HalfReader(bytes.NewReader(encode(want...))))
	if err != io.EOF || len(got) != len(want) {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("message %d of %d bytes came as one of %d", i, len(want[i]), len(got[i]))
		}
	}
}

// TestEveryFlippedBitIsFound and that a cut at every place gives the messages before it and nothing else.
func TestEveryFlippedBitIsFound(t *testing.T) {
	messages := [][]byte{[]byte("one"), []byte("two and more")}
	good := encode(messages...)
	for i := range 8 * len(good) {
		data := bytes.Clone(good)
		data[i/8] ^= 1 << (i % 8)
		got, err := decode(bytes.NewReader(data))
		if err == io.EOF || len(got) == len(messages) {
			t.Errorf("bit %d: %q, %v", i, got, err)
		}
		for j := range got {
			if !bytes.Equal(got[j], messages[j]) {
				t.Errorf("bit %d: message %d is %q", i, j, got[j])
			}
		}
	}
	ends := map[int]int{len(streamMagic): 0, len(streamMagic) + frameHead + 3: 1, len(good): 2}
	for length := range len(good) + 1 {
		got, err := decode(bytes.NewReader(good[:length]))
		count, whole := ends[length]
		if whole != (err == io.EOF) && length != 0 || whole && len(got) != count {
			t.Errorf("cut at %d: %q, %v", length, got, err)
		}
	}
}

func TestALengthAloneCostsNoMemory(t *testing.T) {
	head := []byte{0, 0, 0, 1, 0, 0, 0, 0} // 16 MiB, of which nothing comes
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		f := frameReader{r: bytes.NewReader(head)}
		if _, err := f.next(); err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if spent := (after.TotalAlloc - before.TotalAlloc) / 100; spent > 128<<10 {
		t.Errorf("a length alone cost %d bytes", spent)
	}
	head[0] = 1
	f := frameReader{r: bytes.NewReader(append(head, make([]byte, 100)...))}
	if _, err := f.next(); !errors.Is(err, ErrBadFrame) {
		t.Errorf("a message of 16 MiB and 1: %v", err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(encode([]byte("one"), nil, []byte("two")))
	f.Add([]byte("HFMSGST2"))
	f.Add(append([]byte(streamMagic), 255, 255, 255, 255, 0, 0, 0, 0, 1))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decode(bytes.NewReader(data))
		if err == nil {
			t.Fatal("no end")
		}
		// What was taken is what stood there.
		if again := encode(got...); len(got) > 0 && !bytes.HasPrefix(data, again) {
			t.Errorf("%x: took %q", data, got)
		}
		if err == io.EOF && !bytes.Equal(data, encode(got...)) && len(data) > 0 {
			t.Errorf("%x: bytes were left out", data)
		}
	})
}
