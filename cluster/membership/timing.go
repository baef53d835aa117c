package membership

import "time"

// Timing is how soon things are noticed. The zero value is right for the peers of one site; tests and far sites may set
// more. The defaults are memberlist's for a local network, except where said.
type Timing struct {
	// Probe is how often one member is probed, ProbeTimeout how long it may take to answer. Zero means 1 s and 500 ms.
	Probe, ProbeTimeout time.Duration
	// Gossip is how often news is sent on. Zero means 200 ms.
	Gossip time.Duration
	// Forget is how long a dead member still gets gossip and stays in memberlist's table. Zero means 30 s.
	Forget time.Duration
	// Exchange is how often memberlist exchanges all it knows with one member. Zero means 30 s.
	Exchange time.Duration
	// Rejoin is the longest pause between two rounds that join who is not alive. Zero means 5 s, which leaves room for
	// an attempt that is under way when a partition heals; negative means never.
	Rejoin time.Duration
	// Stream is how long a dial, and then an exchange, may take. Zero means 5 s: a lost SYN is sent again after 1 s and
	// after 3 s.
	Stream time.Duration
}

func (t Timing) withDefaults() Timing {
	for field, value := range map[*time.Duration]time.Duration{
		&t.Probe: time.Second, &t.ProbeTimeout: 500 * time.Millisecond, &t.Gossip: 200 * time.Millisecond,
		&t.Forget: 30 * time.Second, &t.Exchange: 30 * time.Second, &t.Rejoin: 5 * time.Second, &t.Stream: 5 * time.Second,
	} {
		if *field == 0 {
			*field = value
		}
	}
	return t
}

// How long a suspect has to prove itself, in probes: 4 of them in a small cluster, twice as many when no third peer
// confirms. And how much slower a peer probes that does not trust itself, twice. memberlist's 6 and 8 make a peer that
// loses most others take up to a minute to find them dead, and so to take them at new addresses. They spare slow peers a
// false death, which here is a wrong hint until the next round of rejoin.
const (
	suspicionFactor = 4
	suspicionMost   = 2
	awarenessMost   = 2
)
