package membership

import (
	"net/netip"
	"testing"
	"time"
)

func TestNamesComeBack(t *testing.T) {
	name := nodeName{peerID(3), 0xfedc}
	const text = "be030000000000000000000000000000-000000000000fedc"
	if name.String() != text {
		t.Errorf("%s", name)
	}
	if back, err := parseName(text); err != nil || back != name {
		t.Errorf("%v, %v", back, err)
	}
	for _, bad := range []string{
		"", text[:32], text + "0", text[:len(text)-1], "BE" + text[2:], text[:47] + "FE", text[:32] + "_" + text[33:],
		text[:33] + "+" + text[34:], "zz" + text[2:], text[:33] + "000000000000fed ",
	} {
		if name, err := parseName(bad); err == nil {
			t.Errorf("%q is read as %s", bad, name)
		}
	}
}

// TestWhoStandsForThePeer is a conversation: what is heard of the processes of one peer, and who is shown then.
func TestWhoStandsForThePeer(t *testing.T) {
	here, there := netip.MustParseAddrPort("10.0.0.1:7000"), netip.MustParseAddrPort("10.0.0.2:7000")
	now := time.Unix(1_000, 0)
	ls := lives{}
	hears := func(incarnation uint64, at netip.AddrPort, leaving bool) func() {
		return func() {
			ls.hear(peerID(1), announcement{Data: Data{Incarnation: incarnation}, gossip: at, leaving: leaving}, nil, now)
		}
	}
	dies := func(incarnation uint64) func() { return func() { ls.die(incarnation, now) } }
	suspects := func(incarnation uint64) func() { return func() { ls.suspect(incarnation, now) } }
	for i, step := range []struct {
		what        string
		do          func()
		incarnation uint64
		state       State
		kept        int
	}{
		{"who was never heard of dies", dies(4), 0, Unseen, 0},
		{"the first", hears(5, here, false), 5, Alive, 1},
		{"does not answer", suspects(5), 5, Suspect, 1},
		{"has moved", hears(7, there, false), 7, Alive, 2},
		{"the old one is dead", dies(5), 7, Alive, 1},
		{"a clock went back", hears(6, here, false), 7, Alive, 2},
		{"so the newer has to die", dies(7), 6, Alive, 2},
		{"that one too", dies(6), 7, Dead, 1},
		{"twice", dies(6), 7, Dead, 1},
		{"it was not dead", hears(6, here, false), 6, Alive, 2},
		{"at the same address nobody else can run", hears(8, here, false), 8, Alive, 1},
		{"it leaves", hears(8, here, true), 8, Left, 1},
		{"it left, whatever memberlist finds", dies(8), 8, Left, 1},
		{"a late word of before", hears(8, here, false), 8, Left, 1},
		{"who left is not suspect", suspects(8), 8, Left, 1},
		{"an older one that runs is up at least", hears(2, there, false), 2, Alive, 2},
		{"until the next start", hears(9, there, false), 9, Alive, 1},
	} {
		now = now.Add(time.Second)
		step.do()
		got := ls.shown().look()
		if got.Incarnation != step.incarnation || got.State != step.state || len(ls) != step.kept {
			t.Fatalf("step %d, %s: %d is %s, %d kept", i, step.what, got.Incarnation, got.State, len(ls))
		}
	}
}

func TestSinceIsWhenTheStateBegan(t *testing.T) {
	ls, at := lives{}, func(s int64) time.Time { return time.Unix(s, 0) }
	told := announcement{Data: Data{Incarnation: 1}}
	ls.hear(peerID(1), told, nil, at(10))
	ls.hear(peerID(1), told, nil, at(20))
	if got := ls.shown().look(); got.Since != at(10) {
		t.Errorf("alive since %v", got.Since)
	}
	ls.suspect(1, at(30))
	ls.suspect(1, at(31))
	if got := ls.shown().look(); got.State != Suspect || got.Since != at(30) {
		t.Errorf("%s since %v", got.State, got.Since)
	}
	ls.suspect(1, time.Time{})
	if got := ls.shown().look(); got.State != Alive || got.Since != at(10) {
		t.Errorf("%s since %v", got.State, got.Since)
	}
	ls.die(1, at(40))
	if got := ls.shown().look(); got.State != Dead || got.Since != at(40) {
		t.Errorf("%s since %v", got.State, got.Since)
	}
}

// TestOutlived: only an answer to what was sent when a newer process was up shows that both run.
func TestOutlived(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	ls := lives{}
	ls.hear(peerID(1), announcement{Data: Data{Incarnation: 1}}, nil, at(10))
	ls.hear(peerID(1), announcement{Data: Data{Incarnation: 2}, gossip: netip.MustParseAddrPort("10.0.0.2:7000")}, nil, at(20))
	for _, c := range []struct {
		incarnation uint64
		sent        int64
		want        bool
	}{{1, 15, false}, {1, 25, true}, {2, 25, false}, {3, 25, false}} {
		if got := ls.outlived(c.incarnation, at(c.sent)); got != c.want {
			t.Errorf("%d, sent at %d: %v", c.incarnation, c.sent, got)
		}
	}
	ls.die(2, at(30))
	if ls.outlived(1, at(40)) {
		t.Error("outlived by the dead")
	}
}
