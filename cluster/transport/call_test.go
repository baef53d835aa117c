package transport_test

import (
	"strings"
	"testing"

	"github.com/holdfast/holdfast/cluster/transport"
)

func TestACallKnowsItsCaller(t *testing.T) {
	r := newRealm(t)
	a := r.start(transport.TCP{}, "127.0.0.1:0", options{})
	b := r.start(transport.TCP{}, "127.0.0.1:0", options{routes: []transport.Route{peerRoute("POST /echo", echo)}})
	peer := a.to(b)
	for name, do := range map[string]doer{"call": peer.Do, "transfer": peer.Transfer} {
		answer, err := post(t.Context(), do, "/echo", strings.NewReader("hello"))
		if err != nil || answer != "hello" {
			t.Errorf("%s: %q, %v", name, answer, err)
		}
	}
}

func TestACallInABubble(t *testing.T) {
	bubble(t, options{}, options{routes: []transport.Route{peerRoute("POST /echo", echo)}}, func(w *world) {
		for name, do := range map[string]doer{"call": w.toB.Do, "transfer": w.toB.Transfer} {
			answer, err := post(w.Context(), do, "/echo", strings.NewReader("hello"))
			if err != nil || answer != "hello" {
				t.Errorf("%s: %q, %v", name, answer, err)
			}
		}
	})
}
