package transport

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Network is how one process reaches others. Addresses are "host:port". Methods may be called concurrently.
//
// Its connections are reliable, ordered streams of bytes with the deadlines of net.Conn: an operation past its deadline
// fails with os.ErrDeadlineExceeded, one on a closed connection or listener with net.ErrClosed. A Read gives io.EOF
// after the last byte that was written before the other end's Close, and an error that is neither of these when the
// connection broke. Close lets every operation under way go. Package transporttest holds each Network to this.
type Network interface {
	// Listen takes connections at address. Port 0 takes a free one, which Addr tells.
	Listen(address string) (net.Listener, error)
	// Dial connects. It fails at once, with syscall.ECONNREFUSED, where nobody listens, and waits for ctx where nothing
	// answers; the error then is ctx's.
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// TCP is the Network of the machine.
type TCP struct{}

// How long the kernel waits before it gives up on a connection.
const (
	// keepAlivePause: on a connection on which nothing moves the kernel asks after 5 s, and then each 5 s; three
	// questions without an answer end it.
	keepAlivePause = 5 * time.Second
	keepAliveCount = 3
	// unackedLimit is how long bytes may stay without an acknowledgement. It also ends connections whose other end does
	// not read, so it is no shorter than the server's Stall, which ends them anyway.
	unackedLimit = DefaultServerStall
)

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: keepAlivePause, Interval: keepAlivePause, Count: keepAliveCount}

// Listen implements Network.
func (TCP) Listen(address string) (net.Listener, error) {
	// Connections inherit the limit from their listener.
	config := net.ListenConfig{KeepAliveConfig: keepAlive, Control: limitUnacked}
	return config.Listen(context.Background(), "tcp", address)
}

// Dial implements Network.
func (TCP) Dial(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{KeepAliveConfig: keepAlive, Control: limitUnacked}
	return dialer.DialContext(ctx, "tcp", address)
}

func limitUnacked(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedLimit.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}
