package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows how far a transfer is: a bar where a person reads standard output, one line at the end otherwise.
// The nil progress says nothing.
type progress struct {
	out     io.Writer // the summary
	screen  io.Writer // the bar, nil for none
	began   time.Time
	copied  atomic.Int64
	objects atomic.Int64

	mu  sync.Mutex // progressbar's own lock does not cover start
	bar *progressbar.ProgressBar
}

func (s *session) progress(quiet bool) *progress {
	if quiet {
		return nil
	}
	p := &progress{out: s.err}
	if isTerminal(s.out) && isTerminal(s.err) {
		p.screen = s.err
	}
	return p
}

func (p *progress) start(objects int, total int64) {
	if p == nil {
		return
	}
	p.began = time.Now()
	if p.screen == nil {
		return
	}
	name := "copying"
	if objects > 1 {
		name = plural(int64(objects), "object")
	}
	if total == 0 {
		total = -1 // unknown: a spinner
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bar = progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(p.screen), progressbar.OptionSetDescription(name), progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetWidth(30),
		progressbar.OptionClearOnFinish(), progressbar.OptionShowTotalBytes(true))
}

// add counts bytes that have arrived.
func (p *progress) add(n int64) {
	if p == nil {
		return
	}
	p.copied.Add(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil {
		return
	}
	if err := p.bar.Add64(n); err != nil {
		p.bar = nil // the terminal went away; the copy goes on
	}
}

// Write counts the bytes of a stream.
func (p *progress) Write(b []byte) (int, error) {
	p.add(int64(len(b)))
	return len(b), nil
}

func (p *progress) done() {
	if p != nil {
		p.objects.Add(1)
	}
}

// finish takes the bar away and says what was copied.
func (p *progress) finish() error {
	if p == nil || p.began.IsZero() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		if err := p.bar.Clear(); err != nil {
			return err
		}
		p.bar = nil
	}
	took := time.Since(p.began)
	rate := int64(float64(p.copied.Load()) / max(took.Seconds(), 1e-3))
	_, err := fmt.Fprintf(p.out, "copied %s, %s in %s (%s/s)\n", plural(p.objects.Load(), "object"), size(p.copied.Load()),
		took.Round(10*time.Millisecond), size(rate))
	return err
}
