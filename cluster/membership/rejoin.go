package membership

import (
	"context"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// joinLimit is how many joins may be under way: each is a goroutine and a socket. Who does not answer keeps a place for
// two dials and two exchanges at most.
const joinLimit = 256

// mergePause lies between the first two exchanges of a join: the other side answers before it takes in what it was
// told. A busy machine may take longer, so up to mergeTries more follow, each after four times as long.
const (
	mergePause = 50 * time.Millisecond
	mergeTries = 3
)

// exchangeMost is in how large a cluster every peer exchanges with somebody who is alive in every round. In a larger one
// fewer do, so that a peer is not asked more often: each exchange holds what is known of all.
const exchangeMost = 32

// joining is the joins under way. An address is tried once at a time, so that one which hangs does not pile up.
type joining struct {
	tried, failed atomic.Uint64

	mu    sync.Mutex
	going map[Address]bool
}

func (j *joining) begin(a Address) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.going[a] || len(j.going) >= joinLimit {
		return false
	}
	if j.going == nil {
		j.going = map[Address]bool{}
	}
	j.going[a] = true
	return true
}

func (j *joining) end(a Address) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.going, a)
}

// rejoin runs until the peer leaves or closes.
func (m *Membership) rejoin() {
	for {
		m.forget()
		for _, a := range m.targets() {
			if m.joins.begin(a) {
				m.wait.Go(func() { m.join(a) })
			}
		}
		// Up to a fifth earlier, so that peers which started together do not join together for ever.
		pause := m.config.Timing.Rejoin
		select {
		case <-time.After(pause - rand.N(pause/5+1)):
		case <-m.ctx.Done():
			return
		}
	}
}

// targets returns, in random order, every known peer that is not alive, where the root group has it and where it was
// last heard of, and one member that is alive, for what gossip has not brought: memberlist by itself exchanges with one
// member every 30 s only.
func (m *Membership) targets() []Address {
	var list, alive []Address
	for _, a := range m.config.Known() {
		if a.ID != m.config.Self && a.Gossip != "" && !m.up(a.ID) {
			list = append(list, a)
		}
	}
	for _, member := range m.Members() {
		a := Address{member.ID, member.Gossip.String()}
		switch {
		case member.ID == m.config.Self:
		case member.State.Up():
			alive = append(alive, a)
		default:
			list = append(list, a)
		}
	}
	if len(alive) > 0 && rand.IntN(len(alive)) < exchangeMost {
		list = append(list, alive[rand.IntN(len(alive))])
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	seen := map[Address]bool{}
	unique := list[:0]
	for _, a := range list {
		if !seen[a] {
			seen[a] = true
			unique = append(unique, a)
		}
	}
	return unique
}

func (m *Membership) up(id cluster.PeerID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shown(id).look().State.Up()
}

// join exchanges everything with the address, again if the peer is not alive then: in the first exchange each side learns
// that the other holds it dead and raises its number, which the second carries.
func (m *Membership) join(a Address) {
	defer m.joins.end(a)
	wasUp := m.up(a.ID)
	if !wasUp {
		m.joins.tried.Add(1)
	}
	err := m.exchange(a)
	pause := mergePause
	for range mergeTries {
		if err != nil || m.up(a.ID) {
			break
		}
		select {
		case <-time.After(pause):
			err = m.exchange(a)
		case <-m.ctx.Done():
			return
		}
		pause *= 4
	}
	if err != nil && !wasUp && m.ctx.Err() == nil {
		m.joins.failed.Add(1)
		m.log.Debug("peer not joined", "member", a.ID.String(), "gossip", a.Gossip, "err", err)
	}
}

func (m *Membership) exchange(a Address) error {
	ctx, cancel := context.WithTimeout(m.ctx, m.config.Timing.Stream)
	defer cancel()
	places, err := lookUp(ctx, a.Gossip)
	if err != nil {
		return err
	}
	for i, place := range places {
		places[i] = a.ID.String() + "/" + place
	}
	// It returns within Timing.Stream for the dial and again for the exchange, of each place; Close ends both.
	_, err = m.list.Join(places)
	return err
}

// lookUp turns host:port into IP addresses with ports, two of them at most: memberlist's own lookup has no time limit,
// and a name with many addresses must not hold a join for long.
func lookUp(ctx context.Context, hostPort string) ([]string, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []string{net.JoinHostPort(ip.String(), port)}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var places []string
	for _, ip := range ips[:min(len(ips), 2)] {
		places = append(places, net.JoinHostPort(ip.Unmap().String(), port))
	}
	return places, nil
}

// forget drops members that are no longer in the cluster and not alive, and suspicions that came to nothing: an answer
// by way of a third peer ends them without a word to us.
func (m *Membership) forget() {
	old := time.Now().Add(-suspicionFactor * suspicionMost * m.config.Timing.Probe)
	for _, id := range m.ids() {
		allowed := m.allowed(id)
		m.change(id, func(ls lives) {
			for incarnation, l := range ls {
				switch {
				case !allowed && !l.up():
					delete(ls, incarnation)
				case !l.suspected.IsZero() && l.suspected.Before(old):
					l.suspected = time.Time{}
				}
			}
		})
	}
}

// ids are the peers that were heard of.
func (m *Membership) ids() []cluster.PeerID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.peers))
}
