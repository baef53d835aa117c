package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestReadAheadTakesNothingAway sends bodies of every size around the buffer's over one connection, in pieces that the
// server must put together.
func TestReadAheadTakesNothingAway(t *testing.T) {
	address := serveAhead(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(body) // the client compares
	}))
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{
		MaxConnsPerHost: 1, DisableCompression: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return choppy{conn, rand.New(rand.NewPCG(1, 2))}, nil
		},
	}}
	defer client.CloseIdleConnections()
	for _, size := range []int{0, 1, 100, 4095, 4096, readAhead - 1, readAhead, readAhead + 1, 3 * readAhead, 1 << 20} {
		body := bytes.Repeat([]byte{byte(size), 1, 2}, size/3+1)[:size]
		answer, err := client.Post("http://"+address+"/", "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		got, err := io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, body) {
			t.Errorf("%d bytes came back as %d others", size, len(got))
		}
	}
}

// choppy writes in pieces.
type choppy struct {
	net.Conn
	random *rand.Rand
}

func (c choppy) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n, err := c.Conn.Write(p[sent:min(len(p), sent+1+c.random.IntN(5000))])
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// TestReadAheadKeepsPipelinedRequests: a client may send the next request before the answer to the first.
func TestReadAheadKeepsPipelinedRequests(t *testing.T) {
	address := serveAhead(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.Path) // the client compares
	}))
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var requests strings.Builder
	for n := range 300 {
		fmt.Fprintf(&requests, "GET /%d HTTP/1.1\r\nHost: x\r\n", n)
		if n == 299 {
			requests.WriteString("Connection: close\r\n")
		}
		requests.WriteString("\r\n")
	}
	if _, err := io.WriteString(conn, requests.String()); err != nil {
		t.Fatal(err)
	}
	answers, err := io.ReadAll(conn)
	if err := errors.Join(err, conn.Close()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(answers), "HTTP/1.1 200"); got != 300 {
		t.Errorf("%d of 300 requests were answered", got)
	}
}

// TestReadAheadAnswersWhoStillSends: a request that is refused before its body was read is answered, not reset.
func TestReadAheadAnswersWhoStillSends(t *testing.T) {
	address := serveAhead(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusForbidden)
	}))
	for range 20 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 4<<20); err != nil {
			t.Fatal(err)
		}
		var sending sync.WaitGroup
		sending.Go(func() { _, _ = conn.Write(make([]byte, 1<<20)) }) // more than the server reads; it may fail
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(answer), "403 Forbidden") {
			t.Errorf("the answer is %.40q: %v", answer, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		sending.Wait()
	}
}

// serveAhead serves handler until the test ends, and returns its address.
func serveAhead(t *testing.T, handler http.Handler) string {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := HTTPServer("", handler)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ReadAhead(inner)) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return inner.Addr().String()
}
