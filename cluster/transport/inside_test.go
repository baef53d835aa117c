package transport

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAListenerTakesNoMoreThanItsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSimulation(1)
		inner, err := s.Host("b").Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		listener := limitConns(inner, 2)
		accepted := make(chan net.Conn, 10)
		go func() {
			defer close(accepted)
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				accepted <- conn
			}
		}()
		var near []net.Conn
		for range 4 {
			conn, err := s.Host("a").Dial(t.Context(), "b:1")
			if err != nil {
				t.Fatal(err)
			}
			near = append(near, conn)
		}
		for want := 2; want <= 4; want++ {
			synctest.Wait()
			if len(accepted) != 2 {
				t.Fatalf("%d connections at a time, want 2", len(accepted))
			}
			first := <-accepted
			// Closing twice frees one place.
			if err := first.Close(); err != nil {
				t.Error(err)
			}
			_ = first.Close()
			if want == 4 {
				break
			}
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		for conn := range accepted {
			near = append(near, conn)
		}
		for _, conn := range near {
			_ = conn.Close()
		}
	})
}

// TestCallsToANetworkThatTakesNothingAreGivenUp: what waits to be written is bounded.
func TestCallsToANetworkThatTakesNothingAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe() // it takes nothing until it is read
		q := newQueued(near)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			q.run()
		}()
		piece := make([]byte, 1<<20)
		var err error
		pieces := 0
		for ; err == nil && pieces < 100; pieces++ {
			_, err = q.Write(piece)
		}
		if !errors.Is(err, ErrStalled) || pieces != 9 {
			t.Errorf("after %d MiB: %v", pieces, err)
		}
		<-ended
		if _, err := far.Read(piece); err != io.EOF {
			t.Errorf("the connection is not closed: %v", err)
		}
		if err := q.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("close: %v", err)
		}
		if _, err := q.Write(piece); !errors.Is(err, ErrStalled) {
			t.Errorf("write: %v", err)
		}
	})
}

func TestStrangersFillNoMemory(t *testing.T) {
	var out strings.Builder
	s := newSparing(slog.New(slog.NewTextHandler(&out, nil)))
	for i := range 10 * maxSeen {
		s.warn(fmt.Sprint("stranger ", i), "refused")
		if len(s.seen) > maxSeen {
			t.Fatalf("%d strangers are remembered", len(s.seen))
		}
	}
	now := time.Now()
	for i, want := range []bool{true, false, false} {
		if _, due := s.due("one", now.Add(time.Duration(i)*time.Second)); due != want {
			t.Errorf("line %d is due: %v", i, due)
		}
	}
	if leftOut, due := s.due("one", now.Add(sparingPause)); !due || leftOut != 2 {
		t.Errorf("a minute later: %v, %d left out", due, leftOut)
	}
}

// TestTheWatchdogIsNotFooled by a timer that fires for a wait that is over.
func TestTheWatchdogIsNotFooled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bites := 0
		w := &watchdog{limit: time.Second, bite: func() { bites++ }}
		for range 100 {
			w.enter()
			time.Sleep(time.Second - time.Nanosecond)
			if w.leave() {
				t.Fatal("it bit too early")
			}
			w.expired() // as late as can be
		}
		time.Sleep(time.Hour)
		w.enter()
		w.leave() // somebody lets it wait
		time.Sleep(time.Hour)
		w.enter()
		time.Sleep(2 * time.Second)
		if !w.leave() || bites != 1 {
			t.Errorf("it bit %d times", bites)
		}
		w.enter()
		time.Sleep(time.Hour)
		if !w.leave() || bites != 1 {
			t.Errorf("it bit %d times in the end", bites)
		}
	})
}

// TestFormatsAreWrittenDown compares FORMAT.md with the constants.
func TestFormatsAreWrittenDown(t *testing.T) {
	data, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		ErrorHeader, streamMagic, streamProtocol, "GET " + pingPath, streamPath("<name>"),
		fmt.Sprintf("`%s`", errorFormat), fmt.Sprintf("%d of %d characters", maxCodes, maxCode),
		fmt.Sprintf("at most %d MiB", MaxFrame>>20), fmt.Sprintf("%d KiB", maxMessage>>10), fmt.Sprintf("%d KiB", MaxDetail>>10),
		fmt.Sprintf("for %d s,", int(streamPulse.Seconds())), fmt.Sprintf("for %d s ends", int(streamSilence.Seconds())),
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("FORMAT.md does not say %q", want)
		}
	}
}
