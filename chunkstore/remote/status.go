package remote

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast/holdfast/chunkstore"
)

var errUnheard = errors.New("not heard of yet")

// Status implements chunkstore.Drive. It tells what the last answer of the peer said, or, when the peer does not
// answer or has not for Options.Stale, that the drive is down. It never waits.
func (d *Drive) Status() chunkstore.DriveStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.latest.status
	s.ID = d.id
	var why error
	switch age := time.Since(d.heard); {
	case d.closed:
		why = errClosed
	case d.doubt != nil:
		why = d.doubt
	case d.heard.IsZero():
		why = errUnheard
	case age > d.o.Stale:
		why = fmt.Errorf("peer last answered %v ago", age.Round(time.Millisecond))
	}
	if why != nil {
		s.Down = fmt.Errorf("drive %v: %w", d.id, down(why))
	}
	return s
}

// Age tells how long ago the peer last answered. False: it never did.
func (d *Drive) Age() (time.Duration, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.heard), !d.heard.IsZero()
}

// hear takes the report that came with an answer. Answers may overtake each other, their reports do not.
func (d *Drive) hear(p *report) {
	if p == nil {
		return
	}
	p.status.Device = d.device(p.status.Device)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heard, d.doubt = time.Now(), nil
	if p.boot != d.latest.boot || p.seq > d.latest.seq {
		d.latest = *p
	}
}

// device makes one number of a peer and the number of a device there.
func (d *Drive) device(number uint64) uint64 {
	b := binary.LittleEndian.AppendUint64(d.o.Peer[:], number)
	sum := sha256.Sum256(b)
	return binary.LittleEndian.Uint64(sum[:])
}

// doubtful says that a call could not reach the drive, so that its status is asked for at once unless it counts as down
// already.
func (d *Drive) doubtful() {
	d.mu.Lock()
	known := d.doubt != nil
	d.mu.Unlock()
	if known {
		return
	}
	select {
	case d.kick <- struct{}{}:
	default: // it is about to be asked for
	}
}

// refresh asks for the status whenever nothing was heard for Options.Refresh, and when a call failed.
func (d *Drive) refresh() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		asked := false
		select {
		case <-d.life.Done():
			return
		case <-d.kick:
			asked = true
		case <-timer.C:
		}
		if age, ever := d.Age(); !asked && ever && age < d.o.Refresh {
			timer.Reset(d.o.Refresh - age)
			continue
		}
		d.inquire()
		timer.Reset(d.o.Refresh)
	}
}

// inquire asks for the status once. A peer that does not answer makes the drive count as down, unless another call was
// answered meanwhile.
func (d *Drive) inquire() {
	begun := time.Now()
	err := d.ask(d.life, kindStatus, nil, func(c *call) error {
		r, err := c.answer()
		if err != nil {
			return err
		}
		c.drain()
		return r.end("answer")
	})
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	select {
	case <-d.kick: // by this very call
	default:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.heard.Before(begun) {
		d.doubt = err
	}
}
