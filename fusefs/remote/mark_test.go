package remote

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/fusefs/tree"
	"github.com/holdfast/holdfast/fusefs/tree/treetest"
)

func newTestMark(t *testing.T) *Mark {
	t.Helper()
	m, err := NewMark()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func wantMark(t *testing.T, r *markReader, index uint64, trusted bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		_, i, ok := r.read()
		if ok == trusted && (!ok || i == index) {
			return
		}
		// A promise may lapse for a moment on a machine that is busy, and lasts for a while.
		select {
		case <-deadline:
			t.Fatalf("the mark is %d, trusted: %v; want %d, %v", i, ok, index, trusted)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestAMarkIsTrustedWhileItIsKept(t *testing.T) {
	m := newTestMark(t)
	var r markReader
	wantMark(t, &r, 0, false)
	if err := r.follow(m.place); err != nil {
		t.Fatal(err)
	}
	wantMark(t, &r, 0, false) // there are no mounts, so nothing is promised
	m.use(1)
	m.Set(7)
	wantMark(t, &r, 7, true)
	m.use(0)
	wantMark(t, &r, 0, false)
	m.use(2)
	m.Set(8)
	wantMark(t, &r, 8, true)
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	wantMark(t, &r, 0, false)
}

func TestAMarkThatEndedIsNotTrusted(t *testing.T) {
	m, err := NewMark()
	if err != nil {
		t.Fatal(err)
	}
	var r markReader
	if err := r.follow(m.place); err != nil {
		t.Fatal(err)
	}
	m.use(1)
	wantMark(t, &r, 0, true)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := r.read(); ok {
		t.Error("trusted after its end")
	}
	if err := r.follow(m.place); err == nil {
		t.Error("a mark that ended can be followed")
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
}

// What an earlier gateway promised before it died has lapsed when the next one commits.
func TestTheNextGatewayWaits(t *testing.T) {
	before := newTestMark(t)
	var r markReader
	if err := r.follow(before.place); err != nil {
		t.Fatal(err)
	}
	before.promise() // and it dies
	next := newTestMark(t)
	next.Wait()
	if _, _, ok := r.read(); ok {
		t.Error("the mark of a dead gateway is trusted after the wait")
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyTheMarkThatWasMeantIsFollowed(t *testing.T) {
	m, other := newTestMark(t), newTestMark(t)
	path, id, _ := strings.Cut(m.place, " ")
	otherPath, _, _ := strings.Cut(other.place, " ")
	plain := filepath.Join(t.TempDir(), "page")
	if err := os.WriteFile(plain, m.page.bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	unsealed, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(unsealed)
	if _, err := unix.Write(unsealed, m.page.bytes); err != nil {
		t.Fatal(err)
	}
	elsewhere := newTestMark(t)
	*elsewhere.page.word(wordNamespace)++
	var r markReader
	for name, place := range map[string]string{
		"empty":                  "",
		"no instance":            path,
		"half an instance":       path + " " + id[:16],
		"another instance":       path + " " + hex.EncodeToString(make([]byte, 16)),
		"the mark of another":    otherPath + " " + id,
		"no descriptor":          "/proc/self/fd/999999 " + id,
		"a file":                 plain + " " + id,
		"a page that can shrink": fmt.Sprintf("/proc/self/fd/%d %s", unsealed, id),
		"another clock":          elsewhere.place,
		"a device":               "/proc/self/fd/../../../dev/zero " + id,
	} {
		if err := r.follow(place); err == nil {
			t.Errorf("%s: followed", name)
		}
	}
	if _, _, ok := r.read(); ok {
		t.Error("trusted")
	}
}

func TestOnlyThisMachineIsToldOfTheMark(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "127.8.9.1:80": true, "[::1]:80": true, "10.0.0.1:80": false, "[fe80::1]:80": false, "": false, "@": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

// marked is a model that moves a mark with every publish.
type marked struct {
	*treetest.Model
	mark  *Mark
	index *atomic.Uint64
}

func (m marked) Publish(ctx context.Context, f tree.File) (tree.Info, error) {
	info, err := m.Model.Publish(ctx, f)
	m.mark.Set(m.index.Add(1))
	return info, err
}

// A client follows the mark of its gateway, and after a restart of the gateway that of the next.
func TestAClientFollowsTheMark(t *testing.T) {
	model := treetest.NewModel()
	var index atomic.Uint64
	start := func() (*Service, *Mark) {
		m := newTestMark(t)
		_, s := NewService(ServiceConfig{Mark: m, Log: slog.New(slog.DiscardHandler), Open: func(context.Context, string, string, string) (tree.Objects, error) {
			return marked{model, m, &index}, nil
		}})
		return s, m
	}
	var now atomic.Pointer[Service]
	service, _ := start()
	now.Store(service)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	t.Cleanup(func() {
		if err := now.Load().Close(); err != nil {
			t.Error(err)
		}
	})
	dial := func(endpoints ...string) *Client {
		c, err := New(t.Context(), Config{Endpoints: endpoints, AccessKey: "k", SecretKey: "s", Bucket: "b", Retry: 2 * time.Second, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return c
	}
	c := dial(srv.URL)
	publish := func(want uint64) {
		t.Helper()
		if _, err := c.Publish(t.Context(), tree.File{Key: "a"}); err != nil {
			t.Fatal(err)
		}
		wantMark(t, &c.mark, want, true)
	}
	publish(1)
	publish(2)
	before, _, _ := c.Mark()
	next, _ := start()
	now.Store(next)
	if err := service.Close(); err != nil {
		t.Fatal(err)
	}
	wantMark(t, &c.mark, 0, false) // the old one has no sessions any more
	publish(3)
	if page, _, _ := c.Mark(); page == before {
		t.Error("the mark of the next gateway has the page of the one before")
	}
}
