package join

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// TestWhatWasSaidIsWorthNothingElsewhere: a peer of the cluster that means harm, or a thief of a recording, says again
// what a joining peer said, on a connection of its own.
func TestWhatWasSaidIsWorthNothingElsewhere(t *testing.T) {
	for name, change := range map[string]func(there *raw, token *trust.Token, a *Ask, s *said) error{
		"all of it": func(*raw, *trust.Token, *Ask, *said) error { return trust.ErrTokenWrong },
		"with a proof of its own, by a thief of the token": func(there *raw, token *trust.Token, _ *Ask, s *said) error {
			s.head.proof = token.Prove(s.head.proven(there.bound))
			return ErrBadAsk
		},
		"all anew, with another ask behind the head": func(there *raw, token *trust.Token, a *Ask, s *said) error {
			anew, err := there.make(token, a, nil)
			if err != nil {
				return err
			}
			*s = *anew
			s.body = []byte(strings.Replace(string(s.body), "second", "secont", 1))
			return ErrBadAsk
		},
		"with an altered ask": func(_ *raw, _ *trust.Token, _ *Ask, s *said) error {
			s.body = []byte(strings.Replace(string(s.body), "second", "secont", 1))
			s.head.digest = sha256.Sum256(s.body)
			return trust.ErrTokenWrong
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, used := range []bool{false, true} {
				r := newRealm(t, tcp)
				token, a := r.token(), r.ask("second", 1)
				here, there := r.dial(), r.dial()
				s, err := here.make(token, &a, nil)
				if err != nil {
					t.Fatal(err)
				}
				if used {
					if err := here.send(s); err != nil {
						t.Fatal(err)
					}
				}
				before := r.topology().Epoch
				want := change(there, token, &a, s)
				there.wantRefused(t, there.send(s), want)
				if r.topology().Epoch != before {
					t.Error("the map has changed")
				}
			}
		})
	}
}

// TestAKeyMustSign: a request of somebody else's key is refused, though the token is good.
func TestAKeyMustSign(t *testing.T) {
	r := newRealm(t, tcp)
	victim, err := trust.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	a := r.ask("second", 1)
	for _, change := range []func(*ask){
		func(s *ask) { s.request = victim.Bytes() },
		func(s *ask) { s.possession = nil },
		func(s *ask) { s.request = nil },
	} {
		c := r.dial()
		c.wantRefused(t, c.say(r.token(), &a, change), ErrBadAsk)
	}
}

// TestStrangersCostLittle: who has no token is read 116 bytes of and cut off after 5 s, is told nothing, and holds up
// nobody who has one.
func TestStrangersCostLittle(t *testing.T) {
	r := newRealm(t, tcp)
	token, a := r.token(), r.ask("second", 1)
	for name, text := range map[string]string{
		"noise":           strings.Repeat("x", headSize),
		"another release": "HFJOIN99" + strings.Repeat("x", headSize-8),
		"HTTP":            "GET / HTTP/1.1\r\nHost: peer\r\n\r\n" + strings.Repeat("x", headSize),
		"a long ask":      string((head{token: token.ID, length: maxAsk + 1}).encode()),
		"no token":        string((head{}).encode()),
		"a token's id":    string((head{token: token.ID, length: 5}).encode()),
	} {
		c := r.dial()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		_, err := await(c.Conn, goOn)
		var no *refusal
		if !errors.As(err, &no) || no.sentinel != ErrBadAsk && no.sentinel != trust.ErrTokenWrong {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: read on: %d, %v", name, n, err)
		}
	}
	if n := r.first.join.Stats().Refused; n["bad_ask"] != 4 || n["token_wrong"] != 2 {
		t.Errorf("counts %v", n)
	}
	var silent []*raw
	for range 8 {
		silent = append(silent, r.dial())
	}
	begin := time.Now()
	if _, err := Join(t.Context(), transport.TCP{}, token, a); err != nil {
		t.Error(err)
	}
	for _, c := range silent {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a silent one: %v", err)
		}
	}
	if took := time.Since(begin); took > 3*headTimeout {
		t.Errorf("cut after %v", took)
	}
	expect.Soon(t, "they are counted", func() bool { return r.first.join.Stats().Refused["broken"] == 8 })
}

// TestAStrangerThatGuessesWaits: so guesses cost the root group a bounded number of reads.
func TestAStrangerThatGuessesWaits(t *testing.T) {
	bubble(t, 1, func(t *testing.T, r *realm, net *transport.Simulation) {
		net.Shape("", "", transport.Shape{})
		conn, err := net.Host("stranger").Dial(t.Context(), "first:1")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		secure := tls.Client(conn, trust.PinnedConfig(r.founding.Authority.Pin(), r.clock.now))
		if _, err := secure.Write((head{}).encode()); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err = await(secure, goOn)
		wantErr(t, err, trust.ErrTokenWrong)
		if took := time.Since(begin); took != wrongPause {
			t.Errorf("it waited %v", took)
		}
		synctest.Wait()
	})
}

// TestAnImpostorLearnsNothing: who answers at the address of the token without the cluster's authority gets no byte of
// the ask, not even the token's id.
func TestAnImpostorLearnsNothing(t *testing.T) {
	impostor := newRealm(t, tcp)
	heard := make(chan int, 1)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", impostor.first.trust.JoinConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			heard <- -1
			return
		}
		n, _ := conn.Read(make([]byte, headSize)) // whatever it fails with: only what came counts
		heard <- n
		_ = conn.Close()
	}()
	r := newRealm(t, tcp)
	token := r.token()
	token.Addresses = []string{listener.Addr().String()}
	_, err = Join(t.Context(), transport.TCP{}, token, r.ask("second", 1))
	wantErr(t, err, ErrOtherCluster)
	if n := <-heard; n != 0 {
		t.Errorf("it heard %d bytes", n)
	}
}
