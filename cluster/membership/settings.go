package membership

import (
	"context"
	"log"
	"net"
	"net/netip"

	"github.com/hashicorp/memberlist"
)

func (m *Membership) settings() *memberlist.Config {
	timing := m.config.Timing
	s := memberlist.DefaultLANConfig()
	s.Name = m.name.String()
	s.Label = m.gate.envelope.label
	s.Transport = m.gate
	s.BindAddr, s.BindPort = m.config.Bind.Addr().String(), int(m.config.Bind.Port())
	if n, ok := m.gate.inner.(network); ok {
		s.BindPort = n.GetAutoBindPort()
	}
	if m.config.Advertise.IsValid() {
		s.AdvertiseAddr, s.AdvertisePort = m.config.Advertise.Addr().String(), int(m.config.Advertise.Port())
		if s.AdvertisePort == 0 {
			s.AdvertisePort = s.BindPort
		}
	}
	s.Keyring = m.ring.shared
	s.GossipVerifyIncoming, s.GossipVerifyOutgoing = true, true
	s.EnableCompression = false
	s.RequireNodeNames = true
	s.ProbeInterval, s.ProbeTimeout = timing.Probe, timing.ProbeTimeout
	s.GossipInterval, s.GossipToTheDeadTime = timing.Gossip, timing.Forget
	s.PushPullInterval, s.TCPTimeout = timing.Exchange, timing.Stream
	s.SuspicionMult, s.SuspicionMaxTimeoutMult = suspicionFactor, suspicionMost
	s.AwarenessMaxMultiplier = awarenessMost
	// A dead peer may come back at another address, and has been silent for several probes already.
	s.DeadNodeReclaimTime = timing.Probe
	d := delegate{m}
	s.Delegate, s.Events, s.Conflict, s.Merge, s.Alive, s.Ping = d, d, d, d, d, d
	s.Logger = m.logger()
	return s
}

func (m *Membership) logger() *log.Logger { return log.New(logBridge{m}, "", 0) }

// network is UDP and TCP, with dials that can be given up.
type network struct{ *memberlist.NetTransport }

func listen(bind netip.AddrPort, logger *log.Logger) (memberlist.Transport, error) {
	settings := &memberlist.NetTransportConfig{BindAddrs: []string{bind.Addr().String()}, BindPort: int(bind.Port()), Logger: logger}
	// A port that is free for TCP may be taken for UDP. Only with port 0 is there another to try.
	tries := 1
	if bind.Port() == 0 {
		tries = 10
	}
	for {
		t, err := memberlist.NewNetTransport(settings)
		tries--
		if err == nil {
			return network{t}, nil
		}
		if tries == 0 {
			return nil, err
		}
	}
}

// DialContext implements contextDialer.
func (network) DialContext(ctx context.Context, a memberlist.Address) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", a.Addr)
}
