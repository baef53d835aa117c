package transport_test

import (
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/cluster/transport"
	"github.com/holdfast/holdfast/cluster/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTCPKeepsTheContract(t *testing.T) {
	transporttest.Run(t, func(t *testing.T, body func(*testing.T, transporttest.Sides)) {
		body(t, transporttest.Sides{Dialer: transport.TCP{}, Listener: transport.TCP{}, Address: "127.0.0.1:0"})
	})
}

func TestSimulationKeepsTheContract(t *testing.T) {
	shapes := map[string]transport.Shape{
		"instant": {},
		"slow":    {Latency: 3e6, Jitter: 2e6, Bandwidth: 100 << 20},
	}
	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			transporttest.Run(t, func(t *testing.T, body func(*testing.T, transporttest.Sides)) {
				synctest.Test(t, func(t *testing.T) {
					s := transport.NewSimulation(1)
					s.Shape("", "", shape)
					body(t, transporttest.Sides{Dialer: s.Host("a"), Listener: s.Host("b"), Address: "b:0"})
				})
			})
		})
	}
}
