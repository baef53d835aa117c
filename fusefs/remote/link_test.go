package remote_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fault is what a link does to what passes.
type fault int32

const (
	passes fault = iota
	// dies: connections break in the middle of whatever they carry, and new ones are refused.
	dies
	// diesAnswering: what was asked is asked and done, its answers are lost, and then it dies.
	diesAnswering
	// hangs: connections are accepted, and nothing comes through.
	hangs
	// mute: what is asked comes through and is done; no answer comes back.
	mute
	// delays: nothing comes through; once the fault ends, what was asked comes to the gateway after all.
	delays
)

func (f fault) String() string {
	return [...]string{"passes", "dies", "dies answering", "hangs", "mute", "delays"}[f]
}

// answersLost is how many answers a link that dies answering loses before it is dead.
const answersLost = 3

// link is the only way to a gateway.
type link struct {
	t       *testing.T
	target  string
	address string
	running sync.WaitGroup

	// answered counts the answers that passed; lost what a fault kept back or cut off; late what came through after all.
	answered, lost, late atomic.Int64
	// taken counts the bytes that passed on their way to the gateway.
	taken atomic.Int64

	mu       sync.Mutex
	mode     fault
	changed  *sync.Cond
	listener net.Listener
	pairs    map[*pair]bool
}

// pair is a connection that goes through a link: near the client, far the gateway.
type pair struct {
	near, far net.Conn
	waiting   bool // something was asked and not answered
}

func (p *pair) close() {
	_ = p.near.Close()
	_ = p.far.Close()
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	l := &link{t: t, target: target, pairs: map[*pair]bool{}, address: "127.0.0.1:0"}
	l.changed = sync.NewCond(&l.mu)
	l.listen()
	l.address = l.listener.Addr().String()
	t.Cleanup(func() {
		l.close()
		l.running.Wait()
	})
	return l
}

func (l *link) url() string { return "http://" + l.address }

func (l *link) listen() {
	l.t.Helper()
	listener, err := net.Listen("tcp", l.address)
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); {
		<-time.After(10 * time.Millisecond) // another connection has the port for a moment
		listener, err = net.Listen("tcp", l.address)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	l.listener = listener
	l.mu.Unlock()
	l.running.Go(func() { l.accept(listener) })
}

// close ends the listener and cuts every connection.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mode = dies
	_ = l.listener.Close()
	l.cutLocked()
}

// cut ends every connection.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutLocked()
}

func (l *link) cutLocked() {
	for p := range l.pairs {
		if p.waiting {
			l.lost.Add(1)
		}
		p.close()
	}
	clear(l.pairs)
	l.changed.Broadcast()
}

// set begins a fault, under at least one request; passes ends it.
func (l *link) set(f fault) {
	l.t.Helper()
	if f != passes {
		l.wait(func() bool {
			for p := range l.pairs {
				if p.waiting {
					l.mode = f
					return true
				}
			}
			return false
		})
		if f == dies {
			l.close()
		}
		return
	}
	switch before := l.is(); before {
	case dies, diesAnswering:
		l.close()
		l.become(passes)
		l.listen()
	case delays:
		l.become(passes)
	default:
		l.cut() // what hung stays lost
		l.become(passes)
	}
}

func (l *link) become(f fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mode = f
	l.changed.Broadcast()
}

// wait polls a condition under the lock.
func (l *link) wait(ok func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(50 * time.Microsecond) {
		l.mu.Lock()
		done := ok()
		l.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatal("no request is under way")
		}
	}
}

func (l *link) is() fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mode
}

func (l *link) accept(listener net.Listener) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		p := &pair{near: near, far: far}
		l.mu.Lock()
		l.pairs[p] = true
		if l.mode == dies {
			p.close()
		}
		l.mu.Unlock()
		l.running.Go(func() { l.copy(p, far, near, true) })
		l.running.Go(func() { l.copy(p, near, far, false) })
	}
}

func (l *link) copy(p *pair, to, from net.Conn, up bool) {
	defer l.forget(p)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil && (n == 0 || l.is() != delays) {
			if up {
				l.outlast() // the client gave up; what it asked may be on its way still
			}
			return
		}
		switch l.through(p, up) {
		case lose:
			continue
		case cut:
			return
		}
		if up {
			l.taken.Add(int64(n))
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// forget ends a connection.
func (l *link) forget(p *pair) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.close()
	if l.pairs[p] && p.waiting && l.mode != passes {
		l.lost.Add(1) // the client gave up
	}
	delete(l.pairs, p)
}

// outlast waits for the end of a delay.
func (l *link) outlast() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.mode == delays {
		l.changed.Wait()
	}
}

type verdict int

const (
	pass verdict = iota
	lose
	cut
)

// through decides what becomes of bytes.
func (l *link) through(p *pair, up bool) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f := l.mode; {
	case f == dies:
		return cut
	case f == hangs, f == mute && !up:
		l.lost.Add(1)
		return lose
	case f == diesAnswering && !up:
		if l.lost.Add(1) == answersLost {
			l.running.Go(l.close)
		}
		return cut
	case f == delays && up:
		l.lost.Add(1)
		for l.mode == delays {
			l.changed.Wait()
		}
		l.late.Add(1)
	case f == delays:
		l.lost.Add(1)
		return lose
	}
	p.waiting = up
	if !up {
		l.answered.Add(1)
	}
	return pass
}
