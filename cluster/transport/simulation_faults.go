package transport

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Shape sets how the path from one host to another behaves from now on. An empty name stands for every host that has no
// shape of its own.
func (s *Simulation) Shape(from, to string, shape Shape) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shapes[path{from, to}] = shape
}

// Cut lets nothing through from one host to another: neither bytes nor the news that a connection ended. The other
// direction stays as it is, but its writers are told of nothing that was read.
func (s *Simulation) Cut(from, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut(path{from, to})
}

// cut needs mu.
func (s *Simulation) cut(p path) {
	if s.path(p).cut {
		return
	}
	s.path(p).cut = true
	s.land(p)
}

// land marks what has arrived: it is in the other machine, whatever happens to the path. It needs mu.
func (s *Simulation) land(p path) {
	now := time.Now()
	for conn := range s.conns {
		if conn.in.path != p {
			continue
		}
		for i := range conn.in.segments {
			arrived := &conn.in.segments[i]
			arrived.landed = arrived.landed || !arrived.arrives.After(now)
		}
	}
}

// Partition cuts both directions between these hosts and all the others.
func (s *Simulation) Partition(hosts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.hosts {
		if slices.Contains(hosts, name) {
			continue
		}
		for _, host := range hosts {
			s.cut(path{host, name})
			s.cut(path{name, host})
		}
	}
}

// Reset breaks every connection between two hosts, for both ends, and tells how many there were.
func (s *Simulation) Reset(one, other string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for conn := range s.conns {
		if p := conn.out.path; p == (path{one, other}) || p == (path{other, one}) && conn.far.closed {
			conn.breakBoth()
			count++
		}
	}
	return count
}

// Refuse makes a host refuse connections, until Heal.
func (s *Simulation) Refuse(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host(name).refusing = true
}

// Pause stops the process of a host, until Heal: it takes, sends and accepts nothing. Its kernel goes on: connections
// are made, and bytes are taken until the window is full.
func (s *Simulation) Pause(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host(name).paused = true
}

// PowerOff takes a host away with its listeners and its ends of connections. Nobody is told: the other ends are half
// open. Power comes back with Heal.
func (s *Simulation) PowerOff(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.powerOff(name)
}

// powerOff needs mu.
func (s *Simulation) powerOff(name string) {
	host := s.host(name)
	for other := range s.hosts {
		s.land(path{name, other})
	}
	for _, listener := range host.listeners {
		for _, conn := range listener.waiting {
			conn.gone = true
		}
		listener.waiting = nil
		listener.stop()
	}
	for conn := range s.conns {
		if conn.out.path.from == name {
			conn.gone, conn.in.segments = true, nil
			// What was under way is sent by nobody again.
			conn.out.segments = slices.DeleteFunc(conn.out.segments, func(sent segment) bool { return !sent.landed })
			conn.wake()
			delete(s.conns, conn)
		}
	}
	host.off = true
}

// Heal undoes every fault but Reset: paths are whole, hosts have power, run and take connections.
func (s *Simulation) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heal()
}

// heal needs mu.
func (s *Simulation) heal() {
	for _, state := range s.paths {
		state.cut = false
	}
	for _, host := range s.hosts {
		host.off, host.paused, host.refusing = false, false, false
		for _, listener := range host.listeners {
			listener.wake()
		}
	}
	for conn := range s.conns {
		conn.wake()
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Shake draws the next thing to happen to the network, by the seed, does it and says what it was. A test calls it again
// and again while work is under way, and Heal at the end. Half of what it does is to heal, so that work gets done.
// Hosts do not lose power by it: what a process without its listeners does is its owner's matter.
func (s *Simulation) Shake() string {
	s.mu.Lock()
	names := slices.Sorted(maps.Keys(s.hosts))
	if len(names) < 2 {
		s.mu.Unlock()
		return "nothing: there are no two hosts"
	}
	what := s.random.IntN(10)
	order := s.random.Perm(len(names))
	s.mu.Unlock()
	one, other := names[order[0]], names[order[1]]
	switch what {
	case 0:
		s.Cut(one, other)
		return fmt.Sprintf("cut %s to %s", one, other)
	case 1:
		s.Partition(one)
		return fmt.Sprintf("partition %s", one)
	case 2:
		return fmt.Sprintf("reset %d connections between %s and %s", s.Reset(one, other), one, other)
	case 3:
		s.Refuse(one)
		return fmt.Sprintf("%s refuses", one)
	case 4:
		s.Pause(one)
		return fmt.Sprintf("pause %s", one)
	}
	s.Heal()
	return "heal"
}
