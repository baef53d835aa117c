package membership

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster"
)

// seal makes what memberlist sends: a message sealed with the key, bound to the given bytes.
func seal(t testing.TB, key Key, bound []byte, plain []byte) []byte {
	t.Helper()
	r, err := newRing([]Key{key})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 1+nonceSize)
	out[0] = sealedVersion
	id := cluster.NewID()
	copy(out[1:], id[:])
	return r.sealers()[0].aead.Seal(out, out[1:], plain, bound)
}

func labelled(label string, rest []byte) []byte {
	return append(append([]byte{kindLabel, byte(len(label))}, label...), rest...)
}

func sealedPacket(t testing.TB, key Key, label string, plain []byte) []byte {
	return labelled(label, seal(t, key, []byte(label), plain))
}

func sealedStream(t testing.TB, key Key, label string, plain []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{kindSealed}, uint32(sealOverhead+len(plain)))
	return labelled(label, append(head, seal(t, key, append(head[:5:5], label...), plain)...))
}

func TestDroppedPacketsAreCounted(t *testing.T) {
	ours, random := label(testCluster), make([]byte, 300)
	src := rand.NewChaCha8([32]byte{7})
	_, _ = src.Read(random)
	ping := []byte{0, 0x80} // an empty message
	crc := binary.BigEndian.AppendUint32([]byte{kindSummed}, crc32.ChecksumIEEE([]byte{9, 1}))
	padded := sealedPacket(t, testKey, ours, ping)
	padded[2+len(ours)] = 0 // memberlist's older form, with padding
	for name, c := range map[string]struct {
		packet []byte
		want   refusal
	}{
		"plain, no label":            {ping, malformed},
		"plain, right label":         {labelled(ours, ping), wrongKey},
		"plain compound":             {labelled(ours, append([]byte{kindCompound}, random...)), wrongKey},
		"wrong key":                  {sealedPacket(t, Key{66}, ours, ping), wrongKey},
		"another cluster, our key":   {sealedPacket(t, testKey, label(cluster.ClusterID{2}), ping), wrongLabel},
		"another label on our bytes": {labelled(ours, seal(t, testKey, []byte(label(cluster.ClusterID{2})), ping)), wrongKey},
		"no label, sealed":           {seal(t, testKey, nil, ping), malformed},
		"nothing":                    {nil, malformed},
		"half a label":               {labelled(ours, nil)[:10], malformed},
		"label only":                 {labelled(ours, nil), malformed},
		"cut":                        {sealedPacket(t, testKey, ours, ping)[:73], wrongKey},
		"too short":                  {labelled(ours, []byte{sealedVersion, 2, 3}), malformed},
		"random":                     {random, malformed},
		"random, right label":        {labelled(ours, append([]byte{sealedVersion}, random...)), wrongKey},
		"older form":                 {padded, wrongKey},
		"sealed nothing":             {sealedPacket(t, testKey, ours, nil), malformed},
		"compressed":                 {sealedPacket(t, testKey, ours, []byte{9, 1, 2}), malformed},
		"compressed in a compound":   {sealedPacket(t, testKey, ours, []byte{kindCompound, 1, 0, 2, 9, 1}), malformed},
		"compressed and summed":      {sealedPacket(t, testKey, ours, append(crc, 9, 1)), malformed},
		"wrong sum":                  {sealedPacket(t, testKey, ours, append(crc, 0, 1)), malformed},
		"compound in a compound":     {sealedPacket(t, testKey, ours, []byte{kindCompound, 1, 0, 2, kindCompound, 0}), malformed},
		"compound that is cut":       {sealedPacket(t, testKey, ours, []byte{kindCompound, 200, 0}), malformed},
		"user message":               {sealedPacket(t, testKey, ours, []byte{8, 1}), malformed},
		"unknown kind":               {sealedPacket(t, testKey, ours, []byte{99}), malformed},
	} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, 2, nil)
			g.awaitWhole(soon)
			target := g.wire.route("", g.known[0].Gossip)
			before := g.peers[0].gate.refused[c.want].Load()
			for range 3 {
				target.take(bytes.Clone(c.packet), target.addr)
			}
			await(t, soon, name+" is counted", func() bool { return g.peers[0].gate.refused[c.want].Load() == before+3 })
			<-time.After(10 * time.Second)
			if !g.whole() {
				t.Errorf("%s: %s", name, states(g.peers[0]))
			}
		})
	}
}

func TestReplayedPacketsAreDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 3, nil)
		var mu sync.Mutex
		var tape [][]byte
		one := g.known[0].Gossip
		g.wire.listen(func(_, to string, packet []byte) {
			mu.Lock()
			defer mu.Unlock()
			if to == one {
				tape = append(tape, packet)
			}
		})
		g.awaitWhole(soon)
		<-time.After(10 * time.Second)
		g.kill(2) // suspicion, death and the news of it are on the tape too
		await(t, soon, "dead", func() bool { return seen(g.peers[0], 2).State == Dead })
		g.comeBack(2, g.known[1].Gossip)
		g.awaitWhole(soon)
		g.wire.listen(nil)
		<-time.After(time.Second)

		mu.Lock()
		defer mu.Unlock()
		before := g.peers[0].Stats().Replayed
		target := g.wire.route("", one)
		for _, packet := range tape {
			target.take(packet, target.addr)
			<-time.After(time.Millisecond)
		}
		if got := g.peers[0].Stats().Replayed - before; got != uint64(len(tape)) || len(tape) < 20 {
			t.Errorf("%d of %d replayed packets dropped", got, len(tape))
		}
		<-time.After(10 * time.Second)
		if !g.whole() {
			t.Error(states(g.peers[0]))
		}
	})
}

func TestDroppedStreamsAreCounted(t *testing.T) {
	ours := label(testCluster)
	state := []byte{kindPushPull, 0x83} // cut, but sealed and of a known kind: memberlist refuses it
	huge := labelled(ours, []byte{kindSealed, 0xff, 0xff, 0xff, 0xff})
	for name, c := range map[string]struct {
		bytes []byte
		want  refusal
	}{
		"plain":             {labelled(ours, state), wrongKey},
		"no label":          {state, malformed},
		"wrong key":         {sealedStream(t, Key{66}, ours, state), wrongKey},
		"another cluster":   {sealedStream(t, testKey, label(cluster.ClusterID{2}), state), wrongLabel},
		"sealed nothing":    {sealedStream(t, testKey, ours, nil), malformed},
		"compressed":        {sealedStream(t, testKey, ours, []byte{9, 1}), malformed},
		"user message":      {sealedStream(t, testKey, ours, []byte{8, 1}), malformed},
		"announced as huge": {huge, malformed},
		"cut":               {sealedStream(t, testKey, ours, state)[:70], malformed},
		"half a label":      {[]byte{kindLabel}, malformed},
	} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, 2, nil)
			g.awaitWhole(soon)
			g.send(1, c.bytes)
			await(t, soon, name+" is counted", func() bool { return g.peers[0].gate.refused[c.want].Load() == 1 })
			if !g.whole() {
				t.Error(states(g.peers[0]))
			}
		})
	}
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 2, nil)
		g.awaitWhole(soon)
		message := sealedStream(t, testKey, ours, state)
		before := g.peers[0].dropped()
		g.send(1, message)
		synctest.Wait()
		if got := g.peers[0].dropped(); got != before {
			t.Errorf("dropped %v, before %v", got, before)
		}
		g.send(1, message)
		await(t, soon, "replay is counted", func() bool { return g.peers[0].Stats().Replayed == 1 })
		before = g.peers[0].dropped()
		g.send(1, nil) // somebody looks whether the port is open
		<-time.After(10 * time.Second)
		if got := g.peers[0].dropped(); got != before {
			t.Errorf("dropped %v, before %v", got, before)
		}
	})
}

// dropped is how many packets and streams the gate has dropped, by why.
func (m *Membership) dropped() (counts [refusals]uint64) {
	for why := range counts {
		counts[why] = m.gate.refused[why].Load()
	}
	return counts
}

// send opens a stream to peer i, writes the bytes and closes it.
func (g *group) send(i int, message []byte) {
	g.t.Helper()
	conn, err := g.wire.port().DialTimeout(g.known[i-1].Gossip, time.Second)
	if err != nil {
		g.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write(message) // refused before its end, perhaps
	_ = conn.Close()
}

func TestSilentStreamsAreCutAndBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 1, nil) // nobody else's streams come between
		from := g.wire.port()
		var conns []net.Conn
		for range admitLimit + 8 {
			conn, err := from.DialTimeout(g.known[0].Gossip, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		await(t, soon, "the rest is refused", func() bool { return g.peers[0].Stats().Busy == 8 })
		for _, conn := range conns {
			if n, err := io.Copy(io.Discard, conn); n != 0 || err != nil {
				t.Errorf("%d bytes came back, %v", n, err)
			}
		}
		await(t, soon, "the others are cut", func() bool { return g.peers[0].Stats().Malformed == admitLimit })
	})
}

// TestUnprovenStreamsHoldLittle: without a key, many large messages at once take little memory, and it comes back.
func TestUnprovenStreamsHoldLittle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGroup(t, 1, nil)
		e := g.peers[0].gate.envelope
		from := g.wire.port()
		var writers sync.WaitGroup
		for range admitLimit {
			conn, err := from.DialTimeout(g.known[0].Gossip, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			writers.Go(func() {
				head := binary.BigEndian.AppendUint32([]byte{kindSealed}, streamLimit)
				_, _ = conn.Write(labelled(label(testCluster), head))
				_, _ = conn.Write(make([]byte, streamLimit-1)) // then silence
			})
			t.Cleanup(func() { _ = conn.Close() })
		}
		synctest.Wait()
		if got := e.asking.held.Load(); got > unprovenLimit {
			t.Errorf("%d bytes are held", got)
		}
		if s := g.peers[0].Stats(); s.Busy < admitLimit-unprovenLimit/streamLimit {
			t.Errorf("stats %+v", s)
		}
		await(t, soon, "cut and given back", func() bool {
			s := g.peers[0].Stats()
			return s.Malformed+s.Busy == admitLimit && e.asking.held.Load() == 0
		})
		writers.Wait()
	})
}

// TestAnAnswerIsCheckedToo: a peer that is joined may answer with anything.
func TestAnAnswerIsCheckedToo(t *testing.T) {
	for name, answer := range map[string][]byte{
		"plain":          {kindPushPull, 0x80},
		"sealed nothing": sealedStream(t, testKey, label(testCluster), nil)[2+len(label(testCluster)):],
		"wrong key":      sealedStream(t, Key{5}, label(testCluster), []byte{kindPushPull})[2+len(label(testCluster)):],
	} {
		bubble(t, func(t *testing.T) {
			g := newGroup(t, 1, nil)
			liar := g.wire.port()
			g.mu.Lock()
			g.known = append(g.known, Address{peerID(2), liar.addr.String()})
			g.mu.Unlock()
			conn := <-liar.streams
			if _, err := g.peers[0].gate.envelope.request(conn); err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(answer)
			_ = conn.Close()
			await(t, soon, name+" is counted", func() bool {
				s := g.peers[0].Stats()
				return s.WrongKey+s.Malformed == 1 && s.JoinsFailed > 0
			})
			if s := g.peers[0].Stats(); s.Alive != 1 || s.Unseen != 1 {
				t.Errorf("%s: stats %+v", name, s)
			}
		})
	}
}

func TestNoncesAreRememberedAndBounded(t *testing.T) {
	var n nonces
	nonce := func(i int) (out [nonceSize]byte) {
		binary.LittleEndian.PutUint64(out[:], uint64(i))
		return out
	}
	for i := range 3 * noncesKept {
		if !n.add(nonce(i)) {
			t.Fatal("a new nonce was refused")
		}
		if back := i - noncesKept; back >= 0 && i%97 == 0 && n.add(nonce(back+1)) {
			t.Fatalf("%d forgotten after %d more", back+1, noncesKept)
		}
	}
	if len(n.young)+len(n.old) > 2*noncesKept {
		t.Errorf("%d nonces kept", len(n.young)+len(n.old))
	}
}

// FuzzPacket sends any bytes, as they are and sealed with the right key, to a peer that is running.
func FuzzPacket(f *testing.F) {
	for _, plain := range [][]byte{nil, {0, 0x80}, {4, 0x81, 0xa4, 'N', 'o', 'd', 'e', 0xa1, 'x'}, {kindCompound, 1, 0, 2, 0, 0x80}, {9, 1}, {kindSummed, 0, 0, 0, 0, 1}} {
		f.Add(plain)
	}
	w := newWire()
	p := w.port()
	g := &group{known: []Address{{peerID(1), p.addr.String()}}, wire: w}
	m, err := Start(g.config(1, p))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if s := m.Stats(); s.Alive != 1 {
			f.Errorf("stats %+v", s)
		}
		if err := m.Close(); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		p.packets <- packetOf(b)
		p.packets <- packetOf(labelled(label(testCluster), b))
		p.packets <- packetOf(sealedPacket(t, testKey, label(testCluster), b))
		if packetKind(b) && (b[0] == 9 || b[0] == 8) {
			t.Error("compressed and user messages are not for memberlist")
		}
		_, _ = m.gate.envelope.request(bytes.NewReader(b))
	})
}
