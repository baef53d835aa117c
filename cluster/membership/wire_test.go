package membership

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// wire is a network in memory that can be cut, and that somebody listens to.
type wire struct {
	mu    sync.Mutex
	ports map[string]*port
	next  int
	// cut says whether nothing gets from one address to another.
	cut func(from, to string) bool
	// mute lets streams pass and no packets.
	mute bool
	// heard gets every packet sent.
	heard func(from, to string, packet []byte)
}

func newWire() *wire { return &wire{ports: map[string]*port{}} }

// port is one peer's transport.
type port struct {
	wire    *wire
	addr    *net.UDPAddr
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (w *wire) port() *port {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	p := &port{
		wire: w, addr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(fmt.Sprintf("10.0.%d.%d:7000", w.next/250, 1+w.next%250))),
		packets: make(chan *memberlist.Packet, 256), streams: make(chan net.Conn, 64),
	}
	w.ports[p.addr.String()] = p
	return p
}

func (w *wire) setCut(cut func(from, to string) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

func (w *wire) listen(heard func(from, to string, packet []byte)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = heard
}

// route returns nil when nothing gets there.
func (w *wire) route(from, to string) *port {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut != nil && w.cut(from, to) {
		return nil
	}
	return w.ports[to]
}

func (p *port) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return p.addr.IP, p.addr.Port, nil
}

func (p *port) WriteTo(b []byte, addr string) (time.Time, error) {
	p.wire.mu.Lock()
	heard, mute := p.wire.heard, p.wire.mute
	p.wire.mu.Unlock()
	if heard != nil {
		heard(p.addr.String(), addr, append([]byte(nil), b...))
	}
	if to := p.wire.route(p.addr.String(), addr); to != nil && !mute {
		to.take(append([]byte(nil), b...), p.addr)
	}
	return time.Now(), nil
}

func (p *port) take(b []byte, from net.Addr) {
	select {
	case p.packets <- &memberlist.Packet{Buf: b, From: from, Timestamp: time.Now()}:
	default:
	}
}

func (p *port) PacketCh() <-chan *memberlist.Packet { return p.packets }
func (p *port) StreamCh() <-chan net.Conn           { return p.streams }

// DialTimeout hangs where nothing answers, like a host behind a filter.
func (p *port) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to := p.wire.route(p.addr.String(), addr)
	if to == nil {
		<-time.After(timeout)
		return nil, errors.New("no answer")
	}
	ours, theirs := net.Pipe()
	select {
	case to.streams <- theirs:
		return ours, nil
	default:
		return nil, errors.New("refused")
	}
}

func (p *port) Shutdown() error {
	p.wire.mu.Lock()
	defer p.wire.mu.Unlock()
	if p.wire.ports[p.addr.String()] == p {
		delete(p.wire.ports, p.addr.String())
	}
	return nil
}

func packetOf(b []byte) *memberlist.Packet {
	return &memberlist.Packet{Buf: b, From: &net.UDPAddr{IP: net.IPv4(10, 9, 9, 9), Port: 1}, Timestamp: time.Now()}
}
