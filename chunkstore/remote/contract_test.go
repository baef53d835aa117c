package remote_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/chunkstore"
	"github.com/holdfast/holdfast/chunkstore/drive"
	"github.com/holdfast/holdfast/chunkstore/drivetest"
	"github.com/holdfast/holdfast/chunkstore/memory"
	"github.com/holdfast/holdfast/chunkstore/remote"
	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	here    = cluster.ClusterID{1, 2, 3}
	driveID = cluster.DriveID{4, 5, 6}
	peerID  = cluster.PeerID{7}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantIs(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// pipes is a network of one server: a listener whose connections are net.Pipes.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
	// wrap, when not nil, stands between the server and the connection.
	wrap func(net.Conn) net.Conn
	// hasty is for HTTP/1.1 alone: HTTP/2 sets deadlines for what it writes.
	hasty bool
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

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "example.com:443" }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var a, b net.Conn = net.Pipe()
	if p.hasty {
		a, b = hasty{a}, hasty{b}
	}
	if p.wrap != nil {
		b = p.wrap(b)
	}
	select {
	case p.conns <- b:
		return a, nil
	case <-p.done:
		return nil, errors.Join(net.ErrClosed, a.Close(), b.Close())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), a.Close(), b.Close())
	}
}

// hasty gives up at once what TLS says at the end of a connection, for which it would wait 5 s: net/http holds a mutex
// meanwhile, and the time of a bubble stands still while another goroutine waits for that.
type hasty struct{ net.Conn }

func (h hasty) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		t = time.Now()
	}
	return h.Conn.SetWriteDeadline(t)
}

// network is one way to reach a server.
type network struct {
	name  string
	http2 bool
	pipes bool
}

var networks = []network{
	{"HTTP1OverLoopback", false, false},
	{"HTTP2OverLoopback", true, false},
	{"HTTP1OverPipe", false, true},
	{"HTTP2OverPipe", true, true},
}

// link is a running server and how to reach it.
type link struct {
	server *httptest.Server
	client *http.Client
	pipes  *pipes
}

// newLink serves h over TLS and closes the server with the test. wrap, when not nil, stands between the server and its
// connections, below TLS; where no pipes are used it must be nil.
func (n network) newLink(t testing.TB, h http.Handler, wrap func(net.Conn) net.Conn) *link {
	t.Helper()
	l := &link{}
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if (r.ProtoMajor == 2) != n.http2 {
			t.Errorf("call over %s", r.Proto)
		}
		h.ServeHTTP(w, r)
	})
	l.server = httptest.NewUnstartedServer(counted)
	l.server.EnableHTTP2 = n.http2
	remote.TuneServer(l.server.Config)
	l.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if n.pipes {
		must(t, l.server.Listener.Close())
		l.pipes = newPipes()
		l.pipes.wrap, l.pipes.hasty = wrap, !n.http2
		l.server.Listener = l.pipes
	}
	l.server.StartTLS()
	l.client = l.server.Client()
	transport := l.client.Transport.(*http.Transport)
	remote.TuneTransport(transport)
	transport.DialContext = nil
	if n.pipes {
		transport.DialContext = l.pipes.dial
	}
	t.Cleanup(l.close)
	return l
}

func (l *link) close() {
	l.client.CloseIdleConnections()
	l.server.CloseClientConnections()
	l.server.Close()
}

// serve returns the handler of one drive.
func serve(d func() chunkstore.Drive) http.Handler {
	return remote.Handler(func(id cluster.DriveID) (chunkstore.Drive, bool) { return d(), id == driveID },
		remote.HandlerOptions{Cluster: here})
}

// drive returns the drive behind the link, closed with the test.
func (l *link) drive(t testing.TB, edit ...func(*remote.Options)) *remote.Drive {
	t.Helper()
	o := remote.Options{Cluster: here, Peer: peerID}
	for _, e := range edit {
		e(&o)
	}
	d := remote.New(l.client, l.server.URL, driveID, o)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

func TestContractOverMemoryDrive(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			drivetest.Run(t, func(t testing.TB) drivetest.Env {
				m := memory.New(driveID)
				l := n.newLink(t, serve(func() chunkstore.Drive { return m }), nil)
				return drivetest.Env{
					Drive: l.drive(t),
					Reopen: func(t testing.TB, d chunkstore.Drive) chunkstore.Drive {
						must(t, d.Close())
						return l.drive(t)
					},
					Damage: func(t testing.TB, _ chunkstore.Drive, s *drivetest.Shard, off int64) {
						if !m.Damage(s.Header.Key, off) {
							t.Fatal("no such shard")
						}
					},
					SetFull: func(_ testing.TB, full bool) { m.SetFull(full) },
				}
			})
		})
	}
}

const home = "/mnt/d1"

func openDisk(t testing.TB, m *vfs.Memory) *drive.Drive {
	t.Helper()
	d, err := drive.Open(context.Background(), drive.Config{FS: m, Dir: home, Cluster: here, Reserve: -1, Watch: -1})
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

func TestContractOverDiskDrive(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			drivetest.Run(t, func(t testing.TB) drivetest.Env {
				m := vfs.NewMemory(1)
				must(t, drive.Init(m, home, drive.Identity{
					Format: drive.IdentityFormat, Cluster: here, Drive: driveID, Name: "d1",
					Created: time.Unix(1_790_000_000, 0).UTC(), IntegrityKey: [32]byte{7},
				}))
				disk := openDisk(t, m)
				l := n.newLink(t, serve(func() chunkstore.Drive { return disk }), nil)
				return drivetest.Env{
					Drive: l.drive(t),
					Reopen: func(t testing.TB, d chunkstore.Drive) chunkstore.Drive {
						must(t, d.Close())
						must(t, disk.Close())
						disk = openDisk(t, m)
						return l.drive(t)
					},
					Damage: func(t testing.TB, _ chunkstore.Drive, s *drivetest.Shard, off int64) {
						damageOnDisk(t, m, s.Payload[off:off+32])
					},
					SetFull: func(_ testing.TB, full bool) {
						m.SetCapacity(0)
						if full {
							m.SetCapacity(1)
						}
					},
				}
			})
		})
	}
}

// damageOnDisk flips a bit of the file that holds the bytes.
func damageOnDisk(t testing.TB, m *vfs.Memory, bytes []byte) {
	t.Helper()
	dirs, err := m.ReadDir(home + "/volumes")
	must(t, err)
	for _, dir := range dirs {
		files, err := m.ReadDir(home + "/volumes/" + dir.Name())
		must(t, err)
		for _, file := range files {
			name := home + "/volumes/" + dir.Name() + "/" + file.Name()
			content, err := vfs.ReadFile(m, name, 1<<30)
			must(t, err)
			if at := strings.Index(string(content), string(bytes)); at >= 0 {
				must(t, m.Corrupt(name, int64(at), func(b []byte) { b[0] ^= 1 }))
				return
			}
		}
	}
	t.Fatal("the shard's bytes are in no file")
}
