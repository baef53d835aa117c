package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster/raft"
	"github.com/holdfast/holdfast/metadata"
)

// theNames answers what a test says; the methods that it does not say panic.
type theNames struct {
	metadata.Names
	put     func(ctx context.Context, p metadata.Put) (metadata.Version, error)
	current func(ctx context.Context, key string) (metadata.Version, error)
	survey  func(ctx context.Context, fn func(metadata.Surveyed) error) error
	rows    func() ([]metadata.Row, error)
}

func (n theNames) Put(ctx context.Context, p metadata.Put) (metadata.Version, error) {
	return n.put(ctx, p)
}

func (n theNames) Current(ctx context.Context, _ metadata.BucketID, key string) (metadata.Version, error) {
	return n.current(ctx, key)
}

func (n theNames) Survey(ctx context.Context, fn func(metadata.Surveyed) error) error {
	return n.survey(ctx, fn)
}

func (n theNames) Rows(context.Context, []byte, []byte, int) ([]metadata.Row, error) { return n.rows() }

// pipes is a listener whose connections are pairs of pipes: it works inside a bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// overPipes serves a handler to a client until the test ends.
func overPipes(t *testing.T, h http.Handler, o Options) *Client {
	t.Helper()
	listener := newPipes()
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(listener) }() // it ends with Close
	transport := &http.Transport{DialContext: listener.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return New(&http.Client{Transport: transport}, "http://peer", o)
}

// TestLongCallsLiveAndHungPeersDoNot runs a call of an hour, which gives signs of life, and then asks a peer that gives
// none.
func TestLongCallsLiveAndHungPeersDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := theNames{put: func(context.Context, metadata.Put) (metadata.Version, error) {
			time.Sleep(time.Hour)
			return metadata.Version{Key: "k"}, metadata.ErrConflict
		}}
		c := overPipes(t, Handler(slow), Options{})
		if v, err := c.Put(t.Context(), metadata.Put{}); !errors.Is(err, metadata.ErrConflict) || v.Key != "k" {
			t.Errorf("a long call answered %+v, %v", v, err)
		}
		hung := overPipes(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}), Options{})
		begin := time.Now()
		_, err := hung.Put(t.Context(), metadata.Put{})
		wantAll(t, err, metadata.ErrUnavailable, raft.ErrUnknownOutcome, ErrLost, ErrStalled)
		if took := time.Since(begin); took < DefaultStall || took > 2*DefaultStall {
			t.Errorf("given up after %v", took)
		}
		_, err = hung.Current(t.Context(), 1, "k")
		wantAll(t, err, metadata.ErrUnavailable, ErrLost, ErrStalled)
		wantNone(t, err, raft.ErrUnknownOutcome)
	})
}

// TestCallersMayLeave ends the context of a write and of a read while the peer works on them.
func TestCallersMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var left atomic.Int64
		wait := func(ctx context.Context) error {
			<-ctx.Done()
			left.Add(1)
			return ctx.Err()
		}
		c := overPipes(t, Handler(theNames{
			put: func(ctx context.Context, _ metadata.Put) (metadata.Version, error) {
				return metadata.Version{}, wait(ctx)
			},
			current: func(ctx context.Context, _ string) (metadata.Version, error) { return metadata.Version{}, wait(ctx) },
		}), Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Put(ctx, metadata.Put{})
		wantAll(t, err, context.DeadlineExceeded, raft.ErrUnknownOutcome, metadata.ErrUnavailable)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.Current(ctx, 1, "k")
		wantAll(t, err, context.DeadlineExceeded)
		wantNone(t, err, raft.ErrUnknownOutcome, metadata.ErrUnavailable)
		synctest.Wait()
		if left.Load() != 2 {
			t.Errorf("%d calls were told that their caller left", left.Load())
		}
	})
}

// TestWhatWasNotSentIsSaid asks where nobody listens, and where another protocol is spoken.
func TestWhatWasNotSentIsSaid(t *testing.T) {
	listener := newPipes()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	nobody := New(&http.Client{Transport: &http.Transport{DialContext: listener.dial}}, "http://peer", Options{})
	other := overPipes(t, http.NotFoundHandler(), Options{})
	for name, c := range map[string]*Client{"nobody": nobody, "another protocol": other} {
		_, err := c.Put(t.Context(), metadata.Put{})
		wantAll(t, fmt.Errorf("%s: %w", name, err), ErrNotSent, metadata.ErrUnavailable)
		wantNone(t, err, raft.ErrUnknownOutcome)
	}
	_, err := other.Put(t.Context(), metadata.Put{Dropped: make([]byte, maxQuestion)})
	wantAll(t, err, metadata.ErrTooLarge)
}

// TestHurtAndForeignQuestionsAreRefused wants a status, and no call.
func TestHurtAndForeignQuestionsAreRefused(t *testing.T) {
	h := Handler(theNames{})
	var p metadata.Put
	good := put.question.append(beginFrame(nil), &p)
	frameFormat.End(good, kindQuestion)
	hurt := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	resealed := append(bytes.Clone(good), 1)
	frameFormat.End(resealed, kindQuestion)
	answer := bytes.Clone(good)
	frameFormat.End(answer, kindAnswer)
	noOp := ops.append(beginFrame(nil), new(metadata.Op))
	frameFormat.End(noOp, kindWrite)
	cutOp := append(beginFrame(nil), 1)
	frameFormat.End(cutOp, kindWrite)
	for why, c := range map[string]struct {
		path, method string
		body         []byte
		want         int
	}{
		"bit flipped":       {"put", "POST", hurt(func(b []byte) { b[frameHead] ^= 1 }), 400},
		"another kind":      {"put", "POST", answer, 400},
		"zero Op":           {"put", "POST", noOp, 400},
		"Op cut short":      {"put", "POST", cutOp, 400},
		"another format":    {"put", "POST", hurt(func(b []byte) { b[2] = 2 }), 400},
		"another magic":     {"put", "POST", hurt(func(b []byte) { b[0] = 'X' }), 400},
		"cut short":         {"put", "POST", good[:len(good)-1], 400},
		"bytes behind":      {"put", "POST", resealed, 400},
		"another method":    {"put", "GET", good, 405},
		"unknown procedure": {"putt", "POST", good, 404},
		"too large":         {"put", "POST", make([]byte, maxQuestion+frameHead+1), 413},
		"another procedure": {"list", "POST", resealed, 400},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, PathPrefix+c.path, bytes.NewReader(c.body)))
		if w.Code != c.want {
			t.Errorf("%s: status %d %s, want %d", why, w.Code, w.Body, c.want)
		}
	}
}

// TestLostAndHurtAnswersAreUnknown cuts, hurts and replaces what a handler answers.
func TestLostAndHurtAnswersAreUnknown(t *testing.T) {
	inner := Handler(theNames{
		put:     func(context.Context, metadata.Put) (metadata.Version, error) { return metadata.Version{Key: "k"}, nil },
		current: func(context.Context, string) (metadata.Version, error) { return metadata.Version{Key: "k"}, nil },
	})
	for why, change := range map[string]func(b []byte) []byte{
		"cut":          func(b []byte) []byte { return b[:len(b)-1] },
		"empty":        func([]byte) []byte { return nil },
		"bit flipped":  func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"wrong kind":   func(b []byte) []byte { frameFormat.End(b, kindQuestion); return b },
		"items":        func(b []byte) []byte { frameFormat.End(b, kindItems); return b },
		"bytes behind": func(b []byte) []byte { b = append(b, 1); frameFormat.End(b, kindAnswer); return b },
		"another page": func([]byte) []byte { return []byte("<html>") },
	} {
		c := overPipes(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			recorder := httptest.NewRecorder()
			inner.ServeHTTP(recorder, r)
			_, _ = w.Write(change(recorder.Body.Bytes()))
		}), Options{})
		_, err := c.Put(t.Context(), metadata.Put{})
		wantAll(t, fmt.Errorf("%s: %w", why, err), ErrLost, metadata.ErrUnavailable, raft.ErrUnknownOutcome)
		_, err = c.Current(t.Context(), 1, "k")
		wantAll(t, fmt.Errorf("%s: %w", why, err), ErrLost, metadata.ErrUnavailable)
		wantNone(t, err, raft.ErrUnknownOutcome)
	}
	gateway := overPipes(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
	}), Options{})
	_, err := gateway.Put(t.Context(), metadata.Put{})
	wantAll(t, err, ErrLost, raft.ErrUnknownOutcome)
}

// TestSurveyComesInPiecesWithBoundedMemory reads a survey whose reader stops for a day: the other side may be at most
// some pieces ahead.
func TestSurveyComesInPiecesWithBoundedMemory(t *testing.T) {
	const items, size = 1000, 10_000
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int64
		stop := errors.New("stop")
		n := theNames{survey: func(_ context.Context, fn func(metadata.Surveyed) error) error {
			for i := range items {
				made.Add(1)
				row := metadata.Row{Key: fmt.Append(nil, i), Value: make([]byte, size)}
				if err := fn(metadata.Surveyed{Row: &row}); err != nil {
					return err
				}
			}
			return metadata.ErrConflict
		}}
		c := overPipes(t, Handler(n), Options{Stall: time.Minute})
		read := 0
		err := c.Survey(t.Context(), func(s metadata.Surveyed) error {
			if string(s.Row.Key) != fmt.Sprint(read) || len(s.Row.Value) != size {
				t.Fatalf("item %d is %s", read, s.Row.Key)
			}
			if read++; read == 10 {
				time.Sleep(90 * time.Second) // longer than Stall: who reads may take the time
				synctest.Wait()
				if ahead := made.Load() - 10; ahead > 4*batch/size+10 {
					t.Errorf("%d items are on the way to a reader that stopped", ahead)
				}
			}
			return nil
		})
		wantAll(t, err, metadata.ErrConflict)
		if read != items {
			t.Errorf("%d items of %d arrived", read, items)
		}
		if err := c.Survey(t.Context(), func(metadata.Surveyed) error { return stop }); err != stop {
			t.Errorf("an error of the reader came back as %v", err)
		}
	})
}

// TestSlicesArriveWhole sends rows over the size of any frame.
func TestSlicesArriveWhole(t *testing.T) {
	var want []metadata.Row
	fail := false
	c := overPipes(t, Handler(theNames{rows: func() ([]metadata.Row, error) {
		if fail {
			return nil, metadata.ErrNoSuchKey
		}
		return want, nil
	}}), Options{})
	for _, rows := range []int{0, 1, 100} {
		want = nil
		for i := range rows {
			want = append(want, metadata.Row{Key: fmt.Append(nil, i), Value: []byte(strings.Repeat("v", 1<<20)), Revision: 1})
		}
		got, err := c.Rows(t.Context(), nil, nil, 0)
		if err != nil || len(got) != rows || (got == nil) != (rows == 0) {
			t.Fatalf("%d rows arrived of %d: %v", len(got), rows, err)
		}
		for i := range got {
			if !bytes.Equal(got[i].Key, want[i].Key) || !bytes.Equal(got[i].Value, want[i].Value) {
				t.Fatalf("row %d is another one", i)
			}
		}
	}
	fail = true
	if _, err := c.Rows(t.Context(), nil, nil, 0); !errors.Is(err, metadata.ErrNoSuchKey) {
		t.Fatal(err)
	}
}

func wantAll(t *testing.T, err error, sentinels ...error) {
	t.Helper()
	for _, s := range sentinels {
		if !errors.Is(err, s) {
			t.Errorf("%v does not match: %v", err, s)
		}
	}
}

func wantNone(t *testing.T, err error, sentinels ...error) {
	t.Helper()
	for _, s := range sentinels {
		if errors.Is(err, s) {
			t.Errorf("%v matches: %v", err, s)
		}
	}
}

// BenchmarkCodec is a Put of 4 KiB on its way to the handler, and the answer on its way back.
func BenchmarkCodec(b *testing.B) {
	p := metadata.Put{Bucket: 7, Version: metadata.Version{
		Key: "dir/00000001", Size: 4 << 10, ETag: strings.Repeat("a", 32), Inline: make([]byte, 4<<10),
		Headers: map[string]string{"content-type": "application/octet-stream"}, Modified: time.Now(),
	}}
	var frame []byte
	b.ReportAllocs()
	for b.Loop() {
		frame = put.question.append(beginFrame(frame), &p)
		frameFormat.End(frame, kindQuestion)
		_, payload, err := frameFormat.Read(bytes.NewReader(frame), nil, maxQuestion)
		if err != nil {
			b.Fatal(err)
		}
		q, err := decodeQuestion(put.question, payload)
		if err != nil {
			b.Fatal(err)
		}
		answer := put.answer.append(appendFault(nil, nil), &q.Version)
		d := newDecoder(answer)
		var f fault
		var v metadata.Version
		if err := errors.Join(faults.read(d, &f), put.answer.read(d, &v), d.end()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestTheOpOfAContextTravels wants it with writes, whatever else they say, and with nothing else.
func TestTheOpOfAContextTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got metadata.Op
		c := overPipes(t, Handler(theNames{
			put: func(ctx context.Context, p metadata.Put) (metadata.Version, error) {
				got = metadata.OpFrom(ctx)
				return p.Version, nil
			},
			current: func(ctx context.Context, key string) (metadata.Version, error) {
				got = metadata.OpFrom(ctx)
				return metadata.Version{Key: key}, nil
			},
		}), Options{})
		op := metadata.Op{Session: 7, Seq: 1 << 40}
		p := metadata.Put{Version: metadata.Version{Key: "k"}, Op: metadata.Op{Session: 1, Seq: 2}}
		if v, err := c.Put(metadata.WithOp(t.Context(), op), p); err != nil || v.Key != "k" || got != op {
			t.Fatal(v, err, got)
		}
		if _, err := c.Put(t.Context(), p); err != nil || got != (metadata.Op{}) {
			t.Fatal(err, got)
		}
		if _, err := c.Current(metadata.WithOp(t.Context(), op), 1, "k"); err != nil || got != (metadata.Op{}) {
			t.Fatal(err, got)
		}
	})
}
