package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/holdfast/holdfast/cluster"
	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/trust"
	"github.com/holdfast/holdfast/tests/expect"
)

// detailed is an error with something to say to programs.
type detailed struct{ detail []byte }

func (d detailed) Error() string  { return "see the detail" }
func (d detailed) Detail() []byte { return d.detail }
func (d detailed) Unwrap() error  { return errStale }

func TestErrorsSurviveTheTrip(t *testing.T) {
	errs := map[string]error{
		"sentinel": errGone,
		"wrapped":  fmt.Errorf("read chunk 7: %w", errGone),
		"two":      fmt.Errorf("%w: %w", errStale, errGone),
		"detail":   fmt.Errorf("ask again: %w", detailed{[]byte{0, 1, 255}}),
		"unknown":  errors.New("nobody knows this"),
		"context":  context.DeadlineExceeded,
		"long":     fmt.Errorf("%s: %w", strings.Repeat("ä", 5000), errGone),
		"big":      detailed{make([]byte, transport.MaxDetail+1)},
		"biggest":  detailed{bytes.Repeat([]byte{7}, transport.MaxDetail)},
	}
	r := newRealm(t)
	a := r.start(transport.TCP{}, "127.0.0.1:0", options{})
	b := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: []transport.Route{
		peerRoute("POST /fail/{what}", func(_ http.ResponseWriter, r *http.Request) error { return errs[r.PathValue("what")] }),
	}})
	peer := a.to(b)
	for what, sent := range errs {
		for name, do := range map[string]doer{"call": peer.Do, "transfer": peer.Transfer} {
			_, err := post(t.Context(), do, "/fail/"+what, nil)
			var remote *transport.RemoteError
			if !errors.As(err, &remote) || remote.Peer != b.identity.Peer {
				t.Errorf("%s %s: %v", name, what, err)
				continue
			}
			for _, sentinel := range []error{errGone, errStale, transport.ErrTooLarge, trust.ErrRevoked} {
				if errors.Is(err, sentinel) != errors.Is(sent, sentinel) {
					t.Errorf("%s %s: %v is %v: %v", name, what, err, sentinel, errors.Is(err, sentinel))
				}
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s %s: the caller's context seems to have ended: %v", name, what, err)
			}
			if len(sent.Error()) <= 1024 && remote.Message != sent.Error() {
				t.Errorf("%s: message %q, want %q", what, remote.Message, sent)
			}
			if len(remote.Message) > 1024 || !utf8.ValidString(remote.Message) {
				t.Errorf("%s: a message of %d bytes", what, len(remote.Message))
			}
		}
	}
	var remote *transport.RemoteError
	for what, want := range map[string][]byte{"detail": {0, 1, 255}, "big": nil, "biggest": bytes.Repeat([]byte{7}, transport.MaxDetail)} {
		_, err := post(t.Context(), peer.Do, "/fail/"+what, nil)
		if !errors.As(err, &remote) || !bytes.Equal(remote.Detail, want) {
			t.Errorf("%s: %d bytes, want %d: %v", what, len(remote.Detail), len(want), err)
		}
	}
}

func TestAnErrorIsPassedOnWhole(t *testing.T) {
	table := testSentinels
	remote, err := table.Decode(cluster.PeerID{1}, table.Encode(fmt.Errorf("x: %w", detailed{[]byte("d")})))
	if err != nil {
		t.Fatal(err)
	}
	again, err := table.Decode(cluster.PeerID{2}, table.Encode(fmt.Errorf("y: %w", remote)))
	if err != nil || !errors.Is(again, errStale) || string(again.Detail) != "d" {
		t.Errorf("%+v, %v", again, err)
	}
	// Who does not know a code keeps it as text.
	stranger, err := transport.Sentinels{}.Decode(cluster.PeerID{3}, table.Encode(errGone))
	if err != nil || errors.Is(stranger, errGone) || !slices.Equal(stranger.Codes, []string{"test.gone"}) {
		t.Errorf("%+v, %v", stranger, err)
	}
}

func TestMergeRefusesWhatIsNoTable(t *testing.T) {
	for name, tables := range map[string][]transport.Sentinels{
		"a code twice":      {{"a": errGone}, {"a": errStale}},
		"an error twice":    {{"a": errGone}, {"b": errGone}},
		"no error":          {{"a": nil}},
		"no code":           {{"": errGone}},
		"a code with a ;":   {{"a;b": errGone}},
		"a code with a ,":   {{"a,b": errGone}},
		"a code in capital": {{"A": errGone}},
		"a long code":       {{strings.Repeat("a", 65): errGone}},
	} {
		if merged, err := transport.Merge(tables...); err == nil {
			t.Errorf("%s: %v", name, merged)
		}
	}
	merged, err := transport.Merge(testSentinels, transport.Sentinels{strings.Repeat("a", 64): errors.New("x")})
	if err != nil || len(merged) != 3 {
		t.Errorf("%v, %v", merged, err)
	}
	// A table that takes one of this package's codes would change what it means.
	config := transport.PeersConfig{Sentinels: transport.Sentinels{"transport.stalled": errGone}}
	if _, err := transport.NewPeers(config); err == nil {
		t.Error("a code of this package was taken")
	}
}

func TestAWireErrorStaysAsItIs(t *testing.T) {
	got := testSentinels.Encode(fmt.Errorf("read chunk 7: %w: %w", errGone, detailed{[]byte{0, 1, 254, 255}})) + "\n"
	expect.Golden(t, "error.golden", []byte(got))
}

func FuzzDecodeError(f *testing.F) {
	f.Add("1;;;")
	f.Add("1;test.gone,test.stale;eA;AAEC")
	f.Add(testSentinels.Encode(fmt.Errorf("x: %w", detailed{[]byte("d")})))
	f.Add("2;a;b;c")
	f.Fuzz(func(t *testing.T, value string) {
		remote, err := testSentinels.Decode(cluster.PeerID{1}, value)
		if err != nil {
			return
		}
		if len(remote.Codes) > 8 || len(remote.Message) > 1024 || len(remote.Detail) > transport.MaxDetail {
			t.Errorf("%q: beyond its bounds", value)
		}
		if !utf8.ValidString(remote.Message) {
			t.Errorf("%q: a message that is no text", value)
		}
		again, err := testSentinels.Decode(cluster.PeerID{1}, testSentinels.Encode(remote))
		if err != nil || !bytes.Equal(again.Detail, remote.Detail) {
			t.Errorf("%q: %+v, %v", value, again, err)
		}
	})
}
