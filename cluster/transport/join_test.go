package transport_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
)

// joining is a peer whose Join echoes what it reads until the connection ends.
type joining struct {
	served, ended atomic.Int64
}

func (j *joining) options() options {
	return options{server: func(c *transport.ServerConfig) { c.Join = j.serve }, routes: []transport.Route{peerRoute("POST /echo", echo)}}
}

func (j *joining) serve(ctx context.Context, conn *tls.Conn) {
	j.served.Add(1)
	defer j.ended.Add(1)
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		return
	}
	_, _ = conn.Write(b)
	if string(b) == "stay" {
		<-ctx.Done()
	}
}

// pinned is a connection of a joining peer.
func pinned(t *testing.T, r *realm, network transport.Network, to *site) (*tls.Conn, error) {
	t.Helper()
	conn, err := network.Dial(t.Context(), to.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	secure := tls.Client(conn, trust.PinnedConfig(r.authority.Pin(), time.Now))
	return secure, secure.Handshake()
}

// converse says a word and reads the answer; then the connection must end.
func converse(conn *tls.Conn, word string) (string, error) {
	if _, err := io.WriteString(conn, word); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// TestJoiningPeersAreServedBesidePeers: on one address, and neither comes where the other is.
func TestJoiningPeersAreServedBesidePeers(t *testing.T) {
	r, j := newRealm(t), &joining{}
	to := r.start(transport.TCP{}, "127.0.0.1:0", j.options())
	conn, err := pinned(t, r, transport.TCP{}, to)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := converse(conn, "join"); answer != "join" || err != nil {
		t.Errorf("answer %q, %v", answer, err)
	}
	wantServes(t, r, to)

	// HTTP over the protocol of joining meets no route.
	conn, err = pinned(t, r, transport.TCP{}, to)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := converse(conn, "POST /echo HTTP/1.1\r\nHost: peer\r\n\r\n"); answer != "POST" {
		t.Errorf("answer %q, %v", answer, err)
	}
	// Who names both protocols is taken for a peer, and has no certificate.
	config := trust.PinnedConfig(r.authority.Pin(), time.Now)
	config.NextProtos = append([]string{trust.JoinProtocol}, transport.Protocols()...)
	config.VerifyConnection = nil
	if _, err := knock(t, to.server.Addr(), config); err == nil {
		t.Error("a peer without a certificate is answered")
	}
	to.wantCounts(t, map[trust.Reason]uint64{trust.ErrNoCertificate: 1})
	if j.served.Load() != 2 {
		t.Errorf("%d were served", j.served.Load())
	}
}

// TestJoiningPeersAreBounded in number and time, and hold up nobody else.
func TestJoiningPeersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, j, net := newRealm(t), &joining{}, transport.NewSimulation(1)
		to := r.start(net.Host("b"), "b:1", j.options())
		var silent []*tls.Conn
		for range 16 {
			conn, err := pinned(t, r, net.Host("stranger"), to)
			if err != nil {
				t.Fatal(err)
			}
			silent = append(silent, conn)
		}
		synctest.Wait()
		begin := time.Now()
		conn, err := pinned(t, r, net.Host("late"), to)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		if err == nil || time.Since(begin) > time.Second || j.served.Load() != 16 {
			t.Errorf("beside 16 others: %v after %v, %d served", err, time.Since(begin), j.served.Load())
		}
		from := r.start(net.Host("a"), "a:1", options{})
		if answer, err := post(t.Context(), from.to(to).Do, "/echo", nil); err != nil {
			t.Error(answer, err)
		}
		if _, err := silent[0].Read(make([]byte, 1)); err == nil || time.Since(begin) > 31*time.Second {
			t.Errorf("a silent one is cut after %v, %v", time.Since(begin), err)
		}
		synctest.Wait()
		if j.ended.Load() != 16 {
			t.Errorf("%d have ended", j.ended.Load())
		}
		if conn, err = pinned(t, r, net.Host("late"), to); err != nil {
			t.Fatal(err)
		}
		if answer, err := converse(conn, "join"); answer != "join" || err != nil {
			t.Errorf("then: %q, %v", answer, err)
		}
	})
}

// TestAServerThatStopsWaitsForNoJoin: it can be made again, elsewhere.
func TestAServerThatStopsWaitsForNoJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, j, sim := newRealm(t), &joining{}, transport.NewSimulation(1)
		to := r.start(sim.Host("b"), "b:1", j.options())
		for _, word := range []string{"", "stay"} {
			conn, err := pinned(t, r, sim.Host("a"), to)
			if err == nil {
				_, err = io.WriteString(conn, word)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		begin := time.Now()
		if err := to.server.Stop(t.Context()); err != nil || time.Since(begin) > time.Second {
			t.Errorf("stopped after %v: %v", time.Since(begin), err)
		}
		if j.served.Load() != 2 || j.ended.Load() != 2 {
			t.Errorf("%d served, %d ended", j.served.Load(), j.ended.Load())
		}
		if _, err := sim.Host("a").Dial(t.Context(), "b:1"); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("dial after the end: %v", err)
		}
	})
}
