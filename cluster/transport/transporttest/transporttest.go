// Package transporttest is the contract of transport.Network: what every implementation is held to.
package transporttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
)

// Sides are two machines of a network.
type Sides struct {
	// Dialer dials, Listener listens at Address, whose port is 0.
	Dialer, Listener transport.Network
	Address          string
}

// Run holds a network to the contract. each makes two machines and calls body with them, in a synctest bubble where the
// network is one of memory.
func Run(t *testing.T, each func(t *testing.T, body func(t *testing.T, sides Sides))) {
	for name, body := range map[string]func(t *testing.T, s Sides){
		"bytes arrive in order, then the end":              bytesArrive,
		"a deadline ends a read and a write":               deadlines,
		"a deadline that is moved away lets work go on":    deadlineMoved,
		"Close ends what is under way":                     closeEnds,
		"nobody listens":                                   nobodyListens,
		"a dial ends with its context":                     dialEnds,
		"Close of a listener ends Accept and nothing else": listenerCloses,
		"an address can be used again":                     addressAgain,
		"an address is used once at a time":                addressOnce,
		"writes to who has closed fail in the end":         writesFail,
		"a writer waits for a reader":                      writerWaits,
		"many connections at a time":                       manyConns,
	} {
		t.Run(name, func(t *testing.T) { each(t, body) })
	}
}

// patience bounds what must happen.
const patience = 20 * time.Second

// soon is a deadline that must pass.
const soon = 50 * time.Millisecond

func listen(t *testing.T, s Sides) net.Listener {
	t.Helper()
	listener, err := s.Listener.Listen(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// connect makes one connection and returns both ends.
func connect(t *testing.T, s Sides, listener net.Listener) (near, far net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	near, err := s.Dialer.Dial(ctx, listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{near, far} {
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	return near, far
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// pattern is n bytes that do not repeat soon.
func pattern(n int) []byte {
	data := make([]byte, n)
	state := uint32(1)
	for i := range data {
		state = state*1664525 + 1013904223
		data[i] = byte(state >> 24)
	}
	return data
}

func bytesArrive(t *testing.T, s Sides) {
	near, far := connect(t, s, listen(t, s))
	want := pattern(1 << 20)
	var work sync.WaitGroup
	for _, conn := range []net.Conn{near, far} {
		work.Go(func() {
			if n, err := conn.Write(want); err != nil || n != len(want) {
				t.Errorf("write: %d, %v", n, err)
			}
		})
		work.Go(func() {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read: %v, equal: %v", err, bytes.Equal(got, want))
			}
		})
	}
	work.Wait()
	if _, err := near.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	last, err := io.ReadAll(far)
	if err != nil || string(last) != "last" {
		t.Errorf("read %q, %v", last, err)
	}
}

func deadlines(t *testing.T, s Sides) {
	near, _ := connect(t, s, listen(t, s))
	if err := near.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	_, err := near.Read(make([]byte, 1))
	wantErr(t, "read", err, os.ErrDeadlineExceeded)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read: %v is no time-out", err)
	}
	if err := near.SetWriteDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	n, err := near.Write(make([]byte, 64<<20)) // more than any network takes without a reader
	wantErr(t, "write", err, os.ErrDeadlineExceeded)
	if n == 64<<20 {
		t.Error("all of it was written")
	}
	_, err = near.Write([]byte("x"))
	wantErr(t, "write after the deadline", err, os.ErrDeadlineExceeded)
}

func deadlineMoved(t *testing.T, s Sides) {
	near, far := connect(t, s, listen(t, s))
	if err := near.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := near.Read(make([]byte, 1))
	wantErr(t, "read", err, os.ErrDeadlineExceeded)
	if err := near.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		if _, err := far.Write([]byte("x")); err != nil {
			t.Error(err)
		}
	})
	if n, err := near.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	work.Wait()
	// A deadline that is set while a read waits counts for it.
	work.Go(func() {
		_, err := near.Read(make([]byte, 1))
		wantErr(t, "read", err, os.ErrDeadlineExceeded)
	})
	if err := near.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Error(err)
	}
	work.Wait()
}

func closeEnds(t *testing.T, s Sides) {
	near, _ := connect(t, s, listen(t, s))
	var work sync.WaitGroup
	work.Go(func() {
		_, err := near.Read(make([]byte, 1))
		wantErr(t, "read", err, net.ErrClosed)
	})
	work.Go(func() {
		_, err := near.Write(make([]byte, 64<<20))
		wantErr(t, "write", err, net.ErrClosed)
	})
	timer := time.AfterFunc(soon, func() {
		if err := near.Close(); err != nil {
			t.Error(err)
		}
	})
	defer timer.Stop()
	work.Wait()
	_, err := near.Read(make([]byte, 1))
	wantErr(t, "read after Close", err, net.ErrClosed)
	wantErr(t, "Close again", near.Close(), net.ErrClosed)
	wantErr(t, "deadline after Close", near.SetDeadline(time.Time{}), net.ErrClosed)
}

func nobodyListens(t *testing.T, s Sides) {
	listener := listen(t, s)
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := s.Dialer.Dial(ctx, address)
	wantErr(t, "dial", err, syscall.ECONNREFUSED)
}

func dialEnds(t *testing.T, s Sides) {
	listener := listen(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Dialer.Dial(ctx, listener.Addr().String())
	wantErr(t, "dial", err, context.Canceled)
	ctx, cancel = context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = s.Dialer.Dial(ctx, listener.Addr().String())
	wantErr(t, "dial", err, context.DeadlineExceeded)
	if _, err := s.Dialer.Dial(t.Context(), "no port"); err == nil {
		t.Error("dialled an address without a port")
	}
}

func listenerCloses(t *testing.T, s Sides) {
	listener := listen(t, s)
	near, far := connect(t, s, listener)
	var work sync.WaitGroup
	work.Go(func() {
		_, err := listener.Accept()
		wantErr(t, "accept", err, net.ErrClosed)
	})
	timer := time.AfterFunc(soon, func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	})
	defer timer.Stop()
	work.Wait()
	_, err := listener.Accept()
	wantErr(t, "accept after Close", err, net.ErrClosed)
	wantErr(t, "Close again", listener.Close(), net.ErrClosed)
	if _, err := near.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func addressAgain(t *testing.T, s Sides) {
	listener := listen(t, s)
	s.Address = listener.Addr().String()
	for range 3 {
		near, far := connect(t, s, listener)
		if err := errors.Join(listener.Close(), far.Close(), near.Close()); err != nil {
			t.Fatal(err)
		}
		listener = listen(t, s)
		if listener.Addr().String() != s.Address {
			t.Fatalf("at %v, want %s", listener.Addr(), s.Address)
		}
	}
}

func addressOnce(t *testing.T, s Sides) {
	address := listen(t, s).Addr().String()
	if second, err := s.Listener.Listen(address); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("two listeners at %s: %v, %v", address, second, err)
	}
}

func writesFail(t *testing.T, s Sides) {
	near, far := connect(t, s, listen(t, s))
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	// The first write may still be taken: the answer to it is what tells.
	for range 1 << 20 {
		if _, err := near.Write(make([]byte, 1024)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
				t.Errorf("write: %v, want a broken connection", err)
			}
			return
		}
	}
	t.Error("a GiB was written to nobody")
}

func writerWaits(t *testing.T, s Sides) {
	near, far := connect(t, s, listen(t, s))
	want := pattern(32 << 20)
	var work sync.WaitGroup
	var done time.Time
	work.Go(func() {
		if _, err := near.Write(want); err != nil {
			t.Error(err)
		}
		done = time.Now()
	})
	timer := time.NewTimer(2 * soon)
	<-timer.C // nobody reads so far
	begin := time.Now()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read: %v, equal: %v", err, bytes.Equal(got, want))
	}
	work.Wait()
	if done.Before(begin) {
		t.Error("32 MiB were written before anybody read")
	}
}

func manyConns(t *testing.T, s Sides) {
	listener := listen(t, s)
	const count = 50
	var work sync.WaitGroup
	work.Go(func() {
		for range count {
			conn, err := listener.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			work.Go(func() {
				_, err := io.Copy(conn, conn)
				if err := errors.Join(err, conn.Close()); err != nil {
					t.Error(err)
				}
			})
		}
	})
	for i := range count {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn, err := s.Dialer.Dial(ctx, listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			sent, got := []byte{byte(i)}, make([]byte, 1)
			_, err = conn.Write(sent)
			if err == nil {
				_, err = io.ReadFull(conn, got)
			}
			if err := errors.Join(err, conn.Close()); err != nil || got[0] != sent[0] {
				t.Errorf("sent %v, got %v: %v", sent, got, err)
			}
		})
	}
	work.Wait()
}
