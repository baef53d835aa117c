package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
	"github.com/holdfast/holdfast/multipart/s3/sigv4"
)

func TestMain(m *testing.M) {
	// goleveldb's buffer pool wakes up once more after its DB was closed, and ends then.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/syndtr/goleveldb/leveldb.(*DB).mpoolDrain"))
}

const secret = "a secret key"

// gateway is an HTTP server with the mount service over a model, which checks signatures as the S3 face does.
type gateway struct {
	t     *testing.T
	model *treetest.Model
	http  *httptest.Server
	ends  atomic.Int64
	seqs  sync.Map
	// streamed counts the spans that were asked for piece by piece.
	streamed atomic.Int64
	// breaks says whether a read of a streaming reader that ends at an offset fails.
	breaks func(off int64) bool

	mu      sync.Mutex
	service *remote.Service
	// streams has readers give spans piece by piece.
	streams bool
	// spoil may answer a request in the service's place, or spoil its answer.
	spoil func(w http.ResponseWriter, r *http.Request, serve http.Handler) bool
}

// ending is a model that counts the ends of its sessions and notes the numbers of changes.
type ending struct {
	*treetest.Model
	g *gateway
}

func (e ending) EndSession(context.Context) error {
	e.g.ends.Add(1)
	e.Model.EndSession()
	return nil
}

func (e ending) Publish(ctx context.Context, f tree.File) (tree.Info, error) {
	op, ok := tree.OpFrom(ctx)
	if _, again := e.g.seqs.LoadOrStore(op.Seq, f.Key); again || !ok {
		e.g.t.Errorf("publish of %q has number %d (%v), which was there before", f.Key, op.Seq, ok)
	}
	return e.Model.Publish(ctx, f)
}

func (e ending) Open(ctx context.Context, key string, v tree.Version) (tree.Reader, error) {
	r, err := e.Model.Open(ctx, key, v)
	if err != nil || !e.g.streams {
		return r, err
	}
	return streaming{r, e.g}, nil
}

// streaming is a reader that can give a span piece by piece.
type streaming struct {
	tree.Reader
	g *gateway
}

func (s streaming) Stream(off, n int64) (io.ReadCloser, error) {
	s.g.streamed.Add(1)
	return io.NopCloser(io.NewSectionReader(s, off, n)), nil
}

func (s streaming) ReadAt(p []byte, off int64) (int, error) {
	if s.g.breaks != nil && s.g.breaks(off+int64(len(p))-1) {
		return 0, tree.ErrAccess
	}
	return s.Reader.ReadAt(p, off)
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newGateway(t *testing.T, lease time.Duration) *gateway {
	t.Helper()
	g := &gateway{t: t, model: treetest.NewModel()}
	start := func() *remote.Service {
		_, s := remote.NewService(remote.ServiceConfig{Lease: lease, Log: quiet(), Open: func(_ context.Context, bucket, prefix, session string) (tree.Objects, error) {
			if bucket != "bucket" {
				return nil, tree.ErrNotExist
			}
			return ending{g.model, g}, nil
		}})
		return s
	}
	g.service = start()
	g.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !signed(r) {
			http.Error(w, "SignatureDoesNotMatch", http.StatusForbidden)
			return
		}
		g.mu.Lock()
		service, spoil := g.service, g.spoil
		g.mu.Unlock()
		if spoil == nil || !spoil(w, r, service) {
			service.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		g.http.Close()
		if err := g.service.Close(); err != nil {
			t.Errorf("close service: %v", err)
		}
	})
	return g
}

func signed(r *http.Request) bool {
	req, err := sigv4.FromServer(r)
	if err != nil {
		return false
	}
	claim, err := sigv4.Parse(req)
	if err != nil || claim == nil {
		return false
	}
	_, err = claim.Verify(req, secret, time.Now())
	return err == nil
}

// restart is a gateway that lost its memory.
func (g *gateway) restart() {
	g.t.Helper()
	_, s := remote.NewService(remote.ServiceConfig{Log: quiet(), Open: func(context.Context, string, string, string) (tree.Objects, error) {
		return ending{g.model, g}, nil
	}})
	g.mu.Lock()
	old := g.service
	g.service = s
	g.mu.Unlock()
	if err := old.Close(); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) dial(t *testing.T) *remote.Client { return g.dialBy(t, false) }

// dialPlain is a client that sends every message as an HTTP request of its own.
func (g *gateway) dialPlain(t *testing.T) *remote.Client { return g.dialBy(t, true) }

func (g *gateway) dialBy(t *testing.T, noPipes bool) *remote.Client {
	t.Helper()
	c, err := remote.New(t.Context(), remote.Config{
		NoPipes:   noPipes,
		Endpoints: []string{g.http.URL}, AccessKey: "key", SecretKey: secret, Bucket: "bucket", Retry: 5 * time.Second, Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func TestRemoteKeepsTheContract(t *testing.T) {
	treetest.Run(t, func(t *testing.T) tree.Objects { return newGateway(t, 0).dial(t) })
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	g := newGateway(t, 0)
	c := g.dial(t)
	for _, want := range []error{
		tree.ErrNotExist, tree.ErrExists, tree.ErrConflict, tree.ErrDirNotEmpty, tree.ErrNoSpace, tree.ErrAccess, tree.ErrTooLarge,
		tree.ErrNameTooLong, tree.ErrReadOnly, tree.ErrIO, tree.ErrQuota, tree.ErrInvalid, tree.ErrPermission, tree.ErrUnsupported,
	} {
		g.model.Fail(func(string, string) error { return want })
		_, err := c.Publish(t.Context(), tree.File{Key: "a"})
		if !errors.Is(err, want) {
			t.Errorf("publish: %v, want %v", err, want)
		}
		if err := c.Part(t.Context(), "a", "u", 1, strings.NewReader("x"), 1); !errors.Is(err, want) {
			t.Errorf("part: %v, want %v", err, want)
		}
	}
}

func TestWrongKeyAndMissingBucketAreTold(t *testing.T) {
	g := newGateway(t, 0)
	conf := remote.Config{Endpoints: []string{g.http.URL}, AccessKey: "key", SecretKey: "wrong", Bucket: "bucket", Retry: time.Second}
	if _, err := remote.New(t.Context(), conf); !errors.Is(err, tree.ErrAccess) {
		t.Errorf("wrong key: %v", err)
	}
	conf.SecretKey, conf.Bucket = secret, "other"
	if _, err := remote.New(t.Context(), conf); !errors.Is(err, tree.ErrNotExist) {
		t.Errorf("missing bucket: %v", err)
	}
	conf.Endpoints, conf.Retry = []string{"http://127.0.0.1:1"}, -1
	if _, err := remote.New(t.Context(), conf); !errors.Is(err, tree.ErrIO) {
		t.Errorf("no gateway: %v", err)
	}
	conf.Endpoints = []string{"nonsense"}
	if _, err := remote.New(t.Context(), conf); !errors.Is(err, tree.ErrInvalid) {
		t.Errorf("no URL: %v", err)
	}
}

// The answer of every change is lost once: it is asked for again, and applied once.
func TestAChangeWhoseAnswerIsLostIsAppliedOnce(t *testing.T) {
	g := newGateway(t, 0)
	c := g.dialPlain(t)
	var lost atomic.Int64
	var seen sync.Map
	g.mu.Lock()
	g.spoil = func(w http.ResponseWriter, r *http.Request, serve http.Handler) bool {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return false
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if _, again := seen.LoadOrStore(r.URL.Path+string(body), true); again {
			return false
		}
		lost.Add(1)
		serve.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	g.mu.Unlock()
	info, err := c.Publish(t.Context(), tree.File{Key: "a", Data: []byte("x"), Cond: tree.Cond{Absent: true}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Rename(t.Context(), "a", "b", true); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), "b", false); err != nil {
		t.Fatal(err)
	}
	if n := len(g.model.Published("a")); n != 1 || info.Version == "" {
		t.Fatalf("published %d times", n)
	}
	if lost.Load() < 3 {
		t.Fatalf("%d answers were lost, want 3", lost.Load())
	}
}

// Every request is a sign of its mount, not only a renewal.
func TestAMountThatAsksKeepsItsSession(t *testing.T) {
	g := newGateway(t, 400*time.Millisecond)
	c := g.dial(t)
	for until := time.Now().Add(1200 * time.Millisecond); time.Now().Before(until); {
		if _, err := c.Exists(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
	if n := g.ends.Load(); n != 0 {
		t.Errorf("%d sessions ended", n)
	}
}

// A store that cannot answer now, as while a gateway stops, is asked again under the same number.
func TestWhatTheStoreCannotDoNowIsAskedAgain(t *testing.T) {
	g := newGateway(t, 0)
	for name, c := range map[string]*remote.Client{"pipes": g.dial(t), "requests": g.dialPlain(t)} {
		var refused atomic.Int64
		g.model.Fail(func(op, _ string) error {
			if op != "Stat" && refused.Add(1)%2 == 1 {
				return fmt.Errorf("no leader: %w", tree.ErrUnavailable)
			}
			return nil
		})
		if _, err := c.Rename(t.Context(), "none", "b", false); !errors.Is(err, tree.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
		up, err := c.Begin(t.Context(), "a")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := c.Part(t.Context(), "a", up, 1, strings.NewReader("part"), 4); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := refused.Load(); n != 6 {
			t.Errorf("%s: %d calls, want 6", name, n)
		}
		g.model.Fail(nil)
	}
}

// The repetitions of a part have the number of the first request, so that the store applies one of them.
func TestPartsAreNumbered(t *testing.T) {
	g := newGateway(t, 0)
	c := g.dialPlain(t)
	up, err := c.Begin(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var numbers []string
	g.mu.Lock()
	g.spoil = func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method != http.MethodPut {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		numbers = append(numbers, r.URL.Query().Get("seq"))
		if len(numbers)%2 == 1 {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	g.mu.Unlock()
	for n := range 2 {
		if err := c.Part(t.Context(), "a", up, n+1, strings.NewReader("part"), 4); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(numbers) != 4 || numbers[0] == "" || numbers[0] != numbers[1] || numbers[2] != numbers[3] || numbers[0] == numbers[2] {
		t.Errorf("numbers %q", numbers)
	}
}

func TestReadersAndSessionSurviveARestartOfTheGateway(t *testing.T) {
	g := newGateway(t, 0)
	c := g.dial(t)
	big := bytes.Repeat([]byte("0123456789"), 100_000)
	other := bytes.Repeat([]byte("x"), len(big))
	info, other1 := g.model.Put("big", big), g.model.Put("other", other)
	r, err := c.Open(t.Context(), "big", info.Version)
	if err != nil {
		t.Fatal(err)
	}
	g.restart()
	o, err := c.Open(t.Context(), "other", other1.Version)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if n, err := r.ReadAt(p, 5000); n != 100 || err != nil || !bytes.Equal(p, big[5000:5100]) {
		t.Fatalf("read %d bytes %q, %v", n, p, err)
	}
	if n, err := o.ReadAt(p, 5000); n != 100 || err != nil || p[0] != 'x' {
		t.Fatalf("read %d bytes %q, %v", n, p, err)
	}
	if err := errors.Join(r.Close(), o.Close()); err != nil {
		t.Fatal(err)
	}
	if g.ends.Load() != 0 {
		t.Fatal("a restart ended a session")
	}
	if _, _, readers := g.model.Leftover(); readers != 0 {
		t.Fatalf("%d readers are left", readers)
	}
}

func TestLeaseThatEndsPublishesTheStage(t *testing.T) {
	g := newGateway(t, 50*time.Millisecond) // the client renews every 3 s: too late
	c := g.dial(t)
	if err := c.Stage(t.Context(), tree.File{Key: "f", Inode: 9, Data: []byte("synced")}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		if data, ok := g.model.Data("f"); ok && string(data) == "synced" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the stage was not published")
		}
		<-time.After(5 * time.Millisecond)
	}
	if g.ends.Load() == 0 {
		t.Fatal("the session did not end")
	}
}

func TestCloseEndsTheSession(t *testing.T) {
	g := newGateway(t, 0)
	c, err := remote.New(t.Context(), remote.Config{Endpoints: []string{g.http.URL}, AccessKey: "k", SecretKey: secret, Bucket: "bucket"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g.ends.Load() != 1 {
		t.Fatalf("%d sessions ended, want 1", g.ends.Load())
	}
}

// A wrong byte on the wire is no byte in a file.
func TestDamageOnTheWireIsFoundAndRepeated(t *testing.T) {
	middle := func(body []byte) []byte { body[len(body)/2] ^= 1; return body }
	for name, row := range map[string]struct {
		streams bool
		damage  func([]byte) []byte
	}{
		"a byte":               {false, middle},
		"a byte of a stream":   {true, middle},
		"the sum of a stream":  {true, func(body []byte) []byte { body[len(body)-1] ^= 1; return body }},
		"the end of a stream":  {true, func(body []byte) []byte { return body[:len(body)-3] }},
		"a stream's last half": {true, func(body []byte) []byte { return body[:len(body)/2] }},
	} {
		t.Run(name, func(t *testing.T) { damageOnTheWire(t, row.streams, row.damage) })
	}
}

func damageOnTheWire(t *testing.T, streams bool, damage func([]byte) []byte) {
	g := newGateway(t, 0)
	g.streams = streams
	c := g.dial(t)
	big := bytes.Repeat([]byte("0123456789"), 100_000)
	info := g.model.Put("big", big)
	r, err := c.Open(t.Context(), "big", info.Version)
	if err != nil {
		t.Fatal(err)
	}
	var hurt atomic.Int64
	g.mu.Lock()
	g.spoil = func(w http.ResponseWriter, req *http.Request, serve http.Handler) bool {
		if !strings.Contains(req.URL.Path, "bytes/") || hurt.Add(1) > 2 {
			return false
		}
		if req.Method == http.MethodPut {
			req.Body = io.NopCloser(flip{req.Body})
			return false
		}
		rec := httptest.NewRecorder()
		serve.ServeHTTP(rec, req)
		body := damage(rec.Body.Bytes())
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body)
		return true
	}
	g.mu.Unlock()
	p := make([]byte, len(big))
	if n, err := r.ReadAt(p, 0); n != len(p) || err != nil || !bytes.Equal(p, big) {
		t.Fatalf("read %d bytes, %v; equal: %v", n, err, bytes.Equal(p, big))
	}
	// What is asked for again is not asked for as a stream.
	if asked := g.streamed.Load(); hurt.Load() < 3 || streams != (asked == 1) {
		t.Fatalf("%d requests, %d of them streams", hurt.Load(), asked)
	}
	hurt.Store(0)
	up, err := c.Begin(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Part(t.Context(), "f", up, 1, bytes.NewReader(big), int64(len(big))); err != nil {
		t.Fatalf("a part that was damaged twice: %v", err)
	}
	if hurt.Load() < 3 {
		t.Fatal("no part was damaged")
	}
	if n, err := c.ReadPart(t.Context(), "f", up, 1, p, 0); n != len(p) || err != nil || !bytes.Equal(p, big) {
		t.Fatalf("the part reads back %d bytes, %v; equal: %v", n, err, bytes.Equal(p, big))
	}
	if err := errors.Join(c.Abort(t.Context(), "f", up), r.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestAReadThatFailsInTheMiddleIsToldOf: a stream that ends early says nothing of the reason, the answer to the second
// request does.
func TestAReadThatFailsInTheMiddleIsToldOf(t *testing.T) {
	for _, good := range []int{0, 1 << 20} {
		for _, once := range []bool{false, true} {
			t.Run(fmt.Sprintf("after %d bytes, once %v", good, once), func(t *testing.T) {
				g := newGateway(t, 0)
				g.streams = true
				c := g.dial(t)
				big := bytes.Repeat([]byte("0123456789"), 300_000)
				info := g.model.Put("big", big)
				var broken atomic.Bool
				broken.Store(true)
				g.breaks = func(off int64) bool {
					return off >= int64(good) && broken.Load() && (!once || broken.CompareAndSwap(true, false))
				}
				r, err := c.Open(t.Context(), "big", info.Version)
				if err != nil {
					t.Fatal(err)
				}
				p := make([]byte, len(big))
				n, err := r.ReadAt(p, 0)
				if again := once && good > 0; again && (n != len(p) || err != nil || !bytes.Equal(p, big)) {
					t.Errorf("asked again it reads %d bytes, %v", n, err)
				} else if !again && !errors.Is(err, tree.ErrAccess) {
					t.Errorf("%d bytes, %v", n, err)
				}
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

type flip struct{ io.ReadCloser }

func (f flip) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 {
		p[0] ^= 1
	}
	return n, err
}

func TestNobodyUsesAnothersSession(t *testing.T) {
	owner := "one"
	_, s := remote.NewService(remote.ServiceConfig{
		Owner: func(context.Context) string { return owner }, Log: quiet(),
		Open: func(context.Context, string, string, string) (tree.Objects, error) { return treetest.NewModel(), nil },
	})
	srv := httptest.NewServer(s)
	defer srv.Close()
	conf := remote.Config{Endpoints: []string{srv.URL}, AccessKey: "k", SecretKey: secret, Bucket: "bucket", Retry: -1}
	c, err := remote.New(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	owner = "two"
	if _, err := c.Space(t.Context()); !errors.Is(err, tree.ErrAccess) {
		t.Errorf("another's session: %v, want %v", err, tree.ErrAccess)
	}
	owner = "one"
	if err := errors.Join(c.Close(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
}
