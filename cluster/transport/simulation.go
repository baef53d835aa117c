package transport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Simulation is a network in memory. It waits on channels and timers only, so all of it can live in a synctest bubble;
// then time is the bubble's. Make it with NewSimulation, take each machine's Network from Host, and hurt it with the
// methods of simulation_faults.go.
//
// It behaves as TCP does: what was written before a cut and had not arrived, and what is written during it, arrives
// after the cut has healed, unless the connection was given up; a writer blocks when a window of bytes is under way or
// unread; who lost power forgets its connections, and the other end learns of it only when it writes.
type Simulation struct {
	mu     sync.Mutex
	random *rand.Rand
	hosts  map[string]*simulatedHost
	paths  map[path]*pathState
	// shapes are those set by hand; the empty name stands for every host.
	shapes map[path]Shape
	conns  map[*simulatedConn]struct{}
	ports  int
	// changed is closed and replaced when a fault comes or goes: dials wait for it.
	changed chan struct{}
}

// path is one direction between two hosts.
type path struct{ from, to string }

func (p path) reverse() path { return path{p.to, p.from} }

// pathState is what a path carries now.
type pathState struct {
	cut bool
	// busy is when the last byte sent so far has left, where bandwidth is limited.
	busy time.Time
}

// Shape is how a path behaves while it is whole. The zero Shape is instant and perfect.
type Shape struct {
	// Latency is how long a byte is under way; Jitter is the most that is added to it, drawn for each write. Bytes of
	// one connection never overtake each other.
	Latency, Jitter time.Duration
	// Bandwidth is in bytes a second, shared by all connections of the path. Zero means no limit.
	Bandwidth int64
	// ResetAfter is after how many bytes on average, exponentially distributed, a connection breaks. Zero means never.
	ResetAfter int64
}

// window is how many bytes of one direction may be under way or unread: what a kernel keeps for a connection.
const window = 256 << 10

// backlog is how many connections wait for Accept before dials do.
const backlog = 128

// NewSimulation makes a network without hosts. Everything that is drawn follows from seed; which of two goroutines
// draws first does not.
func NewSimulation(seed uint64) *Simulation {
	return &Simulation{
		random: rand.New(rand.NewPCG(seed, 0)), hosts: map[string]*simulatedHost{}, paths: map[path]*pathState{},
		shapes: map[path]Shape{}, conns: map[*simulatedConn]struct{}{}, ports: 40_000, changed: make(chan struct{}),
	}
}

// simulatedHost is one machine. The Simulation's mutex guards its fields.
type simulatedHost struct {
	s         *Simulation
	name      string
	listeners map[string]*simulatedListener
	// off: it has lost power. paused: its process is stopped, its kernel goes on. refusing: it takes no new connections.
	off, paused, refusing bool
}

// Host is the network as one machine sees it. Its addresses are "name:port"; the same name gives the same machine.
func (s *Simulation) Host(name string) Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host(name)
}

// host needs mu.
func (s *Simulation) host(name string) *simulatedHost {
	h := s.hosts[name]
	if h == nil {
		h = &simulatedHost{s: s, name: name, listeners: map[string]*simulatedListener{}}
		s.hosts[name] = h
	}
	return h
}

// path needs mu.
func (s *Simulation) path(p path) *pathState {
	state := s.paths[p]
	if state == nil {
		state = &pathState{}
		s.paths[p] = state
	}
	return state
}

// open says whether bytes come through. It needs mu.
func (s *Simulation) open(p path) bool {
	return !s.path(p).cut && !s.host(p.from).off && !s.host(p.to).off
}

// shape needs mu.
func (s *Simulation) shape(p path) Shape {
	for _, known := range []path{p, {p.from, ""}, {"", p.to}, {}} {
		if shape, set := s.shapes[known]; set {
			return shape
		}
	}
	return Shape{}
}

// travel draws how long something is under way. It needs mu.
func (s *Simulation) travel(p path) time.Duration {
	shape := s.shape(p)
	if shape.Jitter > 0 {
		return shape.Latency + time.Duration(s.random.Int64N(int64(shape.Jitter)))
	}
	return shape.Latency
}

// address is one end of a connection, "host:port".
type address string

func (address) Network() string  { return "simulated" }
func (a address) String() string { return string(a) }

// newAddress needs mu.
func (h *simulatedHost) newAddress() address {
	h.s.ports++
	return address(net.JoinHostPort(h.name, strconv.Itoa(h.s.ports)))
}

// Listen implements Network. The host of the address is this one, or empty.
func (h *simulatedHost) Listen(text string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return nil, err
	}
	if host != "" && host != h.name {
		return nil, fmt.Errorf("listen on %s: %w", text, syscall.EADDRNOTAVAIL)
	}
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	at := address(net.JoinHostPort(h.name, port))
	if port == "0" {
		at = h.newAddress()
	}
	if h.listeners[at.String()] != nil {
		return nil, fmt.Errorf("listen on %s: %w", text, syscall.EADDRINUSE)
	}
	l := &simulatedListener{host: h, at: at, changed: make(chan struct{})}
	h.listeners[at.String()] = l
	return l, nil
}

// Dial implements Network.
func (h *simulatedHost) Dial(ctx context.Context, text string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(text)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "simulated", Addr: address(text), Err: err}
	}
	there := path{h.name, name}
	for {
		h.s.mu.Lock()
		reachable := !h.paused && h.s.open(there) && h.s.open(there.reverse())
		pause := h.s.travel(there) + h.s.travel(there.reverse())
		var changed <-chan struct{} = h.s.changed
		h.s.mu.Unlock()
		if reachable {
			if err := sleep(ctx, pause); err != nil {
				return fail(err)
			}
			conn, again, err := h.connect(there, text)
			if err != nil {
				return fail(err)
			}
			if conn != nil {
				return conn, nil
			}
			changed = again
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
}

// sleep waits, or returns ctx's error.
func sleep(ctx context.Context, pause time.Duration) error {
	if pause <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// connect makes the two ends and hands one to the listener. When that is not possible now, changed says when to try
// again.
func (h *simulatedHost) connect(there path, text string) (conn net.Conn, changed <-chan struct{}, err error) {
	s := h.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open(there) || !s.open(there.reverse()) {
		return nil, s.changed, nil
	}
	target := s.host(there.to)
	listener := target.listeners[text]
	if listener == nil || target.refusing {
		return nil, nil, syscall.ECONNREFUSED
	}
	if len(listener.waiting) >= backlog {
		return nil, listener.changed, nil
	}
	near, far := s.pair(there, h.newAddress(), listener.at)
	listener.waiting = append(listener.waiting, far)
	listener.wake()
	return near, nil, nil
}

// pair makes a connection. It needs mu.
func (s *Simulation) pair(there path, from, to address) (near, far *simulatedConn) {
	out := &pipe{path: there, budget: s.budget(there)}
	back := &pipe{path: there.reverse(), budget: s.budget(there.reverse())}
	near = &simulatedConn{s: s, local: from, remote: to, in: back, out: out, changed: make(chan struct{})}
	far = &simulatedConn{s: s, local: to, remote: from, in: out, out: back, changed: make(chan struct{})}
	near.far, far.far = far, near
	s.conns[near], s.conns[far] = struct{}{}, struct{}{}
	return near, far
}

// budget draws after how many bytes a connection breaks; negative means never. It needs mu.
func (s *Simulation) budget(p path) int64 {
	mean := s.shape(p).ResetAfter
	if mean <= 0 {
		return -1
	}
	return int64(s.random.ExpFloat64() * float64(mean))
}

// simulatedListener is a listener. The Simulation's mutex guards its fields.
type simulatedListener struct {
	host    *simulatedHost
	at      address
	waiting []*simulatedConn
	closed  bool
	changed chan struct{}
}

func (l *simulatedListener) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Accept implements net.Listener.
func (l *simulatedListener) Accept() (net.Conn, error) {
	s := l.host.s
	for {
		s.mu.Lock()
		changed := l.changed
		if l.closed {
			s.mu.Unlock()
			return nil, &net.OpError{Op: "accept", Net: "simulated", Addr: l.at, Err: net.ErrClosed}
		}
		if len(l.waiting) > 0 && !l.host.paused {
			conn := l.waiting[0]
			l.waiting = slices.Delete(l.waiting, 0, 1)
			l.wake()
			s.mu.Unlock()
			return conn, nil
		}
		s.mu.Unlock()
		<-changed
	}
}

// Close implements net.Listener. Connections that were not accepted break.
func (l *simulatedListener) Close() error {
	l.host.s.mu.Lock()
	defer l.host.s.mu.Unlock()
	if l.closed {
		return &net.OpError{Op: "close", Net: "simulated", Addr: l.at, Err: net.ErrClosed}
	}
	l.stop()
	return nil
}

// stop needs mu.
func (l *simulatedListener) stop() {
	l.closed = true
	delete(l.host.listeners, l.at.String())
	for _, conn := range l.waiting {
		conn.breakBoth()
	}
	l.waiting = nil
	l.wake()
}

// Addr implements net.Listener.
func (l *simulatedListener) Addr() net.Addr { return l.at }
