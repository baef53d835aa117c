package transport

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// written is a connection that keeps what it is given, call by call.
type written struct {
	net.Conn
	mu     sync.Mutex
	calls  [][]byte
	failed error
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return 0, w.failed
	}
	w.calls = append(w.calls, bytes.Clone(p))
	return len(p), nil
}

func (w *written) lengths() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []int
	for _, call := range w.calls {
		all = append(all, len(call))
	}
	return all
}

func wantLengths(t *testing.T, w *written, want ...int) {
	t.Helper()
	got := w.lengths()
	if len(got) != len(want) {
		t.Fatalf("the network was given %v, not %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("the network was given %v, not %v", got, want)
		}
	}
}

func TestRecordsGoTogether(t *testing.T) {
	const record = fullRecord + 22
	synctest.Test(t, func(t *testing.T) {
		under := &written{}
		g := newGathered(under)
		body := make([]byte, record)
		write := func(n int) {
			if m, err := g.Write(body[:n]); m != n || err != nil {
				t.Fatal(m, err)
			}
		}
		write(100) // alone it goes at once
		wantLengths(t, under, 100)
		write(record)
		write(record)
		wantLengths(t, under, 100)
		write(5) // and the end of a message with all of it
		wantLengths(t, under, 100, 2*record+5)
		for range 8 { // no more than the memory takes
			write(record)
		}
		wantLengths(t, under, 100, 2*record+5, 7*record)
		time.Sleep(2 * gatherPause) // what ends with a full record does not wait for ever
		wantLengths(t, under, 100, 2*record+5, 7*record, record)
		time.Sleep(time.Hour)
		wantLengths(t, under, 100, 2*record+5, 7*record, record)
	})
}

func TestALateFailureIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := &written{failed: os.ErrDeadlineExceeded}
		g := newGathered(under)
		if n, err := g.Write(make([]byte, fullRecord)); n != fullRecord || err != nil {
			t.Fatal(n, err)
		}
		time.Sleep(2 * gatherPause)
		under.mu.Lock()
		under.failed = nil
		under.mu.Unlock()
		if _, err := g.Write([]byte("on")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the next write says %v", err)
		}
		wantLengths(t, under)
	})
}

// dripped is a connection whose reads give what a random source allows, and the end with the last bytes.
type dripped struct {
	net.Conn
	left   []byte
	random *rand.Rand
}

func (d *dripped) Read(p []byte) (int, error) {
	n := min(len(p), len(d.left))
	if d.random.IntN(2) == 0 {
		n = min(n, 1+d.random.IntN(40_000))
	}
	copy(p, d.left[:n])
	if d.left = d.left[n:]; len(d.left) == 0 {
		return n, io.EOF
	}
	return n, nil
}

func TestWhatCameAheadIsReadInOrder(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		body := make([]byte, 3<<20)
		for i := range body {
			body[i] = byte(random.Uint32())
		}
		g := newGathered(&dripped{left: body, random: random})
		var got []byte
		part := make([]byte, 2*gatherSize)
		for {
			n, err := g.Read(part[:1+random.IntN(len(part)>>random.IntN(8))])
			got = append(got, part[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(seed, err)
			}
		}
		if !bytes.Equal(got, body) {
			t.Fatalf("seed %d: %d bytes came, not the %d that were sent", seed, len(got), len(body))
		}
		if g.arrived != nil {
			t.Errorf("seed %d: memory is held at the end", seed)
		}
	}
}
