package sim

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestSmoke(t *testing.T) {
	at := time.Now()
	g := golden.of(t)
	t.Log("founded in", time.Since(at), "bubble", g.age)
	for seed := range uint64(2) {
		at = time.Now()
		synctest.Test(t, func(t *testing.T) {
			c := g.open(t, seed, nil)
			time.Sleep(30 * time.Second)
			if err := c.stopAll(); err != nil {
				t.Error(err)
			}
		})
		t.Log("opened", time.Since(at))
	}
}
