package remote_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/fusefs/remote"
	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

// wire stands between a client and a gateway and may touch what passes on connections that became pipes.
type wire struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup
	pipes    atomic.Int64
	// question and answer get what passes in a pipe; they may change it, and return false to cut the connection instead.
	question, answer func([]byte) bool

	mu    sync.Mutex
	conns []net.Conn
}

func newWire(t *testing.T, g *gateway) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(g.http.URL)
	if err != nil {
		t.Fatal(err)
	}
	pass := func([]byte) bool { return true }
	w := &wire{listener: l, target: u.Host, question: pass, answer: pass}
	w.running.Add(1)
	go w.accept()
	t.Cleanup(func() {
		_ = l.Close()
		w.mu.Lock()
		for _, c := range w.conns {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.running.Wait()
	})
	return w
}

func (w *wire) accept() {
	defer w.running.Done()
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.target)
		if err != nil {
			_ = near.Close()
			return
		}
		w.mu.Lock()
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		var pipe atomic.Bool
		w.running.Add(2)
		go w.copy(far, near, &pipe, true)
		go w.copy(near, far, &pipe, false)
	}
}

// copy passes bytes on until one side ends.
func (w *wire) copy(to, from net.Conn, pipe *atomic.Bool, up bool) {
	defer w.running.Done()
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p := buf[:n]
		switch {
		case pipe.Load():
			touch := w.answer
			if up {
				touch = w.question
			}
			if !touch(p) {
				return
			}
		case !up && bytes.HasPrefix(p, []byte("HTTP/1.1 101 ")):
			pipe.Store(true)
			w.pipes.Add(1)
		}
		if _, err := to.Write(p); err != nil {
			return
		}
	}
}

func (w *wire) dial(t *testing.T) *remote.Client {
	t.Helper()
	c, err := remote.New(t.Context(), remote.Config{
		Endpoints: []string{"http://" + w.listener.Addr().String()}, AccessKey: "key", SecretKey: secret, Bucket: "bucket",
		Retry: 5 * time.Second, Log: quiet(),
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

// changes makes a file, moves and removes it, and checks that each was done once.
func changes(t *testing.T, g *gateway, c *remote.Client) {
	t.Helper()
	content := bytes.Repeat([]byte("content "), 1000)
	if _, err := c.Publish(t.Context(), tree.File{Key: "a", Data: content, Cond: tree.Cond{Absent: true}}); err != nil {
		t.Fatal(err)
	}
	if data, ok := g.model.Data("a"); !ok || !bytes.Equal(data, content) {
		t.Fatalf("published %d bytes, not those that were sent", len(data))
	}
	if _, err := c.Rename(t.Context(), "a", "b", true); err != nil {
		t.Fatal(err)
	}
	if found, err := c.Look(t.Context(), "b"); err != nil || found.File == nil || found.File.Size != int64(len(content)) {
		t.Fatalf("look: %+v, %v", found, err)
	}
	if err := c.Remove(t.Context(), "b", false); err != nil {
		t.Fatal(err)
	}
	if n := len(g.model.Published("a")); n != 1 {
		t.Fatalf("published %d times", n)
	}
}

func TestWithoutPipesTheContractIsKeptToo(t *testing.T) {
	treetest.Run(t, func(t *testing.T) tree.Objects { return newGateway(t, 0).dialPlain(t) })
}

func TestQuestionsShareAPipe(t *testing.T) {
	g := newGateway(t, 0)
	w := newWire(t, g)
	c := w.dial(t)
	for range 50 {
		if _, err := c.Look(t.Context(), "nothing"); err != nil {
			t.Fatal(err)
		}
	}
	changes(t, g, c)
	if n := w.pipes.Load(); n != 1 {
		t.Fatalf("one asker opened %d pipes", n)
	}
}

// everyOther lets the second of two pass.
func everyOther(n *atomic.Int64, hurt func([]byte) bool) func([]byte) bool {
	return func(p []byte) bool { return n.Add(1)%2 == 0 || hurt(p) }
}

func TestWhatIsLostOrDamagedInAPipeIsAskedAgain(t *testing.T) {
	cut := func([]byte) bool { return false }
	damage := func(p []byte) bool { p[len(p)/2] ^= 4; return true }
	for name, touch := range map[string]func(w *wire, n *atomic.Int64){
		"question lost":    func(w *wire, n *atomic.Int64) { w.question = everyOther(n, cut) },
		"answer lost":      func(w *wire, n *atomic.Int64) { w.answer = everyOther(n, cut) },
		"question damaged": func(w *wire, n *atomic.Int64) { w.question = everyOther(n, damage) },
		"answer damaged":   func(w *wire, n *atomic.Int64) { w.answer = everyOther(n, damage) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, 0)
			w := newWire(t, g)
			var n atomic.Int64
			touch(w, &n)
			changes(t, g, w.dial(t))
			if n.Load() < 8 || w.pipes.Load() < 4 {
				t.Fatalf("%d messages in %d pipes: nothing was hurt", n.Load(), w.pipes.Load())
			}
		})
	}
}

func TestPipesSurviveARestartOfTheGateway(t *testing.T) {
	g := newGateway(t, 0)
	c := newWire(t, g).dial(t)
	if _, err := c.Look(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	g.restart()
	changes(t, g, c)
}

func TestWherePipesDoNotGetThroughRequestsDo(t *testing.T) {
	g := newGateway(t, 0)
	g.spoil = func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Header.Get("Upgrade") == "" {
			return false
		}
		http.Error(w, "this proxy upgrades nothing", http.StatusBadGateway)
		return true
	}
	w := newWire(t, g)
	changes(t, g, w.dial(t))
	if w.pipes.Load() != 0 {
		t.Fatal("a pipe came through")
	}
}

func TestAnAskerThatGivesUpEndsItsPipe(t *testing.T) {
	g := newGateway(t, 0)
	w := newWire(t, g)
	c := w.dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.answer = func([]byte) bool { cancel(); return false }
	if _, err := c.Look(ctx, "x"); err != context.Canceled {
		t.Fatalf("error %v of a question that was given up", err)
	}
}

func TestPipesNeedASignatureAndAProtocol(t *testing.T) {
	g := newGateway(t, 0)
	res, err := http.Get(g.http.URL + "/-/mount/pipe")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusForbidden {
		t.Fatalf("status %d without a signature, %v", res.StatusCode, err)
	}
}

// stuck is a model whose lookups hang.
type stuck struct {
	*treetest.Model
	asked, free chan struct{}
}

func (s stuck) Look(context.Context, string) (tree.Found, error) {
	close(s.asked)
	<-s.free
	return tree.Found{}, nil
}

func TestAQuestionThatHangsDoesNotKeepTheServiceOpen(t *testing.T) {
	s := stuck{treetest.NewModel(), make(chan struct{}), make(chan struct{})}
	_, service := remote.NewService(remote.ServiceConfig{Log: quiet(), Open: func(context.Context, string, string, string) (tree.Objects, error) {
		return s, nil
	}})
	server := httptest.NewServer(service)
	defer server.Close()
	c, err := remote.New(t.Context(), remote.Config{
		Endpoints: []string{server.URL}, AccessKey: "key", SecretKey: secret, Bucket: "bucket", Retry: -1, Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan error, 1)
	go func() {
		_, err := c.Look(t.Context(), "x")
		looked <- err
	}()
	<-s.asked
	if err := service.Close(); err == nil {
		t.Error("nothing is said of the question that hangs")
	}
	close(s.free)
	if err := <-looked; err != nil {
		t.Errorf("the answer came after all, but: %v", err)
	}
	if err := c.Close(t.Context()); !errors.Is(err, tree.ErrIO) {
		t.Errorf("the only gateway has stopped, and the session ended: %v", err)
	}
}
